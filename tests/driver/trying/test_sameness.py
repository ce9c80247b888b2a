"""Two results are the same if they differ only in what another order of work may change."""

import copy
import pickle
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from mmgevent.driver.trying.sameness import are_same, find_difference

NAN = float("nan")
SUM, OTHER_SUM = 0.1 + 0.2, 0.3  # of the same numbers


@dataclass(slots=True)
class Slotted:
    total: float
    name: str = "same"


@dataclass
class Noted:
    total: float
    calls: int = field(default=0, compare=False)


class Plain:
    def __init__(self, total):
        self.total = total


class Compared(Plain):
    def __eq__(self, other):
        return self.total == other.total

    __hash__ = None


class Private:
    __slots__ = ("__total",)

    def __init__(self, total):
        self.__total = total


def ring(count, last=0):
    """Return an object of a cycle in which each knows all others."""
    members = [Plain(0) for _ in range(count)]
    for number, member in enumerate(members):
        member.next, member.all = members[(number + 1) % count], members
    members[-1].total = last
    return members[0]


SAME = {
    "a sum in another order": (SUM, OTHER_SUM),
    "what is left of a sum": (0.1 + 0.2 - 0.3, 0.1 - 0.3 + 0.2),
    "a large sum that ends near zero": (2.3e-11, 0.0),
    "complex numbers": (complex(SUM, 1), complex(OTHER_SUM, 1)),
    "decimals": (Decimal("2.558495195436520102759838180"), Decimal("2.558495195436520102759838179")),
    "NaN": (NAN, copy.deepcopy(float("nan"))),
    "NaN in a set": ({NAN, 1.0}, {float("nan"), 1.0}),
    "NaN as a key": ({(1, NAN): 1}, {(1, float("nan")): 1}),
    "sums in a set": ({SUM, "a"}, {OTHER_SUM, "a"}),
    "other order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a count of zero": (Counter(a=0, b=1), Counter(b=1)),
    "slots": (Slotted(SUM, "".join(["sa", "me"])), Slotted(OTHER_SUM)),
    "fields that are not compared": (Noted(SUM, 1), Noted(OTHER_SUM, 2)),
    "a class without ==": (Plain(SUM), Plain(OTHER_SUM)),
    "a class whose == compares floats": (Compared(SUM), Compared(OTHER_SUM)),
    "a cycle": (ring(30), pickle.loads(pickle.dumps(ring(30)))),
}

OTHER = {
    "numbers": (1, 2),
    "floats": (0.3, 0.30001),
    "an int beyond any float": (10**400, 1.0),
    "texts": ("a", "b"),
    "types": ((1,), [1]),
    "exceptions": (ValueError("a"), ValueError("b")),
    "members of sets": ({1.0, 2.0}, {1.0, 3.0}),
    "slots": (Slotted(1.0), Slotted(2.0)),
    "private slots": (Private(1), Private(2)),
    "a cycle": (ring(30), ring(30, 1)),
    "NaN": (NAN, 1.0),
    "decimals": (Decimal("0.01"), Decimal("0.02")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_another_order_may_change_is_the_same(name):
    one, other = SAME[name]
    assert are_same(one, other)
    assert are_same([(one,)], [(other,)])


@pytest.mark.parametrize("name", OTHER)
def test_what_only_a_fault_changes_is_not_the_same(name):
    one, other = OTHER[name]
    assert not are_same(one, other)
    assert not are_same([(one,)], [(other,)])


def test_arrays_are_compared_as_their_numbers_are():
    numpy = pytest.importorskip("numpy")
    assert are_same(numpy.array([SUM, NAN]), numpy.array([OTHER_SUM, NAN]))
    assert are_same(numpy.float32(2.5584955), numpy.float32(2.5584953))
    assert are_same({"a": numpy.zeros(0)}, {"a": numpy.zeros(0)})
    assert are_same(numpy.arange(6).reshape(2, 3).T, numpy.arange(6).reshape(2, 3).T.copy())
    assert not are_same(numpy.array([1.0]), numpy.array([2.0]))
    assert not are_same(numpy.zeros(2), numpy.zeros(3))
    assert not are_same(numpy.array([1, 2]), numpy.array([1, 3]))


def test_records_whose_key_is_nan_are_found_again():
    assert find_difference([(NAN, 1)], [(float("nan"), 1)]) is None
    assert find_difference([(NAN, 1)], [(float("nan"), 2)])[1:] == (1, 2)
