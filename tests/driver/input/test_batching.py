"""batching: batches begin small, grow with what is known, and stay below their bounds."""

from mmgevent.driver.input.batching import (
    FIRST_BATCH_BYTES,
    FULL_BATCH_BYTES,
    MAX_BATCH_ITEMS,
    Speed,
    next_size,
)


def test_nothing_known_means_one_item():
    size = next_size(Speed())
    assert size.is_reached(1, 0)


def test_greenlets_get_at_least_as_many_items_as_they_can_run():
    assert not next_size(Speed(), at_least=100).is_reached(99, 0)
    assert not next_size(Speed(100, 0, 50.0, 1), at_least=100).is_reached(99, 0)


def test_batches_hold_whole_calls_unless_those_are_too_large():
    size = next_size(Speed(), multiple=64)
    assert [n for n in range(1, 130) if size.is_reached(n, n)] == [64, 128]
    assert size.is_reached(10, FULL_BATCH_BYTES)
    assert (size.round_up(1), size.round_up(64), size.round_up(65)) == (64, 64, 128)
    size.max_items = 0  # the batch is ended from elsewhere
    assert size.is_reached(1, 0)


def test_batches_are_a_twentieth_of_the_work_so_far_from_a_quarter_of_a_second_to_two():
    assert next_size(Speed(items=1000, weight=0, seconds=1.0, slots=2)).max_items == 250
    assert next_size(Speed(items=40_000, weight=0, seconds=40.0, slots=2)).max_items == 1000
    assert next_size(Speed(items=200_000, weight=0, seconds=200.0, slots=2)).max_items == 2000


def test_batches_grow_by_a_factor_of_what_was_mapped():
    size = next_size(Speed(items=2, weight=20, seconds=1e-6, slots=2))
    assert size.max_items == 5
    assert size.max_weight <= FIRST_BATCH_BYTES + 40


def test_heavy_items_travel_alone():
    assert next_size(Speed(items=10, weight=0, seconds=100.0, slots=2)).max_items == 1


def test_bounds_hold_for_work_that_costs_nothing():
    size = next_size(Speed(items=10**12, weight=10**15, seconds=1e-3, slots=1))
    assert size.max_items <= MAX_BATCH_ITEMS
    assert size.max_weight <= FULL_BATCH_BYTES
