"""Give the user's code its own modules that have the name of a real one.

If a `queue.py` lies beside the job, `import queue` in the job means that file, as in plain Python.
All other code in the process needs the module of the standard library. So the user's module is
loaded under another name, `_beside_queue`, under which it can also be pickled and sent. A hook in
`import` looks at who imports. It makes each import slower, so it is set only if there are such
modules. `importlib.import_module("queue")` gives the real one.
"""

from __future__ import annotations

import _frozen_importlib_external as _external
import builtins
import os
import sys

from mmgevent import real_modules

TYPE_CHECKING = False  # not from typing, which a folder of the user's may hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: How the name of such a module begins in `sys.modules`.
PREFIX = "_beside_"

_PACKAGE = os.path.join(real_modules.ROOT, "mmgevent") + os.sep
_plain_import: Callable[..., Any] = builtins.__import__

#: Folders of the user's that hide real modules, the first one first.
_folders: list[str] = []
#: The same folders as prefixes of the paths of the user's code, in each spelling.
_roots: list[str] = []


class Hook:
    """Replaces `__import__`.

    The user's code gets the user's modules, all other code the real ones.
    """

    def __init__(self, names: frozenset[str], is_users: Callable[[dict[str, Any]], bool]):
        #: top-level names that the user has modules of
        self.names = names
        self._is_users = is_users

    def __call__(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        is_theirs = not level and name.partition(".")[0] in self.names and globals is not None
        if is_theirs and globals is not None and self._is_users(globals):
            name = PREFIX + name
        return _plain_import(name, globals, locals, fromlist, level)


def names() -> frozenset[str]:
    """Return the names of real modules that mean modules of the user's in the user's code."""
    hook = builtins.__import__
    return hook.names if isinstance(hook, Hook) else frozenset()


def alias(name: str) -> str:
    """Return the name in `sys.modules` of what the user's code imports as `name`."""
    return PREFIX + name if name.partition(".")[0] in names() else name


def give_from_folders(folders: list[str]) -> None:
    """Let modules in and below these folders import what lies there under a real module's name.

    Do nothing if there is no such module. Modules that were imported before get their other name.
    """
    new = [folder for folder in folders if folder not in _folders]
    hidden = real_modules.hidden_names(new)
    if not hidden:
        return
    real_modules.protect()
    if not _folders:
        sys.meta_path.insert(0, _AliasFinder())
    _folders[:0] = new
    _roots[:] = {
        os.path.join(spell(folder), "")
        for folder in _folders
        for spell in (os.path.abspath, os.path.realpath)
    }
    for name in hidden:
        _rename(name)
    _set_import(Hook(names() | hidden, _is_users))


def _is_users(space: dict[str, Any]) -> bool:
    if "__mmgevent_job_file__" in space or ("__file__" not in space and space.get("__name__") == "__main__"):
        return True  # a job file, or a prompt
    return _is_users_file(space.get("__file__"))


def give_shipped(shipped: Iterable[str], by_value: Iterable[str]) -> None:
    """Let the modules of a job that arrived here import one another under real modules' names.

    shipped: names of those that travelled as source. by_value: names of those made of definitions.
    """
    importers = frozenset((*shipped, *by_value))
    own = frozenset(
        name.removeprefix(PREFIX) for name in importers if name.startswith(PREFIX) and "." not in name
    )
    if own:
        _set_import(Hook(own, lambda space: space.get("__name__") in importers))


def _set_import(hook: Any) -> None:
    builtins.__import__ = hook


def _is_users_file(path: Any) -> bool:
    if not isinstance(path, str) or path.startswith(_PACKAGE) or not path.startswith(tuple(_roots)):
        return False
    parts = path.split(os.sep)
    is_installed = "site-packages" in parts or "dist-packages" in parts
    return not is_installed and not path.startswith(os.path.dirname(os.__file__) + os.sep)


def _rename(name: str) -> None:
    """Give a module that the user's program has imported already its other name."""
    module = sys.modules.get(name)
    if module is None or not _is_users_file(getattr(module, "__file__", None)):
        return
    for old in [old for old in sys.modules if old == name or old.startswith(f"{name}.")]:
        renamed = sys.modules.pop(old)
        sys.modules[PREFIX + old] = renamed
        renamed.__name__ = PREFIX + old
        renamed.__spec__ = None
        for value in list(vars(renamed).values()):
            if getattr(value, "__module__", None) == old and hasattr(value, "__qualname__"):
                value.__module__ = PREFIX + old


class _AliasFinder:
    """Finds `_beside_queue` as `queue` in the user's folders."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if path is not None or not name.startswith(PREFIX):
            return None
        spec = _external.PathFinder.find_spec(name.removeprefix(PREFIX), _folders)
        if spec is None or not spec.has_location:
            return None
        return _external.spec_from_file_location(
            name, spec.origin, submodule_search_locations=spec.submodule_search_locations
        )
