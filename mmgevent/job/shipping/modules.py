"""Decide which modules travel as source.

Three kinds of modules never travel:

- the standard library;
- whatever is installed: site-packages, editable installs, mmgevent itself;
- compiled extensions. Only executors of this machine find those.

Every other module is the user's own. Its source travels, or its bytecode if there is no source, and
so do the modules that it imports. They are found by reading import statements; nothing is imported
to find out. Imports that a program computes while it runs are not found: `py_files` names those.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
from collections.abc import Collection, Iterable
from typing import NamedTuple

from mmgevent import beside, real_modules
from mmgevent.errors import ShippingError
from mmgevent.job.shipping import package_files
from mmgevent.job.shipping.import_statements import ImportStatement, read_imports, read_named_modules
from mmgevent.job.shipping.installed import find_spec, is_installed, is_installed_spec
from mmgevent.job.shipping.module_source import (
    ModuleSource,
    bytecode,
    package_folders,
    read_py_file,
    source_text,
)

#: A text that may name a module, or the package of modules if it ends with a dot.
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.?")

#: Functions of `pkgutil` that list the modules of a package.
LISTING_MARKS = ("iter_modules", "walk_packages")


class JobImport(NamedTuple):
    """An import of one of the job's modules by another module of the user's, or by a function."""

    #: the job's module
    module: str
    #: what is imported from it: "*" for everything, no name for the module itself
    names: tuple[str, ...]
    #: name of the module that imports it; "" for a function of the job
    importer: str
    #: whether it runs inside a function, rather than while the importer is imported
    is_late: bool


class SourceTree:
    """The modules that travel with one job."""

    def __init__(self, by_value: Collection[str], *, stays_here: bool = False):
        #: all executors are on this machine, with the same import path
        self._stays_here = stays_here
        #: modules whose definitions travel by value: never as source
        self._by_value = frozenset(by_value)
        #: {name: source} of what travels, packages before their modules
        self.sources: dict[str, ModuleSource] = {}
        #: modules without source, which executors must find on their import path
        self.stay_behind: set[str] = set()
        #: the job's modules as others import them
        self.job_imports: dict[JobImport, None] = {}
        #: whether code of the job's functions reads files of packages
        self.reads_files = False
        #: whether some code lists the modules of packages: then all of them travel
        self._lists_modules = False
        self._seen: set[str] = set()
        #: sources whose imports have not been followed yet
        self._pending: list[ModuleSource] = []

    def add(self, name: str) -> None:
        """Add a module that is used by its name, and what it imports, if it is the user's own.

        Raise ShippingError for a module of the user's that cannot travel.
        """
        self._add(name, is_required=True)
        self._follow_pending()

    def add_import(self, module: str, level: int, names: Iterable[str], package: str) -> None:
        """Add what an import statement of a module in `package` names."""
        self._follow(ImportStatement(module, level, tuple(names), is_late=True), package, "")
        self._follow_pending()

    def add_texts(self, texts: Iterable[str]) -> None:
        """Add the user's modules that texts name.

        A text such as "plugins." names all in that package.
        """
        for text in texts:
            self._add_text(text)
        self._follow_pending()

    def _add_text(self, text: str) -> None:
        name = text.rstrip(".")
        if not _MODULE_NAME.fullmatch(text) or real_modules.is_real(name.partition(".")[0]):
            return
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # no module, or one without a place
            return
        if spec is None or is_installed_spec(spec):
            return
        self._add(name, is_required=False)
        if text.endswith(".") and spec.submodule_search_locations:
            import pkgutil

            for module in pkgutil.iter_modules(spec.submodule_search_locations, text):
                self._add(module.name, is_required=False)

    def add_listed(self) -> None:
        """Add all modules of each package of the user's, since some code lists them."""
        self._lists_modules = True
        for source in list(self.sources.values()):
            self._add_submodules(source)
        self._follow_pending()

    def _add_submodules(self, source: ModuleSource) -> None:
        import pkgutil

        for module in pkgutil.iter_modules(source.folders or (), f"{source.name}."):
            self._add(module.name, is_required=False)

    def collect(self) -> list[ModuleSource]:
        """Return what travels, with the other files of packages if code elsewhere reads them.

        Raise ShippingError for a package whose files are too large.
        """
        reads = self.reads_files or any(
            mark in source.text for source in self.sources.values() for mark in package_files.MARKS
        )
        return [
            self._with_files(source) if reads and source.folders else source
            for source in self.sources.values()
        ]

    def _with_files(self, source: ModuleSource) -> ModuleSource:
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
        """Add a module file, or every module of a package folder, zip or egg."""
        path = os.path.abspath(path)
        found = read_py_file(path)
        if found is None:
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
        text, code = source_text(spec), b""
        if text is None:
            code = bytecode(spec)
        if text is None and not code:
            if is_required and not self._stays_here:
                raise ShippingError(_why_not(name, spec))
            self.stay_behind.add(name)
            self._seen.add(name)
            return
        self._seen.add(name)
        self._keep(ModuleSource(name, spec.origin or "", package_folders(spec), text or "", code))

    def _keep(self, source: ModuleSource) -> None:
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
                for statement in read_imports(source.text):
                    self._follow(statement, package, source.name)
                for text in read_named_modules(source.text):
                    self._add_text(text)
                if self._lists_modules:
                    self._add_submodules(source)
                elif any(mark in source.text for mark in LISTING_MARKS):
                    self.add_listed()
            except ShippingError as error:
                raise ShippingError(f"{error} (module {source.name!r} imports it)") from None

    def _follow(self, statement: ImportStatement, package: str, importer: str) -> None:
        name = statement.module
        if statement.level:
            ancestors = package.split(".")
            if not package or statement.level > len(ancestors):
                return  # beyond the top: the import fails here as well
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


def _why_not(name: str, spec: importlib.machinery.ModuleSpec) -> str:
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return (
            f"module {name!r} is a compiled extension ({spec.origin}): it must be installed on the workers "
            f"(without, jobs can use it that run on this machine only)"
        )
    return f"module {name!r} ({spec.origin}) has no source to send: it must be installed on the workers"
