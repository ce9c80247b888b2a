"""`mmg-run --try N`: run N items here, say what came out, and what the whole job will probably take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from mmgevent.cli.counts import MAX_DIGITS
from mmgevent.cli.exits import StdoutClosed
from mmgevent.cli.options import Arguments
from mmgevent.driver.trying.glance import Glance, take_glance
from mmgevent.errors import JobError, UsageError
from mmgevent.job.job import Job
from mmgevent.machine.resources import count_default_executors
from mmgevent.shown_text import shown
from mmgevent.tasks.blame import short_repr

#: Largest number of items. What takes more is a run of the job on a part of its input.
MAX_ITEMS = 10_000

#: Keys and results that are shown.
SHOWN = 5

#: Characters of a key or value that are shown.
_CHARS = 60

#: Share of the records that a combiner must save to be worth a line.
WORTH_SHARE = 0.2

#: Units of bytes, each 1024 of the one before.
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def item_count(text: str) -> int:
    """Convert the value of --try."""
    text = text.strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else 0
    if not 1 <= number <= MAX_ITEMS:
        raise UsageError(
            f"expected a number of items from 1 to {MAX_ITEMS:,}; for more, run the job on fewer files"
        )
    return number


def write_report(
    job: Job[Any, Any], count: int, arguments: Arguments, stream: IO[bytes], on_notice: Callable[[str], None]
) -> None:
    """Run at most `count` items, and write the report. Raises what an inline run raises, and StdoutClosed."""
    text = "".join(f"{line}\n" for line in _report(job, count, arguments, on_notice))
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        while data:
            data = data[stream.write(data) :]
    except BrokenPipeError:
        raise StdoutClosed from None
    except OSError as error:
        raise JobError(f"cannot write the report: {error.strerror or error}", {"kind": "output"}) from error


def _report(
    job: Job[Any, Any], count: int, arguments: Arguments, on_notice: Callable[[str], None]
) -> Iterator[str]:
    glance = take_glance(job, count, on_notice)
    yield from _describe_items(glance)
    if glance.sample.items:
        yield from _describe_map(job, glance)
        yield from _describe_results(glance)
    yield from _describe_travel(glance)
    if glance.sample.items:
        yield from _forecast(job, glance, arguments.procs or count_default_executors())
    where = "standard output" if arguments.output in (None, "-") else arguments.output
    yield _line("written", f"nothing; the results would go to {shown(where)}")


def _describe_items(glance: Glance) -> Iterator[str]:
    sample = glance.sample
    n_items = len(sample.items)
    of = "" if sample.total is None else f" of {'about ' if sample.is_estimate else ''}{sample.total:,}"
    yield _line("items", f"{n_items:,}{of}: {shown(sample.how)}" if n_items else "the datasource gave none")
    if n_items:
        keys = Counter(type(key).__name__ for key, _ in sample.items)
        values = Counter(type(value).__name__ for _, value in sample.items)
        yield _line("", f"keys: {_types(keys)}; values: {_types(values)}")
    for text in sample.unreadable[:SHOWN]:
        yield _line("", f"cannot be read: {shown(text)}")
    if glance.skipped:
        yield _line("", f"{glance.skipped:,} of them failed and were set aside (max_skipped)")


def _describe_map(job: Job[Any, Any], glance: Glance) -> Iterator[str]:
    if job.mapfn is None:
        return
    if glance.item_times:
        mean_s = sum(each for each, _ in glance.item_times) / len(glance.item_times)
        slowest_s, key = max(glance.item_times, key=lambda each: each[0])
        yield _line("mapfn", f"{_duration(mean_s)} an item; the slowest {_duration(slowest_s)}, {_text(key)}")
    per_item = glance.records / len(glance.sample.items)
    yield _line(
        "", f"{glance.records:,} records, {per_item:,.1f} an item, {len(glance.keys):,} different keys"
    )
    if glance.records:
        yield _line("", f"keys: {_types(glance.key_types)}; values: {_types(glance.value_types)}")
        yield _line("", "most frequent: " + ", ".join(_shares(glance)))


def _describe_results(glance: Glance) -> Iterator[str]:
    results = glance.results
    yield _line("results", f"{len(results):,}")
    if results:
        keys = Counter(type(key).__name__ for key, _ in results)
        values = Counter(type(value).__name__ for _, value in results)
        yield _line("", f"keys: {_types(keys)}; values: {_types(values)}")
    for key, value in results[:SHOWN]:
        yield _line("", f"{_text(key)}: {_text(value)}")
    if len(results) > SHOWN:
        yield _line("", "...")


def _describe_travel(glance: Glance) -> Iterator[str]:
    if glance.unshippable is None:
        yield _line(
            "travel", f"the functions can be sent, {_size(glance.code_bytes)}; so can all keys and values"
        )
    else:
        yield _line("travel", f"the functions cannot be sent to executors: {shown(glance.unshippable)}")


def _forecast(job: Job[Any, Any], glance: Glance, executors: int) -> Iterator[str]:
    sample = glance.sample
    if sample.total is None:
        yield _line("forecast", "none: how many items there are is not known before they are read")
    else:
        scale = sample.total / len(sample.items)
        seconds = glance.seconds * scale / executors
        yield _line(
            "forecast",
            f"{_duration(seconds)} on {executors} executor{'s'[: executors > 1]}, as far as "
            f"{len(sample.items):,} items can say",
        )
        most = "at most " if glance.is_combined else ""
        yield _line("", f"between map and reduce: {most}{_size(glance.shuffle_bytes * scale)}")
        if glance.records and job.reducefn is not None:
            key, count = glance.keys.most_common(1)[0]
            yield _line("", f"largest key: {_text(key)}, about {count * scale:,.0f} values")
    yield from _judge_combiner(job, glance)


def _judge_combiner(job: Job[Any, Any], glance: Glance) -> Iterator[str]:
    if job.reducefn is None or job.sort_values or not glance.records:  # sorted values need all of them
        return
    if glance.is_combined:
        yield _line("combiner", "values are combined where they are mapped")
        return
    left = len(glance.keys) / glance.records
    if 1 - left < WORTH_SHARE:
        yield _line("combiner", f"would hardly help: {left:.0%} of the records would be left in these items")
        return
    yield _line(
        "combiner",
        f"would help: of {glance.records:,} records {len(glance.keys):,} would be left ({left:.0%}), fewer in larger "
        f"tasks. If reducefn may be called with its own results: collectfn = reducefn",
    )


def _shares(glance: Glance) -> Iterable[str]:
    for key, count in glance.keys.most_common(SHOWN):
        yield f"{_text(key)} {count / glance.records:.0%}"


def _line(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _types(counted: Counter[str]) -> str:
    return ", ".join(shown(name) for name, _ in counted.most_common(SHOWN))


def _text(thing: Any) -> str:
    return shown(short_repr(thing, _CHARS))


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _size(n_bytes: float) -> str:
    for unit in _BYTE_UNITS[:-1]:
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} {_BYTE_UNITS[-1]}"
