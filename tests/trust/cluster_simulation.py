"""The server's own code between simulated drivers and workers, byte by byte, from one seed.

    $ python -m tests.trust.cluster_simulation SEED...

Real are the server with its peers, jobs, scheduler (audited) and store, the links' outboxes, windows and decoders, and
the tasks: what is mapped and reduced is encoded, staged, spilled, committed, read back and decoded as in a cluster.
Simulated are the carriers, the clock, the disk's thread pool, and whoever is at the other end.

Within a link bytes keep their order, as TCP has it; between links nothing does. A step moves a few bytes of one link, or
lets one worker finish what it runs, or brings a misfortune: a link is cut at whatever byte it is at, a byte of a frame is
changed, a peer stands still, workers come, leave and say things twice or too late, functions raise and executors die, a
driver vanishes, the server is lost and its drivers hand in again what they have not got. Then the misfortunes end, and every job has to: with
each record of plain Python once, values in the order of the items, and nothing left in the server.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import gevent

from mmgevent.engine.net.link import Link
from mmgevent.engine.server import attempts, batches, conductor, delivery, hosted, jobs, role
from mmgevent.engine.server.role import ServerRole
from mmgevent.engine.server.store import JobStore
from mmgevent.errors import ProtocolError
from mmgevent.job.functions import Functions
from mmgevent.tasks import records
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.run import run_map, run_reduce
from mmgevent.tasks.skipping import Skipping
from mmgevent.wire import failures
from mmgevent.wire.frames import (
    BATCH,
    CODE,
    CONTROL,
    GRANT,
    INPUT,
    OUTPUT,
    RESULT,
    Decoder,
    Frame,
    split_payload,
)
from mmgevent.wire.hello import PYTHON_VERSION
from mmgevent.wire.lanes import Outbox, ReceiveWindow, grant_frame, granted_bytes
from mmgevent.wire.messages import PROTOCOL, control, decode_message
from mmgevent.wire.positions import ALL
from mmgevent.wire.shapes import MAX_INLINE_BYTES
from tests.audit import AuditedScheduler
from tests.oracle import plain_mapreduce

#: steps after which a job that goes on never ends; the longest so far took a tenth
MAX_STEPS = 60_000
#: virtual seconds that pass when nothing else can happen
IDLE_S = 0.5
WINDOWS = {
    attempts: ("INPUT_WINDOW", "OUTPUT_WINDOW"),
    batches: ("FIRST_BATCH_WINDOW", "BATCH_WINDOW"),
    delivery: ("RESULT_WINDOW",),
    hosted: ("CODE_WINDOW",),
}

FUNCTIONS = Functions.of(
    lambda key, value: [(word, (key, n)) for n, word in enumerate(value)],
    None,
    lambda key, values: list(values),
)


class SimulatedLink(Link):
    """The server's end of a link whose bytes the simulation carries."""

    def __init__(self, name: str, cluster: Cluster):
        super().__init__(name)
        self._cluster = cluster
        self._decoder = Decoder()

    def push(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while not self.is_closed and (frame := self._decoder.next_frame()) is not None:
                self._deliver(frame)
        except ProtocolError as error:
            self._begin_close(str(error))

    def pull(self) -> bytes:
        frame = self._next_frame()
        return b"" if frame is None else frame.encode()

    def lose(self) -> None:
        self._begin_close("the link was cut")

    def waits_for_more(self) -> bool:
        """Whether it has half a frame."""
        return self._decoder.pending_bytes > 0

    def _start(self) -> None:
        pass

    def _wake(self) -> None:
        pass  # it is looked at before each step

    def _finish(self, flush_s: float) -> None:
        pass

    def _own_fault(self, error: Exception, at: object) -> str:
        self._cluster.faults.append(error)
        return super()._own_fault(error, at)


class Peer:
    """The other end of a link: a driver or a worker, as frames in and out."""

    def __init__(self, cluster: Cluster, role: str, **fields: Any):
        self.cluster = cluster
        self.outbox = Outbox()
        self.decoder = Decoder()
        self.windows: dict[tuple[int, int, int], ReceiveWindow] = {}
        self.is_gone = False
        self.stands_until = 0  # the step at which it moves again
        self.link = SimulatedLink(role, cluster)
        self.to_server, self.from_server = bytearray(), bytearray()
        cluster.server.attach(self.link, role, is_local=True)
        cluster.peers.append(self)
        who = {
            "protocol": PROTOCOL,
            "python": PYTHON_VERSION,
            "dill": "x",
            "version": "1",
            "host": "h",
            "pid": 1,
        }
        self.say("hello", role=role, **who, **fields)

    def say(self, type: str, *lane: int, **fields: Any) -> None:
        self.outbox.put(control(type, *lane, **fields))

    def say_in_lane(self, type: str, *lane: int, **fields: Any) -> None:
        self.outbox.put_in_lane(control(type, *lane, **fields))

    def send(self, kind: int, data: bytes, window_bytes: int, lane: tuple[int, int, int]) -> None:
        """Send bulk bytes in a lane that is open."""
        for frame in split_payload(kind, data, *lane):
            self.outbox.put_in_lane(frame)

    # the carrier

    def stands(self) -> bool:
        return self.cluster.step < self.stands_until

    def can_move(self) -> bool:
        return not self.stands() and bool(
            self.to_server or self.outbox or self.from_server or self.link._outbox
        )

    def waits_for_more(self) -> bool:
        """Whether one of the ends has half a frame, and nothing that would make it whole is on its way."""
        return not self.stands() and (self.decoder.pending_bytes > 0 or self.link.waits_for_more())

    def move(self, n_bytes: int, is_upwards: bool, flip: bool) -> None:
        """Carry up to so many bytes one way, with one bit of them changed if `flip`."""
        wire = self.to_server if is_upwards else self.from_server
        while len(wire) < n_bytes:
            more = self.pull() if is_upwards else self.link.pull()
            if not more:
                break
            wire += more
        data = bytearray(wire[:n_bytes])
        del wire[:n_bytes]
        if flip and data:
            data[self.cluster.random.randrange(len(data))] ^= 1 << self.cluster.random.randrange(8)
        if is_upwards:
            self.link.push(bytes(data))
        else:
            self.push(bytes(data))

    def pull(self) -> bytes:
        frame = self.outbox.next_frame()
        return b"" if frame is None else frame.encode()

    def push(self, data: bytes) -> None:
        self.decoder.feed(data)
        try:
            while not self.is_gone and (frame := self.decoder.next_frame()) is not None:
                self.take(frame)
        except ProtocolError:
            assert self.cluster.was_flipped, "the server sent what breaks the protocol"
            self.lose()

    def take(self, frame: Frame) -> None:
        if frame.kind == GRANT:
            self.outbox.grant(frame.lane, granted_bytes(frame))
        elif frame.kind == CONTROL:
            message = decode_message(frame.payload)
            self.cluster.counts[message["type"]] += 1
            getattr(self, f"on_{message['type']}")(frame, message)
        else:
            self.on_data(frame)

    def receive(self, frame: Frame) -> None:
        """Account for data and grant what is due."""
        window = self.windows.setdefault(frame.lane, ReceiveWindow(self.cluster.window_bytes))
        window.received(len(frame.payload))
        if granted := window.consumed(len(frame.payload)):
            self.outbox.put(grant_frame(frame.lane, granted))

    def lose(self) -> None:
        """The link is cut where it is: what is on the way is gone, and both ends know."""
        self.is_gone = True
        self.link.lose()

    def on_data(self, frame: Frame) -> None:
        raise NotImplementedError

    def on_hello(self, frame: Frame, message: dict[str, Any]) -> None:
        pass


class SimulatedDriver(Peer):
    """A driver with one job: what it sends, and what it has got so far of the job's whole life."""

    def __init__(self, cluster: Cluster, job: Job):
        super().__init__(cluster, "driver")
        self.job = job
        self.sent = 0
        self.parts: dict[int, list[list[int]]] = {}
        self.buffers: dict[int, bytearray] = collections.defaultdict(bytearray)
        self.set_aside: dict[int, int] = {}  # task -> batch, of results that are rows of items set aside
        self.say(
            "submit", 1, name="j", options=job.options, code_bytes=len(job.code), fingerprint="f",
            skip=sorted(job.delivered),
        )  # fmt: skip
        self.outbox.open_lane((1, 0, 0), cluster.window_bytes)
        self.send(CODE, job.code, cluster.window_bytes, (1, 0, 0))

    def on_accepted(self, frame: Frame, message: dict[str, Any]) -> None:
        self.job.options["partitions"] = message["partitions"]
        self.on_allow(frame, message)

    def on_allow(self, frame: Frame, message: dict[str, Any]) -> None:
        batches = self.job.batches
        while self.sent < min(message["batches"], len(batches)):
            self.sent += 1
            lane = (1, self.sent, 0)
            self._send_batch(lane, content=None)
        if self.sent == len(batches) and not self.job.has_ended_input:
            self.job.has_ended_input = True
            self.say("input_end", 1, batches=len(batches))

    def _send_batch(self, lane: tuple[int, int, int], content: bool | None) -> None:
        items = self.job.batches[lane[1] - 1]
        data = records.encode_items(items)
        self.outbox.drop_lane(lane)
        self.outbox.open_lane(lane, self.cluster.window_bytes)
        inline = data if self.cluster.may_inline(data) else None
        refs = True if self.job.has_files and not content else None
        size = len(data)
        self.say_in_lane(
            "batch",
            *lane,
            items=len(items),
            weight=size,
            size=size,
            content=content,
            refs=refs,
            inline=inline,
        )
        if inline is None:
            self.send(BATCH, data, self.cluster.window_bytes, lane)
        self.outbox.close_lane(lane)

    def on_need_content(self, frame: Frame, message: dict[str, Any]) -> None:
        self._send_batch((1, frame.task, 0), content=True)

    def on_results(self, frame: Frame, message: dict[str, Any]) -> None:
        assert frame.task not in self.parts, "the results of a task came twice"
        self.parts[frame.task] = message["parts"]
        if "batch" in message:
            self.set_aside[frame.task] = message["batch"]
        self._collect(frame.task)

    def on_data(self, frame: Frame) -> None:
        assert frame.kind == RESULT
        self.receive(frame)
        self.buffers[frame.task] += frame.payload
        self._collect(frame.task)

    def _collect(self, task: int) -> None:
        """Take the partitions that are whole."""
        parts, buffer = self.parts[task], self.buffers[task]
        while parts and len(buffer) >= parts[0][1]:
            partition, n_bytes, _ = parts.pop(0)
            data = bytes(buffer[:n_bytes])
            if task in self.set_aside:
                self.job.take_set_aside(self.set_aside[task], data)
            else:
                self.job.take_partition(partition, data)
            del buffer[:n_bytes]

    def on_job_done(self, frame: Frame, message: dict[str, Any]) -> None:
        assert not any(self.parts.values()), "the job was done before its results were here"
        self.job.end = "done"

    def on_job_failed(self, frame: Frame, message: dict[str, Any]) -> None:
        self.job.end = f"{message.get('code')}: {message['failure'].get('error')}"

    def on_progress(self, frame: Frame, message: dict[str, Any]) -> None:
        pass

    on_notice = on_died = on_progress


class Job:
    """A job as its user knows it, whoever the server is."""

    functions = FUNCTIONS

    @property
    def has_files(self) -> bool:
        """Whether its items count as files, whose contents workers may ask for.

        Each stands for one item here, which only matters to a job that may set items aside.
        """
        return not self.options.get("max_skipped")

    def __init__(self, cluster: Cluster):
        choice, rng = cluster.random.choice, cluster.random
        numbers = itertools.count()
        self.batches = [
            [
                (next(numbers), [choice(WORDS) for _ in range(choice([0, 1, 5, 40]))])
                for _ in range(choice([1, 2, 7]))
            ]
            for _ in range(choice([0, 1, 3, 8]))
        ]
        self.code = rng.randbytes(choice([1, 100, 3000]))
        self.options: dict[str, Any] = {"retries": 3, "retransmit": choice([0.0, 0.5, 1.0])}
        if choice([True, False]):
            self.options["partitions"] = choice([1, 3, 64])
        self.has_ended_input = False
        self.delivered: set[int] = set()
        self.results: dict[Any, Any] = {}
        self.end: str | None = None
        #: misfortunes of its functions that are left: fewer than what would end the job
        self.deaths = 2
        self.exceptions = 3

    def begin_again(self) -> None:
        """Begin anew on another server."""
        self.has_ended_input = False
        self.deaths, self.exceptions = 2, 3

    def take_set_aside(self, batch: int, data: bytes) -> None:
        raise AssertionError("nothing of this job may be set aside")

    def take_partition(self, partition: int, data: bytes) -> None:
        assert partition not in self.delivered, "a partition was delivered twice"
        self.delivered.add(partition)
        offset = 0
        while offset < len(data):
            segment = records.decode_segment(data, offset)
            for key, value in zip(segment.keys, segment.values, strict=True):
                self.take_result(key, value)
            offset = segment.end

    def take_result(self, key: Any, value: Any) -> None:
        assert key not in self.results, "a key was reduced twice"
        self.results[key] = value

    def check(self) -> None:
        assert self.end == "done", self.end
        items = itertools.chain.from_iterable(self.batches)
        assert self.results == plain_mapreduce(items, FUNCTIONS.mapfn, FUNCTIONS.reducefn)


class Held:
    """An attempt at its worker."""

    def __init__(self, lane: tuple[int, int, int], message: dict[str, Any]):
        self.lane = lane
        self.message = message
        self.input = bytearray(message.get("inline", b""))


class SimulatedWorker(Peer):
    """A worker that does what it is told, unless something happens to it."""

    #: what it says of attempts that are over
    late_words: tuple[str, ...] = ("output", "done", "failed", "returned", "kept")

    def __init__(self, cluster: Cluster, slots: int):
        super().__init__(cluster, "worker", slots=slots)
        self.slots: list[collections.deque[Held]] = [collections.deque() for _ in range(slots)]
        self.code: dict[int, int] = {}  # job -> bytes of its code still to come
        self.over: list[tuple[int, int, int]] = []  # lanes of attempts that it has ended
        self.early_recalls: set[int] = set()
        self.has_files = cluster.chance(0.8)

    def on_job(self, frame: Frame, message: dict[str, Any]) -> None:
        self.code[frame.job] = message["code_bytes"]

    def on_job_end(self, frame: Frame, message: dict[str, Any]) -> None:
        self.code.pop(frame.job, None)
        for slot in self.slots:
            for held in [held for held in slot if held.lane[0] == frame.job]:
                self._forget(slot, held)

    def on_assign(self, frame: Frame, message: dict[str, Any]) -> None:
        if frame.attempt in self.early_recalls or frame.job not in self.code:
            self.say("returned", *frame.lane)
            return
        slot = self.slots[message["slot"]]
        slot.append(Held(frame.lane, message))

    def on_data(self, frame: Frame) -> None:
        if frame.kind == CODE:
            if frame.job in self.code:
                self.receive(frame)
                self.code[frame.job] -= len(frame.payload)
                assert self.code[frame.job] >= 0
            return
        assert frame.kind == INPUT
        found = self._find(frame.attempt)
        if found is not None:
            self.receive(frame)
            found[1].input += frame.payload
            assert len(found[1].input) <= found[1].message["size"], "more input than was announced"

    def _find(self, attempt: int) -> tuple[collections.deque[Held], Held] | None:
        return next(((slot, held) for slot in self.slots for held in slot if held.lane[2] == attempt), None)

    def _forget(self, slot: collections.deque[Held], held: Held) -> None:
        slot.remove(held)
        self.over.append(held.lane)

    def on_recall(self, frame: Frame, message: dict[str, Any]) -> None:
        found = self._find(frame.attempt)
        if found is None:
            self.early_recalls.add(frame.attempt)
        elif found[0][0] is found[1]:
            self.say("kept", *frame.lane)
        else:
            self._forget(*found)
            self.say("returned", *frame.lane)

    def on_revoke(self, frame: Frame, message: dict[str, Any]) -> None:
        found = self._find(frame.attempt)
        if found is not None:
            self._forget(*found)
        if self.cluster.chance(0.5):
            self.outbox.drop_lane(frame.lane)

    # running

    def runnable(self) -> list[collections.deque[Held]]:
        return [
            slot for slot in self.slots
            if slot and self.code[slot[0].lane[0]] == 0 and len(slot[0].input) == slot[0].message["size"]
        ]  # fmt: skip

    def run(self, slot: collections.deque[Held]) -> None:
        """Run the first attempt of a slot to its end, whichever that is."""
        held = slot[0]
        lane, message = held.lane, held.message
        self._forget(slot, held)
        job = self.cluster.job_of(lane[0])
        if job is None:
            return  # its driver is gone, and job_end is on the way
        self.outbox.open_lane(lane, self.cluster.window_bytes)
        is_chaotic = self.cluster.is_chaotic
        may_ask = message["phase"] == "map" and is_chaotic and job.has_files
        if may_ask and not self.has_files and not self.cluster.chance(0.5):
            self.has_files = True  # asked once, so that it is not an attempt that was sent them
            self.say_in_lane("content", *lane)
        elif is_chaotic and job.deaths and self.cluster.chance(0.1):
            job.deaths -= 1
            self._put_out(lane, self._outputs(held, job)[0][:-1])
            self.say_in_lane("died", *lane, failure={"kind": "died", "error": "killed"})
        elif is_chaotic and job.exceptions and self.cluster.chance(0.1):
            job.exceptions -= 1
            self._put_out(lane, self._outputs(held, job)[0])
            self.say_in_lane("failed", *lane, failure={"kind": "exception", "error": "E"})
        else:
            outputs, skipping, failure = self._outputs(held, job)
            if failure is not None:
                self._put_out(lane, outputs)
                self._say_failed(lane, failure)
                self.outbox.close_lane(lane)
                return
            inline = outputs.pop() if outputs and self.cluster.may_inline(outputs[-1]) else b""
            size = self._put_out(lane, outputs) + len(inline)
            done = {"size": size, "records": 1, "items": 1, "seconds": 0.1, "groups": 1}
            if skipping.count:
                done |= {"skipped": skipping.count, "failure": skipping.last_failure}
            for _ in range(1 if self.cluster.chance(0.95) else 2):
                self.say_in_lane("done", *lane, inline=inline or None, **done)
        self.outbox.close_lane(lane)

    def _put_out(self, lane: tuple[int, int, int], outputs: list[bytes]) -> int:
        for output in outputs:
            self.send(OUTPUT, output, self.cluster.window_bytes, lane)
        return sum(map(len, outputs))

    def _say_failed(self, lane: tuple[int, int, int], failure: TaskFailure) -> None:
        said = {
            "item": failure.item,
            "spent": failure.is_spent or None,
            "divisible": failure.is_divisible or None,
        }
        skipped = failure.skipped or None
        self.say_in_lane("failed", *lane, failure=failures.bound(failure.failure), skipped=skipped, **said)

    def _outputs(self, held: Held, job: Job) -> tuple[list[bytes], Skipping, TaskFailure | None]:
        """Run an attempt; return its flushes, what it set aside, and what ended it."""
        message = held.message
        flushes: list[bytes] = []
        skipping = Skipping(job.options["retries"], job.options.get("max_skipped", 0))
        fields: dict[str, Any] = {
            "partitions": message["partitions"],
            "memory_bytes": self.cluster.random.choice([1, 5_000, 10**6]),
            "emit": flushes.append,
            "mark": lambda index, key: None,
            "tunes_gc": False,
        }
        data = bytes(held.input)
        try:
            with self.core():
                if message["phase"] == "map":
                    lo, hi = message["lo"], message["hi"]
                    run_map(
                        job.functions, records.decode_items(data)[lo:hi], first_index=lo,
                        skip=message.get("skip", ()), part=tuple(message.get("part", ALL)), skipping=skipping,
                        decode=lambda: records.decode_items(data)[lo:hi], **fields,
                    )  # fmt: skip
                else:
                    run_reduce(job.functions, self._parts(data, message["parts"]), **fields)
        except TaskFailure as failure:
            return flushes, skipping, failure
        return flushes, skipping, None

    def core(self) -> contextlib.AbstractContextManager[None]:
        """Return what gives the tasks of this worker their C core, or takes it away."""
        return contextlib.nullcontext()

    @staticmethod
    def _parts(data: bytes, parts: list[list[int]]) -> Iterator[tuple[int, int, list[bytes]]]:
        start = 0
        for partition, n_bytes in parts:
            segments, end = [], start + n_bytes
            while start < end:
                size = records.segment_size(data, start)
                segments.append(data[start : start + size])
                start += size
            yield partition, n_bytes, segments

    def say_something_late(self) -> None:
        """Repeat what is over or add to it, behind its outcome; or say something else in front of that."""
        if not self.over:
            return
        lane = self.cluster.random.choice(self.over)
        kind = self.cluster.random.choice(self.late_words)
        if kind == "output":
            self.outbox.put_in_lane(Frame(OUTPUT, b"late", *lane))
        elif (
            kind == "done"
        ):  # in front it would be a lie about its output, which nobody can tell from the truth
            self.say_in_lane("done", *lane, size=0, records=0, items=0, seconds=0, groups=0)
        elif kind == "failed":
            self.say_in_lane("failed", *lane, failure={"kind": "exception", "error": "late"})
        else:
            self.say(kind, *lane)


#: with how often they come
MISFORTUNES = [
    name
    for name, times in {
        "cut": 4,
        "join": 4,
        "stand": 4,
        "late": 6,
        "tick": 6,
        "flip": 1,
        "leave": 1,
        "vanish": 1,
        "crash": 1,
    }.items()
    for _ in range(times)
]
WORDS = [*"abcdefghij", *range(20), ("t", 1), "x" * 300, None, 1.5]


class Cluster:
    """One simulated cluster. `run()` raises AssertionError if anything is lost, doubled or left."""

    worker_class: type[SimulatedWorker] = SimulatedWorker
    #: command that replays a seed
    command = "python -m tests.trust.cluster_simulation"
    #: steps in which misfortunes come
    chaos_steps = 600

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now = 0.0
        self.step = 0
        self.window_bytes = self.random.choice([50, 700, 1 << 20])
        self.memory_bytes = self.random.choice([0, 3_000, 10**6])
        self.faults: list[Exception] = []
        self.peers: list[Peer] = []
        self.stores: list[JobStore] = []
        self.was_flipped = False
        self.counts: collections.Counter[str] = collections.Counter()
        self.servers: list[ServerRole] = []
        self.jobs: list[Job] = []
        self.abandoned: list[Job] = []

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def may_inline(self, data: bytes) -> bool:
        """Whether these bytes go in the message that announces them, this time."""
        return 0 < len(data) <= MAX_INLINE_BYTES and self.chance(0.5)

    @property
    def is_chaotic(self) -> bool:
        return self.step < self.chaos_steps

    def monotonic(self) -> float:
        """The clock of the server."""
        return self.now

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the server this clock, no thread pool, no ticker of its own, and windows that matter."""

        def keep_store(*args: Any) -> JobStore:
            self.stores.append(JobStore(*args))
            return self.stores[-1]

        with contextlib.ExitStack() as stack:
            for module, names in WINDOWS.items():
                for name in names:
                    stack.enter_context(mock.patch.object(module, name, self.window_bytes))
            for module in (conductor, hosted):
                stack.enter_context(mock.patch.object(module, "time", self))
            stack.enter_context(
                mock.patch.object(jobs, "run_in_thread", lambda function, *args: function(*args))
            )
            stack.enter_context(mock.patch.object(jobs, "JobStore", keep_store))
            stack.enter_context(mock.patch.object(role, "TICK_S", 10**6))
            most_inline = self.random.choice([0, 200, MAX_INLINE_BYTES])  # of what the server sends
            stack.enter_context(mock.patch.object(attempts, "MAX_INLINE_BYTES", most_inline))
            yield

    def run(self) -> None:
        with self.in_place():
            self.start_server()
            for _ in range(self.random.choice([0, 1, 3])):
                self.join()
            for job in self.draw_jobs():
                self.jobs.append(job)
                SimulatedDriver(self, job)
            while any(job.end is None for job in self.jobs):
                self.step += 1
                assert self.step < MAX_STEPS, "jobs never end"
                self.take_step()
                settle()
                if self.faults:
                    raise self.faults[0]
            for job in self.jobs:
                job.check()
            self.check_empty()
            for peer in self.peers:
                peer.lose()
            settle()
            self.servers[-1].stop("the simulation is over")

    def draw_jobs(self) -> Iterator[Job]:
        for _ in range(self.random.choice([1, 1, 2, 3])):
            yield Job(self)

    # what happens

    def take_step(self) -> None:
        if self.step == self.chaos_steps:
            self.join()
        if self.is_chaotic and self.chance(0.03):
            self.misfortune()
            return
        self.peers = [peer for peer in self.peers if not peer.is_gone]
        for peer in [peer for peer in self.peers if peer.link.is_closed]:
            peer.lose()
        workers = [peer for peer in self.peers if isinstance(peer, SimulatedWorker)]
        runs = [(worker, slot) for worker in workers if not worker.stands() for slot in worker.runnable()]
        moving = [peer for peer in self.peers if peer.can_move()]
        if runs and (not moving or self.chance(0.2)):
            worker, slot = self.random.choice(runs)
            worker.run(slot)
        elif moving:
            peer = self.random.choice(moving)
            n_bytes = self.random.choice([1, 30, 200, 1 << 20, 1 << 20])
            peer.move(n_bytes, self.chance(0.5), flip=False)
        else:
            for peer in self.peers:
                # A flipped length: heartbeats would fill the frame, and its checksum be wrong.
                if self.was_flipped and peer.waits_for_more():
                    peer.lose()
            if not workers:
                self.join()
            self.tick(IDLE_S)

    def misfortune(self) -> None:
        kind = self.random.choice(MISFORTUNES)
        workers = [p for p in self.peers if isinstance(p, SimulatedWorker) and not p.is_gone]
        drivers = [p for p in self.peers if isinstance(p, SimulatedDriver) and not p.is_gone]
        self.counts[kind] += 1
        if kind == "join":
            self.join()
        elif kind == "stand" and self.peers:
            self.random.choice(self.peers).stands_until = self.step + self.random.choice([30, 300])
        elif kind == "tick":
            self.tick(self.random.choice([0.1, 3.0]))
        elif kind == "vanish" and drivers and self.chance(0.3):
            driver = self.random.choice(drivers)
            if driver.job.end is None:
                self.jobs.remove(driver.job)
                self.abandoned.append(driver.job)
                driver.lose()
        elif kind == "crash" and self.chance(0.5):
            self.restart_server()
        elif workers:
            worker = self.random.choice(workers)
            if kind == "cut":
                worker.lose()
            elif kind == "late":
                worker.say_something_late()
            elif kind == "leave":
                worker.say("leaving")
            elif kind == "flip":
                self.was_flipped = True
                worker.move(self.random.choice([30, 200, 1 << 20]), self.chance(0.5), flip=True)

    def join(self) -> None:
        self.worker_class(self, self.random.choice([1, 2, 4]))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.server.conductor.tick()

    @property
    def server(self) -> ServerRole:
        return self.servers[-1]

    def start_server(self) -> None:
        server = ServerRole("s", memory_bytes=self.memory_bytes)
        server.conductor.scheduler = AuditedScheduler(self.random.randrange(10**6))
        self.servers.append(server)

    def restart_server(self) -> None:
        """The server is lost with all it has; what is left of the jobs is handed in to another."""
        for peer in self.peers:
            peer.lose()
        settle()
        self.server.stop("it is lost")
        self.check_empty()
        self.peers = []
        self.start_server()
        for job in self.jobs:
            if job.end is None:
                job.begin_again()
                SimulatedDriver(self, job)
        self.join()

    def job_of(self, number: int) -> Job | None:
        """The job that a worker runs attempts of; None if its driver is gone."""
        job = self.server.conductor.jobs.get(number)
        if job is None:
            return None
        return next(
            (p.job for p in self.peers if isinstance(p, SimulatedDriver) and p.link is job.link), None
        )

    def check_empty(self) -> None:
        """No job is left in the server, nor anything of one."""
        settle()
        assert not self.server.conductor.jobs
        assert not self.server.conductor.attempts
        assert self.server.idle.is_set()
        assert self.server.conductor.jobs.memory.used_bytes == 0
        self.server.conductor.scheduler.check_empty()
        for store in self.stores:
            assert not store._staged
            assert not store._committed
            assert not store._results
            assert not store.has_pending()
            assert store._spill is None


def settle() -> None:
    """Let every greenlet of the server go on until none can."""
    for _ in range(3):
        gevent.sleep(0)


def replay(seed: int, kind: type[Cluster] = Cluster) -> Cluster:
    """Run one seed; whatever goes wrong comes with the command that does it again."""
    cluster = kind(seed)
    try:
        cluster.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {kind.command} {seed}") from error
    return cluster


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        done = replay(int(argument))
        sys.stdout.write(
            f"seed {argument}: {done.step} steps, {len(done.servers)} servers, {len(done.jobs)} jobs, "
            f"{sum(len(job.results) for job in done.jobs)} results, {dict(done.counts)}\n"
        )
