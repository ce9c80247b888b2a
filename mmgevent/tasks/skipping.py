"""What becomes of an item that fails: it is tried again, set aside, or ends the task.

A `Skipping` belongs to one run of one map task. It counts what was set aside, and makes of each such
item a row that says what it was and why it failed. Rows leave the task as segments of a partition of
their own, one above those of the job: so they are staged, committed, spilled and dropped together with
the records of the attempt, and the server counts them without reading them.

A row is a record: its key is the key of the item, its value a tuple of

    position     of the item, see `positions`
    value        the pickled value if it has at most MAX_VALUE_BYTES, else None
    type, text   of the exception
    failure      the failure record, see `errors.JobError`
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from mmgevent.errors import SignalReceived
from mmgevent.tasks.blame import TaskFailure, short_repr
from mmgevent.tasks.records import RecordError, encode_segment, encode_value
from mmgevent.wire import failures

#: Largest pickled value of an item that is kept, bytes. Larger ones are read again by who asks.
MAX_VALUE_BYTES = 64 * 1024

#: Tracebacks formatted in one run of a task. One costs as much as two hundred short items, and the first
#: twenty tell what the others would.
MAX_TRACEBACKS = 20

#: Items set aside that are named to the user one by one; beyond that they are only counted.
MAX_NAMED = 20

#: Rows that are encoded together: about 256 KiB of them.
ROWS_A_SEGMENT = 256

#: Stands for the value of an item that could not be read.
UNREAD: Any = object()


def _never(error: BaseException) -> bool:
    return False


Row = tuple[int, bytes | None, str, str, dict[str, Any]]


class Skipping:
    """The rules for items that fail, and those that did, in one run of a task."""

    def __init__(
        self,
        retries: int = 0,
        max_skipped: int | float = 0,
        *,
        passes: Callable[[BaseException], bool] = _never,
    ):
        """`retries` and `max_skipped` are the options of the job; what `passes(error)` is no failure of an item."""
        self.retries = retries
        self.passes = passes
        #: Items that were set aside.
        self.count = 0
        #: The failure record of the last of them.
        self.last_failure: dict[str, Any] | None = None
        #: The failure records of the first MAX_NAMED of them.
        self.first_failures: list[dict[str, Any]] = []
        self._max_skipped = max_skipped
        self._keys: list[Any] = []
        self._rows: list[Row] = []

    @property
    def is_needed(self) -> bool:
        """Return whether anything but the end of the task can follow from a failure."""
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
        """Set an item aside whose tries are used up. Raises the failure where that may not be."""
        failure.is_spent = True
        if not self._max_skipped:
            raise failure
        self.count += 1
        if type(self._max_skipped) is int and self.count > self._max_skipped:
            failure.skipped = self.count
            raise failure
        error = failure if failure.__cause__ is None else failure.__cause__
        self.last_failure = failure.failure
        if self.count <= MAX_NAMED:
            self.first_failures.append(failure.failure)
        self._keys.append(key)
        self._rows.append(
            (
                position,
                None if value is UNREAD else encode_value(value, MAX_VALUE_BYTES),
                type(error).__qualname__,
                _text_of(error),
                failure.failure,
            )
        )

    def take_segment(self) -> bytes | None:
        """Return the rows that were not taken yet, encoded, or None if there are none."""
        if not self._rows:
            return None
        keys, rows = self._keys, self._rows
        self._keys, self._rows = [], []
        try:
            return encode_segment(keys, rows)
        except RecordError:  # a key that travelled here, and no longer can
            return encode_segment([short_repr(key) for key in keys], rows)


def _text_of(error: BaseException) -> str:
    try:
        return failures.shorten(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # of the user's own __str__
        return "<its str() fails>"


class SignalTeller:
    """Tells what a signal raised under a function from failures of the function, in the user's own process."""

    def __init__(self) -> None:
        """Look at the handlers there are now: one that a function installs later is its own, such as an alarm's."""
        handlers = map(signal.getsignal, signal.valid_signals())
        self._codes = frozenset(
            code for each in handlers if (code := getattr(each, "__code__", None)) is not None
        )

    def is_of_signal(self, error: BaseException) -> bool:
        """Return whether a signal raised this."""
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
