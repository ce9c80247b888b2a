"""Which slot worked on what, when: the bars of one job, for whoever looks at its lanes.

A track is a slot of a worker, as far as it works for the job. A bar is a task, or several short
ones that followed each other at once. Bars are kept for every job, from its first task on: a task
costs the server 1 us more, a hundredth of what it costs in all.

Nothing here reads a clock: times are those of `monotonic`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mmgevent.engine.server.history.recent import Recent
from mmgevent.wire.task_ends import MAX_WORKER_CHARS

#: Time below which a task is short, seconds. Short ones are joined with their neighbours.
SHORT_S = 0.05

#: Longest pause between two tasks of one bar, seconds: what a message to the worker and back takes.
GAP_S = 0.1

#: Length from which on a bar takes no more tasks, seconds. Only bars that ended are shown.
BAR_S = 1.0

#: Tracks for each second of BAR_S: with more tracks bars are longer, so that a server makes at most so
#: many bars of short tasks a second.
TRACKS_PER_S = 500

#: Tracks of one job. Tasks of other slots are counted only.
MAX_TRACKS = 1000

#: Tracks of all jobs of a server, 10 MB.
MAX_ALL_TRACKS = 20_000


class Bar(NamedTuple):
    """What a slot did for a while."""

    worker: str
    slot: int
    phase: str
    outcome: str  #: a word of `wire.task_ends.OUTCOMES`
    start_s: float
    end_s: float
    tasks: int
    busy_s: float  #: time in which one of them ran
    task: int  #: number of the first
    error: str  #: what ended it, "" if nothing went wrong


class TrackCount:
    """How many tracks all jobs of a server have."""

    def __init__(self) -> None:
        self.tracks = 0


class Track:
    """One slot, with its live attempts in order, and the bar that it adds to."""

    __slots__ = ("attempts", "busy_s", "count", "end_s", "phase", "slot", "start_s", "task", "worker")

    def __init__(self, worker: str, slot: int):
        self.worker, self.slot = worker, slot
        self.attempts: dict[int, tuple[float, int, str]] = {}  # {attempt: (assigned, task, phase)}
        self.end_s = 0.0  #: when it ended its last attempt
        #: tasks of the open bar, 0 if there is none
        self.count = 0
        self.start_s = self.busy_s = 0.0
        self.phase = ""
        self.task = 0

    def take_bar(self) -> Bar:
        """Return the open bar, and have none."""
        count, self.count = self.count, 0
        return Bar(
            self.worker, self.slot, self.phase, "done", self.start_s, self.end_s, count, self.busy_s, self.task, ""
        )  # fmt: skip


class Tracks:
    """The tracks and the bars of one job."""

    def __init__(self, bars: Recent, all_tracks: TrackCount):
        #: bars that ended
        self.bars = bars
        #: tasks of slots without a track that ended
        self.unseen = 0
        self._all = all_tracks
        self._tracks: dict[tuple[int, int], Track] = {}
        self._bar_s = BAR_S

    def begin(
        self, worker: int, slot: int, name: str, attempt: int, task: int, phase: str, now: float
    ) -> Track | None:
        """Note an attempt that a slot of the worker of this name is given. Return its track."""
        track = self._tracks.get((worker, slot))
        if track is None:
            if len(self._tracks) >= MAX_TRACKS or self._all.tracks >= MAX_ALL_TRACKS:
                return None
            self._all.tracks += 1
            track = self._tracks[worker, slot] = Track(name[:MAX_WORKER_CHARS], slot)
            self._bar_s = max(BAR_S, len(self._tracks) / TRACKS_PER_S)
        track.attempts[attempt] = now, task, phase
        return track

    def end(
        self,
        track: Track | None,
        attempt: int,
        outcome: str,
        seconds: float | None,
        now: float,
        error: str = "",
    ) -> None:
        """Note the end of an attempt. `seconds`: how long it ran, if it is done.

        `outcome` is "" for one that was revoked, if it has begun at all.
        """
        if track is None:
            self.unseen += 1
            return
        is_first = next(iter(track.attempts)) == attempt
        assigned_s, task, phase = track.attempts.pop(attempt)
        if seconds is None:
            if outcome == "returned" or not (outcome or is_first):
                return  # it never ran
            start_s = max(assigned_s, track.end_s)
        else:
            start_s = min(now, max(now - seconds, assigned_s))  # whatever the worker says
            if outcome == "done" and seconds < SHORT_S:
                if track.count:
                    if (
                        start_s - track.end_s <= GAP_S
                        and now - track.start_s <= self._bar_s
                        and track.phase == phase
                    ):
                        track.count += 1
                        track.busy_s += now - start_s
                        track.end_s = now
                        return
                    self._keep(track.take_bar())
                track.count, track.start_s, track.busy_s = 1, start_s, now - start_s
                track.task, track.phase, track.end_s = task, phase, now
                return
        if track.count:
            self._keep(track.take_bar())
        track.end_s = now
        self._keep(
            Bar(track.worker, track.slot, phase, outcome or "revoked", start_s, now, 1, now - start_s, task, error)
        )  # fmt: skip

    def settle(self, now: float) -> None:
        """Let bars end to which nothing is added any longer."""
        for track in self._tracks.values():
            if track.count and (now - track.end_s > GAP_S or now - track.start_s > self._bar_s):
                self._keep(track.take_bar())

    def running(self) -> Iterator[tuple[Track, int, str, float]]:
        """Yield (track, task, phase, since) of each slot that runs an attempt."""
        for track in self._tracks.values():
            for assigned_s, task, phase in track.attempts.values():
                yield track, task, phase, max(assigned_s, track.end_s)
                break

    def close(self) -> None:
        """End all bars, and forget the tracks."""
        for track in self._tracks.values():
            if track.count:
                self._keep(track.take_bar())
        self._all.tracks -= len(self._tracks)
        self._tracks.clear()

    def _keep(self, bar: Bar) -> None:
        self.bars.add(bar, len(bar.error))
