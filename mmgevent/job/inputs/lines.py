"""Lines: one item for each line.

A split of lines `(start, end)` begins after the first line end at or after byte `start`, or at byte
0. Its last line is the one that contains or begins at byte `end`. So nobody has to read the file to
cut it, and every line belongs to exactly one split.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.paths import Paths, check_paths, find_files, flatten
from mmgevent.job.inputs.refs import (
    HEAD_BYTES,
    Changed,
    DecodeError,
    Ref,
    Unreadable,
    identify,
    read_exactly,
)
from mmgevent.job.inputs.source import Source, check_codec

#: Size of a split of Lines, bytes: some tenths of a second of work. One file feeds many executors.
LINES_SPLIT_BYTES = 4 * 1024 * 1024

#: Bytes read at once while looking for the end of a line that begins in another split.
SKIP_BYTES = 1024 * 1024

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

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.start

    @property
    def weight(self) -> int:
        return self.end - self.start

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        if self.content is not None:
            return self._lines(self.content_offset, self.content)
        try:
            offset, data = self._read(at_driver=False)
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error
        return self._lines(offset, data)

    def with_content(self) -> LinesRef:
        if self.content is not None:
            return self
        try:
            offset, data = self._read(at_driver=True)
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error
        return replace(self, content=data, content_offset=offset)

    def _lines(self, offset: int, data: bytes) -> Iterator[tuple[tuple[str, int], Any]]:
        path, encoding, errors = self.path, self.encoding, self.errors
        bom_bytes = 0
        if _is_utf8_sig(encoding):
            encoding = "utf-8"
            if offset == 0 and data.startswith(codecs.BOM_UTF8):
                bom_bytes = len(codecs.BOM_UTF8)
        if encoding in _ASCII_SUPERSETS and data.isascii() and b"\r" not in data:
            # One decode instead of one for each line takes half the time.
            for text in data.decode("ascii").removesuffix("\n").split("\n") if data else ():
                yield (path, offset), text
                offset += len(text) + 1
            return
        lines = data[bom_bytes:].split(b"\n")
        del data
        if not lines[-1]:
            lines.pop()
        for line in lines:
            n_bytes = len(line) + 1 + bom_bytes
            bom_bytes = 0
            if line.endswith(b"\r"):
                line = line[:-1]
            value: Any
            try:
                value = line.decode(encoding, errors)
            except UnicodeDecodeError:
                value = self._decode_broken(line, offset)
            yield (path, offset), value
            offset += n_bytes

    def _decode_broken(self, line: bytes, offset: int) -> Unreadable | str:
        """Return what is wrong with a line, or its text if `_decode` can make it."""
        try:
            return self._decode(line, offset, "")
        except DecodeError as error:
            return Unreadable(error)

    def _read(self, *, at_driver: bool) -> tuple[int, bytes]:
        """Read the lines of this split; return the offset of the first one, and their bytes."""
        with open(self.location, "rb") as file:
            self._check_stat(file, at_driver=at_driver)
            self._check_head(read_exactly(file, min(HEAD_BYTES, self.size)))
            first = self._find_first_line(file)
            if first > self.end or first >= self.size:
                return first, b""
            file.seek(first)
            data = read_exactly(file, self.end - first)
            return first, data + file.readline(self.size - self.end)

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


class Lines(Source):
    """One item `((path, byte offset), line)` for each line, without its line end.

    Paths are those of `Files`. A line ends at ``\\n``; one ``\\r`` before it belongs to the line
    end. Files are read in splits of LINES_SPLIT_BYTES, cut at line ends, so one large file keeps
    every core busy. A split and its longest line must fit into memory.
    """

    def __init__(self, *paths: Paths, encoding: str = "utf-8", errors: str = "strict") -> None:
        self.paths = flatten(paths)
        self.encoding = encoding
        self.errors = errors

    def refs(self) -> Iterator[LinesRef]:
        for path in find_files(self.paths):
            identity, content = identify(path)
            size = identity.size
            if content is not None:  # it has been read: one split, whatever its length
                yield LinesRef(path, *identity, self.encoding, self.errors, end=size, content=content)
                continue
            for start in range(0, size, LINES_SPLIT_BYTES):
                end = min(start + LINES_SPLIT_BYTES, size)
                yield LinesRef(path, *identity, self.encoding, self.errors, start, end)

    def check(self) -> None:
        check_codec(self.encoding, self.errors)
        if "\n".encode(self.encoding) not in (b"\n", codecs.BOM_UTF8 + b"\n"):
            raise DatasourceError(
                f"Lines cannot cut {self.encoding} at line ends, which are not the byte 0x0A there; "
                f"use Files(..., encoding={self.encoding!r})"
            )
        check_paths(self.paths)

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Lines  # subclasses may give other items

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.paths))})"


def _is_utf8_sig(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8-sig", "utf8-sig")
