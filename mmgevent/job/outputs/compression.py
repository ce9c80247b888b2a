"""Compress what is written, and read it again: gz, bz2, xz and zst, by the suffix of the file.

Equal data gives equal bytes: no time and no file name is written into a gzip header.
"""

from __future__ import annotations

import os
from typing import Any, Protocol, cast

from mmgevent.errors import DatasourceError, OutputError
from mmgevent.job.compression_modules import how_to_get, module_of
from mmgevent.job.outputs.destinations import Destination

#: Kinds of compression by the suffix of a file, without its dot.
_KINDS = {"gz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}
SUFFIXES = tuple(_KINDS)

#: `wbits` of zlib for the format gzip with its largest window.
_GZIP_BITS = 31


class Compressor(Protocol):
    """What the compressors of the standard library have in common."""

    def compress(self, data: Any, /) -> bytes:
        """Return compressed bytes, perhaps none yet."""

    def flush(self) -> bytes:
        """Return what is left. Nothing may be compressed afterwards."""


class Compressed:
    """A destination that compresses what is written to another one."""

    is_terminal = False

    def __init__(self, inner: Destination, compression: str):
        """Raise OutputError if this Python cannot compress so."""
        self.name = inner.name
        self._inner = inner
        self._compressor = open_compressor(compression, inner.name or "results")
        self._is_over = False

    def write(self, data: memoryview) -> None:
        self._pass(self._compressor.compress(data))

    def commit(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._pass(self._compressor.flush())
        self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()

    def _pass(self, data: bytes) -> None:
        if data:
            self._inner.write(memoryview(data))


def split_suffix(name: str) -> tuple[str, str | None]:
    """Return a name without the suffix of its compression, and the compression, or None."""
    stem, suffix = os.path.splitext(name)
    compression = suffix[1:].lower()
    return (stem, compression) if compression in SUFFIXES else (name, None)


def open_compressor(compression: str, name: str = "results") -> Compressor:
    """Return a new compressor. Raise OutputError if its module is missing.

    name: what errors call that which is written.
    """
    module = module_of(_KINDS[compression])
    if module is None:
        advice = how_to_get(_KINDS[compression])
        raise OutputError(
            f"this Python cannot write {name} as {compression}: {advice}, or choose another compression"
        )
    if compression == "gz":
        return cast(Compressor, module.compressobj(wbits=_GZIP_BITS))
    make = {"bz2": "BZ2Compressor", "xz": "LZMACompressor", "zst": "ZstdCompressor"}[compression]
    return cast(Compressor, getattr(module, make)())


def open_to_read(path: str | os.PathLike[str]) -> tuple[Any, tuple[type[Exception], ...]]:
    """Open a file, decompressed as its suffix says; it has `peek`.

    Also return the exceptions, other than EOFError, that mean that compressed data is damaged.
    Raise OSError, and DatasourceError if the module is missing.
    """
    compression = split_suffix(os.fspath(path))[1]
    if compression is None:
        return open(path, "rb"), ()
    module = module_of(_KINDS[compression])
    if module is None:
        raise DatasourceError(
            f"this Python cannot read {os.fspath(path)}: {how_to_get(_KINDS[compression])}, or decompress the file"
        )
    damage = {"gz": "error", "bz2": None, "xz": "LZMAError", "zst": "ZstdError"}[compression]
    errors = (OSError, ValueError, *((getattr(module, damage),) if damage else ()))
    if compression == "gz":
        import gzip

        return gzip.open(path, "rb"), errors
    return module.open(path, "rb"), errors
