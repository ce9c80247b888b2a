"""Why a map task set items aside: a count and an example for each cause, in its message `done`.

The field `causes` is there only if a task has several causes. It is a list of rows
[items, function, error_type, line, key, error], of which the last five are texts. The failure of
the last item, which every such message has, stands for all other items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmgevent.wire.failures import Cause, cause_of, shorten

#: Causes of one task that have rows. More of them are counted with the last item.
MAX_CAUSES = 8

#: Longest text of a row, bytes as JSON. Longer ones are cut when they are shown, too.
MAX_TEXT_BYTES = 400

_TEXTS = ("function", "error_type", "line", "key", "error")


class Causes:
    """The causes of the items that one task set aside."""

    def __init__(self) -> None:
        self._counts: dict[Cause, int] = {}
        self._examples: dict[Cause, Mapping[str, Any]] = {}

    def add(self, failure: Mapping[str, Any]) -> None:
        """Count an item. `failure` is not changed, and must not be."""
        cause = cause_of(failure)
        if cause in self._counts:
            self._counts[cause] += 1
        elif len(self._counts) < MAX_CAUSES:
            self._counts[cause], self._examples[cause] = 1, failure

    def rows(self) -> list[list[Any]] | None:
        """Return the rows, or None if there is one cause at most."""
        if len(self._counts) < 2:
            return None
        return [
            [count, *(shorten(str(self._examples[cause].get(name) or ""), MAX_TEXT_BYTES) for name in _TEXTS)]
            for cause, count in self._counts.items()
        ]


def split_by_cause(done: Mapping[str, Any], count: int) -> list[tuple[int, dict[str, Any]]]:
    """Return (items, failure) for each cause of the `count` items that a `done` set aside.

    Nothing of the rows is trusted: what makes no sense counts with the last item.
    """
    parts: list[tuple[int, dict[str, Any]]] = []
    for row in done.get("causes", ())[:MAX_CAUSES]:
        if len(row) != 1 + len(_TEXTS) or type(row[0]) is not int or not 0 < row[0] <= count:
            continue
        if not all(type(text) is str for text in row[1:]):
            continue
        count -= row[0]
        parts.append((row[0], {name: text for name, text in zip(_TEXTS, row[1:], strict=True) if text}))
    if count:
        parts.append((count, dict(done.get("failure", {}))))
    return parts
