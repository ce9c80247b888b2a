"""Take apart classes that C code lays out: `msgspec.Struct` and `ctypes.Structure`.

Such a class cannot be made empty and then filled: it needs its fields when it is made. So it is
made again from its fields, and methods and the like are set afterwards. Neither library is imported
here.
"""

from __future__ import annotations

import types
from typing import Any

from mmgevent.job.shipping.definitions import Reduction
from mmgevent.job.shipping.lookups import own_annotations

#: Keywords of a `msgspec.Struct` class, under their names in its configuration.
_STRUCT_KEYWORDS = (
    "frozen",
    "eq",
    "order",
    "array_like",
    "gc",
    "repr_omit_defaults",
    "omit_defaults",
    "forbid_unknown_fields",
    "weakref",
    "dict",
    "cache_hash",
    "tag",
    "tag_field",
)

#: Attributes that `msgspec` makes with a class.
_STRUCT_MADE = frozenset(("__match_args__", "__slots__", "__annotations__", "__dict__", "__weakref__"))

#: Attributes that say how a `ctypes` class is laid out. It needs them when it is made.
_LAYOUT = ("_pack_", "_align_", "_anonymous_", "_layout_", "_fields_")

_MADE_WITH_ANY = frozenset(("__module__", "__qualname__", "__dict__", "__weakref__"))


def reduce_struct_class(cls: Any) -> Reduction | None:
    """Reduce a class of these libraries; return None for any other."""
    metaclass = type(cls)
    if metaclass.__module__.startswith("msgspec.") and metaclass.__name__ == "StructMeta":
        return _reduce_msgspec(cls)
    if metaclass.__module__ == "_ctypes" and "_fields_" in vars(cls):
        return _reduce_ctypes(cls)
    return None


def set_attributes(cls: type, attributes: dict[str, Any]) -> None:
    """Give a class its attributes besides its fields, as its metaclass allows."""
    for name, value in attributes.items():
        setattr(cls, name, value)


def _reduce_msgspec(cls: Any) -> Reduction:
    own = vars(cls)
    annotations = own_annotations(cls)
    defaults = dict(zip(reversed(cls.__struct_fields__), reversed(cls.__struct_defaults__), strict=False))
    names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    fields = {name: (names[name], _field_keywords(defaults, name)) for name in annotations if name in names}
    config = {name: getattr(cls.__struct_config__, name) for name in _STRUCT_KEYWORDS}
    config["kw_only"] = any(name not in cls.__match_args__ for name in fields)
    if config["tag"] is None:
        del config["tag"], config["tag_field"]
    attributes = {
        name: value
        for name, value in own.items()
        if name not in _STRUCT_MADE | _MADE_WITH_ANY
        and not name.startswith("__struct_")
        and not isinstance(value, types.MemberDescriptorType)
    }
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__annotations__": annotations,
    }
    arguments = (cls.__bases__, cls.__name__, namespace, fields, config)
    return build_msgspec, arguments, attributes or None, None, None, set_attributes


def _field_keywords(defaults: dict[str, Any], name: str) -> dict[str, Any]:
    import msgspec

    default = defaults.get(name, msgspec.NODEFAULT)
    if default is msgspec.NODEFAULT:
        return {}
    if type(default).__name__ == "Factory":
        return {"default_factory": default.factory}
    return {"default": default}


def build_msgspec(
    bases: tuple[type, ...],
    name: str,
    namespace: dict[str, Any],
    fields: dict[str, tuple[str, dict[str, Any]]],
    config: dict[str, Any],
) -> type:
    """Make a `msgspec.Struct` class with its fields."""
    import msgspec

    for field, (encoded, keywords) in fields.items():
        named = {} if encoded == field else {"name": encoded}
        if keywords or named:
            namespace[field] = msgspec.field(**keywords, **named)
    metaclass: Any = next(type(base) for base in bases if type(base).__name__ == "StructMeta")
    made: type = metaclass(name, bases, namespace, **config)
    return made


def _reduce_ctypes(cls: Any) -> Reduction:
    own = vars(cls)
    layout = {name: own[name] for name in _LAYOUT if name in own}
    fields = {field[0] for field in own["_fields_"]}
    attributes = {
        name: value for name, value in own.items() if name not in fields | _MADE_WITH_ANY | set(_LAYOUT)
    }
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **layout}
    arguments = (cls.__bases__, cls.__name__, namespace)
    return build_ctypes, arguments, attributes or None, None, None, set_attributes


def build_ctypes(bases: tuple[type, ...], name: str, namespace: dict[str, Any]) -> type:
    """Make a `ctypes.Structure` or `Union` class with its fields."""
    return type(bases[0])(name, bases, namespace)
