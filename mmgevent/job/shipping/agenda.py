"""Keep the names that a payload must bind, in the order in which they are bound.

The order matters where the user's own code runs while things are rebuilt: modules go first, then
definitions, then plain values, then values made of other things, the latest found first.

A *spare* name is one that no function was seen to use. It may still be needed. So it is bound after
all names that functions use, and stays behind if it cannot travel.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import types
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mmgevent.job.shipping.namespaces import Namespaces
from mmgevent.job.shipping.plain import is_plain
from mmgevent.job.shipping.refusals import Reach

#: Ranks of values, the first to be bound first.
_MODULE, _DEFINITION, _VALUE, _COMPOUND = range(4)

_HOLDS_OTHERS = (list, tuple, dict, set, frozenset, functools.partial, types.MethodType)

#: What `Agenda.save` returns.
State = tuple[list[tuple[int, int, Reach]], set[tuple[int, str]]]


class Agenda:
    """The names to bind; each is added once and taken once."""

    def __init__(self, namespaces: Namespaces, by_value: frozenset[str]):
        self._namespaces = namespaces
        self._by_value = by_value
        #: a heap of (rank, turn in its rank, name)
        self._queue: list[tuple[int, int, Reach]] = []
        self._turns = itertools.count()
        #: (id of namespace, name) of all that were added
        self._seen: set[tuple[int, str]] = set()
        #: those of them that functions use
        self._used: set[tuple[int, str]] = set()
        #: spare names that wait until all that functions use is bound
        self._spares: list[Reach] = []
        #: ids of namespaces whose names were all added as spare ones
        self._opened: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, reach: Reach) -> None:
        """Add a name, unless it was added before."""
        key = (id(reach.namespace), reach.name)
        if not reach.is_spare:
            self._used.add(key)
        if key in self._seen:
            return
        self._seen.add(key)
        rank = _MODULE
        if reach.namespace is not None:
            if reach.is_spare and reach.name not in reach.namespace:
                return  # another thread of the program has deleted it
            value = reach.namespace[reach.name]
            if self._namespaces.name_of(value) in self._by_value:
                self.open(value)  # the globals themselves, as `vars()` at the top of a job returns them
            rank = self._rank(value)
            self._add_class(reach, type(value))
        turn = next(self._turns)
        heapq.heappush(self._queue, (rank, -turn if rank == _COMPOUND else turn, reach))

    def _add_class(self, reach: Reach, cls: type) -> None:
        """Add the class of a value, if it is one of the job's."""
        home = self._namespaces.home(cls.__module__) if cls.__module__ in self._by_value else None
        if home is not None and home.get(cls.__name__) is cls:
            self.add(replace(reach, namespace=home, name=cls.__name__))

    def _rank(self, value: Any) -> int:
        if isinstance(value, types.ModuleType):
            return _MODULE
        if isinstance(value, (type, types.FunctionType, functools._lru_cache_wrapper)):
            return _DEFINITION
        is_compound = isinstance(value, _HOLDS_OTHERS) or type(value).__module__ in self._by_value
        return _VALUE if is_plain(value) or not is_compound else _COMPOUND

    def take(self) -> Reach:
        """Return the name to bind next, and forget it."""
        return heapq.heappop(self._queue)[-1]

    def add_spares(self, names: Iterable[str], namespace: dict[str, Any]) -> None:
        """Add names of a namespace as spare ones, if it has them."""
        bound = self._namespaces.is_bound
        found = sorted({name for name in names if name in namespace and bound(namespace, name)})
        self.put_off(Reach(namespace, name, is_spare=True) for name in found)

    def put_off(self, spares: Iterable[Reach]) -> None:
        """Keep spare names until `take_spares`."""
        self._spares.extend(spares)

    def take_spares(self) -> list[Reach]:
        """Return the spare names, and forget them."""
        spares, self._spares = self._spares, []
        return spares

    def open(self, namespace: dict[str, Any] | None = None) -> None:
        """Add all names of a namespace and of the job's modules as spare ones."""
        jobs = [space for _, space in self._namespaces.job_homes()]
        for space in jobs if namespace is None else (namespace, *jobs):
            if id(space) not in self._opened:
                self._opened.add(id(space))
                self._namespaces.find_name(space)
                names = self._namespaces.bound_names(space)
                self.put_off(Reach(space, name, is_spare=True) for name in names)

    def spare_classes(self) -> Iterator[Reach]:
        """Yield the classes of the job's modules: an item may be an instance of one."""
        for _, namespace in self._namespaces.job_homes():
            for name, value in list(namespace.items()):
                if isinstance(value, type) and value.__module__ in self._by_value:
                    yield Reach(namespace, name, is_spare=True)

    def used_names(self, namespace: dict[str, Any]) -> set[str]:
        """Return the names of a namespace that functions use."""
        return {name for place, name in self._used if place == id(namespace)}

    def unused_names(self) -> dict[str, list[str]]:
        """Return {module: names that were never added}; an executor can say why one is missing."""
        return {
            home: [
                name for name in self._namespaces.bound_names(space) if (id(space), name) not in self._seen
            ]
            for home, space in self._namespaces.job_homes()
        }

    def save(self) -> State:
        """Return what `restore` needs to forget the names that are added from now on."""
        return list(self._queue), set(self._seen)

    def restore(self, state: State) -> None:
        """Forget the names that were added since `save`."""
        self._queue, self._seen = state
