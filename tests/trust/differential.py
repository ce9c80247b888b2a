"""Small jobs drawn at random, run on a real cluster, against plain Python.

    $ python -m tests.trust.differential SEED...
    $ python -m tests.trust.differential 0-29

All jobs of one command share a server and two workers, of which one has no C core. A job may kill an executor, a
template, a worker or the server; whoever is killed is started again. What comes out is compared with `Drawn.expected`,
which calls the same functions here, in a loop. `differential_simulation` runs the same jobs in virtual time.

The functions and classes of this file are those of the jobs, and travel by value: they belong to `__main__`.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmgevent import reducers
from tests.trust.comparing import canonical, plain

#: Share of the seeds whose job kills something, and share whose items kill their executors: each costs half a second.
KILLING, DEADLY = 0.15, 0.04
#: Seconds for a job that takes a few.
PATIENCE_S = 90.0
#: Slots of the two workers together.
SLOTS = 3


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: str = "p"


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that the functions of a job have to know."""

    seed: int
    keys: tuple[str, ...]  #: kinds
    value: str  #: kind
    records: int  #: most of an item
    troubles: dict[int, str]  #: item -> what goes wrong each time
    flaky: frozenset[int] = frozenset()  #: items that fail once
    kill_phase: str = ""
    kill_at: int = -1  #: item
    victim: str = ""
    folder: str = ""  #: of marks that must be seen by all processes
    server: int = 0  #: process id


# The jobs: keys, values, items.

SCALARS: dict[str, Callable[[random.Random], Any]] = {
    "small int": lambda r: r.randrange(-3, 4),
    "int": lambda r: r.choice(
        [2**61 - 1, 2**61 - 2, 2**63, -(2**63), 10 ** r.randrange(40), -(2**200), 2**64]
    ),
    "bool": lambda r: r.random() < 0.5,
    "float": lambda r: r.choice(
        [float("nan"), -0.0, 0.0, float("inf"), float("-inf"), 0.5, 1.0, 1e300, 5e-324]
    ),
    "complex": lambda r: r.choice([1j, 1 + 0j, complex("nan+1j"), 0j]),
    "decimal": lambda r: decimal.Decimal(
        r.choice(["1", "1.00", "-0", "NaN", "0.5", "1e-5", "Infinity", "1e30"])
    ),
    "fraction": lambda r: fractions.Fraction(r.randrange(-4, 5), r.choice([1, 2, 3])),
    "str": lambda r: r.choice(["", "a", "grün", "\U0001f600", "word" * 20, "\0", "a\nb"]),
    "surrogate": lambda r: r.choice(["\udc80", "a\ud800", "\udfff\ud83d"]),
    "bytes": lambda r: r.choice([b"", b"a", b"\xff\0", bytes(range(40))]),
    "none": lambda r: None,
    "date": lambda r: datetime.date(2024, 2, r.randrange(1, 30)),
    "moment": lambda r: datetime.datetime(2024, 2, 29, r.randrange(24), tzinfo=datetime.UTC),
    "point": lambda r: Point(r.randrange(3)),
    "pair": lambda r: Pair(r.randrange(3), "x"),
    "colour": lambda r: r.choice([*Colour]),
    "ellipsis": lambda r: ...,
}
KEYS: dict[str, Callable[[random.Random], Any]] = {
    **SCALARS,
    "tuple": lambda r: (any_key(r), r.randrange(2)),
    "nested": lambda r: ((any_key(r), ()), (r.randrange(2), (b"x",))),
    "frozenset": lambda r: frozenset(any_key(r) for _ in range(r.randrange(4))),
    "frozensets": lambda r: (frozenset([frozenset([any_key(r)]), r.randrange(2)]), frozenset()),
}
#: All of these can be ordered and added without loss, in any grouping.
NUMBERS: dict[str, Callable[[random.Random], Any]] = {
    "int": lambda r: r.choice([r.randrange(-9, 9), 2**62, -(2**64), 10**25]),
    "equal numbers": lambda r: r.choice([0, 1, 1.0, True, False, 0.0, 2]),
    "decimal": lambda r: decimal.Decimal(r.randrange(-9, 9)) / 4,
    "fraction": lambda r: fractions.Fraction(r.randrange(-9, 9), 7),
}
HASHABLE: dict[str, Callable[[random.Random], Any]] = {
    "str": SCALARS["str"],
    "surrogate": SCALARS["surrogate"],
    "bytes": SCALARS["bytes"],
    "tuple": lambda r: (r.randrange(4), "x", (None,)),
    "frozenset": lambda r: frozenset([r.randrange(4), ("a", r.randrange(2))]),
    "point": SCALARS["point"],
    "colour": SCALARS["colour"],
}
OTHERS: dict[str, Callable[[random.Random], Any]] = {
    "list": lambda r: [r.randrange(4), [frozenset([1])]],
    "dict": lambda r: {"n": r.randrange(4), 2: {r.randrange(3)}},
    "nan": lambda r: r.choice([float("nan"), -0.0]),
    "long": lambda r: "x" * r.choice([10, 70_000]),
    "shared": lambda r: [SHARED, SHARED],
}
SHARED = ["one", ["object"]]
VALUES = {**NUMBERS, **HASHABLE, **OTHERS}


def any_key(r: random.Random) -> Any:
    return SCALARS[r.choice(list(SCALARS))](r)


def emit(recipe: Recipe, n: int) -> Iterator[tuple[Any, Any]]:
    """Yield the records of an item, or do what is wrong with it."""
    r = random.Random(f"{recipe.seed} {n}")
    trouble = recipe.troubles.get(n)
    if trouble in ("raise", "none"):
        raise ValueError(n)
    if recipe.kill_phase == "map" and recipe.kill_at == n:
        fall(recipe)
    for _ in range(r.randrange(recipe.records + 1)):
        yield KEYS[r.choice(recipe.keys)](r), VALUES[recipe.value](r)
    if n in recipe.flaky:
        fail_once(recipe, n)
    if trouble == "late":
        raise KeyError(n)
    if trouble == "exit":
        sys.exit(n)
    if trouble == "no pair":
        yield 5  # type: ignore[misc]
    if trouble == "bad key":
        yield [n], 1
    if trouble == "die":
        os._exit(3)


def fail_once(recipe: Recipe, n: int) -> None:
    try:
        os.mkdir(f"{recipe.folder}/tried-{n}")
    except FileExistsError:
        return
    raise OSError(f"the first try of {n}")


def fall(recipe: Recipe) -> None:
    """Kill the victim, once a job."""
    try:
        os.mkdir(f"{recipe.folder}/killed")
    except FileExistsError:
        return
    if recipe.victim == "server":
        os.kill(recipe.server, signal.SIGKILL)
        return
    pid = os.getpid()
    for _ in range({"executor": 0, "template": 1, "worker": 2}[recipe.victim]):
        with open(f"/proc/{pid}/stat") as stat:
            pid = int(stat.read().rpartition(")")[2].split()[1])  # its parent
    os.kill(pid, signal.SIGKILL)
    signal.pause()  # until it has come here


# Forms of mapfn. The value of an item is its number, or a text of it.


def of_class(recipe: Recipe) -> Callable[[Any, Any], Any]:
    class Mapper:
        def __init__(self) -> None:
            self.recipe = recipe

        def map(self, key: Any, value: Any) -> Any:
            return emit(self.recipe, int(value))

    return Mapper().map


class Callee:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, key: Any, value: Any) -> Any:
        yield from emit(self.recipe, int(value))


def scaled(recipe: Recipe, key: Any, value: Any, *, more: int = 0) -> Any:
    return iter(emit(recipe, int(value) + more))


def returning(make: Callable[[Any], Any], recipe: Recipe) -> Callable[[Any, Any], Any]:
    """Return a closure that returns what `make` makes of the records; None for an item that is to return that."""

    def mapfn(key: Any, value: Any) -> Any:
        n = int(value)
        return None if recipe.troubles.get(n) == "none" else make(emit(recipe, n))

    return mapfn


def generating(recipe: Recipe) -> Callable[[Any, Any], Any]:
    def mapfn(key: Any, value: Any) -> Any:
        yield from emit(recipe, int(value))

    return mapfn


#: What `mapfn`, a plain function of this file, reads.
RECIPE = Recipe(0, (), "", 0, {})


def mapfn(key: Any, value: Any) -> Any:
    return [*emit(RECIPE, int(value))]


FORMS: dict[str, Callable[[Recipe], Callable[[Any, Any], Any]]] = {
    "def": lambda recipe: mapfn,
    "lambda": lambda recipe: lambda key, value: emit(recipe, int(value)),
    "generator": generating,
    "list": functools.partial(returning, list),
    "dict": functools.partial(returning, dict),
    "lists": functools.partial(returning, lambda records: [[*record] for record in records]),
    "tuple": functools.partial(returning, tuple),
    "method": of_class,
    "object": Callee,
    "partial": lambda recipe: functools.partial(scaled, recipe, more=0),
}


# Reducing: collectfn and reducefn as the job has them, and what they come to.


def add(key: Any, values: Any) -> Any:
    return sum(values)


def flat(key: Any, values: Any) -> Any:
    return [value for part in values for value in part]


def pack(key: Any, values: Any) -> Any:
    return tuple(values)


def pack_all(groups: Any) -> Any:
    for key, values in groups:
        yield key, [tuple(values)]


def list_all(groups: Any) -> Any:
    for key, values in groups:
        yield key, list(values)


def longest(key: Any, values: Any) -> Any:
    return max(values, key=repr), len(values)


class Reducing(NamedTuple):
    collectfn: Any
    reducefn: Any
    meaning: Callable[[Any, list[Any]], Any]


def as_list(key: Any, values: Any) -> Any:
    return list(values)


ANY_REDUCING = {
    "none": Reducing(None, None, as_list),
    "list": Reducing(None, as_list, as_list),
    "count": Reducing(None, lambda key, values: len(values), reducers.count_values),
    "tuple": Reducing(None, pack, pack),
    "iterator": Reducing(None, list_all, as_list),
    "pack": Reducing(pack, flat, as_list),
    "pack iterator": Reducing(pack_all, flat, as_list),
    **{
        fn.__name__: Reducing(None, fn, fn)
        for fn in (reducers.count_values, reducers.first_value, reducers.list_values)
    },
}
HASHABLE_REDUCING = {"unique_values": Reducing(None, reducers.unique_values, reducers.unique_values)}
TOP = reducers.top_values(2)
NUMBER_REDUCING = {
    **HASHABLE_REDUCING,
    **{
        fn.__name__: Reducing(None, fn, fn)
        for fn in (
            *(reducers.sum_values, reducers.min_value, reducers.max_value),
            *(reducers.mean_values, reducers.std_values, reducers.count_distinct),
        )
    },
    "top_values": Reducing(None, TOP, TOP),
    "collect": Reducing(add, add, add),
    "collect known": Reducing(reducers.sum_values, add, add),
    "collect for known": Reducing(add, reducers.sum_values, add),
}


def with_kill(recipe: Recipe, reducefn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def falling(key: Any, values: Any) -> Any:
        fall(recipe)
        return reducefn(key, values)

    return falling


@dataclasses.dataclass
class Drawn:
    """One job, as its seed has it."""

    seed: int
    recipe: Recipe
    form: str
    reducing: Reducing
    source: str
    count: int  #: of items, whose values are the numbers below
    finish: str
    options: dict[str, Any]

    def functions(self, recipe: Recipe) -> tuple[Any, Any, Any]:
        """Return mapfn, collectfn and reducefn of a recipe."""
        global RECIPE
        RECIPE = recipe
        collectfn, reducefn, _ = self.reducing
        if recipe.kill_phase == "reduce":
            reducefn = with_kill(recipe, reducefn)
        return FORMS[self.form](recipe), collectfn, reducefn

    def expected(self, count: int | None = None) -> dict[Any, str]:
        """Return what plain Python makes of the first so many items: {canonical key: text of the value}."""
        quiet = dataclasses.replace(self.recipe, flaky=frozenset(), kill_phase="")
        fn = self.functions(quiet)[0]
        groups: dict[Any, list[Any]] = {}
        for n in range(self.count if count is None else count):
            if n not in quiet.troubles:
                records = fn(n, n)
                for key, value in records.items() if isinstance(records, dict) else records:
                    groups.setdefault(canonical(key), []).append(value)
        reduced = {key: self.reducing.meaning(key, values) for key, values in groups.items()}
        return {
            key: plain((value, "end") if self.finish == "pair" else value) for key, value in reduced.items()
        }

    @property
    def fault(self) -> str:
        """Return the name of the error that ends the job, or "" if it succeeds."""
        most = self.options.get("max_skipped", 0)
        if (
            len(self.recipe.troubles) <= most or 0 < most < 1
        ):  # a share is drawn larger than that of the troubles
            return ""
        return "TooManySkippedError" if most else "JobError"


def draw(seed: int) -> Drawn:
    """Return the job of a seed."""
    r = random.Random(seed)
    kinds = tuple(r.sample(list(KEYS), r.choice([1, 1, 2, 4])))
    value = r.choice([*NUMBERS, *NUMBERS, *HASHABLE, *OTHERS])
    reducings = {
        **ANY_REDUCING,
        **(NUMBER_REDUCING if value in NUMBERS else HASHABLE_REDUCING if value in HASHABLE else {}),
    }
    reducing = reducings[r.choice(list(reducings))]
    source = r.choice(["list", "mapping", "generator", "iterator", "lines", "files"])
    count = r.choice([0, 1, 3, 7] if source == "files" else [0, 1, 3, 20, 60, 60, 400, 2000])
    if value == "long":
        count = min(count, 60)
    options: dict[str, Any] = {}
    if r.random() < 0.5:
        options["partitions"] = r.choice([1, 2, 7, 64])
    if r.random() < 0.3:
        options["retransmit"] = r.choice([0.0, 1.0])
    if r.random() < 0.2:
        options["memory_limit"] = "600MiB"
    if r.random() < 0.2:
        options["task_timeout"] = 60
    troubles: dict[int, str] = {}
    flaky: frozenset[int] = frozenset()
    if r.random() < 0.06:
        options["allocation"] = "oneshot"
        source = "list" if source == "lines" else source  # of which a worker gets a part of a file
    else:
        troubles = draw_troubles(r, count, options)
        if count and r.random() < 0.2:
            options["retries"] = r.choice([1, 2])
            flaky = frozenset(r.sample(range(count), min(count, 3)))
    if r.random() < 0.15:
        options["greenlets"] = 3
    recipe = Recipe(seed, kinds, value, r.choice([1, 2, 5]), troubles, flaky - troubles.keys())
    if count and not troubles and "allocation" not in options and r.random() < KILLING / 0.6:
        victim = r.choice(["executor", "executor", "executor", "template", "worker", "server"])
        phase = r.choice(["map", "map", "reduce"]) if reducing.reducefn in (as_list, flat, pack) else "map"
        recipe = dataclasses.replace(recipe, kill_phase=phase, kill_at=r.randrange(count), victim=victim)
    return Drawn(
        seed, recipe, r.choice(list(FORMS)), reducing, source, count, r.choice(["", "", "pair"]), options
    )


def draw_troubles(r: random.Random, count: int, options: dict[str, Any]) -> dict[int, str]:
    """Return what goes wrong with which items, and set how many may be set aside."""
    if not count or r.random() > 0.35:
        return {}
    bad = r.sample(range(count), min(count, r.choice([1, 1, 3, 20])))
    kinds = ["raise", "late", "exit", "no pair", "bad key", "none"]
    troubles = {n: r.choice(kinds) for n in bad}
    if r.random() < DEADLY / 0.35:
        troubles = dict.fromkeys(bad[:1], "die")
    allowed = r.choice([0, len(troubles), len(troubles), len(troubles) + 2, len(troubles) - 1, 0.5])
    if allowed == 0.5 and len(troubles) * 2 >= count:
        allowed = len(troubles)
    if allowed:
        options["max_skipped"] = allowed
    return troubles


if __name__ == "__main__":
    from tests.trust import differential_cluster

    sys.exit(differential_cluster.main(sys.modules["__main__"], sys.argv[1:]))
