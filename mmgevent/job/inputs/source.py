"""Sources: items that stay where they are until an executor reads them.

A source touches the disk when it is checked or walked, never when it is made.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mmgevent.errors import DatasourceError
from mmgevent.job.compression_modules import module_of
from mmgevent.job.inputs.compressed import FORMATS, check_compression, find_kind, is_to_decompress
from mmgevent.job.inputs.lists import PathList
from mmgevent.job.inputs.paths import Paths, check_paths, find_files, flatten
from mmgevent.job.inputs.refs import Identity, Ref, identify
from mmgevent.job.inputs.streams import InputStream, check_streams, is_stream
from mmgevent.job.remote.urls import is_remote

if TYPE_CHECKING:
    from mmgevent.job.inputs.remote_files import RemoteFiles

#: Ends of names of files that are looked at before the job runs if this Python lacks what reads them.
_KINDS_BY_SUFFIX = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}


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

    def streams(self) -> list[str]:
        """Return the paths that can be read only once."""
        return []

    def connectors(self) -> list[Any]:
        """Return what opens connections for its refs, and travels with the job's functions."""
        return []

    def __add__(self, other: Any) -> Source:
        if not isinstance(other, Source):
            return NotImplemented
        return _Sum(parts_of(self) + parts_of(other))

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
    #: if it can be read only once, from where; the size is not known then
    stream: InputStream | None = None
    #: whether it is remote, and can be read only as a whole
    is_whole: bool = False


class FileSource(Source):
    """A source whose items are read from files."""

    #: whether large files are cut
    is_cut = True

    def __init__(self, paths: Iterable[Paths], encoding: str, errors: str, compression: str | None) -> None:
        self.paths = flatten(paths)
        self.encoding = encoding
        self.errors = errors
        self.compression = compression
        self._list: PathList | None = None
        #: what the last check found of remote paths, for the job that follows
        self._remote: RemoteFiles | None = None

    @classmethod
    def listed(cls, names: str | os.PathLike[str], **options: Any) -> Self:
        """Return a source of the files whose paths stand in a file, or on standard input ("-").

        One path a line, or one before each NUL, as `find -print0` writes them; relative to the
        working directory; blank lines do not count. The list is read when the job is submitted. A
        path that names no file is an error with its line. `options` are those of the class.
        """
        source = cls(**options)
        source._list = PathList(names)
        return source

    def find(self, *, binary: bool = False) -> Iterator[Found]:
        """Yield the files. Raise DatasourceError for one that cannot be read as it is meant to be."""
        paths = self._all_paths()
        if any(map(is_remote, paths)):
            yield from self._find_remote(paths, binary)
            return
        for path in find_files(paths):
            yield self._look_at(path, binary=binary)

    def _find_remote(self, paths: tuple[str, ...], binary: bool) -> Iterator[Found]:
        """Yield the files of paths, some of which are remote."""
        from mmgevent.job.inputs.remote_files import RemoteFiles

        files = self._remote or RemoteFiles(self._list)
        self._remote = None  # the next job lists them anew
        needs_kind = self.compression in FORMATS or self.compression == "any" or not binary
        for path in paths:
            if not is_remote(path):
                for each in find_files((path,)):
                    yield self._look_at(each, binary=binary)
                continue
            for identity, head_bytes, is_whole in files.look(path, needs_kind=needs_kind):
                url = identity.location
                size = identity.size or head_bytes
                decompress = is_to_decompress(url, identity.kind, size, self.compression, binary=binary)
                yield Found(url, identity, None, not decompress, None, is_whole)
        if self.is_cut:
            files.warn()

    def check_input(self, *, binary: bool = False) -> None:
        """Raise DatasourceError for whatever can be found wrong without looking at all files."""
        if not binary:
            check_codec(self.encoding, self.errors)
        check_compression(self.compression)
        if self._list is None:  # or it is found wrong when it is read
            check_streams(self.streams())
        paths = self._all_paths()
        remote = list(filter(is_remote, paths))
        if remote:
            from mmgevent.job.inputs.remote_files import RemoteFiles

            self._remote = RemoteFiles(self._list)
            for url in self._remote.check(remote):
                kind = _KINDS_BY_SUFFIX.get(os.path.splitext(url)[1])
                if kind and module_of(kind) is None:
                    is_to_decompress(url, kind, 1, self.compression, binary=binary)
        local = tuple(path for path in paths if not is_remote(path)) if remote else paths
        for path in check_paths(local) if local or not remote else ():
            kind = _KINDS_BY_SUFFIX.get(os.path.splitext(path)[1])
            if kind and module_of(kind) is None and os.path.isfile(path):
                self._look_at(path, binary=binary)

    def refuse_streams(self) -> None:
        """Raise DatasourceError if a path is a stream, for sources that cut files."""
        if streams := self.streams():
            raise DatasourceError(
                f"{type(self).__name__} reads files, and {streams[0]} is a stream, which can be read only once; save it to "
                f"a file, and name that"
            )

    def streams(self) -> list[str]:
        return [path for path in self.paths if not is_remote(path) and is_stream(path)]

    def find_paths(self) -> Iterator[str]:
        """Yield the paths of all files, without a look at them."""
        paths = self._all_paths()
        if not any(map(is_remote, paths)):
            yield from find_files(paths, warns=False)
            return
        from mmgevent.job.inputs.remote_files import RemoteFiles

        for path in paths:
            if is_remote(path):
                yield from RemoteFiles(self._list).check([path])
            else:
                yield from find_files((path,), warns=False)

    def _all_paths(self) -> tuple[str, ...]:
        return self.paths if self._list is None else self._list.paths()

    def _look_at(self, path: str, *, binary: bool) -> Found:
        if is_stream(path):
            return self._look_at_stream(InputStream(path), binary=binary)
        identity, content = identify(path)
        decompress = is_to_decompress(path, identity.kind, identity.size, self.compression, binary=binary)
        return Found(path, identity, content, not decompress)

    def _look_at_stream(self, stream: InputStream, *, binary: bool) -> Found:
        identity = Identity("", 0, 0, 0, find_kind(stream.head))
        with ExitStack() as opened:
            opened.enter_context(stream)
            decompress = is_to_decompress(
                stream.path, identity.kind, len(stream.head), self.compression, binary=binary
            )
            opened.pop_all()  # who reads it closes it
        return Found(stream.path, identity, None, not decompress, stream)

    def __repr__(self) -> str:
        if self._list is not None:
            return f"{type(self).__name__}.listed({self._list.source!r})"
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

    def streams(self) -> list[str]:
        return [path for part in self.parts for path in part.streams()]

    def connectors(self) -> list[Any]:
        return [connector for part in self.parts for connector in part.connectors()]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def parts_of(source: Source) -> tuple[Source, ...]:
    """Return the sources of which a sum consists, in order; the source itself if it is none."""
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
