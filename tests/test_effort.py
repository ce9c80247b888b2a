"""What `make test` leaves out is there, and each share of the seeds is what it says."""

import re

import pytest

from tests import effort
from tests.effort import LONG, LONGEST, SAMPLED, share_of, some_of
from tests.integration.commands import ROOT

TABLES = [
    (file, name)
    for table in (LONG, SAMPLED)
    for file, names in table.items()
    for name in (names.split() if isinstance(names, str) else names)
]
TABLES.append(LONGEST)


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_each_test_that_is_long_is_there(file, name):
    assert re.search(rf"^    def {name}\(|^def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (0.5, [0, 2, 4, 6, 8]), (0.1, [0]), (0.001, [0])],
)
def test_a_share_of_the_seeds_is_spread_evenly_and_never_none(monkeypatch, share, expected):
    monkeypatch.setattr(effort, "SHARE", share)
    assert list(some_of(range(10))) == expected
    assert share_of(10) == len(expected)
