"""Decide which modules travel as source, and let them be imported where they arrive.

Three kinds of modules never travel: the standard library, whatever is installed
(site-packages, editable installs, mmgevent itself) and compiled extensions.
Every other module is the user's own.  Its source text travels, with that of the
modules it imports in turn, found by reading its import statements; nothing is
imported to find out.  Imports that the program computes while it runs are not
found: `py_files` names such modules.

On the executor `install` puts one finder before all others, so a module that
travelled is what it was when the job was submitted, whatever lies there on disk.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mmgevent.errors import ShippingError
from mmgevent.shipping.installed import find_spec, is_installed, is_installed_spec

#: other names under which the module of the running script is known
MAIN_NAMES = frozenset(("__main__", "__mp_main__"))

_CATCHES_IMPORT_ERROR = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))


@dataclass(frozen=True)
class Source:
    """One module as it travels."""

    #: full name, with the names of its packages
    name: str
    #: where it was read; what tracebacks show. Empty for a namespace package
    path: str
    #: for packages, the folders to look for submodules that did not travel
    folders: tuple[str, ...] | None
    text: str


@dataclass(frozen=True)
class _Import:
    """One import statement: `import module` or `from module import names`."""

    module: str
    level: int
    names: tuple[str, ...]
    #: False where an ImportError is caught
    is_required: bool = True


class SourceTree:
    """The modules that one job takes along."""

    def __init__(self, by_value: Collection[str]):
        #: modules whose definitions travel by value: never as source
        self._by_value = frozenset(by_value)
        #: {name: Source} of what travels, packages before their modules
        self.sources: dict[str, Source] = {}
        self._seen: set[str] = set()
        #: kept, but their imports not yet followed
        self._pending: list[Source] = []

    def add(self, name: str) -> None:
        """Take along a module that is used by its name, and what it imports, if it is the user's own.

        Raise ShippingError for one of the user's own that cannot travel.
        """
        self._add(name, is_required=True)
        self._follow_pending()

    def add_import(self, module: str, level: int, names: Iterable[str], package: str) -> None:
        """Take along what an import statement of a module in `package` names."""
        self._follow(_Import(module, level, tuple(names)), package)
        self._follow_pending()

    def add_py_file(self, path: str | os.PathLike[str]) -> None:
        """Take along a module file, every module of a package folder, or of a zip or egg."""
        path = os.path.abspath(path)
        if os.path.isdir(path):
            found = list(_read_folder(path))
        elif zipfile.is_zipfile(path):
            found = list(_read_zip(path))
        elif path.endswith(".py") and os.path.isfile(path):
            found = [_read_file(path, os.path.basename(path))]
        else:
            raise ShippingError(
                f"py_files: {path} is neither a .py file, a package folder nor a zip that exists; "
                f"compiled modules must be installed on the workers"
            )
        if not found:
            raise ShippingError(f"py_files: there is no module in {path}")
        for source in found:
            if source.name not in self._by_value:
                self._seen.add(source.name)
                self._keep(source)
        self._follow_pending()

    def _add(self, name: str, is_required: bool) -> None:
        parts = name.split(".")
        if parts[0] in self._by_value or parts[0] == "mmgevent":
            return
        for count in range(1, len(parts) + 1):
            self._add_one(".".join(parts[:count]), is_required)

    def _add_one(self, name: str, is_required: bool) -> None:
        if name in self._seen:
            return
        spec = find_spec(name)
        if spec is None:
            if is_required and name in sys.modules and not is_installed(name.partition(".")[0]):
                raise ShippingError(
                    f"module {name!r} was made while the program ran and has no source to send: "
                    f"write it to a file and import that"
                )
            return
        if is_installed_spec(spec):
            self._seen.add(name)
            return
        text = _source_text(spec)
        if text is None:
            if is_required:
                raise ShippingError(_why_not(name, spec))
            return
        self._seen.add(name)
        self._keep(Source(name, spec.origin or "", _folders(spec), text))

    def _keep(self, source: Source) -> None:
        top = source.name.partition(".")[0]
        if top in sys.stdlib_module_names or top == "mmgevent":
            raise ShippingError(
                f"module {source.name!r} ({source.path}) has the name of a module that every Python or executor "
                f"has already: rename it"
            )
        self.sources[source.name] = source
        self._pending.append(source)

    def _follow_pending(self) -> None:
        while self._pending:
            source = self._pending.pop()
            package = source.name if source.folders is not None else source.name.rpartition(".")[0]
            try:
                for statement in _read_imports(source.text):
                    self._follow(statement, package)
            except ShippingError as error:
                raise ShippingError(f"{error} (module {source.name!r} imports it)") from None

    def _follow(self, statement: _Import, package: str) -> None:
        name = statement.module
        if statement.level:
            ancestors = package.split(".")
            if not package or statement.level > len(ancestors):
                return  # beyond the top: importing it fails here as well
            base = ".".join(ancestors[: len(ancestors) - statement.level + 1])
            name = f"{base}.{name}" if name else base
        self._add(name, statement.is_required)
        for submodule in statement.names:
            if submodule != "*" and f"{name}.{submodule}" not in self._seen and name in self.sources:
                self._add(f"{name}.{submodule}", statement.is_required)


def _source_text(spec: importlib.machinery.ModuleSpec) -> str | None:
    """Return the source of a module, "" for a namespace package, None if there is none."""
    if spec.origin is None and spec.submodule_search_locations is not None:
        return ""
    get_source = getattr(spec.loader, "get_source", None)
    if get_source is not None:
        text: str | None = get_source(spec.name)
        return text
    # Loaders that rewrite what they load, such as pytest's, may tell only where the file is.
    if spec.origin is not None and spec.origin.endswith(".py") and os.path.isfile(spec.origin):
        return importlib.util.decode_source(Path(spec.origin).read_bytes())
    return None


def _folders(spec: importlib.machinery.ModuleSpec) -> tuple[str, ...] | None:
    locations = spec.submodule_search_locations
    return None if locations is None else tuple(os.path.abspath(path) for path in locations)


def _why_not(name: str, spec: importlib.machinery.ModuleSpec) -> str:
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return f"module {name!r} is a compiled extension ({spec.origin}): it must be installed on the workers"
    return f"module {name!r} ({spec.origin}) has no source to send: it must be installed on the workers"


@functools.lru_cache(maxsize=256)
def _read_imports(text: str) -> tuple[_Import, ...]:
    """Return the import statements of a module, wherever they stand in it."""
    if not text:
        return ()
    try:
        tree = ast.parse(text)
    except SyntaxError:  # importing it will say so, if ever it is imported
        return ()
    return tuple(_walk_imports(tree, is_required=True))


def _walk_imports(node: ast.AST, is_required: bool) -> Iterator[_Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _Import(alias.name, 0, (), is_required)
    elif isinstance(node, ast.ImportFrom):
        yield _Import(node.module or "", node.level, tuple(alias.name for alias in node.names), is_required)
    elif isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
        for statement in node.body:
            yield from _walk_imports(statement, is_required=False)
        for other in (*node.handlers, *node.orelse, *node.finalbody):
            yield from _walk_imports(other, is_required)
    elif not isinstance(node, ast.expr):
        for child in ast.iter_child_nodes(node):
            yield from _walk_imports(child, is_required)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(name is None or getattr(name, "id", None) in _CATCHES_IMPORT_ERROR for name in names)


def _read_file(path: str, relative: str) -> Source:
    with open(path, "rb") as file:
        return _make_source(path, relative, file.read())


def _make_source(path: str, relative: str, data: bytes) -> Source:
    """Make the source of a module file; `relative` is its path from the folder that would be on `sys.path`."""
    parts = relative.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    folders = (os.path.dirname(path),) if is_package else None
    return Source(name, path, folders, importlib.util.decode_source(data))


def _read_folder(path: str) -> Iterator[Source]:
    parent = os.path.dirname(path)
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if name.isidentifier() and name != "__pycache__")
        relative = os.path.relpath(folder, parent).replace(os.sep, "/")
        modules = [name for name in sorted(files) if name.endswith(".py")]
        if modules and "__init__.py" not in modules:
            yield Source(relative.replace("/", "."), "", (folder,), "")
        for name in modules:
            if name.removesuffix(".py").isidentifier():
                yield _read_file(os.path.join(folder, name), f"{relative}/{name}")


def _read_zip(path: str) -> Iterator[Source]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and all(
                part.isidentifier() for part in name.removesuffix(".py").split("/")
            ):
                yield _make_source(os.path.join(path, name), name, archive.read(name))


class _Finder:
    """Finds and loads the modules that travelled; the first of `sys.meta_path`."""

    def __init__(self, sources: dict[str, Source]):
        self._sources = sources

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        source = self._sources.get(name)
        if source is None:
            return None
        loader: Any = self
        spec = importlib.machinery.ModuleSpec(
            name, loader, origin=source.path or None, is_package=source.folders is not None
        )
        spec.has_location = bool(source.path)
        if source.folders is not None:
            spec.submodule_search_locations = list(source.folders)
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        source = self._sources[module.__name__]
        exec(compile(source.text, source.path or "<namespace>", "exec", dont_inherit=True), vars(module))

    def get_source(self, name: str) -> str:
        return self._sources[name].text


class _ByValue:
    """The loader of a module that is made of what was sent by value: no file has it."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(
            f"module {module.__name__} was sent by value and cannot be loaded again", name=module.__name__
        )


def made_by_value(name: str) -> importlib.machinery.ModuleSpec:
    """Return the spec of such a module; from Python 3.15 on tracebacks warn of modules without a loader."""
    loader: Any = _ByValue()
    return importlib.machinery.ModuleSpec(name, loader)


def install(sources: Iterable[Source]) -> None:
    """Make the modules importable in this process, before any of the same names found elsewhere."""
    by_name = {source.name: source for source in sources}
    if not by_name:
        return
    for source in by_name.values():
        sys.modules.pop(source.name, None)
        if source.path:
            show_lines(source.path, source.text)
    finder: Any = _Finder(by_name)
    sys.meta_path.insert(0, finder)


def show_lines(path: str, text: str) -> None:
    """Let tracebacks show lines of a file that may not be here, or not be the same."""
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
