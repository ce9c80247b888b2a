"""Turn a column of records into bytes and back: the only pickle of data.

A column whose elements are all of one plain kind is written as itself by `_speedups`, any other is
pickled.

The memo of the pickler notes objects that occur again. Distinct objects pickle four times faster
without it. Shared ones, such as a file name in ten thousand postings, encode, decode and store
several times better with it. So each column decides from a sample; the reader needs no flag.
Without the memo, sharing within a record is lost: `(x, x)` comes back as two equal objects.

With the rules of a job for plain data (`plain_rules`), columns are pickled and unpickled by
`plain_data` instead. What is written as itself is plain by any rules.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from io import BytesIO
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from mmgevent import _speedups
from mmgevent.errors import MmgeventError
from mmgevent.tasks.unpicklable import PICKLE_PROTOCOL, NotPlainError

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: First byte of a pickle. Columns of plain kinds begin with smaller ones.
_PICKLED = 0x80

#: Elements in each of the two runs of a sample. Neighbours share most. A sample takes 60 us at
#: most.
_SAMPLE_RUN = 24
#: Items looked at in each container of a sample, and the depth of containers.
_SAMPLE_ITEMS = 8
_SAMPLE_DEPTH = 2
#: Share of distinct objects below which the memo is used: in the sample, and in the whole column as
#: estimated. With the memo a distinct object takes 100 ns more to encode. A repeated one takes 20
#: ns less to encode and 100 ns less to decode.
_DISTINCT_IN_SAMPLE = 0.6
_DISTINCT_IN_COLUMN = 0.3
_NEVER_MEMOIZED = frozenset({int, float, bool, complex, type(None)})


class SegmentError(MmgeventError):
    """Bytes are not a whole, intact segment or flush, or cannot be unpickled here.

    `__cause__` is the unpickling error in the last case, mostly a class that this process does not
    have, or a NotPlainError. It is None if the bytes themselves are wrong.
    """


def write_column(buffer: BytesIO, column: list[Any], plain: PlainRules | None) -> None:
    data = _speedups.encode_column(column)
    if data is None:
        _pickle_column(buffer, column, plain)
    else:
        buffer.write(data)


def read_column(view: memoryview, count: int, name: str, plain: PlainRules | None) -> list[Any]:
    if not view or view[0] >= _PICKLED:
        return _unpickle_column(view, count, name, plain)
    if count <= 8 * len(view):  # each element takes a bit at least
        with suppress(ValueError):
            return _speedups.decode_column(view, count)
    raise SegmentError(f"the {name} of a segment are no column of {count} elements")


def _pickle_column(buffer: BytesIO, column: list[Any], plain: PlainRules | None) -> None:
    start = buffer.tell()
    if not is_shared(column):
        pickler = pickler_for(buffer, plain)
        pickler.fast = True
        try:
            pickler.dump(column)
            return
        except MemoryError:
            raise
        except Exception:
            # What is cyclic or deeply nested needs the memo. Up to Python 3.13 many frozensets do,
            # too: without it the pickler takes each for nested in the one before. What cannot be
            # pickled at all fails again below.
            buffer.seek(start)
            buffer.truncate()
    pickler_for(buffer, plain).dump(column)


def is_shared(column: list[Any]) -> bool:
    """Return whether the memo pays for a column, as guessed from a sample."""
    sample = column[:_SAMPLE_RUN]
    if len(column) > _SAMPLE_RUN:
        middle = max(_SAMPLE_RUN, len(column) // 2)
        sample += column[middle : middle + _SAMPLE_RUN]
    ids: list[int] = []
    skipped = 0
    for element in sample:
        _add_ids(element, _SAMPLE_DEPTH, ids)
        if type(element) is list and len(element) > _SAMPLE_ITEMS:
            skipped += len(element) - _SAMPLE_ITEMS
    seen = len(ids)
    repeats = seen - len(set(ids))
    if not repeats:
        return False
    if seen - repeats < _DISTINCT_IN_SAMPLE * seen:
        return True
    # The birthday problem: `seen` draws from n different objects have seen**2 / 2 / n repeats.
    everything = (seen + skipped) * len(column) / len(sample)
    return seen * seen / (2 * repeats) < _DISTINCT_IN_COLUMN * everything


def _add_ids(obj: Any, depth: int, ids: list[int]) -> None:
    """Add the ids of what the pickler looks up in its memo: objects, and instances' classes."""
    cls = type(obj)
    if cls in _NEVER_MEMOIZED:
        return
    if cls is str or cls is bytes:
        ids.append(id(obj))
    elif cls is dict:
        ids.append(id(obj))
        if depth:
            for part in islice(chain.from_iterable(obj.items()), 2 * _SAMPLE_ITEMS):
                _add_ids(part, depth - 1, ids)
    elif cls in (list, tuple, set, frozenset):
        ids.append(id(obj))
        if depth:
            for part in islice(obj, _SAMPLE_ITEMS):
                _add_ids(part, depth - 1, ids)
    else:
        ids.append(id(cls))


def _unpickle_column(view: memoryview, count: int, name: str, plain: PlainRules | None) -> list[Any]:
    try:
        column = load(view, plain, has_keys=name == "keys")
    except MemoryError:
        raise
    except Exception as error:
        if plain is not None and isinstance(error, NotPlainError):
            raise SegmentError(f"the {name} of a segment are no plain data: one {error}") from error
        raise SegmentError(
            f"the {name} of a segment cannot be unpickled: {type(error).__name__}: {error}"
        ) from error
    if type(column) is not list or len(column) != count:
        raise SegmentError(f"the {name} of a segment are not the list of {count} that its header says")
    return column


def pickler_for(file: BytesIO, plain: PlainRules | None) -> pickle.Pickler:
    if plain is None:
        return pickle.Pickler(file, PICKLE_PROTOCOL)
    from mmgevent.tasks.plain_data import PlainPickler

    return PlainPickler(file, plain)


def load(data: Any, plain: PlainRules | None, *, has_keys: bool = False) -> Any:
    if plain is None:
        return pickle.loads(data)
    from mmgevent.tasks.plain_data import load_plain

    return load_plain(data, plain, has_keys=has_keys)
