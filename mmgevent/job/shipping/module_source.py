"""One module as it travels, and how it is read: from its loader, a file, a folder or a zip."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Names of the module of the running script.
MAIN_NAMES = frozenset(("__main__", "__mp_main__"))


class ModuleSource(NamedTuple):
    """One module as it travels."""

    #: full name, with the names of its packages
    name: str
    #: where it was read, as tracebacks show it; empty for a namespace package
    path: str
    #: Folders of a package that may hold submodules that did not travel; None for a module.
    folders: tuple[str, ...] | None
    text: str
    #: the module's code as `marshal` writes it, if there is no text
    code: bytes = b""
    #: a zip of a package's other files, with paths below its folder; empty if none travel
    files: bytes = b""


def source_text(spec: importlib.machinery.ModuleSpec) -> str | None:
    """Return the source of a module, "" for a namespace package, None if there is none."""
    if spec.origin is None and spec.submodule_search_locations is not None:
        return ""
    get_source = getattr(spec.loader, "get_source", None)
    if get_source is not None:
        text: str | None = get_source(spec.name)
        return text
    # Loaders that rewrite what they load, such as pytest's, may know the path of the file only.
    if spec.origin is not None and spec.origin.endswith(".py") and os.path.isfile(spec.origin):
        return importlib.util.decode_source(Path(spec.origin).read_bytes())
    return None


def bytecode(spec: importlib.machinery.ModuleSpec) -> bytes:
    """Return the bytecode of a module that has no source, or b"".

    Workers run the same version of Python.
    """
    if isinstance(spec.loader, importlib.machinery.SourcelessFileLoader):
        code = spec.loader.get_code(spec.name)
        return b"" if code is None else marshal.dumps(code)
    return b""


def package_folders(spec: importlib.machinery.ModuleSpec) -> tuple[str, ...] | None:
    """Return the folders of a package; None for a module."""
    locations = spec.submodule_search_locations
    return None if locations is None else tuple(os.path.abspath(path) for path in locations)


def read_py_file(path: str) -> list[ModuleSource] | None:
    """Return the modules of a .py file, package folder, zip or egg; None for any other path."""
    import zipfile

    if os.path.isdir(path):
        return list(_read_folder(path))
    if zipfile.is_zipfile(path):
        return list(_read_zip(path))
    if path.endswith(".py") and os.path.isfile(path):
        return [_read_file(path, os.path.basename(path))]
    return None


def _read_file(path: str, relative: str) -> ModuleSource:
    with open(path, "rb") as file:
        return _make_source(path, relative, file.read())


def _make_source(path: str, relative: str, data: bytes) -> ModuleSource:
    """Make the source of a module file; `relative` is its path from its folder on `sys.path`."""
    parts = relative.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    folders = (os.path.dirname(path),) if is_package else None
    return ModuleSource(name, path, folders, importlib.util.decode_source(data))


def _read_folder(path: str) -> Iterator[ModuleSource]:
    parent = os.path.dirname(path)
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if name.isidentifier() and name != "__pycache__")
        relative = os.path.relpath(folder, parent).replace(os.sep, "/")
        modules = [name for name in sorted(files) if name.endswith(".py")]
        if modules and "__init__.py" not in modules:
            yield ModuleSource(relative.replace("/", "."), "", (folder,), "")
        for name in modules:
            if name.removesuffix(".py").isidentifier():
                yield _read_file(os.path.join(folder, name), f"{relative}/{name}")


def _read_zip(path: str) -> Iterator[ModuleSource]:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and all(
                part.isidentifier() for part in name.removesuffix(".py").split("/")
            ):
                yield _make_source(os.path.join(path, name), name, archive.read(name))
