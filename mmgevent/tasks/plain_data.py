"""Pickle and unpickle plain data, of which nothing can run code.

Whoever unpickles a pickle runs the program that it is. So records of workers that are not trusted
are encoded and decoded here, by the rules of their job (`plain_rules`):

- The pickler takes every object apart that is of no builtin type, into a call of `rebuild` with
  builtin types as arguments. It fails for what is not plain, where the record is made.
- Before anything is unpickled, `_speedups.check_pickle` holds the pickle to the few opcodes that
  the pickler writes. Among these only `rebuild` can be called, and only by its name.
- The unpickler finds no other name. `rebuild` checks the types of its arguments, and the class by
  the rules.

Methods of the job's own classes that the decoding of a record calls: `__hash__` and `__eq__` of
keys and elements of sets. Instances are made without `__init__` and without setters.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from mmgevent import _speedups
from mmgevent.tasks.plain_kinds import Parts, count_parts, expect, make_known, split_known
from mmgevent.tasks.plain_rules import PlainRules
from mmgevent.tasks.unpicklable import PICKLE_PROTOCOL, NotPlainError

#: Most objects within one another. Python hashes tuples of this depth with 2 MiB of stack, of the 8
#: that a thread usually has.
MAX_DEPTH = 10_000

#: Objects that all keys and elements of sets in one pickle may be for Python's hash, which visits
#: those again that occur again. It takes half a second for so many, deaf to Ctrl-C.
MAX_HASHED = 64 * 1024 * 1024
#: ... or as many for each byte, whichever is more: the larger a pickle, the more it may repeat.
MAX_HASHED_PER_BYTE = 64

#: Opcodes looked at to name what a pickle holds that is not plain.
_MAX_NAMING_OPCODES = 100_000


def rebuild(*parts: Any) -> Any:
    """Stand for the call that unpickling makes. It is never called by this name."""
    raise NotPlainError("holds records of plain data, which are read by the rules of their job")


class PlainPickler(pickle.Pickler):
    """Writes plain data, by the rules of one job."""

    def __init__(self, file: Any, rules: PlainRules):
        super().__init__(file, PICKLE_PROTOCOL)
        self._splits = _Splits(rules)

    def reducer_override(self, obj: Any) -> Any:
        """Take apart what is of no builtin type. Raise NotPlainError."""
        if obj is rebuild:
            return NotImplemented
        return rebuild, self._splits[type(obj)](obj)


class _Splits(dict[type, Callable[[Any], Parts]]):
    """Type -> the function that takes its instances apart."""

    def __init__(self, rules: PlainRules):
        super().__init__()
        self._rules = rules

    def __missing__(self, cls: type) -> Callable[[Any], Parts]:
        split = split_known(cls)
        if split is None:
            if issubclass(cls, (type, types.FunctionType, types.BuiltinFunctionType)):
                split = _refuse_named
            else:
                split = _OWN_SPLITS[self._rules.form_of(cls)]
        self[cls] = split
        return split


def dump_plain(obj: Any, rules: PlainRules) -> bytes:
    """Return the pickle of plain data. Raise NotPlainError, or what pickling raises."""
    file = io.BytesIO()
    PlainPickler(file, rules).dump(obj)
    return file.getvalue()


def load_plain(data: Any, rules: PlainRules, *, has_keys: bool = False) -> Any:
    """Return the object of a pickle that may be anybody's.

    `has_keys`: it is a list of keys, which the caller will hash.

    Raise NotPlainError for one that holds anything but plain data, and what the job's own `__eq__`
    and `__hash__` raise.
    """
    size = len(data)
    max_hashed = max(MAX_HASHED, MAX_HASHED_PER_BYTE * size)
    try:
        weight = _speedups.check_pickle(data, MAX_DEPTH, max_hashed)
    except ValueError as error:
        raise NotPlainError(f"{_describe_pickle(data)} ({error})") from None
    if has_keys and weight > max_hashed:
        raise NotPlainError("holds keys that would take too long to hash")
    return _PlainUnpickler(io.BytesIO(data), rules, size).load()


class _PlainUnpickler(pickle.Unpickler):
    """Reads what was checked."""

    def __init__(self, file: Any, rules: PlainRules, size: int):
        super().__init__(file)
        self._rules = rules
        #: Parts that may still be copied into objects. A pickler writes each part of each object.
        #: Without this limit a pickle of 200 kB could have one dict copied until memory is full.
        self._copies = size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != (rebuild.__module__, rebuild.__qualname__):
            raise NotPlainError(f"holds an object or a call of {module}.{name}")
        return self._rebuild

    def persistent_load(self, pid: Any) -> Any:
        raise NotPlainError("holds a persistent object")

    def _rebuild(self, kind: Any, *parts: Any) -> Any:
        if type(kind) is not str:  # its repr() could be endless
            raise NotPlainError(f"holds an object whose kind is a {type(kind).__name__}")
        make = _OWN_MAKERS.get(kind)
        if make is not _make_named:
            self._copies -= count_parts(kind, parts)
            if self._copies < 0:
                raise NotPlainError("holds objects that are made of the same parts again and again")
        try:
            return make_known(kind, parts) if make is None else make(self._rules, *parts)
        except (NotPlainError, MemoryError, ImportError):  # numpy, say, is not installed here
            raise
        except Exception as error:
            if make is _make_named:  # its own code raised this
                raise
            text = f"{type(error).__name__}: {error}"
            raise NotPlainError(f"holds an impossible object of kind {kind!r:.60} ({text:.200})") from error


def _describe_pickle(data: Any) -> str:
    """Say what a pickle holds that is not plain: a class or function, if it names one."""
    import pickletools

    texts: list[Any] = []
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bytes(data))):
            if opcode.name in ("GLOBAL", "INST"):
                return f"holds an object or a call of {str(argument).replace(' ', '.'):.200}"
            if opcode.name == "STACK_GLOBAL":
                name = ".".join(map(str, texts[-2:]))
                if name != f"{rebuild.__module__}.{rebuild.__qualname__}":
                    return f"holds an object or a call of {name:.200}"
            if isinstance(argument, str):
                texts = [*texts[-1:], argument]
            if count > _MAX_NAMING_OPCODES:
                break
    except Exception:  # it is no pickle at all
        return "holds no pickle of plain data"
    return "holds something else than plain data"


# -- objects of the job's own classes, and of those that it names


def _refuse_named(obj: Any) -> Parts:
    name = f"{getattr(obj, '__module__', None)}.{getattr(obj, '__qualname__', None)}"
    raise NotPlainError(f"holds the {'class' if isinstance(obj, type) else 'function'} {name} itself")


def _class_of(obj: Any) -> tuple[str, str]:
    cls = type(obj)
    if "<locals>" in cls.__qualname__:
        raise NotPlainError(
            f"holds an object of type {cls.__qualname__}, a class that is made inside a function"
        )
    return cls.__module__, cls.__qualname__


def _state_of(obj: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the attributes of an object, and those that have slots; None for none."""
    attributes = getattr(obj, "__dict__", None)
    slots = {name: getattr(obj, name) for name in _slots(type(obj)) if hasattr(obj, name)}
    return attributes or None, slots or None


def _slots(cls: type) -> list[str]:
    """Return the names of the slots of a class, as attributes are called."""
    names: list[str] = copyreg._slotnames(cls)  # type: ignore[attr-defined]
    return names


def _set_state(rules: PlainRules, obj: Any, attributes: Any, slots: Any) -> None:
    """Set the attributes of a new object, without setters."""
    cls = type(obj)
    if attributes is not None:
        interned = {sys.intern(name): value for name, value in expect(attributes, dict).items()}
        if not rules.methods_of(cls).isdisjoint(interned):
            raise NotPlainError(f"holds a {cls.__qualname__} with a value in the place of a method")
        obj.__dict__.update(interned)
    if slots is not None:
        known = _slots(cls)
        for name, value in expect(slots, dict).items():
            if name not in known:
                raise NotPlainError(f"holds a {cls.__qualname__} with an attribute that it has no slot for")
            object.__setattr__(obj, name, value)


def _split_object(obj: Any) -> Parts:
    return "object", *_class_of(obj), *_state_of(obj)


def _make_object(rules: PlainRules, module: Any, name: Any, attributes: Any, slots: Any) -> Any:
    obj = object.__new__(rules.find(module, name, "object"))
    _set_state(rules, obj, attributes, slots)
    return obj


def _split_tuple(obj: Any) -> Parts:
    return "tuple", *_class_of(obj), tuple(obj), *_state_of(obj)


def _make_tuple(rules: PlainRules, module: Any, name: Any, items: Any, attributes: Any, slots: Any) -> Any:
    cls = rules.find(module, name, "tuple")
    if len(expect(items, tuple)) != len(cls._fields):
        raise NotPlainError(f"holds a {module}.{name} of {len(items)} values")
    obj = tuple.__new__(cls, items)
    _set_state(rules, obj, attributes, slots)
    return obj


def _split_enum(member: Any) -> Parts:
    cls = type(member)
    name = member._name_
    if name is not None and cls.__members__.get(name) is member:
        return "member", *_class_of(member), name
    return "flags", *_class_of(member), member._value_


def _make_member(rules: PlainRules, module: Any, name: Any, member: Any) -> Any:
    found = rules.find(module, name, "enum").__members__.get(expect(member, str))
    if found is None:
        raise NotPlainError(f"holds a {module}.{name} that is no member")
    return found


def _make_flags(rules: PlainRules, module: Any, name: Any, value: Any) -> Any:
    import enum

    cls = rules.find(module, name, "enum")
    if not issubclass(cls, enum.Flag):
        raise NotPlainError(f"holds a {module}.{name} that is no member")
    return cls(expect(value, int))


def _split_named(obj: Any) -> Parts:
    """Take an object apart whose class the job names: what its own pickling says of it."""
    cls = type(obj)
    reduced = obj.__reduce_ex__(PICKLE_PROTOCOL)
    shown = f"holds a {cls.__module__}.{cls.__qualname__}"
    if not isinstance(reduced, tuple):
        raise NotPlainError(f"{shown}, which is pickled by the name {reduced!r:.60}")
    function, args, state, items, pairs = (*reduced, None, None, None)[:5]
    if len(reduced) > 5:
        raise NotPlainError(f"{shown}, which is pickled with a function that sets its state")
    if function is copyreg.__newobj__ and args[0] is cls:  # type: ignore[attr-defined]
        how, args = "new", args[1:]
    elif function is copyreg.__newobj_ex__ and args[0] is cls:  # type: ignore[attr-defined]
        how, args = "new_ex", args[1:]
    elif function is cls:
        how = "call"
    else:
        maker = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
        raise NotPlainError(f"{shown}, which is pickled as a call of {maker}")
    return (
        "named",
        *_class_of(obj),
        how,
        args,
        state,
        None if items is None else list(items),
        None if pairs is None else list(pairs),
    )


def _make_named(
    rules: PlainRules, module: Any, name: Any, how: Any, args: Any, state: Any, items: Any, pairs: Any
) -> Any:
    cls = rules.find(module, name, "named")
    if how == "new":
        obj = cls.__new__(cls, *args)
    elif how == "new_ex":
        obj = cls.__new__(cls, *args[0], **args[1])
    else:
        obj = cls(*args)
    if items is not None:
        obj.extend(items)
    for key, value in pairs or ():
        obj[key] = value
    if state is None:
        return obj
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(state)
        return obj
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    if attributes:
        obj.__dict__.update(attributes)
    for slot, value in (slots or {}).items():
        setattr(obj, slot, value)
    return obj


#: Form, see `PlainRules.form_of` -> the function that takes an object apart
_OWN_SPLITS: dict[str, Callable[[Any], Parts]] = {
    "object": _split_object,
    "tuple": _split_tuple,
    "enum": _split_enum,
    "named": _split_named,
}

#: Kind -> the function that makes such an object by the rules of its job
_OWN_MAKERS: dict[str, Callable[..., Any]] = {
    "object": _make_object,
    "tuple": _make_tuple,
    "member": _make_member,
    "flags": _make_flags,
    "named": _make_named,
}
