"""Read the imports of a module from its source: statements, and names it imports while it runs."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from mmgevent.job.shipping import package_files

_CATCHES_IMPORT_ERROR = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))


class ImportStatement(NamedTuple):
    """One import statement: `import module` or `from module import names`."""

    module: str
    level: int
    names: tuple[str, ...]
    #: False where an ImportError is caught
    is_required: bool = True
    #: True inside a function, which runs later or never
    is_late: bool = False


@functools.lru_cache(maxsize=256)
def read_imports(text: str) -> tuple[ImportStatement, ...]:
    """Return the import statements of a module, wherever they stand in it."""
    if not text:
        return ()
    try:
        tree = ast.parse(text)
    except SyntaxError:  # importing it will say so, if ever it is imported
        return ()
    return tuple(_walk_imports(tree, is_required=True, is_late=False))


@functools.lru_cache(maxsize=256)
def read_named_modules(text: str) -> tuple[str, ...]:
    """Return the texts in a module by which it asks for modules and packages while it runs."""
    if not any(mark in text for mark in (*package_files.MARKS, "import_module", "__import__")):
        return ()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = [
        part.value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in package_files.NAMING_CALLS
        for part in ast.walk(call)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return tuple(dict.fromkeys(found))


def _walk_imports(node: ast.AST, is_required: bool, is_late: bool) -> Iterator[ImportStatement]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield ImportStatement(alias.name, 0, (), is_required, is_late)
    elif isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        yield ImportStatement(node.module or "", node.level, names, is_required, is_late)
    elif isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
        for statement in node.body:
            yield from _walk_imports(statement, False, is_late)
        for other in (*node.handlers, *node.orelse, *node.finalbody):
            yield from _walk_imports(other, is_required, is_late)
    elif not isinstance(node, ast.expr):
        is_late = is_late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            yield from _walk_imports(child, is_required, is_late)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(name is None or getattr(name, "id", None) in _CATCHES_IMPORT_ERROR for name in names)
