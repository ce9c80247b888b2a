"""Decide what happens to an item that fails: it is tried again, set aside, or ends the task.

A `Skipping` belongs to one run of one map task. It counts the items that were set aside, and makes
a row of each, which says what the item was and why it failed. Rows leave the task as segments of
an extra partition, behind those of the job. So they are staged, committed, spilled and dropped
together with the records of the attempt, and the server counts them without reading them.

A row is a record. Its key is the key of the item. Its value is a tuple:

    position     the item's position, see `positions`
    value        the item's pickled value, or None if it has more than MAX_VALUE_BYTES
    type, text   those of the exception
    failure      the failure record, see `errors.JobError`
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.errors import SignalReceived
from mmgevent.tasks.blame import TaskFailure, short_repr
from mmgevent.tasks.records import encode_segment, encode_value
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire import failures
from mmgevent.wire.causes import Causes

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Largest pickled value of an item that is kept, bytes. Larger ones are read again on request.
MAX_VALUE_BYTES = 64 * 1024

#: Most tracebacks formatted in one run of a task. One takes as long as two hundred short items, and
#: after twenty the next ones say nothing new.
MAX_TRACEBACKS = 20

#: Items set aside that messages name one by one. Further ones are only counted.
MAX_NAMED = 20

#: Rows that are encoded together: about 256 KiB of them.
ROWS_A_SEGMENT = 256

#: Stands for the value of an item that could not be read.
UNREAD: Any = object()


def _never(error: BaseException) -> bool:
    return False


Row = tuple[int, bytes | None, str, str, dict[str, Any]]


class Skipping:
    """The rules for items that fail in one run of a task, and the items that did."""

    def __init__(
        self,
        retries: int = 0,
        max_skipped: int | float = 0,
        *,
        passes: Callable[[BaseException], bool] = _never,
        plain: PlainRules | None = None,
    ):
        """retries, max_skipped: options of the job.

        passes: whether an exception is no failure of an item. plain: the rules for rows, if they
        must be plain data. A value that is not is left out, and a key is replaced by its text.
        """
        self.retries = retries
        self.passes = passes
        self._plain = plain
        #: times that items or calls were tried again
        self.retried = 0
        #: number of items that were set aside
        self.count = 0
        #: failure record of the last of them, with its position in the batch
        self.last_failure: dict[str, Any] | None = None
        #: failure records of the first MAX_NAMED of them
        self.first_failures: list[dict[str, Any]] = []
        #: why they were
        self.causes = Causes()
        self._max_skipped = max_skipped
        self._keys: list[Any] = []
        self._rows: list[Row] = []

    @property
    def is_needed(self) -> bool:
        """Return whether a failure need not end the task."""
        return self.retries > 0 or self._max_skipped > 0

    @property
    def wants_traceback(self) -> bool:
        """Return whether the next failure should have its traceback formatted."""
        return not self._max_skipped or self.count < MAX_TRACEBACKS

    @property
    def is_full(self) -> bool:
        """Return whether the rows should be encoded now."""
        return len(self._rows) >= ROWS_A_SEGMENT

    def give_up(self, position: int, key: Any, value: Any, failure: TaskFailure) -> None:
        """Set an item aside that has no tries left.

        Raise the failure if the job does not allow that.
        """
        failure.is_spent = True
        if not self._max_skipped:
            raise failure
        self.count += 1
        if type(self._max_skipped) is int and self.count > self._max_skipped:
            failure.skipped = self.count
            raise failure
        error = failure if failure.__cause__ is None else failure.__cause__
        self.last_failure = {**failure.failure, "item": position}
        self.causes.add(failure.failure)
        if self.count <= MAX_NAMED:
            self.first_failures.append(failure.failure)
        self._keys.append(key)
        self._rows.append(
            (
                position,
                None if value is UNREAD else encode_value(value, MAX_VALUE_BYTES, self._plain),
                type(error).__qualname__,
                _text_of(error),
                failure.failure,
            )
        )

    def take_segment(self) -> bytes | None:
        """Return the rows since the last call as a segment, or None if there are none."""
        if not self._rows:
            return None
        keys, rows = self._keys, self._rows
        self._keys, self._rows = [], []
        try:
            return encode_segment(keys, rows, plain=self._plain)
        except RecordError:  # a key that is not plain, or that could be pickled once and no longer can
            return encode_segment([self._shown(key) for key in keys], rows, plain=self._plain)

    def _shown(self, key: Any) -> Any:
        """Return a key as it is if it can travel, else its text."""
        return short_repr(key) if encode_value(key, MAX_VALUE_BYTES, self._plain) is None else key


def _text_of(error: BaseException) -> str:
    try:
        return failures.shorten(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's own __str__ may raise anything
        return "<its str() fails>"


class SignalTeller:
    """Distinguishes exceptions of signal handlers from failures of a function, in a driver."""

    def __init__(self) -> None:
        """Note the handlers that are installed now.

        A function may install others later, for itself.
        """
        handlers = map(signal.getsignal, signal.valid_signals())
        self._codes = frozenset(
            code for each in handlers if (code := getattr(each, "__code__", None)) is not None
        )

    def is_of_signal(self, error: BaseException) -> bool:
        """Return whether a handler of a signal raised an exception."""
        if isinstance(error, (KeyboardInterrupt, SignalReceived)):
            return True
        if isinstance(error, (Exception, SystemExit, GeneratorExit)):
            return False
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in self._codes:
                return True
            trace = trace.tb_next
        return False
