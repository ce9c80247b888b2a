"""`--show-config`: the value of each option of a command, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mmgevent.shown_text import shown


class ShownOption(Protocol):
    """What is needed of an option."""

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def reads_variable(self) -> bool: ...


def show_config(
    options: Sequence[ShownOption],
    values: dict[str, Any],
    given: Mapping[str, str],
    environ: Mapping[str, str],
) -> str:
    """Return a line for each option: name, value, and where it comes from. Passwords are not shown."""
    rows = []
    for option in options:
        value, where = _show_value(option, values[option.name]), given.get(option.name, "default")
        variable = f"MMG_{option.name.upper()}"
        if not option.reads_variable and option.name not in given and environ.get(variable):
            value, where = _show_value(option, environ[variable]), f"variable {variable}"
        rows.append((option.names[-1], value, shown(where)))
    widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
    lines = [f"{name:{widths[0]}}  {value:{widths[1]}}  {where}".rstrip() for name, value, where in rows]
    return "\n".join([*lines, f"(in {shown(os.getcwd())})"])


def _show_value(option: ShownOption, value: Any) -> str:
    if value is None or value == []:
        return "-"
    if option.name == "password":
        return "(not shown)"
    if type(value) is list:
        value = " ".join(map(str, value))
    return shown(str(value))
