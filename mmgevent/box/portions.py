"""Map as much of a batch as fits into a short time, and give the rest back.

Nobody knows beforehand what an item costs.  Batches that start with one item and grow would cost a
round trip through the engine for each step.  So the first batches of a job are large, and their
tasks have a budget: a task maps portions, each sized by the speed of those before, and ends when
the budget is used up.  The driver then knows the speed, and submits the rest in tasks of that size.

An engine may run a task twice, and must get the same output, whatever the time.  So what depends on
time is only in reports that carry all of the output: the driver has it, and nothing is computed
again.  A portion whose output would be too much for that is given back.  The first portion always
counts.  If it alone is too much, the task ends with it, however fast it was.
"""

from __future__ import annotations

from time import monotonic

from mmgevent.box.box import Box
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.box.trials import Trials
from mmgevent.tasks.counters import sum_counts

#: Largest ratio of the entries of a portion to those mapped before.  Each portion costs 2 ms of CPU.
GROWTH = 256

#: Most times that an entry is taken to be quicker than the portion was.  On a busy machine two equal
#: portions differ, and what one took longer than the other says little.
MAX_BEGIN = 4.0

#: Least time that an entry is taken to need, seconds.
MIN_S = 1e-9

Mapped = tuple[Report, list[bytes]]


def map_portions(box: Box, batch: GuestBatch) -> Mapped:
    """Map a batch.  Returns the report, and the output in datasource order: whole flushes.

    With a budget, `mapped_to` in the report says how far it came.
    """
    if batch.budget_s is None:
        return Trials(box).map(batch)
    call = 1 if batch.has_refs else box.job.options.get("items_per_call") or 1  # refs are any number of items
    first = max(call, box.job.options.get("greenlets") or 0)
    done: Mapped | None = None
    position = batch.lo
    until_s = 0.0
    times: list[tuple[int, float]] = []
    while position < batch.end:
        count = first if done is None else count_next(times, until_s - monotonic())
        if len(times) == 1 and done is not None:  # later ones are likely to be combined
            count = min(count, box.job.carried_bytes // max(1, sum(map(len, done[1]))) * first)
        count -= count % call
        if count < first:
            break
        portion = batch._replace(lo=position, hi=min(position + count, batch.end))
        report, output = Trials(box).map(portion)
        if done is not None and report.needs_content:
            done = _note(done[0], report), done[1]
            break
        both = (report, output) if done is None else (_add(done[0], report), done[1] + output)
        if report.failure is not None:
            return both[0], []
        is_large = sum(map(len, both[1])) > box.job.carried_bytes
        if done is not None and is_large:
            done = _note(done[0], report), done[1]
            break
        if done is None:  # only now: before it an executor was started
            until_s = monotonic() + batch.budget_s - report.seconds
        done, position = both, portion.end
        times.append((count, report.seconds))
        if is_large or report.needs_content:
            break
    assert done is not None, "a batch has an entry"
    report, output = done
    return report._replace(mapped_to=position if position < batch.end else None), output


def count_next(times: list[tuple[int, float]], left_s: float) -> int:
    """Return how many entries probably fit into this time.

    `times`: entries and seconds of each portion before.  Each took some time to begin, which is most
    of it if its entries are tiny.  What the last one took longer than the first is for its entries.
    """
    (count, seconds), (first, first_s) = times[-1], times[0]
    each_s = seconds / count
    if count > first:
        each_s = max(each_s / MAX_BEGIN, (seconds - first_s) / (count - first))
    return int(min(GROWTH * sum(mapped for mapped, _ in times), max(0.0, left_s) / max(each_s, MIN_S)))


def _note(kept: Report, dropped: Report) -> Report:
    """Return the report of the portions before one that is mapped again elsewhere.

    What that one said and which executors died in it is true, and is not told again.
    """
    return kept._replace(
        notices=kept.notices + dropped.notices,
        deaths=kept.deaths + dropped.deaths,
        printed=kept.printed + dropped.printed,
        printed_dropped=kept.printed_dropped + dropped.printed_dropped,
    )


def _add(before: Report, last: Report) -> Report:
    """Return the report of both portions."""
    return last._replace(
        items=before.items + last.items,
        records=before.records + last.records,
        counters=tuple(sum_counts(dict(before.counters), dict(last.counters)).items()),
        seconds=before.seconds + last.seconds,
        retries=before.retries + last.retries,
        cpu_us=before.cpu_us + last.cpu_us,
        peak_bytes=max(before.peak_bytes, last.peak_bytes),
        killers=before.killers + last.killers,
        deaths=before.deaths + last.deaths,
        notices=before.notices + last.notices,
        printed=before.printed + last.printed,
        printed_dropped=before.printed_dropped + last.printed_dropped,
    )
