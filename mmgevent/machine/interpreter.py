"""Name the flags of the interpreter that executors share with the program that submits a job.

These are the flags that change answers and that a running interpreter cannot change. What it can
change travels with a job's settings instead, such as the limit of `-X int_max_str_digits` and the
filters of `-W`.

A job's flags are a list of exact words in the order of `GROUPS`, at most one of each group. A job
without flags reads and writes text as UTF-8 and is otherwise a plain Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_UTF8_OFF, _UTF8_ON = "-X utf8=0", "-X utf8=1"

#: All flags that a message may have. Those of one group exclude one another.
GROUPS = (("-O", "-OO"), ("-b", "-bb"), (_UTF8_OFF, _UTF8_ON))

#: Variables with the effect of a flag. Our processes do not get them from their parents.
VARIABLES = frozenset(
    {"PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONUTF8", "PYTHONDEVMODE", "PYTHONINTMAXSTRDIGITS"}
)

_GROUP_OF = {flag: number for number, group in enumerate(GROUPS) for flag in group}


def own_flags() -> list[str]:
    """Return this interpreter's flags, of the command line and of the environment."""
    flags = []
    if sys.flags.optimize:
        flags.append("-O" if sys.flags.optimize == 1 else "-OO")
    if sys.flags.bytes_warning:
        flags.append("-b" if sys.flags.bytes_warning == 1 else "-bb")
    # The C locale turns the UTF-8 mode on by itself. Executors have it anyway if the locale is not
    # UTF-8.
    is_explicit = "utf8" in sys._xoptions or bool(os.environ.get("PYTHONUTF8"))
    if sys.flags.utf8_mode and is_explicit:
        flags.append(_UTF8_ON)
    elif not sys.flags.utf8_mode and (is_explicit or sys.getfilesystemencoding() != "utf-8"):
        flags.append(_UTF8_OFF)
    return flags


def are_flags(value: Any) -> bool:
    """Return whether a value from a peer is a list of flags such as `own_flags` returns."""
    if type(value) is not list or not all(type(flag) is str and flag in _GROUP_OF for flag in value):
        return False
    groups = [_GROUP_OF[flag] for flag in value]
    return groups == sorted(set(groups))


def arguments(flags: Sequence[str]) -> list[str]:
    """Return the arguments that start an interpreter with these flags."""
    if _GROUP_OF[_UTF8_ON] not in map(_GROUP_OF.__getitem__, flags) and not _is_utf8_locale():
        flags = [*flags, _UTF8_ON]
    return [word for flag in flags for word in flag.split(" ")]


def without_flags(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without variables that act as flags."""
    return {name: value for name, value in environ.items() if name not in VARIABLES}


def _is_utf8_locale() -> bool:
    """Return whether the environment's locale is UTF-8, whatever this process's UTF-8 mode."""
    from _locale import getencoding  # the module `locale` takes 3 ms

    return getencoding().lower() in ("utf-8", "utf8")
