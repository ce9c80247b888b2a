"""A server that is looked at: what `mmg-server status` and its like say, do and refuse, and what programs see."""

import contextlib
import json
import os
import re
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

import mmgevent as mmg
from mmgevent.access.addresses import parse_address
from mmgevent.engine.looking import looking_at
from mmgevent.engine.server.looking.examinations import LOAD_WAIT_S
from mmgevent.engine.server.looking.lookout import MAX_QUESTIONS
from mmgevent.engine.worker.stacks import WRITE_S
from mmgevent.executor.status_page import STACK_SIGNAL
from mmgevent.reducers import sum_values
from mmgevent.wire.frames import BATCH
from mmgevent.wire.listings import PAGE_ROWS, read_listing
from mmgevent.wire.messages import PROTOCOL
from tests.integration.commands import Commands
from tests.trust.raw_peer import (
    PASSWORD,
    RawDriver,
    RawPeer,
    RawWorker,
    connected,
    cut,
    flush_of,
    running,
    running_server,
    wait_until,
)

#: a job of two items: one is done at once, the other says by a file that it runs, and waits for another file
WAITER = """
import os, sys, time
datasource = [("quick", ""), ("stuck", sys.argv[1])]
options = {"retransmit": 0}
def mapfn(key, path):
    if path:
        open(path + ".runs", "w").close()
    while path and not os.path.exists(path):
        time.sleep(0.01)
    yield key, 1
"""
#: listings in a row with the same silent worker
LISTINGS = 20
EVIL = "\x1b[31m\u202eevil\nname"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server and a worker with two slots; commands that know the password."""
    folder = tmp_path_factory.mktemp("place")
    commands = Commands(folder)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    with (
        running_server(folder) as server,
        running(folder, "worker", "--procs", "2", "--name", "node7", server.where) as worker,
        connected(server) as cluster,
    ):
        wait_until(lambda: cluster.workers(), "the worker")
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster, commands=commands, folder=folder)
        assert "fault of our own" not in server.said + worker.said
    commands.close()


@pytest.fixture
def stuck(place):
    """A job of a command that is on an item, and goes on once `end()` was called."""
    yield from _stuck(place)


def _stuck(place):
    path, runs = place.folder / "go on", place.folder / "go on.runs"
    path.unlink(missing_ok=True)
    runs.unlink(missing_ok=True)
    run = place.commands.start(
        "run", "--join", place.server.where, place.commands.write("waits.py", WAITER), path
    )
    wait_until(runs.exists, "the item that waits")
    job = wait_until(lambda: _only_running(place.cluster), "the job, with one task left")
    yield SimpleNamespace(run=run, job=job, end=path.touch)
    path.touch()
    run.communicate(timeout=60)


def _only_running(cluster):
    return next((job for job in cluster.jobs() if job.total == 2 and job.running == 1), None)


def look(place, *words, **environ):
    return place.commands.run("server", *words, environ=environ)


def test_status_says_who_works_at_what_and_for_whom(place, stuck):
    done = look(place, "status", "--json", place.server.where)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    (worker,) = seen["workers"]
    assert (worker["name"], worker["slots"], worker["busy"], worker["state"]) == ("node7", 2, 1, "ready")
    assert worker["memory_bytes"] > 2**20
    assert worker["cores"] < 2
    (job,) = seen["jobs"]
    assert (job["id"], job["name"], job["phase"]) == (stuck.job.id, "waits", "map")
    assert (job["total"], job["percent"], job["skipped"]) == (2, 50 * job["done"], 0)
    assert job["done"] < 2  # both items may be in one task
    assert (job["host"], job["user"]) == (os.uname().nodename, psutil.Process().username())
    assert job["pid"] == stuck.run.pid
    assert (seen["server"]["workers"], seen["server"]["slots"], seen["server"]["jobs"]) == (1, 2, 1)
    tables = look(place, "status", place.server.where).stdout
    for text in (stuck.job.id, "node7", "1/2", f"{job['user']}@{job['host']}"):
        assert text in tables


@pytest.mark.parametrize(
    ("expected", "total"), [({"of_items": 8}, 8), ({"of_weight": 80}, None)], ids=["items", "bytes"]
)
def test_how_far_a_job_is_can_be_seen_while_its_driver_still_reads(tmp_path, expected, total):
    """A batch of two of eight items, or of 20 of 80 bytes, is all that the server has."""
    with (
        running_server(tmp_path) as server,
        RawWorker(server.address) as worker,
        RawDriver(server.address) as driver,
        connected(server) as cluster,
    ):
        driver.submit(partitions=1)
        driver.wait_for("accepted")
        driver.announce(1, 20, items=2, **expected)
        driver.send(*cut(BATCH, bytes(20), 1, 1))
        assign = worker.take()
        worker.read_input(assign)
        worker.finish(assign, flush_of([0]))
        job = wait_until(lambda: next((job for job in cluster.jobs() if job.done), None), "what is done")
        assert (job.phase, job.done, job.total, job.percent) == ("map", 2, total, 25.0)


def test_a_driver_says_how_large_its_input_is(tmp_path):
    gate = tmp_path / "gate"

    def mapfn(key, value):
        while not gate.exists():
            time.sleep(0.01)
        yield 1, 1

    with (
        running_server(tmp_path) as server,
        running(tmp_path, "worker", "--procs", "1", server.where),
        connected(server) as cluster,
    ):
        handle = cluster.submit(mmg.Job(dict.fromkeys(range(100_000), "x" * 1000), mapfn, sum_values))
        job = wait_until(lambda: next((job for job in cluster.jobs() if job.running), None), "the job")
        assert (job.total, job.percent) == (100_000, 0)
        gate.touch()
        assert handle.result(60) == {1: 100_000}


def test_programs_see_the_same_and_the_log_says_who_submitted_a_job(place, stuck):
    (worker,) = place.cluster.workers(measure=True)
    assert worker == ("node7", 2)
    assert (worker.busy, worker.state) == (1, "ready")
    assert worker.memory_bytes > 2**20
    assert [(job.id, job.phase, job.running) for job in place.cluster.jobs()] == [(stuck.job.id, "map", 1)]
    assert re.search(
        rf"job accepted: {stuck.job.id} waits, submitted by \S+@\S+ \(pid \d+\)", place.server.said
    )


def test_a_job_that_somebody_else_cancels_ends_and_its_owner_learns_who(place, stuck):
    done = look(place, "cancel", place.server.where, "waits")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"cancelled {stuck.job.id}" in done.stderr
    _, stderr = stuck.run.communicate(timeout=60)
    assert stuck.run.returncode == 1
    who = f"{psutil.Process().username()}@{os.uname().nodename}"
    assert re.search(rf"mmg-run: cancelled by {who} \(pid \d+\)", stderr)
    assert place.cluster.jobs() == []


def test_attach_names_the_item_that_runs_and_prints_its_stack_and_it_goes_on(place, stuck):
    done = look(place, "attach", "--stack", place.server.where, stuck.job.id)
    assert (done.returncode, done.stderr) == (0, "")
    said = re.match(r"mapfn at 'stuck' on node7 has run for [\d.]+ s, in process (\d+) ", done.stdout)
    assert "mmgevent" in " ".join(psutil.Process(int(said[1])).cmdline())
    assert re.search(r'File ".*waits\.py", line \d+ in mapfn', done.stdout)
    stuck.end()
    stdout, _ = stuck.run.communicate(timeout=60)
    assert stuck.run.returncode == 0
    assert sorted(stdout.splitlines()) == ["quick\t[1]", "stuck\t[1]"]


def test_attach_says_why_it_opens_no_debugger(place, stuck):
    done = look(place, "attach", place.server.where, stuck.job.id)
    assert done.returncode == 0
    assert re.search("and this is|needs a terminal|forbids to trace", done.stderr)
    assert "in mapfn" in done.stdout


def test_mmg_run_attaches_to_the_only_job_of_this_machine_or_to_the_one_that_is_named(place, stuck):
    port = place.server.where.rpartition(":")[2]
    for words in [
        ("-P", port, "--attach"),
        ("-P", port, "--attach", stuck.job.id),
        ("--attach", place.server.where, stuck.job.id),
    ]:
        done = place.commands.run("run", *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("mapfn at 'stuck' on node7 has run for ")
        assert "in mapfn" in done.stdout
    path = place.folder / "second"
    handle = place.cluster.submit(mmg.Job([(1, str(path))], block_and_wait, name="second"))
    wait_until(lambda: len(place.cluster.jobs()) == 2, "the other job")
    refused = place.commands.run("run", "-P", port, "--attach")
    path.touch()
    handle.result(60)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "2 jobs run from this machine" in refused.stderr
    for words, code, why in [
        (("-P", port, "--attach", "nothing"), 2, "no job is called 'nothing'"),
        (("--attach", "a", "b", "c"), 2, "got 3 words"),
        (("--attach", "--inline"), 2, "exclude one another"),
        (("-P", "1", "--attach"), 3, "give mmg-run --listen PORT"),
    ]:
        refused = place.commands.run("run", *words)
        assert (refused.returncode, refused.stdout) == (code, ""), words
        assert why in refused.stderr


def resist_and_wait(key, path):
    import os
    import signal
    import time

    from mmgevent.executor.status_page import STACK_SIGNAL

    signal.signal(STACK_SIGNAL, signal.SIG_DFL)
    while not os.path.exists(path):
        time.sleep(0.01)
    yield key, os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which signals are handled")
def test_an_executor_whose_handler_was_replaced_is_not_killed_by_asking(place):
    path = place.folder / "resisted"
    handle = place.cluster.submit(mmg.Job([(1, str(path))], resist_and_wait, name="resists"))
    try:
        done = wait_until(lambda: _refused(place, handle), "the handler is replaced")
        assert "does not handle signal" in done.stderr
        assert done.returncode == 2
    finally:
        path.touch()
    assert len(handle.result(60)) == 1
    assert handle.deaths() == []


def _refused(place, handle):
    done = look(place, "attach", "--stack", place.server.where, "resists")
    return done if "does not handle" in done.stderr else None


def block_and_wait(key, path):
    import os
    import signal
    import time

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    open(f"{path}.blocked", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    yield key, os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which signals are blocked")
def test_of_an_executor_that_blocks_signals_that_is_said_at_once_and_nothing_stays_pending(place):
    path = place.folder / "blocks"
    handle = place.cluster.submit(mmg.Job([(1, str(path))], block_and_wait, name="blocks"))
    try:
        wait_until((place.folder / "blocks.blocked").exists, "signals are blocked")
        began_s = time.monotonic()
        done = look(place, "attach", "--stack", place.server.where, "blocks")
        assert "blocks signal" in done.stderr
        assert done.returncode == 2
        assert time.monotonic() - began_s < WRITE_S
        pid = int(re.search(r"in process (\d+) ", done.stdout)[1])
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            pending = re.findall(r"(?:SigPnd|ShdPnd):\s(\w+)", file.read())
        assert [int(mask, 16) >> (STACK_SIGNAL - 1) & 1 for mask in pending] == [0, 0]
    finally:
        path.touch()
    assert len(handle.result(60)) == 1


def test_a_worker_that_is_called_like_the_number_of_another_is_not_taken_for_it(tmp_path):
    with running_server(tmp_path) as server, connected(server) as cluster:
        commands = Commands(tmp_path)
        commands.environ["MMG_PASSWORD"] = PASSWORD
        place = SimpleNamespace(server=server, cluster=cluster, folder=tmp_path, commands=commands)
        with running(tmp_path, "worker", "--procs", "1", "--name", "first", server.where):
            wait_until(cluster.workers, "the worker")
            held = _stuck(place)
            stuck = next(held)
            number = str(cluster.workers()[0].number)
            with running(tmp_path, "worker", "--procs", "1", "--name", number, server.where):
                wait_until(lambda: len(cluster.workers()) == 2, "the other worker")
                done = look(place, "attach", "--stack", server.where, stuck.job.id)
                assert (done.returncode, done.stderr) == (0, "")
                assert "in mapfn" in done.stdout
            stuck.end()
            commands.close()
            list(held)


def kill_itself(key, value):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_the_last_death_of_a_worker_is_listed(place):
    before = place.cluster.workers()[0].deaths
    with pytest.raises(mmg.JobError):
        place.cluster.run(mmg.Job([(1, 1)], kill_itself))
    (worker,) = place.cluster.workers()
    assert worker.deaths > before
    assert "SIGKILL" in worker.last_death
    assert worker.last_death_at > worker.since


REFUSED = {
    "no job": (["cancel", "nothing"], 2, "no job is called 'nothing': there is no job"),
    "no worker": (["drain", "nobody"], 2, "no worker is called 'nobody': there is node7"),
    "no name": (["cancel"], 2, "nothing is named"),
    "too much": (["jobs", "HOST", "HOST"], 2, "unexpected argument"),
    "an option of another": (["jobs", "--listen", "1"], 2, "unknown option --listen"),
    "a word of no command": (["look"], 2, "unexpected argument 'look'; only `password`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(place, name):
    words, code, text = REFUSED[name]
    words = [place.server.where if word == "HOST" else word for word in words]
    if words[0] in ("cancel", "drain") and len(words) == 2:
        words.insert(1, place.server.where)
    done = look(place, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


def test_another_password_and_a_worker_password_show_nothing(place):
    from mmgevent.access.worker_password import make_worker_password

    for password in ("another password, long enough", make_worker_password(PASSWORD)):
        done = look(place, "status", place.server.where, MMG_PASSWORD=password)
        assert done.returncode in (2, 4)
        assert done.stdout == ""
        assert "password" in done.stderr


def test_nobody_there_is_said(place):
    done = look(place, "status", "127.0.0.1:1")
    assert done.returncode == 3
    assert "cannot connect to 127.0.0.1:1" in done.stderr
    assert "give mmg-run --listen PORT" in done.stderr


def test_names_of_others_drive_no_terminal_and_ambiguous_ones_are_refused(place):
    with RawDriver(place.server.address) as driver:
        for number in (1, 2):
            driver.say("submit", number, name=EVIL, options={}, code_bytes=5, fingerprint="f")
        wait_until(lambda: len(place.cluster.jobs()) == 2, "both jobs")
        done = look(place, "jobs", place.server.where)
        assert "\x1b" not in done.stdout
        assert "\u202e" not in done.stdout
        assert r"\x1b[31m" in done.stdout
        done = look(place, "cancel", place.server.where, EVIL)
        assert done.returncode == 2
        assert "2 jobs are called" in done.stderr
        assert "\x1b" not in done.stderr
        (first, _) = place.cluster.jobs()
        assert first.phase == "submitting"
        assert look(place, "cancel", place.server.where, first.id).returncode == 0
        assert "cancelled by" in driver.wait_for("job_failed")[1]["failure"]["error"]
    wait_until(lambda: not place.cluster.jobs(), "the driver's jobs are gone")


def test_a_looker_may_have_another_python_and_submits_nothing(place):
    for type_, fields in (
        ("list_jobs", {}),
        ("submit", {"name": "x", "options": {}, "code_bytes": 0, "fingerprint": "f"}),
    ):
        with RawPeer(place.server.address, "driver", says_hello=False) as looker:
            about = {"python": "3.99", "dill": "none", "version": "x", "host": "h", "pid": 1, "user": "u"}
            looker.say("hello", role="looker", protocol=PROTOCOL, **about)
            looker.wait_for("hello")
            looker.say(type_, type_ == "submit", **fields)
            if type_ == "submit":
                looker.wait_closed()
            else:
                looker.wait_for("jobs")
    assert place.cluster.jobs() == []


def test_who_asks_without_end_loses_its_link(place):
    # It is closed with questions unread.
    with RawDriver(place.server.address) as hostile, contextlib.suppress(ConnectionError):
        for _ in range(3 * MAX_QUESTIONS):
            hostile.say("list_jobs", deltas=True)
        hostile.wait_closed()


def test_listings_have_pages_and_deltas_say_what_changed(place):
    crowd = PAGE_ROWS + 5
    with (
        looking_at(parse_address(place.server.where), PASSWORD) as looker,
        RawDriver(place.server.address) as driver,
    ):
        assert read_listing(looker.ask, "list_jobs", deltas=True) == []
        for number in range(1, crowd + 1):
            driver.say("submit", number, name="many", options={}, code_bytes=5, fingerprint="f")
        wait_until(lambda: len(place.cluster.jobs()) == crowd, "all pages")
        first = looker.ask("list_jobs", deltas=True)
        rest = looker.ask("list_jobs", deltas=True, after=first["next"])
        rows = first["found"]["rows"] + rest["found"]["rows"]
        assert len(first["found"]["rows"]) == PAGE_ROWS
        assert len({row["number"] for row in rows}) == crowd
        assert looker.ask("list_jobs", deltas=True)["found"]["rows"] == []
        driver.say("cancel", 3, reason="enough")
        gone = wait_until(lambda: looker.ask("list_jobs", deltas=True)["gone"], "the job that was cancelled")
        assert gone == [rows[2]["number"]]
        (worker,) = read_listing(looker.ask, "list_workers", details=True, deltas=True)
        assert worker["name"] == "node7"


def test_a_worker_that_answers_nothing_or_nonsense_is_listed_without_its_load(place):
    with RawWorker(place.server.address, slots=1) as silent, RawWorker(place.server.address, slots=1) as liar:
        wait_until(lambda: len(place.cluster.workers()) == 3, "all workers")

        def rows():
            return {info.slots: info for info in place.cluster.workers(measure=True)}

        found = rows()
        assert found[1].cores is None
        frame, _ = liar.wait_for("examine")
        liar.say("examined", task=frame.task, found={"rows": [{"cores": "x", "memory_bytes": -1}]})
        liar.say("examined", task=frame.task + 7, found={"rows": [{"cores": 1.0, "memory_bytes": 1}]})
        assert rows()[1].cores is None
        assert found[2].cores is not None
        silent.leave()
    wait_until(lambda: len(place.cluster.workers()) == 1, "they are gone")


def test_a_silent_worker_delays_only_the_listing_that_asks_it(place):
    with RawWorker(place.server.address, slots=1) as silent:
        wait_until(lambda: len(place.cluster.workers()) == 2, "both workers")
        silent.stay()
        began_s = time.monotonic()
        for _ in range(LISTINGS):
            place.cluster.workers(measure=True)
        assert time.monotonic() - began_s < LISTINGS * LOAD_WAIT_S / 2
        silent.leave()
    wait_until(lambda: len(place.cluster.workers()) == 1, "it is gone")


def test_a_worker_that_is_drained_ends_its_task_and_leaves(place, tmp_path):
    with running(tmp_path, "worker", "--procs", "1", "--name", "old", place.server.where) as worker:
        wait_until(lambda: len(place.cluster.workers()) == 2, "the other worker")
        done = look(place, "drain", place.server.where, "old")
        assert (done.returncode, done.stdout) == (0, "")
        assert worker.wait() == 0
        assert re.search(r"worker leaves: drained by \S+@\S+ \(pid \d+\)", worker.said)
    left = json.loads(look(place, "status", "--json", place.server.where).stdout)["server"]["left"]
    assert (left[-1]["name"], "drained by" in left[-1]["why"]) == ("old", True)


def test_a_drained_worker_finishes_what_it_runs(tmp_path):
    with (
        running_server(tmp_path) as server,
        running(tmp_path, "worker", "--procs", "2", "--name", "only", server.where) as worker,
        connected(server) as cluster,
    ):
        place = SimpleNamespace(server=server, cluster=cluster, folder=tmp_path, commands=Commands(tmp_path))
        place.commands.environ["MMG_PASSWORD"] = PASSWORD
        held = _stuck(place)
        stuck = next(held)
        done = look(place, "drain", server.where, "only")
        assert "leaves when its 1 are done" in done.stderr
        wait_until(lambda: "worker leaves" in worker.said, "the drain")
        assert cluster.workers()[0].state in ("drained", "leaving")
        assert worker.process.poll() is None
        stuck.end()
        assert worker.wait() == 0
        wait_until(lambda: cluster.jobs()[0].phase == "reduce", "the task that it finished counts")
        place.commands.close()
        list(held)
