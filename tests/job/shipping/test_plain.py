"""Plain data is distinguished from values that the packer must look into."""

import pickle

import pytest

from mmgevent.job.shipping.plain import is_plain, reduce_container


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        None,
        [],
        {"a": 1},
        [(1, "a"), (2, "b")],
        [{"a": [1, {"b": None}]}, {"a": []}],
        {(1, 2): {3}},
        [((1, [2]), 3)],
        frozenset([(1, 2)]),
    ],
)
def test_what_json_might_hold_is_plain(value):
    assert is_plain(
        pickle.loads(pickle.dumps(value))
    )  # a constant's parts would be shared with this module's code


@pytest.mark.parametrize(
    "value", [object(), Text("x"), [Text("x")], {1: object()}, [[len]], {1: print}, range(3)]
)
def test_objects_with_code_of_their_own_are_not(value):
    assert not is_plain(value)


def test_a_container_that_something_else_refers_to_is_not():
    shared: list = []
    assert not is_plain([shared])
    assert not is_plain([(1, shared)])
    row = (1, 2)
    assert is_plain([row, row])


def test_nesting_without_end_is_not():
    endless: list = []
    endless.append(endless)
    assert not is_plain(endless)
    assert not is_plain([endless])


def test_big_plain_containers_are_reduced_to_a_pickle():
    rows = [[i, str(i)] for i in range(1000)]
    load, arguments = reduce_container(rows)
    assert load(*arguments) == rows
    assert reduce_container(rows[:10]) is NotImplemented
    assert reduce_container([object()] * 1000) is NotImplemented
