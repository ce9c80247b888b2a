"""Compress what is written, and read it again: gz, bz2, xz and zst, by the suffix of the file.

Equal data gives equal bytes: no time and no file name is written into a gzip header.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Protocol, cast

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import Destination

#: Compressions by the suffix of a file, without its dot.
SUFFIXES = ("gz", "bz2", "xz", "zst")

#: `wbits` of zlib for the format gzip with its largest window.
_GZIP_BITS = 31

#: Modules that have zstd: that of Python 3.14 and later, and the same for older ones.
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")


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
        self._compressor = open_compressor(compression)
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


def open_compressor(compression: str) -> Compressor:
    """Return a new compressor. Raise OutputError if its module is not installed."""
    module = _module_of(compression)
    if compression == "gz":
        return cast(Compressor, module.compressobj(wbits=_GZIP_BITS))
    make = {"bz2": "BZ2Compressor", "xz": "LZMACompressor", "zst": "ZstdCompressor"}[compression]
    return cast(Compressor, getattr(module, make)())


def open_to_read(path: str | os.PathLike[str]) -> tuple[Any, tuple[type[Exception], ...]]:
    """Open a file, decompressed as its suffix says; it has `peek`.

    Also return the exceptions, other than EOFError, that mean that compressed data is damaged.
    Raise OSError, and OutputError as above.
    """
    compression = split_suffix(os.fspath(path))[1]
    if compression is None:
        return open(path, "rb"), ()
    module = _module_of(compression)
    damage = {"gz": "error", "bz2": None, "xz": "LZMAError", "zst": "ZstdError"}[compression]
    errors = (OSError, ValueError, *((getattr(module, damage),) if damage else ()))
    if compression == "gz":
        import gzip

        return gzip.open(path, "rb"), errors
    return module.open(path, "rb"), errors


def _module_of(compression: str) -> Any:
    """Import what compresses so: rarely needed, and Python may have been built without it."""
    names = {"gz": ("zlib",), "bz2": ("bz2",), "xz": ("lzma",), "zst": _ZSTD_MODULES}[compression]
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    if compression == "zst":
        raise OutputError(
            "zstd needs Python 3.14 or the package backports.zstd: pip install 'mmgevent[zstd]', or write .gz"
        )
    raise OutputError(f"this Python was built without the module {names[0]}; choose another compression")
