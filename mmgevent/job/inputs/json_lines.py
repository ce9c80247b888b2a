"""JsonLines: one item for each line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from mmgevent._speedups import values_of
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.lines import Lines, LinesRef
from mmgevent.job.inputs.refs import Unreadable

#: Characters of a line that an error shows.
SHOWN_CHARS = 60

#: Space around values, as JSON defines it. A line end is no part of a line.
_SPACE = " \t\r"

#: Reads a value at a place of a text: returns (value, place after it). Raises StopIteration if there
#: is none. It is what `json.loads` calls.
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class JsonLinesRef(LinesRef):
    """A split of a file: items `((path, byte offset), object)`. Blank lines are left out."""

    def units(self) -> Iterator[tuple[tuple[str, int], Any]]:
        return values_of(LinesRef.units(self), _scan, self._parse_carefully)

    def _parse_carefully(self, key: tuple[str, int], line: Any) -> tuple[tuple[str, int], Any] | None:
        """Return the item of a line that was not read at once; None if it is blank.

        Most are found to be in order, or named, with more care.
        """
        if type(line) is Unreadable:
            return key, line
        if self._is_first(key[1]):
            line = line.removeprefix("\ufeff")
        return (key, self._parse(line, key[1])) if line.strip(_SPACE) else None

    def _parse(self, line: str, offset: int) -> Any:
        """Return the value of a line, or what is wrong with it."""
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            place = error.pos
            if place >= len(line.rstrip(_SPACE)):
                wrong = "the line ends before its value does"
            elif error.msg.startswith("Extra data"):
                wrong = f"at its character {place} another value follows; write one on each line"
            elif error.msg.startswith("Unterminated string"):
                wrong = f"the string at its character {place} does not end"
            elif line[place - 1 : place] == "," and line[place] in "]}":
                wrong = f"at its character {place - 1} is a comma after the last element"
            else:
                wrong = f"at its character {place}, {line[place : place + 10]!r} cannot follow"
        except RecursionError:
            wrong = "its lists and objects are too deep in one another"
        except ValueError:
            wrong = "it has an integer of more digits than sys.get_int_max_str_digits()"
        more = "..." if len(line) > SHOWN_CHARS else ""
        return Unreadable(
            DatasourceError(
                f"{self.path}: the line at {self._place_of(offset, 0)} is not JSON: {wrong}; it begins {line[:SHOWN_CHARS]!r}{more}; mend "
                f"it, or set max_skipped to set it aside"
            )
        )


class JsonLines(Lines):
    """One item `((path, byte offset), object)` for each line, which is one JSON value.

    Paths and splits are those of `Lines`. Blank lines are left out. A byte order mark at the start
    of a file is ignored. Values are what `json.loads` returns: NaN, Infinity and -Infinity are
    accepted, since `json.dumps` writes them; if a name occurs twice in an object, the last counts.

    A line that is not JSON, or not text in `encoding`, is a failed item, which `max_skipped` sets
    aside. DatasourceError names path, offset, what is wrong, and the start of the line.
    """

    def refs(self) -> Iterator[JsonLinesRef]:
        names = [field.name for field in fields(LinesRef)]
        for ref in super().refs():
            yield JsonLinesRef(**{name: getattr(ref, name) for name in names})

    def is_safe_to_repeat(self) -> bool:
        return type(self) is JsonLines and not self.streams()  # subclasses may give other items
