"""Every message of the protocol, used as badly as it may be, beside an honest driver and an honest worker.

What is legal costs the honest job time at most; what is not closes the link that sent it. The table of docs/protocol.md
says the same in words, and has a row for every message.
"""

import contextlib
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.engine.scheduler.retries import MAX_LOSSES
from mmgevent.wire import shapes
from mmgevent.wire.frames import BATCH, Frame
from mmgevent.wire.limits import MAX_BATCH_BYTES, MAX_SLOTS
from mmgevent.wire.messages import MAX_OFFERS_BYTES, MESSAGES
from tests.oracle import plain_mapreduce
from tests.trust.raw_peer import (
    PATIENCE_S,
    RawDriver,
    RawWorker,
    connected,
    hello_of,
    running_server,
    running_worker,
    wait_until,
)

ITEMS = [(n, n * n) for n in range(60)]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
FAILURE = {"kind": "exception", "error": "a lie", "function": "mapfn", "key": "1"}


def spread(key, value):
    import time

    time.sleep(0.002)
    for digit in str(value):
        yield digit, value


def add(digit, values):
    return sum(values)


def take_a_second(key, value):
    import time

    time.sleep(1)
    yield 0, value


EXPECTED = plain_mapreduce(ITEMS, spread, add)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    with (
        running_server(folder) as server,
        running_worker(folder, server) as worker,
        connected(server) as cluster,
    ):
        assert cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED  # the honest worker has done tasks
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster)
        assert server.process.poll() is None
        assert worker.process.poll() is None
        assert "Traceback" not in server.said + worker.said


def run_honest(place):
    handle = place.cluster.submit(mmg.Job(ITEMS, spread, add))
    assert handle.result(PATIENCE_S) == EXPECTED


def fields_of(type_):
    """Return the least that a message of this type has."""
    examples = {
        shapes.COUNT: 0,
        shapes.NUMBER: 0,
        shapes.STRING: "x",
        shapes.FLAG: True,
        shapes.OBJECT: {},
        shapes.COUNTS: [],
        shapes.STRINGS: [],
        shapes.ROWS: [],
        shapes.LISTS: [],
        shapes.INLINE: b"x",
        shapes.COUNTERS: {},
        shapes.PAIRS: [],
        shapes.TRIPLES: [],
        shapes.PHASE: "map",
        shapes.STATE: "worker",
    }
    words = {"role": "worker", "code": "busy"}
    return {
        name: words.get(name) or examples[field.shape]
        for name, field in MESSAGES[type_].items()
        if field.required
    }


# What a worker says of every attempt that it gets.
WORKER_SAYS = {
    "returned": {},
    "failed": {"failure": FAILURE},
    "died": {"failure": {**FAILURE, "kind": "died"}},
    "unprepared": {"failure": {**FAILURE, "function": "setupfn"}},
    "content": {},
    "kept": {},
    "done": {"size": 2**62, "records": 2**62, "items": 2**62, "seconds": 1e300, "groups": 2**62},
    "goodbye": {"reason": "x" * 100_000},
    "leaving": {},
    "notice": {"text": "x" * 100_000, "once": "y" * 100_000},
    "examined": {"found": {"rows": [{"cores": 1e300}] * 1000}},
}
#: what a worker says once, of nothing
WORKER_SAYS_ONCE = {"tell": {"data": "QUJD" * 30_000}}


@pytest.mark.parametrize("type_", WORKER_SAYS)
def test_a_worker_that_says_it_of_everything_costs_time_at_most(place, type_):
    with RawWorker(place.server.address, slots=8) as hostile:

        def lie():
            with contextlib.suppress(OSError, AssertionError, ValueError):  # it was cut off, or has left
                for frame, _ in hostile.messages("assign"):
                    hostile.say(type_, *frame.lane, **WORKER_SAYS[type_])
                    if type_ in ("notice", "leaving", "examined"):
                        hostile.say("returned", *frame.lane)

        liar = threading.Thread(target=lie, daemon=True)
        liar.start()
        wait_until(lambda: len(place.cluster.workers()) > 1 or not liar.is_alive(), "the liar")
        for _ in range(2):
            run_honest(place)
    liar.join(PATIENCE_S)


def lose(hostile, frame):
    hostile.reset()


def fail_and_leave(type_):
    def do(hostile, frame):
        hostile.say(type_, *frame.lane, **WORKER_SAYS[type_])
        hostile.leave()

    return do


COMES_AGAIN = [lose, *map(fail_and_leave, ("failed", "died", "unprepared", "goodbye"))]


def test_ten_workers_that_fail_a_task_and_come_again_fail_no_job(place):
    """However often they come, and however they fail: they never did a task, and the honest worker has."""
    over, taken, peers = threading.Event(), [], []

    def come_again(fail):
        while not over.is_set():
            with (
                contextlib.suppress(OSError, AssertionError, ValueError),  # it left, or the test is over
                RawWorker(place.server.address) as hostile,
            ):
                peers.append(hostile.sock)
                if over.is_set():  # too late to be cut off below
                    return
                frame, _ = hostile.wait_for("assign")
                taken.append(frame)
                fail(hostile, frame)

    threads = [threading.Thread(target=come_again, args=(fail,), daemon=True) for fail in 2 * COMES_AGAIN]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(place.cluster.workers()) > 5, "the hostile workers")
        run_honest(place)
    finally:
        over.set()
        for sock in peers:
            with contextlib.suppress(OSError):  # it left
                sock.shutdown(2)
        for thread in threads:
            thread.join(PATIENCE_S)
    assert len(taken) > len(threads)


@pytest.mark.long
def test_a_worker_of_many_slots_that_holds_every_task_holds_up_no_job_for_long(place):
    """It is given every reduce task, so that nobody knows how long they take. It lives, and reads."""
    with RawWorker(place.server.address, slots=200) as hostile:
        hostile.stay()
        reader = threading.Thread(target=hostile.wait_closed, daemon=True)
        reader.start()
        wait_until(lambda: len(place.cluster.workers()) > 1, "the hostile worker")
        run_honest(place)
        hostile.reset()
    reader.join(PATIENCE_S)


@pytest.mark.long
def test_a_batch_in_tiny_frames_for_thousands_of_slots_costs_the_server_little(tmp_path):
    """Each attempt is sent the whole batch. A worker that does not read has 4,096 of them."""
    size, items = 512 * 1024, 8192
    with running_server(tmp_path) as server, RawDriver(server.address) as driver:
        driver.submit(partitions=1)
        driver.wait_for("accepted")
        driver.announce(1, size, items=items)
        for start in range(0, size, 2049):  # two of these are not joined when they arrive
            driver.send(Frame(BATCH, bytes(min(2049, size - start)), 1, 1))
        driver.say("input_end", 1, batches=1)
        driver.say("list_workers")  # answered behind the batch, which must be whole before the worker comes
        driver.wait_for("workers")
        before = server.psutil.memory_info().rss
        with RawWorker(server.address, slots=MAX_SLOTS, receive_bytes=4096) as worker:
            worker.stay()
            wait_until(lambda: "worker joined" in server.said, "the worker")
            driver.say("list_workers")  # answered behind what the worker was given
            driver.wait_for("workers")
            assert server.psutil.memory_info().rss - before < 60 * 1024 * 1024
            worker.reset()


def test_a_worker_that_returns_everything_is_set_aside_told_logged_and_listed(place):
    with RawWorker(place.server.address, slots=1) as hostile:

        def lie():
            with contextlib.suppress(OSError, AssertionError, ValueError):
                for frame, _ in hostile.messages("assign"):
                    hostile.say("returned", *frame.lane)

        liar = threading.Thread(target=lie, daemon=True)
        liar.start()
        wait_until(lambda: len(place.cluster.workers()) > 1, "the liar")
        for _ in range(20):
            run_honest(place)
            if any("set aside" in info.name for info in place.cluster.workers()):
                break
        assert [info.name for info in place.cluster.workers() if "it returned" in info.name]
        assert "worker set aside for 2 s: raw/1: it returned" in place.server.said
    liar.join(PATIENCE_S)


@pytest.mark.parametrize("type_", WORKER_SAYS_ONCE)
def test_a_worker_that_says_it_without_end_costs_nothing(place, type_):
    with RawWorker(place.server.address, slots=1) as hostile:
        for _ in range(8):
            hostile.say(type_, more=True, **WORKER_SAYS_ONCE[type_])
        hostile.leave()
        run_honest(place)


def test_more_slots_than_a_server_takes_are_refused_once_with_the_limit(place, tmp_path):
    with RawWorker(place.server.address, slots=MAX_SLOTS + 1) as hostile:
        _, message = hostile.wait_for("refused")
        assert message["code"] == "slots"
        assert str(MAX_SLOTS) in message["error"]
        hostile.wait_closed()
    with RawWorker(place.server.address, says_hello=False) as hostile:
        hostile.send(hello_of("worker", slots=MAX_SLOTS, offers=["x" * (MAX_OFFERS_BYTES - 10)]))
        hostile.wait_for("hello")
        hostile.leave()
        run_honest(place)


# What a driver does whose job 1 was accepted.


def submit_absurdities(hostile):
    offered = {"phases": ["map"], "mapfn": "f"}
    absurd = [
        {"offered": offered},
        {"offered": offered, "needs": ["g"]},
        {"offered": {"phases": ["map"]}, "needs": ["f"]},
        {"offered": {**offered, "phases": []}, "needs": ["f"]},
        {"offered": {**offered, "mapfn": 7}, "needs": ["f"]},
        {"offered": {**offered, "more": 7}, "needs": ["f"]},
        {"offered": [], "needs": ["f"]},
        {"offered": offered, "needs": ["f"], "greenlets": 5},
        {"offered": offered, "needs": ["f"], "task_timeout": 5},
        {"offered": offered, "needs": ["f"], "memory_limit": 2**30},
        {"needs": [7]},
        {"needs": "f"},
        {"needs": ["x"] * 17},
        {"flags": ["-O", "-OO"]},
        {"flags": ["-c"]},
        {"allocation": "oneshot", "retries": 1},
        {"allocation": []},
        {"retries": -1},
        {"retries": 2**1100},
        {"max_skipped": 1.5},
        {"partitions": 0},
        {"partitions": 2**40},
        {"greenlets": True},
        {"task_timeout": 0},
        {"setup_timeout": "x"},
        {"memory_limit": 1},
        {"retransmit": 2},
        {"name": "\x1b[2J"},
        {"py_files": ["x"]},
        {"what": "x" * 70_000},
    ]
    for number, options in enumerate(absurd, 2):
        hostile.submit(number, **options)
        frame, message = hostile.wait_for("rejected", "accepted")
        assert (frame.job, message["type"]) == (number, "rejected"), options
    others = [
        {"name": "x" * 1000},
        {"fingerprint": "x" * 1000},
        {"skip": [1]},
        {"skip": [1_000_000], "options": {"partitions": 8}},
        {"code_bytes": 2**50},
        {"context_bytes": 2**50},
    ]
    for number, fields in enumerate(others, len(absurd) + 2):
        said = {"name": "raw", "options": {}, "code_bytes": 1, "fingerprint": "f", **fields}
        hostile.say("submit", number, **said)
        frame, message = hostile.wait_for("rejected", "accepted")
        assert (frame.job, message["type"]) == (number, "rejected"), fields
    for later in range(number + 1, number + 1100):  # and as many as there may be
        hostile.submit(later)
    assert "jobs already" in hostile.wait_for("rejected")[1]["error"]


def announce_without_end(hostile):
    for job in range(2, 60):
        hostile.submit(job)
    for job in range(1, 60):
        for batch in range(1, 5):
            hostile.announce(batch, MAX_BATCH_BYTES, job)


def repeat(type_, count=3000, **fields):
    def say(hostile):
        for _ in range(count):
            hostile.say(type_, **fields)

    return say


def until_closed(type_, **fields):
    """Say it without end, until the server has enough."""

    def say(hostile):
        with contextlib.suppress(OSError):
            repeat(type_, **fields)(hostile)

    return say


def dismiss_everybody(hostile):
    hostile.say("watch")
    frame, _ = hostile.wait_for("joined")
    hostile.say("dismiss", task=frame.task, reason="x" * 100_000)


def tell_without_end(hostile):
    hostile.say("watch")
    frame, _ = hostile.wait_for("joined")
    for _ in range(8):
        hostile.say("tell", task=frame.task, data="QUJD" * 30_000, more=True)


def dismiss_without_end(hostile):
    """Every worker, as often as makes a task suspect, and once more."""
    hostile.say("watch")
    seen: dict[int, None] = {}
    for frame, message in hostile.messages("joined"):
        if message["slots"] == 2:  # the honest one
            hostile.say("dismiss", task=frame.task, reason="x")
            hostile.say("dismiss", task=frame.task, reason="x")
            seen[frame.task] = None
        if len(seen) > MAX_LOSSES:
            return


@pytest.mark.long
def test_a_worker_that_is_sent_away_again_and_again_makes_no_task_suspect(place):
    with RawDriver(place.server.address) as hostile:
        handle = place.cluster.submit(mmg.Job([(1, 1)], take_a_second, add))
        wait_until(lambda: handle.progress().running, "the only task")
        dismiss_without_end(hostile)
        assert handle.result(PATIENCE_S) == {0: 1}


DRIVER_DOES = {
    "submit": submit_absurdities,
    "batch": announce_without_end,
    "input_end": lambda hostile: hostile.say("input_end", 1, batches=2**63 - 1),
    "cancel": repeat("cancel", 100, job=1, reason="x" * 10_000),
    "list_workers": repeat("list_workers"),
    "list_jobs": until_closed("list_jobs", deltas=True),
    "ask": until_closed("ask", what="stack", name="x" * 100_000, pid=1),
    "watch": repeat("watch"),
    "tell": tell_without_end,
    "dismiss": dismiss_everybody,
    "goodbye": lambda hostile: hostile.say("goodbye", reason="x" * 100_000),
}


@pytest.mark.parametrize("type_", DRIVER_DOES)
def test_a_driver_that_does_its_worst_with_it_costs_time_at_most(place, type_):
    with RawDriver(place.server.address) as hostile:
        hostile.submit()
        hostile.wait_for("accepted")
        DRIVER_DOES[type_](hostile)
        run_honest(place)


SENT = {"worker": {*WORKER_SAYS, *WORKER_SAYS_ONCE}, "driver": set(DRIVER_DOES)}
NOT_SENT = [(role, type_) for role, sent in SENT.items() for type_ in MESSAGES if type_ not in sent]


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_what_a_side_does_not_send_closes_its_link_and_no_other(place, role):
    for type_ in [type_ for each, type_ in NOT_SENT if each == role]:
        with RawWorker(place.server.address) if role == "worker" else RawDriver(place.server.address) as peer:
            peer.wait_for("hello")
            peer.say(type_, **fields_of(type_))
            peer.wait_closed()
    run_honest(place)


def test_the_page_has_a_row_for_every_message():
    section = PAGE.read_text("utf-8").split("\n## 11. ")[1]
    named = {name for row in re.findall(r"^\| ([a-z_, ]+) \|", section, re.M) for name in row.split(", ")}
    assert named - {"message"} == set(MESSAGES)


def test_numbers_of_jobs_begin_anew_after_the_last_one(place):
    with RawDriver(place.server.address) as driver:
        for number in (0xFFFF_FFFE, 0xFFFF_FFFF, 1, 2):
            driver.submit(number, needs=["what nobody offers"])
            assert driver.wait_for("accepted", "rejected")[0].job == number
        driver.say("cancel", 0xFFFF_FFFF, reason="late")
        driver.submit(2)  # it is there
        driver.wait_closed()
