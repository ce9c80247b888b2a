"""Check a job in a test suite: whether its functions keep the promises on which engines rely.

    from mmgevent.testing import check

    def test_word_count():
        assert check(word_count)["the"] == 3

`check` runs the job inline, tries each function by itself, and runs the job on two executors, with
other batches and partitions, with every task twice, and with an executor that is killed. All must
give the same. docs/testing.md says more. pytest has the fixture `mmgevent_check`.
"""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmgevent.errors import BrokenPromiseError, UsageError

if TYPE_CHECKING:
    from mmgevent.driver.base_cluster import BaseCluster
    from mmgevent.job.job import Job, K, V
    from mmgevent.tasks.calls import CallRules

__all__ = ["BrokenPromiseError", "check"]

#: Executors of the cluster that checks share.
EXECUTORS = 2

#: Items on which each function is tried by itself. The job itself runs on all.
MAX_ITEMS = 1000

#: Items of a batch in the runs with batches of one size. A job has batches of any size.
BATCHES = (1, 7)

#: Numbers of partitions: all keys in one reduce task, and nearly each in its own.
PARTITIONS = (1, 61)

#: Time for one run on the cluster, seconds. A job for a test takes less than one.
RUN_S = 300.0

#: Bytes of records that a task holds: as in an inline run.
_RECORD_BYTES = 64 * 1024 * 1024

Record = tuple[Any, Any]

_shared: tuple[int, BaseCluster] | None = None  # the process that made it, and the cluster


def check(job: Job[K, V], *, cluster: BaseCluster | None = None) -> dict[K, V]:
    """Run a job in many ways, and return its results as a dict.

    `cluster`: where to run it, beside inline; by default on two executors of this machine, which all
    checks of this process share.

    The datasource is read several times: pass a list, a mapping, files, or a function. It should be
    small.

    Raises:

    - BrokenPromiseError, an AssertionError: a function does not keep a promise. The text names it;
    - the errors of `mmgevent.run(job)`;
    - UsageError for a datasource that gives its items once, and for functions that are given by
      name.
    """
    from mmgevent.driver.results import apply_finish, build_dict
    from mmgevent.job.inputs.sources import is_one_shot

    if is_one_shot(job.datasource):
        raise UsageError(
            "check runs the job several times, and this datasource gives its items once: pass a list, or a function "
            "that returns a new iterator"
        )
    where = _shared_cluster() if cluster is None else cluster
    stages = job.stages
    results: list[Record] = []
    for number, stage in enumerate(stages, 1):
        results = _check_stage(stage.as_stage(number, len(stages), results), where, number, len(stages))
    return build_dict(apply_finish(job.finishfn, job.finish_form, results, job.argv))


def _check_stage(job: Job[Any, Any], cluster: BaseCluster, number: int, count: int) -> list[Record]:
    """Check a job of one stage; return its records."""
    from mmgevent.driver.runners.inline import run_inline
    from mmgevent.driver.trying.promises import Promises

    functions = job.functions()
    if functions.offered_names:
        raise UsageError(
            f"the function {min(functions.offered_names)!r} is given by name: check needs the function itself"
        )
    expected = list(run_inline(job))
    try:
        if functions.setupfn is not None:
            functions.setupfn()
        items = list(islice(_mapped_items_of(job), MAX_ITEMS))
        promises = Promises(functions, items, items_per_call=job.options.items_per_call)
        promises.check(are_values_ordered=number == 1)
        if job.options.allocation != "oneshot":
            _check_runs(job, cluster, expected)
    except BrokenPromiseError as error:
        error.name_stage(number, count)
        raise
    return expected


def _items_of(job: Job[Any, Any]) -> Iterator[Record]:
    """Yield the items of a job's datasource, those of files, too."""
    from mmgevent.job.inputs.refs import Ref

    for key, value, _ in job.walk(job.reopen_datasource()):
        if isinstance(value, Ref):
            yield from value.units()
        else:
            yield key, value


def _mapped_items_of(job: Job[Any, Any]) -> Iterator[Record]:
    """Yield the items of a job that are not set aside."""
    return (item for item in _items_of(job) if not job.options.max_skipped or _can_be_mapped(job, item))


def _can_be_mapped(job: Job[Any, Any], item: Record) -> bool:
    """Return whether an item gives records, where those that give none are set aside."""
    from mmgevent.job.inputs.refs import Unreadable
    from mmgevent.tasks.blame import TaskFailure
    from mmgevent.tasks.records import decode_items, encode_items
    from mmgevent.tasks.run import run_map

    if isinstance(item[1], Unreadable):
        return False
    try:
        run_map(
            job.functions(),
            decode_items(encode_items([item])),
            partitions=1,
            memory_bytes=_RECORD_BYTES,
            emit=_ignore,
            mark=_mark_nothing,
            calls=_calls_of(job),
        )
    except TaskFailure:
        return False
    return True


def _calls_of(job: Job[Any, Any]) -> CallRules | None:
    from mmgevent.tasks.calls import CallRules

    per_call = job.options.items_per_call
    return None if per_call is None else CallRules(per_call, _mark_nothing)


def _check_runs(job: Job[Any, Any], cluster: BaseCluster, expected: list[Record]) -> None:
    for size in BATCHES:
        for partitions in PARTITIONS:
            _compare(
                expected,
                _run_in_batches(job, size, partitions),
                f"in batches of {size}, every task twice, with {partitions} partitions",
            )
    _compare(expected, _run_on(cluster, job), "on a cluster")
    with tempfile.TemporaryDirectory(prefix="mmgevent-check-") as folder:
        killed = _killing(job, os.path.join(folder, "killed"))
        _compare(expected, _run_on(cluster, killed), "on a cluster of which an executor is killed")


def _compare(expected: list[Record], records: list[Record], how: str) -> None:
    from mmgevent.driver.trying.promises import SHOWN_CHARS
    from mmgevent.driver.trying.sameness import find_difference
    from mmgevent.tasks.blame import short_repr

    difference = find_difference(expected, records)
    if difference is not None:
        key, value, other = (short_repr(part, SHOWN_CHARS) for part in difference)
        raise BrokenPromiseError(
            f"the job at {key}: it gives {value} inline, and {other} {how}\n"
            f"its functions must depend on what they are called with alone: not on globals that they change, on "
            f"the process that they run in, nor on what else their batch or partition holds",
            "results",
            None,
            key,
        )


def _run_on(cluster: BaseCluster, job: Job[Any, Any]) -> list[Record]:
    handle = cluster.submit(job, on_notice=_ignore)
    error = handle.exception(RUN_S)
    if error is not None:
        raise error
    return list(handle.stream())


def _run_in_batches(job: Job[Any, Any], size: int, partitions: int) -> list[Record]:
    """Run a job in this process with batches of one size; each task runs twice, and the second counts."""
    from mmgevent.driver.runners.decoding import decode_flushes
    from mmgevent.tasks.records import decode_items, encode_items
    from mmgevent.tasks.run import run_map, run_reduce

    functions, calls = job.functions(), _calls_of(job)
    items = _mapped_items_of(job)
    segments: dict[int, list[bytes]] = {}
    while batch := list(islice(items, size)):
        flushes: list[bytes] = []
        for _ in range(2):
            flushes.clear()
            run_map(
                functions,
                decode_items(encode_items(batch)),
                partitions=partitions,
                memory_bytes=_RECORD_BYTES,
                emit=flushes.append,
                mark=_mark_nothing,
                calls=calls,
            )
        for flush in flushes:
            _add_segments(segments, flush)
    records: list[Record] = []
    for partition, parts in sorted(segments.items()):
        for _ in range(2):
            flushes = []
            run_reduce(
                functions,
                [(partition, sum(map(len, parts)), parts)],
                partitions=partitions,
                memory_bytes=_RECORD_BYTES,
                emit=flushes.append,
                mark=_mark_nothing,
            )
        for flush in flushes:
            records.extend(decode_flushes(flush))
    return records


def _add_segments(segments: dict[int, list[bytes]], flush: bytes) -> None:
    from mmgevent.tasks.records import decode_flush, segment_size

    for partition, data in decode_flush(flush):
        at = 0
        while at < len(data):
            end = at + segment_size(data, at)
            segments.setdefault(partition, []).append(bytes(data[at:end]))
            at = end


# An executor that is killed.


def _killing(job: Job[Any, Any], marker: str) -> Job[Any, Any]:
    """Return a job whose first call of mapfn, or else of reducefn, kills its executor, once."""
    functions = job.functions()
    mapfn: Any = functions.mapfn
    if mapfn is not None:
        return job.with_functions(mapfn=partial(_die_before_pair, mapfn, marker))
    reducefn: Any = functions.reducefn
    if functions.reduce_form == "iterator":
        return job.with_functions(reducefn=partial(_die_before_all, reducefn, marker))
    return job.with_functions(reducefn=partial(_die_before_pair, reducefn, marker))


def _die_before_pair(function: Callable[[Any, Any], Any], marker: str, key: Any, value: Any) -> Any:
    _die_once(marker)
    return function(key, value)


def _die_before_all(function: Callable[[Any], Any], marker: str, groups: Any) -> Any:
    _die_once(marker)
    return function(groups)


def _die_once(marker: str) -> None:
    """Kill this process, unless another one was."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


# The cluster of all checks.


def _shared_cluster() -> BaseCluster:
    """Return the cluster of this process, which ends with it."""
    global _shared
    if _shared is None or _shared[0] != os.getpid():
        from mmgevent.driver.local_cluster import LocalCluster

        _shared = os.getpid(), LocalCluster(EXECUTORS)
        atexit.register(close_shared)
    return _shared[1]


def close_shared() -> None:
    """Close the cluster that checks share; the next check starts another. Idempotent."""
    global _shared
    if _shared is not None and _shared[0] == os.getpid():
        cluster, _shared = _shared[1], None
        cluster.close()


def _ignore(text: object) -> None:
    pass


def _mark_nothing(index: int, key: Any) -> None:
    pass
