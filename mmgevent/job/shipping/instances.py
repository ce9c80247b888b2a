"""Take values apart that `pickle` refuses, or could not put together again.

Libraries leave most of them at the top of a job: locks, results of decorators, instances with their
own `__new__`. Each `reduce_*` returns what `pickle` calls a reduction, or NotImplemented to let
dill decide.
"""

from __future__ import annotations

import contextlib
import contextvars
import copyreg
import functools
import io
import os
import struct
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from mmgevent.job.shipping.definitions import HEAP_TYPE, Reduction
from mmgevent.job.shipping.refusals import Refusal

#: The bit of `co_flags` for a function with `*args`.
_CO_VARARGS = 4


class _Bare:
    """A class whose instances have attributes and weak references, and nothing else."""


_BARE_BYTES = _Bare.__basicsize__
_PLAIN_STATE = typing.cast(Any, object).__getstate__

#: Names that `wrapt` gives the module of its proxies, with and without its C code.
_WRAPT_MODULES = ("_wrappers", "wrapt._wrappers", "wrapt.wrappers", "wrapt")

#: Classes by which threads and processes communicate. A copy elsewhere would wait in vain.
_TALKS = frozenset(
    (
        ("threading", "Thread"),
        ("threading", "Event"),
        ("threading", "Barrier"),
        ("queue", "Queue"),
        ("subprocess", "Popen"),
        ("concurrent.futures._base", "Future"),
        ("concurrent.futures._base", "Executor"),
    )
)


def is_stateless(obj: Any) -> bool:
    """Return whether an instance has no state: only its identity distinguishes it from a copy."""
    cls: Any = type(obj)
    if cls.__basicsize__ > _BARE_BYTES or cls.__itemsize__ or cls.__reduce__ is not object.__reduce__:
        return False
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__getstate__ is not _PLAIN_STATE:
        return False
    return not copyreg._slotnames(cls) and not getattr(obj, "__dict__", None)  # type: ignore[attr-defined]


def reduce_instance(obj: Any) -> Any:
    """Reduce an instance that `pickle` can take apart but not put together again.

    Its class has a `__new__` that needs arguments, or a `__getattr__` that needs the state, which
    is not there yet when `pickle` asks for `__setstate__`. Return NotImplemented for any other.
    """
    cls: Any = type(obj)
    if cls.__module__ in _WRAPT_MODULES:
        return reduce_proxy(obj)
    if isinstance(getattr(cls, "__getnewargs__", None), types.FunctionType) or hasattr(
        cls, "__getnewargs_ex__"
    ):
        return NotImplemented
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return NotImplemented
    new_args = (
        cls.__getnewargs__(obj) if hasattr(cls, "__getnewargs__") else ()
    )  # str, int, tuple and the like have it
    has_new = isinstance(cls.__new__, types.FunctionType) and not _takes(cls.__new__, 1 + len(new_args))
    has_getattr = isinstance(getattr(cls, "__getattr__", None), types.FunctionType)
    if (
        not has_new and not (has_getattr and not hasattr(cls, "__setstate__"))
    ) or cls in copyreg.dispatch_table:
        return NotImplemented
    _, _, state, items, pairs = obj.__reduce_ex__(4)
    if hasattr(cls, "__setstate__"):
        return _plain_new(cls), (cls, *new_args), state, items, pairs
    return _plain_new(cls), (cls, *new_args), (state,), items, pairs, fill_instance


def reduce_proxy(obj: Any) -> Any:
    """Reduce a function that was decorated by means of `wrapt`.

    Return NotImplemented for anything else.
    """
    kind = type(obj)
    if kind.__name__ != "FunctionWrapper" or kind.__module__ not in _WRAPT_MODULES:
        return NotImplemented
    return build_proxy, (obj.__wrapped__, obj._self_wrapper, obj._self_enabled)


def build_proxy(wrapped: Any, wrapper: Any, enabled: Any) -> Any:
    """Make a `wrapt.FunctionWrapper`."""
    import wrapt

    return wrapt.FunctionWrapper(wrapped, wrapper, enabled)


def fill_instance(obj: Any, held: tuple[Any]) -> None:
    """Give an instance its attributes, past its own `__setattr__`."""
    state, slots = held[0] if isinstance(held[0], tuple) else (held[0], None)
    for name, value in {**(state or {}), **(slots or {})}.items():
        object.__setattr__(obj, name, value)


def _plain_new(cls: type) -> Any:
    """Return the `__new__` of the nearest base of a class that is not written in Python."""
    return next(base.__new__ for base in cls.__mro__ if not isinstance(base.__new__, types.FunctionType))


def reduce_shell(obj: Any) -> Reduction | None:
    """Reduce an instance by its state, whatever its `__reduce__` says.

    Return None if that is impossible.

    The result of a decorator may claim to be the name of the function that it decorates.
    """
    cls = type(obj)
    if issubclass(cls, type) or not cls.__flags__ & HEAP_TYPE or _plain_new(cls) is not object.__new__:
        return None
    return object.__new__, (cls,), obj.__getstate__()


def _takes(new: types.FunctionType, count: int) -> bool:
    """Return whether a `__new__` can be called with `count` positional arguments."""
    code = new.__code__
    needed = code.co_argcount - len(new.__defaults__ or ())
    has_room = count <= code.co_argcount or bool(code.co_flags & _CO_VARARGS)
    return needed <= count and has_room and code.co_kwonlyargcount <= len(new.__kwdefaults__ or ())


def reduce_memoryview(view: memoryview) -> Reduction:
    """Reduce a memoryview to a view of a copy of its bytes."""
    return build_memoryview, (view.tobytes(), view.format, view.shape)


def build_memoryview(data: bytes, kind: str, shape: tuple[int, ...]) -> memoryview:
    """Make a memoryview."""
    view = memoryview(data)
    return view if (kind, shape) == ("B", (len(data),)) else view.cast(kind, shape)  # type: ignore[call-overload]


def reduce_context_variable(variable: contextvars.ContextVar[Any]) -> Reduction:
    """Reduce a ContextVar. Its value here is its default there."""
    return build_context_variable, (variable.name, *((value,) for value in _context_value(variable)))


def _context_value(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (variable.get(),)
    except LookupError:
        return ()


def build_context_variable(name: str, default: tuple[Any] | None = None) -> contextvars.ContextVar[Any]:
    """Make a ContextVar."""
    return (
        contextvars.ContextVar(name) if default is None else contextvars.ContextVar(name, default=default[0])
    )


def reduce_context_manager(manager: Any) -> Reduction:
    """Reduce what a function of `contextlib.contextmanager` returns.

    As a decorator it can start again.
    """
    return type(manager), (manager.func, manager.args, manager.kwds)


def reduce_forward_reference(reference: typing.ForwardRef) -> Reduction:
    """Reduce a name in an annotation, without its value: that may be the class around it."""
    keywords = {
        keyword: value
        for keyword in ("module", "is_argument", "is_class")
        if (value := getattr(reference, f"__forward_{keyword}__", None)) is not None
    }
    return build_forward_reference, (reference.__forward_arg__, keywords)


def build_forward_reference(text: str, keywords: dict[str, Any]) -> typing.ForwardRef:
    """Make a ForwardRef."""
    return typing.ForwardRef(text, **keywords)


def reduce_cached_property(prop: functools.cached_property[Any]) -> Reduction:
    """Reduce a cached property without the lock that it has before Python 3.12."""
    state = {name: value for name, value in vars(prop).items() if name != "lock"}
    return functools.cached_property, (prop.func,), state


def make_reducers() -> dict[type, Callable[[Any], Any]]:
    """Return {type: function that reduces its instances}. `reduce_instance` is for other types."""
    reducers: dict[type, Any] = {
        contextlib._GeneratorContextManager: reduce_context_manager,
        contextvars.ContextVar: reduce_context_variable,
        functools.cached_property: reduce_cached_property,
        memoryview: reduce_memoryview,
        struct.Struct: lambda obj: (struct.Struct, (obj.format,)),
        type(os.environ): lambda obj: (getattr, (os, "environ")) if obj is os.environ else NotImplemented,
        typing.ForwardRef: reduce_forward_reference,
        weakref.WeakValueDictionary: lambda obj: (weakref.WeakValueDictionary, (dict(obj),)),
    }
    files = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO, io.TextIOWrapper)
    reducers.update(dict.fromkeys(files, _reduce_file))
    # A lock guards what threads of one process share. A new lock does the same in an executor.
    reducers.update((type(getattr(threading, name)()), _anew(name)) for name in ("Lock", "RLock", "local"))
    return reducers


def _anew(name: str) -> Callable[[Any], Any]:
    return lambda obj: (build_anew, (name,))


def build_anew(name: str) -> Any:
    """Make a lock or `local` of this process's `threading`, which may be one for greenlets."""
    return getattr(threading, name)()


def _reduce_file(file: Any) -> Any:
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise Refusal


def refuse_talk(kind: type) -> None:
    """Refuse an instance of a class by which threads or processes communicate."""
    if any((base.__module__, base.__name__) in _TALKS for base in kind.__mro__):
        raise Refusal
