"""Tests of mmgevent.tasks.run: what map and reduce tasks emit, and what they blame."""

from __future__ import annotations

import gc
import itertools
import random
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent import _speedups, reducers
from mmgevent._speedups import _fallback
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.inputs.refs import ContentNeeded
from mmgevent.tasks import map_task, results, scratch, shares
from mmgevent.tasks.blame import TaskFailure, blame_exception, short_repr
from mmgevent.tasks.map_task import TaskStats
from mmgevent.tasks.records import (
    SegmentError,
    decode_flush,
    decode_segment,
    encode_flush,
    encode_items,
    encode_segment,
    join_segment,
)
from mmgevent.tasks.run import read_batch, run_map, run_reduce
from mmgevent.tasks.shares import MIN_SHARE_BYTES
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.positions import WHOLE, position_of
from tests.oracle import plain_mapreduce

MIB = 1024 * 1024
CORE = (
    "FoldTable",
    "fold",
    "group",
    "hash_key",
    "is_hashed",
    "merge_flat",
    "merge_fold",
    "merge_grouped",
    "partition",
    "scatter",
)


@pytest.fixture(params=["chosen", "fallback"])
def core(request, monkeypatch):
    """Run a test with the core that was chosen, and with the one in Python."""
    if request.param == "fallback":
        for name in CORE:
            monkeypatch.setattr(_speedups, name, getattr(_fallback, name))


def nothing(index: int, key: Any) -> None:
    pass


def do_map(mapfn=None, items=(), reducefn=None, collectfn=None, *, partitions=4, memory=MIB, **kwargs):
    """Run a map task; return its flushes and stats."""
    flushes: list[bytes] = []
    kwargs.setdefault("mark", nothing)
    stats = run_map(
        Functions.of(mapfn, collectfn, reducefn),
        list(items),
        partitions=partitions,
        memory_bytes=memory,
        emit=flushes.append,
        **kwargs,
    )
    return flushes, stats


def do_reduce(flushes, reducefn=None, collectfn=None, *, partitions=4, memory=MIB, together=False, **kwargs):
    """Reduce what map tasks put out; return the result records and the stats of the tasks."""
    by_partition: dict[int, list[bytes]] = defaultdict(list)
    for flush in flushes:
        for partition, segment in decode_flush(flush):
            by_partition[partition].append(bytes(segment))
    parts = [(p, sum(map(len, segments)), iter(segments)) for p, segments in sorted(by_partition.items())]
    records, all_stats = [], []
    kwargs.setdefault("mark", nothing)
    for group in [parts] if together else [[part] for part in parts]:
        out: list[bytes] = []
        stats = run_reduce(
            Functions.of(None, collectfn, reducefn),
            group,
            partitions=partitions,
            memory_bytes=memory,
            emit=out.append,
            **kwargs,
        )
        assert stats.bytes == sum(map(len, out))
        assert stats.flushes == len(out)
        for flush in out:
            for partition, data in decode_flush(flush):
                segment = decode_segment(data)
                assert partition in [p for p, _, _ in group]
                assert not segment.grouped
                records += zip(segment.keys, segment.values, strict=True)
        all_stats.append(stats)
    return records, all_stats


def segments_of(flushes):
    return [(p, decode_segment(data)) for flush in flushes for p, data in decode_flush(flush)]


def failure_of(action, *args, **kwargs) -> TaskFailure:
    with pytest.raises(TaskFailure) as caught:
        action(*args, **kwargs)
    return caught.value


def words(name, text):
    for word in text.split():
        yield word, 1


def total(key, values):
    return sum(values)


def totals(groups):
    for key, values in groups:
        yield key, sum(values)


rng = random.Random(7)
DOCS = [(f"doc {i}", " ".join(f"w{int(rng.paretovariate(0.7)) % 60}" for _ in range(20))) for i in range(15)]
COUNTS = dict(Counter(word for _, text in DOCS for word in text.split()))


class Unstable:
    """A key whose hash differs from process to process, as if this were another one."""

    salt = 0

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return isinstance(other, Unstable) and self.name == other.name

    def __hash__(self):
        return 11 + Unstable.salt


class Touchy:
    def __eq__(self, other):
        raise ValueError("do not compare me")

    def __hash__(self):
        return 1


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Faceless:
    def __repr__(self):
        raise RuntimeError("no face")

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return 5

    def __partition_key__(self):
        return "faceless"


# --- results ---


@pytest.mark.parametrize("memory", [1, 5000, MIB])
@pytest.mark.parametrize(
    ("collectfn", "reducefn"),
    [
        (None, total),
        (None, totals),
        (None, reducers.sum_values),
        (None, reducers.count_values),
        (total, total),
        (totals, total),
        (total, reducers.sum_values),
        (totals, totals),
        (lambda k, v: [sum(v)], total),
        (lambda groups: list(groups), total),
        (lambda groups: dict(groups), total),
    ],
)
def test_word_count_is_the_same_whatever_combines_and_however_often_it_flushes(
    core, collectfn, reducefn, memory
):
    flushes, stats = do_map(words, DOCS, reducefn, collectfn, memory=memory)
    assert stats.items == len(DOCS)
    assert stats.records == sum(COUNTS.values())
    assert stats.flushes == len(flushes)
    assert stats.bytes == sum(map(len, flushes))
    records, _ = do_reduce(flushes, reducefn, collectfn, memory=memory)
    assert len(records) == len(COUNTS)
    assert dict(records) == COUNTS


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(), st.lists(st.tuples(st.integers(0, 9) | st.text(max_size=2), st.integers())))
    ),
    st.integers(1, 5),
    st.sampled_from([1, 500, MIB]),
)
def test_values_of_a_key_come_in_the_order_of_items(items, partitions, memory):
    def mapfn(key, value):
        return value

    flushes, _ = do_map(mapfn, items, partitions=partitions, memory=memory)
    records, _ = do_reduce(flushes, partitions=partitions, memory=memory)
    assert dict(records) == plain_mapreduce(items, mapfn)


@pytest.mark.parametrize("memory", [1, MIB])
@pytest.mark.parametrize(
    "reducefn",
    [
        reducers.sum_values,
        reducers.count_values,
        reducers.min_value,
        reducers.max_value,
        reducers.first_value,
        reducers.unique_values,
        reducers.list_values,
        reducers.top_values(3),
    ],
)
def test_recognised_reducers_give_what_they_give_when_called(core, reducefn, memory):
    items = [(i, [((i * j) % 7, (i + j) % 11) for j in range(9)]) for i in range(20)]
    flushes, _ = do_map(lambda k, v: v, items, reducefn, memory=memory)
    records, _ = do_reduce(flushes, reducefn, memory=memory)
    assert dict(records) == plain_mapreduce(items, lambda k, v: v, reducefn)


def test_folds_travel_as_one_value_a_key_and_flush():
    flushes, _ = do_map(words, DOCS, reducers.sum_values)
    found = segments_of(flushes)
    assert not any(segment.grouped for _, segment in found)
    assert {k: v for _, s in found for k, v in zip(s.keys, s.values, strict=True)} == COUNTS


def test_every_value_passes_collectfn_once():
    seen = Counter()

    def collectfn(key, values):
        seen.update(values)
        return values

    items = [(i, i % 5) for i in range(300)]
    flushes, _ = do_map(lambda k, v: [(v, k)], items, total, collectfn, memory=2000)
    assert len(flushes) > 3
    assert set(seen.values()) == {1}
    assert len(seen) == 300


def test_a_list_from_collectfn_is_a_list_of_values_and_an_empty_one_drops_the_key():
    def collectfn(key, values):
        return {"none": [], "one": 7, "two": [1, 2], "tuple": (3, 4)}[key]

    items = [(i, name) for i, name in enumerate(["none", "one", "two", "tuple"])]
    flushes, _ = do_map(lambda k, v: [(v, k)], items, None, collectfn)
    records, _ = do_reduce(flushes, None, collectfn)
    assert dict(records) == {"one": [7], "two": [1, 2], "tuple": [(3, 4)]}


def test_collectfn_of_iterator_form_may_change_add_and_drop_keys():
    def collectfn(groups):
        for key, values in groups:
            if key % 2:
                yield key // 2, len(values)
                yield "all", values

    items = [(i, i % 4) for i in range(40)]
    flushes, _ = do_map(lambda k, v: [(v, k)], items, None, collectfn)
    records, _ = do_reduce(flushes, None, collectfn)
    odd = [i for i in range(40) if i % 4 == 1] + [i for i in range(40) if i % 4 == 3]
    assert dict(records) == {0: [10], 1: [10], "all": odd}


def test_without_mapfn_items_are_the_records():
    items = [("a", 1), ("b", 2), ("a", 3)]
    flushes, stats = do_map(None, items, total)
    assert dict(do_reduce(flushes, total)[0]) == {"a": 4, "b": 2}
    assert (stats.items, stats.records) == (3, 3)


@pytest.mark.parametrize(
    "output",
    [
        {"a": 1}.items,
        lambda: {"a": 1},
        lambda: [["a", 1]],
        lambda: iter([("a", 1)]),
        lambda: (("a", 1),),
        lambda: zip("a", [1], strict=True),
    ],
)
def test_mapfn_may_return_any_iterable_of_pairs_or_a_mapping(output):
    flushes, _ = do_map(lambda k, v: output(), [(0, 0)])
    assert dict(do_reduce(flushes)[0]) == {"a": [1]}


def test_equal_keys_meet_and_nans_are_one():
    nan = float("nan")
    keys = [1, 1.0, True, nan, float("inf") - float("inf"), -0.0, 0, (1, 2), (1.0, 2)]
    flushes, _ = do_map(lambda k, v: [(v, k)], enumerate(keys), memory=1)
    records, _ = do_reduce(flushes)
    assert sorted(map(sorted, (v for _, v in records))) == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


def test_an_empty_map_task_emits_nothing():
    assert do_map(words, []) == ([], TaskStats())
    assert do_map(lambda k, v: [], [(1, 1)])[0] == []


def test_one_item_may_put_out_more_than_a_flush_holds():
    flushes, stats = do_map(lambda k, v: ((i % 10, i) for i in range(v)), [("k", 2000)], memory=4096)
    assert len(flushes) > 5
    assert stats.items == 1
    records, _ = do_reduce(flushes)
    assert dict(records) == {d: list(range(d, 2000, 10)) for d in range(10)}


def test_flushes_are_cut_at_their_size(monkeypatch):
    monkeypatch.setattr(map_task, "MAX_FLUSH_BYTES", 2000)
    items = [(i, bytes(500)) for i in range(100)]
    flushes, _ = do_map(None, items, partitions=64)
    assert max(map(len, flushes)) < 5000
    assert len(do_reduce(flushes, partitions=64)[0]) == 100


# --- indices, marks, sources, greenlets ---


def test_items_are_marked_and_skipped_by_their_position_in_the_batch():
    marks = []
    mapped = []

    def mapfn(key, value):
        mapped.append(key)
        return []

    _, stats = do_map(
        mapfn,
        [("a", 0), ("b", 0), ("c", 0)],
        first_index=10,
        skip=[position_of(11)],
        mark=lambda i, k: marks.append((i, k)),
    )
    assert marks == [(position_of(10), "a"), (position_of(12), "c")]
    assert mapped == ["a", "c"]
    assert stats.items == 2


def test_refs_are_expanded_and_each_line_has_its_position(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"{name}1\n{name}2\n")
    items = [(ref.key, ref) for ref in Lines(tmp_path).refs()]
    marks = []
    flushes, stats = do_map(
        lambda k, line: [(line, k[1])], items, first_index=5, mark=lambda i, k: marks.append(i)
    )
    assert dict(do_reduce(flushes)[0]) == {"a1": [0], "a2": [3], "b1": [0], "b2": [3]}
    assert marks == [position_of(entry, place) for entry in (5, 6) for place in (WHOLE, 0, 1)]
    assert stats.items == 4


def test_a_file_that_is_not_the_drivers_asks_for_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("one two")
    items = [(ref.key, ref) for ref in Files(path).refs()]
    path.write_text("three four")
    with pytest.raises(ContentNeeded):
        do_map(words, items)


def test_a_file_that_is_no_text_is_an_input_failure(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xff\xfe\xfa")
    failure = failure_of(do_map, words, [(ref.key, ref) for ref in Files(path).refs()], first_index=3)
    assert failure.failure["kind"] == "input"
    assert "is not utf-8" in failure.failure["error"]
    assert str(path) in failure.failure["key"]
    assert failure.item == position_of(3)


def test_map_items_runs_the_items_and_names_the_one_that_failed():
    def in_pairs(fn, triples):
        triples = iter(triples)
        while pair := list(itertools.islice(triples, 2)):
            yield from [fn(*triple) for triple in reversed(pair)][::-1]

    flushes, _ = do_map(words, DOCS, total, map_items=in_pairs)
    assert dict(do_reduce(flushes, total)[0]) == COUNTS

    def mapfn(key, value):
        if value == 2:
            sys.exit("bye")
        return [(key, value)] if value != 5 else [key]

    failure = failure_of(do_map, mapfn, [(f"k{i}", i) for i in range(4)], map_items=in_pairs, first_index=7)
    assert (failure.item, failure.failure["key"]) == (position_of(9), "'k2'")
    assert failure.failure["error"] == "SystemExit: bye"
    failure = failure_of(do_map, mapfn, [("k", 5)], map_items=in_pairs)
    assert failure.failure["kind"] == "record"
    assert "'k', which is no (key, value) pair" in failure.failure["error"]


def test_the_garbage_collector_is_as_it_was_after_a_task():
    before = gc.get_threshold()
    seen = []
    do_map(lambda k, v: seen.append(gc.get_threshold()[0]) or [], [(1, 1)])
    failure_of(do_map, lambda k, v: 1 / 0, [(1, 1)])
    assert seen[0] > 100_000
    assert gc.get_threshold() == before


# --- map failures ---


def test_an_exception_of_mapfn_names_the_item_and_shows_the_users_frames_only():
    def inner(value):
        return 1 // value

    def mapfn(key, value):
        yield key, inner(value)

    failure = failure_of(do_map, mapfn, [("a", 1), ("b", 0)], first_index=4)
    record = failure.failure
    assert (record["kind"], record["function"], record["key"]) == ("exception", "mapfn", "'b'")
    assert record["error"].startswith("ZeroDivisionError: ")
    assert failure.item == position_of(5)
    assert isinstance(failure.__cause__, ZeroDivisionError)
    assert "in inner" in record["traceback"]
    assert "return 1 // value" in record["traceback"]
    assert "mmgevent/map_task" not in record["traceback"]


def returns_none(key, value):
    pass


def stops(key, value):
    yield key, next(iter(()))


@pytest.mark.parametrize(
    ("mapfn", "kind", "words_in_it"),
    [
        (returns_none, "record", ["mapfn returned None", "yield (key, value) pairs"]),
        (lambda k, v: 3, "record", ["an object of type int", "yield (key, value) pairs"]),
        (lambda k, v: "ab", "record", ["an object of type str"]),
        (lambda k, v: [("a", 1, 2)], "record", ["mapfn must yield (key, value) pairs, got tuple of 3"]),
        (lambda k, v: ["ab"], "record", ["got str 'ab'"]),
        (lambda k, v: [([1], 1)], "key", ["keys must be hashable, got list"]),
        (lambda k, v: [((1, {}), 1)], "key", ["keys must be hashable, got dict"]),
        (
            lambda k, v: [(object(), 1)],
            "key",
            ["keys cannot be of class builtins.object", "__partition_key__"],
        ),
        (lambda k, v: [(1, returns_none.__code__)], "record", ["code", "cannot"]),
        (lambda k, v: [(Touchy(), 1), (Touchy(), 2)], "exception", ["ValueError: do not compare me"]),
        (lambda k, v: map(int, ["x"]), "exception", ["ValueError: invalid literal"]),
        (
            lambda k, v: map(type("keys must be hashable", (), {}), [3]),
            "exception",
            ["TypeError: keys must be hashable() takes no arguments"],
        ),
        (lambda k, v: map(len, [3]), "exception", ["TypeError: object of type 'int' has no len()"]),
        (
            lambda k, v: [(k, __import__("no_such_module_here.sub"))],
            "import",
            ["--py-files no_such_module_here.py"],
        ),
        (lambda k, v: sys.exit(4), "exception", ["SystemExit: 4", "must return"]),
        (stops, "exception", ["RuntimeError: generator raised StopIteration"]),
    ],
)
def test_what_mapfn_does_wrong_is_said(core, mapfn, kind, words_in_it):
    failure = failure_of(do_map, mapfn, [("key", 1)], first_index=2)
    record = failure.failure
    text = f"{record['error']} {record.get('advice')}"
    assert (record["kind"], record["function"]) == (kind, "mapfn")
    for word in words_in_it:
        assert word in text
    assert failure.item == position_of(2)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), Mute(), GeneratorExit(), BaseException("x")]
)
def test_whatever_mapfn_raises_is_a_failure(error):
    def mapfn(key, value):
        raise error
        yield

    failure = failure_of(do_map, mapfn, [(Faceless(), 1)])
    assert failure.failure["error"].startswith(type(error).__name__) or isinstance(error, Mute)
    assert "Faceless" in failure.failure["key"]
    assert failure.failure["kind"] == ("memory" if isinstance(error, MemoryError) else "exception")


def test_an_exception_of_collectfn_names_it_and_the_key():
    record = failure_of(do_map, words, DOCS, total, lambda k, v: 1 / 0).failure
    assert (record["function"], record["kind"]) == ("collectfn", "exception")
    assert record["key"] in map(repr, COUNTS)

    def broken(groups):
        for key, _ in groups:
            yield key, 1
            raise KeyError(key)

    record = failure_of(do_map, words, DOCS, total, broken).failure
    assert (record["function"], record["kind"]) == ("collectfn", "exception")
    record = failure_of(do_map, words, DOCS, total, lambda groups: None).failure
    assert "collectfn returned None" in record["error"]
    record = failure_of(do_map, words, DOCS, total, lambda groups: [3]).failure
    assert "collectfn must yield (key, value) pairs" in record["error"]


def test_values_that_do_not_fold_are_an_exception():
    record = failure_of(do_map, lambda k, v: [("a", v)], [(1, 1), (2, "x")], reducers.sum_values).failure
    assert record["kind"] == "exception"
    assert record["error"].startswith("TypeError: unsupported operand")


def test_what_emit_raises_passes_unchanged():
    def emit(flush):
        raise ConnectionError("the link is gone")

    functions = Functions.of(words, None, total)
    with pytest.raises(ConnectionError):
        run_map(functions, DOCS, partitions=4, memory_bytes=MIB, emit=emit, mark=nothing)
    segment = encode_segment(["a"], [[1]], grouped=True)
    for reducefn in (None, total, totals):
        with pytest.raises(ConnectionError):
            run_reduce(
                Functions.of(words, None, reducefn),
                [(0, 0, [segment])],
                partitions=1,
                memory_bytes=MIB,
                emit=emit,
                mark=nothing,
            )


def test_failures_are_bounded_and_fit_into_json():
    def mapfn(key, value):
        raise ValueError("\udc80" + "x" * 100_000)

    record = failure_of(do_map, mapfn, [("k" * 10_000, 1)]).failure
    assert all(len(text.encode()) <= 16 * 1024 for text in record.values())
    assert len(record["key"]) <= 200
    assert record["error"].startswith("ValueError: \\udc80xxx")


# --- reduce ---


def test_a_partition_larger_than_memory_is_reduced_in_pieces_with_values_in_order(
    core, tmp_path, monkeypatch
):
    splits = []
    monkeypatch.setattr(scratch, "PieceFile", lambda *args: splits.append(args) or PieceFile(*args))
    items = [(i, [(j % 300, i) for j in range(i, i + 40)]) for i in range(200)]
    expected = plain_mapreduce(items, lambda k, v: v)
    flushes, _ = do_map(lambda k, v: v, items, partitions=1, memory=20_000)
    for reducefn in (None, lambda k, v: list(v)):
        records, stats = do_reduce(flushes, reducefn, partitions=1, memory=20_000, scratch_dir=str(tmp_path))
        assert len(records) == len(expected)
        assert dict(records) == expected
        assert stats[0].groups == len(expected)
    assert splits
    assert list(tmp_path.iterdir()) == []


PieceFile = scratch.PieceFile


def test_the_many_values_of_one_key_go_to_disk_in_shares_and_stay_in_order(core, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "MIN_SHARE_BYTES", 500)
    items = [(i, [("hot", (i, j)) for j in range(50)] + [(("cold", i), i)]) for i in range(40)]
    flushes, _ = do_map(lambda k, v: v, items, partitions=1)
    records, _ = do_reduce(flushes, None, partitions=1, memory=10_000, scratch_dir=str(tmp_path))
    assert len(records) == 41
    assert dict(records) == plain_mapreduce(items, lambda k, v: v)


def test_where_there_is_no_memory_for_one_more_segment_the_largest_key_is_named(monkeypatch):
    segments = [encode_segment(["big", "small"], [[1] * 50, [1]], grouped=True)] * 2
    whole = iter([decode_segment(segments[0])])

    def decode(data, plain=None):
        segment = next(whole, None)
        if segment is None:
            raise MemoryError
        return segment

    monkeypatch.setattr(scratch, "decode_segment", decode)
    part = (0, sum(map(len, segments)), iter(segments))
    record = failure_of(
        run_reduce,
        Functions.of(None, None, total),
        [part],
        partitions=1,
        memory_bytes=MIB,
        emit=nothing,
        mark=nothing,
    ).failure
    assert record["error"].startswith("the 50 values of key 'big' do not fit into memory")


def test_splitting_ends_even_where_nothing_fits(core, tmp_path):
    flushes, _ = do_map(words, DOCS, partitions=1, memory=1)
    records, _ = do_reduce(flushes, total, partitions=1, memory=1, scratch_dir=str(tmp_path))
    assert dict(records) == COUNTS


def test_folds_are_split_too(tmp_path):
    items = [(i, [(j, 1) for j in range(500)]) for i in range(4)]
    flushes, _ = do_map(lambda k, v: v, items, reducers.sum_values, partitions=1)
    records, _ = do_reduce(
        flushes, reducers.sum_values, partitions=1, memory=10_000, scratch_dir=str(tmp_path)
    )
    assert sorted(records) == [(j, 4) for j in range(500)]


def test_segments_are_taken_one_by_one_and_parts_one_after_another():
    events = []

    def parts():
        for p in range(2):
            events.append(f"part {p}")
            yield p, 0, segments(p)

    def segments(p):
        for i in range(2):
            events.append(f"segment {p}.{i}")
            yield encode_segment([f"k{p}"], [[i]], grouped=True)

    def reducefn(key, values):
        events.append(f"reduce {key} {values}")
        return 0

    run_reduce(
        Functions.of(words, None, reducefn),
        parts(),
        partitions=2,
        memory_bytes=MIB,
        emit=lambda flush: events.append("emit"),
        mark=nothing,
    )
    assert events == [
        "part 0", "segment 0.0", "segment 0.1", "reduce k0 [0, 1]",
        "part 1", "segment 1.0", "segment 1.1", "reduce k1 [0, 1]", "emit",
    ]  # fmt: skip


def test_results_leave_in_segments_of_bounded_size(monkeypatch):
    monkeypatch.setattr(results, "SEGMENT_BYTES", 10_000)
    items = [(i, b"%0100d" % i) for i in range(3000)]
    flushes, _ = do_map(None, items, partitions=2)
    out: list[bytes] = []
    segments = [bytes(data) for flush in flushes for p, data in decode_flush(flush) if p == 0]
    stats = run_reduce(
        Functions.of(words, None, lambda k, v: v[0]),
        [(0, 0, segments)],
        partitions=2,
        memory_bytes=MIB,
        emit=out.append,
        mark=nothing,
    )
    assert len(out) > 10
    assert max(map(len, out[1:])) < 15_000
    assert stats.records == stats.groups
    for flush in out:
        assert len({p for p, _ in decode_flush(flush)}) == len(decode_flush(flush))


def test_many_small_partitions_share_a_flush():
    flushes, _ = do_map(words, DOCS, partitions=64)
    _, (stats,) = do_reduce(flushes, total, partitions=64, together=True)
    assert stats.flushes == 1
    assert stats.records == stats.groups == len(COUNTS)


def test_iterator_form_is_called_once_and_may_yield_any_records():
    calls = []

    def reducefn(groups):
        calls.append(1)
        keys = 0
        for key, values in groups:
            keys += 1
            if key == "w1":
                yield "w1", sum(values)
                yield "w1", "again"
        yield ["unhashable"], keys

    flushes, _ = do_map(words, DOCS, partitions=8)
    records, _ = do_reduce(flushes, reducefn, partitions=8, together=True)
    assert calls == [1]
    assert sorted(records, key=repr) == sorted(
        [("w1", COUNTS["w1"]), ("w1", "again"), (["unhashable"], len(COUNTS))], key=repr
    )


def test_iterator_form_may_stop_before_its_input_ends():
    flushes, _ = do_map(words, DOCS)
    records, _ = do_reduce(flushes, lambda groups: [next(groups)], together=True)
    assert len(records) == 1


def test_keys_are_marked_before_they_are_reduced():
    flushes, _ = do_map(words, DOCS[:3], partitions=1)
    for reducefn in (total, totals):
        marks = []
        records, _ = do_reduce(flushes, reducefn, partitions=1, mark=lambda i, k: marks.append((i, k)))  # noqa: B023
        assert [k for _, k in marks] == [k for k, _ in records]
        assert [i for i, _ in marks] == list(range(len(records)))


# --- reduce failures ---


def test_an_exception_of_reducefn_names_the_key():
    flushes, _ = do_map(words, [("a", "x")])
    failure = failure_of(do_reduce, flushes, lambda k, v: 1 / 0)
    record = failure.failure
    assert (record["kind"], record["function"], record["key"]) == ("exception", "reducefn", "'x'")
    assert failure.item is None

    def broken(groups):
        for _ in groups:
            raise ValueError("no")
        yield

    record = failure_of(do_reduce, flushes, broken).failure
    assert (record["error"], record["function"], record["key"]) == ("ValueError: no", "reducefn", "'x'")
    record = failure_of(do_reduce, flushes, lambda groups: [1]).failure
    assert record["error"] == "reducefn gave 1, which is no (key, value) pair"
    record = failure_of(do_reduce, flushes, lambda groups: None).failure
    assert "reducefn returned None" in record["error"]
    record = failure_of(do_reduce, flushes, lambda k, v: (i for i in v)).failure
    assert record["kind"] == "record"
    assert "make it a list" in record["advice"]


def test_what_the_input_raises_passes_unchanged_even_where_the_function_swallows_it():
    def segments():
        yield encode_segment(["a", "b"], [[1], [2]], grouped=True)
        raise ConnectionError("the link is gone")

    def two_parts():
        yield 0, 0, [encode_segment(["c"], [[3]], grouped=True)]
        yield 1, 0, segments()

    def swallows(groups):
        try:
            yield from totals(groups)
        except ConnectionError:
            yield "all", "well"

    for reducefn in (None, total, totals, swallows):
        with pytest.raises(ConnectionError):
            run_reduce(
                Functions.of(words, None, reducefn),
                two_parts(),
                partitions=2,
                memory_bytes=MIB,
                emit=len,
                mark=nothing,
            )


def test_a_damaged_segment_is_a_segment_error():
    data = bytearray(encode_segment(["a"], [[1]], grouped=True))
    data[-3] ^= 1
    with pytest.raises(SegmentError):
        do_one(bytes(data))


def do_one(data: bytes, partition: int = 0, partitions: int = 1, reducefn=total) -> TaskStats:
    return run_reduce(
        Functions.of(words, None, reducefn),
        [(partition, 0, [data])],
        partitions=partitions,
        memory_bytes=MIB,
        emit=len,
        mark=nothing,
    )


@pytest.mark.parametrize("wrap", [lambda key: key, lambda key: (1, ("a", key)), lambda key: frozenset([key])])
def test_a_hash_that_differs_between_processes_is_noticed_by_type(core, wrap):
    key = wrap(Unstable("x"))
    Unstable.salt = 0
    partition = _speedups.partition(key, 1000)
    flushes, _ = do_map(lambda k, v: [(key, 1)], [(0, 0)], partitions=1000)
    ((emitted_partition, data),) = decode_flush(flushes[0])
    assert (emitted_partition, decode_segment(data).hashed) == (partition, True)
    assert do_one(bytes(data), partition, 1000).records == 1
    Unstable.salt = 1
    try:
        record = failure_of(do_one, bytes(data), partition, 1000).failure
    finally:
        Unstable.salt = 0
    assert record["kind"] == "key"
    assert "tests.tasks.test_tasks.Unstable differs between processes" in record["error"]
    assert "__partition_key__" in record["advice"]


def test_a_group_that_does_not_fit_into_memory_is_named(monkeypatch):
    def out_of_memory(groups, keys, values):
        groups["big"] = [1] * 50
        groups["small"] = [1]
        raise MemoryError

    monkeypatch.setattr(_speedups, "merge_grouped", out_of_memory)
    record = failure_of(do_one, encode_segment(["a"], [[1]], grouped=True)).failure
    assert record["kind"] == "memory"
    assert record["error"].startswith("the 50 values of key 'big' do not fit into memory")
    assert "reducers" in record["advice"]


def test_a_full_scratch_disk_is_a_disk_failure(tmp_path):
    flushes, _ = do_map(words, DOCS, partitions=1)
    missing = str(tmp_path / "gone")
    record = failure_of(do_reduce, flushes, total, partitions=1, memory=100, scratch_dir=missing).failure
    assert record["kind"] == "disk"
    assert missing in record["error"]
    assert "TMPDIR" in record["advice"]


# --- batches, blame ---


def test_a_batch_whose_classes_are_not_here_is_a_failure_that_names_the_module():
    items = [("a", 1)]
    assert read_batch(encode_items(items)) == items
    missing = type("Ghost", (), {"__module__": "ghost_module"})
    module = type(sys)("ghost_module")
    module.Ghost = missing
    sys.modules["ghost_module"] = module
    try:
        data = encode_items([("a", missing())])
    finally:
        del sys.modules["ghost_module"]
    failure = failure_of(read_batch, data)
    assert failure.failure["kind"] == "import"
    assert "--py-files ghost_module.py" in failure.failure["advice"]
    with pytest.raises(SegmentError):
        read_batch(data[:-1])


@pytest.mark.parametrize(
    "obj",
    ["x" * 1000, b"\xff" * 1000, list(range(10_000)), Faceless(), {"k": ["v" * 999] * 99}, 10**400, "a'b"],
)
def test_short_reprs_are_short(obj):
    text = short_repr(obj)
    assert 0 < len(text) <= 200
    assert short_repr(("path", 3)) == "('path', 3)"


def test_chained_exceptions_show_both_without_our_frames():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        text = blame_exception(error, "mapfn").failure["traceback"]
    assert "KeyError: 'first'" in text
    assert "direct cause" in text


def test_a_record_error_speaks_for_itself():
    record = blame_exception(RecordError("value of key 'a' cannot", "a", "do this"), "mapfn").failure
    assert (record["kind"], record["error"], record["key"], record["advice"]) == (
        "record",
        "value of key 'a' cannot",
        "'a'",
        "do this",
    )


@pytest.mark.parametrize("key", ["{:0200}", "é{:0200}"])
def test_folded_values_leave_in_shares_too(core, key):
    """Keys of 200 characters: groups of 2 MiB are more than one share of 256 KiB."""
    items = [(i, key.format(i % 9000)) for i in range(12_000)]
    memory = 8 * MIN_SHARE_BYTES
    flushes, _ = do_map(lambda _, text: [(text, 1)], items, reducers.sum_values, partitions=1, memory=memory)
    sizes = [len(data) for flush in flushes for _, data in decode_flush(flush)]
    assert sum(sizes) > 6 * MIN_SHARE_BYTES
    assert max(sizes) <= 2 * MIN_SHARE_BYTES
    results, _ = do_reduce(flushes, reducers.sum_values, partitions=1, memory=memory)
    assert dict(results) == {key.format(i): 1 + (i < 3000) for i in range(9000)}
    assert len(results) == 9000


@pytest.mark.parametrize(
    ("reducefn", "kind"),
    [(reducers.sum_values, float), (reducers.max_value, int), (reducers.first_value, float)],
)
def test_folded_numbers_that_become_objects_leave_in_shares_too(core, reducefn, kind):
    """Only ints that are added are merged as they are: all others take what objects take."""
    object_bytes = 32
    items = [(1000 + i, kind(1000 + i)) for i in range(12_000)]
    flushes, _ = do_map(None, items, reducefn, partitions=1, memory=8 * MIN_SHARE_BYTES)
    sizes = [len(decode_segment(data).keys) for flush in flushes for _, data in decode_flush(flush)]
    assert sum(sizes) == len(items)
    assert max(sizes) * 2 * object_bytes <= 2 * MIN_SHARE_BYTES
    results, _ = do_reduce(flushes, reducefn, partitions=1, memory=8 * MIN_SHARE_BYTES)
    assert sorted(results) == items


def test_folds_that_are_larger_than_memory_go_to_the_disk_as_columns(core, tmp_path):
    items = [(i, i) for i in range(20_000)]
    flushes, _ = do_map(None, items, reducers.sum_values, partitions=1)
    flushes *= 3
    whole, _ = do_reduce(flushes, reducers.sum_values, partitions=1, memory=64 * MIB)
    pieces, _ = do_reduce(
        flushes, reducers.sum_values, partitions=1, memory=100_000, scratch_dir=str(tmp_path)
    )
    assert dict(whole) == {i: 3 * i for i in range(20_000)}
    assert sorted(pieces) == sorted(whole)


def test_columns_of_a_fold_that_are_damaged_are_a_segment_error(core):
    keys, values = _fallback.encode_column(["a", "b"]), _fallback.encode_column([1, 2])
    for bad in (
        join_segment(2, keys[:-1], values),
        join_segment(2, keys, values + b"\0"),
        join_segment(3, keys, values),
    ):
        with pytest.raises(SegmentError, match="of a segment"):
            do_reduce([encode_flush({0: bad})], reducers.sum_values, partitions=1)
