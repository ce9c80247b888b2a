"""Jobs of which every worker gets one item ("oneshot").

Workers that are there when the job comes, or join in time, are *promised* an item; the driver may send
as many batches as were promised or given. An item that arrives is *bound* to the worker that was promised one
longest ago, and assigned as soon as one of its slots is idle; until then nothing is queued on that worker.
No item is tried twice: one that went with its worker is lost, which is reported, but blames nobody.

The job takes in workers until the last of those that got an item has answered, and for `JOIN_WINDOW_S`
after its first answer at most. Then its input is taken as ended, whatever the driver has left.

Invariant: a worker is promised an item, or has one bound, or was given one, or will get none; an item that
comes back unbegun is promised to the same worker again, if it stays.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmgevent.engine.scheduler.attempts import Task
    from mmgevent.engine.scheduler.ledger import Ledger
    from mmgevent.engine.scheduler.roster import Roster, Worker

#: Seconds after its first answer during which a job takes in joining workers.
JOIN_WINDOW_S = 10.0


class Oneshot:
    """Who gets, and who got, an item of such a job."""

    __slots__ = ("_ledger", "_roster", "bound", "debtors", "first_answer_s", "given", "is_open")

    def __init__(self, ledger: Ledger, roster: Roster):
        self._ledger = ledger
        self._roster = roster
        self.debtors: OrderedDict[Worker, None] = OrderedDict()  #: workers that were promised an item
        self.bound: dict[Worker, Task] = {}  #: items that wait for an idle slot of their worker
        self.given = 0  #: items that were bound to a worker, and stayed so
        self.first_answer_s: float | None = None
        self.is_open = True  #: workers that join still get an item

    def is_late(self, now: float) -> bool:
        """Whether joining workers get nothing any more."""
        if self.first_answer_s is not None and now >= self.first_answer_s + JOIN_WINDOW_S:
            self.is_open = False
        return not self.is_open

    def answered(self, now: float) -> None:
        """An item came to an end by its worker's word."""
        if self.first_answer_s is None:
            self.first_answer_s = now

    def promise(self, worker: Worker, now: float) -> None:
        """Promise an item to a worker that joined, if there can be one for it."""
        may_come = self._ledger.waiting or not self._ledger.input_ended
        if worker.slots and not worker.is_leaving and may_come and not self.is_late(now):
            self.debtors[worker] = None
            self.bind()

    def promise_again(self, worker: Worker) -> None:
        """Promise an item to a worker that gave one back unbegun, before all others."""
        self.given -= 1
        if not worker.is_leaving:
            self.debtors[worker] = None
            self.debtors.move_to_end(worker, last=False)

    def bind(self) -> None:
        """Bind waiting items to the workers they were promised to; promise none that cannot come."""
        ledger = self._ledger
        while ledger.waiting and self.debtors:
            worker, _ = self.debtors.popitem(last=False)
            self.bound[worker] = worker.bound[ledger] = ledger.take()
            self.given += 1
            self._roster.owing[worker] = None
            self._roster.file_all(worker)
        if ledger.input_ended and not ledger.blocked:
            self.debtors.clear()

    def unbind(self, worker: Worker) -> Task:
        """Take the item out that is bound to a worker: to assign it, or because the job is over."""
        task = self.bound.pop(worker)
        del worker.bound[self._ledger]
        self._roster.file_all(worker)
        return task

    def take_back(self, worker: Worker) -> bool:
        """Take from a worker that leaves what it was not sent yet; whether there was anything."""
        if worker in self.debtors:
            del self.debtors[worker]
            return True
        if worker in self.bound:
            self._ledger.wait(self.unbind(worker), first=True)
            self.given -= 1
            return True
        return False

    def is_finished(self, now: float) -> bool:
        """Whether no worker will get an item any more, so that the items that still wait are lost."""
        if self.debtors:
            return False
        under_way = self._ledger.open_items - len(self._ledger.waiting)
        if self.given and not under_way:
            self.is_open = False
        return self.is_late(now)
