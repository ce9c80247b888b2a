"""Lines: one item for each line.

A split of lines `(start, end)` begins after the first line end at or after byte `start`, or at byte
0. Its last line is the one that contains or begins at byte `end`. So nobody has to read the file to
cut it, and every line belongs to exactly one split.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, BinaryIO

from mmgevent._speedups import lines_of
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.paths import Paths
from mmgevent.job.inputs.pieces import MAX_LINE_BYTES, Piece, whole_lines
from mmgevent.job.inputs.refs import HEAD_BYTES, DecodeError, Ref, Unreadable, bounded, read_exactly
from mmgevent.job.inputs.source import FileSource, Found
from mmgevent.job.inputs.streams import InputStream, name_of
from mmgevent.job.inputs.window import Changed, Window

#: Most names in the warning about files that cannot be cut.
_SHOWN_NAMES = 3

#: Size of a split of Lines, bytes: some tenths of a second of work. One file feeds many executors.
LINES_SPLIT_BYTES = 4 * 1024 * 1024

#: Bytes read at once while looking for the end of a line that begins in another split.
SKIP_BYTES = 1024 * 1024

#: Bytes read at once after a remote split, for the end of its last line.
TAIL_BYTES = 64 * 1024

#: Encodings, as users write them, in which ASCII bytes are ASCII text, one byte a character.
_ASCII_SUPERSETS = frozenset({"utf-8", "utf8", "UTF-8", "ascii", "latin-1", "latin1", "cp1252"})


@dataclass(frozen=True, slots=True)
class LinesRef(Ref):
    """A split of a file: items `((path, byte offset), line without its line end)`."""

    start: int = 0
    end: int = 0
    #: the bytes of this split's lines; None while they are in the file
    content: bytes | None = None
    #: where in the file `content` begins
    content_offset: int = 0
    #: if the file is compressed, the offset of the first byte that the split contains
    base: int = 0
    #: if `content` is blocks of bz2, the bit of the file where the first one begins
    first_bit: int | None = None
    #: where a line begins, after those in `content`, that is too long to be read
    long_line: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.base if self.is_decompressed else self.start

    @property
    def weight(self) -> int:
        return bounded(self.end - self.start)

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        if self.is_decompressed or (self.is_remote and self.content is None):
            return self._units_of_content()
        if self.content is not None:
            return self._read_lines(self.content_offset, self.content, self.long_line)
        try:
            return self._read_lines(*self._read(at_driver=False))
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error

    def with_content(self) -> LinesRef:
        if self.content is not None:
            return self
        try:
            if self.is_whole:
                return self._with_all()
            if self.is_decompressed:
                return self._with_compressed()
            offset, data, long_line = self._read(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error
        return replace(self, content=data, content_offset=offset, long_line=long_line)

    def _units_of_content(self) -> Iterator[tuple[tuple[str, int], Any]]:
        return chain.from_iterable(
            [self._too_long(offset)] if data is None else self._lines(offset, data)
            for offset, data in self._blocks()
        )

    def _read_lines(
        self, offset: int, data: bytes, long_line: int | None
    ) -> Iterator[tuple[tuple[str, int], Any]]:
        lines = self._lines(offset, data)
        return lines if long_line is None else chain(lines, [self._too_long(long_line)])

    def _too_long(self, offset: int) -> tuple[tuple[str, int], Unreadable]:
        error = DatasourceError(
            f"{name_of(self.path)}: the line at {self._place_of(offset, 0)} has more than {MAX_LINE_BYTES:,} bytes; if "
            f"the file has no lines, read it with Files or Bytes; or set max_skipped to set the line aside"
        )
        return (self.path, offset), Unreadable(error)

    def _blocks(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield (offset, whole lines), as `whole_lines`, of a split that is read in pieces."""
        try:
            with self._window() as window:
                yield from whole_lines(self._pieces(window, self.start, self.end), is_first=not self.start)
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error

    def _window(self) -> Window:
        if self.content is None:
            return self._open(at_driver=False)
        return Window(self.size, content=self.content, offset=self.content_offset)

    def _pieces(self, window: Window, start: int, end: int) -> Iterator[Piece]:
        if not self.is_decompressed:
            return _plain_pieces(window, start, end)
        from mmgevent.job.inputs.compressed_splits import pieces_of

        return pieces_of(window, self.path, self.kind, start, end, self.base, self.first_bit)

    def _with_all(self) -> LinesRef:
        """Return this ref with all bytes of its object."""
        content = self._read_all()
        return replace(self, content=content, size=len(content), end=len(content))

    def _with_compressed(self) -> LinesRef:
        """Return this ref with the compressed bytes that its lines need."""
        from mmgevent.job.inputs.compressed_splits import find_range

        with self._open(at_driver=True) as window:
            low, high, bit = find_range(window, self.path, self.kind, self.start, self.end)
            content = window.read(low, high - low)
        return replace(self, content=content, content_offset=low, first_bit=bit)

    def _lines(self, offset: int, data: bytes) -> Iterator[tuple[tuple[str, int], Any]]:
        encoding = self.encoding
        bom_bytes = 0
        if _is_utf8_sig(encoding):
            encoding = "utf-8"
            if self._is_first(offset) and data.startswith(codecs.BOM_UTF8):
                bom_bytes = len(codecs.BOM_UTF8)
        is_like_ascii = encoding in _ASCII_SUPERSETS
        return lines_of(
            self.path, offset, data, bom_bytes, encoding, self.errors, is_like_ascii, self._decode_broken
        )

    @property
    def _is_cut_bz2(self) -> bool:
        return self.is_decompressed and self.kind == "bz2" and (self.start, self.end) != (0, self.size)

    def _is_first(self, offset: int) -> bool:
        """Return whether a line at this offset is the first of the file."""
        if not self._is_cut_bz2:
            return offset == 0
        from mmgevent.job.inputs.bz2_splits import FIRST_OFFSET

        return offset == FIRST_OFFSET

    def _place_of(self, offset: int, index: int) -> str:
        if not self._is_cut_bz2:
            return super(LinesRef, self)._place_of(offset, index)
        from mmgevent.job.inputs.bz2_splits import POSITION_BITS

        block, position = divmod(offset, 1 << POSITION_BITS)
        return f"byte {position + index} of the block at byte {block}"

    def _decode_broken(self, line: bytes, offset: int) -> Unreadable | str:
        """Return what is wrong with a line, or its text if `_decode` can make it."""
        try:
            return self._decode(line, offset, "")
        except DecodeError as error:
            return Unreadable(error)

    def _read(self, *, at_driver: bool) -> tuple[int, bytes, int | None]:
        """Read the lines of this split.

        Return the offset of the first one, their bytes, and where a line begins after them that is
        too long, or None.
        """
        if self.is_remote:
            with self._open(at_driver=at_driver) as window:
                pieces = self._pieces(window, self.start, self.end)
                blocks = list(whole_lines(pieces, is_first=not self.start))
            known = [(offset, data) for offset, data in blocks if data is not None]
            long_line = next((offset for offset, data in blocks if data is None), None)
            return (known[0][0] if known else self.start), b"".join(data for _, data in known), long_line
        with open(self.location, "rb") as file:
            self._check_stat(file, at_driver=at_driver)
            self._check_head(read_exactly(file, min(HEAD_BYTES, self.size)))
            first = self._find_first_line(file)
            if first > self.end or first >= self.size:
                return first, b"", None
            file.seek(first)
            data = read_exactly(file, self.end - first)
            last = data.rfind(b"\n") + 1
            room = max(0, MAX_LINE_BYTES - (len(data) - last))
            rest = file.readline(min(self.size - self.end, room))
            if self.end + len(rest) < self.size and not rest.endswith(b"\n"):
                return first, data[:last], first + last
            return first, data + rest, None

    def _find_first_line(self, file: BinaryIO) -> int:
        position = self.start
        if position == 0:
            return 0
        file.seek(position)
        while position <= self.end:
            skipped = file.readline(min(SKIP_BYTES, self.size - position))
            position += len(skipped)
            if not skipped or skipped.endswith(b"\n"):
                break
        return position


class Lines(FileSource):
    """One item `((path, byte offset), line)` for each line, without its line end.

    Paths are those of `Files`. A line ends at ``\\n``; one ``\\r`` before it belongs to the line
    end. Files are read in splits of LINES_SPLIT_BYTES, cut at line ends, so one large file keeps
    every core busy. A split and its longest line must fit into memory. A line of more than
    MAX_LINE_BYTES is a failed item, which `max_skipped` sets aside.

    compression: as for `Files`. Files of bz2 with several blocks, of zstd with several frames, and
        of gzip as bgzip writes it are cut as well. Others are read by one executor each, in pieces.
        The offset of a line is its position in the content, where that is known without reading
        what comes before; docs/inputs.md says what it is elsewhere. It is unique and ascends.
    """

    def __init__(
        self,
        *paths: Paths,
        encoding: str = "utf-8",
        errors: str = "strict",
        compression: str | None = "infer",
    ) -> None:
        super().__init__(paths, encoding, errors, compression)

    def refs(self) -> Iterator[LinesRef]:
        whole: list[str] = []
        for found in self.find():
            yield from self._cut(found, whole)
        if whole:
            _warn_about_whole(whole)

    def _cut(self, found: Found, whole: list[str]) -> Iterator[LinesRef]:
        """Yield the splits of a file. Note it if it cannot be cut."""
        if found.stream is not None:
            yield from self._read(found, found.stream)
            return
        size = found.identity.size
        ref = LinesRef(
            found.path,
            *found.identity,
            self.encoding,
            self.errors,
            end=size,
            raw=found.raw,
            content=found.content,
            is_whole=found.is_whole,
        )
        if found.content is not None or found.is_whole:  # one split, whatever its length
            yield ref
        elif not ref.is_decompressed:
            for start in range(0, size, LINES_SPLIT_BYTES):
                yield replace(ref, start=start, end=min(start + LINES_SPLIT_BYTES, size))
        else:
            from mmgevent.job.inputs.compressed_splits import cut

            n_splits = 0
            for start, end, base in cut(ref.open_to_cut, ref.path, ref.kind, size, LINES_SPLIT_BYTES):
                yield replace(ref, start=start, end=end, base=base)
                n_splits += 1
            if n_splits == 1 and size > LINES_SPLIT_BYTES:
                whole.append(ref.path)

    def _read(self, found: Found, stream: InputStream) -> Iterator[LinesRef]:
        """Yield the lines of a stream, which travel with their refs."""
        with stream:
            pieces, identity = stream.bytes_as_they_are(), found.identity
            if not found.raw:
                from mmgevent.job.inputs.members import Members

                members = Members(stream, name_of(found.path), identity.kind)
                pieces, identity = (piece for _, piece in members.pieces()), identity._replace(kind="")
            for offset, data in stream.lines(pieces, are_decompressed=not found.raw):
                yield LinesRef(
                    found.path,
                    *identity,
                    self.encoding,
                    self.errors,
                    offset,
                    offset + len(data or b""),
                    data or b"",
                    offset,
                    raw=True,
                    long_line=offset if data is None else None,
                )

    def check(self) -> None:
        self.check_input()
        if "\n".encode(self.encoding) not in (b"\n", codecs.BOM_UTF8 + b"\n"):
            raise DatasourceError(
                f"{type(self).__name__} cannot cut {self.encoding} at line ends, which are not the byte 0x0A there; "
                f"use Files(..., encoding={self.encoding!r})"
            )

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Lines and not self.streams()  # subclasses may give other items


def _plain_pieces(window: Window, start: int, end: int) -> Iterator[Piece]:
    """Yield what is in a split that is not compressed, then what comes after it."""
    while data := window.read(start, min(LINES_SPLIT_BYTES, end - start) if start < end else TAIL_BYTES):
        yield Piece(start, data, start < end)
        start += len(data)


def _warn_about_whole(paths: list[str]) -> None:
    from mmgevent.machine.logs import get_log

    more = f" and {len(paths) - _SHOWN_NAMES} more" if len(paths) > _SHOWN_NAMES else ""
    get_log(__name__).warning(
        "compressed in one piece, so one executor reads each of these files (%d): %s%s; bgzip, bzip2 and pzstd write "
        "files that can be cut",
        len(paths),
        ", ".join(paths[:_SHOWN_NAMES]),
        more,
    )


def _is_utf8_sig(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8-sig", "utf8-sig")
