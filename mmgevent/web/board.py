"""What the dashboard knows of a server: its rows, and what has changed since a version.

Every change gets the next version. A page that has seen version n is sent what changed after n, so
a slow page costs no memory: nothing waits for it. A page that is too far behind, or saw another
server, is sent everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from mmgevent.web.busiest import Busiest, find_workers, sum_up

Row = dict[str, Any]

KINDS = ("jobs", "workers")

#: Rows that went, whose numbers are remembered. A page that is further behind is sent everything.
MAX_GONE = 10_000


class _Rows:
    """The rows of one kind: number -> (row, version of its last change)."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Row, int]] = {}
        #: (version, number) of those that went lately.
        self.gone: deque[tuple[int, int]] = deque(maxlen=MAX_GONE)


class Board:
    """The state of one server, as far as it was asked for."""

    def __init__(self, address: str):
        self.address = address
        self.version = 0
        #: The oldest version whose successors are all known.
        self._since = 0
        self._server: tuple[Row, int] = ({}, 0)
        self._state: tuple[Row, int] = ({"connected": False, "why": "not asked yet"}, 0)
        self._kinds = {kind: _Rows() for kind in KINDS}
        self._busiest = Busiest()
        self._facts: dict[str, tuple[Any, int]] = {}  # {name: (value, version)}

    # what the observer says

    def reset(self) -> None:
        """Forget all rows: another connection tells them anew."""
        self.version += 1
        self._since = self.version
        self._kinds = {kind: _Rows() for kind in KINDS}
        self._busiest = Busiest()
        self._facts.clear()

    def set_state(self, *, connected: bool, why: str = "") -> None:
        """Note whether the server answers, and if not, why."""
        state = {"connected": connected, "why": why}
        if state != self._state[0]:
            self.version += 1
            self._state = state, self.version

    def set_server(self, row: Row) -> None:
        """Note the row of the server."""
        if row != self._server[0]:
            self.version += 1
            self._server = row, self.version

    def change(self, kind: str, rows: Iterable[Row], gone: Iterable[int]) -> None:
        """Note rows of a kind that are new or have changed, and the numbers of those that went."""
        table = self._kinds[kind]
        self.version += 1
        for number in gone:
            if table.rows.pop(number, None) is not None:
                self._note_gone(table, number)
        for row in rows:
            table.rows[row["number"]] = row, self.version
        if kind == "workers":
            for number in self._busiest.choose(table.rows, self.version):
                if number in table.rows:
                    self._note_gone(table, number)
            self._facts["totals"] = sum_up(row for row, _ in table.rows.values()), self.version

    def _note_gone(self, table: _Rows, number: int) -> None:
        if len(table.gone) == MAX_GONE:
            self._since = max(self._since, table.gone[0][0])
        table.gone.append((self.version, number))

    def note_loads(self) -> None:
        """Note that the loads of all workers were measured."""
        table = self._kinds["workers"]
        self.version += 1
        for number in self._busiest.note_loads(table.rows):
            table.rows[number] = table.rows[number][0], self.version

    def set_fact(self, name: str, value: Any) -> None:
        """Note `ended`, the jobs that are over, or `busy_lately`, how many slots were busy."""
        if value != self._facts.get(name, (None, 0))[0]:
            self.version += 1
            self._facts[name] = value, self.version

    # what pages ask

    @property
    def is_connected(self) -> bool:
        return bool(self._state[0]["connected"])

    @property
    def why(self) -> str:
        """Why the server does not answer, or ""."""
        return str(self._state[0]["why"])

    @property
    def server(self) -> Row:
        return self._server[0]

    def rows(self, kind: str) -> list[Row]:
        """Return all rows of a kind, by number."""
        return [row for _, (row, _) in sorted(self._kinds[kind].rows.items())]

    def fact(self, name: str) -> Any:
        """Return what `set_fact` noted, or the `totals` of the workers; None if that is not known."""
        return self._facts.get(name, (None, 0))[0]

    def find_workers(self, text: str) -> Row:
        """Return the busiest workers with all words of a text, and how many have them."""
        rows, count = find_workers(self.rows("workers"), text)
        return {"workers": [self._busiest.describe(row) for row in rows], "found": count}

    def count(self, kind: str) -> int:
        """Return the number of rows of a kind."""
        return len(self._kinds[kind].rows)

    def changes(self, seen: int) -> dict[str, Any]:
        """Return what a page that has seen version `seen` lacks; 0 has seen nothing.

        {"version": n, "whole": whether it is everything, "state": ..., "server": ...,
        "jobs": {"rows": [...], "gone": [numbers]}, "workers": ..., "totals": ..., "ended": ...,
        "busy_lately": ...}; what has not changed is left out. Workers are the busiest only, and `gone`
        are those that are no longer among them, too.
        """
        whole = seen < self._since or seen == 0 or seen > self.version
        if whole:
            seen = 0
        told: dict[str, Any] = {"version": self.version, "whole": whole, "address": self.address}
        facts = [("state", self._state), ("server", self._server), *self._facts.items()]
        for name, (value, version) in facts:
            if version > seen or whole:
                told[name] = value
        for kind, table in self._kinds.items():
            rows = self._listed(kind, seen)
            gone = [] if whole else [number for version, number in table.gone if version > seen]
            if rows or gone:
                told[kind] = {"rows": rows, "gone": gone}
        return told

    def _listed(self, kind: str, seen: int) -> list[Row]:
        """Return the rows of a kind that pages show, if they have changed since a version."""
        table = self._kinds[kind]
        if kind != "workers":
            return [row for row, version in table.rows.values() if version > seen]
        return [
            self._busiest.describe(table.rows[number][0])
            for number, listed in self._busiest.listed.items()
            if max(listed, table.rows[number][1]) > seen
        ]
