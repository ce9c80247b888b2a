"""Let the modules that travelled be imported where they arrive.

`install` puts one finder before all others. So a module that travelled is the one that was
submitted, whatever lies there on disk.
"""

from __future__ import annotations

import importlib.machinery
import linecache
import marshal
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from mmgevent.job.shipping import package_files
from mmgevent.job.shipping.module_source import ModuleSource

#: How a module finds its folder, and calls that return nothing, rather than fail, if it is not
#: there.
_PLACE = re.compile(r"\b__(file|path)__\b")
_LOOK = re.compile(r"\b(exists|glob|iglob|is_dir|is_file|isdir|isfile|rglob|walk)\(")


class _Finder:
    """Finds and loads the modules that travelled; the first of `sys.meta_path`."""

    def __init__(self, sources: dict[str, ModuleSource]):
        self._sources = sources

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        source = self._sources.get(name)
        if source is None:
            return None
        loader: Any = _Loader(source)
        spec = importlib.machinery.ModuleSpec(
            name, loader, origin=source.path or None, is_package=source.folders is not None
        )
        spec.has_location = bool(source.path)
        if source.folders is not None:
            spec.submodule_search_locations = list(source.folders)
        return spec


class _Loader:
    """Loads one module that travelled, and reads the files of its package."""

    def __init__(self, source: ModuleSource):
        self._source = source

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name, child in list(sys.modules.items()):  # a job's module may be made before its package
            if name.rpartition(".")[0] == module.__name__:
                setattr(module, name.rpartition(".")[2], child)
        exec(self.get_code(module.__name__), vars(module))

    def get_code(self, name: str) -> Any:
        source = self._source
        if source.code:
            return marshal.loads(source.code)
        return compile(source.text, source.path or "<namespace>", "exec", dont_inherit=True)

    def get_source(self, name: str) -> str | None:
        return None if self._source.code else self._source.text

    def get_filename(self, name: str) -> str:
        return self._source.path

    def is_package(self, name: str) -> bool:
        return self._source.folders is not None

    def get_data(self, path: str) -> bytes:
        """Return the bytes of a file of the package, for `pkgutil.get_data`."""
        source = self._source
        if source.files:
            relative = os.path.relpath(path, (source.folders or ("",))[0]).replace(os.sep, "/")
            found = package_files.ZippedFiles(source.files).read(relative)
            if found is not None:
                return found
        return Path(path).read_bytes()

    def get_resource_reader(self, name: str) -> Any:
        """Return a reader of a package's files for `importlib.resources`; None for a module."""
        source = self._source
        if source.folders is None:
            return None
        if source.files:
            return package_files.ZippedFiles(source.files)
        from importlib.readers import FileReader, NamespaceReader

        if source.path:
            return FileReader(SimpleNamespace(path=source.path))  # type: ignore[arg-type]
        return NamespaceReader(package_files.NamespacePath(source.folders))


class _Listing:
    """Lists for `pkgutil` the modules that travelled and belong to a folder that is not here."""

    def __init__(self) -> None:
        self._found: list[tuple[str, bool]] = []

    def add(self, source: ModuleSource) -> None:
        self._found.append((source.name.rpartition(".")[2], source.folders is not None))

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield (name, whether it is a package), as `pkgutil` expects of finders."""
        for name, is_package in sorted(self._found):
            yield prefix + name, is_package

    def find_spec(self, name: str, target: Any = None) -> None:
        return None  # another finder has what travelled


class _ByValue:
    """The loader of a module that is made of definitions sent by value: no file has it."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(
            f"module {module.__name__} was sent by value and cannot be loaded again", name=module.__name__
        )


def made_by_value(name: str) -> importlib.machinery.ModuleSpec:
    """Return a spec for a module that is made of definitions.

    Python 3.15 warns about one without a loader.
    """
    loader: Any = _ByValue()
    return importlib.machinery.ModuleSpec(name, loader)


def install(sources: Iterable[ModuleSource]) -> None:
    """Make the modules importable in this process, before any others of the same names."""
    by_name = {source.name: source for source in sources}
    if not by_name:
        return
    for source in by_name.values():
        sys.modules.pop(source.name, None)
        if source.path and source.text:
            show_lines(source.path, source.text)
    finder: Any = _Finder(by_name)
    sys.meta_path.insert(0, finder)
    for source in by_name.values():
        package = by_name.get(source.name.rpartition(".")[0])
        for folder in () if package is None else package.folders or ():
            if not os.path.isdir(folder):
                known: Any = sys.path_importer_cache
                if not isinstance(known.get(folder), _Listing):
                    known[folder] = _Listing()
                known[folder].add(source)


def find_lookers(sources: Iterable[ModuleSource]) -> Iterator[str]:
    """Yield a sentence for each module that looks for files in its folder, missing here."""
    for source in sources:
        folder = os.path.dirname(source.path)
        looks = _LOOK.search(source.text) is not None and _PLACE.search(source.text) is not None
        if (
            looks
            and os.path.isabs(folder)
            and not (os.path.exists(folder) or package_files.is_in_zip(folder))
        ):
            yield (
                f"module {source.name} looks for files beside itself, and {folder} is not there; answers may "
                f"differ: read them with importlib.resources from a package, or pass their paths as input"
            )


def show_lines(path: str, text: str) -> None:
    """Let tracebacks show these lines of a file, which may be missing or different here."""
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
