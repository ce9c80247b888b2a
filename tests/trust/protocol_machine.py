"""Peers that know the password and say anything, legal or not, in any order, beside an honest pair.

`PlaysWorker` and `PlaysDriver` are state machines of hypothesis. Each sequence connects such a peer to a real server
and says a few things. Beside it an honest driver has a job and an honest worker works. What must hold after each:

- The server lives, and says nothing of a fault of its own.
- The honest job has ended within `JOB_S`, with the results of plain Python. Only a worker that lied in legal words about
  an attempt of it (it said "done" without the output, or "failed") may have ended it, or have changed its results.
- The honest worker has kept its link, unless a driver dismissed it; no job, attempt, link or byte of the stranger is left in the server.

What a rule draws depends on nothing that the server says, so a sequence can be played again and made shorter.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import mmgevent as mmg
from mmgevent.errors import MmgeventError
from mmgevent.wire.frames import CONTROL, HEARTBEAT, Frame
from mmgevent.wire.lanes import grant_frame
from mmgevent.wire.messages import MESSAGES, control, decode_message
from mmgevent.wire.shapes import OBJECT
from tests.oracle import plain_mapreduce
from tests.trust import probed_server
from tests.trust.fuzz import DATA, ODD, VALUES
from tests.trust.honest_job import ITEMS, add, spread
from tests.trust.raw_peer import RawPeer, hello_of, wait_until

#: Seconds within which the honest job must end. It takes some hundredths.
JOB_S = 30.0
#: Seconds that a stranger waits for something to lie about.
TAKE_S = 0.05

EXPECTED = plain_mapreduce(ITEMS, spread, add)

#: Words of a worker that say how an attempt went. False ones are lies that nobody can see.
OUTCOMES = ("done", "failed", "died", "unprepared", "content")

#: What a worker says when it has joined.
JOINED = "joined the server"

picks = st.integers(0, 15)
types = st.sampled_from(sorted(MESSAGES))
small_lanes = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 8))


def message_of(type_: str, lane: tuple[int, int, int], choices: list[int]) -> Frame:
    """Return a message whose fields have the values that the numbers choose."""
    fields: dict[str, Any] = {}
    for (name, field), pick in zip(MESSAGES[type_].items(), choices * 2, strict=False):
        values = VALUES.get(field.shape.words) or [value for value in ODD if field.shape.fits(value)]
        if field.required or pick & 1:
            fields[name] = values[(pick >> 1) % len(values)]
    return control(type_, *lane, **fields)


class Stranger(RuleBasedStateMachine):
    """A peer that says anything. `place` is set before the machine runs."""

    place: SimpleNamespace
    role = ""

    def __init__(self) -> None:
        super().__init__()
        self.peer: RawPeer | None = None
        self.lanes: list[tuple[int, int, int]] = []  #: of attempts that it was given
        self.assigned: dict[tuple[int, int, int], tuple[Frame, dict[str, Any]]] = {}
        self.numbers: list[int] = []  #: of workers that it has heard of
        self.outcomes: set[int] = set()  #: attempts of which it said how they went; their number alone counts
        self.may_have_missed = False  #: whether an attempt may have been given to it unseen
        self.handle: Any = None
        self.notices: list[str] = []
        #: whether a driver of this sequence or the last one dismissed a worker, which takes a moment
        self.may_be_dismissed = self.place.was_dismissed
        self.has_dismissed = False
        self.said_before = len(self.place.server.said)
        self.joins_before = self.place.worker.said.count(JOINED)

    # its link

    @initialize()
    def begin(self) -> None:
        self.connect()
        job = mmg.Job(ITEMS, spread, add, partitions=2, name="honest")
        self.handle = self.place.cluster.submit(job, on_notice=self.notices.append)

    def connect(self) -> None:
        self.lanes.clear()
        self.peer = RawPeer(self.place.server.address, self.role, slots=4)
        self.peer.wait_for("hello")

    def send(self, *frames: Frame) -> None:
        self.send_bytes(b"".join(frame.encode() for frame in frames))

    def send_bytes(self, data: bytes) -> None:
        self.receive()
        if self.peer is None:
            self.connect()
        assert self.peer is not None
        self.peer.send_bytes(data)

    def receive(self, until_s: float = 0.0) -> None:
        """Read what has come; until that moment also wait for an attempt."""
        while self.peer is not None:
            sock = self.peer.sock
            if not sock.pending():
                wait_s = max(0.0, until_s - time.monotonic()) if not self.lanes else 0.0
                if not select.select([sock], [], [], wait_s)[0]:
                    return
            if not self.read_some(self.peer):
                self.peer.leave()
                self.peer = None

    def read_some(self, peer: RawPeer) -> bool:
        """Take what comes next; return False at the end of the link."""
        try:
            data = peer.sock.recv(256 * 1024)
        except (OSError, ssl.SSLError):  # reset, perhaps with frames on the way
            self.may_have_missed = True
            data = b""
        peer._decoder.feed(data)
        while (frame := peer._decoder.next_frame()) is not None:
            self.take(frame)
        return bool(data)

    def take(self, frame: Frame) -> None:
        if frame.kind != CONTROL:
            return
        message = decode_message(frame.payload)
        if message["type"] == "assign":
            self.lanes.append(frame.lane)
            self.assigned[frame.lane] = (frame, message)
        elif message["type"] == "joined":
            self.numbers.append(frame.task)

    def leave(self) -> None:
        """Say no more, and read what is still on the way."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            with contextlib.suppress(OSError):  # it was closed
                peer.sock.settimeout(JOB_S)
                socket.socket.shutdown(peer.sock, socket.SHUT_WR)
            while self.read_some(peer):
                pass
            peer.leave()

    # what anybody may say

    @rule(type_=types, lane=small_lanes, choices=st.lists(picks, min_size=8, max_size=8))
    def say_anything(self, type_: str, lane: tuple[int, int, int], choices: list[int]) -> None:
        self.note(type_, lane)
        self.send(message_of(type_, lane, choices))

    @rule(which=st.sampled_from(range(len(DATA))), lane=small_lanes)
    def send_data(self, which: int, lane: tuple[int, int, int]) -> None:
        self.send(Frame(DATA[which].kind, DATA[which].payload, *lane))

    @rule(data=st.binary(min_size=1, max_size=60))
    def send_garbage(self, data: bytes) -> None:
        self.send_bytes(data)

    @rule(share=st.floats(0, 1, exclude_max=True), type_=types)
    def send_half_a_message(self, share: float, type_: str) -> None:
        data = message_of(type_, (1, 1, 1), [0] * 8).encode()
        self.send_bytes(data[: int(share * len(data))])
        self.leave()

    @rule()
    def say_hello_again(self) -> None:
        self.send(hello_of(self.role, **({"slots": 1} if self.role == "worker" else {})))

    @rule()
    def live(self) -> None:
        self.send(Frame(HEARTBEAT))

    @rule(n_bytes=st.sampled_from([1, 2**20, 2**32 - 1]), lane=small_lanes)
    def grant(self, n_bytes: int, lane: tuple[int, int, int]) -> None:
        self.send(grant_frame(lane, n_bytes))

    @rule(resets=st.booleans())
    def go_and_come_again(self, resets: bool) -> None:
        if self.peer is not None and resets:
            self.may_have_missed = True
            with contextlib.suppress(OSError):  # it was closed
                self.peer.reset()
        self.leave()
        self.connect()

    def note(self, type_: str, lane: tuple[int, int, int]) -> None:
        """Remember what may be a lie that nobody can see."""
        if type_ in OUTCOMES:
            self.outcomes.add(lane[2])
        if type_ == "dismiss":  # the honest worker may leave, and joins again
            self.has_dismissed = self.may_be_dismissed = True

    @property
    def has_lied(self) -> bool:
        """Return whether it may have said how an attempt of its own went."""
        own = {attempt for _, _, attempt in self.assigned}
        return not self.outcomes.isdisjoint(own) or (self.may_have_missed and bool(self.outcomes))

    # the end

    def teardown(self) -> None:
        if self.handle is None:
            return  # `begin` failed
        try:
            self.check()
        finally:
            self.place.was_dismissed = self.has_dismissed
            self.leave()
            if not self.handle.done():
                self.handle.cancel()

    def check(self) -> None:
        self.receive()
        if self.role == "worker":
            self.leave()  # else it may keep the job's attempts, as a worker that is busy does
        self.check_job()
        self.leave()
        place = self.place
        said = place.server.said[self.said_before :]
        assert place.server.process.poll() is None, said
        assert place.worker.process.poll() is None
        assert not re.search("fault of our own|Traceback", said), said
        joins = place.worker.said.count(JOINED)
        assert self.may_be_dismissed or joins == self.joins_before, (
            f"the honest worker lost its link: {place.worker.said}"
        )
        wait_until(
            lambda: self.is_quiet(),
            f"the end of what it was: {probed_server.ask(place.probe)}, not {place.quiet}",
        )

    def is_quiet(self) -> bool:
        return probed_server.ask(self.place.probe) == self.place.quiet

    def check_job(self) -> None:
        try:
            error = self.handle.exception(JOB_S)
        except TimeoutError:
            said = self.place.server.said[self.said_before :]
            raise AssertionError(
                f"the honest job has not ended in {JOB_S:g} s; the server said:\n{said}"
            ) from None
        if self.has_lied:
            assert error is None or isinstance(error, MmgeventError), error
        elif error is not None:
            raise error
        else:
            assert self.handle.result() == EXPECTED


class PlaysWorker(Stranger):
    """A worker of four slots, which is given attempts of the honest job."""

    role = "worker"

    def pick(self, which: int) -> tuple[int, int, int]:
        """Return the lane of an attempt that it has, or any other if it has none."""
        self.receive(time.monotonic() + TAKE_S)
        return self.lanes[which % len(self.lanes)] if self.lanes else (1, 1, 1)

    @rule(
        type_=st.sampled_from(["returned", "kept", "notice", "job_end", "revoke", "assign", *OUTCOMES]),
        which=picks,
        choices=st.lists(picks, min_size=8, max_size=8),
    )
    def report(self, type_: str, which: int, choices: list[int]) -> None:
        lane = self.pick(which)
        self.note(type_, lane)
        self.send(message_of(type_, lane, choices))

    @rule(which=picks, data=st.sampled_from(range(len(DATA))))
    def put_out(self, which: int, data: int) -> None:
        self.send(Frame(DATA[data].kind, DATA[data].payload, *self.pick(which)))

    @rule(which=picks, type_=types, choices=st.lists(picks, min_size=8, max_size=8))
    def say_anything_of_an_attempt(self, which: int, type_: str, choices: list[int]) -> None:
        lane = self.pick(which)
        self.note(type_, lane)
        self.send(message_of(type_, lane, choices))

    @rule(
        type_=st.sampled_from(["returned", "kept", "notice", *OUTCOMES]),
        which=picks,
        task=st.integers(-2, 2),
        attempt=st.integers(-3, 3),
        choices=st.lists(picks, min_size=8, max_size=8),
    )
    def speak_for_another(self, type_: str, which: int, task: int, attempt: int, choices: list[int]) -> None:
        """Report on an attempt whose numbers are near those of its own, which the honest worker may have."""
        own = self.pick(which)
        lane = (own[0], max(0, own[1] + task), max(0, own[2] + attempt))
        self.note(type_, lane)
        self.send(message_of(type_, lane, choices))

    @rule(which=picks)
    def return_all(self, which: int) -> None:
        self.pick(which)
        for lane in [*self.lanes]:
            self.send(control("returned", *lane))

    @rule()
    def depart(self) -> None:
        self.send(control("leaving"))


class PlaysDriver(Stranger):
    """A driver with jobs of its own, whose code nobody can load."""

    role = "driver"

    def __init__(self) -> None:
        super().__init__()
        self.last_job = 0

    def connect(self) -> None:
        super().connect()
        self.last_job = 0

    @rule(
        which=picks,
        code=st.sampled_from([b"", b"c", b"x" * 5000]),
        announced=st.sampled_from([None, 0, 2**40]),
    )
    def submit(self, which: int, code: bytes, announced: int | None) -> None:
        self.receive()
        if self.peer is None:
            self.connect()
        self.last_job += 1
        choices = VALUES[OBJECT.words]
        options = choices[which % len(choices)]
        size = len(code) if announced is None else announced
        self.send(
            control(
                "submit", self.last_job, name="strange", options=options, code_bytes=size, fingerprint="f"
            ),
            *([Frame(DATA[0].kind, code, self.last_job)] if code else []),
        )

    @rule(which=picks, items=st.sampled_from([0, 1, 3]), batches=st.sampled_from([1, 2]))
    def submit_all(self, which: int, items: int, batches: int) -> None:
        """Submit a job with all that belongs to it, so that workers are given attempts of it."""
        self.submit(which, b"c", None)
        for batch in range(1, batches + 1):
            self.send_batch(batch, items, b"x" * 400)
        self.end_input(batches)

    @rule(
        batch=st.integers(0, 4),
        items=st.sampled_from([0, 1, 3, 2**40]),
        data=st.sampled_from([b"", b"b", b"x" * 400]),
    )
    def send_batch(self, batch: int, items: int, data: bytes) -> None:
        job = max(1, self.last_job)
        self.send(
            control("batch", job, batch, items=items, size=len(data), weight=1),
            *([Frame(DATA[1].kind, data, job, batch)] if data else []),
        )

    @rule(batches=st.sampled_from([0, 1, 2**40]))
    def end_input(self, batches: int) -> None:
        self.send(control("input_end", max(1, self.last_job), batches=batches))

    @rule(
        type_=st.sampled_from(["cancel", "list_workers", "watch", "progress", "moved"]),
        choices=st.lists(picks, min_size=8, max_size=8),
    )
    def say_of_a_job(self, type_: str, choices: list[int]) -> None:
        self.send(message_of(type_, (max(1, self.last_job), 0, 0), choices))

    @rule(data=st.sampled_from(["", "QUJD", "no base64"]), more=st.booleans())
    def tell_workers(self, data: str, more: bool) -> None:
        for number in [*self.numbers[-4:], 2**31]:
            self.send(control("tell", 0, number, data=data, more=more))
