"""What of one job is still to be done, and what was counted.

The ledger of a job knows its batches, the tasks that wait, the items that are counted or set aside, and
how long its tasks take. It knows nothing of workers and slots, but for which attempts are live. A task
that is done leaves nothing here but a smaller number.

Invariants:

- every item that arrived is in exactly one place: open (in one task) or counted or set aside or lost;
- a batch is in `batches` while it has open items, and is released when it has none left;
- `waiting_items` is the number of open items in `waiting`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random as random_module
import statistics
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.engine.scheduler.attempts import Attempt, Task, TaskEvent
from mmgevent.errors import SchedulerError
from mmgevent.wire.failures import advise_on_skips
from mmgevent.wire.positions import WHOLE, entry_of, halves_of, place_of, position_of

if TYPE_CHECKING:
    from mmgevent.engine.scheduler.oneshot import Oneshot
    from mmgevent.engine.scheduler.roster import League, Worker

MAP, PLAN, REDUCE = "map", "plan", "reduce"

#: Executors that may die under one task before it is given up.
MAX_DEATHS = 3

#: Executors in which the job's setupfn may fail under one task before the job is given up.
MAX_UNPREPARED = 3

#: Batches a driver may always send: enough to be ready when the first workers come.
MIN_ALLOWED = 4

#: Batches a driver may be ahead, for each slot: one running, one queued.
BATCHES_PER_SLOT = 2

#: And this many more, under way or waiting.
BATCHES_AHEAD = 2

#: Attempts a slot holds: one running and one whose input is already there when the first ends; ...
DEPTH = 2

#: ... of short tasks as many as take this long, in seconds, since what an attempt costs at each of the processes that
#: it passes is halved when many go at once, ...
AHEAD_S = 0.02

#: ... and so many at most.
MAX_DEPTH = 32

_LONG_S = AHEAD_S / (DEPTH + 1)  # for those that take longer no slot is deeper than for any

#: Batches of such tasks that a driver may be ahead, for each attempt that a slot holds: it is told of half of them at
#: a time.
SHORT_BATCHES_PER_ATTEMPT = 4

#: While input still comes, a share of items that may be skipped is taken of at least this many: the very
#: first item failing is no reason to end a job of a million.
EARLY_ITEMS = 1_000

#: Tasks over which their recent duration is averaged.
RECENT_TASKS = 8

#: Durations kept of each phase, a random sample, for their median.
SAMPLE_SIZE = 101


@dataclasses.dataclass(frozen=True)
class JobRules:
    """The options of a job that concern scheduling."""

    retries: int = 0  #: times an item is tried again after a user exception
    retransmit: float = 0.05  #: share of slots that may run duplicates of stragglers; 0: none
    allocation: str = "continuous"  #: or "oneshot"
    max_skipped: float = 0  #: items that may be set aside; a float below 1 is a share of all items
    needs: frozenset[str] = frozenset()  #: functions a worker has to offer

    def __post_init__(self) -> None:
        if self.allocation not in ("continuous", "oneshot"):
            raise SchedulerError(f'allocation is "continuous" or "oneshot", not {self.allocation!r}')
        if self.retries < 0 or self.retransmit < 0 or self.max_skipped < 0:
            raise SchedulerError("retries, retransmit and max_skipped cannot be negative")


class JobStatus(NamedTuple):
    """How far a job is. `done` and `total` count items in map, tasks in reduce; `plan` is between them."""

    phase: str  #: "map", "plan" or "reduce"
    done: int  #: in map with the items set aside or lost
    total: int | None  #: None while the driver still reads its datasource
    waiting: int  #: tasks no slot has yet
    running: int  #: live attempts, the queued ones among them
    skipped: int  #: items set aside or lost
    slots: int  #: slots of the workers that may serve it


class Batch:
    """What is left of a batch."""

    __slots__ = ("blocked", "deaths", "failures", "has_content", "has_refs", "is_wanted", "left")

    def __init__(self, items: int, has_refs: bool):
        self.left = items  #: open entries, at least one; a part of an entry counts as one
        self.has_refs = has_refs  #: an entry may stand for any number of items
        self.has_content = False
        self.is_wanted = False  #: the driver was asked for the contents
        self.blocked: list[Task] = []  #: tasks that wait for the contents
        self.failures: dict[int, int] = {}  #: user exceptions by position
        self.deaths: dict[int, int] = {}  #: executors that died, by position


class Ledger:
    """The books of one job."""

    __slots__ = (
        "_last_task", "allowed", "avoided", "batches", "blocked", "depth", "duplicates", "durations", "entry", "has_refs",
        "input_ended", "is_over", "is_shared", "items_known", "items_mapped", "job", "kept", "largest_counted", "last_batch", "last_failure",
        "league", "live", "lost", "oldest", "oneshot", "open_items", "phase", "received", "recent_s", "reduce_left",
        "reduce_total", "released", "rules", "set_aside_count", "timed", "waiting", "waiting_items", "was_warned",
        "without_slots_s",
    )  # fmt: skip

    league: League  #: set when it enters one

    def __init__(self, job: int, rules: JobRules, now: float):
        self.job = job
        self.rules = rules
        self.phase = MAP
        self.is_over = False
        self.oneshot: Oneshot | None = None  #: set at once if every worker gets one item
        self.is_shared = True  #: whether any slot may take its tasks: not so the items of "oneshot" jobs
        self.input_ended = False
        self.batches: dict[int, Batch] = {}
        self.received = 0  #: batches
        self.released = 0  #: batches
        self.allowed = -1  #: batches the driver may send in all; -1: it was not told yet
        self.items_known = 0
        self.open_items = 0
        self.items_mapped = 0  #: counted by commits; of refs, what their files gave
        self.has_refs = False  #: how many items there are is known at the end only
        self.set_aside_count = 0
        self.lost = 0  #: items of "oneshot" jobs lost with their workers
        self.last_failure: dict[str, Any] = {}  #: why the last item was set aside
        #: workers where its setupfn failed, see `avoids`
        self.avoided: dict[Worker, None] = {}
        self.waiting: deque[Task] = deque()
        self.waiting_items = 0
        self.blocked = 0  #: tasks that wait for contents
        self.live: dict[Attempt, None] = {}  #: its share: attempts that run or are queued
        self.oldest: OrderedDict[Attempt, None] = OrderedDict()  #: running ones without a twin, oldest first
        self.kept: OrderedDict[Attempt, None] = OrderedDict()  #: kept ones without a twin, the longest first
        self.duplicates = 0  #: tasks with two live attempts
        self.durations: list[float] = []
        self.timed = 0  #: tasks of this phase whose duration was seen
        self.recent_s = AHEAD_S  #: how long they took lately: of the last RECENT_TASKS or so
        self.depth = DEPTH  #: attempts of it that a slot may hold
        self.last_batch = 0  #: items of the batch that came last
        self.largest_counted = 0  #: items of the largest task that was committed
        self.reduce_left = 0  #: tasks
        self.reduce_total = 0
        self.entry: tuple[int, int, Ledger] | None = None  #: its place in the league's heap
        self.without_slots_s = now  #: since when no slot could serve it, while that is so
        self.was_warned = False
        self._last_task = 0

    @property
    def has_tasks_to_give(self) -> bool:
        """Whether a slot may take one of its tasks now."""
        return self.is_shared and bool(self.waiting)

    @property
    def retries(self) -> int:
        """Times an item or a reduce task is tried again after a user exception."""
        return 0 if self.oneshot is not None else self.rules.retries

    @property
    def is_mapped(self) -> bool:
        """Whether every item there is was counted, set aside or lost."""
        return self.input_ended and not self.open_items

    def status(self) -> JobStatus:
        """How far it is."""
        skipped = self.set_aside_count + self.lost
        waiting = len(self.waiting) + self.blocked + (len(self.oneshot.bound) if self.oneshot else 0)
        if self.phase == REDUCE:
            done, total = self.reduce_total - self.reduce_left, self.reduce_total
        else:
            done, total = self.items_known - self.open_items, self.items_known
        known = total if self.input_ended else None
        return JobStatus(self.phase, done, known, waiting, len(self.live), skipped, self.league.slots)

    def next_allowance(self) -> int | None:
        """Batches the driver may have sent by now, if it is worth telling: more than it knows, of short tasks many more.

        While its batches still grow it is not let far ahead, or it would cut many more of the old size.
        """
        step = 1
        if self.oneshot is not None:
            allowance = self.oneshot.given + len(self.oneshot.debtors)
        else:
            slots = self.league.slots
            ahead = BATCHES_PER_SLOT * slots + BATCHES_AHEAD
            if self.depth > DEPTH and self.last_batch <= self.largest_counted:
                wide = SHORT_BATCHES_PER_ATTEMPT * self.depth * slots
                ahead += wide
                step = max(1, wide // 2)
            allowance = max(MIN_ALLOWED, self.released + ahead)
        return allowance if allowance >= self.allowed + step else None

    def add_batch(self, number: int, items: int, has_refs: bool) -> None:
        """Take in a batch of at least one entry, as one task ("oneshot": a task an item)."""
        self.batches[number] = Batch(items, has_refs)
        self.has_refs = self.has_refs or has_refs
        self.last_batch = items
        self.items_known += items
        self.open_items += items
        if self.is_shared:
            self.wait(Task(self, self._next_task(), number, 0, items))
            return
        for lo in range(items):
            self.wait(Task(self, self._next_task(), number, lo, lo + 1))

    def add_reduce_tasks(self, groups: list[tuple[int, ...]]) -> None:
        """Begin the reduce phase with these partitions for each task."""
        self.phase = REDUCE
        self.is_shared = True
        self.reduce_left = self.reduce_total = len(groups)
        self.durations.clear()
        self.timed = 0
        self.recent_s, self.depth = AHEAD_S, DEPTH  # those of maps say nothing of these
        for partitions in groups:
            self.wait(Task(self, self._next_task(), 0, 0, 0, (), tuple(partitions)))

    def wait(self, task: Task, *, first: bool = False) -> None:
        """Put a task into the queue."""
        if first:
            self.waiting.appendleft(task)
        else:
            self.waiting.append(task)
        self.waiting_items += task.items
        if self.is_shared:
            self.league.waiting += 1

    def take(self) -> Task:
        """Take the first task out of the queue."""
        task = self.waiting.popleft()
        self.waiting_items -= task.items
        if self.is_shared:
            self.league.waiting -= 1
        return task

    def take_to_spread(self) -> Task:
        """Take the first task out, or a piece of it where the rest can occupy slots that have nothing to do.

        At the end of the input idle slots are shared out by items: a task gets its part of those that
        are not needed for the waiting tasks of other jobs.
        """
        task = self.waiting[0]
        if task.items > 1 and not task.deaths and not task.failures and self._may_spread():
            idle, league = self.league.idle_count(), self.league
            if idle > league.waiting:
                share = idle - (league.waiting - len(self.waiting))
                pieces = min(task.items, share * task.items // self.waiting_items)
                if pieces > 1:
                    self.take()
                    for piece in reversed(self.cut(task, pieces)):
                        self.wait(piece, first=True)
        return self.take()

    def cut(self, task: Task, pieces: int) -> list[Task]:
        """Cut a task that no attempt and no queue has into so many ranges, less those without open items.

        The first is the task itself. What it has died and failed of, all of them inherit.
        """
        lo, width, skip = task.lo, task.hi - task.lo, task.skip
        bounds = [lo + width * i // pieces for i in range(pieces + 1)]
        cuts: list[Task] = []
        for start, end in itertools.pairwise(bounds):
            skipped = tuple(i for i in skip if start <= entry_of(i) < end)
            closed = self._count_closed(task.batch, skipped)
            if closed == end - start:
                continue
            piece = task if not cuts else Task(self, self._next_task(), task.batch, start, end)
            piece.set_range(start, end, skipped, closed)
            piece.deaths, piece.failures, piece.is_suspect = task.deaths, task.failures, task.is_suspect
            piece.unprepared = task.unprepared
            cuts.append(piece)
        return cuts

    def cut_entry(self, task: Task) -> list[Task]:
        """Cut a task of one entry, that no attempt and no queue has, in two parts of that entry."""
        (entry,) = [
            e for e in range(task.lo, task.hi) if position_of(e, WHOLE) not in task.skip
        ]  # the others are closed
        skip = tuple(position for position in task.skip if entry_of(position) == entry)
        first, second = halves_of(task.part)
        task.set_range(entry, entry + 1, skip, 0)
        task.part = first
        rest = Task(self, self._next_task(), task.batch, entry, entry + 1, skip, part=second)
        rest.deaths, rest.failures, rest.is_suspect = task.deaths, task.failures, task.is_suspect
        rest.unprepared = task.unprepared
        self.batches[task.batch].left += 1
        self.open_items += 1
        self.items_known += 1
        return [task, rest]

    def _count_closed(self, batch: int, skip: tuple[int, ...]) -> int:
        """Return how many entries have nothing left, of those that these positions are of."""
        if self.batches[batch].has_refs:
            return sum(place_of(position) == WHOLE for position in skip)
        return len(skip)

    def avoids(self, worker: Worker) -> bool:
        """Whether a worker gets no task, since the job's setupfn failed there and there are others.

        If it has failed on every worker there is, none is avoided any more.
        """
        if worker not in self.avoided:
            return False
        if sum(len(each.slots) for each in self.avoided if not each.is_leaving) < self.league.slots:
            return True
        self.avoided.clear()
        return False

    def count(self, task: Task) -> bool:
        """Count a committed task; whether that was the last of its batch, which is then forgotten."""
        if not task.batch:
            self.reduce_left -= 1
            return False
        if task.items > self.largest_counted:
            self.largest_counted = task.items
        return self._close_items(task.batch, task.items)

    def count_death(self, task: Task, item: int | None) -> int:
        """Count a death; the number of them that this item, or the task, has seen.

        Where items may be set aside, each has a count of its own: several culprits in a task are no reason to give
        up the one that kills last.
        """
        task.deaths += 1
        if item is None:
            return task.deaths
        deaths = self.batches[task.batch].deaths
        deaths[item] = deaths.get(item, 0) + 1
        return deaths[item] if self.rules.max_skipped else task.deaths

    def count_failure(self, task: Task, item: int | None) -> int:
        """Count a user exception; the number of them that this item, or task without one, has seen."""
        if item is None:
            task.failures += 1
            return task.failures
        failures = self.batches[task.batch].failures
        failures[item] = failures.get(item, 0) + 1
        return failures[item]

    def set_aside(self, task: Task, item: int, failure: dict[str, Any]) -> bool:
        """Give up an item; whether that was the last of its batch, which is then forgotten."""
        self.set_aside_count += 1
        self.last_failure = failure
        skip = tuple(sorted((*task.skip, item)))
        left = task.items
        task.set_range(task.lo, task.hi, skip, self._count_closed(task.batch, skip))
        return self._close_items(task.batch, left - task.items)

    def lose(self, task: Task) -> bool:
        """Give up a "oneshot" item that went with its worker; as `set_aside`, but within no limit."""
        self.lost += 1
        return self._close_items(task.batch, 1)

    def skip_limit(self) -> float:
        """Items that may be set aside, as far as the input is known; without bound while that tells nothing."""
        limit = self.rules.max_skipped
        if not (isinstance(limit, float) and limit < 1):
            return limit
        if self.has_refs:
            return limit * (self.items_mapped + self.set_aside_count) if self.is_mapped else math.inf
        return limit * (self.items_known if self.input_ended else max(self.items_known, EARLY_ITEMS))

    @property
    def has_too_many_skipped(self) -> bool:
        """Whether more items were set aside than may be."""
        return self.set_aside_count > self.skip_limit()

    def too_many_skipped(self, failure: dict[str, Any]) -> dict[str, Any]:
        """The failure that ends the job when an item more than allowed fails by this one."""
        limit = self.rules.max_skipped
        known = self.items_mapped + self.set_aside_count if self.has_refs else self.items_known
        return advise_on_skips(failure, known, limit)

    def time(self, seconds: float, random: random_module.Random) -> None:
        """Note how long a task took: a uniform sample of them is kept (Vitter's algorithm R)."""
        self.recent_s += (seconds - self.recent_s) / RECENT_TASKS
        if self.recent_s > _LONG_S:
            self.depth = DEPTH
        elif self.recent_s * MAX_DEPTH > AHEAD_S:
            self.depth = int(AHEAD_S / self.recent_s)
        else:
            self.depth = MAX_DEPTH
        self.timed += 1
        if len(self.durations) < SAMPLE_SIZE:
            self.durations.append(seconds)
            return
        index = int(random.random() * self.timed)
        if index < SAMPLE_SIZE:
            self.durations[index] = seconds

    def median_s(self) -> float | None:
        """The median duration of this phase's tasks, of a sample; None before the first is done."""
        return statistics.median(self.durations) if self.durations else None

    def unblock(self, batch: Batch) -> None:
        """Queue the tasks that waited for the contents of a batch."""
        batch.has_content = True
        for task in reversed(batch.blocked):
            task.turn(TaskEvent.CONTENT_CAME)
            self.wait(task, first=True)
        self.blocked -= len(batch.blocked)
        batch.blocked.clear()

    def _may_spread(self) -> bool:
        """Whether nothing but the tasks at hand will come to occupy idle slots."""
        return self.input_ended or (self.received >= self.allowed and len(self.waiting) == 1)

    def _close_items(self, number: int, items: int) -> bool:
        self.open_items -= items
        batch = self.batches[number]
        batch.left -= items
        if batch.left:
            return False
        del self.batches[number]
        self.released += 1
        return True

    def _next_task(self) -> int:
        self._last_task += 1
        return self._last_task
