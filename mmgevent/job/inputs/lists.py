"""Lists of paths, in a file or on standard input."""

from __future__ import annotations

import os
import stat

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.streams import STDIN, InputStream, is_stream, name_of
from mmgevent.job.remote.urls import is_remote
from mmgevent.machine import working_directory

#: Largest list, bytes: some ten million paths.
MAX_LIST_BYTES = 1024**3


class PathList:
    """Paths of files, one per line, or one before each NUL as `find -print0` writes them.

    Blank lines do not count. A stream is read once, at first use.
    """

    def __init__(self, source: str | os.PathLike[str]):
        """source: a path, or "-" for standard input."""
        self.source = os.fspath(source)
        self._text: bytes | None = None
        #: {remote path: where it stands in the list}, after `paths`
        self.places: dict[str, str] = {}

    def paths(self) -> tuple[str, ...]:
        """Return the paths. Raise DatasourceError if one names no file, with its line."""
        data = self._read()
        has_nul = b"\0" in data
        unit = "name" if has_nul else "line"
        paths: list[str] = []
        for number, line in enumerate(data.split(b"\0" if has_nul else b"\n"), 1):
            if not has_nul:
                line = line.removesuffix(b"\r")
            if not line.strip():
                continue
            path = os.fsdecode(line)
            place = f"{name_of(self.source)}, {unit} {number}"
            if is_remote(path):  # it is looked at with others, all at one time
                self.places.setdefault(path, place)
            else:
                self._check(path, place)
            paths.append(os.path.join(os.curdir, path) if path == STDIN else path)
        if not paths:
            raise DatasourceError(f"no input files: {name_of(self.source)} lists none")
        return tuple(paths)

    def _check(self, path: str, place: str) -> None:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DatasourceError(
                f"{place}: cannot read {path}: {reason} (looked in {working_directory.describe()})"
            ) from error
        if path != STDIN and is_stream(path):
            raise DatasourceError(
                f"{place}: {path} is a stream, which can be read only once; pass it to the source itself"
            )
        if stat.S_ISDIR(status.st_mode):
            raise DatasourceError(f"{place}: {path} is a folder; list the files in it (find -type f)")

    def _read(self) -> bytes:
        if self._text is not None:
            return self._text
        if is_remote(self.source):
            from mmgevent.job.remote.windows import read_object

            return read_object(self.source, MAX_LIST_BYTES)
        if is_stream(self.source):
            stream = InputStream(self.source)
            with stream:
                self._text = stream.read_all(MAX_LIST_BYTES)
            return self._text
        try:
            with open(self.source, "rb") as file:
                return file.read()
        except OSError as error:
            raise DatasourceError(f"cannot read the list {self.source}: {error.strerror or error}") from error
