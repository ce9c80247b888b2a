"""Blocks that a mapfn yields: their results are those of the pairs that they stand for."""

import array
import itertools
import math
import pickle
import random
import sys

import pytest

import mmgevent as mmg
from mmgevent import _speedups, reducers
from mmgevent.reducers import count_values, first_value, max_value, min_value, sum_values
from mmgevent.tasks import calls, map_task, mapping
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.records import decode_flush, decode_segment
from mmgevent.tasks.shares import MIN_SHARE_BYTES
from mmgevent.tasks.skipping import Skipping
from tests.kinds import IMPLEMENTATIONS
from tests.tasks.test_skipping import Run

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow")

FOLDS = [sum_values, count_values, min_value, max_value, first_value]
OTHERS = [
    None,
    lambda key, values: [type(value).__name__ for value in values],
    reducers.list_values,
    reducers.unique_values,
    reducers.top_values(2),
    reducers.mean_values,
    reducers.std_values,
    reducers.count_distinct,
    reducers.quantile_values(0.25, 0.5),
]


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def core(request, monkeypatch):
    names = ("fold", "group", "merge_fold", "merge_grouped", "scatter", "hash_key", "ColumnFold")
    for name in names:
        monkeypatch.setattr(_speedups, name, getattr(request.param, name))
    for name in ("take", "map_items", "stream_items"):
        monkeypatch.setattr(mapping, name, getattr(request.param, name))
    monkeypatch.setattr(calls, "take", request.param.take)


def shown(results):
    """Results with the types, signs and digits of all numbers."""
    return sorted((repr(key), repr(value)) for key, value in results.items())


def as_list(column):
    for method in ("tolist", "to_pylist", "to_list"):
        if hasattr(column, method):
            return getattr(column, method)()
    return list(column)


def check_like_pairs(blocks, reducefn, collectfn=None, **kwargs):
    """Compare blocks, (keys, values) of one item each, with their pairs."""
    runs = [
        Run(mapfn, enumerate(range(len(blocks))), reducefn, collectfn, **kwargs)
        for mapfn in (
            lambda key, index: [mmg.Block(*blocks[index])],
            lambda key, index: zip(*map(as_list, blocks[index]), strict=True),
        )
    ]
    assert shown(runs[0].results) == shown(runs[1].results)
    assert runs[0].stats.records == runs[1].stats.records == sum(len(keys) for keys, _ in blocks)
    return runs[0]


I64 = (1 << 63) - 1
WHOLE = [0, 1, 1, 5, 7, 0, 1, 5]
#: Columns of eight keys or values, or of more.
COLUMNS = {
    "int64": np.array([I64, -I64, I64, 1, I64, 0, I64, -1]),
    "int8": np.array([127, -128, 127, 1, 127, 0, 127, -1], "int8"),
    "uint8": np.array([255, 0, 255, 1, 2, 3, 255, 9], "uint8"),
    "uint64": np.array([2**64 - 1, 0, 2**63, 1, 2, 3, 2**64 - 1, 9], "uint64"),
    "uint64 that fit": np.array(WHOLE, "uint64"),
    "big-endian": np.array(WHOLE, ">i4"),
    "big-endian floats": np.array(WHOLE, ">f8"),
    "float64": np.array([0.1, -0.0, 0.0, math.nan, math.inf, 0.2, 0.3, -math.nan]),
    "float32": np.array([0.1, -0.0, 0.0, 3, math.inf, 0.2, 0.3, 1], "float32"),
    "float16": np.array([0.1, -0.0, 0.0, 3, math.inf, 0.2, 0.3, 1], "float16"),
    "bool": np.array([True, False, True, True, False, True, False, True]),
    "strided": np.arange(80)[::10],
    "backwards": np.arange(8)[::-1],
    "a column of a matrix": np.arange(16).reshape(8, 2)[:, 1],
    "read-only": np.frombuffer(bytes(range(64)), "int64"),
    "fixed strings": np.array(["a", "bc", "é", "a", "", "bc", "\ud800", "a"]),
    "bytes": np.array([b"a", b"bc", b"", b"a", b"a\0", b"bc", b"x", b"a"]),
    "variable strings": np.array(["a", "bc", "é" * 40, "a", "", "bc", "y", "a"], np.dtypes.StringDType()),
    "objects": np.array([1, "a", None, 1.0, True, (1, 2), 2**70, "a"], object),
    "one date": np.array(["2024-02-29", "NaT"] * 4, "datetime64[D]"),
    "array.array": array.array("i", WHOLE),
    "memoryview": memoryview(array.array("d", WHOLE)),
    "list": [1, "a", None, 1.0, True, (1, 2), 2**70, "a"],
    "tuple": tuple(WHOLE),
    "range": range(8),
    "arrow ints": pa.array(WHOLE),
    "arrow slice": pa.array([9, 9, *WHOLE, 9])[2:10],
    "arrow int16": pa.array(WHOLE, pa.int16()),
    "arrow nulls": pa.array([1, None, 1, 2, None, 3, 1, 2]),
    "arrow strings": pa.array(["a", "bc", "é", None, "", "bc", "y", "a"]),
    "arrow chunks": pa.chunked_array([[1, 2, 3], [4, 5, 1, 1, 1]]),
    "one arrow chunk": pa.chunked_array([[1, 2, 3, 4, 5, 1, 1, 1]])[0:8],
    "arrow bools": pa.array([True, False] * 4),
}
#: The values that no fold can take: they do not add, or compare.
UNORDERED = ("objects", "list", "arrow nulls", "arrow strings", "one date")


@pytest.mark.parametrize("reducefn", [*FOLDS, None, OTHERS[1]])
@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_kind_give_what_their_pairs_give(name, reducefn):
    column = COLUMNS[name]
    number = COLUMNS["int64"]
    blocks = [(column, number), (column[2:], number[2:]), (number, column)]
    if reducefn in FOLDS and (name in UNORDERED or isinstance(as_list(column)[0], str | bytes)):
        blocks.pop()  # no fold can take such values
    check_like_pairs(blocks, reducefn)


WAYS = {
    "plain": {},
    "skips": {"rules": Skipping(max_skipped=0.5, retries=1)},
    "calls": {"calls": CallRules(3, lambda count, key: None)},
    "a pool": {"map_items": lambda fn, items: (fn(*item) for item in items)},
    "no memory": {"memory": 1},
    "little memory": {"memory": 50_000},
}


def draw_blocks(seed):
    draw = np.random.default_rng(seed)
    sizes = [0, 1, 10, 999, 1000, 1001, 3000, 3]
    return [
        (
            draw.integers(0, 1500, size) if index % 3 else draw.integers(0, 30, size).astype(float),
            draw.integers(-I64, I64, size) if index % 2 else draw.integers(0, 99, size) / 4,
        )
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reducefn", FOLDS + OTHERS)
def test_blocks_give_what_their_pairs_give_in_every_way(reducefn, way):
    draw = random.Random(str(way))
    blocks = draw_blocks(draw.randrange(99))
    if reducefn is sum_values:  # sums of floats depend on where flushes end: these are exact
        blocks = [
            (keys, np.array(values, "int64") if index % 2 else values)
            for index, (keys, values) in enumerate(blocks)
        ]
        blocks = [(keys, values % 1000 if values.dtype == "int64" else values) for keys, values in blocks]
    if way == "calls":
        runs = []
        for expand in (lambda block: [block], lambda block: list(block.pairs())):

            def mapfn(keys, indexes, expand=expand):
                return [record for index in indexes for record in expand(mmg.Block(*blocks[index]))]

            runs.append(Run(mapfn, enumerate(range(len(blocks))), reducefn, **WAYS[way]))
        assert shown(runs[0].results) == shown(runs[1].results)
    elif way == "a pool":  # which shares nothing with retries
        check_like_pairs(blocks, reducefn, **WAYS[way], rules=Skipping())
    elif reducefn in OTHERS and way == "no memory":  # each record is a flush
        check_like_pairs([(keys[:50], values[:50]) for keys, values in blocks], reducefn, **WAYS[way])
    else:
        check_like_pairs(blocks, reducefn, **WAYS[way])


@pytest.mark.parametrize(
    "collectfn", [lambda key, values: sum(values), lambda groups: ((k, v) for k, v in groups)]
)
def test_blocks_reach_a_collectfn_of_either_form(collectfn):
    blocks = [(keys, values) for keys, values in draw_blocks(3) if values.dtype == "int64"]
    check_like_pairs(blocks, lambda key, values: sum(values), collectfn)


def test_blocks_and_pairs_may_be_mixed():
    numbers = np.arange(5000) % 7 / 10

    def mixed(key, value):
        yield 1.0, 0.1
        yield mmg.Block(numbers, numbers)
        yield mmg.Block(numbers.astype(int), numbers)
        yield [1, 0.3]
        yield mmg.Block(numbers, numbers)
        yield mmg.Block(list(numbers[:3]), numbers[:3])
        yield mmg.Block([], [])

    for reducefn in FOLDS:
        run = Run(mixed, [(0, 0), (1, 1)], reducefn, rules=Skipping())
        again = Run(lambda k, v: _speedups.spread(mixed(k, v)), [(0, 0), (1, 1)], reducefn, rules=Skipping())
        assert shown(run.results) == shown(again.results)


def test_a_pair_after_a_block_counts_after_it():
    numbers = np.arange(3)

    def mapfn(key, value):
        yield mmg.Block(numbers, numbers / 4)
        yield True, 7.5
        yield mmg.Block(numbers + 0.0, numbers / 4 - 0.0)
        yield mmg.Block(numbers, numbers)

    for reducefn in FOLDS:
        run = Run(mapfn, [(0, 0)], reducefn, rules=Skipping())
        again = Run(lambda k, v: _speedups.spread(mapfn(k, v)), [(0, 0)], reducefn, rules=Skipping())
        assert shown(run.results) == shown(again.results)
    assert Run(mapfn, [(0, 0)], first_value, rules=Skipping()).results[1] == 0.25


def test_a_mapfn_may_return_one_block_and_a_call_may_use_its_arrays_again():
    keys = np.zeros(3000, int)

    def mapfn(key, value):
        for number in range(5):
            keys[:] = number
            yield mmg.Block(keys, keys)

    for kwargs in ({}, {"rules": Skipping()}, {"memory": 1}, WAYS["a pool"]):
        assert Run(mapfn, [(0, 0)], count_values, **kwargs).results == dict.fromkeys(range(5), 3000)
        assert Run(lambda k, v: mmg.Block([k], [v]), [(0, 1)], sum_values, **kwargs).results == {0: 1}


def test_an_item_that_fails_after_a_block_leaves_no_record():
    numbers = np.arange(2000)

    def mapfn(key, value):
        yield mmg.Block(numbers[:10], numbers[:10])
        yield mmg.Block(numbers, numbers)
        if value == 1:
            raise ValueError("one")
        if value == 2:
            yield mmg.Block([[]], [1])

    for reducefn in (sum_values, None):
        run = Run(mapfn, enumerate([0, 1, 2, 3]), reducefn)
        assert len(run.rows) == 2
        good = Run(mapfn, enumerate([0, 3]), reducefn)
        assert run.results == good.results


def test_what_a_block_holds_is_blamed_on_mapfn():
    for block, text in (
        (lambda: mmg.Block([[1]], [1]), "use a tuple"),
        (lambda: mmg.Block(np.array([1]), ["x"]), "unsupported operand"),
        (lambda: mmg.Block([1, 2], [1]), "2 keys and 1 values"),
    ):
        with pytest.raises(TaskFailure) as caught:
            Run(
                lambda k, v, block=block: [("before", 1), (1, 1), block()],
                [(0, 0)],
                sum_values,
                rules=Skipping(),
            )
        assert caught.value.failure["function"] == "mapfn"
        assert text in caught.value.failure["error"]


@pytest.mark.parametrize(
    ("column", "error", "text"),
    [
        (np.zeros((2, 3)), ValueError, "one dimension, got 2 .shape .2, 3.."),
        (np.array(5), ValueError, "one dimension, got 0"),
        (np.int64(5), ValueError, "one dimension, got 0"),
        (memoryview(bytes(8)).cast("b", (2, 4)), ValueError, "one dimension"),
        (np.ma.array([1, 2], mask=[0, 1]), ValueError, "masked array.*filled"),
        (memoryview(np.arange(2, dtype=">i4")), TypeError, "memoryview of format '>i'"),
        ("ab", TypeError, "got str"),
        (b"ab", TypeError, "got bytes"),
        (bytearray(2), TypeError, "got bytearray"),
        ({1, 2}, TypeError, "got set"),
        ({1: 2, 3: 4}, TypeError, "got dict"),
        (None, TypeError, "got NoneType"),
        (iter([1, 2]), TypeError, "got list_iterator"),
        (7, TypeError, "got int"),
    ],
)
def test_other_columns_are_refused_by_name(column, error, text):
    for arguments, name in (((column, [1, 2]), "keys"), (([1, 2], column), "values")):
        with pytest.raises(error, match=f"the {name} of a Block .*{text}"):
            mmg.Block(*arguments)


def test_arrow_data_of_other_libraries_is_read_if_pyarrow_is_there(monkeypatch):
    class Foreign:
        def __init__(self, data):
            self.__arrow_c_array__ = data.__arrow_c_array__

        def __len__(self):
            return 3

    block = mmg.Block(Foreign(pa.array([1, 2, 1])), Foreign(pa.array(["a", None, "b"])))
    assert list(block.pairs()) == [(1, "a"), (2, None), (1, "b")]
    monkeypatch.delitem(sys.modules, "pyarrow")
    with pytest.raises(TypeError, match="import pyarrow first"):
        mmg.Block(Foreign(pa.array([1])), [1])


def test_a_series_is_read_by_position():
    class Located:
        def __init__(self, data):
            self.data = data

        def __getitem__(self, part):
            return self.data[part]

    class Series:
        """What is used of a pandas series; slices of the series itself go by its labels."""

        ndim = 1

        def __init__(self, data):
            self.data = data
            self.dtype = data.dtype
            self.iloc = Located(data)

        def __len__(self):
            return len(self.data)

        def to_numpy(self):
            return self.data

        def tolist(self):
            return self.data.tolist()

    for data in (np.arange(5), np.array(["a", "b"] * 2 + ["c"])):
        assert list(mmg.Block(Series(data), Series(data)).pairs(1)) == [(x, x) for x in data.tolist()[1:]]
    check_like_pairs([(Series(np.arange(9)), Series(np.arange(9)))], sum_values)


def test_a_block_is_no_record_and_does_not_travel():
    block = mmg.Block([1, 2, 3], ["a", "b", "c"])
    assert repr(block) == "<Block of 3 records>"
    assert len(block) == 3
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(block)
    with pytest.raises(TaskFailure, match="cannot be pickled"):
        Run(lambda k, v: [(k, block)], [(0, 0)], lambda k, values: values, rules=Skipping())


def test_a_column_that_shrinks_while_it_is_read_is_an_error():
    keys = list(range(5000))
    pairs = mmg.Block(keys, list(keys)).pairs()
    next(pairs)
    del keys[4500:]
    with pytest.raises(RuntimeError, match="changed its length"):
        list(pairs)


def test_blocks_use_no_object_a_record(monkeypatch):
    """A block of numbers is folded without a Python object for each of its records."""

    def no_pairs(block, start=0):
        raise AssertionError("its pairs were read")

    monkeypatch.setattr(mmg.Block, "pairs", no_pairs)
    names = (
        "int64",
        "uint8",
        "float64",
        "strided",
        "arrow ints",
        "arrow slice",
        "arrow chunks",
        "memoryview",
    )
    for column in (*(COLUMNS[name] for name in names), np.arange(8).view(np.memmap)):
        block = mmg.Block(column, COLUMNS["int64"])
        run = Run(lambda k, v, block=block: block, [(0, 0)], sum_values, rules=Skipping())
        assert run.stats.groups == len(set(map(repr, as_list(column)))) - (column is COLUMNS["float64"])


def segments_of(flushes):
    """Each partition with one of its segments."""
    return [(p, decode_segment(data)) for flush in flushes for p, data in decode_flush(flush)]


@pytest.mark.parametrize("reducefn", FOLDS)
@pytest.mark.parametrize("kinds", list(itertools.product("qd", "qd")))
def test_folded_columns_leave_in_shares(kinds, reducefn):
    """Shares are small beside the memory of a task: floats become objects where they are read."""
    count, memory = 60_000, 8 * MIN_SHARE_BYTES
    block = mmg.Block(*(array.array(kind, range(count)) for kind in kinds))
    run = Run(lambda k, v: block, [(0, 0)], reducefn, rules=Skipping(), memory=memory)
    segments = [segment for _, segment in segments_of(run.flushes)]
    are_ints = kinds[0] == "q" and (reducefn is count_values or (reducefn, kinds[1]) == (sum_values, "q"))
    assert max(len(s.keys) for s in segments) <= MIN_SHARE_BYTES // (16 if are_ints else 80)
    assert sum(len(s.keys) for s in segments) == run.stats.groups == count
    assert len(run.results) == count
    assert {type(key) for key in run.results} == {int if kinds[0] == "q" else float}


@pytest.mark.parametrize("size", [1, 700])
def test_sums_that_outgrow_64_bits_leave_with_the_others(size, monkeypatch):
    """Their partition leaves as lists from the run that has such a sum, the others as columns."""
    monkeypatch.setattr(map_task, "numbers_of_share", lambda most, are_objects: 50)
    keys = np.arange(size)
    values = np.where(keys % 401 == 0, I64, keys)
    blocks = [(keys, values), (keys[::-1], values[::-1])]
    run = check_like_pairs(blocks, sum_values, rules=Skipping())
    assert run.results[0] == 2 * I64
    many = [(partition, len(segment.keys)) for partition, segment in segments_of(run.flushes)]
    assert sum(entries for _, entries in many) == size
    assert size == 1 or {entries for _, entries in many} > {50}


@pytest.mark.parametrize("kind", ["q", "d"])
def test_partitions_that_nobody_wants_do_not_leave(kind):
    numbers = array.array(kind, range(1000))
    whole, part = (
        Run(lambda k, v: mmg.Block(numbers, numbers), [(0, 0)], sum_values, rules=Skipping(), **kwargs)
        for kwargs in ({}, {"unwanted": {0, 2}})
    )
    left = [(partition, segment.keys) for partition, segment in segments_of(whole.flushes)]
    assert {partition for partition, _ in left} > {0, 2}
    assert [(partition, segment.keys) for partition, segment in segments_of(part.flushes)] == [
        (partition, keys) for partition, keys in left if partition not in {0, 2}
    ]


def test_folded_columns_leave_without_an_object_a_key(monkeypatch):
    """Lists are made only for sums of more than 64 bits."""
    lists = []

    class Watched:
        def __init__(self, *arguments):
            self.columns = fold_class(*arguments)

        def __getattr__(self, name):
            if name == "part":
                lists.append(name)
            return getattr(self.columns, name)

        def __len__(self):
            return len(self.columns)

    fold_class = _speedups.ColumnFold
    monkeypatch.setattr(_speedups, "ColumnFold", Watched)
    keys = np.arange(5000)
    for values in (keys, keys / 4):
        check_like_pairs([(keys, values)], sum_values, rules=Skipping())
        check_like_pairs([(keys / 4, values)], max_value, rules=Skipping())
    assert not lists
    check_like_pairs([(keys[:9], keys[:9] + (I64 - 9))] * 2, sum_values, rules=Skipping())
    assert lists


def test_arrays_with_a_meaning_of_their_own_are_read_by_their_methods():
    class Metres(np.ndarray):
        def tolist(self):
            return [f"{number} m" for number in super().tolist()]

    lengths = np.arange(8).view(Metres)
    run = Run(lambda k, v: mmg.Block(lengths, lengths), [(0, 0)], max_value, rules=Skipping())
    assert run.results["7 m"] == "7 m"
