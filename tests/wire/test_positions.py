"""Positions and parts: every item has one number, and every item of an entry is in exactly one part."""

import itertools

import pytest

from mmgevent.wire.positions import ALL, WHOLE, entry_of, halves_of, place_of, position_of, range_of, start_of


def test_a_position_names_entry_and_place_and_ascends_with_both():
    places = [(entry, place) for entry in (0, 1, 2**20) for place in (0, 1, WHOLE - 1, WHOLE)]
    positions = [position_of(*place) for place in places]
    assert [(entry_of(p), place_of(p)) for p in positions] == places
    assert positions == sorted(positions)
    assert max(positions) < 2**63, "it travels as an integer of a message"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 1000])
def test_the_parts_of_an_entry_have_each_of_its_items_once(count):
    parts = [ALL]
    for depth in range(5):
        assert [part[1] for part in parts] == [depth] * 2**depth
        assert list(itertools.chain(*(range(*range_of(part, count)) for part in parts))) == list(range(count))
        starts = [start_of(part) for part in parts]
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        assert starts[-1] < 1
        parts = [half for part in parts for half in halves_of(part)]
