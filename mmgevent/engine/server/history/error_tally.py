"""The errors of one job, grouped by function, exception and line: counts, and an example of each."""

from __future__ import annotations

from typing import Any

from mmgevent.wire.failures import Cause, cause_of
from mmgevent.wire.listings import cut_text
from mmgevent.wire.shapes import MAX_INT

#: Groups of one job. Errors beyond them are one more, OTHERS: a text in the name of a class may make
#: each error a kind of its own. With the longest texts all groups fit a frame.
MAX_GROUPS = 50

#: Groups of all jobs of a server, some 10 MB with the longest texts. Beyond them a job has OTHERS only.
MAX_ALL_GROUPS = 5000

#: What the other errors are called.
OTHERS = "other errors"

#: Fields of a failure that the example of a group has.
_EXAMPLE = ("key", "error", "worker")


class GroupCount:
    """How many groups all jobs of a server have."""

    def __init__(self) -> None:
        self.groups = 0


class ErrorTally:
    """The groups of one job."""

    __slots__ = ("_all", "_groups", "version")

    def __init__(self, all_groups: GroupCount):
        self._all = all_groups
        self._groups: dict[Cause, dict[str, Any]] = {}
        #: number of changes
        self.version = 0

    def add(self, failure: dict[str, Any], now_s: float, *, count: int = 1, set_aside: int = 0) -> None:
        """Count failures of the same cause as this one, and the items set aside for it.

        `now_s`: seconds since 1970. `count` is 0 for one that was counted before it was set aside.
        """
        function, error_type, line = cause_of(failure)
        cause = function and cut_text(function), cut_text(error_type), line and cut_text(line)
        group = self._groups.get(cause)
        if group is None:
            if len(self._groups) >= MAX_GROUPS or self._all.groups >= MAX_ALL_GROUPS:
                cause, failure = (None, OTHERS, None), {}
            group = self._groups.get(cause)
        if group is None:
            self._all.groups += 1
            group = self._groups[cause] = _new_group(len(self._groups) + 1, cause, failure, now_s)
        self.version += 1
        group["version"] = self.version
        group["count"] = min(group["count"] + count, MAX_INT)
        group["set_aside"] = min(group["set_aside"] + set_aside, MAX_INT)
        group["last_at"] = now_s

    def since(self, seen: int) -> list[dict[str, Any]]:
        """Return the groups that have changed after version `seen`, the latest change last."""
        if seen > self.version:  # of another server, before this one
            seen = 0
        rows = [row for row in self._groups.values() if row["version"] > seen]
        rows.sort(key=lambda row: row["version"])
        return [{name: value for name, value in row.items() if name != "version"} for row in rows]

    def close(self) -> None:
        """Forget all groups."""
        self._all.groups -= len(self._groups)
        self._groups.clear()


def _new_group(number: int, cause: Cause, failure: dict[str, Any], now_s: float) -> dict[str, Any]:
    function, error_type, line = cause
    row: dict[str, Any] = {"number": number, "error_type": error_type, "count": 0, "set_aside": 0}
    row["first_at"] = now_s
    texts = {"function": function, "line": line, **{name: failure.get(name) for name in _EXAMPLE}}
    row.update((name, cut_text(value)) for name, value in texts.items() if isinstance(value, str))
    return row
