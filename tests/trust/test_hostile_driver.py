"""A driver that has the password and breaks the rules: it loses its connection and its jobs, and nobody else anything."""

import struct
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.tasks.records import encode_items
from mmgevent.wire.frames import BATCH, CODE, CONTROL, GRANT, INPUT, MAX_PAYLOAD, OUTPUT, RESULT, Frame
from mmgevent.wire.frames import split_payload as cut
from mmgevent.wire.limits import MAX_BATCH_BYTES, MAX_CODE_BYTES
from mmgevent.wire.messages import PROTOCOL
from tests.oracle import plain_mapreduce
from tests.trust.raw_peer import RawDriver, connected, running_server, running_worker

ITEMS = [(n, n * n) for n in range(40)]


def spread(key, value):
    for digit in str(value):
        yield digit, value


def add(digit, values):
    return sum(values)


EXPECTED = plain_mapreduce(ITEMS, spread, add)
ONE_ITEM = encode_items([(1, 1)])

_HEADER = struct.Struct("<BBHIIIII")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server, a worker and an honest driver, for all tests: none of them may hurt it."""
    folder = tmp_path_factory.mktemp("place")
    with (
        running_server(folder) as server,
        running_worker(folder, server) as worker,
        connected(server) as cluster,
    ):
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster)
        assert server.process.poll() is None
        assert worker.process.poll() is None
        assert "fault of our own" not in server.said
        assert "Traceback" not in server.said + worker.said


def header(kind, length, flags=0):
    return _HEADER.pack(kind, flags, 0, length, 1, 1, 0, 0)


def raw(data):
    return lambda driver: driver.send_bytes(data)


def frames(*those):
    return lambda driver: driver.send(*those)


def announces(*args, **fields):
    return lambda driver: driver.announce(*args, **fields)


def says(type, job=1, **fields):
    return lambda driver: driver.say(type, job, **fields)


# What a driver does whose job 1 was accepted, and whose batch 1 is here.
FAULTS = {
    "an unknown kind": raw(header(77, 0)),
    "flags": raw(header(BATCH, 4, flags=128)),
    "a batch frame of one byte too many": raw(header(BATCH, MAX_PAYLOAD + 1)),
    "a message of 4 GiB": raw(header(CONTROL, 2**32 - 1)),
    "a grant of 1,000 bytes": raw(header(GRANT, 1000)),
    "a wrong checksum": raw(header(CODE, 8) + b"12345678"),
    "no JSON": frames(Frame(CONTROL, b"\0\0\0", 1)),
    "an unknown message": frames(Frame(CONTROL, b'{"type":"steal"}', 1)),
    "100,000 brackets": frames(Frame(CONTROL, b'{"type":' * 30_000, 1)),
    "what workers say": says("returned"),
    "what servers say": says("job_done", stats={}),
    "output": frames(Frame(OUTPUT, b"o", 1, 1, 1)),
    "input": frames(Frame(INPUT, b"i", 1, 1, 1)),
    "results": frames(Frame(RESULT, b"r", 1, 1)),
    "a batch of no job": announces(1, 10, job=9),
    "a batch of job 0": announces(1, 10, job=0),
    "the same job twice": lambda driver: driver.submit(1),
    "more code than there is": frames(Frame(CODE, b"more", 1)),
    "the same batch twice": announces(1, len(ONE_ITEM)),
    "a batch beyond what is allowed": announces(10_000, 10),
    "a batch without items": announces(2, 10, items=0),
    "a batch of more items than bytes": announces(2, 10, items=11),
    "more of a batch than was said": lambda driver: (
        driver.announce(2, 4),
        driver.send(Frame(BATCH, b"12345", 1, 2)),
    ),
    "a batch that was not announced": frames(Frame(BATCH, b"1234", 1, 3)),
    "batches in another order than announced": lambda driver: (
        driver.send(Frame(BATCH, ONE_ITEM, 1, 2)),
        driver.announce(2, len(ONE_ITEM)),
    ),
    "a batch of other bytes than it says": announces(2, 10, inline=ONE_ITEM),
    "the same batch twice, with its bytes": announces(1, len(ONE_ITEM), inline=ONE_ITEM),
    "a batch with more than a message may carry": frames(Frame(CONTROL, b'{"type":"batch"}\0' + bytes(20_000), 1, 2)),
    "a batch frame without data": lambda driver: (driver.announce(2, 4), driver.send(Frame(BATCH, b"", 1, 2))),
    "the end of the input twice": lambda driver: (
        driver.say("input_end", 1, batches=1),
        driver.say("input_end", 1, batches=1),
    ),
    "a batch after the end of the input": lambda driver: (
        driver.say("input_end", 1, batches=1),
        driver.send_batch(2, ONE_ITEM),
    ),
    "a second hello": says("hello", role="driver", protocol=PROTOCOL, python="3", dill="1", version="1", host="h", pid=1),
    "half a batch, and the end": lambda driver: (
        driver.announce(2, 1000),
        driver.send_bytes(Frame(BATCH, bytes(900), 1, 2).encode()[:-5]),
        driver.leave(),
    ),
    "half a batch, and a reset": lambda driver: (
        driver.announce(2, 1000),
        driver.send(Frame(BATCH, bytes(900), 1, 2)),
        driver.reset(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_only_the_connection_of_the_fault_is_closed_and_its_job_ends(place, fault):
    with RawDriver(place.server.address) as hostile:
        hostile.submit(needs=["what nobody offers"])
        hostile.wait_for("accepted")
        hostile.send_batch(1, ONE_ITEM)
        FAULTS[fault](hostile)
        if hostile.sock.fileno() >= 0:
            hostile.wait_closed()
        assert place.cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


def test_a_first_frame_that_is_no_hello_closes_the_connection(place):
    with RawDriver(place.server.address, says_hello=False) as hostile:
        hostile.submit()
        hostile.wait_closed()
    assert place.cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


def test_a_role_that_was_not_proved_closes_the_connection(place):
    with RawDriver(place.server.address, says_hello=False) as hostile:
        hostile.say(
            "hello",
            role="worker",
            protocol=PROTOCOL,
            python="3",
            dill="1",
            version="1",
            host="h",
            pid=1,
            slots=8,
        )
        hostile.wait_closed()
    assert len(place.cluster.workers()) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no segment at all", id="no segment"),
        pytest.param(ONE_ITEM[:-1] + bytes([ONE_ITEM[-1] ^ 1]), id="wrong checksum"),
        pytest.param(ONE_ITEM[:-3], id="cut"),
    ],
)
def test_batches_that_do_not_decode_fail_their_own_job_cleanly(place, data):
    """The server does not look into them; an executor does, and says so."""
    job = mmg.Job(ITEMS, spread, add)
    with RawDriver(place.server.address) as hostile:
        hostile.submit(code=code_of(job), partitions=8)
        hostile.send_batch(1, data)
        hostile.say("input_end", 1, batches=1)
        _, message = hostile.wait_for("job_failed", "job_done")
        assert message["type"] == "job_failed"
        assert message["failure"]["kind"] in ("record", "internal", "exception")
    assert place.cluster.run(job) == EXPECTED


@pytest.mark.parametrize(
    "code", [b"", b"\x80\x05no code", bytes(3_000_000)], ids=["none", "no pickle", "zeros"]
)
def test_code_that_is_none_fails_its_own_job_cleanly(place, code):
    with RawDriver(place.server.address) as hostile:
        hostile.submit(code=code)
        hostile.send_batch(1, ONE_ITEM)
        hostile.say("input_end", 1, batches=1)
        _, message = hostile.wait_for("job_failed", "job_done")
        assert message["type"] == "job_failed"
    assert place.cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


def code_of(job):
    from mmgevent.job.shipping.pack import pack_functions

    return pack_functions(job.functions())


def test_what_is_too_large_ends_its_own_job_and_no_other_of_its_driver(place):
    with RawDriver(place.server.address) as hostile:
        hostile.submit(1, needs=["what nobody offers"])
        hostile.submit(2, code_bytes=MAX_CODE_BYTES + 1)
        frame, message = hostile.wait_for("rejected", "job_failed")
        assert (frame.job, message["type"]) == (2, "rejected")
        assert f"{MAX_CODE_BYTES + 1:,} bytes were announced, 1 more than" in message["error"]
        hostile.submit(3, needs=["what nobody offers"])
        hostile.announce(1, MAX_BATCH_BYTES + 1, job=3)
        hostile.send(*cut(BATCH, bytes(60_000), 3, 1))
        frame, message = hostile.wait_for("job_failed")
        assert frame.job == 3
        assert f"{MAX_BATCH_BYTES + 1:,} bytes were announced, 1 more than" in message["failure"]["error"]
        hostile.send_batch(1, ONE_ITEM)
        hostile.say("cancel", 1, reason="enough")
        hostile.say("list_workers")
        hostile.wait_for("workers")
    assert place.cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


def test_results_that_are_kept_are_taken_once_and_only_whole(place):
    code = code_of(mmg.Job(ITEMS, spread, add))

    def follow(hostile, number, source):
        fields = {"name": "raw", "options": {"partitions": 8}, "code_bytes": len(code), "fingerprint": "f"}
        hostile.say("submit", number, source=source, **fields)
        hostile.send(*cut(CODE, code, number))

    with RawDriver(place.server.address) as hostile:
        follow(hostile, 1, 7)
        _, message = hostile.wait_for("rejected", "accepted")
        assert message["again"]
        keep = {"name": "raw", "options": {"partitions": 8}, "code_bytes": len(code), "fingerprint": "f"}
        hostile.say("submit", 2, keep=True, **keep)
        follow(hostile, 3, 2)  # not whole
        frame, message = hostile.wait_for("rejected")
        assert (frame.job, message["again"]) == (3, True)
        hostile.send(*cut(CODE, code, 2))
        hostile.wait_for("accepted")
        hostile.send_batch(1, encode_items([("x", 11)]), 2)
        hostile.say("input_end", 2, batches=1)
        assert hostile.wait_for("stage_done")[1]["stats"]["records"] == 1
        follow(hostile, 4, 2)
        follow(hostile, 5, 2)  # taken
        frame, message = hostile.wait_for("rejected")
        assert (frame.job, message["again"]) == (5, True)
        hostile.say("input_end", 4, batches=9)  # it is not the driver's to end
        assert hostile.read_results()["records"] == 1
    with RawDriver(place.server.address) as hostile:
        hostile.say("submit", 1, keep=True, **keep)
        hostile.send(*cut(CODE, code, 1))
        hostile.wait_for("accepted")
        hostile.say("input_end", 1, batches=0)
        hostile.wait_for("stage_done")
        follow(hostile, 2, 1)
        hostile.announce(1, 10, job=2)
        hostile.wait_closed()
    assert place.cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


def test_a_job_that_was_cancelled_takes_what_is_late(place):
    with RawDriver(place.server.address) as hostile:
        hostile.submit(needs=["nothing that there is"])
        hostile.wait_for("accepted")
        hostile.say("cancel", 1, reason="changed my mind")
        hostile.send_batch(1, ONE_ITEM)
        hostile.send(*cut(BATCH, bytes(600_000), 1, 7), Frame(CODE, b"c", 1))
        hostile.say("input_end", 1, batches=1)
        hostile.say("cancel", 1, reason="again")
        hostile.say("list_workers")
        hostile.wait_for("workers")  # it is served all the same
