"""Classes of a job's own module, for the tests of plain data: what is plain, and what only looks so."""

import copyreg
import enum
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass
class Point:
    x: Any
    y: Any = None

    @property
    def size(self):
        return self.x

    def add(self, other):
        raise AssertionError("decoding calls no method")

    extend = append = __setitem__ = add


@dataclass
class Hooked:
    hook: Any = lambda: None

    def __len__(self):
        return 0


@dataclass(frozen=True)
class Frozen:
    x: Any = 0
    extra: Any = field(default=None, compare=False)


@dataclass(slots=True)
class Slotted:
    x: Any


@dataclass(slots=True, frozen=True)
class SlottedFrozen:
    x: Any
    y: Any = 2


@dataclass
class Derived(Point, Generic[T]):
    z: Any = 3

    @dataclass
    class Inner:
        w: Any


Pair = namedtuple("Pair", "a b")


class Row(NamedTuple):
    a: Any
    b: Any = "x"


class Summed(namedtuple("Summed", "a b")):
    def total(self):
        return self.a + self.b


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):  # noqa: UP042 (a StrEnum is another kind of key)
    A = "a"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    READ = 1
    WRITE = 2


# What is not plain unless the job names it.


class Ordinary:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is type(self) and self.value == other.value

    __hash__ = None


class Listed(list):
    """Pickled with its items and its attributes."""


@dataclass
class Reduces:
    x: int

    def __reduce__(self):
        return Reduces, (1,)


@dataclass
class Restores:
    x: int

    def __setstate__(self, state):
        raise AssertionError("a method of a class that is not plain was called")


@dataclass
class Ends:
    x: int

    def __del__(self):
        ENDED.append(self.x)


ENDED: list[Any] = []


@dataclass
class Guesses:
    x: int

    def __getattr__(self, name):
        raise AttributeError(name)


@dataclass
class OfException(Exception):
    x: int


class Meta(type):
    def __call__(cls, *args):
        return super().__call__(*args)


@dataclass
class OfMeta(metaclass=Meta):
    x: int


@dataclass
class Registered:
    x: int


copyreg.pickle(Registered, lambda each: (Registered, (each.x,)))


class Stubborn(enum.Enum):
    A = 1

    def __reduce_ex__(self, protocol):
        return Stubborn, (1,)
