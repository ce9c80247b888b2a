"""Keys of every kind, for the tests of whatever hashes, groups or sends them.

Two lists say what must hold between them: the keys in a row of `EQUAL` are one
key, no two of `DIFFERENT` may share a hash.  `keys` generates any of them.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import importlib
import math
import os
import time
import uuid

import pytest
from hypothesis import strategies as st

from mmgevent._speedups import _fallback

try:
    native = importlib.import_module("mmgevent._speedups._core")
except ModuleNotFoundError:
    if os.environ.get("MMGEVENT_REQUIRE_NATIVE") == "1":
        raise
    native = None

needs_native = pytest.mark.skipif(native is None, reason="the C core is not built")

#: parameters of a fixture that gives a test both implementations
IMPLEMENTATIONS = [
    pytest.param(_fallback, id="fallback"),
    pytest.param(native, id="native", marks=needs_native),
]


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias is meant
    BLUE = "blue"


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):  # noqa: UP042 (a StrEnum is another kind of key)
    A = "a"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Text(str):
    pass


class Folded(str):
    """A str that compares without case: a class of its own."""

    def __eq__(self, other):
        return str.lower(self) == str.lower(other)

    def __hash__(self):
        return hash(str.lower(self))


@dataclasses.dataclass(frozen=True)
class Place:
    name: str
    lat: float
    note: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Handmade:
    name: str

    def __eq__(self, other):
        return isinstance(other, Handmade) and self.name.lower() == other.name.lower()

    def __hash__(self):
        return hash(self.name.lower())


@dataclasses.dataclass(frozen=True, eq=False)
class Extended(Place):
    """Inherits an __eq__ that knows nothing of `extra`."""

    extra: int = 0


class Plain:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Plain) and self.value == other.value

    def __hash__(self):
        return hash(self.value)


class ByIdentity:
    pass


class Replaced(ByIdentity):
    def __init__(self, key):
        self.key = key

    def __partition_key__(self):
        return self.key


class Angry:
    """Raises wherever it is asked to."""

    def __init__(self, where):
        self.where = where

    def __hash__(self):
        if self.where == "hash":
            raise KeyError("angry hash")
        return 1

    def __eq__(self, other):
        raise LookupError("angry eq")

    def __partition_key__(self):
        if self.where == "partition":
            raise OSError("angry partition key")
        return 1


class Wide(tuple):
    """Overrides what looks at a tuple, but neither __eq__ nor __hash__."""

    __slots__ = ()

    def __iter__(self):
        return iter("liar")

    def __len__(self):
        return 7


def east(hours):
    return datetime.timezone(datetime.timedelta(hours=hours))


def nested(depth):
    key = ()
    for _ in range(depth):
        key = (key,)
    return key


class TurnedBack(datetime.tzinfo):
    """A zone where every reading of the clock occurs twice."""

    def utcoffset(self, moment):
        return datetime.timedelta(hours=1 - moment.fold)


TURNED_BACK = TurnedBack()
NOON = datetime.datetime(2024, 2, 29, 12, 30, 1, 7)

#: (key, hash_key(key)): two versions in one job must agree, and so must workers of every platform
#: (key, hash_key(key)): two versions in one job must agree, and so must workers of every platform
GOLDEN = [
    (None, 0x633457081244AFEC),
    (..., 0xB16053C0EFB38008),
    (0, 0x1595464C0D253E1C),
    (1, 0xAD1CEB6696147FEB),
    (-1, 0xF1D10A16DBC387EB),
    (2**61 - 1, 0x1595464C0D253E1C),
    (2**200, 0xBE793715A11E173A),
    (0.5, 0xACD879A4FE35412D),
    (-1.5, 0xCB3DBF91B6D5438D),
    (math.inf, 0xD73436F9B008C5D3),
    (math.nan, 0x2C3F836A5DF75B04),
    (1j, 0xFBFA9A189826DC19),
    (decimal.Decimal("1e-5"), 0x66C1B74A348346D7),
    (fractions.Fraction(1, 3), 0xC074D04F84D000E1),
    ("", 0x7A08A8F914CC241D),
    ("a", 0x5250442376B2791A),
    ("word", 0x3574DB61758EF82E),
    ("thirty-one characters, the limit", 0xD87F4B59A7AE2ACB),
    ("a text long enough to need several stripes of thirty-two bytes each", 0x18BD509CFC82F5AC),
    ("grün", 0x9AEEDD9E9BD1809A),
    ("\U0001f600\ud800", 0x584D086A9648F390),
    (b"", 0x78452AA11AF39F9B),
    (b"a", 0x8205D9E1EDE41BB2),
    ((), 0x5D9DECA87EF79B8),
    (("a", 1), 0xD974637DDA53B874),
    (("a", ("b", None), 2.5), 0x32950C17E5DDA354),
    (tuple(range(20)), 0x6319A572010B427B),
    (frozenset(), 0xA6465C28AC4FAEFF),
    (frozenset(["a", 1, ("b",)]), 0x87537B6142B0F000),
    (Point(1, 2), 0x5E81839237E391CD),
    (Number.ONE, 0xAD1CEB6696147FEB),
    (Word.A, 0x5250442376B2791A),
    (Colour.BLUE, 0x1A93BF7784A503AB),
    (Access.READ | Access.WRITE, 0x6AE7D668EEF198A8),
    (int, 0x63A203478B50126C),
    (Place, 0xD250C76FED89CA93),
    (nested, 0x7CC97F1D53EE5890),
    (len, 0xD89B63786DDAF624),
    (NOON, 0xA3E2690363616D37),
    (NOON.replace(tzinfo=east(2)), 0x146EDC973D4CCCEE),
    (datetime.date(2024, 2, 29), 0xD1152BED20A80F93),
    (datetime.time(23, 59, 59, 999999), 0x3954BC2171A5BD92),
    (datetime.time(1, 2, tzinfo=east(5)), 0x90656F4A93A8615E),
    (datetime.timedelta(days=-1, microseconds=1), 0x71EFD8D30C65B1A4),
    (uuid.UUID("12345678-1234-5678-1234-567812345678"), 0x2651B8004F9F9712),
    (range(3, 30, 4), 0x871EEB14285BCFCA),
    (Place("x", 1.5, "y"), 0x81036E86F3705D8F),
    (Replaced("r"), 0xE0BB4EE92AB387BA),
]

#: keys that are equal in each row
EQUAL = [
    [1, 1.0, True, 1 + 0j, decimal.Decimal(1), decimal.Decimal("1.00"), fractions.Fraction(1), Number.ONE],
    [0, 0.0, -0.0, False, decimal.Decimal("-0"), -0j],
    [0.5, fractions.Fraction(1, 2), decimal.Decimal("0.5")],
    [2**200, float(2**200), decimal.Decimal(2**200)],
    [-1, -1.0],
    [-2],
    [math.inf, decimal.Decimal("Infinity")],
    [-math.inf, decimal.Decimal("-Infinity")],
    ["", Text("")],
    ["a", Text("a"), Word.A],
    [b""],
    [b"a", type("Raw", (bytes,), {})(b"a")],
    ["é\ud800\U0001f600" * 100, Text("é\ud800\U0001f600" * 100)],
    ["é\ud800\U0001f600", Text("é\ud800\U0001f600")],
    [()],
    [(1, "a"), Point(1.0, "a"), Wide((True, Text("a")))],
    [((),)],
    [time.gmtime(0), tuple(time.gmtime(0))],
    [tuple(range(40)), tuple(map(float, range(40)))],
    [frozenset(), frozenset(iter(()))],
    [frozenset("abc"), frozenset("cba"), type("Bag", (frozenset,), {})("bca")],
    [frozenset([(1, 2), frozenset([3])]), frozenset([frozenset([3.0]), (1.0, 2)])],
    [None],
    [...],
    [Colour.RED, Colour.CRIMSON, Colour(1)],
    [Colour.BLUE],
    [Access.READ | Access.WRITE, Access(3)],
    [int],
    [Place],
    [len],
    [nested],
    [NOON, NOON.replace(fold=1), type("Moment", (datetime.datetime,), {})(2024, 2, 29, 12, 30, 1, 7)],
    [NOON.replace(tzinfo=east(0)), NOON.replace(tzinfo=east(0)).astimezone(east(5))],
    [NOON.replace(tzinfo=TURNED_BACK), NOON.replace(tzinfo=TURNED_BACK, fold=1)],
    [datetime.date(2024, 2, 29)],
    [datetime.datetime(2024, 2, 29)],
    [datetime.time(12, 30), datetime.time(12, 30, fold=1)],
    [datetime.time(12, 30, tzinfo=east(0)), datetime.time(14, 30, tzinfo=east(2))],
    [datetime.timedelta(days=1), datetime.timedelta(hours=24)],
    [datetime.timedelta.max],
    [datetime.timedelta.min],
    [datetime.datetime.min.replace(tzinfo=east(14))],
    [uuid.UUID(int=5), uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe)],
    [range(0), range(5, 5)],
    [range(1, 2), range(1, 9, 100)],
    [range(0, 4, 2), range(0, 3, 2)],
    [Place("x", 1.0), Place("x", 1, "y")],
    [Extended("x", 1.0), Extended("x", 1.0, extra=5)],
    [Handmade("x"), Handmade("X")],
    [Folded("Q"), Folded("q")],
    [Plain("x"), Plain("x")],
    [Plain(1), Plain(1.0)],
    [Replaced("r")],
]

EVERY_KEY = [key for row in EQUAL for key in row]

#: keys of different kinds that look alike; no two may share a hash
DIFFERENT = [
    "a", b"a", ("a",), (b"a",), frozenset(["a"]), "", b"", (), frozenset(), None, ..., 0, 1, "1", "None", math.nan,
    (1,), (1, ()), ((1,),), (1, 2), (2, 1), frozenset([1, 2]), ((), ()), (((),),),
    NOON, NOON.replace(tzinfo=east(0)), NOON.date(), datetime.datetime(2024, 2, 29), NOON.time(),
    NOON.time().replace(tzinfo=east(0)), datetime.timedelta(1), uuid.UUID(int=1), range(1), range(3),
    Colour.RED, Colour.BLUE, Access.READ, Colour, Access, Place("x", 1), Extended("x", 1), Place("y", 1),
    nested, east, len, print,
]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.floats(), st.complex_numbers(), st.text(),
    st.text(max_size=2), st.binary(max_size=40), st.decimals(allow_nan=False), st.just(decimal.Decimal("NaN")),
    st.fractions(), st.dates(), st.datetimes(), st.datetimes(timezones=st.sampled_from([east(0), east(-9.5)])),
    st.times(), st.timedeltas(), st.uuids(), st.sampled_from([..., Colour.RED, Number.ONE, Word.A, int, len, (), frozenset()]),
)  # fmt: skip
#: ways to make one key of two or more others
SHAPES = [
    tuple,
    frozenset,
    lambda items: (items[0],),
    lambda items: tuple(items * 9),
    lambda items: Point(*items[:2]),
    lambda items: Place(*items[:2]),
    lambda items: Plain(items[0]),
    lambda items: Replaced(items[0]),
]


def shaped(inner):
    return st.builds(
        lambda shape, items: shape(items), st.sampled_from(SHAPES), st.lists(inner, min_size=2, max_size=4)
    )


keys = st.recursive(scalars, shaped, max_leaves=8)
