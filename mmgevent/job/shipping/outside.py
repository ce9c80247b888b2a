"""Find statements of a program that change other modules: executors do not repeat them.

`mpmath.mp.dps = 50`, `pd.set_option(...)` or `random.seed(1)` at the top of a job changes the
program only, and answers would differ silently. Most such statements are found in the source:

- assignments to what was imported;
- calls whose name says that they set something;
- decorators that register.

Statements in functions that the module calls by name count, too, such as those of `main()`. What
executors take over anyway does not count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

#: First or last words in names of calls that set something: `set_option`, `manual_seed`.
_STATE_WORDS = frozenset(
    [
        "activate",
        "add",
        "append",
        "config",
        "configure",
        "disable",
        "enable",
        "extend",
        "init",
        "initialize",
        "insert",
        "install",
        "load",
        "patch",
        "register",
        "registered",
        "seed",
        "set",
        "setdefault",
        "setup",
        "update",
        "use",
    ]
)

#: Calls of the standard library whose effect does not travel. Its other calls change no answers.
_STANDARD_CALLS = frozenset(
    [
        "codecs.register",
        "codecs.register_error",
        "copyreg.constructor",
        "copyreg.pickle",
        "gettext.bindtextdomain",
        "gettext.install",
        "gettext.textdomain",
        "logging.addLevelName",
        "logging.setLogRecordFactory",
        "logging.setLoggerClass",
        "mimetypes.add_type",
        "mimetypes.init",
        "random.seed",
        "random.setstate",
        "sqlite3.register_adapter",
        "sqlite3.register_converter",
    ]
)

#: What executors take over (docs/what-travels.md), and what changes no answers.
_TAKEN_OVER = (
    "calendar.",
    "csv.",
    "decimal.",
    "gc.",
    "gevent.",
    "logging.",
    "mmgevent.",
    "multiprocessing.",
    "numpy.set_printoptions",
    "numpy.seterr",
    "os.",
    "signal.",
    "sys.",
    "threading.",
    "warnings.",
)

#: Changes that matter everywhere, whether or not a function names the module.
_EVERYWHERE = ("builtins.", "codecs.", "copyreg.", "gettext.install.", "logging.")

#: Advice about seeds. The same seed in each executor would give the same numbers for many keys.
_SEED_ADVICE = "seed in the function, from the key, as in random.Random(repr(key))"

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")


_ASSIGNMENT, _CALL, _DECORATOR, _SETATTR = "{} = ...", "{}(...)", "@{}", "setattr({}, ...)"


class _Change(NamedTuple):
    """One statement that may change something of another module."""

    line: int
    root: str  #: its first name
    path: str  #: its dotted name: "mp.dps"
    form: str  #: how it looks, with {} for the path

    @property
    def is_call(self) -> bool:
        return self.form in (_CALL, _DECORATOR)


def find_changes(
    module: types.ModuleType,
    text: str,
    is_reached: Callable[[str, str], bool],
    repeated: Collection[str],
    told: Collection[str] = (),
) -> Iterator[str]:
    """Yield a sentence for each statement in the source of a module that executors do not repeat.

    is_reached: returns whether functions of the job use a global name, or the package that it comes
        from.
    repeated: names that are used by setupfn or by a function that it calls.
    told: full names that `find_rebound` has reported.
    """
    changes, imported = _read(text)
    for change in changes:
        if change.root not in imported or change.root not in vars(module):
            continue
        full = _full_path(module, imported[change.root], change)
        last = change.path.rpartition(".")[2]
        if last in repeated or full in told or not _matters(full, change.is_call):
            continue
        if _works_everywhere(full, change.is_call) or is_reached(change.root, full.partition(".")[0]):
            what = change.form.format(change.path)
            place = f"line {change.line} of {os.path.basename(module.__file__ or module.__name__)}"
            advice = _SEED_ADVICE if "seed" in last else "repeat it in setupfn"
            yield f"{what} in {place} does not travel to executors: {advice}; answers may differ"


def own_place(value: Any) -> str:
    """Return the name of a module, or of the module of a class or function; "" for other values."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return ""
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""


def _full_path(module: types.ModuleType, home: str, change: _Change) -> str:
    """Return the path with real names: "numpy.random.seed" for `np.random.seed`."""
    value = vars(module)[change.root]
    if isinstance(value, types.ModuleType):
        home = value.__name__
    elif home.startswith("."):
        home = f"{module.__package__ or ''}.{home.lstrip('.')}"
    return home + change.path[len(change.root) :]


def _matters(full: str, is_call: bool) -> bool:
    package = full.partition(".")[0]
    if is_call and package in sys.stdlib_module_names:
        return full in _STANDARD_CALLS or _is_abstract_register(full)
    if f"{full}.".startswith(_TAKEN_OVER):
        return False
    if not is_call:
        return True
    words = [word.lower() for word in _WORD.findall(full.rpartition(".")[2])]
    return bool(words) and (words[0] in _STATE_WORDS or words[-1] in _STATE_WORDS)


def _works_everywhere(full: str, is_call: bool) -> bool:
    """Return whether a change affects code that does not name the module that was changed."""
    is_patch = not is_call and full.partition(".")[0] in sys.stdlib_module_names
    return is_patch or f"{full}.".startswith(_EVERYWHERE) or _is_abstract_register(full)


def _is_abstract_register(full: str) -> bool:
    """Return whether a call registers with an abstract class, such as "numbers.Number.register"."""
    *home, name = full.split(".")
    return name == "register" and home[0] in sys.stdlib_module_names and home[-1][:1].isupper()


@functools.lru_cache(maxsize=16)
def _read(text: str) -> tuple[tuple[_Change, ...], dict[str, str]]:
    """Return the changes that a module makes, and {name that an import binds: full name}."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return (), {}
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update({each.asname or each.name.partition(".")[0]: each.name for each in node.names})
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            imported.update({each.asname or each.name: f"{home}.{each.name}" for each in node.names})
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = {node.name: node.body for node in tree.body if isinstance(node, kinds)}
    called: list[str] = []
    changes = list(_walk(tree.body, called))
    for name in called:  # this list grows meanwhile
        changes += _walk(functions.pop(name, ()), called)
    return tuple(changes), imported


def _walk(body: Collection[ast.stmt], called: list[str]) -> Iterator[_Change]:
    """Yield the changes that statements and their blocks make.

    Append the names that they call to `called`.
    """
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                target = decorator.func if isinstance(decorator, ast.Call) else decorator
                if "register" in ast.unparse(target):
                    yield from _change(decorator, target, _DECORATOR)
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from _walk(getattr(node, block, ()), called)
        if isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign, ast.Raise, ast.Return)):
            calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
            called += [func.id for func in calls if isinstance(func, ast.Name)]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _change(node, node.value.func, _CALL)
            if isinstance(node.value.func, ast.Name) and node.value.func.id == "setattr" and node.value.args:
                yield from _change(node, node.value.args[0], _SETATTR)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _change(node, target, _ASSIGNMENT)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            yield from _change(node, node.target, _ASSIGNMENT)


def _change(statement: ast.stmt | ast.expr, target: ast.expr, form: str) -> Iterator[_Change]:
    parts: list[str] = []
    at = target
    while not isinstance(at, ast.Name):
        if isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        elif isinstance(at, ast.Subscript):
            at = at.value
        elif isinstance(at, ast.Call):
            at = at.func
        else:
            return
    if target is not at or form != _ASSIGNMENT:  # a plain name is the file's own
        yield _Change(statement.lineno, at.id, ".".join([at.id, *reversed(parts)]), form)


def find_rebound(module: types.ModuleType, text: str, repeated: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (full name, sentence) for each constant of a module that the program has changed.

    Executors import the module anew, so they have the value in its source: `N = 10`. Not reported:
    names that begin with an underscore, and names that the module itself changes (`N += 1`).
    """
    for name, value in _read_constants(text).items():
        now = vars(module).get(name, value)
        is_other = type(now) is not type(value) or now != value
        if is_other and isinstance(now, _PLAIN) and name not in repeated:
            yield (
                f"{module.__name__}.{name}",
                f"{module.__name__}.{name} is {now!r:.60} by now and {value!r:.60} in executors, which import "
                f"{module.__name__} anew: set it in setupfn; answers may differ",
            )


_PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset)


@functools.lru_cache(maxsize=128)
def _read_constants(text: str) -> dict[str, Any]:
    """Return the public names that a module binds just once, to an immutable literal."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                        found[target.id] = ast.literal_eval(node.value)
    bound = [name for node in tree.body for name in _names_bound(node)]
    counted = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (*_PLAIN, type(None)))
        and bound.count(name) == 1
        and "*" not in bound
        and name not in counted
    }


def _names_bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds in the module, once for each binding."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
        return
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from _names_bound(child)
