"""Tasks and their attempts: in which states they can be, and what may happen to them there.

Every legal change of an attempt's or a task's state is a row of `ATTEMPT_TRANSITIONS` or
`TASK_TRANSITIONS`. A pair that is not there is a fault of whoever reported it and raises `SchedulerError`
before anything has changed.

An attempt is known to be queued or running only by inference: the one queued behind another begins when
that one ends. Its worker may know better, so everything that can end a running attempt can end a queued
one too. Only an answer to a recall needs a recall.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from mmgevent.errors import SchedulerError
from mmgevent.wire.positions import ALL, Part

if TYPE_CHECKING:
    from mmgevent.engine.scheduler.ledger import Ledger
    from mmgevent.engine.scheduler.roster import Slot


class AttemptState(enum.IntEnum):
    """Where an attempt stands. (IntEnum: its hash is C code, and the tables are on the hot path.)"""

    QUEUED = enum.auto()  #: behind another attempt on its slot; may be recalled
    RECALLED = enum.auto()  #: queued, and its worker was asked for it
    KEPT = enum.auto()  #: its worker refused, since its executor has it: it begins behind the others there
    RUNNING = enum.auto()  #: begun, as far as is known here
    CONTESTED = enum.auto()  #: taken for begun while the recall was on its way: the answer decides
    ENDED = enum.auto()  #: committed or discarded; later messages about it are ignored


class AttemptEvent(enum.IntEnum):
    """What can happen to an attempt."""

    BEGAN = enum.auto()  #: inferred: the attempt before it ended
    ASKED_BACK = enum.auto()  #: a recall was sent
    REFUSED = enum.auto()  #: the recall was refused
    RETURNED = enum.auto()  #: given back, not begun
    SUCCEEDED = enum.auto()  #: its output has arrived whole
    FAILED = enum.auto()  #: a user exception
    DIED = enum.auto()  #: its executor died under it
    UNPREPARED = enum.auto()  #: the job's setupfn failed in its executor, or killed it
    LACKED_CONTENT = enum.auto()  #: the files it names are not there
    LOST = enum.auto()  #: its worker is gone
    REVOKED = enum.auto()  #: another attempt counts, or the job is over


class TaskState(enum.IntEnum):
    """Where a task stands."""

    WAITING = enum.auto()  #: no attempt has it
    HELD = enum.auto()  #: it has one live attempt, or two
    BLOCKED = enum.auto()  #: waits for the contents of its batch
    DONE = enum.auto()  #: committed, or nothing of it is left to do


class TaskEvent(enum.IntEnum):
    """What can happen to a task."""

    ASSIGNED = enum.auto()  #: an attempt was made of it
    COMMITTED = enum.auto()  #: one of its attempts counts
    FREED = enum.auto()  #: its last attempt ended without counting
    LACKED_CONTENT = enum.auto()  #: the same, and it needs the contents first
    CONTENT_CAME = enum.auto()  #: the contents of its batch are here
    DROPPED = enum.auto()  #: every item of it was set aside


_A, _AE = AttemptState, AttemptEvent
_LIVE = (_A.QUEUED, _A.RECALLED, _A.KEPT, _A.RUNNING, _A.CONTESTED)
_ENDINGS = (
    _AE.RETURNED,
    _AE.SUCCEEDED,
    _AE.FAILED,
    _AE.DIED,
    _AE.UNPREPARED,
    _AE.LACKED_CONTENT,
    _AE.LOST,
    _AE.REVOKED,
)

ATTEMPT_TRANSITIONS: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (_A.QUEUED, _AE.BEGAN): _A.RUNNING,
    (_A.QUEUED, _AE.ASKED_BACK): _A.RECALLED,
    (_A.RECALLED, _AE.BEGAN): _A.CONTESTED,
    (_A.RECALLED, _AE.REFUSED): _A.KEPT,  # never asked for again
    (_A.KEPT, _AE.BEGAN): _A.RUNNING,
    (_A.CONTESTED, _AE.REFUSED): _A.RUNNING,
    **{(state, event): _A.ENDED for state in _LIVE for event in _ENDINGS},
}

_T, _TE = TaskState, TaskEvent

TASK_TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (_T.WAITING, _TE.ASSIGNED): _T.HELD,
    (_T.WAITING, _TE.DROPPED): _T.DONE,
    (_T.HELD, _TE.ASSIGNED): _T.HELD,  # a duplicate of a straggler
    (_T.HELD, _TE.COMMITTED): _T.DONE,
    (_T.HELD, _TE.FREED): _T.WAITING,
    (_T.HELD, _TE.LACKED_CONTENT): _T.BLOCKED,
    (_T.HELD, _TE.DROPPED): _T.DONE,
    (_T.BLOCKED, _TE.CONTENT_CAME): _T.WAITING,
}


def _by_state(table: dict[tuple[Any, Any], Any], states: type[enum.Enum]) -> dict[Any, dict[Any, Any]]:
    """The same table by state and then event: half the time of a look-up by both, and an event makes two of them."""
    return {
        state: {event: to for (before, event), to in table.items() if before is state} for state in states
    }


_NEXT_ATTEMPT_STATES = _by_state(ATTEMPT_TRANSITIONS, AttemptState)
_NEXT_TASK_STATES = _by_state(TASK_TRANSITIONS, TaskState)


class Task:
    """A range of a batch to map, or some partitions to reduce."""

    __slots__ = (
        "attempts",
        "batch",
        "deaths",
        "failures",
        "hi",
        "is_suspect",
        "items",
        "ledger",
        "lo",
        "number",
        "part",
        "partitions",
        "skip",
        "state",
        "unprepared",
    )

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        batch: int,
        lo: int,
        hi: int,
        skip: tuple[int, ...] = (),
        partitions: tuple[int, ...] = (),
        *,
        part: Part = ALL,
        closed: int = 0,
    ):
        """`closed`: how many of its entries have nothing left to be mapped, since all was set aside."""
        self.ledger = ledger
        self.number = number
        self.batch = batch  #: 0 in reduce
        self.lo = lo
        self.hi = hi
        self.skip = skip  #: ascending positions of items in [lo, hi) that were set aside
        self.part = part  #: of its only entry, which part it maps; ALL for most
        self.items = hi - lo - closed  #: entries still to be mapped by it; 0 in reduce
        self.partitions = partitions
        self.state = TaskState.WAITING
        self.attempts: list[Attempt] = []  #: the live ones
        self.deaths = 0  #: executors that died under it
        self.failures = 0  #: user exceptions that named no item
        self.is_suspect = False  #: made to find a culprit: its first death or failure counts
        self.unprepared = 0  #: executors that could not be set up for it

    def set_range(self, lo: int, hi: int, skip: tuple[int, ...], closed: int) -> None:
        """Change which entries of the batch it is of."""
        self.lo, self.hi, self.skip = lo, hi, skip
        self.items = hi - lo - closed

    @property
    def is_alone(self) -> bool:
        """Whether it is an item of a "oneshot" job: neither queued nor queued behind."""
        return self.batch != 0 and self.ledger.oneshot is not None

    def turn(self, event: TaskEvent) -> None:
        """Change the state by the table; SchedulerError if it has no such row."""
        state = _NEXT_TASK_STATES[self.state].get(event)
        if state is None:
            raise SchedulerError(f"task {self.number} is {self.state.name}: {event.name} cannot happen to it")
        self.state = state


class Attempt:
    """One execution of a task by one slot."""

    __slots__ = ("had_content", "number", "slot", "started_s", "state", "task")

    def __init__(self, number: int, task: Task, slot: Slot, state: AttemptState, had_content: bool):
        self.number = number
        self.task = task
        self.slot = slot
        self.state = state
        self.started_s: float | None = None  #: when it began or was kept, as far as is known here
        self.had_content = had_content  #: its input was sent with the contents of the files

    def turn(self, event: AttemptEvent) -> None:
        """Change the state by the table; SchedulerError if it has no such row."""
        state = _NEXT_ATTEMPT_STATES[self.state].get(event)
        if state is None:
            raise SchedulerError(
                f"attempt {self.number} is {self.state.name}: {event.name} cannot happen to it"
            )
        self.state = state
