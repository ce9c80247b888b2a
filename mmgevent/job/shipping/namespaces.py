"""Know the dicts that functions have as their globals, and how the names in each travel.

A *named* namespace belongs to a module that imports find. An *anonymous* one was made by `exec`, or
for a generated method. A *dynamic* one belongs to a module that no import finds. None of them is
ever pickled as a dict: the payload binds in it the names that travel.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

#: Names of a module that are made with the module, and travel as its attributes.
_MODULE_ATTRIBUTES = ("__file__", "__package__", "__doc__")
#: Names that every module gets anew.
_NEVER_BOUND = frozenset(("__name__", "__builtins__", "__loader__", "__spec__", "__cached__"))


class Namespaces:
    """The namespaces of one payload, by the identity of their dicts."""

    def __init__(self, by_value: frozenset[str]):
        """by_value: names of modules whose definitions travel."""
        self._by_value = by_value
        #: {name of module: its dict}
        self._homes: dict[str, dict[str, Any]] = {}
        #: {id of a dict: name of its module}
        self._named: dict[int, str] = {}
        self._anonymous: dict[int, dict[str, Any]] = {}
        self._dynamic: dict[int, types.ModuleType] = {}
        for name in sorted(by_value):  # __main__ before __mp_main__, which may be an older one
            self._name(getattr(sys.modules.get(name), "__dict__", None), name)

    def add_anonymous(self, namespace: dict[str, Any]) -> None:
        """Note a dict that no module has."""
        self._anonymous[id(namespace)] = namespace

    def add_dynamic(self, module: types.ModuleType) -> None:
        """Note a module that no import finds."""
        self._dynamic[id(vars(module))] = module

    def is_anonymous(self, namespace: dict[str, Any]) -> bool:
        """Return whether a dict was noted as one that no module has."""
        return id(namespace) in self._anonymous

    def dynamic_module(self, namespace: dict[str, Any]) -> types.ModuleType | None:
        """Return the module that a dict belongs to if no import finds it, else None."""
        return self._dynamic.get(id(namespace))

    def name_of(self, namespace: Any) -> str | None:
        """Return the name of the module that has a dict, or None if none is known."""
        return self._named.get(id(namespace))

    def find_name(self, namespace: dict[str, Any]) -> str | None:
        """Return the name of the module that a dict belongs to, or None if no module has it.

        Note the answer.
        """
        if id(namespace) not in self._named and id(namespace) not in self._anonymous:
            name = namespace.get("__name__")
            module = sys.modules.get(name) if isinstance(name, str) else None
            is_module = module is not None and getattr(module, "__dict__", None) is namespace
            if is_module or (module is None and name in self._by_value):
                self._name(namespace, str(name))
            if id(namespace) not in self._named:
                self._anonymous[id(namespace)] = namespace
        return self._named.get(id(namespace))

    def _name(self, namespace: dict[str, Any] | None, name: str) -> None:
        if namespace is not None and id(namespace) not in self._named:
            own = namespace.get("__name__")
            name = own if own in self._by_value else name
            if name not in self._homes:
                self._named[id(namespace)] = name
                self._homes[name] = namespace

    def home(self, module: str) -> dict[str, Any] | None:
        """Return the dict of a module, or None if it is not known."""
        return self._homes.get(module)

    def job_homes(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the name and dict of each module whose definitions travel."""
        return [(name, space) for name, space in self._homes.items() if name in self._by_value]

    def job_modules(self) -> list[tuple[str, dict[str, str]]]:
        """Return the name and first attributes of each module whose definitions travel."""
        found = []
        for name, space in self.job_homes():
            attributes = {attribute: space.get(attribute) for attribute in _MODULE_ATTRIBUTES}
            found.append((name, {k: v for k, v in attributes.items() if isinstance(v, str)}))
        return found

    def is_bound(self, namespace: dict[str, Any], name: str) -> bool:
        """Return whether the payload binds a name, rather than whoever makes the module."""
        return name not in _NEVER_BOUND and not (name in _MODULE_ATTRIBUTES and id(namespace) in self._named)

    def bound_names(self, namespace: dict[str, Any]) -> Iterator[str]:
        """Yield the names in a dict that a payload may bind."""
        for name in list(namespace):  # threads of the program may change it
            if isinstance(name, str) and self.is_bound(namespace, name):
                yield name
