"""The items of a job that were set aside, as its driver keeps them.

Executors send them as rows (see `tasks.skipping`), many at a time.  The server names single ones,
which killed the executors that mapped them.  All are kept in an unlinked file, in the order in
which they were received, and are decoded when somebody asks for them.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.errors import JobError
from mmgevent.machine.resources import find_scratch_folder
from mmgevent.tasks.records import SegmentError, decode_segment, decode_value, encode_segment, measure_segment
from mmgevent.tasks.skipping import Row
from mmgevent.tasks.unpicklable import NotPlainError
from mmgevent.wire.deaths import MAX_REMEMBERED

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Largest file of rows with the values of their items, bytes.  Later rows are kept without values.
MAX_VALUES_BYTES = 1024 * 1024 * 1024

#: Header of a segment in the file: its batch, its size in bytes, and whether a worker has sent it.
_HEADER = struct.Struct("<QQ?")

_UNREADABLE = "it could not be read"
_TOO_LARGE = "it was too large to be kept, and its source cannot be read again"
_NOT_PLAIN = "it was too large to be kept, or is no plain data, and its source cannot be read again"

Place = tuple[int, int]
Found = Iterable[tuple[Place, tuple[Any, Any]]]


class NotKept:
    """Stands for the value of an item that was set aside and can no longer be had."""

    def __init__(self, reason: str):
        #: why, in a sentence
        self.reason = reason

    def __repr__(self) -> str:
        return f"<value not kept: {self.reason}>"


class SetAside:
    """Keeps the items that were set aside.  One thread adds, any thread may read."""

    def __init__(self, plain: PlainRules | None = None) -> None:
        """`plain`: the rules for the rows of workers, if they must be plain data."""
        self.count = 0
        self._plain = plain
        self._rows = _RowFile()

    def add_rows(self, batch: int, worker: str, data: Any) -> Iterator[dict[str, Any]]:
        """Add the segments of rows of one task; return an iterator over the failures in them.

        Rows are decoded only as far as the iterator is read: a failure that nobody looks at costs
        nothing.

        Raises JobError: kind "record" for rows that cannot be read here, kind "disk" if they cannot
        be kept.
        """
        offset = 0
        while offset < len(data):
            try:
                count, end = measure_segment(data, offset)
                segment = bytes(memoryview(data)[offset:end])
                if self._rows.n_bytes > MAX_VALUES_BYTES:
                    segment = _without_values(segment, self._plain)
            except SegmentError as error:
                raise unreadable(_CANNOT_READ, error) from error
            self._rows.append(batch, segment, count, worker)
            self.count += count
            offset = end
        return _failures_in(data, worker, self._plain)

    def add_item(
        self, batch: int, position: int, failure: dict[str, Any], item: tuple[Any, bytes | None] | None
    ) -> None:
        """Add an item that the server has set aside.

        `item` is its key and pickled value, or None if unknown.
        """
        key, value = item or (None, None)
        if item is not None:
            failure = {**failure, "item_key": key}
        row = (position, value, None if item is None else "", "", failure)
        self._rows.append(batch, encode_segment([key], [row]), 1, None)
        self.count += 1

    def failures(self) -> list[dict[str, Any]]:
        """Return the failures of the last items for `handle.skipped()`, MAX_REMEMBERED at most.

        Raises JobError (kind "record") for a row that cannot be read here.
        """
        found: list[dict[str, Any]] = []
        for worker, segment in self._rows.last(MAX_REMEMBERED):
            found.extend(_failures_in(segment, worker, self._plain))
        return found[-MAX_REMEMBERED:]

    def records(self) -> Iterator[tuple[tuple[int, int], bytes | None, bool, dict[str, Any]]]:
        """Yield the place, the pickled value, whether a worker has sent it, and the failure of each item.

        Raises JobError (kind "record") for a row that cannot be read here.
        """
        for batch, is_workers, segment in self._rows.read():
            for key, (position, value, type_, text, failure) in _rows_in(
                segment, self._plain if is_workers else None
            ):
                known = {"item_key": key} if type_ is not None else {}
                row = {**failure, **known, "error_type": type_ or "", "error_text": text}
                yield (batch, position), value, is_workers, row

    def items(self, read_again: Callable[[list[Place]], Found]) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) of all items: those whose values are kept, then the others.

        `read_again(places)` yields (place, (key, value)) for those (batch, position) that can be
        read again.
        """
        missing: dict[Place, tuple[Any, Any]] = {}  # its key and the kind of its failure
        rows = self._rows
        for batch, is_workers, segment in rows.read():
            plain = self._plain if is_workers else None
            for key, (position, value, type_, _, failure) in _rows_in(segment, plain):
                if value is not None:
                    yield key, _value_of(value, plain)
                    continue
                known_key = key if type_ is not None else failure.get("key")
                missing[batch, position] = known_key, failure.get("kind")
        if missing and rows is self._rows:  # else the places belong to a submission that was lost
            for place, item in read_again(sorted(missing)):
                del missing[place]
                yield item
        unkept = _TOO_LARGE if self._plain is None else _NOT_PLAIN
        for key, kind in missing.values():
            yield key, NotKept(_UNREADABLE if kind == "input" else unkept)

    def clear(self) -> None:
        """Forget everything, since the job is submitted again."""
        self.count = 0
        self._rows = _RowFile()  # readers of the old one go on


def _failures_in(data: Any, worker: str | None, plain: PlainRules | None) -> Iterator[dict[str, Any]]:
    """Yield the failures in segments of rows.  They are a worker's or, with None, the server's."""
    for key, (_, _, type_, text, failure) in _rows_in(data, None if worker is None else plain):
        if worker is None:
            yield failure
        else:
            yield {**failure, "item_key": key, "error_type": type_, "error_text": text, "worker": worker}


def _rows_in(data: Any, plain: PlainRules | None) -> Iterator[tuple[Any, Row]]:
    """Yield (key, row) of segments. Raises JobError for what cannot be read here."""
    offset = 0
    while offset < len(data):
        try:
            segment = decode_segment(data, offset, plain)
            if not all(map(_is_row, segment.values)):
                raise SegmentError("what should be rows of items are others")
        except SegmentError as error:
            raise unreadable(_CANNOT_READ, error) from error
        yield from zip(segment.keys, segment.values, strict=True)
        offset = segment.end


def _is_row(row: Any) -> bool:
    """Return whether a row is one as `tasks.skipping` makes them: workers may send anything."""
    if type(row) is not tuple or len(row) != 5:
        return False
    position, value, type_, text, failure = row
    return (
        type(position) is int
        and position >= 0
        and (value is None or type(value) is bytes)
        and (type_ is None or type(type_) is str)
        and type(text) is str
        and type(failure) is dict
        and all(type(name) is str for name in failure)
        and type(failure.get("error")) is str
        and type(failure.get("key", "")) is str
    )


def _value_of(data: bytes, plain: PlainRules | None) -> Any:
    """Decode the value of an item. Raises JobError for one of a worker that is no plain data."""
    try:
        return decode_value(data, plain)
    except NotPlainError as error:
        text = f"{_CANNOT_READ}: a value is no plain data: it {error}"
        raise JobError.from_failure({"kind": "record", "error": text, "advice": error.advice}) from error


def _without_values(segment: bytes, plain: PlainRules | None) -> bytes:
    keys, rows, *_ = decode_segment(segment, plain=plain)
    if not all(map(_is_row, rows)):
        raise SegmentError("what should be rows of items are others")
    return encode_segment(keys, [(position, None, *rest) for position, _, *rest in rows], plain=plain)


_CANNOT_READ = "items set aside cannot be read here"


def unreadable(what: str, error: SegmentError) -> JobError:
    """Return the error for bytes of workers that cannot be read; `what` says whose they are."""
    cause = error.__cause__
    failure = {"kind": "record", "error": f"{what}: {error}"}
    if isinstance(cause, NotPlainError):
        failure["advice"] = cause.advice
    return JobError.from_failure(failure)


class _Segment(NamedTuple):
    """A segment in the file: its place, its rows, and the worker it is from (None: the server)."""

    at: int
    n_bytes: int
    rows: int
    worker: str | None


class _RowFile:
    """Rows in an unlinked file, which is opened with the first row and closed with this object."""

    def __init__(self) -> None:
        self._file: Any = None
        #: bytes of complete rows, which may be read
        self.n_bytes = 0
        #: the last segments, just enough for MAX_REMEMBERED rows
        self._last: deque[_Segment] = deque()
        self._last_rows = 0

    def read(self) -> Iterator[tuple[int, bool, bytes]]:
        """Yield (batch, whether a worker has sent it, segment) of all that are in the file now."""
        at, end = 0, self.n_bytes
        while at < end:
            fd = self._file.fileno()
            batch, n_bytes, is_workers = _HEADER.unpack(os.pread(fd, _HEADER.size, at))
            segment = os.pread(fd, n_bytes, at + _HEADER.size)
            at += _HEADER.size + n_bytes
            yield batch, is_workers, segment

    def last(self, rows: int) -> Iterator[tuple[str | None, bytes]]:
        """Yield (worker, segment) of the last segments: enough for so many rows, or all."""
        chosen: list[_Segment] = []
        for segment in reversed(list(self._last)):
            if rows <= 0:
                break
            chosen.append(segment)
            rows -= segment.rows
        for segment in reversed(chosen):
            yield segment.worker, os.pread(self._file.fileno(), segment.n_bytes, segment.at)

    def append(self, batch: int, segment: bytes, rows: int, worker: str | None) -> None:
        """Add the rows of a batch. Raises JobError (kind "disk") if there is no room for them."""
        try:
            if self._file is None:
                import tempfile

                folder = find_scratch_folder()
                self._file = tempfile.TemporaryFile(prefix="mmgevent-skipped-", dir=folder, buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            data = memoryview(_HEADER.pack(batch, len(segment), worker is not None) + segment)
            at = self.n_bytes
            while data:
                written = os.pwrite(self._file.fileno(), data, at)
                at, data = at + written, data[written:]
            self.n_bytes = at  # now others may read it
            self._remember(_Segment(at - len(segment), len(segment), rows, worker))
        except OSError as error:
            failure = {
                "kind": "disk",
                "error": f"cannot keep a list of the items that were set aside: {error.strerror or error}",
                "advice": "free some disk, or set TMPDIR to a folder that has room",
            }
            raise JobError.from_failure(failure) from error

    def _remember(self, segment: _Segment) -> None:
        self._last.append(segment)
        self._last_rows += segment.rows
        while self._last_rows - self._last[0].rows >= MAX_REMEMBERED:
            self._last_rows -= self._last.popleft().rows
