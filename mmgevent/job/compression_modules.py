"""Modules that compress and decompress. Any of them may be missing from a Python.

A module is imported when data of its kind is read or written, and not before: who reads gzip needs
no bz2.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: What may provide each kind, best first.
_MODULES = {
    "gzip": ("zlib",),
    "bz2": ("bz2",),
    "xz": ("lzma",),
    "zstd": ("compression.zstd", "backports.zstd"),  # from Python 3.14 on; the same for older ones
}


def module_of(kind: str) -> Any:
    """Return the module for a kind of compressed data, or None if this Python lacks it."""
    for name in _MODULES[kind]:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def how_to_get(kind: str) -> str:
    """Return what a user can do whose Python lacks the module of a kind."""
    if kind == "zstd":
        return "it needs Python 3.14 or the package backports.zstd (pip install 'mmgevent[zstd]')"
    return f"it was built without the module {_MODULES[kind][0]}; use one that has it"
