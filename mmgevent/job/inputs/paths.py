"""Find the files that paths stand for.

A path is a file, a glob or a folder. A name that exists is taken literally, even with brackets in
it. Nothing here reads contents. Only `flatten` may be called before the job is submitted: it does
not touch the disk.

No input is left out silently. A link that leads nowhere, a folder that cannot be listed and a file
whose status cannot be read are errors. A warning counts and names what else is left out: pipes and
the like, and links to folders.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.streams import STDIN
from mmgevent.machine import working_directory

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

#: Most names in one warning about what was left out.
_SHOWN_NAMES = 3

_GLOB_CHARACTERS = "*?["


def flatten(paths: Iterable[Any]) -> tuple[str, ...]:
    """Return every path as a str. Raise DatasourceError for anything that is no path."""
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


def check_paths(paths: tuple[str, ...]) -> list[str]:
    """Return a file for each path.

    Raise DatasourceError unless there are paths, and each stands for at least one file.
    """
    if not paths:
        raise DatasourceError("no input files: no path was given; name a file, glob or folder")
    files: list[str] = []
    for path in paths:
        file = next(_expand(path, _LeftOut()), None)
        if file is None:
            raise _no_match(path)
        files.append(file)
    return files


def some_files(paths: tuple[str, ...], count: int) -> Iterator[str]:
    """Yield files of each path, at most `count` of a path, as they come."""
    for path in paths:
        yield from islice(_expand(path, _LeftOut()), count)


def find_files(paths: tuple[str, ...], *, warns: bool = True) -> Iterator[str]:
    """Yield the files of each path in turn; those of a glob or folder are sorted.

    Raise DatasourceError as `check_paths` does, and for a file or folder whose status cannot be
    read. Log a warning about what is left out, if `warns`.
    """
    check_paths(paths)
    left_out = _LeftOut()
    for path in paths:
        found = sorted(set(_expand(path, left_out)))
        if not found:  # it was removed since the check
            raise _no_match(path)
        yield from found
    if warns:
        left_out.warn()


class _LeftOut:
    """Names that were left out of the input, and why."""

    def __init__(self) -> None:
        #: {why: names}
        self._names: dict[str, list[str]] = {}

    def add(self, why: str, path: str) -> None:
        self._names.setdefault(why, []).append(path)

    def warn(self) -> None:
        """Log a line for each reason."""
        if not self._names:
            return
        from mmgevent.machine.logs import (
            get_log,  # loading logging takes as long as all else that a job needs
        )

        log = get_log(__name__)
        for why, names in self._names.items():
            names = sorted(set(names))
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            log.warning(
                "left out of the input: %s (%d): %s%s", why, len(names), ", ".join(names[:_SHOWN_NAMES]), more
            )


def _expand(path: str, left_out: _LeftOut) -> Iterator[str]:
    """Yield the files that a path stands for, in any order; none if nothing matches."""
    if path == STDIN:
        yield path
        return
    if _exists(path):
        if stat.S_ISDIR(_look_at(path).st_mode):
            yield from _files_below(path, left_out)
        else:
            yield path
    elif any(c in path for c in _GLOB_CHARACTERS):
        yield from _Glob(path, left_out).files()


def _exists(path: str) -> bool:
    """Return whether a name exists. Raise DatasourceError if that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a glob may be longer than any name
            return False
        raise _cannot_look_at(path, error) from error
    return True


def _files_below(folder: str, left_out: _LeftOut) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(path := os.path.join(parent, name)):
                left_out.add("links to folders, which a glob with ** follows", path)
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and _is_file(path, _look_at(path), left_out):
                yield path


class _Glob:
    """A glob that matches as `glob.glob(recursive=True)` does, but leaves nothing out silently.

    If a chain of links leads back to a folder, that folder is not entered again: its files would
    never end.
    """

    def __init__(self, pattern: str, left_out: _LeftOut):
        self._left_out = left_out
        self._parts: list[str] = []
        while any(c in pattern for c in _GLOB_CHARACTERS):
            pattern, part = os.path.split(pattern)
            self._parts.insert(0, part)
        self._start = pattern

    def files(self) -> Iterator[str]:
        """Yield the files that match, some perhaps twice."""
        if self._start:
            if not _exists(self._start):
                return
            _look_at(self._start)
        yield from self._match(self._start, 0)

    def _match(self, folder: str, depth: int) -> Iterator[str]:
        """Yield what matches the parts from `depth` on in a folder."""
        part = self._parts[depth]
        if part == "**":
            yield from self._match_below(folder, depth, ())
        elif any(c in part for c in _GLOB_CHARACTERS):
            for name in fnmatch.filter(self._names(folder, shows_hidden=part.startswith(".")), part):
                yield from self._match_name(os.path.join(folder, name), depth)
        elif part and _exists(path := os.path.join(folder, part)):
            yield from self._match_name(path, depth)

    def _match_name(self, path: str, depth: int) -> Iterator[str]:
        """Yield a path that matches the parts up to `depth`, or what matches the rest below it."""
        status = _look_at(path)
        if self._is_last(depth):
            if _is_file(path, status, self._left_out):
                yield path
        elif stat.S_ISDIR(status.st_mode):
            yield from self._match(path, depth + 1)

    def _match_below(self, folder: str, depth: int, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Yield what matches `**` and the parts after it, in and below a folder."""
        status = _look_at(folder or os.curdir)
        identity = (status.st_dev, status.st_ino)
        if identity in above or not stat.S_ISDIR(status.st_mode):
            return
        if not self._is_last(depth):
            yield from self._match(folder, depth + 1)
        for name in self._names(folder, shows_hidden=False):
            path = os.path.join(folder, name)
            if not self._is_last(depth) and os.path.islink(path) and not os.path.exists(path):
                self._left_out.add("links that lead nowhere, perhaps to folders", path)
                continue
            status = _look_at(path)
            if stat.S_ISDIR(status.st_mode):
                yield from self._match_below(path, depth, (*above, identity))
            elif self._is_last(depth) and _is_file(path, status, self._left_out):
                yield path

    def _is_last(self, depth: int) -> bool:
        return depth == len(self._parts) - 1

    def _names(self, folder: str, *, shows_hidden: bool) -> list[str]:
        try:
            names = os.listdir(folder or os.curdir)
        except NotADirectoryError:
            return []
        except OSError as error:
            raise _cannot_list(error) from error
        return [name for name in names if shows_hidden or not name.startswith(".")]


def _look_at(path: str) -> os.stat_result:
    """Return the status of a path, links followed. Raise DatasourceError if it cannot be read."""
    try:
        return os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise _leads_nowhere(path) from error
        raise _cannot_look_at(path, error) from error


def _is_file(path: str, status: os.stat_result, left_out: _LeftOut) -> bool:
    """Return whether a path is a regular file. Note one that is neither a file nor a folder."""
    if stat.S_ISREG(status.st_mode):
        return True
    if not stat.S_ISDIR(status.st_mode):
        left_out.add("pipes, sockets or devices", path)
    return False


def _refuse_folder(error: OSError) -> None:
    raise _cannot_list(error) from error


def _cannot_list(error: OSError) -> DatasourceError:
    return DatasourceError(f"cannot list the folder {error.filename}: {error.strerror}")


def _cannot_look_at(path: str, error: OSError) -> DatasourceError:
    return DatasourceError(f"cannot read {path}: {error.strerror or error}")


def _leads_nowhere(path: str) -> DatasourceError:
    return DatasourceError(
        f"{path} is a link to {os.readlink(path)}, which cannot be reached; mend or remove the link, or name the "
        f"files that are meant"
    )


def _no_match(path: str) -> DatasourceError:
    if os.path.isdir(path):
        return DatasourceError(f"no input files: the folder {path} has none (hidden ones do not count)")
    if any(c in path for c in _GLOB_CHARACTERS):
        return DatasourceError(
            f"no input files: nothing matches {path} in {working_directory.describe()} "
            f"(a glob gives files; folders only by their own name, or with **)"
        )
    return DatasourceError(
        f"no input files: {path} does not exist (looked in {working_directory.describe()})"
    )
