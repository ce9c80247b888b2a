"""One slot of a worker: the attempts given to it, in order, and the executors that run them.

A slot runs one attempt at a time, whichever job it is of, and has one executor a job. The attempts
behind the first are held here, where they can be given back; only when the tasks of a job are so
short that an executor would idle on the way to the next one are some sent ahead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.errors import ProtocolError
from mmgevent.machine import interpreter
from mmgevent.wire import failures
from mmgevent.wire.frames import MAX_PAYLOAD, Frame
from mmgevent.wire.lanes import INPUT_WINDOW, ReceiveWindow
from mmgevent.wire.positions import position_of

if TYPE_CHECKING:
    from mmgevent.engine.worker.offering import Offering
    from mmgevent.engine.worker.supervisor import Supervisor

#: executors of other jobs that a slot keeps for their next attempt
IDLE_EXECUTORS = 2
#: attempts a slot takes: one runs, some wait, and those whose end crossed the server's frames
MAX_ATTEMPTS = 64
#: tasks below this are sent ahead to the executor: one, ...
SHORT_TASK_S = 0.05
#: ... or as many as take this long
SENT_S = 0.02
#: of an option's value in the error about it
MAX_VALUE_BYTES = 200
#: frames an attempt may have waiting; its window bounds the bytes
MAX_HELD_FRAMES = 1024


class CachedJob:
    """A job as its worker knows it: options and code."""

    def __init__(self, frame: Frame, message: dict[str, Any], window: ReceiveWindow):
        self.number = frame.job
        self.frame = frame  #: the `job` message, as it goes on to executors
        options = message["options"]
        #: what is wrong with its options, so that none of its attempts can run; None if nothing is
        self.fault = _find_fault(options)
        if self.fault is not None:
            options = {}
        self.greenlets: bool = (options.get("greenlets") or 0) > 1
        #: of the interpreter of its executors, see `interpreter.GROUPS`
        self.flags: tuple[str, ...] = tuple(options.get("flags") or ())
        self.task_timeout_s: float | None = options.get("task_timeout")
        self.memory_limit_bytes: int | None = options.get("memory_limit")
        self.setup_timeout_s: float | None = options.get("setup_timeout")  # None also without a setupfn
        #: what offered functions run of it, see `Functions.describe_offered`; empty for most jobs
        self.offered: dict[str, Any] = options.get("offered") or {}
        self.offered_phases: frozenset[str] = frozenset(self.offered.get("phases", ()))
        #: what becomes of items that fail, as offered functions are told it
        self.failure_rules = {name: options.get(name) or 0 for name in ("retries", "max_skipped")}
        #: bytes of `code`
        self.lane_bytes: int = message.get("context_bytes", 0) + message["code_bytes"]
        #: the driver's surroundings, if it is of this machine, and the code: as they go on to executors
        self.code = bytearray()
        self.window = window  #: of the code
        #: how long its map tasks (True) and reduce tasks took lately, once one is done
        self._recent_s: dict[bool, float] = {}

    @property
    def has_limits(self) -> bool:
        """Whether somebody has to look after its executors."""
        limits = (self.task_timeout_s, self.memory_limit_bytes, self.setup_timeout_s)
        return any(limit is not None for limit in limits)

    @property
    def is_complete(self) -> bool:
        """Whether the whole code is here."""
        return len(self.code) == self.lane_bytes

    def most_sent(self, is_map: bool) -> int:
        """Attempts that an executor may have at once, as long as tasks of this phase took lately."""
        recent_s = self._recent_s.get(is_map, math.inf)
        if recent_s >= SHORT_TASK_S:
            return 1
        return MAX_ATTEMPTS if recent_s * MAX_ATTEMPTS < SENT_S else max(2, int(SENT_S / recent_s))

    def add_duration(self, is_map: bool, seconds: float) -> None:
        """Count a done task; that tasks are other than those before is noticed within three."""
        self._recent_s[is_map] = (self._recent_s.get(is_map, seconds) + seconds) / 2


class HeldAttempt:
    """An attempt of this slot, from its `assign` to its end."""

    def __init__(self, job: CachedJob, frame: Frame, message: dict[str, Any]):
        self.number = frame.attempt
        self.lane = frame.lane
        self.job = job
        self.is_map = message["phase"] == "map"
        #: whether offered functions run it, rather than an executor of its job
        self.is_offered = message["phase"] in job.offered_phases
        self.executor: Supervisor | Offering | None = None  #: None while it is held
        self.is_revoked = False
        self._items = (message.get("lo", 0), message.get("hi", 0), message.get("skip", ()))
        self._frames = [frame]
        self._held_bytes = 0

    @property
    def only_item(self) -> int | None:
        """The position of the item of a map attempt that has one only."""
        lo, hi, skip = self._items
        left = {position_of(entry) for entry in range(lo, hi)}.difference(skip) if self.is_map else set()
        return left.pop() if len(left) == 1 else None

    def take_input(self, frame: Frame) -> None:
        """Forward or hold a frame of its input; ProtocolError beyond its window."""
        if self.executor is not None:
            self.executor.link.send_in_lane(frame)
            return
        self._frames.append(frame)
        self._held_bytes += len(frame.payload)
        if self._held_bytes > INPUT_WINDOW or len(self._frames) > MAX_HELD_FRAMES:
            raise ProtocolError(f"{self._held_bytes} bytes of input came for an attempt that has not begun")

    def forward(self, executor: Supervisor | Offering) -> None:
        """Send what is held to the executor, and from now on all that comes."""
        self.executor = executor
        for frame in self._frames:
            executor.link.send_in_lane(frame)
        self._frames = []


class Slot:
    """Attempts in the order they came, and executors in the order they were used."""

    def __init__(self, index: int):
        self.index = index
        #: those that were sent to an executor, ...
        self.sent: deque[HeldAttempt] = deque()
        #: ... and behind them those that were not
        self.held: deque[HeldAttempt] = deque()
        #: by job number; only those that may get work
        self.executors: dict[int, Supervisor] = {}

    def add(self, attempt: HeldAttempt) -> None:
        """Put an attempt behind the others; ProtocolError when there are too many."""
        if len(self.sent) + len(self.held) >= MAX_ATTEMPTS:
            raise ProtocolError(f"slot {self.index} has {MAX_ATTEMPTS} attempts already")
        self.held.append(attempt)

    def remove(self, attempt: HeldAttempt) -> None:
        """Strike out an attempt that is over, or goes back."""
        (self.held if attempt.executor is None else self.sent).remove(attempt)

    def clear(self) -> None:
        """Strike out all attempts and executors."""
        self.sent.clear()
        self.held.clear()
        self.executors.clear()

    def next_to_forward(self) -> HeldAttempt | None:
        """The attempt that should go to an executor now, if any."""
        if not self.held:
            return None
        attempt = self.held[0]
        if self.sent and not (
            _is_alike(self.sent[-1], attempt) and _takes_more(self.sent[-1], len(self.sent))
        ):
            return None
        return attempt if attempt.job.is_complete else None

    def forward(self, executor: Supervisor | Offering) -> None:
        """Send what `next_to_forward` has given to this executor."""
        attempt = self.held.popleft()
        self.sent.append(attempt)
        attempt.forward(executor)

    def attempts_of(self, executor: Supervisor) -> list[HeldAttempt]:
        """The attempts that were sent to this executor, in order."""
        return [attempt for attempt in self.sent if attempt.executor is executor]

    def attempts_behind(self, executor: Supervisor, job: CachedJob) -> list[HeldAttempt]:
        """The attempts of this job that were sent to this executor, or to none yet."""
        mine = (executor, None)
        return [a for a in (*self.sent, *self.held) if a.job is job and a.executor in mine]

    def find_executor(self, job: CachedJob) -> Supervisor | None:
        """The executor of this job that can take work; counts as used now."""
        executor = self.executors.pop(job.number, None)
        if executor is None or executor.is_doomed:
            return None
        self.executors[job.number] = executor
        return executor

    def forget_executor(self, executor: Supervisor) -> None:
        """Give this executor no more work."""
        for number, known in list(self.executors.items()):
            if known is executor:
                del self.executors[number]

    def surplus_executors(self) -> list[Supervisor]:
        """Executors too many that run nothing, the longest unused first."""
        busy = {attempt.executor for attempt in self.sent}
        idle = [executor for executor in self.executors.values() if executor not in busy]
        return idle[: max(0, len(self.executors) - IDLE_EXECUTORS - 1)]


def _find_fault(options: dict[str, Any]) -> str | None:
    """Say which of the options a worker acts on is not what a driver's own check lets through."""
    for name, (fits, words) in _OPTIONS.items():
        value = options.get(name)
        if value is not None and not fits(value):
            return f"option {name} must be {words}; got {failures.shorten(ascii(value), MAX_VALUE_BYTES)}"
    return None


#: the ranges of `mmgevent.job.options`, in the types they have on the wire
_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "greenlets": (
        lambda value: type(value) is int and 0 <= value <= 100_000,
        "an int from 0 to 100000",
    ),
    "task_timeout": (
        lambda value: type(value) in (int, float) and 0 < value < math.inf,
        "a number of seconds above 0, or null",
    ),
    "setup_timeout": (
        lambda value: type(value) in (int, float) and 0 < value < math.inf,
        "a number of seconds above 0, or null",
    ),
    "memory_limit": (
        lambda value: type(value) is int and 16 << 20 <= value < 2**63,
        "an int of bytes, from 16 MiB to 2**63 - 1, or null",
    ),
    "flags": (
        interpreter.are_flags,
        f"a list of at most one of each of {', '.join(map(' or '.join, interpreter.GROUPS))}, in that order, or null",
    ),
    "offered": (
        lambda value: type(value) is dict and value.get("phases") in (["map"], ["reduce"], ["map", "reduce"]),
        'an object that has the "phases" it is of, or null',
    ),
}


def _is_alike(one: HeldAttempt, other: HeldAttempt) -> bool:
    """Whether the same executor runs both, and what is known of how long the one takes is true of the other."""
    return one.job is other.job and one.is_map == other.is_map and one.is_offered == other.is_offered


def _takes_more(attempt: HeldAttempt, sent: int) -> bool:
    """Whether the next attempt of its job may be sent while this one, the last of `sent`, is not over."""
    executor = attempt.executor
    if attempt.is_revoked or executor is None or executor.is_doomed:
        return False
    return sent < attempt.job.most_sent(attempt.is_map)


assert INPUT_WINDOW >= MAX_PAYLOAD  # or a frame could never be held
