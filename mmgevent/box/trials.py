"""What becomes of a task in a box whose run ended without success: it is tried again, cut, given up.

The rules are those of `engine.scheduler.retries`, with one difference: all tries of a batch happen
in one box, one after another.  So another engine's task needs no second submission, and its result
is final.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from mmgevent.box.box import Box, Outcome, worker_name
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.engine.scheduler.retries import (
    MAX_DEATHS,
    MAX_TEMPLATE_DEATHS,
    MAX_UNPREPARED,
    blame_for_templates,
)
from mmgevent.tasks.counters import Totals
from mmgevent.wire.failures import advise_on_reduce, is_of_output, with_place, without_input
from mmgevent.wire.positions import ALL, MAX_DEPTH, WHOLE, Part, entry_of, halves_of, place_of, position_of
from mmgevent.wire.task_ends import MAX_LARGEST, MAX_SLOW


class _GivenUp(Exception):
    """The job ends with this failure."""

    def __init__(self, failure: dict[str, Any], *, is_over_limit: bool = False):
        super().__init__(failure.get("error"))
        self.failure = failure
        self.is_over_limit = is_over_limit


class _NeedsContent(Exception):
    """The batch must be sent again, with the contents of its files."""


@dataclass
class _Share:
    """The part of a batch that one run maps."""

    lo: int  #: first entry
    hi: int  #: one behind the last entry
    part: Part = ALL  #: part of the entry, if there is only one
    is_suspect: bool = False  #: made to find a culprit: its first death or failure counts
    skip: set[int] = field(default_factory=set)  #: positions that are left out
    failures: int = 0  #: failures that named no item
    deaths: int = 0

    def count_open(self, batch: GuestBatch) -> int:
        """Return the number of entries that are not left out as a whole."""
        closed = sum(place_of(position) == (WHOLE if batch.has_refs else 0) for position in self.skip)
        return self.hi - self.lo - closed


class Trials:
    """All runs of one task in one box."""

    def __init__(self, box: Box):
        self._box = box
        options = box.job.options
        self._retries: int = options.get("retries") or 0
        self._max_skipped: float = options.get("max_skipped") or 0
        self._unprepared = 0
        self._deaths: list[dict[str, Any]] = []
        self._killers: list[tuple[int, dict[str, Any]]] = []
        self._item_failures: Counter[int] = Counter()
        self._item_deaths: Counter[int] = Counter()
        self._items = self._records = self._keys = 0
        self._retried = self._cpu_us = self._peak_bytes = 0
        self._counters = Totals()
        self._seconds = 0.0
        self._kept: list[bytes] = []
        self._lists: dict[str, list[list[Any]]] = {"slow": [], "largest": []}

    def map(self, batch: GuestBatch) -> tuple[Report, list[bytes]]:
        """Map a batch.  Returns the report, and the output in datasource order: whole flushes."""
        try:
            shares = [_Share(batch.lo, batch.end)]
            while shares:
                shares += reversed(self._map_share(batch, shares.pop()))
        except _NeedsContent:
            return self._report(needs_content=True), []
        except _GivenUp as given_up:
            return self._report(failure=given_up.failure, is_over_limit=given_up.is_over_limit), []
        return self._report(), self._kept

    def reduce(self, parts: dict[int, list[memoryview]]) -> tuple[Report, bytes]:
        """Reduce partitions: {partition: its segments in order}.  Returns report and output."""
        order = sorted(parts)
        sizes = [[partition, sum(map(len, parts[partition]))] for partition in order]
        pieces = [segment for partition in order for segment in parts[partition]]
        task = f"partitions {order[0]} to {order[-1]}" if len(order) > 1 else f"partition {order[0]}"
        failures = deaths = 0
        try:
            while True:
                output = io.BytesIO()  # gives its bytes without a copy
                size = sum(n_bytes for _, n_bytes in sizes)
                outcome = self._box.run("reduce", pieces, size, output.write, parts=sizes)
                if outcome.type == "done":
                    self._count(outcome)
                    self._keys = outcome.message["groups"]
                    return self._report(), output.getvalue()
                failure = outcome.message["failure"]
                if outcome.type == "unprepared":
                    self._after_failed_setup(outcome, task)
                elif outcome.type == "forkless":
                    self._after_template_death(failure, task)
                elif outcome.type == "died":
                    deaths += 1
                    self._note_death(failure, task, "failed" if deaths >= MAX_DEATHS else "retried")
                    if deaths >= MAX_DEATHS:
                        raise self._reduce_failed(failure)
                else:
                    failures += 1
                    if failures > self._retries or is_of_output(failure):
                        raise self._reduce_failed(failure)
                    self._retried += 1
        except _GivenUp as given_up:
            return self._report(failure=given_up.failure), b""

    def _reduce_failed(self, failure: dict[str, Any]) -> _GivenUp:
        return _GivenUp(advise_on_reduce(failure) if self._max_skipped else failure)

    def _map_share(self, batch: GuestBatch, share: _Share) -> list[_Share]:
        """Map a share.  Returns its halves, or nothing if it is done."""
        while share.count_open(batch) > 0:
            output = io.BytesIO()  # gives its bytes without a copy
            fields: dict[str, Any] = {"lo": share.lo, "hi": share.hi}
            if share.skip:
                fields["skip"] = sorted(share.skip)
            if share.part != ALL:
                fields["part"] = list(share.part)
            outcome = self._box.run("map", [batch.data], len(batch.data), output.write, **fields)
            if outcome.type == "done":
                self._count(outcome)
                self._kept.append(output.getvalue())
                break
            halves = self._after(batch, share, outcome)
            if halves:
                return halves
        return []

    def _count(self, outcome: Outcome) -> None:
        message = outcome.message
        self._items += message["items"]
        self._records += message["records"]
        self._counters.add(message.get("counters", {}))
        self._seconds += message["seconds"]
        self._retried += message.get("retries", 0)
        self._cpu_us += message.get("cpu_us", 0)
        self._peak_bytes = max(self._peak_bytes, message.get("peak_bytes", 0))
        for name, most in (("slow", MAX_SLOW), ("largest", MAX_LARGEST)):
            if name in message:
                rows = sorted(self._lists[name] + message[name], key=itemgetter(0), reverse=True)
                self._lists[name] = rows[:most]

    def _after(self, batch: GuestBatch, share: _Share, outcome: Outcome) -> list[_Share]:
        """Decide after a run without success.  Returns halves, or nothing to run the share again."""
        message, task = outcome.message, _describe(batch, share)
        if outcome.type == "content":
            raise _NeedsContent
        failure = message["failure"]
        if outcome.type == "unprepared":
            self._after_failed_setup(outcome, task)
            return []
        if outcome.type == "forkless":
            self._after_template_death(failure, task)
            return []
        item = _find_item(share, message.get("item"))
        if message.get("skipped"):
            raise _GivenUp(with_place(failure, batch.number, item), is_over_limit=True)
        is_divisible = bool(message.get("divisible"))
        if outcome.type == "failed":
            is_spent = message.get("spent") and item is not None
            if not is_spent and self._count_failure(share, item) <= self._retries:
                self._retried += 1
                return []
            halves = self._give_up(batch, share, item, failure, is_divisible)
            self._retried += bool(halves)
            return halves
        deaths = self._count_death(share, item)
        if deaths < (1 if share.is_suspect else MAX_DEATHS):
            self._note_death(failure, task, "retried")
            return []
        if item is None and _can_halve(batch, share, is_divisible):
            self._note_death(failure, task, "cut")
            return self._halve(share)
        self._note_death(failure, task, "set aside" if self._max_skipped else "failed")
        return self._give_up(batch, share, item, failure, is_divisible)

    def _after_failed_setup(self, outcome: Outcome, task: str) -> None:
        self._unprepared += 1
        is_last = self._unprepared >= MAX_UNPREPARED
        failure = outcome.message["failure"]
        if outcome.message.get("died"):
            self._note_death(failure, task, "failed" if is_last else "retried")
        if is_last:
            advice = (
                f"it failed in {self._unprepared} executors, and nothing of the job can run before it has run"
            )
            raise _GivenUp({"advice": advice, **failure})

    def _after_template_death(self, failure: dict[str, Any], task: str) -> None:
        """Decide after the job ended its template: neither items nor the task are to blame."""
        is_last = self._box.template_deaths >= MAX_TEMPLATE_DEATHS
        self._note_death(failure, task, "failed" if is_last else "retried")
        if is_last:
            raise _GivenUp(blame_for_templates(failure))

    def _count_failure(self, share: _Share, item: int | None) -> int:
        if item is not None:
            self._item_failures[item] += 1
            return self._item_failures[item]
        share.failures += 1
        return share.failures

    def _count_death(self, share: _Share, item: int | None) -> int:
        """Count a death of an executor. Return how many the item had, or the share."""
        share.deaths += 1
        if item is None:
            return share.deaths
        self._item_deaths[item] += 1
        return self._item_deaths[item] if self._max_skipped else share.deaths

    def _give_up(
        self, batch: GuestBatch, share: _Share, item: int | None, failure: dict[str, Any], is_divisible: bool
    ) -> list[_Share]:
        """Give up an item, or a share whose culprit is unknown, that has failed too often."""
        if not self._max_skipped:
            raise _GivenUp(with_place(failure, batch.number, item))
        if item is None and _can_halve(batch, share, is_divisible):
            return self._halve(share)
        if item is None:
            place = WHOLE if batch.has_refs else 0
            item = next(
                position
                for position in (position_of(entry, place) for entry in range(share.lo, share.hi))
                if position not in share.skip
            )
        share.skip.add(item)
        share.deaths = share.failures = 0
        failure = without_input(failure)
        self._killers.append((item, failure))
        if isinstance(self._max_skipped, int) and len(self._killers) > self._max_skipped:
            raise _GivenUp(failure, is_over_limit=True)
        return []

    def _halve(self, share: _Share) -> list[_Share]:
        """Cut a share whose culprit is unknown in two, and so on until the culprit is alone."""
        failures = min(share.failures, self._retries)
        middle = (share.lo + share.hi) // 2
        if middle > share.lo:
            bounds = [(share.lo, middle, ALL), (middle, share.hi, ALL)]
        else:
            bounds = [(share.lo, share.hi, half) for half in halves_of(share.part)]
        return [
            _Share(lo, hi, part, True, {p for p in share.skip if lo <= entry_of(p) < hi}, failures)
            for lo, hi, part in bounds
        ]

    def _note_death(self, failure: dict[str, Any], task: str, outcome: str) -> None:
        known = {name: value for name, value in failure.items() if name != "traceback"}
        self._deaths.append({**known, "task": task, "outcome": outcome})

    def _report(self, **fields: Any) -> Report:
        notices, self._box.notices = self._box.notices, []
        printed, dropped = self._box.printed.take()
        return Report(
            **fields,
            items=self._items,
            records=self._records,
            counters=tuple(self._counters.counts().items()),
            seconds=self._seconds,
            retries=self._retried,
            keys=self._keys,
            cpu_us=self._cpu_us,
            peak_bytes=self._peak_bytes,
            killers=tuple(self._killers),
            deaths=tuple(self._deaths),
            notices=tuple(notices),
            printed=printed,
            printed_dropped=dropped,
            worker=worker_name(),
            slow=tuple(self._lists["slow"]),
            largest=tuple(self._lists["largest"]),
        )


def _find_item(share: _Share, item: int | None) -> int | None:
    """Return this position if it is one of the share's open items, else None."""
    if item is None or not share.lo <= entry_of(item) < share.hi or item in share.skip:
        return None
    return item


def _can_halve(batch: GuestBatch, share: _Share, is_divisible: bool) -> bool:
    """Return whether a share whose culprit is unknown can be cut to find it."""
    if share.count_open(batch) > 1:
        return True
    return is_divisible and batch.has_refs and share.part[1] < MAX_DEPTH


def _describe(batch: GuestBatch, share: _Share) -> str:
    if share.hi - share.lo == 1:
        return f"item {share.lo} of batch {batch.number}"
    return f"items {share.lo} to {share.hi - 1} of batch {batch.number}"
