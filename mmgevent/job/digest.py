"""Digests of objects that are the same in each run of the same program.

Pickles are not: they depend on the order of sets, on which objects are one and which are equal, on
line numbers. A digest depends on what an object means:

1. Plain values, lists, tuples, dicts and sets count by what they hold; dicts and sets without their
   order.
2. What is installed counts by its name.
3. Functions and classes of the job count by byte code, constants, defaults, closures and members.
   The globals that they use have digests of their own (`Digests.about`), so that a message can say
   which one has changed.
4. Other modules of the user's count by their source, and so do those that they import.
5. Any other object counts by what it would be pickled as.
"""

from __future__ import annotations

import contextlib
import copyreg
import enum
import functools
import marshal
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import Any

import xxhash

from mmgevent.errors import OutputError, ShippingError, UsageError
from mmgevent.job.shipping import definitions, lookups, package_files
from mmgevent.job.shipping.effects import find_effects, program_files
from mmgevent.job.shipping.installed import find_spec, is_installed
from mmgevent.job.shipping.module_source import MAIN_NAMES, source_text
from mmgevent.job.shipping.modules import SourceTree

#: Types whose values `marshal` writes in one way only, in this version of its format.
_PLAIN = frozenset((int, str, float, bytes, bool, type(None), complex))
_MARSHAL_VERSION = 0

#: Work for the digest of an object besides its bytes, in bytes: 1.5 us, as hashing so many takes.
OBJECT_BYTES = 1_500

#: Most digests that are kept for objects that occur again. Each one is about 300 bytes.
MAX_KEPT = 100_000

#: Members of a class that say nothing of what it does, or differ from run to run.
_NOT_COMPARED = frozenset(
    (
        "__dict__",
        "__weakref__",
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__classdictcell__",
        "_abc_impl",
    )
)

#: What of a code object decides what it does, besides constants.
_OF_CODE = (
    "co_code",
    "co_exceptiontable",
    "co_name",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_flags",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
)


class Digests:
    """Digests of what one job uses."""

    def __init__(self, by_value: Collection[str], most_bytes: int | None = None, without: str | None = None):
        """by_value: names of modules, besides `__main__`, whose definitions travel.

        most_bytes: work that is too much, so that OutputError is raised. See OBJECT_BYTES.
        without: a folder, as `os.path.realpath` has it, whose files do not count.
        """
        self._without = without
        self._room_bytes = float("inf") if most_bytes is None else most_bytes
        self._by_value = frozenset(by_value) | MAIN_NAMES
        #: {what is used: its digest}
        self.about: dict[str, str] = {}
        self.tree = SourceTree(self._by_value)
        self._reads_files = False
        self._agenda: list[tuple[str, Any]] = []
        self._noted: dict[tuple[int, str], Any] = {}  # holds the objects, so that ids stay theirs
        self._done: dict[int, tuple[Any, bytes]] = {}
        self._begun: dict[int, int] = {}

    def add(self, label: str, value: Any) -> None:
        """Add an object under a label, and then all globals that it uses.

        Raise OutputError for an object that has no digest, and ShippingError for a module of the
        user's that has no source.
        """
        self._agenda.append((label, value))
        while self._agenda:
            label, value = self._agenda.pop(0)
            self._keep(label, self._guarded(label, functools.partial(self._digest, value)))

    def add_items(self, label: str, kind: str, items: Iterable[Any]) -> None:
        """Add many items, in their order, of which one after another is in memory. Raise as `add` does.

        kind: what they are, so that they differ from the same items of another kind.
        """
        digests = map(self._digest, items)
        self._keep(label, self._guarded(label, lambda: _hash(chain((kind.encode(),), digests))))
        if self._agenda:
            self.add(*self._agenda.pop(0))

    def _keep(self, label: str, digest: bytes) -> None:
        before = self.about.get(label)  # two namespaces may have the same name
        self.about[label] = digest.hex() if before is None else _hash((before.encode(), digest)).hex()

    def _guarded(self, label: str, make: Callable[[], bytes]) -> bytes:
        """Return a digest. Raise OutputError for whatever the object itself raises meanwhile."""
        try:
            return make()
        except RecursionError:
            raise OutputError(f"{label} is nested too deeply to be compared with an earlier run's") from None
        except _NoDigestError as error:
            raise OutputError(f"{label} cannot be compared with that of an earlier run: {error}") from None
        except UsageError:
            raise
        except Exception as error:  # such as those of a proxy that stands for nothing now
            raise OutputError(
                f"{label} cannot be compared with that of an earlier run: it raises {type(error).__name__} "
                f"when it is looked at"
            ) from error

    def add_effects(self) -> None:
        """Add the modules that the job's files, or else the program, import only for their effect."""
        for module, text in program_files(self._by_value):
            self._reads_files = self._reads_files or any(mark in text for mark in package_files.MARKS)
            for effect in find_effects(module, text, {*self._by_value, "mmgevent", "__future__"}):
                with contextlib.suppress(ShippingError):  # executors find it, or warn
                    self.tree.add_import(effect.module, 0, effect.names, "")

    def add_modules(self) -> None:
        """Add the modules of the user's that were used so far, and files of packages if one reads them."""
        sources = sorted(self.tree.sources.items())
        reads_files = self._reads_files or any(
            mark in source.text for _, source in sources for mark in package_files.MARKS
        )
        for name, source in sources:
            self.about[f"module {name}"] = _hash((source.text.encode(), source.code)).hex()
            if reads_files and source.folders:
                label = f"files of package {name}"
                self._keep(label, self._guarded(label, functools.partial(self._files, source.folders[0])))

    def _files(self, folder: str) -> bytes:
        parts: list[bytes] = []
        place = os.path.realpath(folder)
        for relative, n_bytes, read in package_files.walk(folder):
            if self._without is not None and os.path.join(place, relative).startswith(self._without + os.sep):
                continue
            self._spend(OBJECT_BYTES + n_bytes)
            parts += relative.encode(errors="surrogateescape"), _hash((read(),))
        return _hash(parts)

    def _spend(self, n_bytes: int) -> None:
        self._room_bytes -= n_bytes
        if self._room_bytes < 0:
            raise OutputError("it takes long to find out what the job depends on")

    # -- one object

    def _digest(self, value: Any) -> bytes:
        kind = type(value)
        self._spend(OBJECT_BYTES)
        if kind in _PLAIN or (kind is tuple and all(type(part) in _PLAIN for part in value)):
            data = marshal.dumps(value, _MARSHAL_VERSION)
            self._spend(len(data))
            return _hash((b"plain", data))
        if issubclass(kind, enum.Enum):  # never begun: its class has it, and has one digest for all
            name = value._value_ if value._name_ is None else value._name_
            return _hash((b"member", self._digest(kind), self._digest(name)))
        known = self._done.get(id(value))
        if known is not None:
            return known[1]
        depth = self._begun.get(id(value))
        if depth is not None:
            return _hash((b"again", str(len(self._begun) - depth).encode()))
        self._begun[id(value)] = len(self._begun)
        try:
            digest = _hash((_KIND_NAMES.get(kind, b"object"), *self._parts(kind, value)))
        finally:
            del self._begun[id(value)]
        if kind not in _CONTAINERS:  # a datasource may have millions
            if len(self._done) >= MAX_KEPT:
                self._done.clear()
            self._done[id(value)] = value, digest
        return digest

    def _parts(self, kind: type, value: Any) -> Iterable[bytes]:
        if kind is tuple or kind is list:
            return map(self._digest, value)
        if kind is set or kind is frozenset:
            return sorted(map(self._digest, value))
        if kind is dict or kind is types.MappingProxyType:
            return sorted(self._digest(key) + self._digest(each) for key, each in value.items())
        if kind is types.CodeType:
            return [
                self._digest(part) for part in (*(getattr(value, name) for name in _OF_CODE), value.co_consts)
            ]
        if kind is types.FunctionType:
            return self._parts_of_function(value)
        if kind is types.ModuleType:
            self._use_module(value.__name__)
            return [value.__name__.encode()]
        if kind is types.CellType:
            return [self._digest(value.cell_contents)] if _is_filled(value) else [b""]
        if kind is staticmethod or kind is classmethod:
            return [self._digest(value.__func__)]
        if kind is property:
            return map(self._digest, (value.fget, value.fset, value.fdel))
        if kind is types.MethodType:
            return map(self._digest, (value.__func__, value.__self__))
        if isinstance(value, type):
            return self._parts_of_class(value)
        if issubclass(kind, (set, frozenset)):  # it is pickled as a list, in the order of the hash seed
            held = (kind, getattr(value, "__dict__", None))
            return [*map(self._digest, held), *sorted(map(self._digest, value))]
        return self._parts_of_object(value)

    def _parts_of_function(self, function: types.FunctionType) -> Iterable[bytes]:
        named = self._name_of(function)
        if named is not None:
            return named
        if self._is_of_job(function.__module__) or self._is_of_user(function.__module__):
            self._use_globals(function)
        parts = (
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__closure__,
            vars(function),
        )
        return map(self._digest, parts)

    def _parts_of_class(self, cls: type) -> Iterable[bytes]:
        named = self._name_of(cls)
        if named is not None:
            return named
        self._is_of_user(cls.__module__)
        members = {name: member for name, member in vars(cls).items() if name not in _NOT_COMPARED}
        return map(self._digest, (cls.__qualname__, type(cls), cls.__bases__, members))

    def _parts_of_object(self, value: Any) -> Iterable[bytes]:
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            raise _NoDigestError(f"an object of type {type(value).__name__} cannot be pickled") from error
        if isinstance(reduced, str):
            wrapped = getattr(value, "__wrapped__", None)  # of functools.lru_cache
            if wrapped is not None:
                return [self._digest(wrapped)]
            return [str(getattr(value, "__module__", None)).encode(), reduced.encode()]
        parts = [
            list(part) if index in (3, 4) and part is not None else part for index, part in enumerate(reduced)
        ]
        return map(self._digest, parts)

    # -- names

    def _is_of_job(self, module: Any) -> bool:
        """Return whether the definitions of a module travel by value."""
        return module in self._by_value or (module not in sys.modules and not _is_installed(str(module)))

    def _is_of_user(self, module: Any) -> bool:
        """Return whether a module is another one of the user's. Note it then."""
        if module in self._by_value or not isinstance(module, str) or _is_installed(module):
            return False
        self.tree.add_texts((module,))  # one without a source is no fault: the definition travels
        return True

    def _name_of(self, definition: Any) -> list[bytes] | None:
        """Return module and name of a function or class that stands for itself, else None."""
        module, name = definition.__module__, definition.__qualname__
        if module in self._by_value:
            return None
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not definition:
            return None
        self._use_module(module)
        return [str(module).encode(), name.encode()]

    def _use_module(self, name: str) -> None:
        if name not in self._by_value and not _is_installed(name):
            self.tree.add(name)

    def _use_globals(self, function: types.FunctionType) -> None:
        code, namespace = function.__code__, function.__globals__
        for module, level, names in definitions.imports(code):
            self.tree.add_import(module, level, names, namespace.get("__package__") or "")
        for name in definitions.global_names(code):
            if name in namespace and name not in ("__builtins__", "__name__", "__file__"):
                self._note(name, namespace[name])
        if lookups.looks_up(code, namespace, self._by_value):  # it may use any of them
            spec = find_spec(function.__module__) if function.__module__ in sys.modules else None
            self._note("the text of the job's file", spec and source_text(spec))

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            label = f"function {name}"
        else:
            label = f"class {name}" if isinstance(value, type) else f"global {name}"
        if (id(value), label) not in self._noted:
            self._noted[id(value), label] = value
            self._agenda.append((label, value))


class _NoDigestError(Exception):
    """An object has no digest."""


_CONTAINERS = frozenset((tuple, list, set, frozenset, dict))

#: What makes digests of different kinds differ, for kinds whose name says all.
_KIND_NAMES = {
    kind: kind.__name__.encode()
    for kind in (
        tuple,
        list,
        set,
        frozenset,
        dict,
        types.CodeType,
        types.FunctionType,
        types.ModuleType,
        types.CellType,
    )
}


def _hash(parts: Iterable[bytes]) -> bytes:
    hashed = xxhash.xxh3_128()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _is_installed(name: str) -> bool:
    try:
        return is_installed(name)
    except (ImportError, ValueError):  # no module that can be found
        return False
