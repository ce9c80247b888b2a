"""Columns of plain elements to bytes and back, in C, in the Python twin, and as one pickle."""

import pickle

import pytest

from benchmarks.micro.cases import WORDS
from benchmarks.micro.conftest import CORES
from mmgevent._speedups import SUM, _fallback

COUNT = 30_000
PATHS = [f"/corpus/part-{number:04}.txt" for number in range(16)]

#: name -> elements
COLUMNS = {
    "30,000 wide ints": [n * 2_654_435_761 % 1_000_003 for n in range(COUNT)],
    "30,000 rising ints": [n * 16 for n in range(COUNT)],
    "30,000 floats": [n / 7 for n in range(COUNT)],
    "30,000 distinct texts": [f"word{n}" for n in range(COUNT)],
    "30,000 texts of 16": [PATHS[n % 16] for n in range(COUNT)],
    "30,000 (text, int)": [(PATHS[n % 16], n) for n in range(COUNT)],
    "10,000 lists of 3 texts": [[PATHS[n % 16]] * 3 for n in range(COUNT // 3)],
    "4 ints": [1, 2, 3, 4],
}


class Pickles:
    """What one would write without mmgevent."""

    @staticmethod
    def encode_column(column):
        return pickle.dumps(column, 5)

    @staticmethod
    def decode_column(data, count):
        return pickle.loads(data)


def implementation(name):
    if name == "pickle":
        return Pickles
    if CORES[name] is None:
        pytest.skip("the C core is not built")
    return CORES[name]


@pytest.fixture(params=["c", "twin", "pickle"])
def codec(request):
    return implementation(request.param)


@pytest.fixture(params=list(COLUMNS))
def column(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {request.param}"
    return COLUMNS[request.param]


def test_encode_column(benchmark, codec, column):
    benchmark.extra_info["bytes"] = len(benchmark(lambda: codec.encode_column(column)))


def test_decode_column(benchmark, codec, column):
    data = codec.encode_column(column)
    assert benchmark(lambda: codec.decode_column(data, len(column))) == column


#: name -> pairs to fold
PAIRS = {
    "30,000 wide ints": [(key, 1) for key in COLUMNS["30,000 wide ints"]],
    "30,000 words": [(word, 1) for word in WORDS],
    "4 ints": [(1, 1), (2, 1), (1, 1), (2, 1)],
}


@pytest.fixture(params=list(PAIRS))
def pairs(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {request.param}"
    return PAIRS[request.param]


def fold(twin, pairs):
    table = twin.FoldTable(SUM)
    table.fold(pairs, 1 << 60)
    return table


def encode(twin, table):
    """Return the encoded columns of 16 partitions, as a map task makes them."""
    parts = table.scatter(16)
    if parts is None:
        dealt, _ = twin.scatter(table.take(), 16)
        parts = [part and (len(part[0]), *map(twin.encode_column, part)) for part in dealt]
    return parts


def merge(twin, parts):
    table = twin.FoldTable(SUM)
    for part in parts:
        if part is not None:
            count, keys, values = part
            table.merge(keys, values, count)
    return table.take()


@pytest.fixture(params=["c", "twin"])
def twin(request):
    return implementation(request.param)


def test_fold_to_columns(benchmark, twin, pairs):
    benchmark(lambda: encode(twin, fold(twin, pairs)))


def test_merge_columns(benchmark, twin, pairs):
    parts = encode(_fallback, fold(_fallback, pairs))
    expected = {}
    _fallback.fold(pairs, expected, SUM, 1 << 60)
    assert benchmark(lambda: merge(twin, parts)) == expected
