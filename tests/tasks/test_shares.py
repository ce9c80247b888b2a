"""Segments are small beside the memory of a task, in order, and not more than needed."""

import random
import tracemalloc
from itertools import chain

import pytest

from mmgevent import _speedups
from mmgevent._speedups import _fallback
from mmgevent.job.functions import Functions
from mmgevent.tasks import shares
from mmgevent.tasks.records import decode_flush, decode_results, decode_segment
from mmgevent.tasks.run import run_map, run_reduce
from mmgevent.tasks.shares import MAX_SHARE_BYTES, MIN_SHARE_BYTES, encode_shares, share_bytes
from mmgevent.tasks.unpicklable import RecordError
from tests.tasks.test_tasks import nothing

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(params=["chosen", "fallback"], autouse=True)
def core(request, monkeypatch):
    estimate = _speedups.estimate_bytes if request.param == "chosen" else _fallback.estimate_bytes
    monkeypatch.setattr(shares, "estimate_bytes", estimate)


class Hidden:
    """Holds more than anybody can estimate from outside."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return self.text == other.text


def text(size):
    return "x" * int(size)


def drawn(count, sizes, seed=3):
    rng = random.Random(seed)
    return [text(rng.choice(sizes)) for _ in range(count)]


#: name: (keys, lists of their values)
GROUPED = {
    "one key, large values": (["k"], [drawn(60, [50_000])]),
    "one key, many small values": (["k"], [list(range(300_000))]),
    "many keys": (list(range(5000)), [[text(300)] for _ in range(5000)]),
    "one key among many": (
        [*range(500), "k", *range(500, 900)],
        [[text(9)]] * 500 + [drawn(50, [40_000])] + [[1]] * 400,
    ),
    "large ones that no sample finds": (["k"], [[text(2e6) if i in (7, 901) else i for i in range(3000)]]),
    "large ones at the end": (["a", "k"], [[1, 2, 3], [*range(3000), *drawn(5, [400_000])]]),
    "sizes that nothing tells": (["k"], [[Hidden(v) for v in drawn(500, [10, 20_000])]]),
    "keys that are large": ([text(3e5) + str(i) for i in range(9)], [[i] for i in range(9)]),
}


@pytest.mark.parametrize("name", GROUPED)
def test_shares_keep_to_their_size_and_put_together_are_what_was_cut(name):
    keys, values = GROUPED[name]
    parts = [decode_segment(data) for data in encode_shares(keys, values, 256 * KIB, grouped=True)]
    assert len(parts) > 1
    merged: dict = {}
    for part in parts:
        assert part.grouped
        assert all(part.values)
        _speedups.merge_grouped(merged, part.keys, part.values)
    assert list(merged) == keys
    assert list(merged.values()) == values
    for data in encode_shares(keys, values, 256 * KIB, grouped=True):
        segment = decode_segment(data)
        assert len(data) <= 512 * KIB or (len(segment.values) == 1 and len(segment.values[0]) == 1)


@pytest.mark.parametrize("name", GROUPED)
def test_flat_columns_are_cut_like_grouped_ones(name):
    keys, lists = GROUPED[name]
    values = list(chain.from_iterable(lists))
    keys = [key for key, group in zip(keys, lists, strict=True) for _ in group]
    encoded = list(encode_shares(keys, values, 256 * KIB, grouped=False, hashed=True))
    parts = list(map(decode_segment, encoded))
    assert [key for part in parts for key in part.keys] == keys
    assert [value for part in parts for value in part.values] == values
    assert all(part.hashed and not part.grouped for part in parts)
    for data, part in zip(encoded, parts, strict=True):
        assert len(data) <= 512 * KIB or len(part.values) == 1


def test_what_is_small_is_one_share_and_so_is_one_value():
    assert len(list(encode_shares(list(range(100)), [[1]] * 100, MIB, grouped=True))) == 1
    assert len(list(encode_shares(["k"], [[text(5e6)]], MIB, grouped=True))) == 1
    assert len(list(encode_shares(["k"], [text(5e6)], MIB, grouped=False))) == 1
    assert [decode_segment(data).keys for data in encode_shares([], [], MIB, grouped=True)] == [[]]


def test_what_cannot_be_pickled_is_named_in_whichever_share_it_is():
    values = [text(1e5) for _ in range(50)]
    with pytest.raises(RecordError, match="'last'"):
        list(encode_shares(["k", "last"], [values, [*values, lambda: 0]], MIB, grouped=True))


def test_the_size_of_a_share_follows_memory_between_bounds():
    assert share_bytes(1) == MIN_SHARE_BYTES
    assert share_bytes(16 * MIB) == 2 * MIB
    assert share_bytes(1 << 40) == MAX_SHARE_BYTES


# --- tasks ---


def do_map(mapfn, items, memory_bytes, partitions=1, **functions):
    flushes: list[bytes] = []
    made = Functions.of(mapfn, functions.get("collectfn"), functions.get("reducefn"))
    run_map(made, items, partitions=partitions, memory_bytes=memory_bytes, emit=flushes.append, mark=nothing)
    return [(partition, bytes(data)) for each in flushes for partition, data in decode_flush(each)]


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_map_task_with_much_memory_puts_out_small_segments(partitions):
    items = [(i, drawn(20, [1, 40_000], i)) for i in range(100)]
    flushed = do_map(lambda k, v: [(j % 4, each) for j, each in enumerate(v)], items, 16 * MIB, partitions)
    assert max(len(data) for _, data in flushed) <= 2 * share_bytes(16 * MIB)
    merged: dict = {}
    for _, data in flushed:
        segment = decode_segment(data)
        _speedups.merge_grouped(merged, segment.keys, segment.values)
    assert merged == {r: [v for _, vs in items for j, v in enumerate(vs) if j % 4 == r] for r in range(4)}


def test_what_a_collectfn_makes_large_is_cut_too():
    flushed = do_map(
        lambda k, v: [(v % 50, v)], [(i, i) for i in range(500)], 16 * MIB, collectfn=lambda k, v: text(4e5)
    )
    assert len(flushed) > 5
    assert max(len(data) for _, data in flushed) <= 2 * share_bytes(16 * MIB)


REDUCEFNS = {
    "pair": lambda key, values: text(4e5),
    "iterator": lambda groups: ((key, text(4e5)) for key, _ in groups),
}


@pytest.mark.parametrize("form", REDUCEFNS)
def test_large_results_are_put_out_before_there_are_many(form):
    segments = [data for _, data in do_map(None, [(i, i) for i in range(200)], MIB)]
    out: list[bytes] = []
    functions = Functions.of(None, None, REDUCEFNS[form])
    tracemalloc.start()
    try:
        run_reduce(
            functions,
            [(0, 0, iter(segments))],
            partitions=1,
            memory_bytes=MIB,
            emit=lambda flush: out.append(len(flush)),
            mark=nothing,
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(out) > 200 * 4e5
    assert peak_bytes < 24 * MIB


def test_groups_of_a_piece_are_freed_before_the_next_one_is_merged(tmp_path):
    items = [(i % 40, text(1e5)) for i in range(400)]
    segments = [data for _, data in do_map(None, items, 4 * MIB)]
    sizes: dict = {}
    tracemalloc.start()
    try:
        run_reduce(
            Functions.of(None, None, lambda key, values: sizes.setdefault(key, len(values))),
            [(0, 0, iter(segments))],
            partitions=1,
            memory_bytes=8 * MIB,
            emit=[].append,
            mark=nothing,
            scratch_dir=str(tmp_path),
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == dict.fromkeys(range(40), 10)
    assert peak_bytes < 14 * MIB  # 16 and more, if there are two of them


def test_many_large_results_of_one_partition_decode_as_they_were():
    items = [(i, text(i * 500)) for i in range(300)]
    segments = [data for _, data in do_map(None, items, 64 * MIB)]
    out: list[bytes] = []
    run_reduce(
        Functions.of(None, None, lambda key, values: values[0]),
        [(0, 0, iter(segments))],
        partitions=1,
        memory_bytes=64 * MIB,
        emit=out.append,
        mark=nothing,
    )
    pairs = [pair for flush in out for _, data in decode_flush(flush) for pair in decode_results(data)]
    assert pairs == items
    assert max(map(len, out)) < 8 * MIB
