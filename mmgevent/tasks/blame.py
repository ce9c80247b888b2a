"""Say what went wrong in a task, and which function, key or item is to blame.

User code runs under our loops and under the C core. So every exception is judged here, by its type
and by the frames it passed through, never by its text. A frame is the user's if its file is not one
of this package. `TaskFailure` carries the verdict as the plain record that travels on the wire (see
`errors.JobError`).

Nothing here may fail: `__repr__` and `__str__` of the user's objects may raise, and may return huge
texts.
"""

from __future__ import annotations

import os
import reprlib
import traceback
from typing import Any

from mmgevent.errors import JobError, MmgeventError, NoTerminalError
from mmgevent.job.shipping import missing
from mmgevent.tasks.records import SegmentError
from mmgevent.tasks.unpicklable import NotPlainError, RecordError
from mmgevent.wire.failures import bound

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: folder of the standard library
_LIBRARY = os.path.dirname(os.__file__) + os.sep

#: Longest text of a key in a failure, characters.
KEY_CHARACTERS = 200

#: Stands for "no key", since None may be a key.
NO_KEY: Any = object()

_repr = reprlib.Repr()
_repr.maxlevel = 4
_repr.maxtuple = _repr.maxlist = _repr.maxset = _repr.maxfrozenset = _repr.maxdict = 20
_repr.maxstring = _repr.maxlong = _repr.maxother = KEY_CHARACTERS

#: Characters of an ASCII text that never needs to be shortened: far below
#: `failures.MAX_STRING_BYTES`.
_SHORT = 1000

_MEMORY_ADVICE = (
    "raise the job's memory_limit, hold less at once in the function, or give the job a collectfn or one of "
    "mmgevent.reducers, which shorten the values of a key before they meet"
)

_TERMINAL_ADVICE = (
    "use --inline (in a program: inline=True): the whole job then runs in one process, with your terminal; "
    "mmg-run --inline --pdb stops where an exception was raised"
)


class TaskFailure(MmgeventError):
    """A task failed for a reason that lies in the job. Another attempt probably fails, too.

    `failure` is the record for the wire. `item` is the position of the item at fault (see
    `positions`), or None if no single item can be named. `__cause__` is the exception itself.
    """

    exit_code = 1

    def __init__(self, failure: dict[str, Any], item: int | None = None):
        super().__init__(failure.get("error"))
        self.failure = failure
        self.item = item
        #: whether the item was tried as often as the job's retries allow
        self.is_spent = False
        #: whether no item can be named, but a run over fewer items may find the one at fault
        self.is_divisible = False
        #: number of items that this run skipped, if that is more than the job allows; else 0
        self.skipped = 0
        #: what the function was called with: (key, values); None if it is not at hand
        self.given: tuple[Any, Any] | None = None
        #: number of the batch that the item is in; None if it is not known here
        self.batch: int | None = None


def short_repr(obj: Any, limit: int = KEY_CHARACTERS) -> str:
    """Return a repr of at most `limit` characters, whatever the object does when asked for one."""
    try:
        if type(obj) is tuple and len(obj) == 2 and type(obj[0]) is str and type(obj[1]) is int:
            text = repr(obj)  # the key of a line: a tenth of what reprlib costs
            if len(text) <= limit:
                return text
        if isinstance(obj, (str, bytes)) and len(obj) > limit:
            obj = obj[:limit]
            return _cut(repr(obj), limit - 3) + "..."
        text = _repr.repr(obj)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a __repr__ that exits is no reason to exit
        return _cut(f"<{type(obj).__name__} whose repr() fails>", limit)
    return text if len(text) <= limit else _cut(text, limit - 3) + "..."


def is_ours(path: str) -> bool:
    """Return whether a source file is one of this package."""
    return path.startswith(_PACKAGE)


def make_failure(
    kind: str, error: str, *, function: str | None = None, key: Any = NO_KEY, advice: str | None = None
) -> dict[str, Any]:
    """Return a failure record. `error` is one line that says what happened."""
    failure = {"kind": kind, "error": error}
    if function is not None:
        failure["function"] = function
    if key is not NO_KEY:
        failure["key"] = short_repr(key)
    if advice is not None:
        failure["advice"] = advice
    for value in failure.values():
        if len(value) > _SHORT or not value.isascii():
            break
    else:
        return failure
    return bound({name: _printable(value) for name, value in failure.items()})


def blame_exception(
    error: BaseException,
    function: str | None,
    key: Any = NO_KEY,
    item: int | None = None,
    *,
    with_traceback: bool = True,
) -> TaskFailure:
    """Make the failure of an exception that `function` raised while it had `key`."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # their memory is needed to format the failure
    kind, advice = _judge(error)
    if key is NO_KEY and isinstance(error, RecordError):
        key = error.key
    failure = make_failure(kind, describe_error(error), function=function, key=key, advice=advice)
    failure["error_type"] = _printable(type(error).__qualname__)[:KEY_CHARACTERS]
    if line := find_line(error):
        failure["line"] = line
    text = format_user_traceback(error) if with_traceback else None
    if text is not None:
        failure = bound({**failure, "traceback": text})
    return TaskFailure(failure, item)


def blame_driver_code(error: BaseException, kind: str, function: str, key: Any = NO_KEY) -> JobError:
    """Make the JobError of an exception that the datasource or finishfn raised in the driver."""
    failure = blame_exception(error, function, key).failure
    if not isinstance(error, SystemExit):
        failure.pop("advice", None)  # it is for executors
    return JobError.from_failure({**failure, "kind": kind})


def blame_segment(error: SegmentError) -> TaskFailure:
    """Make the failure of a batch or segment that is intact but cannot be unpickled here."""
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError):
        return blame_exception(cause, None)
    advice = cause.advice if isinstance(cause, NotPlainError) else None
    if isinstance(cause, (AttributeError, ImportError)):
        advice = (
            missing.last_reason()
            or "classes of keys and values must exist under their own names where the functions run"
        )
    failure = make_failure("record", describe_error(error), advice=advice)
    text = format_user_traceback(cause) if cause is not None else None
    if text is not None:
        failure["traceback"] = text
    return TaskFailure(bound(failure))


def describe_error(error: BaseException) -> str:
    """Return "Type: text" of an exception; the text alone for our own classes."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a __str__ that exits is no reason to exit
        text = "<its str() fails>"
    if isinstance(error, (RecordError, SegmentError, NoTerminalError)):
        return text
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    return _printable(f"{name}: {text}" if text else name)


def format_user_traceback(error: BaseException) -> str | None:
    """Format the traceback of an exception and its causes, without our own frames.

    Return None if no frame is left. Source lines are those that this process finds.
    """
    try:
        report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        frames = _drop_our_frames(report, set())
        return _printable("".join(report.format())) if frames else None
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # an exception object that cannot even be looked at
        return f"<the traceback cannot be formatted: {type(problem).__name__}>"


def find_line(error: BaseException) -> str | None:
    """Return "FILE:LINE" where the user's own code raised an exception, or None.

    It is the innermost line that is neither ours nor installed, or else the innermost that is not
    ours.
    """
    own = other = None
    trace = error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if not path.startswith(_PACKAGE):
            other = trace
            if not _is_installed(path):
                own = trace
        trace = trace.tb_next
    found = own or other
    if found is None:
        return None
    return _printable(f"{os.path.basename(found.tb_frame.f_code.co_filename)}:{found.tb_lineno}")


def _is_installed(path: str) -> bool:
    """Return whether a file is part of the standard library or installed, or is no file at all."""
    return path.startswith(("<", _LIBRARY)) or "site-packages" in path or "dist-packages" in path


def _drop_our_frames(report: traceback.TracebackException, seen: set[int]) -> int:
    """Remove our frames from a report and from its causes; return how many frames are left."""
    if id(report) in seen:
        return 0
    seen.add(id(report))
    frames = [frame for frame in report.stack if not frame.filename.startswith(_PACKAGE)]
    report.stack = traceback.StackSummary.from_list(frames)
    count = len(frames)
    for chained in (report.__cause__, report.__context__):
        if chained is not None:
            count += _drop_our_frames(chained, seen)
    return count


def _judge(error: BaseException) -> tuple[str, str | None]:
    """Return the kind and the advice for an exception."""
    if isinstance(error, RecordError):
        return "record", error.advice
    if isinstance(error, MemoryError):
        return "memory", _MEMORY_ADVICE
    if isinstance(error, NoTerminalError):
        return "exception", _TERMINAL_ADVICE
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        advice = f"install {module} where the workers run" if module else "install it where the workers run"
        if module.isidentifier():
            advice += f", or, if it is your own, send it along: --py-files {module}.py"
        return "import", advice
    if isinstance(error, SystemExit):
        return "exception", "a job's functions must return; raise an exception to make the job fail"
    return "exception", missing.explain(error)


def _cut(text: str, limit: int) -> str:
    return text[: max(limit, 0)]


def _printable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 does not have, by their escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
