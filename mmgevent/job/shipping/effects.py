"""Find the modules that a program imports for their effect only, and import them in executors, too.

A module that no function names does not travel. But its import may matter: it registers classes,
patches a library, calls `django.setup()`. So executors repeat every plain import at module level
whose name nothing in the file uses, in the order of the file. An import is plain if it is a
statement of the module itself, or of an `if`, `try` or `with` at its top. It never stands under
`TYPE_CHECKING` or a test of `__name__`, and the program has imported the module by now.

Sources are read; nothing is imported to find out. A program without a file (a notebook, a REPL,
code on stdin) has no such imports.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from mmgevent.job.shipping.definitions import global_names
from mmgevent.job.shipping.module_source import MAIN_NAMES

#: Import for its effect that is mentioned if it takes longer, seconds: every executor does it.
SLOW_IMPORT_S = 0.2


class Effect(NamedTuple):
    """One import: `import module`, or `from module import names`."""

    module: str
    names: tuple[str, ...]
    #: False where the program catches an ImportError
    is_required: bool = True


class _ImportedName(NamedTuple):
    """One name of an import statement."""

    #: what is imported from the module; "" in a plain import, "*" for all
    name: str
    #: the global that it binds; a plain import of a submodule binds its package
    bound: str
    #: how code uses it: `package.submodule` for a plain import of a submodule
    usage: str


class _Statement(NamedTuple):
    """An import statement at module level, of one module."""

    module: str
    level: int
    names: tuple[_ImportedName, ...]
    #: False inside of `if`, `try` and `with`
    is_certain: bool
    is_required: bool


def program_files(by_value: Collection[str]) -> Iterator[tuple[ModuleType, str]]:
    """Yield the job's files, or else the program, with their sources."""
    for name in sorted(set(by_value) - MAIN_NAMES) or ["__main__"]:
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if module is None or not isinstance(path, str):
            continue  # a notebook, a REPL, a program on stdin
        yield module, "".join(linecache.getlines(path, vars(module)))


def find_effects(module: ModuleType, text: str, left_out: Collection[str]) -> list[Effect]:
    """Return the imports for their effect only in `text`, the source of a module, in order.

    left_out: names of modules, and of packages with all their modules, that never count.

    A source that cannot be parsed has no imports.
    """
    statements, used = _read(text)
    found: dict[Effect, None] = {}
    for statement in statements:
        for effect in _effects_of(statement, used, vars(module)):
            if effect.module not in left_out and effect.module.partition(".")[0] not in left_out:
                found[effect] = None
    return list(found)


def _effects_of(statement: _Statement, used: frozenset[str], namespace: dict[str, Any]) -> Iterator[Effect]:
    """Yield what a statement that has run imports for its effect: submodules, or its module."""
    module = _absolute(statement, namespace.get("__package__") or "")
    if module not in sys.modules:
        return
    others: list[_ImportedName] = []
    for name in statement.names:
        if not (statement.is_certain or name.name == "*" or name.bound in namespace):
            continue
        if name.name == "*":
            public = _public_names(sys.modules[module])
            others += [_ImportedName("*", each, each) for each in public] or [_ImportedName("*", "*", "*")]
        elif name.name and f"{module}.{name.name}" not in sys.modules:
            others.append(name)
        elif name.usage not in used:
            yield Effect(module, (name.name,) if name.name else (), statement.is_required)
    if others and not any(name.usage in used for name in others):
        yield Effect(module, (), statement.is_required)


def _absolute(statement: _Statement, package: str) -> str:
    """Return the full name of a statement's module, or "" for one beyond the top."""
    try:
        return importlib.util.resolve_name("." * statement.level + statement.module, package)
    except ImportError:
        return ""


def _public_names(module: ModuleType) -> set[str]:
    """Return what `from module import *` binds."""
    names = getattr(module, "__all__", None)
    return set(names) if names is not None else {n for n in dir(module) if not n.startswith("_")}


@functools.lru_cache(maxsize=16)
def _read(text: str) -> tuple[tuple[_Statement, ...], frozenset[str]]:
    """Return the imports at module level, and the names and dotted names that the source uses."""
    try:
        tree = ast.parse(text)
        statements = tuple(_walk(tree.body, is_certain=True, is_required=True))
        if not statements:
            return (), frozenset()
        code = compile(tree, "<text>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return (), frozenset()
    used = set(global_names(code))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.update(_dotted_names(node))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.AST):  # postponed annotations are not in the code
                used.update(name.id for name in ast.walk(part) if isinstance(name, ast.Name))
    return statements, frozenset(used)


def _dotted_names(node: ast.Attribute) -> Iterator[str]:
    """Yield "a.b.c" and "a.b" of the expression `a.b.c`."""
    parts: list[str] = []
    at: ast.expr = node
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    if isinstance(at, ast.Name):
        parts.append(at.id)
        parts.reverse()
        yield from (".".join(parts[:count]) for count in range(2, len(parts) + 1))


def _walk(body: Iterable[ast.stmt], is_certain: bool, is_required: bool) -> Iterator[_Statement]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                name = _ImportedName("", bound, alias.asname or alias.name)
                yield _Statement(alias.name, 0, (name,), is_certain, is_required)
        elif isinstance(node, ast.ImportFrom):
            given = [(alias.name, alias.asname or alias.name) for alias in node.names]
            names = tuple(_ImportedName(name, bound, bound) for name, bound in given)
            yield _Statement(node.module or "", node.level, names, is_certain, is_required)
        elif isinstance(node, ast.If):
            if not _is_left_out(node.test):
                yield from _walk(node.body, False, is_required)
            yield from _walk(node.orelse, False, is_required)
        elif isinstance(node, ast.Try):
            yield from _walk(node.body, False, is_required and not node.handlers)
            for handler in node.handlers:
                yield from _walk(handler.body, False, is_required)
            yield from _walk((*node.orelse, *node.finalbody), False, is_required)
        elif isinstance(node, ast.With):
            suppresses = any("suppress" in ast.dump(item.context_expr) for item in node.items)
            yield from _walk(node.body, False, is_required and not suppresses)


def _is_left_out(test: ast.expr) -> bool:
    """Return whether the body of an `if` is for type checkers or for a program only."""
    for node in ast.walk(test):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in ("TYPE_CHECKING", "__name__"):
            return not isinstance(test, ast.UnaryOp)  # `if not TYPE_CHECKING` is for running programs
    return False


def run_effects(
    effects: Iterable[Effect], on_slow: Callable[[Effect, float], None]
) -> list[tuple[Effect, BaseException]]:
    """Import modules for their effect; return failures, except of modules that may be missing.

    `on_slow` gets each import that took longer than SLOW_IMPORT_S, and its seconds.
    """
    failed: list[tuple[Effect, BaseException]] = []
    for effect in effects:
        began_s = time.monotonic()
        try:
            __import__(effect.module, fromlist=effect.names)
        except (Exception, SystemExit) as error:
            if effect.is_required or not isinstance(error, ImportError):
                failed.append((effect, error))
        seconds = time.monotonic() - began_s
        if seconds > SLOW_IMPORT_S:
            on_slow(effect, seconds)
    return failed
