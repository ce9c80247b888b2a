"""Find code that looks names up while it runs, and so needs more than it names.

Its own code shows it:

- the builtins `eval`, `exec`, `globals` and `__import__`;
- functions of the standard library that take names, frames, annotations or pickles;
- attributes such as `f_globals`;
- texts that name the job's module.

A library function that a job calls may look into its caller, or into a function that it is given.
Its code shows that, and the code of the functions that it calls.

In doubt the answer is True: it makes the payload larger, and nothing else.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

from mmgevent.job.shipping.definitions import global_names, nested_code

#: {module: its functions that look up names of their caller's}.
_LOOKUPS = {
    "builtins": ("eval", "exec", "globals", "__import__"),
    "cProfile": ("run",),
    "doctest": ("testmod",),
    "importlib": ("import_module",),
    "dill._dill": ("load", "loads"),
    "inspect": ("currentframe", "get_annotations", "getmodule", "stack", "trace"),
    "_pickle": ("load", "loads"),
    "pickle": ("load", "loads"),
    "pkgutil": ("resolve_name",),
    "profile": ("run",),
    "pydoc": ("locate",),
    "joblib.numpy_pickle": ("load",),
    "runpy": ("run_module", "run_path"),
    "sys": ("_getframe",),
    "typing": ("get_type_hints",),
    "typing_extensions": ("get_type_hints", "get_annotations", "evaluate_forward_ref"),
}

#: Attributes that only such code uses: functions of the table above, and ways to other globals.
_ATTRIBUTES = frozenset(
    [
        "import_module",
        "get_type_hints",
        "get_annotations",
        "getmodule",
        "currentframe",
        "resolve_name",
        "_getframe",
        "f_globals",
        "__globals__",
    ]
)

#: (attribute, name of what has it): the attribute alone is too common.
_PAIRS = (
    ("modules", "sys"),
    ("stack", "inspect"),
    ("trace", "inspect"),
    ("locate", "pydoc"),
    ("testmod", "doctest"),
    ("run", "cProfile"),
    ("loads", "pickle"),
    ("load", "pickle"),
    ("Unpickler", "pickle"),
    ("open", "shelve"),
    ("loads", "dill"),
    ("load", "dill"),
    ("load", "joblib"),
    ("eval", "builtins"),
    ("exec", "builtins"),
    ("globals", "builtins"),
    ("__import__", "builtins"),
)

#: Methods that evaluate a text with the names of their caller: `DataFrame.query("a > @limit")`.
_EVALUATORS = frozenset(("eval", "query", "evaluate", "exec"))

#: Attributes by which a library reaches globals of others. It may `eval` its own texts.
_LIBRARY_MARKS = frozenset(("f_globals", "__globals__", "get_type_hints", "get_annotations"))

#: Most functions of a library that are searched for each one that a job calls.
_MAX_LIBRARY_FUNCTIONS = 200

_WORD = re.compile(r"[^\W\d]\w*")


def is_lookup(obj: Any) -> bool:
    """Return whether an object is a known function that looks up names while it runs."""
    if not isinstance(obj, (types.FunctionType, types.BuiltinFunctionType)):
        return False
    return obj.__name__ in _LOOKUPS.get(obj.__module__ or "", ())


def looks_up(code: types.CodeType, namespace: dict[str, Any], by_value: Collection[str]) -> bool:
    """Return whether code with these globals looks up names.

    by_value: names of the job's modules.
    """
    for part in nested_code(code):
        names = frozenset(part.co_names)
        if names & _ATTRIBUTES or any(names.issuperset(pair) for pair in _PAIRS):
            return True
        if any(_names_module(constant, by_value) for constant in part.co_consts):
            return True
    for name in global_names(code):
        value = namespace.get(name, getattr(builtins, name, None))
        if value is sys.modules or is_lookup(value):
            return True
        if isinstance(value, types.FunctionType) and library_looks_up(value, by_value):
            return True
        if isinstance(value, types.ModuleType):
            found = (vars(value).get(attribute) for attribute in code.co_names)
            if any(isinstance(fn, types.FunctionType) and library_looks_up(fn, by_value) for fn in found):
                return True
    return False


def _names_module(constant: Any, by_value: Collection[str]) -> bool:
    """Return whether a constant is a name in the job, "__main__:parse", or "eval_str"."""
    if isinstance(constant, tuple):
        return "eval_str" in constant  # the keyword of inspect.signature
    if not isinstance(constant, str):
        return False
    return constant in by_value or any(constant.startswith((f"{name}.", f"{name}:")) for name in by_value)


def library_looks_up(function: types.FunctionType, by_value: Collection[str]) -> bool:
    """Return whether a library's function, or one that it calls, looks into others' globals.

    Functions of the standard library do so only to find out who calls them, so they do not count.
    """
    home = function.__globals__.get("__name__")
    top = home.partition(".")[0] if isinstance(home, str) else ""
    if not top or home in by_value or top == "mmgevent" or top in sys.stdlib_module_names:
        return False
    todo, seen = [function], {function.__code__}
    while todo:
        function = todo.pop()
        for part in nested_code(function.__code__):
            if not _LIBRARY_MARKS.isdisjoint(part.co_names):
                return True
        if len(seen) > _MAX_LIBRARY_FUNCTIONS:
            return False
        for name in global_names(function.__code__):
            value = function.__globals__.get(name)
            if (
                isinstance(value, types.FunctionType)
                and value.__code__ not in seen
                and str(value.__globals__.get("__name__")).partition(".")[0] == top
            ):
                seen.add(value.__code__)
                todo.append(value)
    return False


def module_texts(code: types.CodeType, namespace: dict[str, Any]) -> list[str]:
    """Return the texts in code that may import modules, or read files of packages, by name."""
    names = {name for part in nested_code(code) for name in part.co_names}
    values = [namespace.get(name) for name in names]
    modules = {value.__module__ for value in values if isinstance(value, types.FunctionType)}
    if names.isdisjoint(
        ("import_module", "__import__", "get_data", "resources", "pkg_resources")
    ) and not any(
        isinstance(module, str) and module.startswith(("importlib.resources", "importlib_resources"))
        for module in modules
    ):
        return []
    constants = [constant for part in nested_code(code) for constant in part.co_consts]
    return [constant for constant in constants if isinstance(constant, str)]


def evaluated_words(code: types.CodeType) -> Iterator[str]:
    """Yield the words of texts that the code may pass to a library which evaluates them."""
    for part in nested_code(code):
        if not _EVALUATORS.isdisjoint(part.co_names):
            for constant in part.co_consts:
                if isinstance(constant, str):
                    yield from _WORD.findall(constant)


def own_annotations(obj: Any) -> dict[str, Any]:
    """Return a function's or class's own annotations, or {} if they cannot be evaluated."""
    if isinstance(obj, type) and sys.version_info < (3, 14):
        found = vars(obj).get("__annotations__")
    else:
        try:
            found = obj.__annotations__
        except NameError:
            found = None
    return found if isinstance(found, dict) else {}


def annotation_names(annotations: dict[str, Any]) -> Iterator[str]:
    """Yield the names in annotations that are texts, or contain texts: they are looked up later."""
    todo = list(annotations.values())
    for _ in range(10 * len(todo) + 100):  # they may be cyclic
        if not todo:
            return
        value = todo.pop()
        if isinstance(value, str):
            yield from _expression_names(value)
        elif isinstance(forward := getattr(value, "__forward_arg__", None), str):
            yield from _expression_names(forward)
        else:
            arguments = getattr(value, "__args__", ())
            todo.extend(arguments if isinstance(arguments, tuple) else ())


@functools.lru_cache(maxsize=1024)
def _expression_names(text: str) -> tuple[str, ...]:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return ()
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] = None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != text:
            found.update(dict.fromkeys(_expression_names(node.value)))
    return tuple(found)


def source_looks_up(text: str, by_value: Collection[str]) -> bool:
    """Return whether the source of a user's module may look into the job's globals."""
    if "import_module" in text and any(name in text for name in by_value):
        return True
    return "sys.modules" in text or any(mark in text for mark in _ATTRIBUTES if mark != "import_module")


def names_used(function: types.FunctionType) -> Iterator[str]:
    """Yield all names in the code of a function and of the global functions that it names."""
    todo, seen = [function], {function.__code__}
    while todo:
        function = todo.pop()
        for part in nested_code(function.__code__):
            yield from part.co_names
        for name in global_names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, types.FunctionType) and value.__code__ not in seen:
                seen.add(value.__code__)
                todo.append(value)
