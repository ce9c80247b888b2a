"""Equal keys have one hash, in every process and in every version (docs/keys.md)."""

import collections
import datetime
import decimal
import fractions
import math
import os
import pathlib
import random
import re
import subprocess
import sys

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgevent._speedups import NAN, SUM, _fallback
from tests.kinds import (
    DIFFERENT,
    EQUAL,
    EVERY_KEY,
    GOLDEN,
    IMPLEMENTATIONS,
    Angry,
    ByIdentity,
    Folded,
    Handmade,
    Place,
    Plain,
    Point,
    Replaced,
    Text,
    Wide,
    east,
    keys,
    native,
    needs_native,
    nested,
)

NO_BUDGET = sys.maxsize
ROOT = pathlib.Path(__file__).resolve().parent.parent
KEYS_PAGE = ROOT / "docs" / "keys.md"


def shown(value):
    """Return the name of a case, the same in every process: no addresses, and sets in order."""
    without_addresses = re.sub(r" at 0x[0-9a-f]+", "", ascii(value))
    return re.sub(r"(?<={)[^{}]*", lambda found: ", ".join(sorted(found[0].split(", "))), without_addresses)[
        :40
    ]


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


def test_xxh64_is_what_the_xxhash_package_gives_for_every_short_length(core):
    data = random.Random(1).randbytes(300)
    for seed in (0, 1, 2**32, 2**64 - 1, 0x9E3779B185EBCA87):
        for size in range(301):
            assert core.xxh64(data[:size], seed) == xxhash.xxh64_intdigest(data[:size], seed)


def test_xxh64_takes_bytes_likes_at_any_alignment_and_the_low_bits_of_a_seed(core):
    data = bytes(range(256))
    for start in range(9):
        assert core.xxh64(memoryview(data)[start:], seed=5) == xxhash.xxh64_intdigest(data[start:], 5)
    assert core.xxh64(bytearray(b"a"), -1) == core.xxh64(b"a", 2**64 - 1) == core.xxh64(b"a", 2**65 - 1)
    with pytest.raises(TypeError, match="bytes-like"):
        core.xxh64("a")
    with pytest.raises(TypeError):
        core.xxh64(b"a", "seed")


@pytest.mark.parametrize("size", [*range(70), 255, 256, 257, 5000])
def test_a_str_hashes_as_its_tag_and_utf8_whatever_its_length_and_width(core, size):
    for char in "aé€\U0001f600\ud800":
        key = char * size
        code = b"s" + key.encode("utf-8", "surrogatepass")
        assert core.hash_key(key, 3) == xxhash.xxh64_intdigest(code, 3)


def test_a_tuple_hashes_as_tag_count_and_hashes_of_its_items(core):
    for size in (0, 1, 2, 15, 16, 17, 400):
        key = tuple(range(size))
        digests = b"".join(core.hash_key(item).to_bytes(8, "little") for item in key)
        code = b"(" + size.to_bytes(8, "little") + digests
        assert core.hash_key(key, 9) == xxhash.xxh64_intdigest(code, 9)


@pytest.mark.parametrize(("key", "digest"), GOLDEN, ids=shown)
def test_the_hash_of_a_key_never_changes(core, key, digest):
    assert core.hash_key(key) == digest
    assert core.hash_key(key, 0) == digest
    assert core.is_hashed(key) is False


@pytest.mark.parametrize("row", EQUAL, ids=lambda row: shown(row[0]))
def test_equal_keys_hash_alike(core, row):
    for key in row:
        assert row[0] == key
        for seed in (0, 7):
            assert core.hash_key(key, seed) == core.hash_key(row[0], seed)
            assert core.hash_key((1, key), seed) == core.hash_key((1.0, row[0]), seed)
        assert core.is_hashed(key) == core.is_hashed(row[0])


def test_keys_of_different_kinds_hash_differently(core):
    digests = [core.hash_key(key) for key in DIFFERENT]
    assert len(set(digests)) == len(digests)


def test_another_hash_seed_gives_the_same_hashes(core):
    script = (
        "from mmgevent import _speedups\n"
        "from tests.kinds import GOLDEN\n"
        "print(_speedups.NATIVE, all(_speedups.hash_key(k) == h for k, h in GOLDEN))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "MMGEVENT_PURE": str(int(core is _fallback))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(core is native), "True"]


def test_a_partition_is_the_hash_modulo_the_count(core):
    for key in ("a", 1, (2, b"x"), None):
        for count in (1, 7, 64, 2**32 - 1):
            assert core.partition(key, count, 5) == core.hash_key(key, 5) % count
    for count in (0, -1, 2**32, 2**70):
        with pytest.raises(ValueError, match=f"from 1 to 2.*got {count}"):
            core.partition("a", count)


@pytest.mark.parametrize(
    "nan",
    [math.nan, -math.nan, float("nan"), complex(math.nan, 1), complex(1, math.nan), decimal.Decimal("NaN")],
    ids=repr,
)
def test_every_nan_is_one_key(core, nan):
    assert core.hash_key(nan) == core.hash_key(math.nan)
    assert core.unify_nan(nan) is NAN
    assert core.unify_nan(("a", (nan,)))[1][0] is NAN
    assert core.unify_nan(frozenset([nan, float("nan")])) == frozenset([NAN])
    assert core.hash_key(frozenset([nan, float("nan")])) == core.hash_key(frozenset([NAN]))
    point = core.unify_nan(Point(nan, "a"))
    assert type(point) is Point
    assert point.x is NAN
    groups = {}
    core.group([(nan, 1), (float("nan"), 2), ((nan,), 3), ((float("nan"),), 4)], groups, NO_BUDGET)
    assert groups == {NAN: [1, 2], (NAN,): [3, 4]}


@pytest.mark.parametrize("key", EVERY_KEY, ids=shown)
def test_a_key_without_nan_is_left_as_it_is(core, key):
    assert core.unify_nan(key) is key


def test_hash_of_a_users_class_is_told_wherever_it_is_nested(core):
    for key in (Plain(1), Folded("a"), Handmade("a"), pathlib.PurePosixPath("a"), Place(Plain(1), 1)):
        assert core.is_hashed(key) is True
        assert core.is_hashed(("a", (key,))) is True
        assert core.is_hashed(frozenset([key])) is True
    assert core.is_hashed(Replaced("a")) is False
    assert core.is_hashed(Replaced(Plain(1))) is True


def test_a_partition_key_stands_for_its_object(core):
    assert core.hash_key(Replaced(("a", 1)), 3) == core.hash_key(("a", 1), 3)


def test_numpy_scalars_count_as_what_they_equal(core):
    class str_(str):  # the real scalars define both anew, in a module of this name
        __module__ = "numpy"

        def __eq__(self, other):
            return str.__eq__(self, other)

        def __hash__(self):
            return str.__hash__(self)

    assert core.hash_key(str_("a")) == core.hash_key("a")
    numpy = pytest.importorskip("numpy")
    for scalar, same in [
        (numpy.str_("a"), "a"), (numpy.bytes_(b"a"), b"a"), (numpy.float64(0.5), 0.5), (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3), (numpy.uint8(3), 3), (numpy.bool_(True), 1), (numpy.float32("nan"), NAN),
        (numpy.complex64(2), 2),
    ]:  # fmt: skip
        assert core.hash_key(scalar) == core.hash_key(same)
        assert core.unify_nan(scalar) is (NAN if same is NAN else scalar)


def test_a_date_of_numpy_that_is_none_is_refused_with_what_to_do(core):
    numpy = pytest.importorskip("numpy")
    nat = numpy.datetime64("NaT", "s")
    for key in (nat, (nat, 1), frozenset([nat]), numpy.datetime64("NaT", "D")):
        with pytest.raises(
            TypeError, match=r"^keys cannot be of class numpy\.datetime64 .* leave such records out"
        ):
            core.hash_key(key)
    same = [core.hash_key(numpy.datetime64("2020-01-01", unit)) for unit in ("D", "h")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([], "keys must be hashable, got list: use a tuple"),
        ({}, "keys must be hashable, got dict: use a tuple of its items"),
        (set(), "keys must be hashable, got set: use a frozenset"),
        (bytearray(), "keys must be hashable, got bytearray: use bytes"),
        (("a", (1, [])), "keys must be hashable, got list: use a tuple"),
        (collections.Counter(), "keys must be hashable, got Counter"),
        (decimal.Decimal("sNaN"), "Cannot hash a signaling NaN value"),
    ],
    ids=shown,
)
def test_an_unhashable_key_is_refused_by_name_wherever_it_comes(core, key, message):
    for call in (
        core.hash_key,
        core.is_hashed,
        lambda key: core.partition(key, 4),
        lambda key: core.group(iter([(key, 1)]), {}, 1),
        lambda key: core.fold(iter([(key, 1)]), {}, SUM, 1),
        lambda key: core.merge_grouped({}, [key], [[1]]),
        lambda key: core.merge_flat({}, [key], [1]),
        lambda key: core.merge_fold({}, [key], [1], SUM),
    ):
        with pytest.raises(TypeError) as caught:
            call(key)
        assert str(caught.value) == message


def test_a_key_that_hashes_by_identity_is_refused_by_name(core):
    for key in (ByIdentity(), (1, ByIdentity()), frozenset([ByIdentity()]), Place(ByIdentity(), 1)):
        with pytest.raises(TypeError, match=r"of class tests\.kinds\.ByIdentity: .*__partition_key__"):
            core.hash_key(key)
        with pytest.raises(TypeError, match="ByIdentity"):
            core.scatter({key: 1}, 4)


def test_exceptions_of_a_keys_own_methods_pass_through(core):
    with pytest.raises(OSError, match="angry partition key"):
        core.hash_key((1, Angry("partition")))
    with pytest.raises(KeyError, match="angry hash"):
        core.group([(Angry("hash"), 1)], {}, 1)
    with pytest.raises(LookupError, match="angry eq"):
        core.group([(Angry("eq"), 1), (Angry("eq"), 1)], {}, NO_BUDGET)
    with pytest.raises(OSError, match="angry partition key"):
        core.scatter({"a": 1, Angry("partition"): 1}, 4)


def test_a_key_nested_too_deeply_is_an_error_and_not_a_crash(core):
    key = nested(200_000)
    for call in (core.hash_key, core.unify_nan, lambda key: core.group([(key, 1)], {}, 1)):
        with pytest.raises(RecursionError):
            call(key)
    replaced = Replaced(None)
    replaced.key = replaced
    with pytest.raises(RecursionError):
        core.hash_key(replaced)
    assert core.hash_key(nested(100)) == _fallback.hash_key(nested(100))


@needs_native
@given(key=keys, seed=st.integers(0, 2**64 - 1), count=st.integers(1, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_both_give_every_key_one_hash(key, seed, count):
    assert native.hash_key(key, seed) == _fallback.hash_key(key, seed)
    assert native.is_hashed(key) == _fallback.is_hashed(key)
    assert native.partition(key, count) == _fallback.partition(key, count)


def equal_forms(key):
    """Return objects that equal a key and can easily be made from it."""
    forms = [key]
    if type(key) is int:
        forms += [decimal.Decimal(key), fractions.Fraction(key)]
        if abs(key) < 2**53:
            forms += [float(key), complex(key)]
    elif type(key) is float and math.isfinite(key):
        forms += [decimal.Decimal(key), fractions.Fraction(key), complex(key)]
    elif type(key) is str:
        forms += [Text(key)]
    elif type(key) is tuple:
        forms += [Wide(key), tuple(equal_forms(item)[-1] for item in key)]
    elif type(key) is frozenset:
        forms += [frozenset(equal_forms(item)[-1] for item in key)]
    elif type(key) is datetime.datetime and key.tzinfo is not None and 1 < key.year < 9999:
        forms += [key.astimezone(east(3))]
    return forms


@pytest.mark.parametrize(
    "implementation", [_fallback, pytest.param(native, marks=needs_native)], ids=["fallback", "native"]
)
@given(key=keys)
@settings(max_examples=200, deadline=None)
def test_whatever_equals_a_key_hashes_like_it(implementation, key):
    for form in equal_forms(key):
        assert implementation.hash_key(form) == implementation.hash_key(key)


def test_the_examples_in_the_documentation_are_true(core):
    rows = re.findall(
        r"^\| (.+) \| `([0-9a-f ]+)` \| `([0-9a-f]{16})` \|$", KEYS_PAGE.read_text("utf-8"), re.M
    )
    assert len(rows) > 10
    for keys_column, code, digest in rows:
        for source in re.findall("`(.+?)`", keys_column) or ["math.nan"]:
            key = eval(source, {"math": math, "date": datetime.date})
            assert _fallback.encode(key)[0] == bytes.fromhex(code)
            assert f"{core.hash_key(key):016x}" == digest
