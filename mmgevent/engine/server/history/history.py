"""What a server remembers of its jobs, for whoever looks: prints, errors, tasks, the shape of reduce.

A job's history begins with the job and is kept for a while after its end, within limits of memory
that all jobs share. Nothing is kept that costs more than to append it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mmgevent.engine.server.history.error_tally import ErrorTally, GroupCount
from mmgevent.engine.server.history.recent import Recent, Room
from mmgevent.engine.server.history.reduce_shape import ReduceShape
from mmgevent.engine.server.history.tracks import TrackCount, Tracks
from mmgevent.wire.listings import MAX_SAMPLES, cut_text

#: Jobs that are over whose history is kept.
MAX_ENDED = 50

#: Printed lines of one job that are kept, bytes of memory: a thousand usual ones.
LINES_BYTES = 512 * 1024

#: Bars of one job that are kept, bytes of memory: two thousand.
BARS_BYTES = 512 * 1024

#: All recent events of all jobs, bytes of memory.
ALL_BYTES = 16 * 1024 * 1024


#: Time between two samples of how many slots are busy, seconds.
SAMPLE_S = 1.0


class BusySample(NamedTuple):
    """How many slots were busy at a time."""

    at_s: float  #: seconds since 1970
    busy: int
    slots: int


class Line(NamedTuple):
    """A line that a function printed, on its way through the server."""

    at_s: float  #: seconds since 1970
    worker: str  #: name of the worker, "" for what is said of several
    item: str  #: the item that ran, "" if it is not known
    text: str
    dropped: int  #: lines before it that did not go on


class JobHistory:
    """What is remembered of one job."""

    def __init__(self, number: int, id: str, name: str, room: Room, groups: GroupCount, tracks: TrackCount):
        self.number, self.id, self.name = number, id, cut_text(name)
        #: who submitted it, for people
        self.submitter = "?"
        self.began_s = time.time()  #: seconds since 1970
        self.lines = Recent(room, LINES_BYTES)
        self.errors = ErrorTally(groups)
        self.tracks = Tracks(Recent(room, BARS_BYTES), tracks)
        self.shape = ReduceShape()
        #: "done", "failed" or "cancelled"; "" while it runs
        self.outcome = ""
        #: what ended it, "" if nothing went wrong
        self.error = ""
        self.ended_s = 0.0  #: seconds since 1970

    @property
    def is_over(self) -> bool:
        return self.ended_s > 0.0

    def note_lines(self, worker: str, lines: Iterable[tuple[str, str]], dropped: int = 0) -> None:
        """Keep (text, item) of lines; `dropped` before them did not go on."""
        now_s = time.time()
        for text, item in lines:
            self.lines.add(Line(now_s, worker, item, text, dropped), len(text) + len(item))
            dropped = 0
        if dropped:
            self.lines.add(Line(now_s, worker, "", "", dropped), 0)

    def note_error(self, failure: dict[str, Any], *, count: int = 1, set_aside: int = 0) -> None:
        """Count a failure, and the items that are set aside for it; see `ErrorTally.add`."""
        self.errors.add(failure, round(time.time(), 2), count=count, set_aside=set_aside)

    def note_outcome(self, outcome: str, error: str = "") -> None:
        """Note how the job is about to end."""
        self.outcome, self.error = outcome, cut_text(error)

    def end(self) -> None:
        """Note that the job is over."""
        self.outcome = self.outcome or "cancelled"  # by its driver, or with it
        self.ended_s = time.time()
        self.tracks.close()

    def close(self) -> None:
        """Forget everything."""
        self.lines.shrink(0)
        self.tracks.bars.shrink(0)
        self.errors.close()


class Histories:
    """The histories of all jobs of one server."""

    def __init__(self) -> None:
        self._room = Room(ALL_BYTES)
        self._groups = GroupCount()
        self._tracks = TrackCount()
        self._ended: deque[JobHistory] = deque()
        #: how many jobs are over, forgotten ones, too
        self.ended_count = 0
        #: how many slots were busy lately, while there were jobs
        self.samples: deque[BusySample] = deque(maxlen=MAX_SAMPLES)

    def begin(self, number: int, id: str, name: str) -> JobHistory:
        """Return the history of a job that begins."""
        return JobHistory(number, id, name, self._room, self._groups, self._tracks)

    def end(self, history: JobHistory) -> None:
        """Note that a job is over, and forget the job that has been over for longest if there are many."""
        history.end()
        self._ended.append(history)
        self.ended_count += 1
        if len(self._ended) > MAX_ENDED:
            self._ended.popleft().close()

    def sample(self, busy: int, slots: int) -> None:
        """Note how many slots are busy, unless that was noted in the last second."""
        now_s = time.time()
        if not self.samples or not 0 <= now_s - self.samples[-1].at_s < SAMPLE_S:
            self.samples.append(BusySample(now_s, min(busy, slots), slots))

    def ended(self) -> Iterator[JobHistory]:
        """Yield those of jobs that are over, the last one first."""
        return reversed(self._ended)
