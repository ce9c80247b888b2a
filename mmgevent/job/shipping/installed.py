"""Find out which modules are installed: every machine that is set up for a job has them.

These are:

- the standard library, and mmgevent itself;
- whatever lies in a site-packages or dist-packages folder;
- editable installs: modules directly in a folder that a `.pth` file names, and packages that a
  setuptools finder maps.

Nothing is imported to find out.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import site
import sys
from collections.abc import Iterable, Iterator


def is_installed(name: str) -> bool:
    """Return whether every machine that is set up for the job has a module."""
    spec = find_spec(name)
    return spec is not None and is_installed_spec(spec)


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing anything. Return None if there is none."""
    module = sys.modules.get(name)
    if module is not None:
        spec = getattr(module, "__spec__", None)
        if spec is None and getattr(module, "__file__", None):
            spec = importlib.util.spec_from_file_location(name, module.__file__)
        return spec
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name)
    parent = find_spec(package)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return _find_in_folders(name, parent.submodule_search_locations)


def _find_in_folders(name: str, folders: Iterable[str]) -> importlib.machinery.ModuleSpec | None:
    """Find a submodule. `PathFinder` would need a namespace package's parents imported."""
    import pkgutil

    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:
            portions.extend(spec.submodule_search_locations or ())
    if not portions:
        return None
    namespace = importlib.machinery.ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def is_installed_spec(spec: importlib.machinery.ModuleSpec) -> bool:
    """Return whether every machine that is set up for the job has the module of a spec."""
    if spec.origin in ("built-in", "frozen"):
        return True
    places = [spec.origin] if spec.has_location and spec.origin else spec.submodule_search_locations or ()
    return any(_is_installed_path(place, spec.name) for place in places)


@functools.lru_cache(maxsize=4096)
def _is_installed_path(path: str, name: str) -> bool:
    folders, editable_folders, editable_packages = _installed_places()
    for spelling in (os.path.abspath(path), os.path.realpath(path)):
        parts = spelling.split(os.sep)
        if "site-packages" in parts or "dist-packages" in parts:
            return True
        if any(_is_within(spelling, folder) for folder in (*folders, *editable_packages)):
            return True
        top = name.partition(".")[0]
        if any(
            _is_within(spelling, os.path.join(folder, top)) or spelling == os.path.join(folder, top + ".py")
            for folder in editable_folders
        ):
            return True
    return False


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


@functools.lru_cache(maxsize=1)
def _installed_places() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return three sets of paths.

    They are folders with installed modules at any depth, folders that editable installs put on
    `sys.path`, and packages that editable installs map by name.
    """
    import sysconfig

    scheme = sysconfig.get_paths()
    names = [scheme[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    sites = [*names[2:], *site.getsitepackages(), site.getusersitepackages()]
    zipped = [
        path for path in sys.path if os.path.basename(path).startswith("python3") and path.endswith(".zip")
    ]
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folders = {os.path.realpath(path) for path in (*names, *sites, *zipped, here)}
    editable_folders = {os.path.realpath(folder) for path in sites for folder in _read_pth_files(path)}
    finders = [module for name, module in list(sys.modules.items()) if name.startswith("__editable__")]
    mapped = {
        os.path.realpath(path) for finder in finders for path in getattr(finder, "MAPPING", {}).values()
    }
    return frozenset(folders), frozenset(editable_folders), frozenset(mapped)


def _read_pth_files(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        if name.endswith(".pth"):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    path = os.path.join(folder, line.strip())
                    if (
                        line.strip()
                        and not line.startswith(("#", "import ", "import\t"))
                        and os.path.isdir(path)
                    ):
                        yield path
