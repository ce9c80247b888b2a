"""A server that answers whoever looks with nonsense: commands and the dashboard say so, and go on or end."""

import contextlib
import json
import re
import signal
import threading
from types import SimpleNamespace

import pytest

from tests.integration.commands import Commands
from tests.trust.raw_peer import PASSWORD, PATIENCE_S
from tests.trust.raw_server import hostile_server, raw_control
from tests.web.requests import ask, wait_until

SERVER = {"host": "h", "since": 1.0}
WORKER = {"number": 1, "name": "w", "slots": 1}
JOB = {"number": 1, "id": "j-1", "name": "j", "phase": "map", "done": 1}


def of_server(row):
    return {"type": "answer", "found": {"rows": [row]}}


def of_workers(*rows, **fields):
    return {"type": "workers", "names": [], "slots": [], "found": {"rows": list(rows)}, **fields}


def of_jobs(*rows, **fields):
    return {"type": "jobs", "found": {"rows": list(rows)}, **fields}


def say(guest, message):
    guest.send(raw_control(json.dumps(message).replace("Infinity", "1e999").encode()))


#: {what is nonsense: ({question: answer}, words of the error; "" if it is left out of what is shown)}
NONSENSE = {
    "no server": ({"ask": {"type": "answer", "found": {}}}, "says nothing of itself"),
    "endless times": ({"ask": of_server({**SERVER, "since": float("inf"), "segment_bytes": 10**400})}, ""),
    "endless loads": (
        {
            "list_workers": of_workers(
                {**WORKER, "cores": float("inf"), "memory_bytes": 10**400, "since": -1e308}
            )
        },
        "",
    ),
    "endless jobs": (
        {
            "list_jobs": of_jobs(
                {
                    **JOB,
                    "left_s": float("inf"),
                    "percent": 10**400,
                    "spilled_bytes": 10**400,
                    "since": float("-inf"),
                }
            )
        },
        "",
    ),
    "a number that is none": ({"list_workers": of_workers({**WORKER, "slots": 10**400})}, "without 'slots'"),
    "pages that go back": ({"list_jobs": of_jobs(JOB, next=0)}, "lists without end"),
}


class Liar:
    """What a server answers to each question."""

    def __init__(self, **answers):
        usual = {"ask": of_server(SERVER), "list_workers": of_workers(WORKER), "list_jobs": of_jobs(JOB)}
        self.answers = {**usual, **answers}
        self.is_asked = threading.Event()

    def __call__(self, guest, frame, message):
        answer = self.answers.get(message["type"])
        if message["type"] == "ask":
            self.is_asked.set()
            if message["what"] != "server":
                answer = self.answers.get(message["what"], {"type": "answer", "found": {}})
        if answer is not None:
            say(guest, answer(message) if callable(answer) else answer)


@pytest.fixture
def commands(tmp_path):
    commands = Commands(tmp_path)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    yield commands
    commands.close()


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("name", NONSENSE)
def test_status_shows_what_makes_sense_or_says_what_does_not(commands, name, form):
    answers, words = NONSENSE[name]
    with hostile_server(Liar(**answers)) as server:
        done = commands.run("server", "status", *form, server.where)
    assert "Traceback" not in done.stderr
    if words:
        assert words in done.stderr
        assert done.returncode not in (0, 70)
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert "inf" not in done.stdout.lower()


def test_pages_without_rows_and_without_end_are_not_read_for_ever(commands):
    def next_page(message):
        return of_jobs(next=message.get("after", 0) + 1)

    with hostile_server(Liar(list_jobs=next_page)) as server:
        done = commands.run("server", "jobs", server.where)
    assert "lists without end" in done.stderr
    assert done.returncode not in (0, 70)


@contextlib.contextmanager
def open_dashboard(commands, where):
    """Start a dashboard; end it before its server ends, since it would connect again."""
    dashboard = commands.start("dashboard", where)
    match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)\n", dashboard.stdout.readline())
    try:
        yield SimpleNamespace(process=dashboard, port=int(match[1]), token=match[2])
    finally:
        dashboard.terminate()
        dashboard.wait(PATIENCE_S)


def fetch(place, path):
    status, _, body = ask(place, path, Authorization=f"Bearer {place.token}")
    return status, json.loads(body, parse_constant=pytest.fail) if path.startswith("/api") else body


@pytest.mark.parametrize("name", [name for name in NONSENSE if name != "no server"])
def test_a_dashboard_shows_what_makes_sense_and_lives_on(commands, name):
    answers, words = NONSENSE[name]
    with hostile_server(Liar(**answers)) as server, open_dashboard(commands, server.where) as place:
        if words:
            wait_until(lambda: words in fetch(place, "/health")[1].decode())
        else:
            status, seen = wait_until(lambda: (found := fetch_status(place))[0] == 200 and found)
            assert (status, [row["name"] for row in seen["workers"]]) == (200, ["w"])
        assert fetch(place, "/metrics")[0] in (200, 501)
        assert place.process.poll() is None


def fetch_status(place):
    status, _, body = ask(place, "/api/status", Authorization=f"Bearer {place.token}")
    return status, json.loads(body, parse_constant=pytest.fail) if status == 200 else {}


def test_a_dashboard_outlives_a_server_that_says_nothing_of_itself_any_longer(commands):
    liar = Liar()
    with hostile_server(liar) as server, open_dashboard(commands, server.where) as place:
        liar.answers["ask"] = {"type": "answer", "found": {}}
        wait_until(lambda: b"says nothing of itself" in fetch(place, "/health")[1])
        liar.answers["ask"] = of_server(SERVER)
        wait_until(lambda: fetch_status(place)[0] == 200)


EVIL = "\u202e\x1b[31m<b>\ud800\n" + "x" * 5000
BAR = {"worker": EVIL, "slot": 0, "phase": EVIL, "outcome": "died", "start": -1e18, "seconds": 1e18, "busy": 1.5,
       "tasks": 1, "task": 2**62, "error": EVIL}  # fmt: skip
LINE = {"at": float("inf"), "worker": EVIL, "item": EVIL, "text": EVIL, "dropped": 2**62}
GROUP = {"number": 1, "error_type": EVIL, "count": 2**62, "key": EVIL, "last_at": float("inf"), "error": EVIL}


def of_job(*rows, **fields):
    return {"type": "answer", "found": {"rows": list(rows), **fields.pop("beside", {})}, **fields}


#: {what is nonsense about a job: ({what: answer}, status of /api/job)}
ABOUT_A_JOB = {
    "texts and numbers": (
        {
            "tasks": of_job(
                BAR, {**BAR, "outcome": "done"}, beside={"running": [{"x": 1}][:0], "unseen": -5}, next=2
            ),
            "logs": of_job(LINE, next=1),
            "errors": of_job(GROUP, next=1),
            "shape": of_job({"count": 10**400, "bytes": 2**62, "largest": "x", "keys": {"key": 1}}),
        },
        200,
    ),
    "an outcome that is none": ({"tasks": of_job({**BAR, "outcome": "eaten"}, next=1)}, 503),
    "a death of many tasks": ({"tasks": of_job({**BAR, "tasks": 2}, next=1)}, 503),
    "a bar that ends before it begins": ({"tasks": of_job({**BAR, "seconds": -1.0}, next=1)}, 503),
    "a bar without a slot": ({"tasks": of_job({"worker": "w"}, next=1)}, 503),
    "slots that are none": ({"tasks": of_job(beside={"running": [{"slot": "x"}]}, next=1)}, 503),
    "lines without text": ({"logs": of_job({"at": 1.0}, next=1)}, 503),
    "partitions that are none": ({"shape": of_job({"largest": [{"partition": "x"}]})}, 503),
    "rows without end": ({"logs": of_job(*[{"text": "x"}] * 3000, next=1)}, 503),
}


@pytest.mark.parametrize("name", ABOUT_A_JOB)
def test_a_dashboard_shows_of_a_job_what_makes_sense_and_outlives_the_rest(commands, name):
    answers, expected = ABOUT_A_JOB[name]
    with hostile_server(Liar(**answers)) as server, open_dashboard(commands, server.where) as place:
        wait_until(lambda: fetch_status(place)[0] == 200)
        status, _, body = ask(place, "/api/job?id=j-1", Authorization=f"Bearer {place.token}")
        assert status == expected
        if status == 200:
            told = json.loads(body, parse_constant=pytest.fail)
            assert told["lines"][0]["text"].startswith(r"\u202e\x1b[31m<b>\ud800\n")
            assert len(told["errors"][0]["error_type"]) <= 200
            assert told["shape"] == {"bytes": 2**62, "largest": [], "keys": []}
        assert place.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_waits_for_a_server_with_one_line(commands, number):
    liar = Liar(ask=None)
    with hostile_server(liar) as server:
        status = commands.start("server", "status", server.where)
        assert liar.is_asked.wait(PATIENCE_S)
        status.send_signal(number)
        _, stderr = status.communicate(timeout=PATIENCE_S)
    assert stderr in ("mmg-server: interrupted\n", "mmg-server: terminated\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_dashboard_with_one_line(commands, number):
    with hostile_server(Liar()) as server, open_dashboard(commands, server.where) as place:
        place.process.send_signal(number)
        _, stderr = place.process.communicate(timeout=PATIENCE_S)
    *_, last = stderr.splitlines()
    assert last in ("mmg-dashboard: interrupted", "mmg-dashboard: terminated")
    assert "Traceback" not in stderr
