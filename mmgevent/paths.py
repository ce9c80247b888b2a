"""Find the files that paths stand for.

A path is a file, a glob or a folder.  A name that exists is taken literally,
even one with brackets in it.  Nothing here reads contents, and only `flatten`
may be called before the job is submitted: it does not touch the disk.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

from mmgevent.errors import DatasourceError

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def flatten(paths: Iterable[Any]) -> tuple[str, ...]:
    """Return every path as a str; raise DatasourceError for what is none."""
    flat: list[str] = []
    for path in paths:
        if isinstance(path, (str, os.PathLike)):
            name = os.fspath(path)
            if isinstance(name, str) and name:
                flat.append(name)
                continue
        elif not isinstance(path, (bytes, bytearray)) and hasattr(type(path), "__iter__"):
            flat.extend(flatten(path))
            continue
        raise DatasourceError(
            f"a path is a str, a PathLike or a list of them, and not empty; got {path!r:.60}"
        )
    return tuple(flat)


def check_paths(paths: tuple[str, ...]) -> None:
    """Raise DatasourceError unless there are paths, and each stands for one file at least."""
    if not paths:
        raise DatasourceError("no input files: no path was given; name a file, glob or folder")
    for path in paths:
        if next(_expand(path), None) is None:
            raise _no_match(path)


def find_files(paths: tuple[str, ...]) -> Iterator[str]:
    """Give the files of each path in turn, those of a glob or folder sorted; raise as `check_paths`."""
    check_paths(paths)
    for path in paths:
        yield from sorted(_expand(path))


def _expand(path: str) -> Iterator[str]:
    """Give the files that a path stands for, in any order; none where nothing matches."""
    if os.path.isdir(path):
        yield from _files_below(path)
    elif os.path.exists(path):
        yield path
    elif any(c in path for c in "*?["):
        for match in glob.iglob(path, recursive=True):
            if os.path.isfile(match):
                yield match


def _files_below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def _refuse_folder(error: OSError) -> None:
    raise DatasourceError(f"cannot list the folder {error.filename}: {error.strerror}") from error


def _no_match(path: str) -> DatasourceError:
    if os.path.isdir(path):
        return DatasourceError(f"no input files: the folder {path} has none (hidden ones do not count)")
    if any(c in path for c in "*?["):
        return DatasourceError(
            f"no input files: nothing matches {path} in {os.getcwd()} "
            f"(a glob gives files; folders only by their own name, or with **)"
        )
    return DatasourceError(f"no input files: {path} does not exist (looked in {os.getcwd()})")
