"""Take functions, classes and cells apart, and put them together elsewhere.

Each `reduce_*` returns what `pickle` calls a reduction: how to build an empty shell, then how to
fill it. The pickler knows the shell before it looks at the contents. So references back to it are
no problem: a method to its class, a closure to itself, two functions to each other.

Functions are rebuilt on a namespace, the dict that has their globals. It is never copied: the
pickler refers to it, and binds in it the names that `global_names` finds in the code. Code travels
as `marshal` writes it. Both ends run the same minor version of Python, which the handshake has
checked.

dill's own reductions are not used for definitions. They lose the methods of `typing.NamedTuple`
classes, they cannot load Enums, and they call `__init_subclass__` again without its arguments.

Nothing here knows which definitions travel, and nothing imports dill.
"""

from __future__ import annotations

import abc
import enum
import marshal
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dis import get_instructions, opmap
from typing import Any

#: What a `reduce_*` returns: builder, arguments, state, None, None, setter.
Reduction = tuple[Any, ...]

_EXTENDED_ARG = opmap["EXTENDED_ARG"]
_IMPORT_NAME = opmap["IMPORT_NAME"]
_LOAD_GLOBAL = opmap["LOAD_GLOBAL"]
#: Instructions whose argument is the index of a name that they look up or bind in the globals.
_GLOBAL_OPS = frozenset(
    opmap[name]
    for name in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in opmap
)
#: Bits of LOAD_GLOBAL's argument below the index.
_LOAD_GLOBAL_SHIFT = 1

#: Py_TPFLAGS_HEAPTYPE of CPython's object.h: set for a class that was made while a program ran.
HEAP_TYPE = 1 << 9


#: Attributes of a function that travel if they differ from what its code alone gives.
_FUNCTION_ATTRIBUTES = ("__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")

#: Attributes that a class gets when it is made.
_MADE_WITH_CLASS = frozenset(
    (
        "__dict__",
        "__weakref__",
        "__module__",
        "__slots__",
        "__orig_bases__",
        "_abc_impl",
    )
)

#: Names with an underscore at both ends that a user may define in an Enum. `enum` makes the others.
_ENUM_HOOKS = frozenset(("_missing_", "_generate_next_value_"))

#: Classes that were built here. Their hooks have already seen their subclasses, in the program.
_built: set[type] = set()


def nested_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code and all code defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_code(constant)


def global_names(code: types.CodeType) -> list[str]:
    """Return the global names that code, also nested code, reads or writes, in order.

    They include names of builtins: only the namespace can tell. They do not include attributes,
    though `co_names` has both.
    """
    found: dict[str, None] = {}
    for part in nested_code(code):
        raw, high = part.co_code, 0
        for op, low in zip(raw[::2], raw[1::2], strict=True):
            argument = high | low
            high = argument << 8 if op == _EXTENDED_ARG else 0
            if op in _GLOBAL_OPS:
                index = argument >> _LOAD_GLOBAL_SHIFT if op == _LOAD_GLOBAL else argument
                found[part.co_names[index]] = None
    return list(found)


def imports(code: types.CodeType) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield (module, level, names) for every import statement in code, nested code included."""
    for part in nested_code(code):
        if _IMPORT_NAME not in part.co_code[::2]:
            continue
        level: Any = 0
        names: Any = None
        for instruction in get_instructions(part):
            if instruction.opcode == _IMPORT_NAME:
                yield instruction.argval, level, names or ()
            elif instruction.opcode != _EXTENDED_ARG:
                level, names = names, instruction.argval


def reduce_function(function: types.FunctionType, known_cells: dict[int, Any]) -> Reduction:
    """Reduce a function. Its globals are an argument as they are; the pickler replaces them.

    This reduction fills the cells that are not in `known_cells` ({id: cell}), and adds them. The
    pickler must reduce those as empty (`reduce_cell`).
    """
    code, name, closure = function.__code__, function.__name__, function.__closure__
    fresh = types.FunctionType(code, function.__globals__, name, None, closure)
    attributes = {
        attribute: getattr(function, attribute)
        for attribute in _FUNCTION_ATTRIBUTES
        if getattr(function, attribute) is not getattr(fresh, attribute)
    }
    if function.__annotations__:
        attributes["__annotations__"] = function.__annotations__
    if getattr(function, "__type_params__", ()):
        attributes["__type_params__"] = typing.cast(Any, function).__type_params__
    contents = []
    for cell in closure or ():
        if id(cell) not in known_cells:
            known_cells[id(cell)] = cell
            contents.append((cell, _cell_contents(cell)))
    state = (attributes or None, function.__dict__ or None, contents or None)
    arguments = (marshal.dumps(code), function.__globals__, name, closure)
    return build_function, arguments, state if any(state) else None, None, None, fill_function


def build_function(
    code: bytes, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Make the shell of a function on its namespace."""
    return types.FunctionType(marshal.loads(code), namespace, name, None, closure)


def fill_function(function: types.FunctionType, state: tuple[Any, Any, Any]) -> None:
    """Give a function its attributes and its cells their contents."""
    attributes, own, contents = state
    for name, value in (attributes or {}).items():
        setattr(function, name, value)
    function.__dict__.update(own or {})
    for cell, held in contents or ():
        fill_cell(cell, held)


def reduce_cell(cell: types.CellType, known_cells: dict[int, Any]) -> Reduction:
    """Reduce a cell: an empty one if a function fills it, else with its contents."""
    if id(cell) in known_cells:
        return types.CellType, ()
    known_cells[id(cell)] = cell
    return types.CellType, (), _cell_contents(cell), None, None, fill_cell


def _cell_contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # an empty cell, of a variable not yet bound
        return ()


def fill_cell(cell: types.CellType, contents: tuple[Any, ...]) -> None:
    """Give a cell its contents, if it has any."""
    if contents:
        cell.cell_contents = contents[0]


def reduce_class(cls: type, by_value: Container[str]) -> Reduction:
    """Reduce a class. by_value: names of the modules whose classes travel.

    If its metaclass travels too, that does not make the class again: the nearest metaclass that
    does not travel makes it. What a metaclass did is in the attributes.
    """
    own = vars(cls)
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    for name in ("__slots__", "__orig_bases__"):
        if name in own:
            namespace[name] = own[name]
    attributes = {k: v for k, v in own.items() if k not in _MADE_WITH_CLASS and not _is_storage(cls, v)}
    arguments = (type(cls), _builder(cls, by_value), cls.__name__, cls.__bases__, namespace)
    return build_class, arguments, (attributes, _registered(cls)), None, None, fill_class


def _is_storage(cls: type, value: Any) -> bool:
    """Return whether a class attribute is the class's descriptor of a slot or `__dict__`."""
    kinds = (types.MemberDescriptorType, types.GetSetDescriptorType)
    return isinstance(value, kinds) and value.__objclass__ is cls


def own_parts(cls: type) -> Iterator[Any]:
    """Yield attributes that `pickle` reduces to their names: libraries' descriptors."""
    for value in list(vars(cls).values()):
        kind = type(value)
        if hasattr(kind, "__set_name__") and isinstance(kind.__reduce__, types.FunctionType):
            reduction = value.__reduce_ex__(4)
            if isinstance(reduction, tuple) and any(part is cls for part in reduction[1]):
                yield value


def _builder(cls: type, by_value: Container[str]) -> type:
    if typing.is_typeddict(cls):
        return type  # its metaclass would make another kind of class
    return next(meta for meta in type.mro(type(cls)) if meta.__module__ not in by_value)


def _registered(cls: type) -> list[type]:
    """Return the classes that were registered as virtual subclasses of the class."""
    if not isinstance(cls, abc.ABCMeta):
        return []
    references = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
    return [found for reference in references if (found := reference()) is not None]


def build_class(
    metaclass: type, builder: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
) -> type:
    """Make the shell of a class."""
    with _without_hooks(bases):
        cls: type = builder.__new__(metaclass, name, bases, namespace)
        builder.__init__(cls, name, bases, namespace)  # type: ignore[misc]
    _built.add(cls)
    return cls


@contextmanager
def _without_hooks(bases: Iterable[type]) -> Iterator[None]:
    """Remove `__init_subclass__` from classes that were built here, for a while.

    It ran when the program defined the subclass, and what it did is in the attributes. Its keyword
    arguments are lost.
    """
    hooks = {
        base: vars(base)["__init_subclass__"]
        for direct in bases
        for base in direct.__mro__
        if base in _built and "__init_subclass__" in vars(base)
    }
    for base in hooks:
        type.__delattr__(base, "__init_subclass__")
    try:
        yield
    finally:
        for base, hook in hooks.items():
            type.__setattr__(base, "__init_subclass__", hook)


def fill_class(cls: type, state: tuple[dict[str, Any], list[type]]) -> None:
    """Give a class its attributes, past its metaclass, and register its virtual subclasses."""
    attributes, registered = state
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    for other in registered:
        typing.cast(Any, cls).register(other)


class _Member:
    """What a member of an Enum is rebuilt from. It is no tuple, since `enum` would unpack one."""

    def __init__(self, value: Any, new_args: tuple[Any, ...]):
        self.value = value
        self.new_args = new_args


def reduce_enum(cls: type[enum.Enum], by_value: Container[str]) -> Reduction:
    """Reduce an Enum class by its members as they are.

    Its own `__new__` and `__init__` are not called.
    """
    data_type = typing.cast(Any, cls)._member_type_
    new_args = getattr(data_type, "__getnewargs__", None)
    members = [
        (name, member._value_, new_args(member) if new_args else ())
        for name, member in cls.__members__.items()
    ]
    attributes = {
        name: value
        for name, value in vars(cls).items()
        if _is_own_enum_attribute(cls, name, value) and not _is_storage(cls, value)
    }
    states = {name: dict(vars(member)) for name, member in cls.__members__.items() if member._name_ == name}
    boundary = getattr(cls, "_boundary_", None)
    names = (cls.__name__, cls.__qualname__, cls.__module__)
    arguments = (type(cls), _builder(cls, by_value), names, cls.__bases__, members, boundary)
    return build_enum, arguments, (attributes, states), None, None, fill_enum


def _is_own_enum_attribute(cls: type[enum.Enum], name: str, value: Any) -> bool:
    """Return whether the user defined an attribute, rather than `enum`."""
    if name in cls.__members__ or name in _MADE_WITH_CLASS or name in ("__new__", "__new_member__"):
        return False
    if name.startswith("_") and name.endswith("_") and not name.startswith("__") and name not in _ENUM_HOOKS:
        return False
    return not any(vars(base).get(name) is value for base in cls.__mro__[1:])


def build_enum(
    metaclass: Any,
    builder: Any,
    names: tuple[str, str, str],
    bases: tuple[type, ...],
    members: list[tuple[str, Any, tuple[Any, ...]]],
    boundary: Any,
) -> type:
    """Make an Enum class with its members, without calling anything of the user's."""
    name, qualname, module = names
    namespace = builder.__prepare__(name, bases)
    namespace["__module__"], namespace["__qualname__"] = module, qualname
    namespace["__new__"], namespace["__init__"] = _new_member, _skip_init
    for member, value, new_args in members:
        namespace[member] = _Member(value, new_args)
    with _without_hooks(bases):
        keywords = {} if boundary is None else {"boundary": boundary}
        cls: type = builder.__new__(metaclass, name, bases, namespace, **keywords)
    type.__delattr__(cls, "__init__")
    _built.add(cls)
    return cls


def _new_member(cls: Any, member: Any) -> Any:
    made = cls._member_type_.__new__(cls, *member.new_args)
    made._value_ = member.value
    return made


def _skip_init(self: Any, member: Any) -> None:
    """Leave the member as it is: `fill_enum` sets its attributes."""


def fill_enum(cls: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give an Enum class its own attributes, and its members theirs."""
    attributes, states = state
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    for name, own in states.items():
        vars(cls._member_map_[name]).update(own)


def reduce_type_variable(variable: Any) -> Reduction:
    """Reduce a TypeVar, ParamSpec or TypeVarTuple that no other module has under its name."""
    if not isinstance(variable, typing.TypeVar):
        return type(variable), (variable.__name__,)
    keywords = {"bound": variable.__bound__}
    keywords.update(covariant=variable.__covariant__, contravariant=variable.__contravariant__)
    arguments = (variable.__name__, *variable.__constraints__)
    return build_type_variable, (arguments, keywords)


def build_type_variable(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Make a TypeVar."""
    make: Callable[..., Any] = typing.TypeVar
    return make(*arguments, **keywords)
