"""Send the files that a package has beside its modules, and read them in executors.

Executors of this machine read them at their own place. Executors elsewhere get them as a zip with
the package, if the job's code reads files of packages by `importlib.resources` or
`pkgutil.get_data`. Code that opens paths made from `__file__` finds nothing there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zipfile

#: Largest files of one package that travel, bytes, together. Every executor has them in memory
#: twice.
MAX_PACKAGE_BYTES = 64 << 20

#: Texts in the source of modules that read files of packages.
MARKS = (
    "importlib.resources",
    "importlib_resources",
    "import resources",
    "pkg_resources",
    "get_data",
)

#: Functions whose arguments name a module or package.
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

#: Suffixes of files that are made for one machine or one Python. Nobody reads them as data.
_BINARY_SUFFIXES = (".pyc", ".pyo", ".so", ".pyd")


def read_files(folder: str) -> tuple[bytes, int]:
    """Return a zip of the files of a package, and their size, bytes.

    The zip is b"" if there are none, or if they are larger than MAX_PACKAGE_BYTES.
    """
    size, found = 0, {}
    for relative, read_size, read in walk(folder):
        size += read_size
        if size <= MAX_PACKAGE_BYTES:
            found[relative] = read()
    if not found or size > MAX_PACKAGE_BYTES:
        return b"", size
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative, content in found.items():
            archive.writestr(relative, content)
    return data.getvalue(), size


def is_in_zip(folder: str) -> bool:
    """Return whether a package lies in a zip: only its loader can read it."""
    return not os.path.isdir(folder) and _zip_path(folder) is not None


def _zip_path(folder: str) -> str | None:
    while folder and not os.path.exists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.isfile(folder):
        return None
    import zipfile

    return folder if zipfile.is_zipfile(folder) else None


def walk(folder: str) -> Iterator[tuple[str, int, Any]]:
    """Yield (path below the folder, size, function that reads it) for all but compiled code."""
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
    """Reads the files of a package that travelled, for `importlib.resources`."""

    def __init__(self, data: bytes):
        self._data = data

    def files(self) -> zipfile.Path:
        """Return the folder of the package, as a Traversable."""
        import zipfile

        return zipfile.Path(zipfile.ZipFile(io.BytesIO(self._data)))

    def read(self, relative: str) -> bytes | None:
        """Return the content of one file, or None if it did not travel."""
        import zipfile

        with zipfile.ZipFile(io.BytesIO(self._data)) as archive:
            return archive.read(relative) if relative in archive.namelist() else None


class NamespacePath(tuple[str, ...]):
    """Folders of a namespace package, with the repr() that `importlib.readers` expects."""

    def __repr__(self) -> str:
        return f"_NamespacePath({list(self)!r})"
