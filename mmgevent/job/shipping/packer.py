"""Walk what the functions of a job reach, and bind it name by name into one payload.

Packing is the walk: whenever the pickler takes a function apart, the global
names in its code are queued to be bound in turn, so only what is reached
travels.  Every binding is a *chunk*, a pickle of its own; all chunks have one
memo, so shared objects stay shared.  The order matters where the user's own code
runs while things are rebuilt: modules go first, then definitions, then plain
values, then values made of other things, the latest found first.

Classes of the job's modules that no function names are *spare*: an item may be
an instance of one, so they come last where they can travel, and what keeps one
behind is said only where it is missed.  So are all other names of a module once
a function is reached that looks names up while it runs (`job/shipping/lookups.py`),
and the names in annotations that are texts.

What a function's globals dict is decides how its names travel: a *named*
namespace belongs to a module, an *anonymous* one (of `exec`, of a generated
method) is made anew.  Neither is ever pickled as a dict.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import heapq
import io
import itertools
import linecache
import pickle
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

from mmgevent.errors import ShippingError, TooLargeError
from mmgevent.job.shipping import bindings, definitions, instances, lookups
from mmgevent.job.shipping.effects import Effect, find_effects
from mmgevent.job.shipping.module_source import MAIN_NAMES
from mmgevent.job.shipping.modules import LISTING_MARKS, JobImport, SourceTree
from mmgevent.job.shipping.outside import find_changes, find_rebound, own_place
from mmgevent.job.shipping.plain import is_plain, reduce_container
from mmgevent.job.shipping.refusals import Reach, Refusal, explain
from mmgevent.job.shipping.struct_classes import reduce_struct_class
from mmgevent.wire.limits import MAX_CODE_BYTES

#: builtin types whose objects stand for themselves; the second is there from Python 3.15 on
_SENTINELS = tuple(filter(None, (object, getattr(builtins, "sentinel", None))))

#: parts that are named where the whole is too large
_SHOWN_PARTS = 3

#: names of a module's namespace that are made with the module
_MODULE_ATTRIBUTES = ("__file__", "__package__", "__doc__")
_UNBOUND = frozenset(("__name__", "__builtins__", "__loader__", "__spec__", "__cached__"))

#: Pickle of one spare name, bytes.  A function may need it or not; tables that only the driver reads are larger.
MAX_SPARE_BYTES = 32 << 20

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)

#: modules that are there before a job is loaded
_PRESENT = frozenset((*sys.stdlib_module_names, *MAIN_NAMES, "mmgevent", "dill"))

#: turn of values that are made of other things, perhaps of the user's classes
_LAST_RANK = 3


class EarlyNames(Exception):
    """Names of the job's modules turned out to be needed before what was packed already."""

    def __init__(self, imports: frozenset[JobImport]):
        super().__init__()
        self.imports = imports


class Packer:
    """Packs one payload; used once.

    `early` are imports of the job's own names that modules of the user's do while they are imported:
    those names are bound before all else.
    """

    def __init__(
        self,
        by_value: frozenset[str],
        pickler_class: Callable[[io.BytesIO, Packer], Any],
        early: frozenset[JobImport] = frozenset(),
        *,
        stays_here: bool = False,
    ):
        self.by_value = by_value
        self._early = early
        #: of the tree, what was followed to the job's own names
        self._followed: set[JobImport] = set()
        self._looked_at: set[str] = set()
        self.tree = SourceTree(by_value, stays_here=stays_here)
        #: dicts that functions are rebuilt on: {id: name}, {name: dict} and {id: dict}
        self._named: dict[int, str] = {}
        self._homes: dict[str, dict[str, Any]] = {}
        self._anonymous: dict[int, dict[str, Any]] = {}
        #: modules that no import finds, by the ids of their dicts: made anew, with all their names
        self._dynamic: dict[int, types.ModuleType] = {}
        #: names to be bound: a heap of (rank, turn in its rank, name)
        self._queue: list[tuple[int, int, Reach]] = []
        self._turns = itertools.count()
        self._seen: set[tuple[int, str]] = set()
        #: of these, what functions name
        self._used: set[tuple[int, str]] = set()
        #: to be queued when all that functions name is packed; and globals of which all names were put there
        self._spares: list[Reach] = []
        self._opened: set[int] = set()
        self._reach: Reach | None = None
        #: cells whose contents are in the payload; in order, to be taken back
        self._cells: dict[int, Any] = {}
        #: parts of classes that call themselves what the class has under a name
        self._shells: dict[int, Any] = {}
        #: (names from the job's function to what is bound, (module, name) if spare, pickle)
        self._chunks: list[tuple[str, tuple[str, str] | None, bytes]] = []
        self._chunk_bytes = 0
        #: {module: {name: why it stayed behind}}
        self._left: dict[str, dict[str, str]] = {}
        self._files: dict[str, dict[str, Any]] = {}
        #: imports for their effect, in file order
        self._effects: list[Effect] = []
        #: nothing can go wrong where it is loaded: code, plain data and the standard library
        self._is_plain = True
        self._buffer = bindings.Buffer()
        self._pickler = pickler_class(self._buffer, self)
        self._reducers = self._make_reducers()
        for name in sorted(by_value):  # __main__ before __mp_main__, which may be an older one
            self._name_namespace(getattr(sys.modules.get(name), "__dict__", None), name)

    def _make_reducers(self) -> dict[type, Callable[[Any], Any]]:
        own: dict[type, Callable[[Any], Any]] = {
            **instances.make_reducers(),
            types.FunctionType: self._reduce_function,
            types.BuiltinFunctionType: self._reduce_builtin,
            type: self._reduce_class,
            types.ModuleType: self._reduce_module,
            types.CellType: lambda cell: definitions.reduce_cell(cell, self._cells),
            dict: self._reduce_dict,
        }
        own.update(dict.fromkeys((list, tuple, set, frozenset), reduce_container))
        variables = (typing.TypeVar, typing.ParamSpec, getattr(typing, "TypeVarTuple", typing.TypeVar))
        own.update(dict.fromkeys(variables, self._reduce_type_variable))
        own.update(dict.fromkeys(_SENTINELS, self._reduce_sentinel))
        own[functools._lru_cache_wrapper] = lambda obj: self._name_elsewhere(obj) or NotImplemented
        return own

    def add_effects(self) -> None:
        """Take along what the job's file, or else the program, imports for its effect only."""
        left_out = {*self.by_value, "mmgevent", "__future__"}
        for module, text in self._program_files():
            for effect in find_effects(module, text, left_out):
                self._effects.append(effect)
                if effect.module.partition(".")[0] not in _PRESENT:
                    self._is_plain = False
                with contextlib.suppress(ShippingError):  # then it is found there, or missed by name
                    self.tree.add_import(effect.module, 0, effect.names, "")

    def _program_files(self) -> Iterator[tuple[types.ModuleType, str]]:
        """Yield the job's files, or else the program, with their sources."""
        for name in sorted(self.by_value - MAIN_NAMES) or ["__main__"]:
            module = sys.modules.get(name)
            path = getattr(module, "__file__", None)
            if module is None or not isinstance(path, str):
                continue  # a notebook, a REPL, a program on stdin
            yield module, "".join(linecache.getlines(path, vars(module)))

    def find_left(self, setupfn: Any) -> Iterator[str]:
        """Yield a sentence for each change that the job's files made outside of themselves and setupfn does not."""
        repeated = set(lookups.names_used(setupfn)) if isinstance(setupfn, types.FunctionType) else set()
        rebound: dict[str, str] = {}
        for source in self.tree.sources.values():
            loaded = sys.modules.get(source.name)
            if loaded is not None:
                rebound.update(find_rebound(loaded, source.text, repeated))
        yield from rebound.values()
        for module, text in self._program_files():
            reached = {name for place, name in self._used if place == id(vars(module))}
            packages = {own_place(vars(module).get(name)).partition(".")[0] for name in reached}
            packages.update(name.partition(".")[0] for name in self.tree.sources)
            is_reached = functools.partial(self._is_reached, vars(module), reached, packages)
            yield from find_changes(module, text, is_reached, repeated, rebound)

    def _is_reached(
        self, namespace: dict[str, Any], reached: set[str], packages: set[str], name: str, package: str
    ) -> bool:
        is_instance = not isinstance(namespace[name], (types.ModuleType, type, *_FUNCTIONS))
        if name in reached:
            return not is_instance  # which travels as it is now
        word = re.compile(rf"\b{re.escape(package)}\b")
        return package in packages or any(word.search(source.text) for source in self.tree.sources.values())

    def pack(self, roles: dict[str, Any], argv: list[str], settings: dict[str, Any]) -> bytes:
        """Return the payload for `{role: function or form}`, to be run with this `sys.argv` and these settings.

        The settings are those of `job.shipping.settings`.
        Raise EarlyNames for what has to be known before: pack again with it.
        """
        self._anonymous[id(roles)] = roles
        for statement in sorted(self._early, key=str):
            for reach in self._imported_names(statement, is_spare=False):
                self._pack_all([reach])
        self._pack_all(Reach(roles, role) for role in roles)
        self._spares.extend(self._spare_classes())
        while self._spares:
            spares, self._spares = self._spares, []
            self._pack_all(spares)
        self._chunks.append(("the job", None, self._pickle(lambda: self._pickler.save(roles))))
        named = [(name, self._module_attributes(name)) for name in self._homes if name in self.by_value]
        lines = {
            path: text for path, space in self._files.items() if (text := bindings.read_lines(path, space))
        }
        payload = {
            "argv": argv,
            "effects": [tuple(effect) for effect in self._effects],
            "modules": named,
            "sources": [(s.name, s.path, s.folders, s.text, s.code, s.files) for s in self.tree.collect()],
            "lines": lines,
            "chunks": self._chunks,
            "left": self._left,
            "settings": settings,
            "unused": self._unused_names(),
            "is_plain": self._is_plain and not self.tree.sources and not self.tree.stay_behind,
        }
        packed = pickle.dumps(payload, protocol=5)
        self._check_size(len(packed))
        return packed

    def _check_size(self, n_bytes: int) -> None:
        """Raise TooLargeError, naming the largest parts, if that many bytes are too many."""
        if n_bytes <= MAX_CODE_BYTES:
            return
        parts = [(len(chunk), label) for label, _, chunk in self._chunks]
        parts += [(len(source.text), f"the module {source.name}") for source in self.tree.sources.values()]
        largest = [f"{label} ({size:,})" for size, label in heapq.nlargest(_SHOWN_PARTS, parts)]
        raise TooLargeError(
            f"the job's code and what it captures have {n_bytes:,} bytes or more, {n_bytes - MAX_CODE_BYTES:,} more than "
            f"can be sent ({MAX_CODE_BYTES:,}); the largest parts: {', '.join(largest)}. Put large data into a file and "
            f"read it by its path in setupfn, or pass it as input: Files(...)"
        )

    def _spare_classes(self) -> Iterator[Reach]:
        for home, namespace in list(self._homes.items()):
            for name, value in list(namespace.items()) if home in self.by_value else ():
                if isinstance(value, type) and value.__module__ in self.by_value:
                    yield Reach(namespace, name, is_spare=True)

    def _pack_all(self, reaches: Iterable[Reach]) -> None:
        for reach in reaches:
            self._add(reach)
        while self._queue:
            self._pack_next(heapq.heappop(self._queue)[-1])
            self._check_size(self._chunk_bytes)
            self._follow_job_imports()
        self._follow_job_imports()

    def _follow_job_imports(self) -> None:
        """Take along what modules of the user's, or functions, import from the job's modules."""
        new = [statement for statement in self.tree.job_imports if statement not in self._followed]
        self._followed.update(new)
        early = {statement for statement in new if statement.names and not statement.is_late} - self._early
        if early:
            raise EarlyNames(frozenset(early))
        for name in [name for name in self.tree.sources if name not in self._looked_at]:
            self._looked_at.add(name)
            if lookups.source_looks_up(self.tree.sources[name].text, self.by_value):
                self._open(None)
        for statement in new:
            if not statement.names or "*" in statement.names:
                self._open(self._homes.get(statement.module))
            elif statement.is_late:
                self._spares.extend(self._imported_names(statement, is_spare=True))

    def _imported_names(self, statement: JobImport, is_spare: bool) -> Iterator[Reach]:
        namespace = self._homes.get(statement.module, {})
        parent = Reach(None, f"module {statement.importer!r}", is_spare=is_spare)
        for name in namespace if "*" in statement.names else statement.names:
            if name in namespace and self._is_bound(namespace, name):
                yield Reach(namespace, name, parent.name, None if is_spare else parent, is_spare)

    def _open(self, namespace: dict[str, Any] | None) -> None:
        """Let all names of the globals of a function travel that can, and those of the job's modules."""
        spaces = [space for name, space in self._homes.items() if name in self.by_value]
        for space in spaces if namespace is None else (namespace, *spaces):
            if id(space) not in self._opened and self._travels(space):
                self._opened.add(id(space))
                names = [
                    name for name in list(space) if isinstance(name, str) and self._is_bound(space, name)
                ]
                self._spares.extend(Reach(space, name, is_spare=True) for name in names)

    def _is_bound(self, namespace: dict[str, Any], name: str) -> bool:
        """Return whether a name is bound by the payload, rather than with the module."""
        return name not in _UNBOUND and not (name in _MODULE_ATTRIBUTES and id(namespace) in self._named)

    def _unused_names(self) -> dict[str, list[str]]:
        """Return {module: names} of what no function was seen to use, so that whoever misses one is told."""
        return {
            home: [
                name
                for name in list(namespace)
                if isinstance(name, str)
                and self._is_bound(namespace, name)
                and (id(namespace), name) not in self._seen
            ]
            for home, namespace in self._homes.items()
            if home in self.by_value
        }

    def _module_attributes(self, name: str) -> dict[str, Any]:
        found = {attribute: self._homes[name].get(attribute) for attribute in _MODULE_ATTRIBUTES}
        return {attribute: value for attribute, value in found.items() if isinstance(value, str)}

    def _add(self, reach: Reach) -> None:
        """Queue a name unless it has been."""
        key = (id(reach.namespace), reach.name)
        if not reach.is_spare:
            self._used.add(key)
        if key in self._seen:
            return
        self._seen.add(key)
        rank = 0
        if reach.namespace is not None:
            if reach.is_spare and reach.name not in reach.namespace:
                return  # deleted meanwhile by another thread
            value = reach.namespace[reach.name]
            if self._named.get(id(value)) in self.by_value:
                self._open(value)  # the globals themselves, as `vars()` at the top of a job returns them
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
        self._buffer.limit = MAX_SPARE_BYTES if reach.is_spare else None
        try:
            chunk = self._pickle(lambda: self._save_binding(reach))
        except Exception as error:  # of the user's own __reduce__ too
            bindings.shorten(self._pickler.memo, memo)
            bindings.shorten(self._cells, cells)
            self._buffer.limit = None
            found = self._find_elsewhere(reach)
            if found is not None:
                chunk = self._pickle(lambda: self._save_import(reach, *found))
            elif not reach.is_spare:
                raise ShippingError(explain(reach, error)) from error
            else:
                self._queue, self._seen = queue, seen
                self._left.setdefault(self._named.get(id(reach.namespace), ""), {})[reach.name] = explain(
                    reach, error
                )
                return
        spare = (self._named.get(id(reach.namespace), ""), reach.name) if reach.is_spare else None
        self._chunks.append((" → ".join(reach.chain()), spare, chunk))
        self._chunk_bytes += len(chunk)

    def _find_elsewhere(self, reach: Reach) -> tuple[str, str] | None:
        """Return (module, name) of an importable module that has the value of a global too, None if none has.

        Values travel as they are now; what cannot is as the module makes it.
        """
        if reach.namespace is None:
            return None
        value = reach.namespace[reach.name]
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
        """Reduce what stands for itself, such as `dataclasses.MISSING`, to its name in the module that has it."""
        home = type(obj).__module__
        modules = list(sys.modules) if type(obj) in _SENTINELS else [home]
        for module in modules:
            names = getattr(sys.modules.get(module), "__dict__", {}) if module not in self.by_value else {}
            found = next((name for name, value in list(names.items()) if value is obj), None)
            if found is not None and self._is_importable(module):
                return bindings.get_attribute, (module, found)
        return NotImplemented

    def _save_import(self, reach: Reach, module: str, name: str) -> None:
        self._is_plain = False
        self._pickler.save_reduce(bindings.bind_import, (reach.namespace, reach.name, module, name))

    def _pickle(self, save: Callable[[], None]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._buffer.write(pickle.PROTO + bytes([self._pickler.proto]))
        save()
        self._buffer.write(pickle.STOP)
        self._buffer.limit = None
        return self._buffer.getvalue()

    def _save_binding(self, reach: Reach) -> None:
        if reach.is_spare and reach.namespace is not None:
            bindings.refuse_drivers_own(reach.namespace[reach.name])
        if reach.namespace is None:
            self.note_module(reach.name)
            self._pickler.save_reduce(bindings.import_module, (reach.name,))
        else:
            arguments = (reach.namespace, reach.name, reach.namespace[reach.name])
            self._pickler.save_reduce(bindings.bind, arguments)

    def reduce(self, obj: Any) -> Any:
        """Return how an object travels: a reduction, its name in its module, or NotImplemented for dill's way."""
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
        """Return how an object travels that calls itself a name in `module`, None if it goes by that name."""
        return instances.reduce_shell(obj) if module in self.by_value else None

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

    def _reduce_builtin(self, function: types.BuiltinFunctionType) -> Any:
        if lookups.is_lookup(function):
            self._open(None)
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        name = self._name_elsewhere(function)
        if name is not None:
            if lookups.is_lookup(function):
                self._open(None)
            return name
        namespace = function.__globals__
        self._add_annotations(lookups.own_annotations(function), namespace)
        if self._travels(namespace):
            self._files.setdefault(function.__code__.co_filename, namespace)
            self._follow_code(function, namespace)
        elif lookups.library_looks_up(function, self.by_value):  # a decorator's
            self._open(None)
        return definitions.reduce_function(function, self._cells)

    def _follow_code(self, function: types.FunctionType, namespace: dict[str, Any]) -> None:
        """Queue the globals that a function's code names and take along what it imports."""
        code, user = function.__code__, function.__qualname__
        parent = self._reach
        is_spare = parent is not None and parent.is_spare
        for name in definitions.global_names(code):
            if name not in namespace or not self._is_bound(namespace, name):
                continue
            self._add(Reach(namespace, name, user, parent, is_spare))
            value = namespace[name]
            if isinstance(value, types.ModuleType) and hasattr(value, "__path__"):
                for submodule in bindings.used_submodules(value, code):
                    self._add(Reach(None, submodule, user, parent, is_spare))
        if lookups.looks_up(code, namespace, self.by_value):
            self._open(namespace)
        self._add_spares(lookups.evaluated_words(code), namespace)
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
            self._add_spares(lookups.annotation_names(annotations), namespace)

    def _add_spares(self, names: Iterable[str], namespace: dict[str, Any]) -> None:
        found = {name for name in names if name in namespace and self._is_bound(namespace, name)}
        self._spares.extend(Reach(namespace, name, is_spare=True) for name in sorted(found))

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
        if id(obj) in self._dynamic:
            return vars, (self._dynamic[id(obj)],)
        if id(obj) in self._named:
            return bindings.open_namespace, (self._named[id(obj)],)
        if id(obj) in self._anonymous:
            return bindings.make_namespace, (obj.get("__name__"),)
        return reduce_container(obj)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if sys.modules.get(name) is not module:
            self._dynamic[id(vars(module))] = module
            self._open(vars(module))
            return types.ModuleType, (name, module.__doc__)
        if name in self.by_value:
            self._open(vars(module))
        else:
            self.note_module(name)
        return bindings.import_module, (name,)

    def _reduce_class(self, cls: type) -> Any:
        if not cls.__flags__ & definitions.HEAP_TYPE:
            return NotImplemented  # a builtin: dill knows even those that no module shows
        name = self._name_elsewhere(cls)
        if name is not None:
            return name
        self._is_plain = False
        home = self._homes.get(cls.__module__)
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
