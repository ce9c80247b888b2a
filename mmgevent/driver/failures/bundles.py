"""Keep a bundle of a call that failed: its code, its input and its surroundings, see `job.bundle`.

The input is, whichever is there first: what the function was called with in this process; the item,
if the datasource gives it again at once; or the pickle that the executor sent. A job is never worse
off for its bundles: what cannot be kept is left out, and a folder that cannot be written is one
message.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.driver.failures.error_groups import ErrorGroup, cause_of, describe_groups, group_failures
from mmgevent.driver.packing import pack_code
from mmgevent.errors import JobError, TooManySkippedError
from mmgevent.job.bundle import default_folder, write_bundle
from mmgevent.job.functions import Functions
from mmgevent.machine import interpreter
from mmgevent.machine.logs import get_log
from mmgevent.tasks.given import MAX_KEPT_BYTES, encode_given, input_of
from mmgevent.wire.failures import without_input
from mmgevent.wire.hello import PYTHON_VERSION, VERSION, describe_python, dill_version

if TYPE_CHECKING:
    from mmgevent.driver.job_state import JobState
    from mmgevent.job.job import Job
    from mmgevent.tasks.plain_rules import PlainRules

log = get_log(__name__)

#: Functions whose calls can be made again.
_REPLAYED = frozenset({"mapfn", "collectfn", "reducefn", "setupfn", "finishfn"})

#: Bundles of one cause, of items that were set aside. The second one shows what they have in common.
A_CAUSE = 2

#: Bundles of one job, of items that were set aside: they leave room for earlier failures.
A_JOB = 12

#: Items set aside that are grouped for the message at the end of a job: a second's work.
MAX_ROWS = 100_000

#: Time in which the thread of a job that has failed may keep a bundle, seconds. A disk or a server
#: of files that never answers must not keep the job from ending.
KEEP_S = 30.0

_TOO_LARGE = f"what it was called with has more than {MAX_KEPT_BYTES >> 20} MiB, or cannot be pickled"
_UNKNOWN = "what it was called with is not known here"


class FailedJob(NamedTuple):
    """What a bundle takes of a job that failed, or of one stage of it."""

    job: Job[Any, Any]
    state: JobState
    #: the rules for what executors send, if that must be plain data
    plain: PlainRules | None
    #: returns an item by (batch, position), or None if it cannot be read again at once
    find_item: Callable[[int, int], tuple[Any, Any] | None]
    #: returns the payload of its functions
    pack_code: Callable[[], bytes]


def keep_bundle(failed: FailedJob, error: JobError) -> None:
    """Keep a bundle of the failure that ends a job, and let the error name it."""
    record, given = error.evidence or ({}, None)
    if isinstance(error, TooManySkippedError) and given is None and "item" not in record:
        record, given = _find_set_aside(failed, record)
    kept = _keep(failed, record, given)
    if kept is not None:
        error.name_bundle(*kept)


def describe_skipped(failed: FailedJob) -> list[str]:
    """Return what a job says of its items that were set aside, a line each, and keep bundles of some.

    Only the first MAX_ROWS items are looked at. Rows that cannot be read are no fault of the job,
    which has done the other items.
    """
    try:
        groups = group_failures(islice(failed.state.set_aside.records(), MAX_ROWS))
        return describe_groups(groups, _keep_skipped(failed, groups))
    except JobError as problem:
        log.info("the errors of job %s cannot be grouped: %s", failed.job.name, problem)
        return []


def _keep_skipped(failed: FailedJob, groups: Collection[ErrorGroup]) -> dict[tuple[Any, ...], str]:
    """Keep bundles of the first items of each group; return {cause: path}."""
    paths: dict[tuple[Any, ...], str] = {}
    kept: dict[tuple[Any, ...], int] = {}
    if not failed.job.options.bundles:
        return paths
    wanted = min(A_JOB, A_CAUSE * len(groups))
    rows = islice(failed.state.set_aside.records(), MAX_ROWS)
    for place, value, is_workers, failure in rows:
        if sum(kept.values()) >= wanted:
            break
        cause = cause_of(failure)
        if kept.get(cause, 0) >= A_CAUSE:
            continue
        kept[cause] = kept.get(cause, 0) + 1
        example = _keep(failed, *_read_row(failed, place, value, is_workers, failure))
        if example is not None and example[1] is None:
            paths.setdefault(cause, example[0])
    return paths


def _find_set_aside(
    failed: FailedJob, record: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Any, Any] | None]:
    """Return the failure of a job with the place of its item, and the item if it was kept.

    A job of which too large a share fails ends with the last item that was set aside before.
    """
    try:
        for place, value, is_workers, failure in islice(failed.state.set_aside.records(), MAX_ROWS):
            if all(failure.get(name) == record.get(name) for name in ("function", "key", "error")):
                found, given = _read_row(failed, place, value, is_workers, failure)
                return {**record, "batch": found["batch"], "item": found["item"]}, given
    except JobError as problem:
        log.info("the items set aside of job %s cannot be read: %s", failed.job.name, problem)
    return record, None


def _read_row(
    failed: FailedJob, place: tuple[int, int], value: Any, is_workers: bool, failure: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Any, Any] | None]:
    """Return the failure of an item that was set aside, with its place, and the item if it was kept."""
    known = {name: field for name, field in failure.items() if name != "item_key"}
    given = None
    if value is not None and "item_key" in failure:
        from mmgevent.tasks.records import decode_value

        try:
            given = failure["item_key"], decode_value(value, failed.plain if is_workers else None)
        except Exception as problem:  # a class of the user's may refuse to be made
            log.debug("the value of an item that was set aside cannot be decoded: %r", problem)
    return {**known, "batch": place[0], "item": place[1]}, given


def _keep(
    failed: FailedJob, record: dict[str, Any], given: tuple[Any, Any] | None
) -> tuple[str, str | None] | None:
    """Keep a bundle of a failure record, or return None if none can be kept.

    Return its path, and why it has no input, or None if it can be replayed.
    """
    function, bundles = record.get("function"), failed.job.options.bundles
    if function not in _REPLAYED or not bundles or failed.job.functions().offered_names:
        return None
    folder = default_folder() if bundles is True else str(bundles)
    if folder is None:
        log.info("no bundle is kept: this user has no folder for caches")
        return None
    try:
        data, plain, missing = _find_input(failed, record, given)
        sections = {"code": _code_of(failed, function)}
        if data is not None:
            sections["input"] = data
        header = {**_describe(failed, record), "is_plain": plain, "missing": missing}
        return write_bundle(folder, f"{failed.job.name}-{function}", header, sections), missing
    except Exception as problem:  # a read-only home, a class that cannot be packed: no fault of the job
        text = f"no bundle of the failure could be kept in {folder}: {problem}"
        if bundles is True:
            log.info("%s", text)
        else:
            failed.state.notice(text)
        return None


def _find_input(
    failed: FailedJob, record: dict[str, Any], given: tuple[Any, Any] | None
) -> tuple[bytes | None, bool, str | None]:
    """Return the pickled input, whether it must be plain data, and why it is missing."""
    if record.get("function") == "setupfn":
        return None, False, None
    batch, item = record.get("batch"), record.get("item")
    if given is None and record.get("function") == "mapfn" and type(batch) is int and type(item) is int:
        given = failed.find_item(batch, item)
    if given is not None:
        data = encode_given(given, MAX_KEPT_BYTES, None)
        return data, False, None if data is not None else _TOO_LARGE
    data = input_of(record)
    return data, failed.plain is not None, None if data is not None else _UNKNOWN


def _code_of(failed: FailedJob, function: str) -> bytes:
    """Return the payload with the function. That of finishfn, which never travels, is its mapfn."""
    job = failed.job
    if function == "finishfn":
        return pack_code(job, Functions(mapfn=job.finishfn), stays_here=True)
    return failed.pack_code()


def _describe(failed: FailedJob, record: dict[str, Any]) -> dict[str, Any]:
    """Return the header of a bundle, but for its input."""
    job: Job[Any, Any] = failed.job
    options = job.options.to_wire()
    if failed.plain is not None:
        options["plain"] = failed.plain.to_wire()
    try:
        cwd: str | None = os.getcwd()
    except OSError:
        cwd = None
    return {
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "job": job.name,
        "failure": without_input(record),
        "finish_form": job.finish_form,
        "options": options,
        "flags": interpreter.own_flags(),
        "surroundings": {
            "sys_path": [path or cwd or "" for path in sys.path if isinstance(path, str)],
            "cwd": cwd,
            "argv": list(sys.argv if job.argv is None else job.argv),
        },
        "versions": {
            "mmgevent": VERSION,
            "python": PYTHON_VERSION,
            "implementation": describe_python(),
            "dill": dill_version(),
        },
    }
