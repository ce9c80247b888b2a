"""server: whatever one peer sends hurts at most that peer or its own job; hand-made peers over real links."""

import gevent
import pytest

from mmgevent.net.link import local_pair
from mmgevent.records import encode_flush, encode_items, encode_segment
from mmgevent.server import Server
from mmgevent.server.partitioning import cut_partitions
from mmgevent.versions import PYTHON_VERSION
from mmgevent.wire.frames import BATCH, CODE, CONTROL, INPUT, OUTPUT, Frame, split_payload
from mmgevent.wire.messages import PROTOCOL, control, decode_message
from mmgevent.wire.streams import grant_frame


def settle():
    """Let every greenlet run until none has anything to do."""
    for _ in range(3):
        gevent.idle()


class Peer:
    """The other end of a link of the server, played by the test."""

    def __init__(self, server, role, slots=1, hello=True):
        self.frames, self.messages, self.closed = [], [], None
        ours, self.link = local_pair(f"test {role}")
        server.attach(ours, role, is_local=True)
        self.link.start(self._on_frame, self._on_close)
        if hello:
            fields = {"slots": slots} if role == "worker" else {}
            self.say(
                "hello",
                role=role,
                protocol=PROTOCOL,
                python=PYTHON_VERSION,
                dill="x",
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

    def submit(self, job=1, **options):
        self.say("submit", job, name="t", options=options, code_bytes=1, fingerprint="f")
        self.send(Frame(CODE, b"c", job))

    def send_batch(self, number, items=1, job=1, data=None, **fields):
        data = encode_items([(n, n) for n in range(items)]) if data is None else data
        fields = {"weight": len(data), **fields}
        self.say("batch", job, number, in_lane=True, items=items, size=len(data), **fields)
        self.send(*split_payload(BATCH, data, job, number))

    def finish(self, assign, output=b"", seconds=0.1):
        frame, _ = assign
        self.send(*split_payload(OUTPUT, output, *frame.lane))
        done = {"size": len(output), "records": 1, "items": 1, "seconds": seconds, "groups": 1}
        self.say("done", *frame.lane, in_lane=True, **done)


@pytest.fixture
def server():
    server = Server("test", memory_bytes=10**8)
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
    driver.send_batch(1, items=2, data=b"r" * 100)
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
        assert came == message["size"]


@pytest.mark.parametrize(
    ("items", "size", "number"), [(3_000_000, 10, 1), (0, 10, 1), (1, 2**31, 1), (1, 10, 10_000)]
)
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


def test_data_frames_without_data_close_their_link(server):
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    frame, _ = worker.heard("assign")[0]
    worker.send(Frame(OUTPUT, b"", *frame.lane))
    assert worker.closed
    assert driver.closed is None


def test_done_waits_for_what_the_disk_has_not_taken():
    server = Server("test", memory_bytes=0)
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    driver.send_batch(2)
    (job,) = server._jobs.values()
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


def test_output_after_done_closes_its_link_while_the_disk_has_not_taken_what_came_before():
    server = Server("test", memory_bytes=0)
    worker, driver = Peer(server, "worker"), Peer(server, "driver")
    driver.submit()
    driver.send_batch(1)
    (job,) = server._jobs.values()
    disk = gevent.event.Event()
    job.store._run = lambda function, *args: disk.wait()
    output = encode_flush({0: encode_segment([1], [2])})
    assign = worker.heard("assign")[0]
    worker.finish(assign, output)
    worker.send(*split_payload(OUTPUT, output[:10], *assign[0].lane))
    assert worker.closed
    assert server.has_job(job)
    disk.set()
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


@pytest.mark.parametrize("task_count", [1, 3, 8, 100])
def test_partitions_are_cut_into_tasks_of_like_size(task_count):
    sizes = {p: 100 + p for p in range(32)}
    groups = cut_partitions(sizes, task_count)
    assert sorted(p for group in groups for p in group) == sorted(sizes)
    assert len(groups) == min(32, task_count) or abs(len(groups) - task_count) <= 1
    assert cut_partitions({}, task_count) == []
