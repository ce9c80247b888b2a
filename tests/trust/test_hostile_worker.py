"""A worker that has the password and breaks every rule of the wire: it loses its connection, and the job loses nothing.

Each test lets a raw worker take tasks of a real job while the honest worker waits at a gate, misbehave, and be cut;
then the gate opens. What the honest worker makes of it must be what plain Python makes of it.
"""

import itertools
import struct
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent._speedups import scatter
from mmgevent.driver import notices as notices_of_jobs
from mmgevent.tasks.records import decode_items, encode_flush, encode_segment
from mmgevent.wire.flushes import FLUSH_HEAD, FLUSH_MAGIC, FLUSH_ROW
from mmgevent.wire.frames import BATCH, CODE, CONTROL, GRANT, HEARTBEAT, MAX_PAYLOAD, OUTPUT, RESULT, Frame
from mmgevent.wire.limits import MAX_PARTITIONS
from mmgevent.wire.messages import PROTOCOL
from mmgevent.wire.shapes import MAX_INLINE_BYTES
from tests.oracle import plain_mapreduce
from tests.trust.raw_peer import (
    PATIENCE_S,
    RawWorker,
    connected,
    flush_of,
    running_server,
    running_worker,
    wait_until,
)

ITEMS = [(n, n * n) for n in range(40)]


def spread(key, value):
    for digit in str(value):
        yield digit, value


EXPECTED = plain_mapreduce(ITEMS, spread, lambda key, values: sum(values))

_HEADER = struct.Struct("<BBHIIIII")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server, an honest worker with two slots, and a driver's cluster, for all tests: none of them may hurt it."""
    folder = tmp_path_factory.mktemp("place")
    with (
        running_server(folder) as server,
        running_worker(folder, server) as worker,
        connected(server) as cluster,
    ):
        (honest,) = cluster.workers()
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster, honest=honest)
        assert server.process.poll() is None
        assert worker.process.poll() is None
        assert "fault of our own" not in server.said
        assert "Traceback" not in server.said + worker.said


@pytest.fixture
def gate(tmp_path):
    """Where the honest worker waits; `gate.touch()` lets it go on."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()  # also after a test that failed


def submit(place, gate, phase="map", on_notice=None, items=ITEMS, **options):
    """Hand in a job whose tasks of this phase wait at the gate, and so come to whoever else is there."""
    path = str(gate)

    def wait_at_gate():
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.005)

    def gated_spread(key, value):
        if phase == "map":
            wait_at_gate()
        yield from spread(key, value)

    def gated_sum(key, values):
        if phase == "reduce":
            wait_at_gate()
        return sum(values)

    return place.cluster.submit(mmg.Job(items, gated_spread, gated_sum, **options), on_notice=on_notice)


def is_alone(place):
    return place.cluster.workers() == [place.honest]


def header(kind, length, lane, flags=0, reserved=0, checksum=0):
    return _HEADER.pack(kind, flags, reserved, length, *lane, checksum)


def flip(frame, at):
    """Return a frame's bytes with one bit changed."""
    data = bytearray(frame.encode())
    data[at] ^= 1
    return bytes(data)


def table(*rows):
    """Return the table of a flush that says what it likes: (partition, records, bytes) rows."""
    return FLUSH_HEAD.pack(FLUSH_MAGIC, len(rows)) + b"".join(FLUSH_ROW.pack(*row) for row in rows)


def raw(data):
    return lambda peer, assign: peer.send_bytes(data)


def of_lane(build):
    """A fault of bytes that are about the attempt."""
    return lambda peer, assign: peer.send_bytes(build(assign[0].lane))


def output(data):
    return lambda peer, assign: peer.put_out(assign, data)


def says(type, **fields):
    return lambda peer, assign: peer.say(type, *assign[0].lane, **fields)


def json_text(text):
    return of_lane(lambda lane: Frame(CONTROL, text, *lane).encode())


# What the raw worker does with an attempt, and what the server says of it.
FRAMES = {
    "an unknown kind": (of_lane(lambda lane: header(9, 0, lane)), "not a frame: kind 9"),
    "kind 0": (raw(bytes(24)), "not a frame: kind 0"),
    "flags": (of_lane(lambda lane: header(OUTPUT, 1, lane, flags=1)), "flags 1"),
    "reserved bits": (of_lane(lambda lane: header(OUTPUT, 1, lane, reserved=7)), "reserved 7"),
    "output of one byte too many": (
        of_lane(lambda lane: header(OUTPUT, MAX_PAYLOAD + 1, lane)),
        f"OUTPUT frame of {MAX_PAYLOAD + 1} bytes",
    ),
    "a message of 4 GiB": (of_lane(lambda lane: header(CONTROL, 2**32 - 1, lane)), "frame of 4294967295"),
    "a heartbeat with a payload": (of_lane(lambda lane: header(HEARTBEAT, 1, lane)), "HEARTBEAT frame of 1"),
    "half a grant": (of_lane(lambda lane: header(GRANT, 2, lane)), "GRANT frame of 2 bytes"),
    "a flipped payload": (
        of_lane(lambda lane: flip(Frame(OUTPUT, flush_of([0]), *lane), -1)),
        "wrong checksum",
    ),
    "a flipped attempt": (
        of_lane(lambda lane: flip(Frame(OUTPUT, flush_of([0]), *lane), 16)),
        "wrong checksum",
    ),
    "an HTTP request": (raw(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"), "not a frame"),
    "no JSON": (json_text(b"{"), "no JSON"),
    "no object": (json_text(b"[]"), "no JSON object"),
    "no UTF-8": (json_text(b'{"type":"\xff"}'), "no JSON"),
    "NaN": (json_text(b'{"type":"done","seconds":NaN}'), "NaN is no JSON"),
    "100,000 brackets": (json_text(b"[" * 100_000), "no JSON"),
    "a number of 10,000 digits": (json_text(b'{"type":"kept","x":' + b"9" * 10_000 + b"}"), "no JSON"),
    "an unknown message": (json_text(b'{"type":"stop"}'), "unknown message type 'stop'"),
    "an unknown field": (json_text(b'{"type":"returned","why":1}'), "unknown field 'why'"),
    "a missing field": (json_text(b'{"type":"done","size":0}'), "lacks"),
    "a wrong type": (json_text(b'{"type":"died","failure":[]}'), "must be an object"),
    "a second hello": (
        lambda peer, assign: peer.say(
            "hello", role="worker", protocol=PROTOCOL, python="3", dill="1", version="1", host="h", pid=1
        ),
        "a worker does not send 'hello'",
    ),
    "what drivers say": (says("input_end", batches=0), "a worker does not send 'input_end'"),
    "what servers say": (says("revoke"), "a worker does not send 'revoke'"),
    "a batch": (of_lane(lambda lane: Frame(BATCH, b"b", *lane).encode()), "a worker does not send"),
    "code": (of_lane(lambda lane: Frame(CODE, b"c", *lane).encode()), "a worker does not send"),
    "results": (of_lane(lambda lane: Frame(RESULT, b"r", *lane).encode()), "a worker does not send"),
    "output of nothing": (of_lane(lambda lane: Frame(OUTPUT, b"", *lane).encode()), "without data"),
    "output that is no flush": (output(b"records, honestly"), "no sequence of flushes"),
    "a table of too many partitions": (
        output(FLUSH_HEAD.pack(FLUSH_MAGIC, MAX_PARTITIONS + 2)),
        "no sequence of flushes",
    ),
    "a table out of order": (output(table((3, 1, 9), (2, 1, 9)) + bytes(18)), "out of order"),
    "a table that names one twice": (output(table((3, 1, 9), (3, 1, 9)) + bytes(18)), "out of order"),
    "a partition that no job has": (output(table((MAX_PARTITIONS + 1, 1, 9)) + bytes(9)), "out of range"),
    "a segment of 2^60 bytes": (output(table((0, 1, 2**60))), "out of range"),
    "done before its output": (lambda peer, assign: peer.done(assign, 4096), "did not arrive whole"),
    "done of less than it sent": (
        lambda peer, assign: (peer.put_out(assign, flush_of([0])), peer.done(assign, 1)),
        "did not arrive whole",
    ),
    "done in the middle of a flush": (
        lambda peer, assign: peer.finish(assign, flush_of([0])[:-1]),
        "did not arrive whole",
    ),
    "a partition that this job has not": (
        lambda peer, assign: peer.finish(assign, flush_of([assign[1]["partitions"] + 1])),
        "partitions that are not its own",
    ),
    "done with other output than it says": (
        says("done", size=1, records=1, items=1, seconds=0.1, groups=1, inline=flush_of([0])),
        "did not arrive whole",
    ),
    "done with output that is no flush": (
        says("done", size=17, records=1, items=1, seconds=0.1, groups=1, inline=b"records, honestly"),
        "no sequence of flushes",
    ),
    "done with more than a message may carry": (
        json_text(b'{"type":"done"}\0' + bytes(MAX_INLINE_BYTES + 1)),
        "must be 1 to",
    ),
    "bytes where there are none": (json_text(b'{"type":"kept"}\0bytes'), "unknown field 'inline'"),
    "kept, when nobody asked": (says("kept"), "REFUSED cannot happen"),
    "half a frame, and the end": (
        lambda peer, assign: (
            peer.send_bytes(Frame(OUTPUT, flush_of([0]), *assign[0].lane).encode()[:-9]),
            peer.leave(),
        ),
        "in the middle of a frame",
    ),
    "half a header, and the end": (
        lambda peer, assign: (peer.send_bytes(bytes([OUTPUT]) * 1), peer.leave()),
        "in the middle of a frame",
    ),
    "all output but not done, and the end": (
        lambda peer, assign: (peer.put_out(assign, flush_of([0])), peer.leave()),
        "the peer closed the connection",
    ),
    "all output but not done, and a reset": (
        lambda peer, assign: (peer.put_out(assign, flush_of([0])), peer.reset()),
        "worker left: raw/1",
    ),
}


@pytest.mark.parametrize("fault", FRAMES)
def test_only_the_connection_of_the_fault_is_closed_and_its_tasks_are_done_elsewhere(place, gate, fault):
    misbehave, reason = FRAMES[fault]
    before = len(place.server.said)
    with RawWorker(place.server.address, slots=4) as hostile:
        handle = submit(place, gate)
        misbehave(hostile, hostile.take())
        wait_until(lambda: reason in place.server.said[before:], f"{reason!r} in the log")
        wait_until(lambda: is_alone(place), "the end of the raw worker")
        if hostile.sock.fileno() >= 0:
            hostile.wait_closed()
        assert not handle.done()
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED


def test_the_first_frame_must_be_a_hello(place, gate):
    with RawWorker(place.server.address, says_hello=False) as hostile:
        hostile.say("returned", 1, 1, 1)
        hostile.wait_closed()
    assert is_alone(place)


@pytest.mark.parametrize("slots", [0, 4097, 2**62])
def test_a_worker_of_impossible_slots_is_cut(place, slots):
    with RawWorker(place.server.address, slots=slots) as hostile:
        hostile.wait_closed()
    assert is_alone(place)


def test_frames_in_another_order_are_no_harm_or_the_end(place, gate):
    """Frames of one flush, turned round: the table does not come first."""
    data = table((0, 1, 3 * MAX_PAYLOAD)) + bytes(3 * MAX_PAYLOAD)
    with RawWorker(place.server.address, slots=4) as hostile:
        handle = submit(place, gate)
        assign = hostile.take()
        frames = [
            Frame(OUTPUT, data[at : at + MAX_PAYLOAD], *assign[0].lane)
            for at in range(0, len(data), MAX_PAYLOAD)
        ]
        hostile.send(*reversed(frames))
        hostile.wait_closed()
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED


@pytest.mark.parametrize("claim", ["output", "done", "failed", "returned"])
def test_nobody_speaks_for_the_attempt_of_another(place, gate, claim):
    with RawWorker(place.server.address, slots=2) as honest, RawWorker(place.server.address) as hostile:
        handle = submit(place, gate)
        assign = honest.take()
        hostile.take()
        if claim == "output":
            hostile.put_out(assign, flush_of([0]))
        elif claim == "done":
            hostile.done(assign, 0)
        elif claim == "failed":
            hostile.say("failed", *assign[0].lane, failure={"error": "says another"})
        else:
            hostile.say("returned", *assign[0].lane)
        hostile.wait_closed()
        place.server.wait_said("belongs to another worker")
        assert len(place.cluster.workers()) == 2  # the one that was spoken for is still there
        honest.leave()
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED


# Lies that are well formed: nobody can tell before the records are read.


def test_segments_that_do_not_decode_fail_the_job_cleanly_and_the_next_is_right(place, gate):
    segment = bytearray(encode_segment(["0"], [[1]], grouped=True))
    segment[-1] ^= 1
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate)
        hostile.finish(hostile.take(), encode_flush({0: bytes(segment)}))
        hostile.leave()
        gate.touch()
        with pytest.raises(mmg.JobError, match=r"damaged|checksum"):
            handle.result(PATIENCE_S)
    assert submit(place, gate).result(PATIENCE_S) == EXPECTED


def test_no_worker_fails_in_the_name_of_another(place, gate):
    """Its name is kept whatever else it says: a failure has a limited number of fields."""
    failure = {**{f"field{n}": n for n in range(20)}, "worker": place.honest.name, "error": "mine"}
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate, retries=0)
        hostile.done(hostile.take(), 0)  # from now on its failures count at once
        hostile.say("failed", *hostile.take()[0].lane, failure=failure, item=0)
        error = handle.exception(PATIENCE_S)
    assert error.worker == "raw/1"


def test_a_worker_that_returns_every_attempt_with_a_notice_does_not_flood_the_user(place, gate, monkeypatch):
    monkeypatch.setattr(notices_of_jobs, "MAX_NOTICES", 20)
    notices = []  # but for the server's own: that the worker is set aside
    with RawWorker(place.server.address, slots=4) as hostile:
        handle = submit(place, gate, on_notice=notices.append)
        for frame, _ in itertools.islice(hostile.messages("assign"), 100):
            hostile.say("notice", *frame.lane, text="wait")
            hostile.say("returned", *frame.lane)
        hostile.leave()
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED
    notices = [text for text in notices if "set aside" not in text]
    assert 18 <= notices.count("wait") <= 20
    assert notices[-1] == "there were 20 notices of workers; the next ones are not shown"
    assert len(notices) == notices.count("wait") + 1


def test_segments_shorter_than_a_segment_fail_the_job_cleanly(place, gate):
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate)
        hostile.finish(hostile.take(), table((0, 1, 5), (1, 1, 0)) + b"short")
        hostile.leave()
        gate.touch()
        with pytest.raises(mmg.JobError):
            handle.result(PATIENCE_S)
    assert submit(place, gate).result(PATIENCE_S) == EXPECTED


def test_results_of_partitions_of_another_task_are_refused(place, gate):
    """Else a key would be reduced twice, and the answer be wrong."""
    with RawWorker(place.server.address, slots=2) as hostile:
        handle = submit(place, gate, "reduce")
        first, second = hostile.take("reduce"), hostile.take("reduce")
        hostile.finish(first, flush_of([second[1]["parts"][0][0]]))
        hostile.wait_closed()
        place.server.wait_said("partitions that are not its own")
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED


def test_damaged_results_fail_the_job_cleanly(place, gate):
    segment = bytearray(encode_segment(["0"], [1]))
    segment[-1] ^= 1
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate, "reduce")
        assign = hostile.take("reduce")
        hostile.finish(assign, encode_flush({assign[1]["parts"][0][0]: bytes(segment)}))
        hostile.leave()
        gate.touch()
        with pytest.raises(mmg.JobError, match="results cannot be read"):
            handle.result(PATIENCE_S)
    assert submit(place, gate).result(PATIENCE_S) == EXPECTED


def test_a_wrong_number_of_records_in_a_table_changes_nothing(place, gate):
    """They are statistics: the segments are counted where they are decoded."""
    segment = encode_segment(["none of yours"], [[0]], grouped=True)
    rows = table((0, 2**32 - 1, len(segment)))
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate)
        hostile.finish(hostile.take(), rows + segment)
        hostile.leave()
        gate.touch()
        result = handle.result(PATIENCE_S)
    assert result.pop("none of yours") == 0  # what it put out counts, as it does from everybody


def test_done_counts_once_and_what_comes_after_it_is_late(place, gate):
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate)
        first = hostile.take()
        output = map_as_told(hostile.read_input(first), first[1])
        hostile.finish(first, output)
        hostile.done(first, len(output))
        hostile.finish(first, flush_of([1]))
        hostile.say("failed", *first[0].lane, failure={"error": "changed my mind"})
        hostile.say("kept", *first[0].lane)
        assert hostile.take()[0].attempt != first[0].attempt  # it is still a worker
        hostile.leave()
        gate.touch()
        assert handle.result(PATIENCE_S) == EXPECTED


def map_as_told(batch, assign):
    """Return the output of an honest worker."""
    groups = {}
    for key, value in decode_items(batch)[assign["lo"] : assign["hi"]]:
        for digit, number in spread(key, value):
            groups.setdefault(digit, []).append(number)
    parts, _ = scatter(groups, assign["partitions"])
    return encode_flush(
        {n: encode_segment(*part, grouped=True) for n, part in enumerate(parts) if part is not None}
    )
