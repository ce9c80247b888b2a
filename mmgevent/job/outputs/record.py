"""Record in a folder which partitions its parts hold, so that a later run makes the others only.

The record is a file of lines. The first says what made the parts (`about`), and how many partitions
there are. Each further line is a *unit*: parts, and the partitions whose results they hold, whole.

1. The line of a unit is on the disk before its last part has its name. So a part that is there
   under its name is in the record, except if its unit goes on in later parts.
2. A unit counts if all of its parts are there with the bytes that its line says. What a kill has cut
   off, a line or a part, does not count.
3. The record never makes a folder look complete. `_SUCCESS` does, and it is written before the
   record is removed.

In an object store, where nothing can be added to an object, each line is an object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mmgevent.job.outputs.formats import short

RECORD = ".mmg-parts"

#: Version of the record. Another one is not understood.
_VERSION = 1

#: What the value of a fingerprint begins with if nobody could read it.
HASHED = "#"

#: What a part may be called; a name that is none would reach files that are not ours.
_PART = re.compile(r"part-\d{5}(\.\w+)+", re.ASCII)

#: What differs, too, if an input file is new or missing: that is told instead.
ORDER = "the order of the input files"

About = dict[str, str]


class Made(NamedTuple):
    """The partitions that an earlier run of a job has made."""

    partitions: frozenset[int]
    #: number of all partitions of the job
    of: int


class Unit(NamedTuple):
    """Parts that hold whole partitions together."""

    #: name, records and bytes of each
    parts: list[dict[str, Any]]
    partitions: list[int]


class FolderRecord(NamedTuple):
    """What a run has recorded."""

    about: About
    of: int
    units: list[Unit]

    def encode(self) -> bytes:
        """Return the text of the file."""
        head = {"version": _VERSION, "partitions": self.of, "about": self.about}
        return (json.dumps(head) + "\n").encode() + b"".join(map(encode_unit, self.units))

    @property
    def made(self) -> Made:
        """Return which partitions its units hold."""
        return Made(frozenset(partition for unit in self.units for partition in unit.partitions), self.of)

    def without_lost(self, sizes: Mapping[str, int | None]) -> FolderRecord:
        """Return the record without the units of which a part is lost or has changed.

        `sizes`: of the files that are there.
        """
        return self._replace(units=[unit for unit in self.units if are_there(sizes, unit.parts)])


def encode_unit(unit: Unit) -> bytes:
    """Return the line of a unit."""
    return (json.dumps(unit._asdict()) + "\n").encode()


def read_lines(lines: list[bytes]) -> FolderRecord | None:
    """Return the record that the lines are, None if they cannot be understood."""
    if not lines:
        return None
    head = _parse(lines[0])
    about, of = head.get("about"), head.get("partitions")
    if head.get("version") != _VERSION or about is None or not is_about(about) or type(of) is not int:
        return None
    return FolderRecord(about, of, [unit for line in lines[1:] if (unit := read_unit(line)) is not None])


def are_there(sizes: Mapping[str, int | None], parts: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether all parts are there, as long as they were. `sizes`: of the files that are there."""
    return all(sizes.get(part["name"]) == part["bytes"] for part in parts)


def is_about(value: Any) -> bool:
    """Return whether a value that was read is what a record says of its job."""
    return type(value) is dict and all(type(text) is str for text in value.values())


def find_difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return in words what differs first between two runs; None if nothing does."""
    labels = [*now, *(label for label in before if label not in now)]
    for label in sorted(labels, key=ORDER.__eq__):
        old, new = before.get(label), now.get(label)
        if old == new:
            continue
        if old is None:
            return f"{label} is new"
        if new is None:
            return f"{label} is no longer part of the job"
        if old.startswith(HASHED) or new.startswith(HASHED):
            return f"{label} has changed"
        return f"{label} was {short(old)} and is {short(new)}"
    return None


def _parse(line: bytes) -> dict[str, Any]:
    """Return the object in a line; an empty one if a kill or a power cut has spoiled it."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if type(value) is dict else {}


def read_unit(line: bytes) -> Unit | None:
    """Return the unit in a line, None if a kill has spoiled it."""
    parsed = _parse(line)
    parts, partitions = parsed.get("parts"), parsed.get("partitions")
    if type(parts) is not list or type(partitions) is not list:
        return None
    if not all(map(is_part_entry, parts)) or not all(type(partition) is int for partition in partitions):
        return None
    return Unit(parts, partitions)


def is_part_entry(value: Any) -> bool:
    """Return whether a value that was read describes a part."""
    return (
        type(value) is dict
        and type(value.get("name")) is str
        and _PART.fullmatch(value["name"]) is not None
        and type(value.get("records")) is int
        and type(value.get("bytes")) is int
    )
