"""Decide which modules travel as source, and let them be imported where they arrive.

Three kinds of modules never travel: the standard library, whatever is installed
(site-packages, editable installs, mmgevent itself) and compiled extensions,
which only executors of this machine find.
Every other module is the user's own.  Its source text travels, or its bytecode
where that is all there is, with that of the
modules it imports in turn, found by reading its import statements; nothing is
imported to find out.  Imports that the program computes while it runs are not
found: `py_files` names such modules.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import marshal
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmgevent import beside, real_modules
from mmgevent.errors import ShippingError
from mmgevent.job.shipping import package_files
from mmgevent.job.shipping.installed import find_spec, is_installed, is_installed_spec

#: other names under which the module of the running script is known
MAIN_NAMES = frozenset(("__main__", "__mp_main__"))

#: a text that may be the name of a module, or, with a dot at its end, the beginning of one
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.?")

_CATCHES_IMPORT_ERROR = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))


class Source(NamedTuple):
    """One module as it travels."""

    #: full name, with the names of its packages
    name: str
    #: where it was read; what tracebacks show. Empty for a namespace package
    path: str
    #: for packages, the folders to look for submodules that did not travel
    folders: tuple[str, ...] | None
    text: str
    #: what `marshal` writes of the module's code, if there is no text
    code: bytes = b""
    #: a zip of a package's other files, below its folder; empty if none travel
    files: bytes = b""


class _Import(NamedTuple):
    """One import statement: `import module` or `from module import names`."""

    module: str
    level: int
    names: tuple[str, ...]
    #: False where an ImportError is caught
    is_required: bool = True
    #: True inside a function, which runs later or never
    is_late: bool = False


class JobImport(NamedTuple):
    """An import of one of the job's modules by a module of the user's, or by a function."""

    #: the job's module
    module: str
    #: what is imported from it; "*" for all, none for the module itself
    names: tuple[str, ...]
    #: name of the module that imports it; "" for a function of the job
    importer: str
    is_late: bool


#: functions of `pkgutil` that say which modules a package has
LISTING_MARKS = ("iter_modules", "walk_packages")


class SourceTree:
    """The modules that one job takes along."""

    def __init__(self, by_value: Collection[str], *, stays_here: bool = False):
        #: all executors are on this machine, with the same import path
        self._stays_here = stays_here
        #: modules whose definitions travel by value: never as source
        self._by_value = frozenset(by_value)
        #: {name: Source} of what travels, packages before their modules
        self.sources: dict[str, Source] = {}
        #: modules without source that executors have to find on their import path
        self.stay_behind: set[str] = set()
        #: the job's modules as others import them
        self.job_imports: dict[JobImport, None] = {}
        #: code of the job's functions reads files of packages
        self.reads_files = False
        #: whether somebody asks which modules a package has: then all of them travel
        self._lists_modules = False
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
        self._follow(_Import(module, level, tuple(names), is_late=True), package, "")
        self._follow_pending()

    def add_texts(self, texts: Iterable[str]) -> None:
        """Take along the user's modules that texts name; of a text such as "plugins." all in that package."""
        for text in texts:
            self._add_text(text)
        self._follow_pending()

    def _add_text(self, text: str) -> None:
        name = text.rstrip(".")
        if not _MODULE_NAME.fullmatch(text) or real_modules.is_real(name.partition(".")[0]):
            return
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # no module, or one that does not say where it is from
            return
        if spec is None or is_installed_spec(spec):
            return
        self._add(name, is_required=False)
        if text.endswith(".") and spec.submodule_search_locations:
            import pkgutil

            for module in pkgutil.iter_modules(spec.submodule_search_locations, text):
                self._add(module.name, is_required=False)

    def add_listed(self) -> None:
        """Take along all modules of each package of the user's, since somebody asks which there are."""
        self._lists_modules = True
        for source in list(self.sources.values()):
            self._add_submodules(source)
        self._follow_pending()

    def _add_submodules(self, source: Source) -> None:
        import pkgutil

        for module in pkgutil.iter_modules(source.folders or (), f"{source.name}."):
            self._add(module.name, is_required=False)

    def collect(self) -> list[Source]:
        """Return what travels, packages with their other files if those are read and not to be found there.

        Raise ShippingError for a package whose files are too large.
        """
        reads = self.reads_files or any(
            mark in source.text for source in self.sources.values() for mark in package_files.MARKS
        )
        return [
            self._with_files(source) if reads and source.folders else source
            for source in self.sources.values()
        ]

    def _with_files(self, source: Source) -> Source:
        folder = (source.folders or ("",))[0]
        if self._stays_here and not package_files.is_in_zip(folder):
            return source
        files, size = package_files.read_files(folder)
        if size > package_files.MAX_BYTES:
            raise ShippingError(
                f"package {source.name!r}: its files ({folder}) are {size >> 20} MiB, and at most "
                f"{package_files.MAX_BYTES >> 20} MiB of a package travel to workers: keep large files outside of "
                f"it, at a path that workers have, or install the package there"
            )
        return source._replace(files=files)

    def add_py_file(self, path: str | os.PathLike[str]) -> None:
        """Take along a module file, every module of a package folder, or of a zip or egg."""
        import zipfile

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
        if parts[0] == "mmgevent":
            return
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            if part in self._by_value:
                return
            self._add_one(part, is_required)

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
        text, code = _source_text(spec), b""
        if text is None:
            code = _bytecode(spec)
        if text is None and not code:
            if is_required and not self._stays_here:
                raise ShippingError(_why_not(name, spec))
            self.stay_behind.add(name)
            self._seen.add(name)
            return
        self._seen.add(name)
        self._keep(Source(name, spec.origin or "", _folders(spec), text or "", code))

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
                    self._follow(statement, package, source.name)
                for text in _read_named(source.text):
                    self._add_text(text)
                if self._lists_modules:
                    self._add_submodules(source)
                elif any(mark in source.text for mark in LISTING_MARKS):
                    self.add_listed()
            except ShippingError as error:
                raise ShippingError(f"{error} (module {source.name!r} imports it)") from None

    def _follow(self, statement: _Import, package: str, importer: str) -> None:
        name = statement.module
        if statement.level:
            ancestors = package.split(".")
            if not package or statement.level > len(ancestors):
                return  # beyond the top: importing it fails here as well
            base = ".".join(ancestors[: len(ancestors) - statement.level + 1])
            name = f"{base}.{name}" if name else base
        else:
            name = beside.alias(name)
        self._add(name, statement.is_required)
        if name in self._by_value:
            self.job_imports[JobImport(name, statement.names, importer, statement.is_late)] = None
            return
        for submodule in statement.names:
            if f"{name}.{submodule}" in self._by_value:
                self.job_imports[JobImport(f"{name}.{submodule}", (), importer, statement.is_late)] = None
            elif submodule != "*" and f"{name}.{submodule}" not in self._seen and name in self.sources:
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


def _bytecode(spec: importlib.machinery.ModuleSpec) -> bytes:
    """Return the bytecode of a module of which there is nothing else; workers run the same version of Python."""
    if isinstance(spec.loader, importlib.machinery.SourcelessFileLoader):
        code = spec.loader.get_code(spec.name)
        return b"" if code is None else marshal.dumps(code)
    return b""


def _folders(spec: importlib.machinery.ModuleSpec) -> tuple[str, ...] | None:
    locations = spec.submodule_search_locations
    return None if locations is None else tuple(os.path.abspath(path) for path in locations)


def _why_not(name: str, spec: importlib.machinery.ModuleSpec) -> str:
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return (
            f"module {name!r} is a compiled extension ({spec.origin}): it must be installed on the workers "
            f"(without, jobs can use it that run on this machine only)"
        )
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
    return tuple(_walk_imports(tree, is_required=True, is_late=False))


@functools.lru_cache(maxsize=256)
def _read_named(text: str) -> tuple[str, ...]:
    """Return the texts in a module by which it asks for modules and packages while it runs."""
    if not any(mark in text for mark in (*package_files.MARKS, "import_module", "__import__")):
        return ()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = [
        part.value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in package_files.NAMING_CALLS
        for part in ast.walk(call)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return tuple(dict.fromkeys(found))


def _walk_imports(node: ast.AST, is_required: bool, is_late: bool) -> Iterator[_Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _Import(alias.name, 0, (), is_required, is_late)
    elif isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        yield _Import(node.module or "", node.level, names, is_required, is_late)
    elif isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
        for statement in node.body:
            yield from _walk_imports(statement, False, is_late)
        for other in (*node.handlers, *node.orelse, *node.finalbody):
            yield from _walk_imports(other, is_required, is_late)
    elif not isinstance(node, ast.expr):
        is_late = is_late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            yield from _walk_imports(child, is_required, is_late)


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
    import zipfile

    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and all(
                part.isidentifier() for part in name.removesuffix(".py").split("/")
            ):
                yield _make_source(os.path.join(path, name), name, archive.read(name))
