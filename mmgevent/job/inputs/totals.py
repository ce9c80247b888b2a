"""How large an input is, as far as that can be said without reading it: items and bytes.

Bytes are those that the refs of a source weigh: of files as they are on the disk, of Parquet those
of the columns that are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from mmgevent.job.inputs.source import FileSource, Source, parts_of
from mmgevent.job.remote.urls import is_remote
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Paths that are looked at when the job is submitted. Looking at one takes 2 µs.
MAX_PATHS_AT_ONCE = 64


class Total(NamedTuple):
    """The size of an input. What is None is not known."""

    items: int | None = None
    n_bytes: int | None = None

    def plus(self, other: Total) -> Total:
        """Return the size of both together."""
        return Total(_sum(self.items, other.items), _sum(self.n_bytes, other.n_bytes))


def count_items(opened: Any) -> int | None:
    """Return the number of items of a mapping or a collection; None for anything else."""
    if not isinstance(opened, (Mapping, Sequence, Set)):
        return None
    try:
        return len(opened)
    except Exception as error:  # the user's own __len__ may raise anything, and the job needs it not
        log.debug("the length of the datasource stays unknown: %r", error)
        return None


def is_of_files(opened: Any) -> bool:
    """Return whether all items are in files, so that the bytes of the input mean something."""
    return isinstance(opened, Source) and all(isinstance(part, FileSource) for part in parts_of(opened))


def quick_total(source: Source) -> Total | None:
    """Return the size of a source that is some local files, named one by one; None for all others."""
    total = Total(0, 0)
    for part in parts_of(source):
        if not isinstance(part, FileSource) or not _is_simple(part):
            return None
        sizes = [_size_of_file(path) for path in part.paths]
        if None in sizes:
            return None
        n_bytes = sum(size or 0 for size in sizes)
        total = total.plus(Total(None if part.is_cut else len(sizes), n_bytes))
    return total


def slow_total(source: Source, is_wanted: Callable[[], bool]) -> Total:
    """Return the size of a source. This lists folders, and reads the footers of Parquet files.

    It ends early once `is_wanted()` is False. Raises DatasourceError and OSError.
    """
    total = Total(0, 0)
    for part in parts_of(source):
        if not isinstance(part, FileSource) or not _is_ours(part) or not is_wanted():
            return Total()
        total = total.plus(_rows_of(part, is_wanted) if _has_rows(part) else _sizes_of(part, is_wanted))
    return total


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _is_ours(source: Source) -> bool:
    """Return whether a source gives what its paths name, and nothing of a subclass elsewhere."""
    return type(source).refs.__module__.startswith("mmgevent.")


def _has_rows(source: Source) -> bool:
    from mmgevent.job.inputs.parquet import Parquet

    return isinstance(source, Parquet)


def _is_simple(source: FileSource) -> bool:
    if not _is_ours(source) or source._list is not None or len(source.paths) > MAX_PATHS_AT_ONCE:
        return False
    return not any(map(is_remote, source.paths)) and type(source).__name__ != "Parquet"


def _size_of_file(path: str) -> int | None:
    """Return the bytes of a regular file, or None for anything else."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _rows_of(source: FileSource, is_wanted: Callable[[], bool]) -> Total:
    if any(map(is_remote, source._all_paths())):  # footers of objects take requests
        return Total()
    items = n_bytes = 0
    for ref in source.refs():
        if not is_wanted():
            return Total()
        items += getattr(ref, "unit_count", 1)
        n_bytes += ref.weight
    return Total(items, n_bytes)


def _sizes_of(source: FileSource, is_wanted: Callable[[], bool]) -> Total:
    if source.streams():
        return Total()
    paths = source._all_paths()
    if any(map(is_remote, paths)):  # what was listed is not asked for again
        return Total()
    count = n_bytes = 0
    for path in source.find_paths():
        size = _size_of_file(path)
        if size is None or not is_wanted():
            return Total()
        count += 1
        n_bytes += size
    return Total(None if source.is_cut else count, n_bytes)
