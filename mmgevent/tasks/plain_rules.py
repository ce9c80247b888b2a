"""Which classes the results of one job may hold, if they must be plain data.

Plain data are the builtin types and those of `plain_kinds`, and instances of:

- dataclasses, namedtuples and Enums that the program's own modules define, unless they take part in
  pickling or in attribute access by methods of their own;
- classes that the job names in its option `plain_classes`. Those are pickled as usual.

Executors check this when they encode records, and whoever decodes records of others checks it
again. A class is looked up in modules that are imported already, or that the job names. No bytes of
others import any other.
"""

from __future__ import annotations

import abc
import copyreg
import dataclasses
import enum
import importlib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mmgevent.errors import OptionError
from mmgevent.tasks.unpicklable import NotPlainError

if TYPE_CHECKING:
    from mmgevent.job.job import Job

#: Methods with which a class takes part in pickling, or in how attributes are set and objects end.
_OWN_WAYS = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getinitargs__",
    "__new__",
    "__del__",
    "__getattr__",
    "__getattribute__",
    "__setattr__",
    "__delattr__",
)

#: Bases that add nothing of this kind.
_HARMLESS_BASES: frozenset[Any] = frozenset({object, typing.Generic, typing.Protocol, abc.ABC})


class PlainRules:
    """The rules of one job."""

    def __init__(self, modules: Iterable[str], classes: Iterable[tuple[str, str]] = ()):
        """`modules`: those of the job. `classes`: (module, qualified name) of those it names."""
        self.modules = frozenset(modules)
        self.classes = frozenset(classes)
        self._found: dict[tuple[str, str], type] = {}
        self._forms: dict[type, str] = {}
        self._methods: dict[type, frozenset[str]] = {}

    def to_wire(self) -> dict[str, Any]:
        """Return the rules in types that JSON has."""
        return {"modules": sorted(self.modules), "classes": sorted(map(list, self.classes))}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> PlainRules:
        """Return the rules that `to_wire` gave."""
        return cls(wire["modules"], ((module, name) for module, name in wire["classes"]))

    def form_of(self, cls: type) -> str:
        """Return how instances of a class travel.

        "object", "tuple" and "enum" are the job's own, and "named" is a class that it names. Raise
        NotPlainError for any other.
        """
        form = self._forms.get(cls)
        if form is None:
            if (cls.__module__, cls.__qualname__) in self.classes:
                form = "enum" if isinstance(cls, enum.EnumMeta) else "named"
            else:
                form = self._form_of_own(cls)
            self._forms[cls] = form
        return form

    def find(self, module: Any, name: Any, form: str) -> Any:
        """Return the class of this name, if its instances travel in this form.

        Raise NotPlainError.
        """
        found = self._found.get((module, name)) if type(module) is type(name) is str else None
        if found is None:
            found = self._look_up(module, name)
            self._found[module, name] = found
        if self.form_of(found) != form:
            raise NotPlainError(f"holds a {module}.{name} in a form that it does not have")
        return found

    def methods_of(self, cls: type) -> frozenset[str]:
        """Return the names of methods and properties of a class, which no attribute may hide."""
        methods = self._methods.get(cls)
        if methods is None:
            kinds = (types.FunctionType, classmethod, staticmethod, property)
            fields = getattr(cls, "__dataclass_fields__", {})  # the default of one may be a function
            methods = self._methods[cls] = frozenset(
                name
                for base in cls.__mro__
                for name, value in vars(base).items()
                if isinstance(value, kinds) and name not in fields
            )
        return methods

    def _look_up(self, module: Any, name: Any) -> type:
        if type(module) is not str or type(name) is not str:
            raise NotPlainError("names a class by no text")
        if module not in self.modules and (module, name) not in self.classes:
            raise NotPlainError(f"holds an object or a call of {module}.{name}")
        if (module, name) in self.classes:
            importlib.import_module(module)
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
            raise NotPlainError(f"holds a {module}.{name}, which is no class here")
        return found

    def _form_of_own(self, cls: type) -> str:
        """Return the form of a class of the job's own module. Raise NotPlainError."""
        shown = f"holds an object of type {cls.__module__}.{cls.__qualname__}"
        if cls.__module__ not in self.modules:
            raise NotPlainError(shown)
        if isinstance(cls, enum.EnumMeta):
            form = "enum"
        elif issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
            form = "tuple"
        elif dataclasses.is_dataclass(cls):
            form = "object"
        else:
            raise NotPlainError(f"{shown}, which is no dataclass, namedtuple or Enum")
        if form != "enum" and type(cls) not in (type, abc.ABCMeta):
            raise NotPlainError(f"{shown}, which has the metaclass {type(cls).__qualname__}")
        for base in cls.__mro__:
            if way := self._own_way(base, form):
                raise NotPlainError(f"{shown}, which {way}")
        return form

    def _own_way(self, base: type, form: str) -> str | None:
        """Say what about a class, or a base of it, is not plain. Return None if nothing is."""
        if base in copyreg.dispatch_table:
            return f"copyreg pickles as {base.__qualname__}"
        if base.__module__ not in self.modules:
            is_harmless = base in _HARMLESS_BASES or form == "enum" or (form == "tuple" and base is tuple)
            return None if is_harmless else f"derives from {base.__module__}.{base.__qualname__}"
        own = vars(base)
        is_made_tuple = base.__bases__ == (tuple,) and "_fields" in own
        parameters = own.get("__dataclass_params__")
        for name in _OWN_WAYS:
            method = own.get(name)
            if method is None or getattr(method, "__module__", None) in ("dataclasses", "enum"):
                continue
            if form == "enum" and not isinstance(method, types.FunctionType):
                continue  # the machinery of Enum binds these
            if form == "enum" and name == "__new__":
                continue  # members are found by name, none is made
            if is_made_tuple and name in ("__new__", "__getnewargs__"):
                continue
            if getattr(parameters, "frozen", False) and name in ("__setattr__", "__delattr__"):
                continue
            return f"defines {name}"
        return None


def find_rules(job: Job[Any, Any]) -> PlainRules | None:
    """Return the rules for the records of a job, in its driver, or None if they may be anything.

    Raise OptionError for a name in `plain_classes` that is not of a class.
    """
    if job.options.results != "plain":
        return None
    from mmgevent.job.shipping.installed import is_installed
    from mmgevent.job.shipping.module_source import MAIN_NAMES

    own = {*job.by_value, *MAIN_NAMES}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "mmgevent" and _defines_classes(name, module) and not is_installed(name):
            own.add(name)
    return PlainRules(own, (_name_of(each) for each in job.options.plain_classes))


def _defines_classes(name: str, module: Any) -> bool:
    """Return whether a module is from a file and has a class of its own."""
    if not isinstance(module, types.ModuleType) or not isinstance(getattr(module, "__file__", None), str):
        return False
    return any(isinstance(each, type) and each.__module__ == name for each in list(vars(module).values()))


def _name_of(named: type | str) -> tuple[str, str]:
    """Return module and qualified name of a class. Raise OptionError for a name of none."""
    found: Any = named
    if isinstance(named, str):
        parts = named.split(".")
        found = None
        for count in range(len(parts) - 1, 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:count]))
            except ImportError:
                continue
            for part in parts[count:]:
                found = getattr(found, part, None)
            break
    if not isinstance(found, type):
        raise OptionError(
            f"option plain_classes: {named!r:.200} is not the name of a class here; write 'MODULE.CLASS', or "
            f"give the class"
        )
    return found.__module__, found.__qualname__
