"""Sources: items that stay where they are until an executor reads them.

A source touches the disk when it is checked or walked, never when it is made.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.compressed import check_compression, is_to_decompress
from mmgevent.job.inputs.paths import Paths, check_paths, find_files, flatten
from mmgevent.job.inputs.refs import Identity, Ref, identify

#: Names of files that are looked at before the job runs: whether this Python can read them.
ZSTD_SUFFIXES = (".zst", ".zstd")


class Source:
    """Items that stay where they are until an executor reads them.

    `a + b` gives the items of `a`, then those of `b`. Iteration yields the loaded `(key, value)`
    items, as mapfn sees them.
    """

    def refs(self) -> Iterator[Ref]:
        """Yield a ref for each file or split, in order.

        Raise DatasourceError for one that cannot be read.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise DatasourceError for whatever can be found wrong without reading contents."""
        raise NotImplementedError

    def is_safe_to_repeat(self) -> bool:
        """Return whether each walk surely gives the same items."""
        return False

    def __add__(self, other: Any) -> Source:
        if not isinstance(other, Source):
            return NotImplemented
        return _Sum(_parts(self) + _parts(other))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for ref in self.refs():
            yield from ref.items()


class Found(NamedTuple):
    """A file of a source, as the driver sees it."""

    path: str
    identity: Identity
    #: the bytes that the driver has read already, or None
    content: bytes | None
    #: whether its bytes are read as they are, even if they are compressed
    raw: bool


class FileSource(Source):
    """A source whose items are read from files."""

    def __init__(self, paths: Iterable[Paths], encoding: str, errors: str, compression: str | None) -> None:
        self.paths = flatten(paths)
        self.encoding = encoding
        self.errors = errors
        self.compression = compression

    def find(self, *, binary: bool = False) -> Iterator[Found]:
        """Yield the files. Raise DatasourceError for one that cannot be read as it is meant to be."""
        for path in find_files(self.paths):
            yield self._look_at(path, binary=binary)

    def check_input(self, *, binary: bool = False) -> None:
        """Raise DatasourceError for whatever can be found wrong without looking at all files."""
        if not binary:
            check_codec(self.encoding, self.errors)
        check_compression(self.compression)
        for path in check_paths(self.paths):
            if path.endswith(ZSTD_SUFFIXES) and os.path.isfile(path):
                self._look_at(path, binary=binary)

    def _look_at(self, path: str, *, binary: bool) -> Found:
        identity, content = identify(path)
        decompress = is_to_decompress(path, identity.kind, identity.size, self.compression, binary=binary)
        return Found(path, identity, content, not decompress)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.paths))})"


class _Sum(Source):
    """The items of several sources, one after another."""

    def __init__(self, parts: tuple[Source, ...]) -> None:
        self.parts = parts

    def refs(self) -> Iterator[Ref]:
        for part in self.parts:
            yield from part.refs()

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def is_safe_to_repeat(self) -> bool:
        return all(part.is_safe_to_repeat() for part in self.parts)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(source: Source) -> tuple[Source, ...]:
    return source.parts if isinstance(source, _Sum) else (source,)


def check_codec(encoding: str, errors: str) -> None:
    """Raise DatasourceError unless bytes can be decoded like this."""
    try:
        codec = codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise DatasourceError(f"encoding={encoding!r}, errors={errors!r}: {error}") from error
    if not codec._is_text_encoding:
        raise DatasourceError(
            f"encoding={encoding!r} does not make text of bytes; use binary=True and codecs.decode"
        )
