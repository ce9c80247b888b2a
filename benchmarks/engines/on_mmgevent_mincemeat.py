"""The program of `on_mincemeat` over `mmgevent.mincemeat`, which has the old API."""

from __future__ import annotations

from benchmarks.engines import on_mincemeat
from benchmarks.engines.on_mincemeat import CANNOT  # noqa: F401 - read by the comparison

TITLE = "mmgevent.mincemeat"

if __name__ == "__main__":
    on_mincemeat.run("mmgevent.mincemeat")
