"""Many peers, slow peers, peers that go without a word: bounded memory, bounded time, and the right answer.

What is asserted of memory are bounds that do not depend on how much data there is, far below it.
"""

import asyncio
import contextlib
import hashlib
import random
import resource
import threading
import time
from pathlib import Path

import psutil
import pytest

import mmgevent as mmg
from mmgevent._speedups import scatter
from mmgevent.access.handshake import ClientHandshake, derive_key
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.tasks.records import decode_items, encode_flush, encode_items, encode_segment
from mmgevent.wire.frames import BATCH, CODE, GRANT, HEARTBEAT, Decoder, Frame
from mmgevent.wire.frames import split_payload as cut
from mmgevent.wire.lanes import FIRST_BATCH_WINDOW, granted_bytes
from mmgevent.wire.limits import MAX_CODE_BYTES
from mmgevent.wire.messages import control
from tests.oracle import plain_mapreduce
from tests.trust.raw_peer import (
    PASSWORD,
    PATIENCE_S,
    RawDriver,
    RawWorker,
    client_context,
    connected,
    hello_of,
    running_server,
    running_worker,
    wait_until,
)

MIB = 1024 * 1024
ITEMS = [(n, n * n) for n in range(40)]

#: of a server without data: interpreter, gevent, TLS
EMPTY_BYTES = 60 * MIB
#: seconds until two thousand that join at once are served: 6 on a quiet machine, ten times as many beside a load
CROWD_S = 300


def spread(key, value):
    for digit in str(value):
        yield digit, value


def add(digit, values):
    return sum(values)


EXPECTED = plain_mapreduce(ITEMS, spread, add)


@pytest.fixture
def server(tmp_path):
    with running_server(tmp_path, "--memory", "64MiB") as server:
        yield server
        assert server.process.poll() is None
        assert "fault of our own" not in server.said
        assert "Traceback" not in server.said


@pytest.fixture
def cluster(server):
    with connected(server) as cluster:
        yield cluster


def peak_bytes(process):
    """Return the most memory that a process has had so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_quiet(process):
    """Does a process do next to nothing for a while?"""
    before = process.cpu_s()
    time.sleep(0.5)
    return process.cpu_s() - before <= 0.03


def spill_files(server):
    return [name for name in server.open_files() if name.endswith("(deleted)")]


def executors_of(worker):
    found = []
    for child in worker.psutil.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            if child.name() == "mmg-executor":
                found.append(child)
    return found


# Peers that do not read


def test_a_worker_that_never_reads_holds_up_no_job_and_costs_no_memory(server, cluster, tmp_path):
    items = [(n, bytes(MIB)) for n in range(60)]

    def measure(key, value):
        yield key % 4, len(value)

    with (
        running_worker(tmp_path, server),
        RawWorker(server.address, receive_bytes=4096) as hostile,
    ):
        wait_until(lambda: len(cluster.workers()) == 2)
        hostile.stay()
        assert cluster.run(mmg.Job(items, measure, add)) == dict.fromkeys(range(4), 15 * MIB)
        assert len(cluster.workers()) == 2  # it still is a worker
    assert peak_bytes(server) < EMPTY_BYTES + 200 * MIB


MANY_MIB = 1024  #: of results


def test_a_driver_that_never_reads_its_results_costs_the_memory_that_the_server_may_take(server, tmp_path):
    def inflate(key, value):
        yield key, bytes(8 * MIB)

    code = pack_functions(mmg.Job([], inflate).functions())
    with running_worker(tmp_path, server) as worker, RawDriver(server.address) as hostile:
        hostile.submit(code=code)
        hostile.wait_for("accepted")
        hostile.send_batch(1, encode_items([(n, n) for n in range(MANY_MIB // 8)]), items=MANY_MIB // 8)
        hostile.say("input_end", 1, batches=1)
        hostile.stay()
        wait_until(lambda: executors_of(worker))
        wait_until(lambda: not executors_of(worker), "the end of the last task", timeout_s=100)
        assert peak_bytes(server) < EMPTY_BYTES + 64 * MIB + 150 * MIB
        assert spill_files(server)
        hostile.reset()
        wait_until(lambda: not spill_files(server), "the end of the spill file")


# More input than the server may hold


def test_batches_beyond_the_bound_come_when_there_is_room_and_all_come(tmp_path):
    """Sixty batches of 4 MiB, for as many slots, on a server that may hold 16 MiB."""
    items = [(n, bytes(4 * MIB)) for n in range(60)]
    windows_bytes = len(items) * FIRST_BATCH_WINDOW

    def measure(key, value):
        yield key % 4, len(value)

    with running_server(tmp_path, "--memory", "16MiB") as server, connected(server) as cluster:
        with RawWorker(server.address, slots=64) as hoarder:  # so many batches are allowed, and none is done
            wait_until(lambda: len(cluster.workers()) == 1)
            handle = cluster.submit(mmg.Job(items, measure, add))
            hoarder.take()
            hoarder.stay()
            wait_until(lambda: handle.progress().running, "a batch at the worker")
            wait_until(lambda: is_quiet(server), "the end of what the server takes in")
            with running_worker(tmp_path, server):
                hoarder.leave()
                assert handle.result(PATIENCE_S) == dict.fromkeys(range(4), 15 * 4 * MIB)
        assert peak_bytes(server) < EMPTY_BYTES + windows_bytes + 16 * MIB + 40 * MIB


def test_a_job_that_fills_the_bound_keeps_no_other_from_its_input(tmp_path):
    big = [(n, bytes(6 * MIB)) for n in range(6)]
    with (
        running_server(tmp_path, "--memory", "16MiB") as server,
        connected(server) as cluster,
        RawDriver(server.address) as hoarder,
    ):
        hoarder.submit(needs=["what nobody offers"])
        hoarder.wait_for("accepted")
        for number in (1, 2):
            hoarder.announce(number, 20 * MIB)
            hoarder.send(*cut(BATCH, bytes(FIRST_BATCH_WINDOW), 1, number))
        sent = {1: FIRST_BATCH_WINDOW, 2: FIRST_BATCH_WINDOW}
        while sent[1] < 20 * MIB:  # of the oldest all may come, whatever is held
            grant = hoarder.next_frame()
            if grant.kind == GRANT:
                n_bytes = min(granted_bytes(grant), 20 * MIB - sent[grant.task])
                hoarder.send(*cut(BATCH, bytes(n_bytes), 1, grant.task))
                sent[grant.task] += n_bytes
        assert sent[2] < 14 * MIB  # of the other no more than there was room for
        with running_worker(tmp_path, server):
            job = mmg.Job(big, lambda key, value: [(key, len(value))], add)
            assert cluster.run(job) == dict.fromkeys(range(6), 6 * MIB)


def test_code_that_is_announced_and_never_sent_keeps_nobody_out(server):
    with RawDriver(server.address) as hoarder, RawDriver(server.address) as other:
        for job in range(1, 100):
            hoarder.submit(job, code=b"", code_bytes=MAX_CODE_BYTES)
        hoarder.say("list_workers")
        hoarder.wait_for("workers")  # so the jobs are there
        other.submit(1, code=b"code")
        assert other.wait_for("rejected", "accepted")[1]["type"] == "accepted"


def test_ten_drivers_with_all_the_jobs_they_may_have_leave_room_for_the_next(server):
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            hoarder = stack.enter_context(RawDriver(server.address))
            for job in range(1, 1000):
                hoarder.submit(job, needs=["what nobody offers"])
            hoarder.say("list_workers")
            hoarder.wait_for("workers")
        other = stack.enter_context(RawDriver(server.address))
        for job in range(1, 101):
            other.submit(job)
            assert other.wait_for("rejected", "accepted")[1]["type"] == "accepted"


# Peers that go


def test_a_driver_that_vanishes_takes_its_job_its_memory_and_its_spill_along(server, cluster, tmp_path):
    gate = str(tmp_path / "gate")

    def inflate(key, value):
        import os
        import time

        yield key, bytes(8 * MIB)
        while key == 29 and not os.path.exists(gate):
            time.sleep(0.01)

    code = pack_functions(mmg.Job([], inflate).functions())
    with running_worker(tmp_path, server) as worker:
        for vanished in range(1, 6):
            with RawDriver(server.address) as hostile:
                hostile.submit(code=code)
                hostile.wait_for("accepted")
                hostile.send_batch(1, encode_items([(n, n) for n in range(30)]), items=30)
                hostile.announce(2, 1000)  # and never comes
                wait_until(lambda: spill_files(server), "data on the disk")
                hostile.reset()
            wait_until(lambda n=vanished: server.said.count("the job was cancelled") == n)
            wait_until(lambda: not spill_files(server), "the end of the spill file")
            wait_until(lambda: not executors_of(worker), "the end of the executors")
        # The allocator keeps what it was given back for the next one: five cost no more than one.
        assert peak_bytes(server) < EMPTY_BYTES + 64 * MIB + 60 * MIB
        with RawDriver(server.address) as driver:  # and what they had is there for others: 24 MiB fit
            driver.submit(code=code)
            driver.send_batch(1, encode_items([(n, n) for n in range(3)]), items=3)
            driver.say("input_end", 1, batches=1)
            assert driver.read_results()["spilled_bytes"] == 0
        assert cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED


@pytest.mark.parametrize("seed", range(12))
def test_workers_reset_at_any_moment_lose_nothing(server_of_resets, seed):
    server, cluster = server_of_resets
    chance = random.Random(seed)
    with RawWorker(server.address, slots=chance.randint(1, 4)) as hostile:
        handle = cluster.submit(mmg.Job(ITEMS, spread, add))
        for _ in range(chance.randint(0, 3)):
            assign = next(hostile.messages("assign", "job_end"))
            if assign[1].get("phase") != "map":
                break
            output = map_as_told(hostile.read_input(assign), assign[1])
            if chance.random() < 0.5:
                hostile.put_out(assign, output[: chance.randrange(len(output) + 1)])
                break
            hostile.finish(assign, output)
        hostile.reset()
    assert handle.result(PATIENCE_S) == EXPECTED


@pytest.fixture(scope="module")
def server_of_resets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resets")
    with (
        running_server(folder) as server,
        running_worker(folder, server),
        connected(server) as cluster,
    ):
        yield server, cluster
        assert "fault of our own" not in server.said
        assert "Traceback" not in server.said


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


def test_drivers_reset_after_any_byte_leave_nothing(server_of_resets):
    server, cluster = server_of_resets
    job = mmg.Job(ITEMS, spread, add)
    code, batch = pack_functions(job.functions()), encode_items(ITEMS)
    about = {"name": "cut", "options": {}, "code_bytes": len(code), "fingerprint": "f"}
    announcement = control("batch", 1, 1, items=len(ITEMS), size=len(batch), weight=1)
    frames = [
        control("submit", 1, **about), *cut(CODE, code, 1), announcement, *cut(BATCH, batch, 1, 1),
        control("input_end", 1, batches=1),
    ]  # fmt: skip
    whole = b"".join(frame.encode() for frame in frames)
    chance = random.Random(1)
    for at in sorted({chance.randrange(len(whole) + 1) for _ in range(30)} | {0, len(whole)}):
        with RawDriver(server.address) as hostile:
            hostile.wait_for("hello")
            hostile.send_bytes(whole[:at])
            hostile.reset()
    assert cluster.run(job) == EXPECTED
    accepted = server.said.count("job accepted")
    wait_until(
        lambda: server.said.count("job failed") + server.said.count("job done") == accepted,
        "the end of all jobs",
    )
    assert not spill_files(server)


# Crowds


class Crowd:
    """Raw workers of one thread, which join all at once and try again until they are served."""

    def __init__(self, address, size):
        self._address = address
        self._size = size
        self._context = client_context()
        self.served = 0
        self.tries = 0
        self.began_s = self.ended_s = 0.0

    async def _try(self):
        self.tries += 1
        reader, writer = await asyncio.open_connection(
            *self._address, ssl=self._context, server_hostname="", ssl_handshake_timeout=PATIENCE_S
        )
        try:
            digest = hashlib.sha256(writer.get_extra_info("ssl_object").getpeercert(True)).digest()
            machine = ClientHandshake(derive_key(PASSWORD), digest, "worker")
            writer.write(machine.start())
            while machine.needed:
                writer.write(machine.feed(await reader.readexactly(machine.needed)))
            writer.write(hello_of("worker", slots=1).encode())
            decoder = Decoder()
            while decoder.next_frame() is None:
                decoder.feed(await reader.readexactly(1))
        except BaseException:
            writer.transport.abort()
            raise
        return writer

    async def _join(self, leave):
        while True:
            try:
                writer = await self._try()
            except (TimeoutError, OSError, EOFError):
                await asyncio.sleep(0.1)
                continue
            self.served += 1
            while not leave.is_set():
                writer.write(Frame(HEARTBEAT).encode())
                await asyncio.sleep(1)
            writer.transport.abort()
            return

    async def _join_all(self, leave):
        await asyncio.gather(*(self._join(leave) for _ in range(self._size)))

    def run(self, leave):
        asyncio.run(self._join_all(leave))


@pytest.fixture
def crowd_of(server):
    """Start a crowd in a thread of its own; it leaves at the end, or when its event is set."""
    started = []

    def start(size, address=server.address):
        crowd, leave = Crowd(address, size), threading.Event()
        thread = threading.Thread(target=crowd.run, args=(leave,))
        thread.start()
        started.append((thread, leave))
        return crowd, leave

    yield start
    for thread, leave in started:
        leave.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.timeout(CROWD_S + 120)
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_as_many_workers_as_join_at_once_are_all_served_and_hurt_nobody(
    server, cluster, crowd_of, tmp_path, count
):
    gate = str(tmp_path / "gate")

    def gated_add(digit, values):
        import os
        import time

        while not os.path.exists(gate):
            time.sleep(0.01)
        return sum(values)

    with running_worker(tmp_path, server):
        handle = cluster.submit(mmg.Job(ITEMS, spread, gated_add))
        wait_until(lambda: handle.progress().phase == "reduce")
        crowd, leave = crowd_of(count)
        wait_until(lambda: crowd.served == count, f"{count} workers served", timeout_s=CROWD_S)
        assert not handle.done()
        leave.set()
        Path(gate).touch()
        assert handle.result(PATIENCE_S) == EXPECTED
        assert server.said.count("worker left: vm") == 0


def test_with_64_descriptors_for_200_workers_the_server_waits_and_serves_all_in_the_end(tmp_path, crowd_of):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with running_server(tmp_path, preexec_fn=limit) as server:
        crowd, leave = crowd_of(200, server.address)
        wait_until(lambda: "cannot accept now" in server.said, "the last descriptor")
        before, began = server.cpu_s(), time.monotonic()
        wait_until(lambda: server.said.count("cannot accept now") > 20, "waiting for descriptors")
        assert server.cpu_s() - before < 0.3 * (time.monotonic() - began)  # a spin is 1
        leave.set()
        wait_until(lambda: crowd.served == 200, "200 workers served")
        with (
            running_worker(tmp_path, server),
            connected(server) as cluster,
        ):
            assert cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED
        assert "Traceback" not in server.said


# Who comes too late


def test_done_of_an_attempt_that_lost_is_late_and_changes_nothing(server, cluster, tmp_path):
    gate = tmp_path / "gate"
    path = str(gate)

    def gated_add(digit, values):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)
        return sum(values)

    with RawWorker(server.address) as hostile, running_worker(tmp_path, server):
        handle = cluster.submit(mmg.Job(ITEMS, spread, gated_add))
        assign = hostile.take()
        output = map_as_told(hostile.read_input(assign), assign[1])
        hostile.stay()
        revoked = next(
            f for f, m in hostile.messages("revoke") if f.lane == assign[0].lane
        )  # by its duplicate
        assert revoked is not None
        hostile.finish(assign, output)
        hostile.say("failed", *assign[0].lane, failure={"error": "late"})
        gate.touch()
        hostile.leave()
        assert handle.result(PATIENCE_S) == EXPECTED


def test_whoever_is_heard_of_again_after_it_was_declared_dead_hurts_nobody(server, cluster, tmp_path):
    with RawWorker(server.address) as hostile, running_worker(tmp_path, server):
        handle = cluster.submit(mmg.Job(ITEMS, spread, add, retransmit=0))
        assign = hostile.take()
        output = map_as_told(hostile.read_input(assign), assign[1])
        server.wait_said("silent for 15 s")
        assert handle.result(PATIENCE_S) == EXPECTED
        hostile.send(Frame(HEARTBEAT))
        hostile.finish(assign, output)
        hostile.wait_closed()
        assert cluster.run(mmg.Job(ITEMS, spread, add)) == EXPECTED
