"""Turn the records of a job into its results, in the user's process: finishfn, and the dict.

User code runs here between two of our generators.  Below it is the driver, which raises the errors
of the job.  Above it is the caller that asked for the results.  Only errors that finishfn itself
raises are its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mmgevent.errors import DuplicateKeyError, JobError
from mmgevent.job.arguments import calls_showing, items_showing, list_to_show
from mmgevent.job.functions import Form
from mmgevent.tasks.blame import NO_KEY, blame_driver_code, make_failure, short_repr
from mmgevent.tasks.counters import NOT_IN_FINISH, refusing

if TYPE_CHECKING:
    from mmgevent.driver.runners.runner import Runner

Record = tuple[Any, Any]


def apply_finish(
    finishfn: Callable[..., Any] | None,
    finish_form: Form | None,
    records: Iterable[Record],
    argv: Sequence[str] | None = None,
) -> Iterator[Record]:
    """Yield the results: `records` after finishfn, in its order.

    The records themselves if it is None.

    `argv`: what finishfn sees as `sys.argv`, or None for that of this process.

    Raises JobError, kind "finish", for an Exception or SystemExit of finishfn, and if it yields
    something that is no pair.  Errors of `records` and KeyboardInterrupt pass unchanged.
    """
    if finishfn is None:
        return iter(records)
    shown = list_to_show(argv)
    if finish_form == "iterator":
        return _finish_all(finishfn, records, shown)
    return _finish_each(calls_showing(shown, finishfn), records)


def results_of(runner: Runner, records: Iterable[Record]) -> Iterator[Record]:
    """Yield the results of a job from its records; if its finishfn fails, keep a bundle of the call."""
    job = runner.job
    results = apply_finish(job.finishfn, job.finish_form, records, job.argv)
    return results if job.finishfn is None else _keeping_bundle(runner, results)


def _keeping_bundle(runner: Runner, results: Iterable[Record]) -> Iterator[Record]:
    try:
        yield from results
    except JobError as error:
        runner.keep_bundle(error)
        raise


def build_dict(records: Iterable[Record]) -> dict[Any, Any]:
    """Return the results as a dict.

    Raises DuplicateKeyError if a dict would lose a record, and JobError for a key that is
    unhashable: only iterator forms and finishfn give such records.  Errors of `records` pass
    unchanged.
    """
    results: dict[Any, Any] = {}
    for count, (key, value) in enumerate(records, 1):
        try:
            results[key] = value
        except Exception as error:
            raise JobError(
                f"result key {short_repr(key)} cannot be a key of the dict that run() and result() return: {error}; "
                f"use handle.stream(), or yield hashable keys",
                {"kind": "key", "key": short_repr(key)},
            ) from error
        if len(results) != count:
            raise DuplicateKeyError(
                f"two results have the key {short_repr(key)}, and a dict would lose one of them; "
                f"use handle.stream(), or yield each key once",
                {"kind": "key", "key": short_repr(key)},
            )
    return results


def _finish_each(finishfn: Callable[..., Any], records: Iterable[Record]) -> Iterator[Record]:
    for key, value in records:
        try:
            with refusing("finishfn", NOT_IN_FINISH):
                result = finishfn(key, value)
        except (Exception, SystemExit) as error:
            failed = blame_driver_code(error, "finish", "finishfn", key)
            if failed.evidence is not None:
                failed.evidence = failed.evidence[0], (key, value)
            raise failed from error
        yield key, result


def _finish_all(
    finishfn: Callable[..., Any], records: Iterable[Record], argv: list[str] | None
) -> Iterator[Record]:
    if argv is not None:  # while finishfn waits for records, the program sees its own `sys.argv`
        records = items_showing(sys.argv, records)
    source = _Source(records)
    # None, a number and the like are refused below, as is anything else that raises here.
    results = _call(source, calls_showing(argv, lambda: iter(_items_of(finishfn(source.read())))))
    advance = calls_showing(argv, lambda: next(results, _END))
    while True:
        result = _call(source, advance)
        if result is _END:
            return
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise _no_record(f"finishfn gave {short_repr(result)}, which is no (key, value) pair")
        yield result[0], result[1]


_END: Any = object()


class _Source:
    """The records that a finishfn of iterator form reads."""

    def __init__(self, records: Iterable[Record]):
        self._records = records
        #: the error of `records`, even if finishfn has caught it; None if there is none
        self.error: BaseException | None = None
        #: the key of the last record that was read
        self.key: Any = NO_KEY

    def read(self) -> Iterator[Record]:
        try:
            for record in self._records:
                self.key = record[0]
                yield record
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def _call(source: _Source, action: Callable[[], Any]) -> Any:
    """Call user code that reads from `source`; an error of our side passes unchanged."""
    try:
        with refusing("finishfn", NOT_IN_FINISH):
            result = action()
    except (Exception, SystemExit) as error:
        if source.error is not None:
            raise source.error from None
        if isinstance(error, JobError):
            raise
        raise blame_driver_code(error, "finish", "finishfn", source.key) from error
    if source.error is not None:  # finishfn has caught it
        raise source.error
    return result


def _items_of(output: Any) -> Any:
    if output is None or isinstance(output, (str, bytes)) or not hasattr(type(output), "__iter__"):
        what = "None" if output is None else f"an object of type {type(output).__name__}"
        raise _no_record(f"finishfn returned {what}, which holds no records")
    return output.items() if isinstance(output, dict) else output


def _no_record(text: str) -> JobError:
    return JobError.from_failure(
        make_failure("finish", text, function="finishfn", advice="yield or return (key, value) pairs")
    )
