"""What a job means, in plain Python: the yardstick for inline and cluster runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def plain_mapreduce(
    items: Iterable[tuple[Any, Any]],
    mapfn: Callable[[Any, Any], Iterable[tuple[Any, Any]]],
    reducefn: Callable[[Any, list[Any]], Any] | None = None,
) -> dict[Any, Any]:
    """Return {key: reducefn(key, values in order)}, or {key: values} without reducefn."""
    groups: dict[Any, list[Any]] = {}
    for key, value in items:
        for k, v in mapfn(key, value):
            groups.setdefault(k, []).append(v)
    return {k: values if reducefn is None else reducefn(k, values) for k, values in groups.items()}
