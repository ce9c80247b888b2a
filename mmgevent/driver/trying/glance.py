"""Run some items of a job in this process, through all of its functions, and measure what happens.

Nothing is written. Whatever a function raises ends the glance as it ends an inline run. The same
items, keys and results pass through the same encoding as on a cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter
from typing import Any, NamedTuple

from mmgevent._speedups import spread
from mmgevent.driver.packing import pack_job
from mmgevent.driver.results import apply_finish
from mmgevent.driver.runners.inline import InlineRunner
from mmgevent.driver.trying.sample import Sample, draw_sample
from mmgevent.errors import UsageError
from mmgevent.job.inputs.refs import Ref
from mmgevent.job.job import Job
from mmgevent.reducers import combiner_of, fold_of
from mmgevent.tasks.blame import short_repr
from mmgevent.tasks.returned import pairs_of

#: Most different keys of records that are counted. Twenty items seldom give more.
MAX_KEYS = 1_000_000

#: Types whose keys are counted as they are. Others are counted by their text.
_PLAIN = frozenset({str, int, float, bytes, bool, type(None)})


class _Kind(NamedTuple):
    """What is noted of a record."""

    #: its key, or the text of it
    name: Any
    key_type: str
    value_type: str


@dataclass
class Glance:
    """What some items of a job did."""

    sample: Sample
    #: the results of these items, as they would be written
    results: list[tuple[Any, Any]] = field(default_factory=list)
    #: time of mapfn for each item, seconds, and the item's key; of a call of many, their share
    item_times: list[tuple[float, Any]] = field(default_factory=list)
    #: records of mapfn
    records: int = 0
    keys: Counter[Any] = field(default_factory=Counter)
    key_types: Counter[str] = field(default_factory=Counter)
    value_types: Counter[str] = field(default_factory=Counter)
    #: bytes that would travel to the executors that reduce
    shuffle_bytes: int = 0
    #: time of the whole run, without that of setupfn, seconds
    seconds: float = 0.0
    #: whether values are combined where they were mapped
    is_combined: bool = False
    #: why the functions cannot be sent to executors; None if they can
    unshippable: str | None = None
    #: bytes of the functions as they travel
    code_bytes: int = 0
    #: items that were set aside
    skipped: int = 0

    def add_records(self, kind: _Kind, count: int) -> None:
        """Count records of mapfn of one kind."""
        self.records += count
        self.key_types[kind.key_type] += count
        self.value_types[kind.value_type] += count
        if kind.name in self.keys or len(self.keys) < MAX_KEYS:
            self.keys[kind.name] += count


def take_glance(job: Job[Any, Any], count: int, on_notice: Callable[[str], None]) -> Glance:
    """Run at most `count` items of a job here. Raises what an inline run raises."""
    job.check()
    if job.previous is not None:
        raise UsageError(
            f"a glance at a job of several stages is not possible, and this one has {len(job.stages)}: take it at the "
            f"first stage alone, or run the job on few items with --inline"
        )
    if job.functions().offered_names:
        InlineRunner(job).check()  # which refuses it by name, before anything is read
    glance = Glance(Sample([], "", 0))
    _try_to_pack(job, glance, on_notice)
    sample = glance.sample = draw_sample(job, count)
    reducefn = job.functions().reducefn
    glance.is_combined = job.collectfn is not None or (
        reducefn is not None
        and not job.sort_values
        and (combiner_of(reducefn) is not None or fold_of(reducefn) is not None)
    )
    setup_s = 0.0

    def setupfn() -> None:
        nonlocal setup_s
        began_s = perf_counter()
        assert job.setupfn is not None
        job.setupfn()
        setup_s = perf_counter() - began_s

    items = sample.items
    if job.options.items_per_call is not None and sample.joining:
        items = [(key, (ref, value)) for (key, value), ref in zip(items, sample.joining, strict=True)]
    trial = job.for_trial(items, _noting(job, glance), None if job.setupfn is None else setupfn).with_options(
        partitions=1, allocation="continuous", max_skipped=len(sample.items) if job.options.max_skipped else 0
    )
    runner = InlineRunner(trial, on_notice=on_notice)
    runner.check()
    began_s = perf_counter()
    glance.results = list(apply_finish(job.finishfn, job.finish_form, runner.records(), job.argv))
    glance.seconds = perf_counter() - began_s - setup_s
    glance.shuffle_bytes = runner.shuffle_bytes
    glance.skipped = runner.state.set_aside.count
    return glance


def _try_to_pack(job: Job[Any, Any], glance: Glance, on_left: Callable[[str], None]) -> None:
    try:
        packed = pack_job(job, on_left, None, is_local=False, stays_here=False)
    except UsageError as error:
        glance.unshippable = str(error)
    else:
        glance.code_bytes = len(packed.code)


def _noting(job: Job[Any, Any], glance: Glance) -> Callable[[Any, Any], Any] | None:
    """Return the job's mapfn, which notes its time and its records in the glance."""
    mapfn: Any = job.mapfn
    if mapfn is None:
        return None
    is_of_many = job.options.items_per_call is not None
    if is_of_many and glance.sample.joining:
        mapfn = _joining(mapfn)

    def noted(key: Any, value: Any) -> Iterator[Any]:
        found: Counter[_Kind] = Counter()
        began_s = perf_counter()
        output = spread(pairs_of(mapfn(key, value), "mapfn"))
        used_s = perf_counter() - began_s
        while True:
            began_s = perf_counter()
            try:
                record = next(output)
            except StopIteration:
                break
            used_s += perf_counter() - began_s
            if isinstance(record, (tuple, list)) and len(record) == 2:  # else the task refuses it
                found[_kind_of(*record)] += 1
            yield record
        keys = key if is_of_many else [key]
        glance.item_times += [(used_s / max(1, len(keys)), each) for each in keys]
        for kind, count in found.items():
            glance.add_records(kind, count)

    return noted


def _joining(mapfn: Any) -> Callable[[list[Any], list[tuple[Ref | None, Any]]], Iterator[Any]]:
    """Return a mapfn for values with their refs. It calls the job's own anew where a ref ends."""

    def joined(keys: list[Any], values: list[tuple[Ref | None, Any]]) -> Iterator[Any]:
        for ref, places in groupby(range(len(keys)), key=lambda place: values[place][0]):
            chosen = list(places)
            part: Any = [values[place][1] for place in chosen]
            if ref is not None:
                part = ref.join_values(part)
            yield from pairs_of(mapfn([keys[place] for place in chosen], part), "mapfn")

    return joined


def _kind_of(key: Any, value: Any) -> _Kind:
    name = key if type(key) in _PLAIN else short_repr(key)
    return _Kind(name, type(key).__name__, type(value).__name__)
