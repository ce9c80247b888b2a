"""Files: one item for each file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

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
        return self.size

    def units(self) -> Iterator[tuple[str, Any]]:
        data = self.content
        if data is None:
            try:
                data = self._read(at_driver=False)
            except (OSError, Changed) as error:
                raise self._content_needed(error) from error
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

    def with_content(self) -> FileRef:
        if self.content is not None:
            return self
        try:
            return replace(self, content=self._read(at_driver=True))
        except (OSError, Changed) as error:
            raise self._content_lost(error) from error

    def _read(self, *, at_driver: bool) -> bytes:
        with open(self.location, "rb", buffering=0) as file:
            self._check_stat(file, at_driver=at_driver)
            data = read_exactly(file, self.size)
        self._check_head(memoryview(data)[:HEAD_BYTES])
        return data


class Files(Source):
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
    """

    def __init__(
        self, *paths: Paths, encoding: str = "utf-8", errors: str = "strict", binary: bool = False
    ) -> None:
        self.paths = flatten(paths)
        self.encoding = encoding
        self.errors = errors
        self.binary = binary

    def refs(self) -> Iterator[FileRef]:
        for path in find_files(self.paths):
            identity, content = identify(path)
            yield FileRef(path, *identity, self.encoding, self.errors, self.binary, content=content)

    def check(self) -> None:
        if not self.binary:
            check_codec(self.encoding, self.errors)
        check_paths(self.paths)

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Files  # subclasses may give other items

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.paths))})"
