"""Carry the driver's import path, folder and environment to executors of the same machine."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import PathFinder
from typing import Any

#: Words in names of our own variables (MMG_...) that stay behind. They may hold a secret, or lead
#: to one.
_SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY")


def _is_secret(variable: str) -> bool:
    return variable.startswith("MMG_") and any(word in variable for word in _SECRET_WORDS)


def read_surroundings() -> dict[str, Any]:
    """Return `{"sys_path": [str], "cwd": str or None, "environ": {str: str}}` of this process.

    JSON can hold it: bytes that are not UTF-8 are lone surrogates. It has no password of ours in
    it. `cwd` is None if the working directory no longer exists.
    """
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:
        cwd = None
    sys_path = [path or cwd or "" for path in sys.path if isinstance(path, str)]
    environ = {name: value for name, value in os.environ.items() if not _is_secret(name)}
    return {"sys_path": sys_path, "cwd": cwd, "environ": environ}


def enter_surroundings(surroundings: dict[str, Any]) -> None:
    """Give this process the import path, working directory and environment of another one.

    If the folder is not here, the process stays where it is.
    """
    sys.path[:] = surroundings["sys_path"]
    _forget_listings()
    environ = surroundings["environ"]
    for name in [name for name in os.environ if name not in environ]:
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if surroundings["cwd"] is not None:
        try:
            os.chdir(surroundings["cwd"])
        except OSError:  # only the user's own relative paths depend on it
            return


def _forget_listings() -> None:
    """Let imports see modules that have appeared since this process listed the folders of its path.

    `importlib.invalidate_caches` does the same, but from Python 3.13 on it imports importlib.metadata
    for that: 86 modules, 10 ms in each executor.
    """
    if "importlib.metadata" in sys.modules:
        importlib.invalidate_caches()
        return
    for path, finder in list(sys.path_importer_cache.items()):
        if finder is None or not os.path.isabs(path):
            del sys.path_importer_cache[path]
    for each in [*sys.meta_path, *sys.path_importer_cache.values()]:
        invalidate = getattr(each, "invalidate_caches", None)
        if each is not PathFinder and invalidate is not None:
            invalidate()
