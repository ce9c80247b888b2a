"""Figures of runs as a table: medians and spreads, as Markdown for people and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.measure import Measurement
from benchmarks.works import Work

YARDSTICK = "ideal"


@dataclasses.dataclass
class Row:
    """What one engine took for one work."""

    work: Work
    engine: str
    title: str
    runs: dict[int, Measurement] = dataclasses.field(default_factory=dict)  #: by round
    error: str | None = None  #: why it was left out of further rounds

    def add(self, number: int, taken: Measurement, is_right: bool) -> None:
        """Take in the run of a round, or why it does not count."""
        self.error = taken.error or (None if is_right else "gives another answer than the program by hand")
        if self.error is None:
            self.runs[number] = taken

    def last(self) -> str:
        """Say how the last run went."""
        if self.error:
            return self.error
        taken = self.runs[max(self.runs)]
        left = f", {taken.left_behind} processes left behind" if taken.left_behind else ""
        return f"{taken.wall_s:.2f} s, {taken.cpu_s:.2f} s CPU, {taken.peak_pss_bytes / 2**20:.0f} MiB{left}"

    def walls(self) -> list[float]:
        return [taken.wall_s for taken in self.runs.values()]

    def ratios(self, yardstick: Row | None) -> list[float]:
        """Return the ratio to the yardstick's wall time in each round that both did."""
        if yardstick is None:
            return []
        return [
            taken.wall_s / yardstick.runs[number].wall_s
            for number, taken in self.runs.items()
            if number in yardstick.runs
        ]


def yardsticks(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the row of the yardstick of each work that has one."""
    return {row.work.name: row for row in rows if row.engine == YARDSTICK}


def to_markdown(rows: Sequence[Row], facts: dict[str, str], procs: int) -> str:
    """Return the facts and a table, a line an engine and work."""
    yards = yardsticks(rows)
    head = [
        "work", "engine", "rounds", "wall s: median (from, to)", "CPU s", "peak PSS MiB", "per second",
        f"ratio to {YARDSTICK}: median (from, to)",
    ]  # fmt: skip
    body = [_cells(row, yards.get(row.work.name)) for row in rows]
    lines = [f"- {name}: {text}" for name, text in facts.items() if text]
    lines += [f"- processes that map: {procs}", "", *format_table(head, body)]
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row], facts: dict[str, str], procs: int) -> str:
    """Return every run of every row."""
    yards = yardsticks(rows)
    entries = [
        {
            "work": row.work._asdict(),
            "engine": row.engine,
            "title": row.title,
            "error": row.error,
            "ratios": row.ratios(yards.get(row.work.name)),
            "runs": [
                {"round": number, **{k: v for k, v in taken._asdict().items() if k != "stderr"}}
                for number, taken in row.runs.items()
            ],
        }
        for row in rows
    ]
    return json.dumps({"facts": facts, "procs": procs, "rows": entries}, indent=1) + "\n"


def format_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns stand under one another."""
    rows = [list(head), *map(list, body)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return lines


def describe(numbers: Sequence[float], digits: int = 2) -> str:
    """Return median and spread."""
    if not numbers:
        return "-"
    middle, low, high = statistics.median(numbers), min(numbers), max(numbers)
    return f"{middle:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def _cells(row: Row, yardstick: Row | None) -> list[str]:
    if row.error:
        reason = row.error.replace("\n", " ").replace("|", "/")
        return [row.work.title, row.title, str(len(row.runs)), f"failed: {reason[-160:]}", "", "", "", ""]
    taken = list(row.runs.values())
    rate = row.work.amount / statistics.median(row.walls())
    return [
        row.work.title,
        row.title,
        str(len(taken)),
        describe(row.walls()),
        f"{statistics.median(run.cpu_s for run in taken):.2f}",
        f"{statistics.median(run.peak_pss_bytes for run in taken) / 2**20:.0f}",
        f"{rate:,.1f} {row.work.unit}" if rate < 100 else f"{rate:,.0f} {row.work.unit}",
        describe(row.ratios(yardstick)),
    ]
