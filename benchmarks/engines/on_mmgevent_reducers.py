"""mmg-run with a reducer that the engine recognises, `reducers.sum_values`: folded in C where it is mapped."""

from __future__ import annotations

from benchmarks.engines import Request, on_mmgevent

TITLE = "mmgevent, sum_values"
CANNOT = dict.fromkeys(("index", "tiny", "start", "blocks", "wait"), "same as mmgevent")


def command(request: Request) -> list[str]:
    return on_mmgevent.command(request, f"{request.work}_reducer")
