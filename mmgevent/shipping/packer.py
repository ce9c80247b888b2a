"""Walk what the functions of a job reach, and bind it name by name into one payload.

Packing is the walk: whenever the pickler takes a function apart, the global
names in its code are queued to be bound in turn, so only what is reached
travels.  Every binding is a *chunk*, a pickle of its own; all chunks have one
memo, so shared objects stay shared.  The order matters where the user's own code
runs while things are rebuilt: modules go first, then definitions, then plain
values, then values made of other things, the latest found first.

Classes of the job's modules that no function names are *spare*: an item may be
an instance of one, so they come last where they can travel, and what keeps one
behind is said only where it is missed.

What a function's globals dict is decides how its names travel: a *named*
namespace belongs to a module, an *anonymous* one (of `exec`, of a generated
method) is made anew.  Neither is ever pickled as a dict.
"""

from __future__ import annotations

import builtins
import functools
import heapq
import importlib.machinery
import io
import itertools
import linecache
import os
import pickle
import struct
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

from mmgevent.errors import ShippingError
from mmgevent.shipping import definitions
from mmgevent.shipping.modules import MAIN_NAMES, SourceTree
from mmgevent.shipping.plain import is_plain, reduce_container
from mmgevent.shipping.refusals import Reach, Refusal, explain

#: source lines that travel for tracebacks; a generated file of tables is not worth its bytes
_MAX_LINES_CHARS = 1 << 20

#: names of a module's namespace that are made with the module
_MODULE_ATTRIBUTES = ("__file__", "__package__", "__doc__")
_UNBOUND = frozenset(("__name__", "__builtins__", "__loader__", "__spec__", "__cached__"))

#: modules that are there before a job is loaded
_PRESENT = frozenset((*sys.stdlib_module_names, *MAIN_NAMES, "mmgevent", "dill"))

#: turn of values that are made of other things, perhaps of the user's classes
_LAST_RANK = 3

#: Py_TPFLAGS_HEAPTYPE of CPython's object.h: the class was made while a program ran
_HEAP_TYPE = 1 << 9


class Packer:
    """Packs one payload; used once."""

    def __init__(self, by_value: frozenset[str], pickler_class: Callable[[io.BytesIO, Packer], Any]):
        self.by_value = by_value
        self.tree = SourceTree(by_value)
        #: dicts that functions are rebuilt on: {id: name}, {name: dict} and {id: dict}
        self._named: dict[int, str] = {}
        self._homes: dict[str, dict[str, Any]] = {}
        self._anonymous: dict[int, dict[str, Any]] = {}
        #: names to be bound: a heap of (rank, turn in its rank, name)
        self._queue: list[tuple[int, int, Reach]] = []
        self._turns = itertools.count()
        self._seen: set[tuple[int, str]] = set()
        self._reach: Reach | None = None
        #: cells whose contents are in the payload; in order, to be taken back
        self._cells: dict[int, Any] = {}
        #: (names from the job's function to what is bound, (module, name) if spare, pickle)
        self._chunks: list[tuple[str, tuple[str, str] | None, bytes]] = []
        #: {module: {name: why it stayed behind}}
        self._left: dict[str, dict[str, str]] = {}
        self._files: dict[str, dict[str, Any]] = {}
        #: nothing can go wrong where it is loaded: code, plain data and the standard library
        self._is_plain = True
        self._buffer = io.BytesIO()
        self._pickler = pickler_class(self._buffer, self)
        self._reducers = self._make_reducers()
        for name in sorted(by_value):  # __main__ before __mp_main__, which may be an older one
            self._name_namespace(getattr(sys.modules.get(name), "__dict__", None), name)

    def _make_reducers(self) -> dict[type, Callable[[Any], Any]]:
        own: dict[type, Callable[[Any], Any]] = {
            types.FunctionType: self._reduce_function,
            type: self._reduce_class,
            types.ModuleType: self._reduce_module,
            types.CellType: lambda cell: definitions.reduce_cell(cell, self._cells),
            dict: self._reduce_dict,
            functools.cached_property: definitions.reduce_cached_property,
            struct.Struct: lambda obj: (struct.Struct, (obj.format,)),
            type(os.environ): lambda obj: (getattr, (os, "environ")) if obj is os.environ else NotImplemented,
        }
        refused = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO, io.TextIOWrapper)
        own.update(dict.fromkeys((*refused, type(threading.Lock()), type(threading.RLock())), _refuse))
        own.update(dict.fromkeys((list, tuple, set, frozenset), reduce_container))
        variables = (typing.TypeVar, typing.ParamSpec, getattr(typing, "TypeVarTuple", typing.TypeVar))
        own.update(dict.fromkeys(variables, self._reduce_type_variable))
        own[functools._lru_cache_wrapper] = lambda obj: self._name_elsewhere(obj) or NotImplemented
        return own

    def pack(self, roles: dict[str, Any]) -> bytes:
        """Return the payload for `{role: function or form}`."""
        self._anonymous[id(roles)] = roles
        for reaches in ([Reach(roles, role) for role in roles], self._spare_classes()):
            for reach in reaches:
                self._add(reach)
            while self._queue:
                self._pack_next(heapq.heappop(self._queue)[-1])
        self._chunks.append(("the job", None, self._pickle(lambda: self._pickler.save(roles))))
        named = [(name, self._module_attributes(name)) for name in self._homes if name in self.by_value]
        lines = {path: text for path, space in self._files.items() if (text := _read_lines(path, space))}
        payload = {
            "modules": named,
            "sources": [(s.name, s.path, s.folders, s.text) for s in self.tree.sources.values()],
            "lines": lines,
            "chunks": self._chunks,
            "left": self._left,
            "is_plain": self._is_plain and not self.tree.sources,
        }
        return pickle.dumps(payload, protocol=5)

    def _spare_classes(self) -> Iterator[Reach]:
        for home, namespace in list(self._homes.items()):
            for name, value in list(namespace.items()) if home in self.by_value else ():
                if isinstance(value, type) and value.__module__ in self.by_value:
                    yield Reach(namespace, name, is_spare=True)

    def _module_attributes(self, name: str) -> dict[str, Any]:
        found = {attribute: self._homes[name].get(attribute) for attribute in _MODULE_ATTRIBUTES}
        return {attribute: value for attribute, value in found.items() if isinstance(value, str)}

    def _add(self, reach: Reach) -> None:
        """Queue a name unless it has been."""
        key = (id(reach.namespace), reach.name)
        if key in self._seen:
            return
        self._seen.add(key)
        rank = 0
        if reach.namespace is not None:
            value = reach.namespace[reach.name]
            rank = self._rank(value)
            cls = type(value)
            home = self._homes.get(cls.__module__, {})
            if cls.__module__ in self.by_value and home.get(cls.__name__) is cls:
                self._add(replace(reach, namespace=home, name=cls.__name__))
        turn = next(self._turns)
        heapq.heappush(self._queue, (rank, -turn if rank == _LAST_RANK else turn, reach))

    def _rank(self, value: Any) -> int:
        """Return the turn of a value: modules, definitions, plain values, others."""
        if isinstance(value, types.ModuleType):
            return 0
        if isinstance(value, (type, types.FunctionType, functools._lru_cache_wrapper)):
            return 1
        holds_others = isinstance(
            value, (list, tuple, dict, set, frozenset, functools.partial, types.MethodType)
        )
        if is_plain(value) or not (holds_others or type(value).__module__ in self.by_value):
            return 2
        return _LAST_RANK

    def _pack_next(self, reach: Reach) -> None:
        """Append the chunk of one name; leave a spare one behind if it cannot travel."""
        memo, cells = len(self._pickler.memo), len(self._cells)
        queue, seen = (list(self._queue), set(self._seen)) if reach.is_spare else (self._queue, self._seen)
        self._reach = reach
        try:
            chunk = self._pickle(lambda: self._save_binding(reach))
        except Exception as error:  # of the user's own __reduce__ too
            reason = explain(reach, error)
            if not reach.is_spare:
                raise ShippingError(reason) from error
            _shorten(self._pickler.memo, memo)
            _shorten(self._cells, cells)
            self._queue, self._seen = queue, seen
            self._left.setdefault(self._named.get(id(reach.namespace), ""), {})[reach.name] = reason
        else:
            spare = (self._named.get(id(reach.namespace), ""), reach.name) if reach.is_spare else None
            self._chunks.append((" → ".join(reach.chain()), spare, chunk))

    def _pickle(self, save: Callable[[], None]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._buffer.write(pickle.PROTO + bytes([self._pickler.proto]))
        save()
        self._buffer.write(pickle.STOP)
        return self._buffer.getvalue()

    def _save_binding(self, reach: Reach) -> None:
        if reach.namespace is None:
            self._pickler.save_reduce(importlib.import_module, (reach.name,))
        else:
            arguments = (reach.namespace, reach.name, reach.namespace[reach.name])
            self._pickler.save_reduce(_bind, arguments)

    def reduce(self, obj: Any) -> Any:
        """Return how an object travels: a reduction, its name in its module, or NotImplemented for dill's way."""
        kind = type(obj)
        reducer = self._reducers.get(kind)
        if reducer is None:
            if issubclass(kind, type):
                return self._reduce_class(obj)
            if issubclass(kind, types.ModuleType):
                return self._reduce_module(obj)
            return NotImplemented
        return reducer(obj)

    def note_module(self, name: str) -> None:
        """Take along the module of something that goes by name."""
        if name in self.by_value:
            raise Refusal(
                f"it is pickled as a name in {name}, where it has to be rebuilt: give it another __reduce__"
            )
        if name.partition(".")[0] not in _PRESENT:
            self._is_plain = False
        try:
            self.tree.add(name)
        except ShippingError as error:
            raise Refusal(str(error)) from None

    def _name_elsewhere(self, obj: Any) -> str | None:
        """Return the qualified name of a definition that is found under it in its module, unless by value."""
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if module is None or name is None or module in self.by_value:
            return None
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is obj else None

    def _reduce_function(self, function: types.FunctionType) -> Any:
        name = self._name_elsewhere(function)
        if name is not None:
            return name
        namespace = function.__globals__
        if self._travels(namespace):
            self._files.setdefault(function.__code__.co_filename, namespace)
            self._follow_code(function, namespace)
        return definitions.reduce_function(function, self._cells)

    def _follow_code(self, function: types.FunctionType, namespace: dict[str, Any]) -> None:
        """Queue the globals that a function's code names and take along what it imports."""
        code, user = function.__code__, function.__qualname__
        parent = self._reach
        is_spare = parent is not None and parent.is_spare
        for name in definitions.global_names(code):
            if name not in namespace or name in _UNBOUND:
                continue
            if name in _MODULE_ATTRIBUTES and id(namespace) in self._named:
                continue
            self._add(Reach(namespace, name, user, parent, is_spare))
            value = namespace[name]
            if isinstance(value, types.ModuleType) and hasattr(value, "__path__"):
                for submodule in _used_submodules(value, code):
                    self._add(Reach(None, submodule, user, parent, is_spare))
        for module, level, names in definitions.imports(code):
            try:
                self.tree.add_import(module, level, names, namespace.get("__package__") or "")
            except ShippingError as error:
                raise Refusal(f"{user} imports it: {error}") from None

    def _name_namespace(self, namespace: dict[str, Any] | None, name: str) -> None:
        if namespace is not None and id(namespace) not in self._named:
            own = namespace.get("__name__")
            name = own if own in self.by_value else name
            if name not in self._homes:
                self._named[id(namespace)] = name
                self._homes[name] = namespace

    def _travels(self, namespace: dict[str, Any]) -> bool:
        """Tell whether names are bound in this namespace by the payload, rather than by an import."""
        if id(namespace) not in self._named and id(namespace) not in self._anonymous:
            name = namespace.get("__name__")
            module = sys.modules.get(name) if isinstance(name, str) else None
            is_module = module is not None and getattr(module, "__dict__", None) is namespace
            if is_module or (module is None and name in self.by_value):
                self._name_namespace(namespace, str(name))
            if id(namespace) not in self._named:
                self._anonymous[id(namespace)] = namespace
        name = self._named.get(id(namespace))
        if name is None or name in self.by_value:
            return True
        self.note_module(name)
        return False

    def _reduce_dict(self, obj: dict[str, Any]) -> Any:
        if "__name__" in obj and id(obj) not in self._anonymous:
            module = sys.modules.get(obj["__name__"]) if isinstance(obj["__name__"], str) else None
            if getattr(module, "__dict__", None) is obj:
                self._travels(obj)
        if id(obj) in self._named:
            return _open_namespace, (self._named[id(obj)],)
        if id(obj) in self._anonymous:
            return _make_namespace, (obj.get("__name__"),)
        return reduce_container(obj)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if sys.modules.get(name) is not module:
            raise Refusal(f"module {name!r} cannot be imported by its name: it is not in sys.modules")
        if name not in self.by_value:
            self.note_module(name)
        return importlib.import_module, (name,)

    def _reduce_class(self, cls: type) -> Any:
        if not cls.__flags__ & _HEAP_TYPE:
            return NotImplemented  # a builtin: dill knows even those that no module shows
        name = self._name_elsewhere(cls)
        if name is not None:
            return name
        self._is_plain = False
        if issubclass(cls, Enum):
            return definitions.reduce_enum(cls, self.by_value)
        return definitions.reduce_class(cls, self.by_value)

    def _reduce_type_variable(self, variable: Any) -> Any:
        name: str = variable.__name__
        module = sys.modules.get(variable.__module__)
        if variable.__module__ not in self.by_value and getattr(module, name, None) is variable:
            return name
        return definitions.reduce_type_variable(variable)


def _refuse(obj: Any) -> Any:
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        if obj is getattr(sys, name):
            return getattr, (sys, name)
    raise Refusal


def _used_submodules(package: types.ModuleType, code: types.CodeType) -> list[str]:
    """Return the imported submodules of a package that the code names as attributes (`xml.etree`)."""
    prefix = package.__name__ + "."
    names = {name for part in definitions.nested_code(code) for name in part.co_names}
    loaded = [name for name in list(sys.modules) if name.startswith(prefix)]
    return [name for name in loaded if names.issuperset(name.removeprefix(prefix).split("."))]


def _read_lines(path: str, namespace: dict[str, Any]) -> str:
    """Return the text of a source file; a relative path may be of another working directory than this."""
    file = namespace.get("__file__")
    readable = file if isinstance(file, str) and os.path.basename(file) == os.path.basename(path) else path
    linecache.checkcache(readable)
    text = "".join(linecache.getlines(readable, _loader_of(namespace)))
    return text if len(text) <= _MAX_LINES_CHARS else ""


def _loader_of(namespace: dict[str, Any]) -> dict[str, Any] | None:
    """Return what linecache asks of a module's namespace, or None if no loader could have its lines.

    Python 3.15 warns of modules that are made by hand: they have no loader, or one without a spec.
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


def _shorten(mapping: dict[int, Any], length: int) -> None:
    while len(mapping) > length:
        mapping.popitem()


def _bind(namespace: dict[str, Any], name: str, value: Any) -> None:
    namespace[name] = value


def _open_namespace(name: str) -> dict[str, Any]:
    return vars(importlib.import_module(name))


def _make_namespace(name: str | None) -> dict[str, Any]:
    return {"__name__": name, "__builtins__": builtins}
