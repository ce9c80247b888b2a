"""The files of a package beside its modules: find them, take them along, read them where they arrive.

Executors of this machine read them where they lie.  Elsewhere they are a zip
that came with the package, if the job's code asks for files of packages at all,
by `importlib.resources` or `pkgutil.get_data`.  What opens paths made from
`__file__` finds nothing elsewhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zipfile

#: Files of one package that travel, bytes.  More would fill memory of every executor, as bytes and as a zip.
MAX_BYTES = 64 << 20

#: texts in the source of a module that reads files of packages
MARKS = (
    "importlib.resources",
    "importlib_resources",
    "import resources",
    "pkg_resources",
    "get_data",
)

#: functions whose arguments name a module or package
NAMING_CALLS = frozenset(
    (
        "import_module",
        "__import__",
        "files",
        "get_data",
        "open_text",
        "read_text",
        "open_binary",
        "read_binary",
        "contents",
        "resource_stream",
        "resource_string",
    )
)

#: what is made for one machine or one Python, and is no file to be read; sources are listed among the others
_BINARY_SUFFIXES = (".pyc", ".pyo", ".so", ".pyd")


def read_files(folder: str) -> tuple[bytes, int]:
    """Return a zip of the files of a package, b"" if it has none, and how many bytes they are.

    The zip is b"" too if they are more than MAX_BYTES.
    """
    size, found = 0, {}
    for relative, read_size, read in _walk(folder):
        size += read_size
        if size <= MAX_BYTES:
            found[relative] = read()
    if not found or size > MAX_BYTES:
        return b"", size
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative, content in found.items():
            archive.writestr(relative, content)
    return data.getvalue(), size


def is_in_zip(folder: str) -> bool:
    """Return whether a package lies in a zip, where only its loader can read it."""
    return not os.path.isdir(folder) and _zip_path(folder) is not None


def _zip_path(folder: str) -> str | None:
    while folder and not os.path.exists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.isfile(folder):
        return None
    import zipfile

    return folder if zipfile.is_zipfile(folder) else None


def _walk(folder: str) -> Iterator[tuple[str, int, Any]]:
    """Yield (path below the folder, size, function that reads it) of each file that is no compiled code."""
    path = None if os.path.isdir(folder) else _zip_path(folder)
    if path is not None:
        import zipfile

        prefix = os.path.relpath(folder, path).replace(os.sep, "/") + "/"
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                relative = entry.filename.removeprefix(prefix)
                if entry.filename.startswith(prefix) and _is_file(relative):
                    yield relative, entry.file_size, lambda entry=entry: archive.read(entry)
        return
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name != "__pycache__" and name[0] != ".")
        for name in sorted(names):
            full = os.path.join(place, name)
            relative = os.path.relpath(full, folder).replace(os.sep, "/")
            if _is_file(relative) and os.path.isfile(full):
                yield relative, os.path.getsize(full), lambda full=full: _read(full)


def _is_file(relative: str) -> bool:
    return bool(relative) and not relative.endswith(("/", *_BINARY_SUFFIXES))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class ZippedFiles:
    """What `importlib.resources` reads a package with whose files travelled."""

    def __init__(self, data: bytes):
        self._data = data

    def files(self) -> zipfile.Path:
        """Return the folder of the package, as a Traversable."""
        import zipfile

        return zipfile.Path(zipfile.ZipFile(io.BytesIO(self._data)))

    def read(self, relative: str) -> bytes | None:
        """Return the content of one file, None if it did not travel."""
        import zipfile

        with zipfile.ZipFile(io.BytesIO(self._data)) as archive:
            return archive.read(relative) if relative in archive.namelist() else None


class NamespacePath(tuple[str, ...]):
    """Folders of a namespace package, called as `importlib.readers` wants them called."""

    def __repr__(self) -> str:
        return f"_NamespacePath({list(self)!r})"
