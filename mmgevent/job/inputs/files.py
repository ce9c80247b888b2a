"""Files: one item for each file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mmgevent.job.inputs.paths import Paths
from mmgevent.job.inputs.refs import DecodeError, Ref, Unreadable, bounded
from mmgevent.job.inputs.source import FileSource
from mmgevent.job.inputs.window import Changed, Window
from mmgevent.wire.limits import MAX_BATCH_BYTES

#: Bytes of a message that are not content: paths, and names of classes.
ROOM_BYTES = 64 * 1024

#: Bytes of a file that are read at once for who takes them in pieces. They fit a cache.
PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileRef(Ref):
    """A whole file: one item `(path, text)`, or `(path, bytes)` if binary."""

    binary: bool = False
    content: bytes | None = None

    @property
    def key(self) -> str:
        return self.path

    @property
    def weight(self) -> int:
        return bounded(self.size)

    def units(self) -> Iterator[tuple[str, Any]]:
        data = self.content
        if data is None:
            try:
                data = self._read(at_driver=False)
            except (OSError, Changed) as error:
                raise self._content_needed(error) from error
        elif self.is_decompressed:
            data = self._content_of(self._window_of_content())
        if self.binary:
            yield self.path, data
            return
        try:
            text = self._decode(data, 0, ", or binary=True")
        except DecodeError as error:
            yield self.path, Unreadable(error)
            return
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield self.path, text

    @property
    def encoded(self) -> str | None:
        """Return the name of the codec of the text, or None if the item is bytes."""
        return None if self.binary else codecs.lookup(self.encoding).name

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the item, as they are before they are decoded. Raise as `units` does."""
        try:
            window = self._open(at_driver=False) if self.content is None else self._window_of_content()
            with window:
                if self.is_decompressed:
                    yield from self._members(window)
                elif self.is_remote:  # a request for each piece would take longer
                    yield window.read(0, self.size)
                else:
                    offset = 0
                    while data := window.read(offset, PIECE_BYTES):
                        yield data
                        offset += len(data)
        except (OSError, Changed) as error:
            raise self._content_needed(error) from error

    def with_content(self) -> FileRef:
        if self.content is not None:
            return self
        try:
            content = self._read_all()
            return replace(self, content=content, size=len(content))
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error

    def _read(self, *, at_driver: bool) -> bytes:
        with self._open(at_driver=at_driver) as window:
            if self.is_decompressed:
                return self._content_of(window)
            return window.read(0, self.size)

    def _window_of_content(self) -> Window:
        assert self.content is not None
        return Window(self.size, content=self.content)

    def _content_of(self, window: Window) -> bytes:
        return b"".join(self._members(window))

    def _members(self, window: Window) -> Iterator[bytes]:
        from mmgevent.job.inputs.members import Members

        return (piece for _, piece in Members(window, self.path, self.kind).pieces())


class Files(FileSource):
    """One item `(path, text)` for each file, or `(path, bytes)` if `binary`.

    A path is a str or PathLike, or a list of them. It names a file, a glob (`**` crosses folders)
    or a folder, which stands for all files in it and below. Files of globs and folders are sorted
    by path. Hidden names in folders are left out, and those in globs unless the glob names them. A
    file that is named twice counts twice.

    Missing input is an error: a link that leads nowhere, a folder that cannot be listed. A warning
    counts and names what else is left out: links to folders in folders, pipes, sockets and devices.
    The driver reads files whose size does not say how much there is, such as those of /proc.

    Text is what `open(path, encoding=encoding, errors=errors).read()` returns. A file that is not
    text in that encoding raises DecodeError when it is mapped. A whole file is in memory while it
    is mapped; use `Lines` for large ones.

    compression: "infer" decompresses what is gzip, bz2, xz or zstd by its first bytes, whatever its
        name is, if text is wanted. With `binary` it gives the bytes of the file as they are. "any"
        decompresses these too. None decompresses nothing. "gzip", "bz2", "xz" or "zstd" insists: a
        file that is something else is an error.
    """

    is_cut = False

    def __init__(
        self,
        *paths: Paths,
        encoding: str = "utf-8",
        errors: str = "strict",
        binary: bool = False,
        compression: str | None = "infer",
    ) -> None:
        super().__init__(paths, encoding, errors, compression)
        self.binary = binary

    def refs(self) -> Iterator[FileRef]:
        for found in self.find(binary=self.binary):
            identity, content = found.identity, found.content
            if found.stream is not None:
                with found.stream:
                    content = found.stream.read_all(MAX_BATCH_BYTES - ROOM_BYTES)
                identity = identity._replace(size=len(content))
            yield FileRef(
                found.path,
                *identity,
                self.encoding,
                self.errors,
                self.binary,
                content=content,
                raw=found.raw,
                is_whole=found.is_whole,
            )

    def check(self) -> None:
        self.check_input(binary=self.binary)

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Files and not self.streams()  # subclasses may give other items
