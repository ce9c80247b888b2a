"""Count what the functions of a job meet: `mmgevent.counter("bad lines").add(1)`.

A count belongs to the task that runs, and travels with its outcome. So it counts if the attempt
counts, and only once. Inside a task, counts belong to the item that runs (`TaskTally`): those of an
item, or of a call of many, that fails are dropped.

Which task a count belongs to is a context variable. Coroutines inherit it, and greenlets of an
executor do (`executor.pool`). Threads do not, and count for the only task that runs in their
process.

Counts are whole numbers that only grow. Tally of floats would depend on the order in which tasks
end, so two runs of one job would differ.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from mmgevent.errors import JobError, UsageError
from mmgevent.wire.limits import MAX_COUNTED, MAX_COUNTER_NAME_CHARS, MAX_COUNTERS

if TYPE_CHECKING:
    from mmgevent.tasks.items import TaskItems

#: Why nothing can be counted in setupfn, and in finishfn.
NOT_IN_SETUP = "it runs once in each executor, however many there are; count in mapfn"
NOT_IN_FINISH = "it runs in your program; count in a variable of your own"

#: Longest wrong name or number in a message, characters.
_SHOWN_CHARS = 40

#: Largest wrong number that is written in digits, bits. Python refuses those of 14,000 bits.
_SHOWN_BITS = 1024


class Counter:
    """A count by name. Every Counter of a name counts the same thing."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def add(self, n: int = 1) -> None:
        """Count `n` more, an int from 0.

        In a function of a job it counts for the job: `handle.counters()` has the sum. Elsewhere it
        counts in this process only, see `value`.

        Raises UsageError in setupfn and finishfn, for what is no such number, and for the 101st
        name.
        """
        _find_place(self.name).add(self.name, _check_number(self.name, n))

    @property
    def value(self) -> int:
        """The count so far: of this process, or in a function of a job, of the task that runs."""
        return _find_place(self.name).counts().get(self.name, 0)

    def __repr__(self) -> str:
        return f"<counter {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return counter, (self.name,)


def counter(name: str) -> Counter:
    """Return the counter of this name: 1 to 100 characters that can be printed.

    A job can have 100 counters. Raises UsageError for another name.
    """
    if type(name) is not str:
        raise UsageError(f"the name of a counter is a string, not {type(name).__name__}")
    if not name.strip() or len(name) > MAX_COUNTER_NAME_CHARS or not name.isprintable():
        raise UsageError(
            f"the name of a counter has 1 to {MAX_COUNTER_NAME_CHARS} characters that can be printed, "
            f"and {_short(name)} does not"
        )
    return Counter(name)


class CountPlace(Protocol):
    """What a count is added to."""

    def add(self, name: str, n: int) -> None: ...

    def counts(self) -> dict[str, int]: ...


class Tally:
    """Counts by name, for a process outside of jobs."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}
        self._lock = RLock()  # functions may use threads, and signals

    def add(self, name: str, n: int) -> None:
        """Count."""
        with self._lock:
            self._sums[name] = self._sums.get(name, 0) + n

    def counts(self) -> dict[str, int]:
        """Return the counts so far."""
        with self._lock:
            return dict(self._sums)


class TaskTally(Tally):
    """The counts of one run of a task."""

    def __init__(self, items: TaskItems | None = None):
        """`items`: the items of the task, if each may fail by itself."""
        super().__init__()
        self._items = items
        self._open: dict[str, int] = {}  # counts of what may fail yet
        self._open_at: int | None = None  # the item that has counted last

    def add(self, name: str, n: int) -> None:
        """Count for the item that runs.

        Raises UsageError for one name too many, and for a count that is too large.
        """
        with self._lock:
            position = None if self._items is None else self._items.position
            if position != self._open_at:
                self.keep()
                self._open_at = position
            here = self._open.get(name, 0) + n
            before = self._sums.get(name)
            if before is None and name not in self._open:
                names = self._sums.keys() | self._open.keys()
                if len(names) >= MAX_COUNTERS:
                    raise UsageError(too_many_text({*names, name}))
            if here + (before or 0) > MAX_COUNTED:
                raise UsageError(f"the counter {name!r} exceeds {MAX_COUNTED}")
            self._open[name] = here

    def keep(self) -> None:
        """Count for good what was counted so far."""
        with self._lock:
            for name, n in self._open.items():
                self._sums[name] = self._sums.get(name, 0) + n
            self._open.clear()

    def drop(self, position: int | None) -> None:
        """Forget what the item at this position has counted: it has failed.

        Without a position, as in calls of many items, forget what was counted since `keep`.
        """
        with self._lock:
            if self._items is not None and position not in (None, self._open_at):
                self.keep()  # an item before this one has counted, and is done
            self._open.clear()

    def counts(self) -> dict[str, int]:
        """Return the counts so far, also of what may fail yet."""
        with self._lock:
            counts = dict(self._sums)
            for name, n in self._open.items():
                counts[name] = counts.get(name, 0) + n
            return counts


class NoTally:
    """Stands for a function in which nothing can be counted."""

    def __init__(self, function: str, why: str):
        self._function = function
        self._why = why

    def add(self, name: str, n: int) -> None:
        """Refuse, by name."""
        raise UsageError(f"the counter {name!r} cannot count in {self._function}: {self._why}")

    def counts(self) -> dict[str, int]:
        """Return nothing."""
        return {}


class Totals:
    """The counts of a job, as its driver or its server knows them."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of a task that is committed.

        Of names over MAX_COUNTERS one is kept, so that whoever looks can see that there are too
        many. A sum over MAX_COUNTED stays there.
        """
        sums = self._sums
        for name, n in counts.items():
            if name in sums or len(sums) <= MAX_COUNTERS:
                sums[name] = min(sums.get(name, 0) + n, MAX_COUNTED)

    def clear(self) -> None:
        """Forget all: what was counted is done again."""
        self._sums.clear()

    def counts(self) -> dict[str, int]:
        """Return the counts so far."""
        return dict(self._sums)


def sum_counts(*parts: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of several counts, sorted by name."""
    totals = Totals()
    for part in parts:
        totals.add(part)
    return dict(sorted(totals.counts().items()))


def check_names(counts: Mapping[str, int]) -> None:
    """Raise JobError if a job has too many counters."""
    if len(counts) > MAX_COUNTERS:
        raise JobError(too_many_text(counts), {"kind": "counters"})


def too_many_text(names: Iterable[str]) -> str:
    """Return the message for a job with too many counters."""
    some = ", ".join(map(repr, sorted(names)[:3]))
    return (
        f"the job has more than {MAX_COUNTERS} counters, among them {some}: "
        f"count under few names, and yield what varies as keys"
    )


# -- which task a count belongs to

_outside = Tally()
_place: ContextVar[CountPlace | None] = ContextVar("mmgevent_counts", default=None)
#: The tasks that run in this process. Threads of functions do not have the context variable.
_running: list[TaskTally] = []


@contextmanager
def counting(tally: TaskTally, *, takes_threads: bool = True) -> Iterator[None]:
    """Let counters count for a task.

    `takes_threads`: whether threads without the context of a task may belong to this one.
    """
    token = _place.set(tally)
    if takes_threads:
        _running.append(tally)
    try:
        yield
    finally:
        if takes_threads:
            _running.remove(tally)
        _place.reset(token)


@contextmanager
def counting_item() -> Iterator[None]:
    """Let counters count for one of several items that run at once, each in its own greenlet."""
    task = _place.get()
    if not isinstance(task, TaskTally):
        yield
        return
    tally = TaskTally()
    token = _place.set(tally)
    try:
        yield
    finally:
        _place.reset(token)
    for name, n in tally.counts().items():
        task.add(name, n)


@contextmanager
def refusing(function: str, why: str) -> Iterator[None]:
    """Let counters refuse to count in a function of this name."""
    token = _place.set(NoTally(function, why))
    try:
        yield
    finally:
        _place.reset(token)


def keep_counts() -> None:
    """Keep the counts of a call that has succeeded."""
    place = _place.get()
    if isinstance(place, TaskTally):
        place.keep()


def drop_counts(position: int | None = None) -> None:
    """Drop the counts of the item at a position, or without one of a call, that has failed."""
    place = _place.get()
    if isinstance(place, TaskTally):
        place.drop(position)


def with_place(context: Context | None) -> Context | None:
    """Return the context of a new greenlet, None for an empty one, with what the current one counts for."""
    place = _place.get()
    if place is None:
        return context
    context = Context() if context is None else context
    context.run(_place.set, place)
    return context


def _find_place(name: str) -> CountPlace:
    place = _place.get()
    if place is not None:
        return place
    if not _running:
        return _outside
    if len(_running) > 1:
        raise UsageError(
            f"the counter {name!r} cannot count in a thread of its own while {len(_running)} jobs run in this "
            "process: start the thread's function with contextvars.copy_context().run"
        )
    return _running[0]


def _check_number(name: str, n: Any) -> int:
    try:
        number = operator.index(n)
    except TypeError:
        raise UsageError(
            f"the counter {name!r} counts whole numbers, not {type(n).__name__}: yield a sum as a record"
        ) from None
    if not 0 <= number <= MAX_COUNTED:
        raise UsageError(
            f"the counter {name!r} can only grow, by 0 to {MAX_COUNTED}, not by {_short(number)}"
        )
    return number


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:  # repr may refuse it
        return f"an int of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
