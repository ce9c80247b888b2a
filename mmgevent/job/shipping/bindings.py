"""Write the chunks of a payload, and bind their names in an executor.

Payloads name the functions that executors call: `bind` and those below it. They do what `setattr`,
`import` and the like do, under names that the user's own code never calls.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import io
import linecache
import os
import sys
import types
from typing import Any

from mmgevent.job.shipping.definitions import nested_code
from mmgevent.job.shipping.refusals import Refusal

#: Largest source that travels for tracebacks, characters. Larger ones are generated tables.
_MAX_LINES_CHARS = 1 << 20

#: Our classes whose instances are of no use in an executor.
_DRIVERS_OWN = frozenset(("Job", "JobHandle", "LocalCluster", "RemoteCluster", "Node"))


def refuse_drivers_own(value: Any) -> None:
    """Refuse what only the driver can use: a Job with all its input, a handle, a cluster."""
    kind = type(value)
    if kind.__module__.startswith("mmgevent.") and kind.__name__ in _DRIVERS_OWN:
        raise Refusal(f"it is a {kind.__name__} of mmgevent, which stays with the driver")


class Buffer(io.BytesIO):
    """A chunk that is being written; refuses more than `limit` bytes."""

    limit: int | None = None

    def write(self, data: Any) -> int:
        if self.limit is not None and self.tell() + len(data) > self.limit:
            raise Refusal(
                f"its pickle is larger than {self.limit >> 20} MiB, and no function names it: let one do so"
            )
        return super().write(data)


def used_submodules(package: types.ModuleType, code: types.CodeType) -> list[str]:
    """Return the imported submodules that code names as attributes: `xml.etree`."""
    prefix = package.__name__ + "."
    names = {name for part in nested_code(code) for name in part.co_names}
    loaded = [name for name in list(sys.modules) if name.startswith(prefix)]
    return [name for name in loaded if names.issuperset(name.removeprefix(prefix).split("."))]


def read_lines(path: str, namespace: dict[str, Any]) -> str:
    """Return the text of a source file. A relative path may belong to another working directory."""
    file = namespace.get("__file__")
    readable = file if isinstance(file, str) and os.path.basename(file) == os.path.basename(path) else path
    linecache.checkcache(readable)
    text = "".join(linecache.getlines(readable, _loader_of(namespace)))
    return text if len(text) <= _MAX_LINES_CHARS else ""


def _loader_of(namespace: dict[str, Any]) -> dict[str, Any] | None:
    """Return what linecache needs of a module's namespace, or None if no loader can have its lines.

    Python 3.15 warns about modules that are made by hand: they have no loader, or one without a
    spec.
    """
    spec = namespace.get("__spec__")
    loader = getattr(spec, "loader", None) or namespace.get("__loader__")
    if loader is None:
        return None
    name = getattr(spec, "name", None) or namespace["__name__"]
    return {
        "__name__": name,
        "__loader__": loader,
        "__spec__": importlib.machinery.ModuleSpec(name, loader),
    }


def shorten(mapping: dict[int, Any], length: int) -> None:
    """Remove the last entries of a dict, down to a length."""
    while len(mapping) > length:
        mapping.popitem()


def bind(namespace: dict[str, Any], name: str, value: Any) -> None:
    namespace[name] = value


def import_module(name: str) -> types.ModuleType:
    return importlib.import_module(name)


def get_attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def bind_import(namespace: dict[str, Any], name: str, module: str, attribute: str) -> None:
    namespace[name] = get_attribute(module, attribute)


def open_namespace(name: str) -> dict[str, Any]:
    return vars(importlib.import_module(name))


def make_namespace(name: str | None) -> dict[str, Any]:
    return {"__name__": name, "__builtins__": builtins}
