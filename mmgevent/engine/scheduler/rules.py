"""What a job asks of the scheduler, and how far it is."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from mmgevent.errors import SchedulerError

#: The phases of a job. Between map and reduce the server plans the reduce tasks.
MAP, PLAN, REDUCE = "map", "plan", "reduce"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobRules:
    """The options of a job that concern scheduling."""

    retries: int = 0  #: times an item is tried again after a user exception
    retransmit: float = 0.05  #: share of slots that may run duplicates of slow tasks; 0: none
    allocation: str = "continuous"  #: "continuous", or "oneshot": every worker gets one item
    max_skipped: float = 0  #: items that may be set aside; a float below 1 is a share of all items
    items_per_call: int = 1  #: items that mapfn gets at once
    needs: frozenset[str] = frozenset()  #: functions that a worker has to offer
    owner: int = 0  #: who submitted it; owners share the slots evenly

    def __post_init__(self) -> None:
        if self.allocation not in ("continuous", "oneshot"):
            raise SchedulerError(f'allocation is "continuous" or "oneshot", not {self.allocation!r}')
        if self.retries < 0 or self.retransmit < 0 or self.max_skipped < 0:
            raise SchedulerError("retries, retransmit and max_skipped cannot be negative")


class JobStatus(NamedTuple):
    """How far a job is. `done` and `total` count items in map and plan, tasks in reduce."""

    phase: str  #: "map", "plan" or "reduce"
    done: int  #: items or tasks done; in map including items set aside or lost
    total: int | None  #: None while the driver still reads its datasource
    waiting: int  #: tasks that no slot has yet
    running: int  #: live attempts, including queued ones
    skipped: int  #: items set aside or lost
    slots: int  #: slots of the workers that may serve the job
    busy: int  #: slots that have attempts of the job
