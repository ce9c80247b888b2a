"""What a worker holds for its server: jobs with their code, and attempts of their tasks.

A `CachedJob` lives from the server's `job` message to its `job_end`, a `HeldAttempt` from `assign`
to its outcome. Neither knows which slot or executor comes next: that is decided in `workload`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent.errors import ProtocolError
from mmgevent.job.outputs import parts_plan
from mmgevent.machine import interpreter
from mmgevent.wire import failures
from mmgevent.wire.frames import MAX_PAYLOAD, Frame
from mmgevent.wire.lanes import INPUT_WINDOW, ReceiveWindow
from mmgevent.wire.limits import SHORT_WORK_S
from mmgevent.wire.partition_sets import is_partition_set
from mmgevent.wire.positions import position_of

if TYPE_CHECKING:
    from mmgevent.engine.net.link import Link

#: Most attempts of a slot: one runs, some wait, and some ended while the server's frames were on
#: their way.
MAX_ATTEMPTS = 64

#: Duration of a short task, at most, seconds. Attempts of short tasks are sent to an executor
#: before it is free, so that it does not idle between them.
SHORT_TASK_S = 0.05

#: Most recalls per slot that are remembered because they arrived before their attempt. Messages
#: outside of lanes can overtake those in lanes.
MAX_EARLY_RECALLS = 64

#: Longest value of an option in the error about it, bytes.
MAX_VALUE_BYTES = 200

#: Most frames that wait for one attempt to begin. Its window limits their bytes.
MAX_HELD_FRAMES = 1024

assert INPUT_WINDOW >= MAX_PAYLOAD  # else a frame of the largest size could never wait


class AttemptRunner(Protocol):
    """What runs attempts: an executor, or the offered functions of this engine's program."""

    @property
    def link(self) -> Link:
        """The link that carries frames of attempts to it and back."""

    @property
    def is_doomed(self) -> bool:
        """Whether it is dead or dying. It must get no more work."""


class CachedJob:
    """A job as its worker knows it: options and code."""

    def __init__(self, frame: Frame, message: dict[str, Any], window: ReceiveWindow):
        self.number = frame.job
        #: the `job` message, which executors get as it came
        self.frame = frame
        options = message["options"]
        #: what is wrong with its options, so that no attempt of it can run; None if nothing is
        self.fault = _find_fault(options)
        if self.fault is not None:
            options = {}
        self.greenlets: bool = (options.get("greenlets") or 0) > 1
        #: interpreter flags of its executors, see `interpreter.GROUPS`
        self.flags: tuple[str, ...] = tuple(options.get("flags") or ())
        self.task_timeout_s: float | None = options.get("task_timeout")
        self.memory_limit_bytes: int | None = options.get("memory_limit")
        #: None also if it has no setupfn
        self.setup_timeout_s: float | None = options.get("setup_timeout")
        #: offered functions that it calls, see `Functions.describe_offered`; empty for most jobs
        self.offered: dict[str, Any] = options.get("offered") or {}
        self.offered_phases: frozenset[str] = frozenset(self.offered.get("phases", ()))
        #: options about items that fail, for offered functions
        self.failure_rules = {name: options.get(name) or 0 for name in ("retries", "max_skipped")}
        #: rules for records that must be plain data, which executors read; None if there are none
        self.plain: dict[str, Any] | None = options.get("plain")
        #: nobody wants what its functions print, until somebody looks
        self.is_silent: bool = options.get("silent", False)
        #: length of the whole `code`, bytes
        self.lane_bytes: int = message.get("context_bytes", 0) + message["code_bytes"]
        #: what executors get, as far as it has arrived: the driver's surroundings, if it runs on
        #: this machine, and the code
        self.code = bytearray()
        #: credit of the lane in which the code arrives
        self.window = window
        #: templates that ended while it had executors of them, on this worker
        self.template_deaths = 0
        #: {whether tasks are map tasks: their recent duration, seconds}; empty until one is done
        self._recent_s: dict[bool, float] = {}

    @property
    def has_limits(self) -> bool:
        """Whether its executors must be watched for limits."""
        limits = (self.task_timeout_s, self.memory_limit_bytes, self.setup_timeout_s)
        return any(limit is not None for limit in limits)

    @property
    def is_complete(self) -> bool:
        """Whether the whole code has arrived."""
        return len(self.code) == self.lane_bytes

    @property
    def is_short(self) -> bool:
        """Whether tasks of one of its phases were short lately."""
        return max(self.most_sent(True), self.most_sent(False)) > 1

    def find_fault(self, assignment: dict[str, Any], *, has_offering: bool) -> str | None:
        """Return why an assignment cannot be done here, or None if it can.

        `has_offering`: whether this worker offers functions.
        """
        if assignment["phase"] in self.offered_phases and not has_offering:
            return "the job calls functions that a worker offers, and this worker offers none"
        if assignment["phase"] == "map" and not assignment.get("lo", 0) < assignment.get("hi", 0):
            return "the assignment is of no items"
        return None

    def most_sent(self, is_map: bool) -> int:
        """Return how many attempts an executor may have at once, by recent durations."""
        recent_s = self._recent_s.get(is_map, math.inf)
        if recent_s >= SHORT_TASK_S:
            return 1
        if recent_s * MAX_ATTEMPTS < SHORT_WORK_S:
            return MAX_ATTEMPTS
        return max(2, int(SHORT_WORK_S / recent_s))

    def add_duration(self, is_map: bool, seconds: float) -> None:
        """Count a done task. The average follows a change of durations within three tasks."""
        self._recent_s[is_map] = (self._recent_s.get(is_map, seconds) + seconds) / 2


class HeldAttempt:
    """An attempt that this worker was given, and its input until it is sent to an executor."""

    def __init__(self, job: CachedJob, frame: Frame, message: dict[str, Any]):
        """`frame` is the `assign` of the server, `message` what it says."""
        self.number = frame.attempt
        self.lane = frame.lane
        self.job = job
        #: index of its slot
        self.slot: int = message["slot"]
        self.is_map = message["phase"] == "map"
        #: whether offered functions run it, rather than an executor of its job
        self.is_offered = message["phase"] in job.offered_phases
        #: what runs it, once it was sent there
        self.executor: AttemptRunner | None = None
        self.is_revoked = False
        self._items = (message.get("lo", 0), message.get("hi", 0), message.get("skip", ()))
        self._frames = [frame]
        self._held_bytes = 0

    @property
    def only_item(self) -> int | None:
        """The position of the only item of a map attempt, or None if it has several."""
        lo, hi, skip = self._items
        left = {position_of(entry) for entry in range(lo, hi)}.difference(skip) if self.is_map else set()
        return left.pop() if len(left) == 1 else None

    @property
    def entry_count(self) -> int:
        """The number of entries of its range: items, or files of them; 0 of a reduce attempt."""
        lo, hi, _ = self._items
        return int(hi - lo)

    def take_input(self, frame: Frame) -> None:
        """Pass a frame of its input on, or keep it until the attempt is sent.

        Raises ProtocolError for more input than its window.
        """
        if self.executor is not None:
            self.executor.link.send_in_lane(frame)
            return
        self._frames.append(frame)
        self._held_bytes += len(frame.payload)
        if self._held_bytes > INPUT_WINDOW or len(self._frames) > MAX_HELD_FRAMES:
            raise ProtocolError(f"{self._held_bytes} bytes of input came for an attempt that has not begun")

    def send_to(self, executor: AttemptRunner) -> None:
        """Send the assignment and the input so far. Later input follows as it comes."""
        self.executor = executor
        for frame in self._frames:
            executor.link.send_in_lane(frame)
        self._frames = []


class EarlyRecalls:
    """Numbers of attempts whose recall came before them."""

    def __init__(self, slot_count: int):
        self._limit = MAX_EARLY_RECALLS * slot_count
        self._numbers: dict[int, None] = {}  # oldest first

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int) -> None:
        """Remember one, and forget the oldest if there are too many."""
        self._numbers[number] = None
        if len(self._numbers) > self._limit:
            del self._numbers[next(iter(self._numbers))]


def _find_fault(options: dict[str, Any]) -> str | None:
    """Return which option a driver's own check would have refused, or None if all are in range."""
    from mmgevent.job.options import find_fault  # here, since it takes 8 ms: once there is a job

    given = {name: value for name, value in options.items() if value is not None}
    for name, (fits, words) in _WORKER_OPTIONS.items():
        if name in given and not fits(given[name]):
            value = failures.shorten(ascii(given[name]), MAX_VALUE_BYTES)
            return f"option {name} must be {words}; got {value}"
    return find_fault(given)


#: Options that drivers add for workers -> check and range in words.
_WORKER_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "flags": (
        interpreter.are_flags,
        f"a list of at most one of each of {', '.join(map(' or '.join, interpreter.GROUPS))}, in that order, or null",
    ),
    "offered": (
        lambda value: type(value) is dict and value.get("phases") in (["map"], ["reduce"], ["map", "reduce"]),
        'an object that has the "phases" it is of, or null',
    ),
    "plain": (
        lambda value: (
            type(value) is dict and _are_names(value.get("modules")) and _are_pairs(value.get("classes"))
        ),
        'an object of "modules", a list of names, and "classes", a list of pairs of names, or null',
    ),
    "unwanted": (is_partition_set, "a set of partitions in hexadecimal, or null"),
    "write_parts": (lambda value: parts_plan.find_fault(value) is None, "a plan of parts to write, or null"),
    **dict.fromkeys(("logs", "silent"), (lambda value: value is True, "true, or null")),
}


def _are_names(value: Any) -> bool:
    return type(value) is list and all(type(name) is str for name in value)


def _are_pairs(value: Any) -> bool:
    return type(value) is list and all(_are_names(pair) and len(pair) == 2 for pair in value)
