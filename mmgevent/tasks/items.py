"""Give the items of one map task: entries of a batch in, items with their positions out.

A ref is read and expanded here. Items that the server skips are left out. If an entry was cut in
parts, only the items of one part are given.

A mapfn whose class sets `takes_encoded` may get an EncodedText instead of a str: the text of a file
before it is decoded, in pieces. `mmgevent.text` counts words in them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

from mmgevent import _speedups
from mmgevent.job.inputs.refs import ContentNeeded, Ref, Unreadable
from mmgevent.tasks.blame import NO_KEY, TaskFailure, blame_exception, make_failure
from mmgevent.wire.positions import ALL, WHOLE, Part, position_of, range_of

#: Called with the position and key of an item, or the index and key of a group, before it runs.
Mark = Callable[[int, Any], object]


class EncodedText:
    """The text of a file, not decoded yet: the value of an item for a mapfn that takes it."""

    def __init__(
        self, ref: Ref, codec: str, key: Any, position: int, failed: Callable[[BaseException], None]
    ):
        """failed: called with what is raised while the file is read. It raises what that means."""
        #: the codec's own name, and what it does about bytes that are not of the encoding
        self.encoding = codec
        self.errors = ref.errors
        self._ref = ref
        self._key = key
        self._position = position
        self._failed = failed

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the text; they may end within a character."""
        try:
            yield from self._ref.pieces()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed(error)

    def text(self) -> str:
        """Return the text, as an item has it. Raise TaskFailure if it is not text in its encoding."""
        try:
            ((_, value),) = self._ref.units()
        except BaseException as error:
            self._failed(error)
            raise
        if type(value) is Unreadable:
            raise blame_unreadable(value, self._key, self._position)
        assert isinstance(value, str)
        return value


class TaskItems(_speedups.Items):
    """Iterates once over the items that a task maps, as (position, key, value).

    The core has the loop; here is what happens once for each ref.

    `on_unreadable(position, key, failure)` is called for an item that cannot be read. By default it
    raises the failure. Raises ContentNeeded if a file is not the driver's.
    """

    def __init__(
        self,
        entries: Iterable[tuple[Any, Any]],
        *,
        first_entry: int,
        skip: Collection[int],
        part: Part,
        mark: Mark,
    ):
        """skip: positions to leave out.

        mark: called as `mark(position, key)` before a ref is read.
        """
        has_no_items = part != ALL and range_of(part, 1) == (0, 0)
        super().__init__(entries, first_entry, frozenset(skip), has_no_items, Ref, Unreadable)
        self.key = NO_KEY
        self._skipped = frozenset(skip)
        self._part = part
        self.mark = mark
        self.on_unreadable: Callable[[int, Any, TaskFailure], None] = _raise_failure
        #: whether a value may be an EncodedText
        self.gives_encoded = False

    def _open(self, entry: int, key: Any, ref: Ref) -> tuple[int, Iterator[tuple[Any, Any]]] | None:
        """Return the position of the first item of a ref, and its items; None if all are skipped."""
        whole = position_of(entry, WHOLE)
        if whole in self._skipped:
            return None
        self.mark(whole, key)  # until its first item is read
        position = position_of(entry)
        try:
            if self._part == ALL:
                if self.gives_encoded and (codec := ref.encoded) is not None:
                    failed = partial(self._units_failed, entry=entry, key=key)
                    return position, iter([(key, EncodedText(ref, codec, key, position, failed))])
                return position, iter(ref.units())
            # Counted first: a compressed file may have more items than memory has room for.
            count = sum(1 for _ in ref.units()) if ref.unit_count is None else ref.unit_count
            low, high = range_of(self._part, count)
            return position + low, iter(ref.units_between(low, high))
        except Exception as error:
            self._units_failed(error, entry, key)
            raise

    def _units_failed(self, error: BaseException, entry: int, key: Any) -> None:
        """Raise what an error means that was raised while a ref was read."""
        whole = position_of(entry, WHOLE)
        if isinstance(error, ContentNeeded) or not isinstance(error, Exception):
            raise error
        if isinstance(error, MemoryError):
            raise blame_exception(error, None, key, whole) from error
        raise TaskFailure(make_failure("input", str(error), key=key), whole) from error

    def _unreadable(self, position: int, key: Any, value: Unreadable) -> None:
        self.on_unreadable(position, key, blame_unreadable(value, key, position))


def blame_unreadable(value: Unreadable, key: Any, position: int) -> TaskFailure:
    """Make the failure of an item that could not be read."""
    failure = TaskFailure(make_failure("input", str(value.error), key=key), position)
    failure.__cause__ = value.error
    return failure


def _raise_failure(position: int, key: Any, failure: TaskFailure) -> None:
    raise failure
