"""Records to segments and back, beside one pickle of the list of pairs (which has no checksum)."""

import pickle

import pytest

from benchmarks.micro.cases import PAIRS
from mmgevent.tasks.records import decode_segment, encode_segment

POSTINGS = [f"/corpus/part-{number:04}.txt" for number in range(16)]

#: what values are like: all the same small int, distinct strs, or few strs that recur
COLUMNS = {
    **{kind: list(map(list, zip(*pairs, strict=True))) for kind, pairs in PAIRS.items()},
    "30,000 distinct strs": [list(range(30_000)), [f"value {n}" for n in range(30_000)]],
    "30,000 postings": [list(range(30_000)), [POSTINGS[n % 16] for n in range(30_000)]],
}


def encode_plain(keys, values):
    return pickle.dumps(list(zip(keys, values, strict=True)), 5)


def decode_plain(data):
    pairs = pickle.loads(data)
    return [key for key, _ in pairs], [value for _, value in pairs]


def decode_ours(data):
    segment = decode_segment(data)
    return segment.keys, segment.values


CODECS = {"segment": (encode_segment, decode_ours), "plain": (encode_plain, decode_plain)}


@pytest.fixture(params=list(CODECS))
def codec(request):
    return CODECS[request.param]


@pytest.fixture(params=list(COLUMNS))
def columns(request, benchmark):
    benchmark.group = f"{request.node.originalname[5:]}, {request.param}"
    return COLUMNS[request.param]


def test_encode(benchmark, codec, columns):
    benchmark.extra_info["bytes"] = len(benchmark(lambda: codec[0](*columns)))


def test_decode(benchmark, codec, columns):
    data = codec[0](*columns)
    keys, values = benchmark(lambda: codec[1](data))
    assert [keys, values] == columns
