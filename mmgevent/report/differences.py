"""What differs between two reports, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.report.phases import phases_of
from mmgevent.report.words import duration, number, plain, size

#: Changes below this share of the first number are no difference worth a sign.
NOISE = 0.02

Row = tuple[str, str, str, str]


def compare(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Return the comparison, a fact a line. Raises UsageError for data that no report has."""
    try:
        rows = _rows(first, second)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise UsageError("the data of a report are damaged: make it again with mmg-run --report") from error
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]]
        ).rstrip()
        for row in rows
    )


def _rows(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    rows: list[Row] = [("", "first", "second", "")]
    for name in ("name", "runner", "outcome"):
        rows.append(_texts(name, first[name], second[name]))
    rows.append(_numbers("seconds", first["seconds"], second["seconds"], duration))
    for name in ("versions", "options"):
        rows += [
            _texts(f"{name}: {key}", first[name].get(key), second[name].get(key))
            for key in _keys(first[name], second[name])
            if first[name].get(key) != second[name].get(key)
        ]
    for name in ("totals", "counters"):
        rows += [
            _numbers(f"{name}: {key}", first[name].get(key), second[name].get(key), number)
            for key in _keys(first[name], second[name])
        ]
    ours, theirs = _phases(first), _phases(second)
    rows += [_numbers(key, ours.get(key), theirs.get(key), duration) for key in _keys(ours, theirs)]
    rows.append(
        _numbers("slots that worked", len(first["work"]["lanes"]), len(second["work"]["lanes"]), number)
    )
    rows.append(_numbers("busy seconds", _busy_s(first), _busy_s(second), duration))
    rows.append(_numbers("bytes to reduce", first["reduce"]["bytes"], second["reduce"]["bytes"], size))
    rows.append(_numbers("largest reduce task / mean", _skew(first), _skew(second), number))
    rows.append(_numbers("slowest item", _slowest(first), _slowest(second), duration))
    return rows


def _keys(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return [*first, *(key for key in second if key not in first)]


def _texts(name: str, first: Any, second: Any) -> Row:
    return plain(name), plain(first), plain(second), "" if first == second else "differs"


def _numbers(name: str, first: Any, second: Any, show: Callable[[Any], str]) -> Row:
    if type(first) not in (int, float) or type(second) not in (int, float):
        return plain(name), _shown(first, show), _shown(second, show), ""
    if first == second:
        change = ""
    elif not first:
        change = "new"
    else:
        share = (second - first) / abs(first)
        change = "" if abs(share) < NOISE else f"{share:+.0%}"
    return plain(name), show(first), show(second), change


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return show(value) if type(value) in (int, float) else "-"


def _phases(data: dict[str, Any]) -> dict[str, float]:
    """Return {name of a phase: seconds}."""
    return {f"phase {each.name}": each.seconds for each in phases_of(data)}


def _busy_s(data: dict[str, Any]) -> float:
    return float(sum(lane["busy_s"] for lane in data["work"]["lanes"]))


def _skew(data: dict[str, Any]) -> float | None:
    reduce = data["reduce"]
    if not reduce["tasks"] or not reduce["bytes"]:
        return None
    return float(round(reduce["largest"][0]["bytes_in"] * reduce["tasks"] / reduce["bytes"], 2))


def _slowest(data: dict[str, Any]) -> float | None:
    return data["slowest"][0]["seconds"] if data["slowest"] else None
