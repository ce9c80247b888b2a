"""Bytes: one item for each record of binary files.

Records have one size, or a delimiter ends each. A split `(start, end)` has the records that begin
after the first sure delimiter at or after `start`, up to the first at or after `end`. So nobody has
to read the file to cut it.

A delimiter is sure if none begins in the bytes before it that reach into it. Of others it depends
on the bytes further before which of them count: in `b"aaa"`, the delimiter `b"aa"` occurs twice, and
`bytes.split` takes the first. It takes each sure one, wherever it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from mmgevent._speedups import pieces_of, placed
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.paths import Paths
from mmgevent.job.inputs.refs import Ref, Unreadable, bounded
from mmgevent.job.inputs.source import FileSource
from mmgevent.job.inputs.window import Changed, Window

#: Size of a split, bytes, more or less. One file feeds many executors.
BYTES_SPLIT_BYTES = 4 * 1024 * 1024

#: Bytes read at once while looking for a delimiter.
SEEK_BYTES = 256 * 1024

#: Largest record, and largest delimiter that can be asked for, bytes. A record is in memory as a whole.
MAX_RECORD_BYTES = 256 * 1024 * 1024
MAX_DELIMITER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class BytesRef(Ref):
    """A split of a file: items `((path, byte offset), bytes)`."""

    #: 0 if there is a delimiter
    record_bytes: int
    delimiter: bytes
    start: int = 0
    end: int = 0
    #: the records of this split; None while they are in the file
    content: bytes | None = None
    #: where in the file `content` begins
    content_offset: int = 0
    #: where a record begins, after those in `content`, that is too long to be read
    long_record: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.start

    @property
    def weight(self) -> int:
        return bounded(self.end - self.start)

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        if self.content is not None:
            return self._read_records(self.content_offset, self.content, self.long_record)
        try:
            return self._read_records(*self._read(at_driver=False))
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error

    def with_content(self) -> BytesRef:
        if self.content is not None:
            return self
        try:
            offset, data, long_record = self._read(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error
        return replace(self, content=data, content_offset=offset, long_record=long_record)

    def _read_records(
        self, offset: int, data: bytes, long_record: int | None
    ) -> Iterator[tuple[tuple[str, int], Any]]:
        records = self._records(offset, data)
        if long_record is None:
            return records
        error = DatasourceError(
            f"{self.path}: the record at byte {long_record} has more than {MAX_RECORD_BYTES:,} bytes; check "
            f"delimiter={self.delimiter!r:.60}, or set max_skipped to set the record aside"
        )
        return chain(records, [((self.path, long_record), Unreadable(error))])

    def _records(self, offset: int, data: bytes) -> Iterator[tuple[tuple[str, int], Any]]:
        if self.delimiter:
            records = data.split(self.delimiter)
            if not records[-1]:
                records.pop()
            return placed(self.path, offset, records, len(self.delimiter))
        pieces = pieces_of(self.path, offset, data, self.record_bytes)
        left = len(data) % self.record_bytes
        if not left:
            return pieces
        end = offset + len(data) - left
        return chain(pieces, [((self.path, end), Unreadable(self._too_short(left, end)))])

    def _too_short(self, n_bytes: int, offset: int) -> DatasourceError:
        return DatasourceError(
            f"{self.path}: its size, {offset + n_bytes} bytes, is no multiple of record_bytes={self.record_bytes}: the last "
            f"record, at byte {offset}, has only {n_bytes}; check record_bytes, get the file again if it is cut off, or "
            f"set max_skipped to set this record aside"
        )

    def _read(self, *, at_driver: bool) -> tuple[int, bytes, int | None]:
        """Read the records of this split.

        Return the offset of the first one, their bytes, and where a record begins after them that
        is too long, or None.
        """
        with self._open(at_driver=at_driver) as window:
            first, last = self.start, self.end
            if not self.delimiter:
                return first, window.read(first, last - first), None
            first_end = self._after_delimiter(window, first, last)
            if first_end is None:  # the next one ends a record of a later split
                return last, b"", None
            last_end = self._after_delimiter(window, last, last + MAX_RECORD_BYTES)
            if last_end is not None:
                return first_end, window.read(first_end, last_end - first_end), None
            # One that begins in this split may end behind it.
            data = window.read(first_end, last - first_end + len(self.delimiter) - 1)
            kept = len(data) - len(data.split(self.delimiter)[-1])
            return first_end, data[:kept], first_end + kept

    def _after_delimiter(self, window: Window, position: int, last: int) -> int | None:
        """Return the end of the first sure delimiter at or after a position; 0 at 0, or the size.

        Return None if none begins before `last`.
        """
        size = window.size
        if position in (0, size):
            return position
        delimiter = self.delimiter
        n_bytes = len(delimiter)
        offset = max(0, position - n_bytes + 1)
        data = b""
        at = position
        while offset + len(data) < size and at < last:
            data += window.read(offset + len(data), SEEK_BYTES)
            while (found := data.find(delimiter, at - offset)) >= 0:
                if offset + found >= last:
                    return None
                if data.find(delimiter, max(0, found - n_bytes + 1)) == found:
                    return offset + found + n_bytes
                at = offset + found + 1
            # What may belong to a delimiter, or decides whether one is sure, stays.
            at = max(at, offset + len(data) - n_bytes + 1)
            kept = max(0, at - offset - n_bytes + 1)
            data, offset = data[kept:], offset + kept
        return size if at < last or last >= size else None


class Bytes(FileSource):
    """One item `((path, byte offset), bytes)` for each record of binary files.

    Pass either `record_bytes`, the size of every record, or `delimiter`, the bytes that end each
    record and belong to none. Delimiters count as in `bytes.split`; one at the end of a file begins
    no record. Paths are those of `Files`.

    Files are read in splits of BYTES_SPLIT_BYTES. A split and its longest record must fit into
    memory. With a delimiter, a record of more than MAX_RECORD_BYTES is a failed item. If the size of a file is no multiple of `record_bytes`, its last bytes are a failed item,
    which `max_skipped` sets aside.
    """

    def __init__(
        self, *paths: Paths, record_bytes: int | None = None, delimiter: bytes | None = None
    ) -> None:
        super().__init__(paths, "", "", None)
        self.record_bytes = record_bytes
        self.delimiter = delimiter

    def refs(self) -> Iterator[BytesRef]:
        n_bytes, delimiter = self.record_bytes or 0, bytes(self.delimiter or b"")
        step = max(1, BYTES_SPLIT_BYTES // n_bytes) * n_bytes if n_bytes else BYTES_SPLIT_BYTES
        for found in self.find(binary=True):
            size = found.identity.size
            whole = BytesRef(
                found.path,
                *found.identity,
                "",
                "",
                n_bytes,
                delimiter,
                0,
                size,
                raw=True,
                is_whole=found.is_whole,
            )
            if found.content is not None or found.is_whole:  # one split, whatever its length
                yield replace(whole, content=found.content)
                continue
            for start in range(0, size, step):
                yield replace(whole, start=start, end=min(start + step, size))

    def check(self) -> None:
        n_bytes, delimiter = self.record_bytes, self.delimiter
        if (n_bytes is None) == (delimiter is None):
            raise DatasourceError(
                "Bytes needs to know where records end: pass either record_bytes=N or delimiter=b'...'"
            )
        if n_bytes is not None and (
            not isinstance(n_bytes, int) or isinstance(n_bytes, bool) or not 1 <= n_bytes <= MAX_RECORD_BYTES
        ):
            raise DatasourceError(
                f"record_bytes={n_bytes!r}: it is a number of bytes from 1 to {MAX_RECORD_BYTES:,}"
            )
        if delimiter is not None and (
            not isinstance(delimiter, (bytes, bytearray)) or not 1 <= len(delimiter) <= MAX_DELIMITER_BYTES
        ):
            raise DatasourceError(
                f"delimiter={delimiter!r:.60}: it is bytes, such as b'\\0', 1 to {MAX_DELIMITER_BYTES:,} of them"
            )
        self.refuse_streams()
        self.check_input(binary=True)

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Bytes  # subclasses may give other items
