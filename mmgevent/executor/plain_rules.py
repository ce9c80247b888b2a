"""The rules for the records of a job, read from its options only if it has some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules


def read_plain_rules(options: dict[str, Any]) -> PlainRules | None:
    """Return the rules for the records of a job, or None if they may be anything."""
    if options.get("plain") is None:
        return None
    from mmgevent.tasks.plain_rules import PlainRules

    return PlainRules.from_wire(options["plain"])
