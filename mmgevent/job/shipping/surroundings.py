"""What executors of the driver's own machine take over from it: import path, folder, environment."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

#: variables that stay behind: MMG_PASSWORD and whatever else of ours may hold or lead to a secret
_SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY")


def _is_secret(variable: str) -> bool:
    return variable.startswith("MMG_") and any(word in variable for word in _SECRET_WORDS)


def context() -> dict[str, Any]:
    """Return `{"sys_path": [str], "cwd": str or None, "environ": {str: str}}` of this process.

    It can be written as JSON (bytes that are not UTF-8 as lone surrogates) and
    holds no password.  `cwd` is None when the folder is gone.
    """
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:
        cwd = None
    sys_path = [path or cwd or "" for path in sys.path if isinstance(path, str)]
    environ = {name: value for name, value in os.environ.items() if not _is_secret(name)}
    return {"sys_path": sys_path, "cwd": cwd, "environ": environ}


def enter(context: dict[str, Any]) -> None:
    """Give this process the import path, working directory and environment of `context`.

    A folder that is not here is not an error: the process stays where it is.
    """
    sys.path[:] = context["sys_path"]
    importlib.invalidate_caches()
    environ = context["environ"]
    for name in [name for name in os.environ if name not in environ]:
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if context["cwd"] is not None:
        try:
            os.chdir(context["cwd"])
        except (
            OSError
        ):  # another machine, or the folder is gone: nothing depends on it but the user's own paths
            return
