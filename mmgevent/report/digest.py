"""What a report needs of a job log: a summary in limited memory, made event by event.

The digest of a job of ten million items is as small as that of a thousand: lists keep their first
or largest entries and count the others. `data` gives it as JSON has it. A report holds these data,
and two of them can be compared.
"""

from __future__ import annotations

import heapq
from typing import Any

from mmgevent.report.bars import Lanes

#: Version of the data in a report. It rises when a field changes its meaning.
FORMAT = 1

#: Entries of a list of the largest, such as the slowest items.
MAX_TOP = 20

#: Entries of a list of what happened, such as deaths: the first ones.
MAX_LISTED = 100

Event = dict[str, Any]


class Top:
    """The entries with the largest numbers."""

    def __init__(self, most: int = MAX_TOP):
        self._most = most
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._count = 0

    def add(self, number: float, entry: dict[str, Any]) -> None:
        """Add an entry, if it is one of the largest."""
        self._count += 1
        row = (number, -self._count, entry)  # of equal ones the first stays
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, row)
        elif number > self._heap[0][0]:
            heapq.heapreplace(self._heap, row)

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries, the largest first."""
        return [entry for _, _, entry in sorted(self._heap, key=lambda row: row[:2], reverse=True)]


class Listed:
    """The first entries of a list, and how many there were."""

    def __init__(self) -> None:
        self.entries: list[Event] = []
        self.count = 0

    def add(self, entry: Event) -> None:
        """Add an entry."""
        self.count += 1
        if len(self.entries) < MAX_LISTED:
            self.entries.append(entry)

    def data(self) -> dict[str, Any]:
        """Return what there is as JSON has it."""
        return {"count": self.count, "first": self.entries}


class Digest:
    """The summary of one job."""

    def __init__(self) -> None:
        #: the first line, {} before it
        self.head: Event = {}
        #: the last line, {} before it
        self.end: Event = {}
        self._last_s = 0.0
        self._slowest, self._largest, self._sizes = Top(), Top(), Top()
        self._size_count = self._size_sum = 0
        self._lanes = Lanes()
        self._phases, self._deaths, self._skipped = Listed(), Listed(), Listed()
        self._failed, self._notices, self._resubmitted = Listed(), Listed(), Listed()
        self._unseen_tasks = 0

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._last_s = event["at"]
        kind = event["event"]
        if kind == "task":
            self._add_task(event)
        elif kind == "tasks":
            self._lanes.add_sum(event)
            self._add_slowest(event)
        elif kind == "item":
            self._add_item(event)
        elif kind == "job":
            self.head = event
        elif kind == "end":
            self.end = event
        elif kind == "lost_lines":
            self._unseen_tasks += event["tasks"]
        else:
            lists = {
                "phase": self._phases,
                "death": self._deaths,
                "notice": self._notices,
                "resubmitted": self._resubmitted,
            }
            if kind in lists:
                lists[kind].add(event)

    def slowest(self) -> list[dict[str, Any]]:
        """Return the slowest items, the slowest first."""
        return self._slowest.entries()

    def largest(self) -> list[dict[str, Any]]:
        """Return the keys with the most values, the largest first."""
        return self._largest.entries()

    def data(self) -> dict[str, Any]:
        """Return all of it as JSON has it. Times are seconds since the start of the job."""
        began_s = self.head.get("at", self._last_s)
        totals = self.end.get("totals") or {}
        stats = self.end.get("stats") or {}
        return {
            "format": FORMAT,
            "name": self.head.get("name", "?"),
            "runner": self.head.get("runner", "?"),
            "began": began_s,
            "time_zone_s": self.head.get("time_zone_s", 0),
            "versions": self.head.get("versions", {}),
            "options": self.head.get("options", {}),
            "stages": self.head.get("stages", 1),
            "outcome": self.end.get("outcome", "unknown"),
            "error": self.end.get("error"),
            "seconds": self.end.get("seconds", round(self._last_s - began_s, 3)),
            "totals": totals,
            "stats": {name: value for name, value in stats.items() if name != "counters"},
            "counters": stats.get("counters") or {},
            "phases": [
                {
                    "phase": each["phase"],
                    "stage": each.get("stage"),
                    "start": round(each["start"] - began_s, 3),
                }
                for each in self._phases.entries
            ],
            "work": self._lanes.data(began_s),
            "unseen_tasks": self._unseen_tasks,
            "reduce": {
                "tasks": self._size_count,
                "bytes": self._size_sum,
                "largest": self._sizes.entries(),
            },
            "slowest": self.slowest(),
            "largest_keys": self.largest(),
            "deaths": self._since(self._deaths, began_s),
            "skipped": self._since(self._skipped, began_s),
            "failed": self._since(self._failed, began_s),
            "notices": self._since(self._notices, began_s),
            "resubmitted": self._since(self._resubmitted, began_s),
        }

    def _add_task(self, event: Event) -> None:
        if event.get("start") is not None:
            self._lanes.add(event)
        if event["outcome"] != "done":
            return
        self._add_slowest(event)
        for key in event["largest"]:
            self._largest.add(key["values"], {**key, **_place(event)})
        if event["phase"] == "reduce" and event.get("bytes_in") is not None:
            self._size_count += 1
            self._size_sum += event["bytes_in"]
            names = ("task", "partitions", "bytes_in", "keys", "seconds", "worker")
            self._sizes.add(event["bytes_in"], {name: event.get(name) for name in names})

    def _add_slowest(self, event: Event) -> None:
        for item in event["slowest"]:
            if item["seconds"] < 1:  # others have events of their own
                self._slowest.add(item["seconds"], {**item, **_place(event)})

    def _add_item(self, event: Event) -> None:
        if event["outcome"] == "slow":
            self._slowest.add(
                event["seconds"], {"key": event["key"], "seconds": event["seconds"], **_place(event)}
            )
        elif event["outcome"] == "skipped":
            self._skipped.add(event)
        else:
            self._failed.add(event)

    @staticmethod
    def _since(listed: Listed, began_s: float) -> dict[str, Any]:
        data = listed.data()
        data["first"] = [
            {
                **{k: v for k, v in entry.items() if v is not None and k != "event"},
                "at": round(entry["at"] - began_s, 3),
            }
            for entry in data["first"]
        ]
        return data


def _place(event: Event) -> dict[str, Any]:
    return {
        name: event.get(name) for name in ("phase", "worker", "batch", "stage") if event.get(name) is not None
    }
