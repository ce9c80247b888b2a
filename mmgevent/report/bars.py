"""The lanes of a report: which slot worked on what, when. Memory is limited.

A lane is a slot of a worker. A bar is a task, or several that followed each other at once. When
there are more than MAX_BARS, bars with a short gap between them become one. The gap doubles each
time, so a job of any length has some thousand bars.
"""

from __future__ import annotations

from typing import Any

#: Bars of all lanes. A browser draws so many at once, and they take half a MB.
MAX_BARS = 3000

#: Lanes. More do not fit a page that somebody reads.
MAX_LANES = 100

#: Slots without a lane that are counted: more than most clusters have.
MAX_HIDDEN_LANES = 10_000

#: Bars of tasks that died, failed, or were done twice: these never become one. Later ones are counted.
MAX_MARKS = 500

#: First gap over which two bars become one, seconds.
FIRST_GAP_S = 0.001

#: A bar: start, end, phase, outcome, tasks, seconds in which one of them ran, number of the first task.
Bar = list[Any]
START, END, PHASE, OUTCOME, COUNT, BUSY, TASK = range(7)


class Lanes:
    """All lanes of one job."""

    def __init__(self, max_lanes: int = MAX_LANES) -> None:
        self._max_lanes = max_lanes
        self._lanes: dict[tuple[str, int | None], list[Bar]] = {}
        self._facts: dict[tuple[str, int | None], dict[str, Any]] = {}
        self._bars = 0
        self._marks = 0
        self._gap_s = 0.0
        #: tasks of slots that have no lane
        self.hidden_tasks = 0
        self._hidden_lanes: set[tuple[str, int | None]] = set()
        #: marks that are not drawn
        self.hidden_marks = 0

    def add(self, event: dict[str, Any]) -> None:
        """Add a task that ended."""
        outcome, seconds = event["outcome"], event["seconds"]
        if event.get("is_duplicate") and outcome == "done":
            outcome = "duplicate that won"
        facts = self._facts_of(event, 1)
        if facts is None:
            return
        facts["duplicates"] += outcome in ("duplicate", "duplicate that won")
        facts["faults"] += outcome in ("failed", "died", "lost", "unprepared")
        if outcome != "done":
            self._marks += 1
            if self._marks > MAX_MARKS:
                self.hidden_marks += 1
                return
        start = event["start"]
        self._put(event, [start, start + seconds, event["phase"], outcome, 1, seconds, event.get("task")])

    def add_sum(self, event: dict[str, Any]) -> None:
        """Add short tasks that have one event together: one bar."""
        start, count, busy_s = event["start"], event["tasks"], event["seconds"]
        if self._facts_of(event, count) is not None:
            self._put(event, [start, start + event["span"], event["phase"], "done", count, busy_s, None])

    def _facts_of(self, event: dict[str, Any], count: int) -> dict[str, Any] | None:
        """Count tasks of a lane; return its numbers, or None if it is one lane too many."""
        key = (str(event.get("worker")), event.get("slot"))
        if key not in self._lanes:
            if len(self._lanes) >= self._max_lanes:
                self.hidden_tasks += count
                if len(self._hidden_lanes) < MAX_HIDDEN_LANES:
                    self._hidden_lanes.add(key)
                return None
            self._lanes[key] = []
            self._facts[key] = {"tasks": 0, "busy_s": 0.0, "duplicates": 0, "faults": 0}
        facts = self._facts[key]
        facts["tasks"] += count
        facts["busy_s"] += event["seconds"]
        return facts

    def _put(self, event: dict[str, Any], bar: Bar) -> None:
        self._lanes[str(event.get("worker")), event.get("slot")].append(bar)
        self._bars += 1
        while self._bars > MAX_BARS + min(self._marks, MAX_MARKS):
            self._coarsen()

    def _coarsen(self) -> None:
        """Make one bar of bars with a gap that is short, of one more power of two."""
        self._gap_s = max(FIRST_GAP_S, 2 * self._gap_s)
        for key, bars in self._lanes.items():
            self._lanes[key] = _join(sorted(bars, key=lambda bar: bar[START]), self._gap_s)
        self._bars = sum(map(len, self._lanes.values()))

    def data(self, began_s: float) -> dict[str, Any]:
        """Return all lanes as JSON has them, with times since `began_s`."""
        lanes = []
        for key, bars in sorted(self._lanes.items(), key=lambda lane: (lane[0][0], lane[0][1] or 0)):
            moved = [
                [
                    round(bar[START] - began_s, 4),
                    round(bar[END] - began_s, 4),
                    *bar[PHASE:BUSY],
                    round(bar[BUSY], 4),
                    bar[TASK],
                ]
                for bar in sorted(bars, key=lambda bar: bar[START])
            ]
            facts = {**self._facts[key], "busy_s": round(self._facts[key]["busy_s"], 4)}
            lanes.append({"worker": key[0], "slot": key[1], **facts, "bars": moved})
        return {
            "lanes": lanes,
            "gap_s": self._gap_s,
            "hidden_tasks": self.hidden_tasks,
            "hidden_lanes": len(self._hidden_lanes),
            "hidden_marks": self.hidden_marks,
        }


def _join(bars: list[Bar], gap_s: float) -> list[Bar]:
    joined: list[Bar] = []
    for bar in bars:
        last = joined[-1] if joined else None
        if (
            last is not None
            and bar[OUTCOME] == last[OUTCOME] == "done"
            and bar[PHASE] == last[PHASE]
            and bar[START] - last[END] <= gap_s
        ):
            last[END] = max(last[END], bar[END])
            last[COUNT] += bar[COUNT]
            last[BUSY] += bar[BUSY]
        else:
            joined.append(bar)
    return joined
