"""The states of attempts and tasks, and what may happen in each of them.

Every legal change is a row of `ATTEMPT_TRANSITIONS` or `TASK_TRANSITIONS`. A pair that is not there
is an error of whoever reported the event. It raises `SchedulerError` before anything has changed.

The scheduler only infers whether an attempt is queued or running: the attempt queued behind
another one begins when that one ends. Its worker may know better. So everything that can end a
running attempt can end a queued one too. Only an answer to a recall requires a recall.
"""

from __future__ import annotations

import enum
from typing import Any


class AttemptState(enum.IntEnum):
    """Where an attempt stands. IntEnum, since its hash is C code: hot paths look states up."""

    QUEUED = enum.auto()  #: behind another attempt on its slot; may be recalled
    RECALLED = enum.auto()  #: queued, and its worker was asked to return it
    KEPT = enum.auto()  #: its worker refused, since its executor has it; it begins in its turn
    RUNNING = enum.auto()  #: begun, as far as the scheduler knows
    CONTESTED = enum.auto()  #: recalled, and seems to have begun meanwhile; the answer decides
    ENDED = enum.auto()  #: committed or discarded; later messages about it are ignored


class AttemptEvent(enum.IntEnum):
    """What can happen to an attempt."""

    BEGAN = enum.auto()  #: inferred: the attempt before it ended
    ASKED_BACK = enum.auto()  #: a recall was sent
    REFUSED = enum.auto()  #: the recall was refused
    RETURNED = enum.auto()  #: its worker returned it without having begun
    SUCCEEDED = enum.auto()  #: its output has arrived whole
    FAILED = enum.auto()  #: a user exception
    DIED = enum.auto()  #: its executor died while running it
    UNPREPARED = enum.auto()  #: the job's setupfn failed in its executor, or killed it
    LACKED_CONTENT = enum.auto()  #: the files that it names are not there
    LOST = enum.auto()  #: its worker disconnected
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
    LACKED_CONTENT = enum.auto()  #: its last attempt ended because contents of files were missing
    CONTENT_ARRIVED = enum.auto()  #: the contents of its batch arrived
    DROPPED = enum.auto()  #: all its items were set aside or lost


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
    (_A.RECALLED, _AE.REFUSED): _A.KEPT,  # never recalled again
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
    (_T.BLOCKED, _TE.CONTENT_ARRIVED): _T.WAITING,
}


def _by_state(table: dict[tuple[Any, Any], Any], states: type[enum.Enum]) -> dict[Any, dict[Any, Any]]:
    """Return the same table by state and then event: a look-up takes half the time."""
    return {
        state: {event: to for (before, event), to in table.items() if before is state} for state in states
    }


#: The tables above, by state and then event. Every event of the scheduler looks up two changes.
NEXT_ATTEMPT_STATES: dict[AttemptState, dict[AttemptEvent, AttemptState]] = _by_state(
    ATTEMPT_TRANSITIONS, AttemptState
)
NEXT_TASK_STATES: dict[TaskState, dict[TaskEvent, TaskState]] = _by_state(TASK_TRANSITIONS, TaskState)
