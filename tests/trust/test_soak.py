"""A server on which jobs, workers and drivers come and go has in the end what it had in the beginning."""

from __future__ import annotations

import copy

import pytest

from tests.effort import SOAK_S
from tests.trust.soak import MAX_GROWTH_MIB, MAX_GROWTH_OBJECTS, Figures, find_left, soak

QUIET = Figures(
    {"descriptors": 10, "threads": 2, "greenlets": 15, "files": 2, "objects": 30_000, "resident MiB": 50.0},
    {"descriptors": 8, "threads": 1, "processes": 2, "resident MiB": 35.0},
)


#: Time for what is not the soak itself: to start, to end all that came, and to look, seconds.
AROUND_S = 180


@pytest.mark.long
@pytest.mark.timeout(SOAK_S + AROUND_S)
def test_nothing_is_left_of_those_who_came_and_went():
    done, _ = soak(SOAK_S, seed=int(SOAK_S))
    assert done.counts["jobs of drivers that were left alone"] > 0
    assert done.counts["workers: kill"] > 0


@pytest.mark.parametrize(
    ("who", "what", "more"),
    [
        ("server", "descriptors", 1),
        ("server", "greenlets", 1),
        ("server", "threads", 1),
        ("server", "files", 1),
        ("server", "objects", MAX_GROWTH_OBJECTS + 1),
        ("server", "resident MiB", MAX_GROWTH_MIB + 1),
        ("worker", "descriptors", 1),
        ("worker", "processes", 1),
        ("worker", "resident MiB", MAX_GROWTH_MIB + 1),
    ],
)
def test_whatever_there_is_more_of_is_found(who, what, more):
    after = copy.deepcopy(QUIET)
    getattr(after, who)[what] += more
    (found,) = find_left(QUIET, after)
    assert str(getattr(after, who)) in found
    assert find_left(after, QUIET) == []
