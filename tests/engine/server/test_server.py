"""server: whatever one peer sends hurts at most that peer or its own job; hand-made peers over real links."""

import ast
import json
import struct
from pathlib import Path

import gevent
import pytest

import mmgevent
from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.scheduler import commands
from mmgevent.engine.server import jobs
from mmgevent.engine.server.partitioning import cut_partitions
from mmgevent.engine.server.role import MAX_TICK_FAULTS, ServerRole
from mmgevent.tasks.records import encode_flush, encode_items, encode_segment
from mmgevent.wire.frames import BATCH, CODE, CONTROL, INPUT, OUTPUT, Frame, split_payload
from mmgevent.wire.hello import PYTHON_VERSION, dill_version
from mmgevent.wire.lanes import OUTPUT_WINDOW, RESULT_WINDOW, grant_frame
from mmgevent.wire.limits import MAX_BATCH_BYTES, MAX_CODE_BYTES, MAX_CONTEXT_BYTES
from mmgevent.wire.messages import PROTOCOL, control, decode_message
from mmgevent.wire.shapes import MAX_INLINE_BYTES


def settle():
    """Let every greenlet run until none has anything to do."""
    for _ in range(3):
        gevent.idle()


class Peer:
    """The other end of a link of the server, played by the test."""

    def __init__(self, server, role, slots=1, hello=True, is_local=True):
        self.frames, self.messages, self.closed = [], [], None
        ours, self.link = local_pair(f"test {role}")
        server.attach(ours, role, is_local=is_local)
        self.link.start(self._on_frame, self._on_close)
        if hello:
            fields = {"slots": slots} if role == "worker" else {}
            self.say(
                "hello",
                role=role,
                protocol=PROTOCOL,
                python=PYTHON_VERSION,
                dill="x" if is_local else dill_version(),
                version="1",
                host="h",
                pid=1,
                **fields,
            )

    def _on_frame(self, frame):
        self.frames.append(frame)
        if frame.kind == CONTROL:
            self.messages.append((frame, decode_message(frame.payload)))

    def _on_close(self, reason):
        self.closed = reason or "closed"

    def say(self, type, job=0, task=0, attempt=0, in_lane=False, **fields):
        frame = control(type, job, task, attempt, **fields)
        (self.link.send_in_lane if in_lane else self.link.send)(frame)
        settle()

    def send(self, *frames):
        for frame in frames:
            self.link.send_in_lane(frame)
        settle()

    def heard(self, type):
        return [(frame, message) for frame, message in self.messages if message["type"] == type]

    def submit(self, job=1, delivered=(), fields=None, **options):
        fields = {**(fields or {}), **({"skip": list(delivered)} if delivered else {})}
        self.say("submit", job, name="t", options=options, code_bytes=1, fingerprint="f", **fields)
        self.send(Frame(CODE, b"c", job))

    def send_batch(self, number, items=1, job=1, data=None, **fields):
        data = encode_items([(n, n) for n in range(items)]) if data is None else data
        fields = {"weight": len(data), **fields}
        self.say("batch", job, number, in_lane=True, items=items, size=len(data), **fields)
        self.send(*split_payload(BATCH, data, job, number))

    def finish(self, assign, output=b"", seconds=0.1, **others):
        frame, _ = assign
        self.send(*split_payload(OUTPUT, output, *frame.lane))
        done = {"size": len(output), "records": 1, "items": 1, "seconds": seconds, "groups": 1, **others}
        self.say("done", *frame.lane, in_lane=True, **done)


@pytest.fixture
def server():
    server = ServerRole("test", memory_bytes=10**8)
    yield server
    server.stop("the test is over")


def test_a_job_goes_from_batch_to_results(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    output = encode_flush({3: encode_segment(["k"], [1])})
    worker.finish(worker.heard("assign")[0], output)
    ((frame, reduce),) = worker.heard("assign")[1:]
    assert reduce["parts"] == [[3, reduce["size"]]]
    assert (
        sum(len(f.payload) for f in worker.frames if f.kind == INPUT and f.attempt == frame.attempt)
        == reduce["size"]
    )
    worker.finish((frame, reduce), output)
    ((_, results),) = driver.heard("results")
    assert results["parts"] == [[3, reduce["size"], 1]]
    assert driver.heard("job_done")
    assert worker.heard("job_end")


def test_what_a_driver_has_got_of_a_former_server_is_not_reduced_again(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(delivered=[3], partitions=32)
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    segment = encode_segment(["k"], [1])
    worker.finish(worker.heard("assign")[0], encode_flush({3: segment, 5: segment}))
    (assign,) = worker.heard("assign")[1:]
    assert [number for number, _ in assign[1]["parts"]] == [5]
    worker.finish(assign, encode_flush({5: segment}))
    ((_, results),) = driver.heard("results")
    assert [number for number, *_ in results["parts"]] == [5]
    assert driver.heard("job_done")


def submit_chain(driver, stages):
    """Run stages without items, each of which keeps its results for the one behind it."""
    for number in range(1, stages + 1):
        source = {"source": number - 1} if number > 1 else {}
        driver.submit(number, fields={"keep": True, **source})
        if number == 1:
            driver.say("input_end", 1, batches=0)


def test_of_a_chain_of_any_length_only_what_was_not_taken_stays(server):
    driver = Peer(server, "driver")
    submit_chain(driver, 400)
    assert len(driver.heard("stage_done")) == 400
    assert len(server.conductor.jobs) == 1
    driver.say("cancel", 400, reason="over")
    assert (len(server.conductor.jobs), driver.closed) == (0, None)


def test_stages_that_were_taken_do_not_count_as_jobs_of_their_driver(server, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_DRIVER_JOBS", 3)
    driver = Peer(server, "driver")
    submit_chain(driver, 10)
    assert not driver.heard("rejected")
    assert len(driver.heard("stage_done")) == 10


def test_a_job_of_which_one_part_does_not_close_frees_the_others(server, monkeypatch):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    output = encode_flush({3: encode_segment(["k"], [1])})
    worker.send(*split_payload(OUTPUT, output, *worker.heard("assign")[0][0].lane))
    (job,) = server.conductor.jobs
    assert server.conductor.jobs.memory.used_bytes
    monkeypatch.setattr(job.input, "close", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server.conductor.jobs.remove(job)
    assert server.conductor.jobs.memory.used_bytes == 0
    assert server.conductor.jobs.idle.is_set()


@pytest.mark.parametrize("command", [commands.Recall(1, 1, 99), commands.Revoke(9, 1, 1, 1)], ids=repr)
def test_a_command_that_cannot_be_carried_out_breaks_its_own_job_only(server, command):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(1)
    driver.submit(2)
    server.conductor.run([command])
    settle()
    ((_, failed),) = driver.heard("job_failed")
    assert failed["failure"]["error"].startswith("internal error: KeyError")
    driver.send_batch(1, job=2)
    assert worker.heard("assign")
    assert (worker.closed, driver.closed) == (None, None)


@pytest.mark.parametrize("faulty", ["Dispatcher.duplicate_stragglers", "Lifecycle.advance", "status"])
def test_a_tick_that_fails_for_one_job_fails_that_job_by_name_and_no_other(server, monkeypatch, faulty):
    monkeypatch.setattr("mmgevent.engine.server.role.TICK_S", 0.001)
    monkeypatch.setattr("mmgevent.engine.server.role.PROGRESS_S", 0.001)
    scheduler = server.conductor.scheduler
    owner, name = {
        "Dispatcher.duplicate_stragglers": (scheduler._dispatcher, "duplicate_stragglers"),
        "Lifecycle.advance": (scheduler._lifecycle, "advance"),
        "status": (scheduler, "status"),
    }[faulty]
    real = getattr(owner, name)

    def fail(of, *args):
        if getattr(of, "number", of) == 1:
            raise ZeroDivisionError("a fault of our own")
        return real(of, *args)

    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(1)
    driver.submit(2)
    monkeypatch.setattr(owner, name, fail)
    with gevent.Timeout(10):
        while not driver.heard("job_failed"):
            gevent.sleep(0.001)
    monkeypatch.undo()
    ((frame, failed),) = driver.heard("job_failed")
    assert (frame.job, failed["failure"]["kind"]) == (1, "internal")
    assert "ZeroDivisionError" in failed["failure"]["error"]
    driver.send_batch(1, job=2)
    assert worker.heard("assign")
    assert not server._ticker.dead
    assert (worker.closed, driver.closed) == (None, None)


def test_ticks_that_fail_for_no_job_alone_end_the_process(server, monkeypatch):
    monkeypatch.setattr("mmgevent.engine.server.role.TICK_S", 0.001)
    ended = []
    monkeypatch.setattr("mmgevent.engine.server.role.end_process", ended.append)
    ticks = []

    def fail():
        ticks.append(1)
        raise ZeroDivisionError("a fault of our own")

    monkeypatch.setattr(server.conductor, "tick", fail)
    Peer(server, "driver").submit(1)
    with pytest.raises(ZeroDivisionError):
        server._ticker.get(timeout=10)
    settle()
    assert ended == [server._ticker]
    assert len(ticks) == MAX_TICK_FAULTS


def test_a_server_without_jobs_wakes_for_nothing(server, monkeypatch):
    monkeypatch.setattr("mmgevent.engine.server.role.TICK_S", 0.001)
    Peer(server, "worker")
    driver = Peer(server, "driver")
    for job in (1, 2):
        driver.submit(job)
        ticker = server._ticker
        assert not ticker.dead
        driver.say("cancel", job, reason="test")
        ticker.join(10)
        assert ticker.dead


def test_a_worker_that_leaves_with_a_very_long_reason_loses_its_tasks_to_others(server):
    leaver, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    assert leaver.heard("assign")
    other = Peer(server, "worker")
    leaver.say("goodbye", reason="x" * 250_000)
    settle()
    assert other.heard("assign")
    assert driver.closed is None


def test_a_worker_that_is_leaving_gets_no_more_tasks(server):
    leaver, driver = Peer(server, "worker", slots=4), Peer(server, "driver")
    leaver.say("leaving")
    driver.submit()
    driver.send_batch(1)
    assert not leaver.heard("assign")


def test_numbers_that_overflow_hurt_nobody(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    for number in (1, 2):
        driver.send_batch(number, weight=2**63 - 1)
    for assign in worker.heard("assign"):
        worker.finish(assign, seconds=1.7e308)
    assert worker.closed is None
    assert driver.closed is None


@pytest.mark.parametrize(
    "options",
    [{"greenlets": "x"}, {"task_timeout": []}, {"retries": -1}, {"unheard_of": 1}],
)
def test_options_that_make_no_sense_are_rejected_before_a_worker_sees_them(server, options):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(**options)
    assert driver.heard("rejected")
    assert not worker.heard("job")
    driver.submit(job=2)
    assert driver.heard("accepted")


def test_contents_that_come_again_take_the_batchs_place_only_when_whole(server):
    driver = Peer(server, "driver")
    driver.submit()
    driver.send_batch(1, items=2, data=b"r" * 100, refs=True)
    driver.say("input_end", 1, batches=1)
    worker = Peer(server, "worker", slots=2)
    settle()
    (first, _), (second, _) = worker.heard("assign")
    worker.say("content", *first.lane, in_lane=True)
    assert driver.heard("need_content")
    contents = list(split_payload(BATCH, b"c" * 600_000, 1, 1))
    driver.say("batch", 1, 1, in_lane=True, items=2, size=600_000, weight=1, content=True)
    driver.send(contents[0])
    worker.say("returned", *second.lane)
    driver.send(*contents[1:])
    for frame, message in worker.heard("assign")[2:]:
        worker.link.send(grant_frame(frame.lane, 2**20))
        settle()
        came = sum(len(f.payload) for f in worker.frames if f.kind == INPUT and f.attempt == frame.attempt)
        assert came + len(message.get("inline", b"")) == message["size"]


@pytest.mark.parametrize(("items", "size", "number"), [(3_000_000, 10, 1), (0, 10, 1), (1, 10, 10_000)])
def test_batches_that_cannot_be_close_their_driver_only(server, items, size, number):
    worker, driver, other = Peer(server, "worker"), Peer(server, "driver"), Peer(server, "driver")
    driver.submit()
    driver.say("batch", 1, number, in_lane=True, items=items, size=size, weight=1)
    settle()
    assert driver.closed
    other.submit()
    other.send_batch(1)
    assert worker.heard("assign")
    assert worker.closed is None


def test_a_job_whose_code_has_no_room_is_rejected_and_the_link_stays(server):
    server.conductor.jobs._code_intake.limit_bytes = 100  # of which one link gets four fifths
    driver, other = Peer(server, "driver"), Peer(server, "driver")
    driver.say("submit", 1, name="t", options={}, fingerprint="f", code_bytes=81)
    assert "bytes of jobs' code already" in driver.heard("rejected")[0][1]["error"]
    for job in (2, 3):
        driver.say("submit", job, name="t", options={}, fingerprint="f", code_bytes=60)  # each alone fits
    for job in (2, 3):
        driver.send(Frame(CODE, b"c" * 50, job))
    assert [frame.job for frame, _ in driver.heard("rejected")] == [1, 3]
    other.say("submit", 1, name="t", options={}, fingerprint="f", code_bytes=20)
    other.send(Frame(CODE, b"c" * 20, 1))
    assert other.heard("accepted")
    driver.send(Frame(CODE, b"c" * 10, 2))
    assert driver.heard("accepted")
    assert server.conductor.jobs._code_intake.held_bytes == 80 + 2 * len("{}")  # code and options


def test_numbers_of_jobs_and_workers_begin_anew_and_pass_over_those_in_use(server):
    driver = Peer(server, "driver")
    first = Peer(server, "worker")
    driver.submit(1)
    server.conductor.jobs._last_number = server.conductor.workers._last_number = 0xFFFF_FFFE
    workers = [Peer(server, "worker") for _ in range(2)]
    for job in (2, 3):
        driver.submit(job)
        driver.send_batch(1, job=job)
    assert sorted(job.number for job in server.conductor.jobs) == [1, 2, 0xFFFF_FFFF]
    assert sorted(worker.number for worker in server.conductor.workers) == [1, 2, 0xFFFF_FFFF]
    assigned = {frame.job for peer in (first, *workers) for frame, _ in peer.heard("assign")}
    assert assigned == {2, 0xFFFF_FFFF}


TOO_LARGE = {"code_bytes": MAX_CODE_BYTES, "context_bytes": MAX_CONTEXT_BYTES}


@pytest.mark.parametrize("field", TOO_LARGE)
def test_a_job_that_is_too_large_is_rejected_with_its_size_and_the_link_stays(server, field):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(1)
    sizes = {"code_bytes": 1, field: TOO_LARGE[field] + 5}
    driver.say("submit", 2, name="t", options={}, fingerprint="f", **sizes)
    driver.send(Frame(CODE, b"c" * 100_000, 2))  # it was on its way
    ((frame, message),) = driver.heard("rejected")
    assert frame.job == 2
    assert f"{TOO_LARGE[field] + 5:,} bytes were announced, 5 more than" in message["error"]
    driver.send_batch(1)
    assert worker.heard("assign")
    assert driver.closed is None


def test_a_batch_that_is_too_large_fails_its_job_with_its_size_and_no_other(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(1)
    driver.submit(2)
    driver.say("batch", 2, 1, in_lane=True, items=1, size=MAX_BATCH_BYTES + 5, weight=1)
    driver.send(Frame(BATCH, b"b" * 60_000, 2, 1))  # it was on its way
    ((frame, message),) = driver.heard("job_failed")
    assert frame.job == 2
    assert message["failure"]["kind"] == "datasource"
    assert (
        "batch 1 of the job: 1,073,741,829 bytes were announced, 5 more than" in message["failure"]["error"]
    )
    driver.send_batch(1)
    assert [frame.job for frame, _ in worker.heard("assign")] == [1]
    assert driver.closed is None


@pytest.mark.parametrize("cut_at", [1, 10, 11, 12, 13])
def test_the_context_goes_to_workers_of_the_drivers_own_engine_only(server, cut_at):
    own, other = Peer(server, "worker"), Peer(server, "worker", is_local=False)
    driver = Peer(server, "driver")
    sizes = {"code_bytes": 3, "context_bytes": 10}
    driver.say("submit", 1, name="t", options={}, fingerprint="f", **sizes)
    parcel = b"surroundscod"[:10] + b"cod"
    driver.send(*(Frame(CODE, part, 1) for part in (parcel[:cut_at], parcel[cut_at:]) if part))
    for number in (1, 2):
        driver.send_batch(number)
    for worker, context_bytes, expected in ((own, 10, parcel), (other, None, b"cod")):
        ((_, message),) = worker.heard("job")
        assert message.get("context_bytes") == context_bytes
        assert message["code_bytes"] == 3
        assert b"".join(frame.payload for frame in worker.frames if frame.kind == CODE) == expected


def test_a_driver_elsewhere_has_no_context(server):
    driver = Peer(server, "driver", is_local=False)
    driver.say("submit", 1, name="t", options={}, fingerprint="f", code_bytes=1, context_bytes=10)
    ((_, message),) = driver.heard("rejected")
    assert "surroundings travel to executors of the driver's own engine only" in message["error"]
    driver.submit(2)
    assert driver.heard("accepted")


def test_data_frames_without_data_close_their_link(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    frame, _ = worker.heard("assign")[0]
    worker.send(Frame(OUTPUT, b"", *frame.lane))
    assert worker.closed
    assert driver.closed is None


def test_done_waits_for_what_the_disk_has_not_taken():
    server = ServerRole("test", memory_bytes=0)
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.send_batch(2)
    (job,) = server.conductor.jobs
    disk = gevent.event.Event()
    write = job.store._run

    def slow(function, *args):
        disk.wait()
        return write(function, *args)

    job.store._run = slow
    worker.finish(worker.heard("assign")[0], encode_flush({0: encode_segment([1], [2])}))
    assert not job.store._committed
    disk.set()
    while not job.store._committed:  # the thread pool's part is not the hub's
        gevent.idle()
    server.stop("the test is over")


def test_output_behind_a_done_that_waits_for_the_disk_closes_the_link_and_is_not_committed():
    server = ServerRole("test", memory_bytes=0)
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    (job,) = server.conductor.jobs
    job.store._run = lambda function, *args: gevent.event.Event().wait()
    assign = worker.heard("assign")[0]
    worker.finish(assign, encode_flush({0: encode_segment([1], [2])}))
    worker.send(Frame(OUTPUT, b"more", *assign[0].lane))
    assert worker.closed
    assert Peer(server, "worker").heard("assign")
    assert not driver.heard("job_failed")
    server.stop("the test is over")


def test_an_attempt_of_another_worker_cannot_be_finished(server):
    worker, other, driver = Peer(server, "worker"), Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    mine, theirs = (worker, other) if worker.heard("assign") else (other, worker)
    theirs.finish(mine.heard("assign")[0])
    assert theirs.closed
    assert mine.closed is None


def test_another_python_version_is_refused_with_both_named(server):
    ours, link = local_pair("other")
    server.attach(ours, "worker")
    heard = []
    link.start(lambda frame: heard.append(decode_message(frame.payload)), lambda reason: None)
    fields = {"protocol": PROTOCOL, "dill": "0", "version": "1", "host": "h", "pid": 1, "slots": 1}
    link.send(control("hello", role="worker", python="2.7", **fields))
    settle()
    assert heard[0]["type"] == "refused"
    assert "2.7" in heard[0]["error"]
    assert PYTHON_VERSION in heard[0]["error"]


def test_a_first_frame_that_is_no_hello_closes_the_link(server):
    stranger = Peer(server, "worker", hello=False)
    stranger.say("leaving")
    assert stranger.closed


def test_data_before_a_hello_closes_the_link(server):
    stranger = Peer(server, "worker", hello=False)
    stranger.send(Frame(OUTPUT, b"x", 1, 1, 1))
    assert stranger.closed


def test_a_hello_of_another_role_than_was_proved_closes_the_link(server):
    driver, worker = Peer(server, "driver"), Peer(server, "worker", hello=False)
    fields = {"protocol": PROTOCOL, "python": PYTHON_VERSION, "dill": "x", "version": "1", "host": "h"}
    worker.say("hello", role="driver", pid=1, **fields)
    assert worker.closed
    assert not worker.heard("hello")
    assert driver.closed is None


def test_what_attempts_that_count_have_counted_is_told_once(server):
    lost, worker, driver = Peer(server, "worker"), Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    output = encode_flush({3: encode_segment(["k"], [1])})
    first, second = (lost, worker) if lost.heard("assign") else (worker, lost)
    # It counted, but its output is not whole: its link closes, and the attempt is another's.
    frame, _ = first.heard("assign")[0]
    first.say("done", *frame.lane, size=9, records=1, items=1, seconds=0.1, groups=1, counters={"n": 100})
    assert first.closed
    assign = second.heard("assign")[0]
    for _ in range(2):  # the second time it is late
        second.finish(assign, output, counters={"n": 2, "m": 1})
    server.conductor.send_progress()
    settle()
    assert driver.heard("progress")[-1][1]["counters"] == {"n": 2, "m": 1}
    second.finish(second.heard("assign")[1], output, counters={"n": 5})
    ((_, results),) = driver.heard("results")
    assert results["counters"] == {"n": 5}
    assert driver.heard("job_done")[0][1]["stats"]["counters"] == {"n": 2, "m": 1}


def test_only_a_worker_that_has_a_job_prints_for_it(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    stranger = Peer(server, "worker")
    number = worker.heard("assign")[0][0].job
    for peer, text in ((stranger, "not mine"), (worker, "mine")):
        peer.say("printed", number, lines=[text], items=["1"])
    worker.say("printed", number + 1, lines=["of no job"], items=[""])
    assert [message["lines"] for _, message in driver.heard("printed")] == [["mine"]]
    assert not worker.closed
    worker.say("printed", number, lines=["one", "two"], items=[""])
    assert worker.closed


@pytest.mark.parametrize(
    "counters",
    [{"n": -1}, {"n": 1.5}, {"n": 2**63}, {"x" * 101: 1}, {f"n{i}": 1 for i in range(102)}, ["n"]],
    ids=["negative", "float", "large", "long", "many", "list"],
)
def test_counts_that_are_none_close_the_link(server, counters):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    frame, _ = worker.heard("assign")[0]
    done = {"type": "done", "size": 0, "records": 0, "items": 1, "seconds": 0.1, "groups": 0}
    payload = json.dumps({**done, "counters": counters}).encode()
    worker.send(Frame(CONTROL, payload, *frame.lane))
    assert worker.closed


def test_what_comes_late_about_an_attempt_that_is_over_changes_nothing(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.send_batch(2)
    driver.say("input_end", 1, batches=2)
    first, second = worker.heard("assign")
    output = encode_flush({3: encode_segment(["k"], [1])})
    worker.finish(first, output)
    for event in ("returned", "content", "kept", "done"):
        late = {"size": 0, "records": 0, "items": 0, "seconds": 0, "groups": 0} if event == "done" else {}
        worker.say(event, *first[0].lane, in_lane=True, **late)
    worker.send(Frame(OUTPUT, output, *first[0].lane))
    worker.say("failed", *first[0].lane, in_lane=True, failure={"kind": "exception", "error": "late"})
    assert worker.closed is None
    assert len(worker.heard("assign")) == 2  # the other attempt goes on, and nothing is done again
    worker.finish(second, output)
    (reduce,) = worker.heard("assign")[2:]
    assert reduce[1]["parts"] == [[3, 2 * len(encode_segment(["k"], [1]))]]
    assert not driver.heard("job_failed")


@pytest.mark.parametrize("missing", [1, 0])
def test_done_before_the_whole_output_closes_the_link_and_commits_nothing(server, missing):
    worker, driver, other = Peer(server, "worker"), Peer(server, "driver"), Peer(server, "worker")
    driver.submit()
    driver.send_batch(1)
    liar, next_ = (worker, other) if worker.heard("assign") else (other, worker)
    (frame, _) = liar.heard("assign")[0]
    output = encode_flush({3: encode_segment(["k"], [1])})[:-1]
    liar.send(Frame(OUTPUT, output, *frame.lane))
    fields = {"records": 1, "items": 1, "seconds": 0, "groups": 1}
    liar.say("done", *frame.lane, in_lane=True, size=len(output) + missing, **fields)
    assert liar.closed
    assert next_.heard("assign")
    (job,) = server.conductor.jobs
    assert job.store.partition_sizes() == {}


def test_what_a_lost_worker_had_sent_is_not_in_the_results(server):
    lost, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    output = encode_flush({3: encode_segment(["k"], [1])})
    lost.send(Frame(OUTPUT, output, *lost.heard("assign")[0][0].lane))
    lost.link.close("killed")
    settle()
    worker = Peer(server, "worker")
    worker.finish(worker.heard("assign")[0], output)
    (reduce,) = worker.heard("assign")[1:]
    assert reduce[1]["parts"] == [[3, len(encode_segment(["k"], [1]))]]


def test_a_setup_that_fails_is_told_and_a_death_in_it_is_a_death(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit(setup_timeout=5.0)
    driver.send_batch(1)
    failure = {"kind": "exception", "function": "setupfn", "error": "OSError: no", "worker": "w"}
    for has_died in (None, True, None):
        lane = worker.heard("assign")[-1][0].lane
        worker.say("unprepared", *lane, failure=failure, died=has_died)
        worker.say("unprepared", *lane, failure=failure, died=has_died)  # late: it is over
    ((_, notice),) = driver.heard("notice")
    assert notice["text"].startswith("setupfn on h/1: OSError: no; tried again on ")
    ((_, death),) = driver.heard("died")
    assert (death["failure"]["outcome"], "task" in death["failure"]) == ("retried", False)
    ((_, end),) = driver.heard("job_failed")
    assert (end["failure"]["function"], end["failure"]["error"]) == ("setupfn", "OSError: no")
    assert len(worker.heard("assign")) == 3


def test_of_an_attempt_one_notice_of_each_kind_goes_on(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    lane = worker.heard("assign")[0][0].lane
    for text in ("one", "two"):
        worker.say("notice", *lane, text=text)
        worker.say("notice", *lane, text=text, once="x" * 5000)
    told = [(message["text"], "once" in message) for _, message in driver.heard("notice")]
    assert told == [("one", False), ("one", True)]


@pytest.mark.parametrize("event", ["failed", "died", "unprepared"])
@pytest.mark.parametrize("failure", ['{"error":1e999}', '{"x":["%s"]}' % ("€" * 80_000)])
def test_a_failure_that_cannot_be_told_as_it_came_ends_its_job_all_the_same(server, event, failure):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    for _ in range(3):  # as often as executors may die
        message = b'{"type":"%s","failure":%s}' % (event.encode(), failure.encode())
        worker.send(Frame(CONTROL, message, *worker.heard("assign")[-1][0].lane))
    assert driver.heard("job_failed")


@pytest.mark.parametrize("memory_bytes", [0, 10**8], ids=["on disk", "in memory"])
def test_results_that_their_driver_did_not_take_leave_nothing(memory_bytes):
    server = ServerRole("test", memory_bytes=memory_bytes)
    worker, driver = Peer(server, "worker", slots=2), Peer(server, "driver")
    driver.submit(partitions=64)
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    (job,) = server.conductor.jobs
    job.store._run = lambda function, *args: function(*args)
    worker.finish(worker.heard("assign")[0], encode_flush({p: encode_segment(["k"], [1]) for p in (1, 2)}))
    for frame, message in worker.heard("assign")[1:]:
        large = encode_flush({p: encode_segment(["k"], ["v" * RESULT_WINDOW]) for p, _ in message["parts"]})
        for chunk in split_payload(OUTPUT, large, *frame.lane):  # one by one, so that credit comes in between
            worker.send(chunk)
        done = {"size": len(large), "records": 1, "items": 1, "seconds": 0, "groups": 1}
        worker.say("done", *frame.lane, in_lane=True, **done)
    assert driver.heard("results")  # on its way, and waiting for credit; others wait for their turn
    assert not driver.heard("job_done")
    driver.link.close("killed")
    settle()
    assert server.idle.is_set()
    assert server.conductor.jobs.memory.used_bytes == 0
    assert job.store._spill is None
    server.stop("the test is over")


def test_output_beyond_its_window_closes_the_link():
    server = ServerRole("test", memory_bytes=0)  # so that nothing is granted before the disk has taken it
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    (job,) = server.conductor.jobs
    job.store._run = lambda function, *args: gevent.event.Event().wait()
    (frame, _) = worker.heard("assign")[0]
    begin = struct.pack("<4sIIIQ", b"MMGF", 1, 3, 1, 2 * OUTPUT_WINDOW)
    worker.send(*split_payload(OUTPUT, begin.ljust(OUTPUT_WINDOW, b"."), *frame.lane))
    assert worker.closed is None
    worker.send(Frame(OUTPUT, b"1", *frame.lane))
    assert worker.closed
    server.stop("the test is over")


def test_what_is_small_comes_and_goes_in_the_messages_that_announce_it(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    data = encode_items([(1, 1)])
    driver.say("batch", 1, 1, in_lane=True, items=1, size=len(data), weight=1, inline=data)
    driver.say("input_end", 1, batches=1)
    ((frame, assign),) = worker.heard("assign")
    assert assign["inline"] == data
    output = encode_flush({3: encode_segment(["k"], [1])})
    done = {"size": len(output), "records": 1, "items": 1, "seconds": 0, "groups": 1, "inline": output}
    worker.say("done", *frame.lane, in_lane=True, **done)
    assert worker.heard("assign")[1:]
    assert not [f for f in worker.frames if f.kind == INPUT and f.attempt == frame.attempt]
    assert server.conductor.jobs.intake.held_bytes == 0


def test_a_batch_of_more_than_a_message_may_carry_follows_its_attempt(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1, data=bytes(MAX_INLINE_BYTES + 1))
    ((_, assign),) = worker.heard("assign")
    assert "inline" not in assign
    assert (
        sum(len(f.payload) for f in worker.frames if f.kind == INPUT)
        == assign["size"]
        == MAX_INLINE_BYTES + 1
    )


def test_output_in_a_done_waits_for_the_disk_like_any_other_and_needs_no_credit():
    server = ServerRole("test", memory_bytes=0)
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.say("input_end", 1, batches=1)
    (job,) = server.conductor.jobs
    disk = gevent.event.Event()
    job.store._run = lambda function, *args: (disk.wait(), function(*args))[1]
    (frame, _) = worker.heard("assign")[0]
    values = ["v" * (OUTPUT_WINDOW - 500)]
    output = encode_flush({3: encode_segment(["k"], values)})
    output += encode_flush({4: encode_segment(["l"], ["v" * 1000])})
    first, last = output[:OUTPUT_WINDOW], output[OUTPUT_WINDOW:]
    worker.send(*split_payload(OUTPUT, first, *frame.lane))
    done = {"size": len(output), "records": 1, "items": 1, "seconds": 0, "groups": 1, "inline": last}
    for _ in range(2):  # again, which changes nothing
        worker.say("done", *frame.lane, in_lane=True, **done)
    assert worker.closed is None
    assert len(worker.heard("assign")) == 1
    disk.set()
    settle()
    assert sorted(p for _, message in worker.heard("assign")[1:] for p, _ in message["parts"]) == [3, 4]
    server.stop("the test is over")


def test_a_done_that_lies_about_its_output_closes_the_link_and_breaks_no_job():
    server = ServerRole("test", memory_bytes=0)
    liar, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    (job,) = server.conductor.jobs
    stage = job.store.stage

    def stage_without_room(attempt, chunk):
        is_staged = stage(attempt, chunk)
        server.conductor.jobs.memory.limit_bytes = (
            10**6
        )  # others gave some back before the disk was written to
        return is_staged

    job.store.stage = stage_without_room
    (frame, _) = liar.heard("assign")[0]
    output = encode_flush({3: encode_segment(["k"], [1])})
    done = {"size": 1, "records": 1, "items": 1, "seconds": 0, "groups": 1, "inline": output}
    liar.say("done", *frame.lane, in_lane=True, **done)
    assert liar.closed
    assert not driver.heard("job_failed")
    assert job in server.conductor.jobs
    server.stop("the test is over")


def test_more_of_a_batch_than_was_announced_closes_its_driver(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.say("batch", 1, 1, in_lane=True, items=1, size=10, weight=1)
    driver.send(Frame(BATCH, bytes(11), 1, 1))
    assert driver.closed
    assert not worker.heard("assign")
    assert worker.closed is None


def test_a_job_submitted_twice_closes_its_driver(server):
    driver, other = Peer(server, "driver"), Peer(server, "driver")
    driver.submit(2)
    driver.submit(2)
    assert driver.closed
    other.submit(2)
    assert other.heard("accepted")


def test_the_jobs_of_a_driver_that_is_gone_leave_nothing(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    (assign,) = worker.heard("assign")
    worker.send(Frame(OUTPUT, encode_flush({3: encode_segment(["k"], [1])}), *assign[0].lane))
    assert server.conductor.jobs.memory.used_bytes
    driver.link.close("killed")
    settle()
    assert worker.heard("revoke")
    assert worker.heard("job_end")
    assert server.idle.is_set()
    assert server.conductor.jobs.memory.used_bytes == 0


@pytest.mark.parametrize("task_count", [1, 3, 8, 100])
def test_partitions_are_cut_into_tasks_of_like_size(task_count):
    sizes = {p: 100 + p for p in range(32)}
    groups = cut_partitions(sizes, task_count)
    assert sorted(p for group in groups for p in group) == sorted(sizes)
    assert len(groups) == min(32, task_count) or abs(len(groups) - task_count) <= 1
    assert cut_partitions({}, task_count) == []


@pytest.mark.parametrize("package", ["engine/server", "engine/scheduler"])
def test_no_event_of_the_scheduler_is_found_by_its_name(package):
    """Whoever looks for the callers of an event finds them all."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in (Path(mmgevent.__file__).parent / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "setattr", "attrgetter", "methodcaller")
    ]
    assert found == []


def lend(server, role, **fields):
    """Return the played worker of a link whose peer has proved this role."""
    worker = Peer(server, role, hello=False, is_local=False)
    versions = {"protocol": PROTOCOL, "python": PYTHON_VERSION, "dill": dill_version(), "version": "1"}
    worker.say("hello", role="worker", host="h", pid=1, **versions, **{"slots": 1, **fields})
    return worker


def test_a_lender_works_and_offers_no_functions(server):
    assert lend(server, "worker", offers=["f"]).heard("hello")
    assert lend(server, "lender").heard("hello")
    lender = lend(server, "lender", offers=["f"])
    assert lender.closed
    assert len(server.conductor.workers) == 2


def test_a_lender_sends_no_user_messages(server):
    driver = Peer(server, "driver")
    driver.say("watch")
    lend(server, "worker").say("tell", data="eA==")
    lender = lend(server, "lender")
    lender.say("tell", data="eQ==")
    assert lender.closed
    assert [message["data"] for _, message in driver.heard("tell")] == ["eA=="]


def test_a_lender_is_no_driver_whatever_its_hello_says(server):
    lender = Peer(server, "lender", hello=False)
    lender.say(
        "hello",
        role="driver",
        protocol=PROTOCOL,
        python=PYTHON_VERSION,
        dill="x",
        version="1",
        host="h",
        pid=1,
    )
    assert lender.closed
    assert not lender.heard("hello")
