"""How long the tasks of one phase of a job take: a random sample, and a recent average."""

from __future__ import annotations

import random as random_module

from mmgevent.wire.limits import SHORT_WORK_S

#: Attempts that a slot holds of tasks that are not short: one runs, and the input of the next is
#: already there when the first ends.
ATTEMPTS_PER_SLOT = 2

#: Most attempts that a slot holds, however short they are.
MAX_ATTEMPTS_PER_SLOT = 32

#: Longest duration of a task that counts as short, seconds: three of them are `SHORT_WORK_S`.
_LONG_S = SHORT_WORK_S / (ATTEMPTS_PER_SLOT + 1)

#: Tasks over which the recent duration is averaged.
RECENT_TASKS = 8

#: Durations kept of each phase, a random sample, for their median.
SAMPLE_SIZE = 101


class Durations:
    """The durations of one phase's tasks."""

    __slots__ = ("_count", "_recent_s", "attempts_per_slot", "sample")

    def __init__(self) -> None:
        self.attempts_per_slot = ATTEMPTS_PER_SLOT  #: attempts that a slot with such tasks may hold
        self.sample: list[float] = []  #: a uniform sample, seconds
        self._count = 0
        self._recent_s = SHORT_WORK_S  # a moving average; it begins with a task that is not short

    def add(self, seconds: float, random: random_module.Random) -> None:
        """Note the duration of a task. The sample is kept uniform by Vitter's algorithm R."""
        self._count += 1
        self._recent_s = recent_s = self._recent_s + (seconds - self._recent_s) / RECENT_TASKS
        if len(self.sample) < SAMPLE_SIZE:
            self.sample.append(seconds)
        else:
            index = int(random.random() * self._count)
            if index < SAMPLE_SIZE:
                self.sample[index] = seconds
        if recent_s > _LONG_S:
            self.attempts_per_slot = ATTEMPTS_PER_SLOT
        elif recent_s * MAX_ATTEMPTS_PER_SLOT > SHORT_WORK_S:
            self.attempts_per_slot = int(SHORT_WORK_S / recent_s)
        else:
            self.attempts_per_slot = MAX_ATTEMPTS_PER_SLOT

    def median_s(self) -> float | None:
        """Return the median duration of the sample, or None before the first task is done.

        `statistics.median` does the same, but importing it takes 2.5 ms of every engine's start.
        """
        if not self.sample:
            return None
        ascending, middle = sorted(self.sample), len(self.sample) // 2
        if len(ascending) % 2:
            return ascending[middle]
        return (ascending[middle - 1] + ascending[middle]) / 2
