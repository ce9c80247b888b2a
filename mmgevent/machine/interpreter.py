"""Name the flags of the interpreter that executors share with the program that submits a job.

Only flags that change answers and that a running interpreter cannot change are here. What it can change, such as
the limit of `-X int_max_str_digits` and the filters of `-W`, travels with a job's settings instead.

A job's flags are a list of exact words in the order of `GROUPS`, at most one of each. A job without flags reads and
writes text as UTF-8 and is otherwise a plain Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_UTF8_OFF, _UTF8_ON = "-X utf8=0", "-X utf8=1"

#: every flag that may stand in a message; those of one group exclude one another
GROUPS = (("-O", "-OO"), ("-b", "-bb"), (_UTF8_OFF, _UTF8_ON))

#: variables with the effect of a flag: no process of ours may get them from its parent
VARIABLES = frozenset(
    {"PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONUTF8", "PYTHONDEVMODE", "PYTHONINTMAXSTRDIGITS"}
)

_GROUP_OF = {flag: number for number, group in enumerate(GROUPS) for flag in group}


def own_flags() -> list[str]:
    """Return the flags of this interpreter, whether they came from the command line or the environment."""
    flags = []
    if sys.flags.optimize:
        flags.append("-O" if sys.flags.optimize == 1 else "-OO")
    if sys.flags.bytes_warning:
        flags.append("-b" if sys.flags.bytes_warning == 1 else "-bb")
    # An implicit UTF-8 mode, as in the C locale, is what every executor has where UTF-8 is not the locale's encoding.
    is_explicit = "utf8" in sys._xoptions or bool(os.environ.get("PYTHONUTF8"))
    if sys.flags.utf8_mode and is_explicit:
        flags.append(_UTF8_ON)
    elif not sys.flags.utf8_mode and (is_explicit or sys.getfilesystemencoding() != "utf-8"):
        flags.append(_UTF8_OFF)
    return flags


def are_flags(value: Any) -> bool:
    """Return whether `value`, from a peer, is a list of flags as `own_flags` gives them."""
    if type(value) is not list or not all(type(flag) is str and flag in _GROUP_OF for flag in value):
        return False
    groups = [_GROUP_OF[flag] for flag in value]
    return groups == sorted(set(groups))


def arguments(flags: Sequence[str]) -> list[str]:
    """Return what stands behind the name of the interpreter to start it with these flags."""
    if _GROUP_OF[_UTF8_ON] not in map(_GROUP_OF.__getitem__, flags) and not _is_utf8_locale():
        flags = [*flags, _UTF8_ON]
    return [word for flag in flags for word in flag.split(" ")]


def without_flags(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a Python has the flags of its command line only."""
    return {name: value for name, value in environ.items() if name not in VARIABLES}


def _is_utf8_locale() -> bool:
    """Return whether the environment's locale says UTF-8, whatever the UTF-8 mode of this interpreter."""
    from _locale import getencoding  # the module `locale` takes 3 ms

    return getencoding().lower() in ("utf-8", "utf8")
