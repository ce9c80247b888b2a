"""Draw what `mmg-server status` shows: tables of workers and jobs, as text.

Every text in the rows was made fit to be shown before, and rich interprets none of it.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from typing import Any

Row = dict[str, Any]

#: Width of tables that no terminal shows, columns.
PLAIN_WIDTH = 200

#: Seconds of an hour and of a day.
_HOUR_S, _DAY_S = 3600, 86400


def draw(seen: dict[str, Any]) -> str:
    """Return the tables of what was seen: `server`, `workers` and `jobs`, each if it is there."""
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        width=shutil.get_terminal_size().columns if is_terminal else PLAIN_WIDTH,
        force_terminal=is_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if "server" in seen:
        console.print(_describe_server(seen["server"]))
    if "workers" in seen:
        console.print(_table("no workers", _WORKER_COLUMNS, seen["workers"]))
    if "jobs" in seen:
        console.print(_table("no jobs", _JOB_COLUMNS, seen["jobs"]))
    for row in seen.get("server", {}).get("left", []):
        console.print(f"{_moment(row['at'])} left: {row['name']}: {row['why']}")
    return text.getvalue().rstrip("\n")


def _describe_server(row: Row) -> str:
    return (
        f"server {row.get('host', '?')}/{row.get('pid', '?')}, mmgevent {row.get('version', '?')}, "
        f"since {_moment(row.get('since'))}: {_count(row.get('workers', 0), 'worker')} with "
        f"{_count(row.get('slots', 0), 'slot')}, {_count(row.get('jobs', 0), 'job')}, "
        f"{size(row.get('segment_bytes', 0))} of intermediate data in memory"
    )


def _table(empty: str, columns: dict[str, Any], rows: list[Row]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text(empty)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in columns:
        table.add_column(title, justify="right" if title.isupper() else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell(row))) for cell in columns.values()))
    return table


#: {title: what stands there}. Titles in capitals stand above numbers.
_WORKER_COLUMNS: dict[str, Any] = {
    "worker": lambda row: row["name"],
    "address": lambda row: row.get("address", ""),
    "BUSY": lambda row: f"{row.get('busy', '?')}/{row['slots']}",
    "state": lambda row: ": ".join(filter(None, (row.get("state", ""), row.get("why", "")))),
    "CPU": lambda row: f"{row['cores']:.1f}" if "cores" in row else "",
    "MEMORY": lambda row: size(row["memory_bytes"]) if "memory_bytes" in row else "",
    "version": lambda row: row.get("version", ""),
    "since": lambda row: _moment(row.get("since")),
    "DEATHS": lambda row: row.get("deaths") or "",
    "last death": lambda row: (
        f"{_moment(row.get('last_death_at'))} {row['last_death']}" if "last_death" in row else ""
    ),
}
_JOB_COLUMNS: dict[str, Any] = {
    "job": lambda row: row["id"],
    "name": lambda row: row["name"],
    "submitted by": lambda row: f"{row.get('user', '?')}@{row.get('host', '?')} (pid {row.get('pid', '?')})",
    "since": lambda row: _moment(row.get("since")),
    "phase": lambda row: row.get("phase", ""),
    "DONE": lambda row: _done(row),
    "LEFT": lambda row: duration(row["left_s"]) if "left_s" in row else "",
    "RUNNING": lambda row: row.get("running", ""),
    "SKIPPED": lambda row: row.get("skipped") or "",
    "SPILLED": lambda row: size(row["spilled_bytes"]) if row.get("spilled_bytes") else "",
}


def _done(row: Row) -> str:
    if "percent" in row:
        return f"{row['percent']:.0f} %"
    return f"{row['done']} {'items' if row.get('phase') == 'map' else 'tasks'}" if "done" in row else ""


def _moment(epoch_s: float | None) -> str:
    """Return a time of today as HH:MM:SS, an earlier one with its date."""
    if epoch_s is None:
        return "?"
    then = time.localtime(min(max(epoch_s, 0), 2**40))
    is_today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M", then)


def duration(seconds: float) -> str:
    """Return a time left in at most two units."""
    s = int(seconds)
    if s >= _DAY_S:
        return f"{s // _DAY_S} d {s % _DAY_S // _HOUR_S} h"
    if s >= _HOUR_S:
        return f"{s // _HOUR_S} h {s % _HOUR_S // 60} min"
    return f"{s // 60} min {s % 60} s" if s >= 60 else f"{s} s"


def size(n_bytes: int) -> str:
    """Return a number of bytes in its unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024  # type: ignore[assignment]
    return f"{n_bytes:.1f} TiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
