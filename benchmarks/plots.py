"""Figures of runs as bars, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import Row, yardsticks

#: bars of the yardstick, of mmgevent in all its forms, and of the others
COLOURS = {"ideal": "#8c8c8c", "mmgevent": "#2f6fb0", "": "#d8a25e"}


def plot_rows(rows: Sequence[Row], stem: Path) -> list[str]:
    """Write STEM.png and STEM.svg, a panel of bars for each work; return the names of what was written."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed (pip install 'mmgevent[bench]')")
        return []
    rows = [row for row in rows if row.runs]
    works = list(dict.fromkeys(row.work.name for row in rows))
    if not works:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [[row for row in rows if row.work.name == work] for work in works]
    heights = [1.0 + len(panel) for panel in panels]
    figure, axes = pyplot.subplots(
        len(works),
        1,
        figsize=(9, 0.38 * sum(heights) + 0.6),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, panel, yardsticks(rows))
    figure.tight_layout()
    names = []
    for suffix in (".png", ".svg"):
        path = stem.with_suffix(suffix)
        figure.savefig(path, dpi=150)
        names.append(path.name)
    pyplot.close(figure)
    return names


def _draw_panel(axis: Any, panel: list[Row], yards: dict[str, Row]) -> None:
    """Draw the median wall time of each engine, with its spread, and its ratio to the yardstick behind it."""
    for place, row in enumerate(panel):
        walls = row.walls()
        middle = statistics.median(walls)
        spread = [[middle - min(walls)], [max(walls) - middle]]
        colour = COLOURS.get(row.engine.partition("-")[0], COLOURS[""])
        axis.barh(place, middle, xerr=spread, color=colour, capsize=2, height=0.7)
        ratios = row.ratios(yards.get(row.work.name))
        text = f"  {middle:.2f} s" + (f", {statistics.median(ratios):.2f} x" if ratios else "")
        axis.text(max(walls), place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(panel)), [row.title for row in panel], fontsize=8)
    axis.invert_yaxis()
    axis.set_title(f"{panel[0].work.title} (wall s, less is better)", loc="left", fontsize=9)
    axis.set_xlim(0, 1.25 * max(max(row.walls()) for row in panel))
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
