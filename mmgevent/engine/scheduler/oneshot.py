"""Jobs of which every worker gets one item ("oneshot").

An item reaches its worker in three steps:

1. The job *promises* an item to each worker that is there when it is submitted, or joins in time.
   The driver may send as many batches as items were promised or given.
2. An item that arrives is *reserved* for the worker that has waited longest. Meanwhile nothing is
   queued on that worker.
3. The item is assigned as soon as a slot of that worker is idle.

No item is tried twice. An item that was on a worker when that disconnected is lost, which is
reported but is nobody's fault.

The job accepts workers until all that got an item have answered, and for at most `JOIN_WINDOW_S`
after the first answer. Then its input counts as ended, whatever the driver has left.

Invariant: a worker is promised an item, has one reserved, was given one, or will get none. An item
that is returned before it began is promised to the same worker again, if that stays.
"""

from __future__ import annotations

from collections import OrderedDict

from mmgevent.engine.scheduler.attempts import Task, Worker
from mmgevent.engine.scheduler.ledger import Ledger
from mmgevent.engine.scheduler.roster import Roster
from mmgevent.engine.scheduler.rules import MAP, JobRules

#: Time after its first answer during which a job accepts joining workers, seconds.
JOIN_WINDOW_S = 10.0


class OneshotLedger(Ledger):
    """The ledger of a "oneshot" job: also who gets, and who got, an item."""

    __slots__ = ("_first_answer_s", "_given", "_is_open", "_promised", "_roster")

    ignores_late_input = True  # batches may cross `EnoughInput`

    def __init__(self, number: int, rules: JobRules, now: float, roster: Roster):
        super().__init__(number, rules, now)
        self.is_shared = False
        self.retries = 0
        self.retransmit = 0
        self._roster = roster
        self._promised: OrderedDict[Worker, None] = OrderedDict()  # longest waiting workers first
        self._given = 0  # items that were reserved for a worker, and not returned
        self._first_answer_s: float | None = None
        self._is_open = True  # workers that join still get an item

    def _next_allowance(self) -> tuple[int, int]:
        """Return how many batches the driver should be allowed: one for each worker."""
        return self._given + len(self._promised), 1

    def add_batch(self, number: int, entries: int, has_refs: bool) -> None:
        """Add a batch of at least one entry, as a waiting task for each."""
        batch = self.input.add_batch(number, entries, has_refs)
        for lo in range(entries):
            self.enqueue(Task(self, self._next_task(), batch, lo, lo + 1, is_exclusive=True))

    def end(self) -> None:
        """End the job: no item waits or is reserved any longer."""
        for worker in list(self.reserved):
            self._roster.take_reserved(worker, self)
        super().end()

    def worker_joined(self, worker: Worker, now: float) -> None:
        """Promise an item to a worker, if it can still get one."""
        may_come = self.phase == MAP and (self.waiting or not self.input.has_ended)
        if worker.slots and not worker.is_leaving and may_come and not self._is_closed(now):
            self._promised[worker] = None
            self.distribute()

    def withdraw(self, worker: Worker) -> bool:
        """Take back what was promised to a worker that leaves. Return whether anything was."""
        if worker in self._promised:
            del self._promised[worker]
            return True
        if worker in self.reserved:
            self.enqueue(self._roster.take_reserved(worker, self), first=True)
            self._given -= 1
            return True
        return False

    def distribute(self) -> None:
        """Reserve waiting items for the workers that were promised one. Drop vain promises."""
        while self.waiting and self._promised:
            worker, _ = self._promised.popitem(last=False)
            self._roster.reserve(worker, self, self.dequeue())
            self._given += 1
        if self.input.has_ended and not self.has_blocked:
            self._promised.clear()

    def has_distributed_all(self, now: float) -> bool:
        """Return whether no further worker will get an item. Waiting items are lost then."""
        if self._promised:
            return False
        under_way = self.input.open_entries - len(self.waiting)
        if self._given and not under_way:
            self._is_open = False
        return self._is_closed(now)

    def worker_answered(self, now: float) -> None:
        """Begin the time during which workers may still join."""
        if self._first_answer_s is None:
            self._first_answer_s = now

    def give_back(self, task: Task, worker: Worker) -> None:
        """Promise an item to the worker that returned it, before all others."""
        if not task.is_exclusive:
            return
        self._given -= 1
        if not worker.is_leaving:
            self._promised[worker] = None
            self._promised.move_to_end(worker, last=False)

    def retry_setup(self, task: Task, worker: Worker) -> None:
        """Let the worker try its item once more: no other worker may."""
        if task.is_exclusive:
            self.give_back(task, worker)
        else:
            super().retry_setup(task, worker)

    def _is_closed(self, now: float) -> bool:
        """Return whether joining workers no longer get an item."""
        if self._first_answer_s is not None and now >= self._first_answer_s + JOIN_WINDOW_S:
            self._is_open = False
        return not self._is_open
