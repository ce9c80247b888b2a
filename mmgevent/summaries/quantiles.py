"""Quantiles of numbers: exact while they are few, then within a known error of rank.

Up to `EXACT` values are kept as they are. Beyond that a t-digest stands for them: T. Dunning and
O. Ertl, "Computing extremely accurate quantiles using t-digests", 2019, the merging variant with the
scale function k1. Its centroids are small at both ends, so extreme quantiles are nearly exact; at the
median the rank is off by less than `RANK_ERROR` of the count.

A digest among values is (DIGEST, count, least, largest, means, weights), plain data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

DIGEST = "mmgevent quantiles"

#: Most values that are kept, and whose quantiles are exact.
EXACT = 1000

#: Number of centroids to aim at: the delta of the paper. A digest takes about 16 bytes for each.
CENTROIDS = 500

#: Largest error of rank that is promised, as a part of the count.
RANK_ERROR = 0.005

_Centroids = list[tuple[float, int]]


def summarize(values: Iterable[Any]) -> list[Any]:
    """Return the values, or a list of one digest if they are many."""
    singles, digests = _take(values)
    if not digests and len(singles) <= EXACT:
        return singles
    centroids, least, largest = _merge(singles, digests)
    return [
        (
            DIGEST,
            sum(weight for _, weight in centroids),
            least,
            largest,
            [mean for mean, _ in centroids],
            [weight for _, weight in centroids],
        )
    ]


def quantiles(values: Iterable[Any], ranks: Sequence[float]) -> list[float]:
    """Return the quantiles at `ranks`, each from 0 to 1, of values and digests.

    Between two values the quantile is interpolated, as numpy does by default. All are NaN if a value
    is.
    """
    singles, digests = _take(values)
    if any(value != value for value in singles) or any(digest[2] != digest[2] for digest in digests):
        return [math.nan] * len(ranks)
    if not digests and len(singles) <= EXACT:
        points = [(float(i), value) for i, value in enumerate(sorted(singles))]
    else:
        points = _points(*_merge(singles, digests))
    return [_interpolate(points, rank * points[-1][0]) for rank in ranks]


def _take(values: Iterable[Any]) -> tuple[list[float], list[tuple[Any, ...]]]:
    """Return the values as floats, and the digests."""
    singles, digests = [], []
    for value in values:
        if type(value) is tuple and value and value[0] == DIGEST:
            digests.append(value)
        elif isinstance(value, str | bytes | bytearray):
            raise TypeError(f"quantiles are of numbers; got {type(value).__name__}: {value!r:.80}")
        else:
            singles.append(float(value))
    return singles, digests


def _merge(singles: list[float], digests: list[tuple[Any, ...]]) -> tuple[_Centroids, float, float]:
    """Return the centroids of all, the least value and the largest. NaN is the least if there is one."""
    nan = next((v for v in (*singles, *(digest[2] for digest in digests)) if v != v), None)
    if nan is not None:
        count = len(singles) + sum(digest[1] for digest in digests)
        return [(nan, count)], nan, nan
    least = min((*singles, *(digest[2] for digest in digests)))
    largest = max((*singles, *(digest[3] for digest in digests)))
    centroids = [(value, 1) for value in singles]
    for digest in digests:
        centroids += zip(digest[4], digest[5], strict=True)
    centroids.sort()
    return _join(centroids), least, largest


def _join(centroids: _Centroids) -> _Centroids:
    """Join neighbours as far as the scale function allows: one unit of k1 for a centroid."""
    total = sum(weight for _, weight in centroids)
    joined: _Centroids = []
    (mean, weight), before = centroids[0], 0
    limit = total * _rank_after(0.0)
    for next_mean, next_weight in centroids[1:]:
        has_mean = mean == next_mean or (math.isfinite(mean) and math.isfinite(next_mean))
        if has_mean and before + weight + next_weight <= limit:
            weight += next_weight
            if mean != next_mean:
                mean = _between(mean, next_mean, next_weight / weight)
        else:
            joined.append((mean, weight))
            before += weight
            limit = total * _rank_after(before / total)
            mean, weight = next_mean, next_weight
    joined.append((mean, weight))
    return joined


def _rank_after(rank: float) -> float:
    """Return the largest rank at which a centroid that begins at `rank` may end."""
    angle = math.asin(min(1.0, 2 * rank - 1)) + 2 * math.pi / CENTROIDS
    return 1.0 if angle >= math.pi / 2 else (math.sin(angle) + 1) / 2


def _points(centroids: _Centroids, least: float, largest: float) -> list[tuple[float, float]]:
    """Return (rank from 0, value) of the ends and of the middle of each centroid."""
    total = sum(weight for _, weight in centroids)
    points = [(0.0, least)]
    ends = accumulate(weight for _, weight in centroids)
    for (mean, weight), end in zip(centroids, ends, strict=True):
        middle = end - (weight + 1) / 2  # of the ranks from end - weight to end - 1
        if 0 < middle < total - 1:
            points.append((middle, mean))
    points.append((float(total - 1), largest))
    return points


def _interpolate(points: list[tuple[float, float]], rank: float) -> float:
    """Return the value at a rank, on the line between the points on both sides."""
    low, high = 0, len(points) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if points[middle][0] <= rank:
            low = middle
        else:
            high = middle
    (before, value), (after, next_value) = points[low], points[high]
    if rank <= before or value == next_value:
        return value
    if rank >= after:
        return next_value
    return _between(value, next_value, (rank - before) / (after - before))


def _between(low: float, high: float, part: float) -> float:
    """Return low + part * (high - low), rounded as numpy rounds it."""
    width = high - low
    if not math.isfinite(width):  # one of them is infinite, or they are too far apart
        return low * (1 - part) + high * part
    return low + width * part if part < 0.5 else high - width * (1 - part)
