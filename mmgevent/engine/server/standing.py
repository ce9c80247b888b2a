"""The standing of workers: who does its share, and who is set aside for a while.

A worker may say of an attempt that it failed, that an executor died, or that it returns it.  All of
that is legal, and an honest worker says it for good reasons.  A worker that says nothing else keeps
tasks from those who would do them.  So these count, until the worker does a task:

- *returns* that nobody asked for;
- *contradictions*: tasks that it failed and another worker did;
- *failures* of different tasks of jobs of which another worker does tasks.  In a job that is
  broken nobody does any, so nobody is blamed for it.

Over a limit the worker is *set aside*: its tasks go elsewhere and it gets none for a time, which
doubles each time.  If no other worker is left, it is asked again sooner.  The worker of the
server's own engine is never set aside.
"""

from __future__ import annotations

#: Returns in a row, in addition to those of `RETURNS_PER_SLOT`. An executor that ends returns the
#: attempts behind the one that ended it.
MAX_RETURNS = 64

#: Returns in a row for each slot: one attempt runs and one is queued.
RETURNS_PER_SLOT = 2

#: Returns that the end of an executor excuses: as many as may be queued behind one attempt.
EXCUSED_RETURNS = 64

#: Contradictions in a row. One machine may lack what one job needs.
MAX_CONTRADICTIONS = 3

#: Failures in a row, in addition to one for each slot. A few hard items may come together.
MAX_FAILURES = 8

#: Slots that the limits count. A worker chooses its number of slots.
MAX_COUNTED_SLOTS = 64

#: Time for which a worker is set aside first, seconds. Honest workers get over what it was.
ASIDE_S = 60.0

#: Longest time for which a worker is set aside, seconds.
MAX_ASIDE_S = 3600.0

#: Time after which a worker is asked again if there is no other, seconds.
ALONE_S = 10.0

#: Tasks of one job that are remembered since a worker failed them.
MAX_DOUBTS = 1000


#: (job, task), by their numbers.
Task = tuple[int, int]


class Standing:
    """What one worker has done of late."""

    __slots__ = ("_allowed_failures", "_allowed_returns", "_excused", "_failed", "_last_aside_s",
                 "aside_since_s", "aside_until_s", "contradictions", "has_worked", "reason", "returns")  # fmt: skip

    def __init__(self, slots: int):
        counted = min(slots, MAX_COUNTED_SLOTS)
        self._allowed_returns = MAX_RETURNS + RETURNS_PER_SLOT * counted
        self._allowed_failures = MAX_FAILURES + counted
        self._excused = 0  # returns that are no fault
        self._failed: set[Task] = set()
        self._last_aside_s = 0.0
        self.returns = 0  #: in a row
        self.contradictions = 0  #: in a row
        self.has_worked = False  #: it has done a task, at any time
        self.reason = ""  #: why it is set aside; "" if it is not
        self.aside_since_s = self.aside_until_s = 0.0

    def note_done(self) -> None:
        """Note that it has done a task: what counted until now is forgiven."""
        self.has_worked = True
        self.returns = self.contradictions = self._excused = 0
        if self._failed:
            self._failed.clear()

    def note_return(self) -> None:
        """Note that it returned an attempt unasked."""
        if self._excused:
            self._excused -= 1
        else:
            self.returns += 1

    def excuse_returns(self) -> None:
        """Note that an executor of it ended, so that it returns what waited there."""
        self._excused = min(self._excused + EXCUSED_RETURNS, EXCUSED_RETURNS * MAX_COUNTED_SLOTS)

    def note_failure(self, task: Task) -> None:
        """Note that it failed a task of a job of which others do tasks."""
        if len(self._failed) <= self._allowed_failures:
            self._failed.add(task)

    def find_fault(self) -> str | None:
        """Return why it does not do its share, or None if it does."""
        if self.returns > self._allowed_returns:
            return f"it returned {self.returns} tasks and did none"
        if self.contradictions >= MAX_CONTRADICTIONS:
            return f"it failed {self.contradictions} tasks that other workers did, and did none"
        if len(self._failed) > self._allowed_failures:
            return f"it failed {len(self._failed)} tasks of jobs that other workers get on with, and did none"
        return None

    def set_aside(self, reason: str, now: float) -> float:
        """Note that it is set aside; return for how many seconds."""
        self._last_aside_s = min(MAX_ASIDE_S, 2 * self._last_aside_s or ASIDE_S)
        self.reason, self.aside_since_s = reason, now
        self.aside_until_s = now + self._last_aside_s
        return self._last_aside_s

    def is_due(self, now: float, *, is_alone: bool) -> bool:
        """Return whether it is set aside and gets tasks again now."""
        if not self.reason:
            return False
        return now >= self.aside_until_s or (is_alone and now >= self.aside_since_s + ALONE_S)

    def readmit(self) -> None:
        """Note that it gets tasks again, and counts anew."""
        worked = self.has_worked
        self.note_done()
        self.has_worked = worked
        self.reason = ""
