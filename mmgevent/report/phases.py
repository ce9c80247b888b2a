"""How long the phases of a job took, as far as its report knows."""

from __future__ import annotations

from typing import Any, NamedTuple


class Phase(NamedTuple):
    """A phase, from when it was first seen until the next one was."""

    name: str
    start_s: float
    seconds: float


def phases_of(data: dict[str, Any]) -> list[Phase]:
    """Return the phases of a report in order."""
    phases = sorted(data["phases"], key=lambda each: each["start"])
    ends = [each["start"] for each in phases[1:]] + [data["seconds"]] * bool(phases)
    return [
        Phase(_name(each), each["start"], max(0.0, end - each["start"]))
        for each, end in zip(phases, ends, strict=True)
    ]


def _name(phase: dict[str, Any]) -> str:
    stage = f"stage {phase['stage']}: " if phase["stage"] else ""
    return f"{stage}{phase['phase']}"
