"""Decide how each object of a payload travels: taken apart, or as its name in a module.

Packing is a walk. When the pickler meets a function, `Reductions` takes it apart and adds the
global names in its code to the agenda, so only what is reached travels.
"""

from __future__ import annotations

import builtins
import functools
import sys
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

from mmgevent.errors import ShippingError
from mmgevent.job.shipping import bindings, definitions, instances, lookups
from mmgevent.job.shipping.agenda import Agenda
from mmgevent.job.shipping.module_source import MAIN_NAMES
from mmgevent.job.shipping.modules import LISTING_MARKS, SourceTree
from mmgevent.job.shipping.namespaces import Namespaces
from mmgevent.job.shipping.plain import reduce_container
from mmgevent.job.shipping.refusals import Reach, Refusal
from mmgevent.job.shipping.struct_classes import reduce_struct_class

#: Builtin types whose objects stand for themselves. The second exists from Python 3.15 on.
_SENTINELS = tuple(filter(None, (object, getattr(builtins, "sentinel", None))))

#: Modules that every executor has before a job is loaded.
PRESENT = frozenset((*sys.stdlib_module_names, *MAIN_NAMES, "mmgevent", "dill"))


class Reductions:
    """How the objects of one payload travel. The pickler asks `reduce` for each."""

    def __init__(self, by_value: frozenset[str], *, stays_here: bool):
        self.by_value = by_value
        self.tree = SourceTree(by_value, stays_here=stays_here)
        self.namespaces = Namespaces(by_value)
        self.agenda = Agenda(self.namespaces, by_value)
        #: the name that is being packed; what is found in its value is reached through it
        self.reach: Reach | None = None
        #: cells whose contents are in the payload, in order, by identity
        self.cells: dict[int, Any] = {}
        #: {path of a source file: a namespace of its functions}
        self.files: dict[str, dict[str, Any]] = {}
        #: whether nothing can fail while it is loaded: code, plain data and the standard library
        self.is_plain = True
        #: parts of classes that call themselves what the class has under a name, by identity
        self._shells: dict[int, Any] = {}
        self._reducers = self._make_reducers()

    def _make_reducers(self) -> dict[type, Callable[[Any], Any]]:
        own: dict[type, Callable[[Any], Any]] = {
            **instances.make_reducers(),
            types.FunctionType: self._reduce_function,
            types.BuiltinFunctionType: self._reduce_builtin,
            type: self._reduce_class,
            types.ModuleType: self._reduce_module,
            types.CellType: lambda cell: definitions.reduce_cell(cell, self.cells),
            dict: self._reduce_dict,
        }
        own.update(dict.fromkeys((list, tuple, set, frozenset), reduce_container))
        variables = (typing.TypeVar, typing.ParamSpec, getattr(typing, "TypeVarTuple", typing.TypeVar))
        own.update(dict.fromkeys(variables, self._reduce_type_variable))
        own.update(dict.fromkeys(_SENTINELS, self._reduce_sentinel))
        own[functools._lru_cache_wrapper] = lambda obj: self._name_elsewhere(obj) or NotImplemented
        return own

    def reduce(self, obj: Any) -> Any:
        """Return a reduction, a name in the object's module, or NotImplemented: dill decides."""
        kind = type(obj)
        reducer = self._reducers.get(kind)
        if reducer is None:
            if issubclass(kind, type):
                return self._reduce_class(obj)
            if issubclass(kind, types.ModuleType):
                return self._reduce_module(obj)
            instances.refuse_talk(kind)
            if id(obj) in self._shells:
                return instances.reduce_shell(obj) or NotImplemented
            if instances.is_stateless(obj):
                return self._reduce_sentinel(obj)
            return instances.reduce_instance(obj)
        return reducer(obj)

    def reduce_named(self, obj: Any, module: str) -> Any:
        """Return a reduction of an object that calls itself a name in `module`, or None."""
        return instances.reduce_shell(obj) if module in self.by_value else None

    def note_module(self, name: str) -> None:
        """Add the module of something that travels by name. Raise Refusal if it cannot travel."""
        if name in self.by_value:
            raise Refusal(
                f"it is pickled as a name in {name}, where it has to be rebuilt: give it another __reduce__"
            )
        if name.partition(".")[0] not in PRESENT:
            self.is_plain = False
        try:
            self.tree.add(name)
        except ShippingError as error:
            raise Refusal(str(error)) from None

    def _name_elsewhere(self, obj: Any) -> str | None:
        """Return a definition's qualified name in its module, or None if it must be rebuilt."""
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if module is None or name is None or module in self.by_value:
            return None
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is obj else None

    def _reduce_builtin(self, function: types.BuiltinFunctionType) -> Any:
        if lookups.is_lookup(function):
            self.agenda.open()
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        name = self._name_elsewhere(function)
        if name is not None:
            if lookups.is_lookup(function):
                self.agenda.open()
            return name
        namespace = function.__globals__
        self._add_annotations(lookups.own_annotations(function), namespace)
        if self._travels(namespace):
            self.files.setdefault(function.__code__.co_filename, namespace)
            self._follow_code(function, namespace)
        elif lookups.library_looks_up(function, self.by_value):  # a decorator's
            self.agenda.open()
        return definitions.reduce_function(function, self.cells)

    def _follow_code(self, function: types.FunctionType, namespace: dict[str, Any]) -> None:
        """Add the globals that a function's code names, and the modules that it imports."""
        code, user = function.__code__, function.__qualname__
        parent = self.reach
        is_spare = parent is not None and parent.is_spare
        for name in definitions.global_names(code):
            if name not in namespace or not self.namespaces.is_bound(namespace, name):
                continue
            self.agenda.add(Reach(namespace, name, user, parent, is_spare))
            value = namespace[name]
            if isinstance(value, types.ModuleType) and hasattr(value, "__path__"):
                for submodule in bindings.used_submodules(value, code):
                    self.agenda.add(Reach(None, submodule, user, parent, is_spare))
        if lookups.looks_up(code, namespace, self.by_value):
            self.agenda.open(namespace)
        self.agenda.add_spares(lookups.evaluated_words(code), namespace)
        texts = lookups.module_texts(code, namespace)
        if texts:
            self.tree.reads_files = True
            self.tree.add_texts(texts)
        names_used = {name for part in definitions.nested_code(code) for name in part.co_names}
        if not names_used.isdisjoint(LISTING_MARKS):
            self.tree.add_listed()
        for module, level, names in definitions.imports(code):
            try:
                self.tree.add_import(module, level, names, namespace.get("__package__") or "")
            except ShippingError as error:
                raise Refusal(f"{user} imports it: {error}") from None

    def _add_annotations(self, annotations: dict[str, Any], namespace: dict[str, Any]) -> None:
        if annotations and self._travels(namespace):
            self.agenda.add_spares(lookups.annotation_names(annotations), namespace)

    def _travels(self, namespace: dict[str, Any]) -> bool:
        """Return whether the payload binds names in this namespace, rather than an import."""
        name = self.namespaces.find_name(namespace)
        if name is None or name in self.by_value:
            return True
        self.note_module(name)
        return False

    def _reduce_dict(self, obj: dict[str, Any]) -> Any:
        spaces = self.namespaces
        if "__name__" in obj and not spaces.is_anonymous(obj):
            module = sys.modules.get(obj["__name__"]) if isinstance(obj["__name__"], str) else None
            if getattr(module, "__dict__", None) is obj:
                self._travels(obj)
        module = spaces.dynamic_module(obj)
        if module is not None:
            return vars, (module,)
        name = spaces.name_of(obj)
        if name is not None:
            return bindings.open_namespace, (name,)
        if spaces.is_anonymous(obj):
            return bindings.make_namespace, (obj.get("__name__"),)
        return reduce_container(obj)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if sys.modules.get(name) is not module:
            self.namespaces.add_dynamic(module)
            self.agenda.open(vars(module))
            return types.ModuleType, (name, module.__doc__)
        if name in self.by_value:
            self.agenda.open(vars(module))
        else:
            self.note_module(name)
        return bindings.import_module, (name,)

    def _reduce_class(self, cls: type) -> Any:
        if not cls.__flags__ & definitions.HEAP_TYPE:
            return NotImplemented  # a builtin: dill knows even those that no module shows
        name = self._name_elsewhere(cls)
        if name is not None:
            return name
        self.is_plain = False
        home = self.namespaces.home(cls.__module__)
        if home is not None:
            self._add_annotations(lookups.own_annotations(cls), home)
        reduction = reduce_struct_class(cls)
        if reduction is not None:
            return reduction
        self._shells.update((id(value), value) for value in definitions.own_parts(cls))
        if issubclass(cls, Enum):
            return definitions.reduce_enum(cls, self.by_value)
        return definitions.reduce_class(cls, self.by_value)

    def _reduce_type_variable(self, variable: Any) -> Any:
        name: str = variable.__name__
        module = sys.modules.get(variable.__module__)
        if variable.__module__ not in self.by_value and getattr(module, name, None) is variable:
            return name
        return definitions.reduce_type_variable(variable)

    def find_elsewhere(self, value: Any) -> tuple[str, str] | None:
        """Return (module, name) of an importable module that has the same value, or None."""
        for module_name, module in list(sys.modules.items()):
            if not isinstance(module, types.ModuleType) or module_name in self.by_value:
                continue
            found = next((name for name, other in list(vars(module).items()) if other is value), None)
            if found is not None and self._is_importable(module_name):
                return module_name, found
        return None

    def _is_importable(self, module: str) -> bool:
        try:
            self.note_module(module)
        except Refusal:
            return False
        return True

    def _reduce_sentinel(self, obj: Any) -> Any:
        """Reduce a sentinel, such as `dataclasses.MISSING`, to its name in a module."""
        home = type(obj).__module__
        modules = list(sys.modules) if type(obj) in _SENTINELS else [home]
        for module in modules:
            names = getattr(sys.modules.get(module), "__dict__", {}) if module not in self.by_value else {}
            found = next((name for name, value in list(names.items()) if value is obj), None)
            if found is not None and self._is_importable(module):
                return bindings.get_attribute, (module, found)
        return NotImplemented
