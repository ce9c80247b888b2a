"""Errors that set items aside, grouped: ten thousand bad lines of three kinds are three groups.

A group is one function, one class of exception, and one line of the user's code that raised it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmgevent.errors import how_to_replay
from mmgevent.shown_text import shown
from mmgevent.tasks.skipping import MAX_NAMED
from mmgevent.wire.failures import MAX_LINE_CHARS

#: Most groups of a job. Errors beyond them are one more group, "other errors": a text in a class
#: name may make each error a kind of its own.
MAX_GROUPS = 1000

#: Groups that a message shows. More would fill several pages of a terminal.
SHOWN_GROUPS = 10

_OTHERS = "other errors"


@dataclass
class ErrorGroup:
    """Items that were set aside for the same reason."""

    #: name of the function, such as "mapfn"; None if the item could not be read
    function: str | None
    #: class of the exception, or what ended the executor, such as "died"
    error_type: str
    #: "FILE:LINE" of the user's code; None if unknown
    line: str | None
    #: how many items
    count: int
    #: key of the first of them, as text
    key: str | None
    #: what happened to that one, in one line
    error: str
    #: the stage of a chain, from 1; None without stages
    stage: int | None = None

    @property
    def cause(self) -> tuple[str | None, str, str | None]:
        """What the items of the group have in common."""
        return self.function, self.error_type, self.line


def cause_of(failure: Mapping[str, Any]) -> tuple[str | None, str, str | None]:
    """Return what the failures of one group have in common."""
    kind = failure.get("error_type") or failure.get("kind") or "failed"
    return _text(failure.get("function")), str(kind), _text(failure.get("line"))


def group_failures(rows: Iterable[tuple[Any, Any, Any, Mapping[str, Any]]]) -> list[ErrorGroup]:
    """Return the groups of rows as `SetAside.records` gives them, the largest first."""
    groups: dict[tuple[str | None, str, str | None], ErrorGroup] = {}
    for *_, failure in rows:
        cause = cause_of(failure)
        group = groups.get(cause)
        if group is None and len(groups) >= MAX_GROUPS:
            cause = (None, _OTHERS, None)
            group = groups.get(cause)
        if group is None:
            key, error = _text(failure.get("key")), str(failure.get("error") or "failed")
            groups[cause] = ErrorGroup(*cause, 1, key, error)
        else:
            group.count += 1
    return sorted(groups.values(), key=lambda group: -group.count)


def describe_groups(groups: list[ErrorGroup], bundles: Mapping[tuple[Any, ...], str]) -> list[str]:
    """Return what a job says of its groups at its end, a line each. `bundles`: {cause: path}.

    Few items were named one by one: of them only what is new is said.
    """
    lines = []
    are_named = sum(group.count for group in groups) <= MAX_NAMED
    for group in groups[:SHOWN_GROUPS]:
        if are_named and group.count == 1 and group.cause not in bundles:
            continue
        where = f"{group.function}: " if group.function else ""
        line = f" at {group.line}" if group.line else ""
        example = f", such as {group.key}" if group.key else ""
        text = f"set aside {group.count:,} x {where}{group.error_type}{line}{example}: {group.error}"
        text = shown(text, max_line_chars=MAX_LINE_CHARS)
        if group.cause in bundles:
            text += f"; {how_to_replay(bundles[group.cause])}"
        lines.append(text)
    if len(groups) > SHOWN_GROUPS:
        others = sum(group.count for group in groups[SHOWN_GROUPS:])
        lines.append(f"set aside {others:,} x errors of {len(groups) - SHOWN_GROUPS} other kinds")
    return lines


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
