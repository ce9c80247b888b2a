"""The charts of a report: SVG of our own, a table behind each.

A chart stretches with the page: its SVG has no text, which would stretch, too. Names stand beside
it, times below it, as text of the page. What is not "done" differs in its shape, not only in its
colour.
"""

from __future__ import annotations

import html
from typing import Any

from mmgevent.report.words import duration, number, plain, plural, safe, size

#: Width of a chart in its own units. The page stretches it.
WIDTH = 1000
#: Height of a lane, and of a bar in it, pixels.
LANE_PX = 20
BAR_PX = 12
#: Least width of a bar, and of the mark of what went wrong, in units of WIDTH.
MIN_WIDTH = 1.2
MARK_WIDTH = 4.0

#: Longest text of a cell that is not wrapped, and longest one that may have a narrow column, characters.
SHORT_CHARS = 16
LONG_CHARS = 30

#: {outcome: (class of its bar, top and height in its lane in pixels)}
_SHAPES = {
    "duplicate": ("dup", 11, 5),
    "duplicate that won": ("dup", 11, 5),
    "revoked": ("dup", 11, 5),
    "failed": ("bad", 1, LANE_PX - 2),
    "died": ("bad", 1, LANE_PX - 2),
    "lost": ("bad", 1, LANE_PX - 2),
    "unprepared": ("bad", 1, LANE_PX - 2),
}


def lanes_chart(work: dict[str, Any], seconds: float) -> str:
    """Return the lanes: a row for each slot, its tasks from left to right."""
    lanes = work["lanes"]
    if not lanes:
        return "<p>Nobody knows when the tasks of this job ran.</p>"
    end = max([seconds, *(bar[1] for lane in lanes for bar in lane["bars"])]) or 1.0
    height = LANE_PX * len(lanes)
    rects = []
    for row, lane in enumerate(lanes):
        rects.append(f'<rect class="lane" x="0" y="{row * LANE_PX + 9}" width="{WIDTH}" height="1"/>')
        rects += [_bar(bar, row, end, lane) for bar in lane["bars"]]
    names = "".join(
        f"<li><span>{safe(lane['worker'])}</span><span>{safe(_slot_name(lane))}</span></li>" for lane in lanes
    )
    title = f"{plural(len(lanes), 'slot')} over {duration(end)}"
    return (
        f'<div class="chart"><ol class="names" aria-hidden="true">{names}</ol>'
        f'<div class="plot"><svg role="img" aria-labelledby="lanes-t lanes-d" viewBox="0 0 {WIDTH} {height}" '
        f'height="{height}" preserveAspectRatio="none"><title id="lanes-t">{html.escape(title)}</title>'
        '<desc id="lanes-d">A row for each slot, its tasks from left to right. The table below has the same '
        f"numbers.</desc>{''.join(rects)}</svg>{_axis(end)}</div></div>{_LEGEND}"
    )


def _bar(bar: list[Any], row: int, end: float, lane: dict[str, Any]) -> str:
    start, stop, phase, outcome, count, busy, task = bar
    kind, top, height = _SHAPES.get(outcome, ("map" if phase == "map" else "reduce", 4, BAR_PX))
    least = MARK_WIDTH if kind == "bad" else MIN_WIDTH
    width = max(least, (stop - start) / end * WIDTH)
    x = min(max(0.0, start / end * WIDTH), WIDTH - least)
    what = f"task {task}" if count == 1 else plural(count, "task")
    text = f"{phase} {what}, {outcome}: {duration(busy)} from {duration(max(0.0, start))}, {lane_name(lane)}"
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{row * LANE_PX + top}" width="{width:.2f}" height="{height}">'
        f"<title>{safe(text)}</title></rect>"
    )


def _axis(end: float) -> str:
    marks = "".join(f"<span>{duration(end * part / 4) if part else '0'}</span>" for part in range(5))
    return f'<div class="axis" aria-hidden="true">{marks}</div>'


_LEGEND = (
    '<ul class="legend" aria-hidden="true"><li><i class="map"></i>map</li><li><i class="reduce"></i>reduce</li>'
    '<li><i class="bad"></i>died, failed or lost (tall)</li><li><i class="dup"></i>duplicate or revoked (low)</li></ul>'
)


def lane_name(lane: dict[str, Any]) -> str:
    """Return the name of a lane: its worker, and its slot if that is known."""
    return f"{plain(lane['worker'])} {_slot_name(lane)}".rstrip()


def _slot_name(lane: dict[str, Any]) -> str:
    return "" if lane["slot"] is None else f"slot {lane['slot']}"


def lanes_table(work: dict[str, Any], seconds: float) -> str:
    """Return the numbers of the lanes."""
    rows = [
        [
            lane_name(lane),
            number(lane["tasks"]),
            duration(lane["busy_s"]),
            f"{min(1.0, lane['busy_s'] / seconds) if seconds else 0:.0%}",
            number(lane["faults"]),
            number(lane["duplicates"]),
        ]
        for lane in work["lanes"]
    ]
    heads = ["slot", "tasks", "busy", "share of the job", "died or failed", "duplicates"]
    return table("Slots and what they did", heads, rows)


def skew_chart(reduce: dict[str, Any]) -> str:
    """Return the largest reduce tasks as bars, with the mean beside them."""
    largest = reduce["largest"]
    most = max((task["bytes_in"] for task in largest), default=0)
    if not most:
        return "<p>There was no reduce task with input, or nobody knows its size.</p>"
    mean = reduce["bytes"] / reduce["tasks"]
    height = LANE_PX * (len(largest) + 1)
    rows = [(mean, "mean"), *((task["bytes_in"], "reduce") for task in largest)]
    rects = "".join(
        f'<rect class="{kind}" x="0" y="{row * LANE_PX + 4}" width="{max(MIN_WIDTH, n_bytes / most * WIDTH):.2f}" '
        f'height="{BAR_PX}"/>'
        for row, (n_bytes, kind) in enumerate(rows)
    )
    names = "".join(
        f"<li>{safe(name)}</li>" for name in ["mean", *(f"task {each['task']}" for each in largest)]
    )
    return (
        f"<p>The largest of {plural(reduce['tasks'], 'reduce task')} has {most / mean:.1f} times the mean.</p>"
        f'<div class="chart"><ol class="names" aria-hidden="true">{names}</ol><div class="plot">'
        f'<svg role="img" aria-labelledby="skew-t skew-d" viewBox="0 0 {WIDTH} {height}" height="{height}" '
        'preserveAspectRatio="none"><title id="skew-t">Bytes of the largest reduce tasks</title>'
        f'<desc id="skew-d">The mean, then the largest tasks. The table below has the same numbers.</desc>{rects}</svg>'
        f'<div class="axis" aria-hidden="true"><span>0</span><span>{size(most)}</span></div></div></div>'
    )


def skew_table(reduce: dict[str, Any]) -> str:
    """Return the numbers of the largest reduce tasks."""
    rows = [
        [
            f"task {task['task']}",
            number(task["partitions"]) if task["partitions"] is not None else "unknown",
            size(task["bytes_in"]),
            number(task["keys"]) if task["keys"] is not None else "unknown",
            duration(task["seconds"]),
            plain(task["worker"]),
        ]
        for task in reduce["largest"]
    ]
    heads = ["reduce task", "partitions", "bytes", "keys", "time", "worker"]
    return table("The largest reduce tasks", heads, rows)


def table(caption: str, heads: list[str], rows: list[list[Any]]) -> str:
    """Return a table. The first cell of a row names it."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{safe(text)}</th>' for text in heads)
    body = "".join(f"<tr>{_cell(row[0], 'th scope=row')}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{safe(caption)}"><table><caption>{safe(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any, start: str = "td") -> str:
    """Return a cell. A short text, such as a number with its unit, stays on one line."""
    text = plain(value)
    kind = " class=short" if len(text) <= SHORT_CHARS else " class=long" if len(text) > LONG_CHARS else ""
    return f"<{start}{kind}>{html.escape(text)}</{start[:2]}>"
