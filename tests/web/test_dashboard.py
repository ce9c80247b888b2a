"""mmg-dashboard as a process: what it serves, whom it refuses, what it costs while nobody looks."""

import json
import re
import socket
import time
from types import SimpleNamespace

import psutil
import pytest

from mmgevent.web.crowd import MAX_CONNECTIONS
from mmgevent.web.dashboard import HEADERS_S
from mmgevent.web.site import MAX_STREAMS
from tests.integration.commands import Commands, wait_for
from tests.web.requests import PATIENCE_S, ask, fetch


def events(place, about=""):
    """Open the stream of changes; return the connection and an iterator over them."""
    connection = socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE_S)
    connection.sendall(
        f"GET /api/events?token={place.token}{about} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n\r\n".encode()
    )
    lines = connection.makefile("r", encoding="utf-8")
    status = lines.readline().split()[1]
    return connection, status, (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def test_the_page_and_its_data_are_what_the_server_says(place, job):
    status, headers, page = ask(place, f"/?token={place.token}")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(
        rb"""(src|href)=["'](?!#|data:)|@import|url\(""", page
    )  # nothing comes from elsewhere
    assert place.token.encode() not in page
    said = json.loads(place.commands.run("server", "status", "--json", place.where).stdout)
    shown = fetch(place, "/api/status")
    assert [row["id"] for row in said["jobs"]] == [row["id"] for row in shown["jobs"]] == [job.row["id"]]
    assert shown["jobs"][0]["name"] == "<b>a job</b>"
    (worker,) = shown["workers"]
    assert (worker["name"], worker["slots"], worker["deaths"]) == ("node7", 2, 1)
    assert "SIGKILL" in worker["last_death"]


def test_the_stream_tells_what_changes(place, job):
    connection, status, changes = events(place)
    with connection:
        assert status == "200"
        known, versions = {}, []
        for change in changes:
            versions.append(change["version"])
            assert change["whole"] == (len(versions) == 1)
            known.update({row["number"]: row for row in change.get("jobs", {"rows": []})["rows"]})
            if any(row["skipped"] for row in known.values()):
                break
        place.commands.run("server", "cancel", place.where, job.row["id"])
        gone = next(change["jobs"]["gone"] for change in changes if change.get("jobs", {}).get("gone"))
        assert gone == [job.row["number"]]
        assert versions == sorted(set(versions))


def test_a_job_is_cancelled_by_the_button_and_its_owner_is_told(place, job):
    order = json.dumps({"job": job.row["id"]})
    allowed = {"Authorization": f"Bearer {place.token}", "Content-Type": "application/json"}
    for refused, headers in (
        (403, {"Content-Type": "application/json"}),
        (403, {**allowed, "Origin": "http://evil.example"}),
        (403, {**allowed, "Sec-Fetch-Site": "cross-site"}),
        (415, {**allowed, "Content-Type": "application/x-www-form-urlencoded"}),
        (415, {**allowed, "Content-Type": "text/plain"}),
    ):
        assert ask(place, f"/api/cancel?token={place.token}", "POST", order, **headers)[0] == refused
    assert ask(place, "/api/cancel", "POST", "[1]", **allowed)[0] == 400
    assert ask(place, "/api/cancel", "POST", '{"job": 3}', **allowed)[0] == 400
    assert ask(place, "/api/cancel", "POST", " " * 5000, **allowed)[0] == 413
    assert job.run.poll() is None
    status, _, body = ask(place, "/api/cancel", "POST", order, **allowed)
    assert (status, json.loads(body)["name"]) == (200, "<b>a job</b>")
    _, stderr = job.run.communicate(timeout=PATIENCE_S)
    assert job.run.returncode == 1
    assert f"cancelled by {psutil.Process().username()}@" in stderr
    status, _, body = ask(place, "/api/cancel", "POST", order, **allowed)
    assert (status, "no job is called" in json.loads(body)["error"]) == (409, True)


@pytest.mark.parametrize("path", ["/", "/api/status", "/api/jobs", "/api/workers", "/api/events", "/metrics", "/health",
                                  "/page.js", "/../../etc/passwd", "//api/status", "/api/status/"])  # fmt: skip
def test_nobody_gets_anything_without_the_token_or_under_another_name(place, path):
    assert ask(place, path)[0] == 403
    assert ask(place, f"{path}?token=wrong")[0] == 403
    assert ask(place, f"{path}?token={place.token}", host=f"evil.example:{place.port}")[0] == 403
    assert ask(place, f"{path}?token={place.token}", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize("path", ["/page.js", "/page/page.js", "/../../etc/passwd", "/..%2f..%2fetc/passwd", "//api/status",
                                  "/api/status/", "/%00", "/api/cancel/"])  # fmt: skip
def test_there_is_nothing_but_what_is_named(place, path):
    status, _, body = ask(place, path, Authorization=f"Bearer {place.token}")
    assert status == 404
    assert b"/api/status" in body


def test_methods_that_a_path_does_not_take_are_refused(place):
    for method in ("PUT", "DELETE", "POST"):
        assert ask(place, "/api/jobs", method, Authorization=f"Bearer {place.token}")[0] == 405
    assert ask(place, "/api/cancel", Authorization=f"Bearer {place.token}")[0] == 405
    assert ask(place, "/health", "HEAD", Authorization=f"Bearer {place.token}")[::2] == (200, b"")


def test_what_is_no_http_is_closed_and_the_page_lives_on(place):
    for rubbish in (b"\x16\x03\x01\x02\x00\x01", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 100_000,
                    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE_S) as connection:
            try:
                connection.sendall(rubbish)
                connection.shutdown(socket.SHUT_WR)
                assert b" 200 " not in connection.recv(1000)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it closed before everything was sent
    assert fetch(place, "/health") == {"ok": True}


def open_dashboard(commands, where):
    """Start a dashboard of its own for one test."""
    dashboard = commands.start("dashboard", where)
    match = re.match(r"http://127\.0\.0\.1:(\d+)/\?token=(.*)", dashboard.stdout.readline())
    return SimpleNamespace(dashboard=dashboard, port=int(match[1]), token=match[2], url=match[0])


@pytest.fixture
def own(place):
    """A dashboard that no other test has used."""
    own = open_dashboard(place.commands, place.where)
    yield own
    own.dashboard.terminate()
    own.dashboard.communicate(timeout=PATIENCE_S)


def test_pages_that_do_not_read_are_few_and_cost_little(own):
    process = psutil.Process(own.dashboard.pid)
    opened = []
    try:
        statuses = []
        for _ in range(3 * MAX_STREAMS):
            connection = socket.create_connection(("127.0.0.1", own.port), timeout=PATIENCE_S)
            opened.append(connection)
            connection.sendall(
                f"GET /api/events?token={own.token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            statuses.append(connection.recv(13).split()[1])
        assert statuses == [b"200"] * MAX_STREAMS + [b"503"] * 2 * MAX_STREAMS
        assert process.memory_info().rss < 200 * 2**20
        assert fetch(own, "/health") == {"ok": True}
    finally:
        for connection in opened:
            connection.close()


def test_a_page_that_closes_is_noticed_at_once_so_that_reloads_find_a_place(own):
    pages = [events(own) for _ in range(MAX_STREAMS)]
    assert {status for _, status, _ in pages} == {"200"}
    for _ in range(3):
        for at, (connection, _, changes) in enumerate(pages):
            changes.close()
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
            fetch(own, "/health")  # the dashboard has read what came before
            pages[at] = events(own)
            assert pages[at][1] == "200"
    for connection, _, _ in pages:
        connection.close()


def test_connections_that_prove_nothing_give_way_and_pages_stay(own):
    page, status, changes = events(own)
    assert status == "200"
    strangers = []
    for number in range(MAX_CONNECTIONS + 20):
        stranger = socket.create_connection(("127.0.0.1", own.port), timeout=PATIENCE_S)
        stranger.sendall(b"GET / HTTP/1.1\r\nX: ")  # and no more
        strangers.append(stranger)
        if number % 50 == 0:
            assert fetch(own, "/health") == {"ok": True}
    assert fetch(own, "/health") == {"ok": True}
    assert strangers[0].recv(100) == b""  # the oldest
    assert next(changes)["whole"]
    for stranger in (page, *strangers):
        stranger.close()


def test_headers_that_do_not_end_are_not_waited_for(own):
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", own.port), timeout=PATIENCE_S) as slow:
        slow.settimeout(1)
        data = None
        while data is None:
            assert time.monotonic() - began_s < 3 * HEADERS_S
            slow.sendall(b"x")  # byte by byte, so that it is never silent
            try:
                data = slow.recv(100)
            except TimeoutError:
                continue
        assert data == b""
    assert time.monotonic() - began_s > HEADERS_S / 2


def test_metrics_are_what_prometheus_reads(place, job):
    pytest.importorskip("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    status, headers, body = ask(place, "/metrics", Authorization=f"Bearer {place.token}")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    series = {(sample.name, sample.labels.get("name")): sample.value
              for family in text_string_to_metric_families(body.decode()) for sample in family.samples}  # fmt: skip
    assert series["mmgevent_up", None] == 1
    assert series["mmgevent_slots", None] == 2
    assert series["mmgevent_job_skipped", "<b>a job</b>"] == 1


def test_a_server_that_ends_is_told_and_one_that_comes_back_is_found(tmp_path):
    commands = Commands(tmp_path)
    try:
        server, where = commands.start_server()
        dashboard = commands.start("dashboard", where)
        match = re.match(r"http://127\.0\.0\.1:(\d+)/\?token=(.*)", dashboard.stdout.readline())
        place = SimpleNamespace(port=int(match[1]), token=match[2])
        connection, _, changes = events(place)
        with connection:
            assert next(c for c in changes if c.get("state", {}).get("connected"))
            server.terminate()
            server.communicate(timeout=PATIENCE_S)
            assert next(c for c in changes if not c.get("state", {"connected": True})["connected"])["state"][
                "why"
            ]
            status, _, body = ask(place, "/health", Authorization=f"Bearer {place.token}")
            assert (status, json.loads(body)["ok"]) == (503, False)
            again = commands.start("server", "--listen", where)
            wait_for(again.stderr, "listens on")
            assert next(c for c in changes if c.get("state", {}).get("connected"))
        dashboard.terminate()
        assert dashboard.wait(PATIENCE_S) == 143
    finally:
        commands.close()


def test_mistakes_get_one_sentence(tmp_path):
    commands = Commands(tmp_path)
    try:
        _, where = commands.start_server()
        token = tmp_path / "token"
        token.write_text("short\n")
        token.chmod(0o600)
        (tmp_path / "other").write_text("another password\n")
        (tmp_path / "other").chmod(0o600)
        taken = socket.create_server(("127.0.0.1", 0))
        with taken:
            for code, words, argv in (
                (2, "one HOST", (where, "other")),
                (2, "letters, digits", ("--token-file", token, where)),
                (2, "port", ("--page-port", "70000", where)),
                (3, "cannot serve the page", ("--page-port", taken.getsockname()[1], where)),
                (3, "127.0.0.1:1", ("127.0.0.1:1",)),
                (4, "password", ("--password-file", tmp_path / "other", where)),
            ):
                done = commands.run("dashboard", *argv)
                assert (done.returncode, done.stdout) == (code, "")
                assert words in done.stderr
                assert "Traceback" not in done.stderr
    finally:
        commands.close()
