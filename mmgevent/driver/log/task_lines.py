"""The lines of many tasks that are done, for a job log: made together, since there may be thousands.

A dict and `json.dumps` for each would take several times as long. docs/job-log.md lists the fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mmgevent.driver.log.file import Event
from mmgevent.wire.done_tasks import US, DoneTasks

#: Milliseconds in a second.
MS = 1000

#: Tasks that a report gets one by one. Of more, which came within a quarter of a second, it gets one
#: event a slot: no bar of its charts is as narrow as one of these tasks.
MAX_SINGLE = 20


class _Texts(dict[int, str]):
    """What numbers are written as, each made once."""

    def __init__(self, make: Callable[[int], str]):
        self._make = make

    def __missing__(self, number: int) -> str:
        text = self[number] = self._make(number)
        return text


class TaskLines:
    """Tasks that were reported together."""

    def __init__(
        self,
        tasks: DoneTasks,
        slots: dict[int, tuple[str, int]],
        began_s: float,
        at: float,
        stage: int | None,
    ):
        """`slots`: {place: (worker, slot)}. `began_s`: when the clock of their `began_ms` was 0.

        `at`, `stage`: as in every line.
        """
        self._tasks = tasks
        self._slots = slots
        self._began_s = began_s
        self._common: Event = {"at": at} if stage is None else {"at": at, "stage": stage}

    def __len__(self) -> int:
        return len(self._tasks.task)

    @property
    def start(self) -> float:
        """When the first of them began, seconds since 1970."""
        return round(self._began_s + min(self._tasks.began_ms) / MS, 3)

    def lines(self) -> str:
        """Return the line of each task."""
        head = json.dumps({"event": "task", **self._common}, separators=(",", ":"))[:-1]
        places = {
            place: f'"worker":{json.dumps(worker)},"slot":{slot}'
            for place, (worker, slot) in self._slots.items()
        }
        # Thousands of tasks a second share their milliseconds, and short ones their microseconds.
        starts = _Texts(lambda began_ms: f"{self._began_s + began_ms / MS:.3f}")
        seconds = _Texts(lambda us: f"{us / US:.6f}")
        return "".join(
            [
                f'{head},"start":{starts[began_ms]},"seconds":{seconds[us]},"outcome":"done","phase":"map"'
                f',"task":{task},"attempt":{attempt},{places[place]},"batch":{batch},"entries":{entries}'
                f',"partitions":null,"items":{items},"skipped":null,"records":{records},"keys":{keys}'
                f',"bytes_in":{bytes_in},"bytes_out":{bytes_out},"is_duplicate":false,"error":null'
                ',"slowest":[],"largest":[]}\n'
                for place, task, attempt, batch, entries, items, records, keys, bytes_in, bytes_out, began_ms, us
                in zip(*self._tasks, strict=True)
            ]
        )  # fmt: skip

    def events(self) -> list[Event]:
        """Return the events for a report: those of the lines, or one a slot that says "tasks"."""
        if len(self) <= MAX_SINGLE:
            return [json.loads(line) for line in self.lines().splitlines()]
        sums: dict[int, list[Any]] = {}
        for place, began_ms, us in zip(self._tasks.place, self._tasks.began_ms, self._tasks.us, strict=True):
            end_ms = began_ms + us / MS
            found = sums.get(place)
            if found is None:
                sums[place] = [1, us, began_ms, end_ms]
                continue
            found[0] += 1
            found[1] += us
            found[2] = min(found[2], began_ms)
            found[3] = max(found[3], end_ms)
        return [
            {
                "event": "tasks",
                **self._common,
                "phase": "map",
                "worker": self._slots[place][0],
                "slot": self._slots[place][1],
                "tasks": count,
                "start": round(self._began_s + began_ms / MS, 3),
                "span": (end_ms - began_ms) / MS,
                "seconds": us / US,
                "slowest": [],
            }
            for place, (count, us, began_ms, end_ms) in sums.items()
        ]
