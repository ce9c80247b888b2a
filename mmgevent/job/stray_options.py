"""Warn of options that a job file binds as plain names, where they have no effect.

Users easily write `retries = 3` at the top of a job file for `options = {"retries": 3}`. It may
also be a variable of the file. So the warning is for names that no code of the file reads.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator

from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Builtins that find a name by its text. If a file uses one, a text that names an option counts as
#: a use.
_LOOKUPS = frozenset({"eval", "exec", "getattr", "globals", "vars", "locals"})

#: Instructions that read a global name. A local variable may have the name of an option.
_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})

#: Most characters of a value that the warning shows.
_VALUE_CHARS = 60


def warn_of_stray_options(
    path: str, code: types.CodeType, module: types.ModuleType, known: frozenset[str]
) -> None:
    """Log one warning with those of the `known` options that the file binds and does not use."""
    stray = {name: value for name, value in vars(module).items() if name in known and _is_plain(value)}
    for name in _used_names(code, known):
        stray.pop(name, None)
    options = getattr(module, "options", None)
    if isinstance(options, dict):
        stray = {name: value for name, value in stray.items() if name not in options}
    if not stray:
        return
    shown = ", ".join(f'"{name}": {value!r:.{_VALUE_CHARS}}' for name, value in stray.items())
    if hasattr(module, "job"):
        passed = ", ".join(f"{name}={value!r:.{_VALUE_CHARS}}" for name, value in stray.items())
        advice = f"pass it to the job: Job(..., {passed})"
    elif options:
        advice = f"add it to options: {{..., {shown}}}"
    else:
        advice = f"write options = {{{shown}}}"
    what = "which is an option" if len(stray) == 1 else "which are options"
    log.warning("%s sets %s, %s: %s", path, " and ".join(stray), what, advice)


def _is_plain(value: object) -> bool:
    """Return whether a value may be meant as that of an option.

    Functions, classes, modules and the user's own objects are not.
    """
    return value is None or isinstance(value, (int, float, str, list, tuple))


def _used_names(code: types.CodeType, known: frozenset[str]) -> set[str]:
    """Return those of the known names that the code of a file reads.

    It reads them by name, or by a builtin that looks names up.
    """
    loaded: set[str] = set()
    texts: set[str] = set()
    for each in _nested(code):
        for step in dis.get_instructions(each):
            if step.opname in _LOADS:
                loaded.add(step.argval)
        texts.update(constant for constant in each.co_consts if isinstance(constant, str))
    return {name for name in known if name in loaded or (name in texts and loaded & _LOOKUPS)}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and all that are made in it: functions, classes, comprehensions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
