"""Hold the functions of a job, and decide how each of them is called.

A reducing function has one of two forms:

- "pair": `f(key, values) -> value`, called once a key;
- "iterator": `f(iterator of (key, values)) -> iterable of (key, value)`.

The number of required positional parameters decides, once, before anything runs. Some signatures do
not say (`*args`, builtins, callables without a readable one). Such a function is refused, with what
to write instead. A guess that catches TypeError would hide the TypeErrors of the user's code.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mmgevent import reducers
from mmgevent.errors import FunctionError, OptionError
from mmgevent.job.value_sorting import SortValues, check_sort_values

Form = Literal["pair", "iterator"]

#: Functions of a job that have a form. A mapfn always takes (key, value).
FORMED_ROLES = ("collectfn", "reducefn", "finishfn")

_BUILTIN_TYPES = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)


@dataclass(frozen=True)
class Functions:
    """The functions that executors run for one job.

    A function is a callable, None, or a str. A str names a function that the worker's own process
    offers. The form of a named one is None until `resolve`.
    """

    mapfn: Callable[..., Any] | str | None = None
    collectfn: Callable[..., Any] | str | None = None
    #: "pair" or "iterator"; None without collectfn, or while it is a name
    collect_form: Form | None = None
    reducefn: Callable[..., Any] | str | None = None
    #: "pair" or "iterator"; None without reducefn, or while it is a name
    reduce_form: Form | None = None
    #: called once in each executor, before any other; never with a name among the others
    setupfn: Callable[[], Any] | None = None
    #: whether a key's values are sorted before reducefn: True, what they are compared by, or None
    sort_values: SortValues = None
    #: True if reducefn gets the values of a key as one numpy array, else None
    arrays: bool | None = None
    #: what opens connections for the refs of a Query, see `Source.connectors`; None without any
    connect: tuple[Any, ...] | None = None

    @classmethod
    def of(
        cls,
        mapfn: Any = None,
        collectfn: Any = None,
        reducefn: Any = None,
        setupfn: Any = None,
        sort_values: Any = None,
    ) -> Functions:
        """Check the functions and decide their forms.

        Raise FunctionError:

        - for a function that cannot be called, and a name that is no name;
        - if mapfn and collectfn, which run in one process, would be in two;
        - for a setupfn or `sort_values` beside a name, and for what `check_sort_values` refuses.
        """
        if setupfn is not None:
            check_setupfn(setupfn, (mapfn, collectfn, reducefn))
        for role, fn in (("mapfn", mapfn), ("collectfn", collectfn), ("reducefn", reducefn)):
            if isinstance(fn, str) and not fn.isidentifier():
                raise FunctionError(
                    f"{role} is {fn!r}, which is no name that a worker can offer; "
                    "pass the function itself, or a name like 'stats'"
                )
        if isinstance(mapfn, str) and _is_shipped(collectfn):
            raise FunctionError(
                f"mapfn is the name {mapfn!r}, so collectfn runs in the process that offers it, "
                f"where {_label('collectfn', collectfn)} cannot be sent; offer it there too, and give its name"
            )
        if isinstance(collectfn, str) and _is_shipped(mapfn):
            raise FunctionError(
                f"collectfn is the name {collectfn!r}, but runs where mapfn does, which is a function; "
                "pass functions for both, or names for both"
            )
        if mapfn is not None and not isinstance(mapfn, str):
            check_mapfn(mapfn)
        return cls(
            mapfn,
            collectfn,
            _form_or_none(collectfn, "collectfn"),
            reducefn,
            _form_or_none(reducefn, "reducefn"),
            setupfn,
            check_sort_values(sort_values, (mapfn, collectfn, reducefn)),
        )

    @property
    def offered_names(self) -> frozenset[str]:
        """Return the names of the functions that a worker must offer to run this job."""
        return frozenset(f for f in (self.mapfn, self.collectfn, self.reducefn) if isinstance(f, str))

    def describe_offered(self) -> dict[str, Any] | None:
        """Return what processes that offer functions run, as JSON has it, or None without names.

        - "phases": those of "map" and "reduce" that run in such a process. Nothing was shipped for
          them.
        - "mapfn", "collectfn", "reducefn": the name of an offered function, or
          "reducers.sum_values" and the like for a known reducer, or None. It is None also for a
          function that is shipped to executors.
        """
        if not self.offered_names:
            return None
        phases = []
        if not _is_shipped(self.mapfn) and not _is_shipped(self.collectfn):
            phases.append("map")
        if not _is_shipped(self.reducefn):
            phases.append("reduce")
        return {
            "phases": phases,
            "mapfn": self.mapfn if isinstance(self.mapfn, str) else None,
            "collectfn": _describe(self.collectfn),
            "reducefn": _describe(self.reducefn),
        }

    @classmethod
    def from_offered(
        cls, described: Mapping[str, Any], offers: Mapping[str, Callable[..., Any]]
    ) -> Functions:
        """Make the functions that `describe_offered` described, in a process that offers `offers`.

        Raise FunctionError as `resolve` does, and for a bad description.
        """
        given: list[Any] = []
        for role in ("mapfn", "collectfn", "reducefn"):
            fn = described.get(role)
            if fn is not None and not isinstance(fn, str):
                raise FunctionError(f"{role} must be a name or null, got {type(fn).__name__}")
            given.append(
                reducers.by_name(fn[len(_KNOWN_PREFIX) :]) if fn and fn.startswith(_KNOWN_PREFIX) else fn
            )
        return cls.of(*given).resolve(offers)

    def resolve(self, offers: Mapping[str, Callable[..., Any]]) -> Functions:
        """Return these functions with every name replaced by its function in `offers`.

        Raise FunctionError for a name that is not offered, or a function that cannot be called in
        its role.
        """
        missing = sorted(self.offered_names - set(offers))
        if missing:
            known = ", ".join(sorted(offers)) or "none"
            raise FunctionError(
                f"no function named {missing[0]!r} is offered here (offered: {known}); "
                f"offer it with Node(..., functions={{{missing[0]!r}: fn}})"
            )

        def found(fn: Any) -> Any:
            if not isinstance(fn, str):
                return fn
            offered = offers[fn]
            # The driver did not know what the name means, so nothing was folded before the shuffle.
            return functools.partial(offered) if reducers.is_recognised(offered) else offered

        named = Functions.of(found(self.mapfn), found(self.collectfn), found(self.reducefn), self.setupfn)
        return replace(
            named,
            collect_form=self.collect_form or named.collect_form,
            reduce_form=self.reduce_form or named.reduce_form,
        )


#: What describes the functions of a job to executors, in the order of `Functions`.
FUNCTION_FIELDS = tuple(field.name for field in fields(Functions))

#: What precedes the name of a known reducer. The name of an offered function has no dot.
_KNOWN_PREFIX = "reducers."


def _is_shipped(fn: Any) -> bool:
    """Return whether a function travels as code: it is neither a name nor a known reducer."""
    return fn is not None and not isinstance(fn, str) and not reducers.is_recognised(fn)


def _describe(fn: Any) -> str | None:
    if isinstance(fn, str):
        return fn
    name = None if fn is None else reducers.name_of(fn)
    return None if name is None else _KNOWN_PREFIX + name


def form_of(fn: Any, role: str) -> Form:
    """Return whether `fn` is called with a pair or with an iterator of groups.

    `role` is what the user gave it as ("reducefn", ...), for the error. Raise FunctionError if the
    signature does not say.
    """
    count = _count_required(fn, role)
    if count == 2:
        if role != "finishfn" and inspect.isgeneratorfunction(_called_function(fn)):
            raise FunctionError(
                f"{_label(role, fn)} takes (key, values) and yields, but that form returns one value; "
                f"return it (a list, if there are several), or take one iterator: "
                f"def {role}(groups): for key, values in groups: yield key, ..."
            )
        return "pair"
    if count == 1:
        return "iterator"
    raise FunctionError(
        f"{_label(role, fn)} has {_parameters(count)}; write it with two, "
        f"{role}(key, values) -> value, or with one, {role}(iterator of (key, values)) -> iterable of (key, value)"
    )


def check_mapfn(fn: Any) -> None:
    """Raise FunctionError unless `fn` can be called as `mapfn(key, value)`."""
    count = _count_required(fn, "mapfn")
    if count != 2:
        raise FunctionError(
            f"{_label('mapfn', fn)} has {_parameters(count)}; "
            f"write it with two: def mapfn(key, value): yield ..."
        )


def check_setupfn(fn: Any, others: Iterable[Any] = ()) -> None:
    """Raise FunctionError unless `fn` can be a setupfn beside the `others` of its job."""
    name = fn if isinstance(fn, str) else next((other for other in others if isinstance(other, str)), None)
    if name is not None:
        raise FunctionError(
            f"setupfn runs in executors, and the function {name!r} is given by name and runs in the process that "
            "offers it; prepare that process there, or pass the functions themselves"
        )
    if not callable(fn):
        raise FunctionError(f"setupfn must be a function without parameters; got {type(fn).__name__}")
    called = _called_function(fn)
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise FunctionError(f"{_label('setupfn', fn)} is async; write a plain function (def, not async def)")
    if inspect.isgeneratorfunction(called):
        raise FunctionError(
            f"{_label('setupfn', fn)} yields, and calling it would run nothing of it; "
            "bind globals that the other functions read: def setupfn(): global model; model = ..."
        )
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return  # C code without a signature: the call will tell
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in starred]
    if required:
        raise FunctionError(
            f"{_label('setupfn', fn)} requires {', '.join(required)}, and is called without arguments; "
            f"give defaults, or use functools.partial({_short_name(fn)}, ...)"
        )


def _form_or_none(fn: Any, role: str) -> Form | None:
    return None if fn is None or isinstance(fn, str) else form_of(fn, role)


def _count_required(fn: Any, role: str) -> int:
    """Return the number of positional parameters of `fn` that have no default."""
    if not callable(fn):
        raise FunctionError(
            f"{role} must be a function, or the name of one that workers offer; got {type(fn).__name__}"
        )
    called = _called_function(fn)
    if isinstance(called, _BUILTIN_TYPES) or (isinstance(called, type) and called.__module__ == "builtins"):
        raise FunctionError(
            f"{_label(role, fn)} is a builtin, whose parameters do not say how to call it; "
            f"write {_example(role, getattr(called, '__name__', 'f'))}"
        )
    if _is_opaque(called):
        raise FunctionError(
            f"{_label(role, fn)} has no readable signature; write {_example(role, _short_name(fn))}"
        )
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise FunctionError(f"{_label(role, fn)} is async; write a plain function (def, not async def)")
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise FunctionError(
            f"{_label(role, fn)} has no readable signature; write {_example(role, _short_name(fn))}"
        ) from None
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            raise FunctionError(
                f"{_label(role, fn)} takes *{p.name}, which does not say how to call it; "
                f"write {_example(role, _short_name(fn))}"
            )
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise FunctionError(
                f"{_label(role, fn)} requires the keyword argument {p.name!r}, which nobody gives; "
                f"give it a default, or use functools.partial({_short_name(fn)}, {p.name}=...)"
            )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _called_function(fn: Any) -> Any:
    """Return the function that runs behind partials, bound methods and `__call__`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, types.MethodType):
        return fn.__func__
    if not isinstance(fn, (type, types.FunctionType, *_BUILTIN_TYPES)):
        call = type(fn).__call__
        if isinstance(call, types.FunctionType):
            return call
    return fn


def _is_opaque(called: Any) -> bool:
    """Return whether C code answers a call, as for `operator.itemgetter(0)`.

    Whether such objects have a signature depends on the version of Python, so none of them counts.
    """
    if isinstance(called, (type, types.FunctionType)) or hasattr(called, "__wrapped__"):
        return False
    return isinstance(type(called).__call__, types.WrapperDescriptorType) and not hasattr(called, "__code__")


def _short_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else "f"


def _parameters(count: int) -> str:
    return f"{count} required positional parameter{'' if count == 1 else 's'}"


def _label(role: str, fn: Any) -> str:
    """Return the role of a function, its own name if that is another, and where it is defined."""
    name = getattr(fn, "__qualname__", None)
    if not isinstance(name, str):
        name = repr(fn)
    label = role if name == role else f"{role} {name}"
    code = getattr(_called_function(fn), "__code__", None)
    if not isinstance(code, types.CodeType):
        return label
    return f"{label} ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})"


def _example(role: str, name: str) -> str:
    if role == "mapfn":
        return f"a function of two parameters, e.g. lambda key, value: [(key, {name}(value))]"
    return f"a function of two parameters, e.g. lambda key, values: {name}(values)"


def check_py_file(path: str) -> None:
    """Raise OptionError for what is neither a module nor a package folder."""
    is_module = path.endswith(".py") and os.path.isfile(path)
    if is_module or os.path.isdir(path):
        return
    what = "is not a .py file or a package folder" if os.path.exists(path) else "does not exist"
    raise OptionError(f"option py_files: {path} {what}")
