"""Draw some items of a datasource: the first, the last, and others from all over it.

What can only be read from its start, an iterator or a stream, gives its first items. The choice is
the same each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from mmgevent.errors import MmgeventError
from mmgevent.job.inputs.refs import Ref, Unreadable
from mmgevent.job.inputs.source import Source
from mmgevent.job.job import Job
from mmgevent.tasks.blame import blame_driver_code

#: Items that are looked at in all files together. Each that is drawn is one of so many.
LOOK_ITEMS = 100_000

#: Least number of items that are looked at in a file that is drawn.
MIN_LOOK_ITEMS = 1000

#: Starts the generator of random numbers, so that two samples of one input are the same.
_SEED = 20

Item = tuple[Any, Any]


class Sample(NamedTuple):
    """Some items, and how many there are in all."""

    items: list[Item]
    #: where they were taken, in words
    how: str
    #: number of items of the whole input, or None if it is not known
    total: int | None
    is_estimate: bool = False
    #: what is wrong with files or items that cannot be read
    unreadable: tuple[str, ...] = ()
    #: for each item, the ref whose `join_values` makes one object of the values of a call. It is None
    #: where mapfn gets a list; the tuple is empty if it always does.
    joining: tuple[Ref | None, ...] = ()


class _Look(NamedTuple):
    """What was seen of one ref."""

    units: list[Item]  #: those that were drawn
    seen: int  #: number of units that were looked at
    n_bytes: int | None  #: bytes that they take, or None if that is not known
    is_whole: bool  #: whether there are no others


def draw_sample(job: Job[Any, Any], count: int) -> Sample:
    """Draw at most `count` items of a job's datasource, which this claims.

    Raise DatasourceError, and JobError for an exception of the user's own function or iterator.
    """
    opened = job.open_datasource()
    if isinstance(opened, Source):
        return _of_source(opened, count)
    try:
        if type(opened) in (list, tuple, range):
            places = choose_places(len(opened), count)
            return _pairs(job, [opened[place] for place in places], len(opened))
        if type(opened) in (set, frozenset):
            return _pairs(job, list(islice(opened, count)), len(opened))
        if isinstance(opened, Mapping):
            keys = list(opened)
            chosen = [keys[place] for place in choose_places(len(keys), count)]
            return _pairs(job, [(key, opened[key]) for key in chosen], len(keys))
        items = [(key, value) for key, value, _ in islice(job.walk(opened), count + 1)]
    except MmgeventError:
        raise
    except (Exception, SystemExit) as error:
        raise blame_driver_code(error, "datasource", "the datasource") from error
    total = len(items) if len(items) <= count else None
    how = (
        "all of them"
        if total is not None
        else "the first ones: the datasource can only be read from its start"
    )
    return Sample(items[:count], how, total)


def choose_places(total: int, count: int) -> list[int]:
    """Return the places of at most `count` of `total` things: first, last, and others drawn."""
    if total <= count:
        return list(range(total))
    if count == 1:
        return [0]
    inner = random.Random(_SEED).sample(range(1, total - 1), count - 2)
    return [0, *sorted(inner), total - 1]


def _pairs(job: Job[Any, Any], pairs: list[Any], total: int) -> Sample:
    items = [(key, value) for key, value, _ in job.walk(pairs)]
    return Sample(items, "all of them" if len(items) == total else _DRAWN, total)


_DRAWN = "the first, the last, and others drawn in between"


def _of_source(source: Source, count: int) -> Sample:
    if streams := source.streams():
        return _of_stream(source, count, streams[0])
    refs = list(source.refs())
    chosen = choose_places(len(refs), count)
    limit = max(MIN_LOOK_ITEMS, LOOK_ITEMS // max(1, len(chosen)))
    quota, more = divmod(count, max(1, len(chosen)))
    looks, looked, unreadable = [], [], []
    for number, place in enumerate(chosen):
        try:
            ends = (place == 0, place == len(refs) - 1)
            looks.append(_look(refs[place], quota + (number < more), limit, *ends))
            looked.append(refs[place])
        except MmgeventError as error:
            unreadable.append(str(error))
    units = [unit for look in looks for unit in look.units]
    unreadable += [str(value.error) for _, value in units if type(value) is Unreadable]
    items = [unit for unit in units if type(unit[1]) is not Unreadable]
    is_all = len(looks) == len(refs) and all(look.is_whole for look in looks)
    is_of_files = all(look.is_whole and look.seen == 1 for look in looks)
    total = sum(look.seen for look in looks) if is_all else len(refs) if is_of_files else None
    if total is None:
        total = _estimate_total(looks, sum(ref.weight for ref in refs))
    how = (
        "all of them"
        if total == len(units)
        else f"{_DRAWN}, from {len(chosen)} of {len(refs):,} files or splits"
    )
    joining = tuple(
        ref if ref.joins_values else None
        for ref, look in zip(looked, looks, strict=True)
        for _, value in look.units
        if type(value) is not Unreadable
    )
    return Sample(
        items,
        how,
        total,
        not is_all and not is_of_files,
        tuple(unreadable),
        joining if any(ref is not None for ref in joining) else (),
    )


def _of_stream(source: Source, count: int, name: str) -> Sample:
    """Take the first items of what can be read only once."""
    units: list[Item] = []
    for ref in source.refs():
        units += islice(ref.units(), count - len(units))
        if len(units) >= count:
            break
    bad = tuple(str(value.error) for _, value in units if type(value) is Unreadable)
    shown = "standard input" if name == "-" else name
    how = f"the first ones: {shown} can be read only once, and what was read of it is gone"
    return Sample([unit for unit in units if type(unit[1]) is not Unreadable], how, None, unreadable=bad)


def _look(ref: Ref, quota: int, limit: int, wants_first: bool, wants_last: bool) -> _Look:
    """Draw `quota` of the first `limit` units of a ref, all with the same chance."""
    chance = random.Random(_SEED)
    kept: list[tuple[int, Item]] = []
    last: tuple[int, Item] | None = None
    first_key: Any = None
    units: Iterator[Item] = iter(ref.units())
    for place, unit in enumerate(islice(units, limit)):
        last = place, unit
        if place == 0:
            first_key = unit[0]
        if len(kept) < quota:
            kept.append(last)
        elif (at := chance.randrange(place + 1)) < quota and not (wants_first and at == 0):
            kept[at] = last
    is_whole = next(units, None) is None
    if last is None:
        return _Look([], 0, ref.weight, True)
    if wants_last and is_whole and last not in kept and (quota > 1 or not wants_first):
        kept[-1] = last
    n_bytes = ref.weight if is_whole else _bytes_between(ref, first_key, last[1][0])
    return _Look([unit for _, unit in sorted(kept, key=lambda each: each[0])], last[0] + 1, n_bytes, is_whole)


def _bytes_between(ref: Ref, first: Any, last: Any) -> int | None:
    """Return the bytes between two items whose keys are (path, offset) in the file, if they are."""
    if ref.is_decompressed or not all(type(key) is tuple and type(key[-1]) is int for key in (first, last)):
        return None
    return max(1, int(last[-1] - first[-1]))


def _estimate_total(looks: list[_Look], weight: int) -> int | None:
    known = [look for look in looks if look.n_bytes is not None]
    n_bytes = sum(look.n_bytes or 0 for look in known)
    return round(sum(look.seen for look in known) * weight / n_bytes) if n_bytes else None
