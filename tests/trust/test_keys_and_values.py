"""Keys and values of every kind, on a cluster whose workers differ: one has the C core, one its Python twin."""

import array
import itertools
import math
import os
import pickle
import time

import pytest

import mmgevent as mmg
from mmgevent import _speedups
from mmgevent.access.addresses import format_address
from mmgevent.reducers import count_values
from tests import kinds
from tests.integration.commands import Commands
from tests.trust.watch import PATIENCE_S, Watched

PASSWORD = "the same on both sides"


def add(key, values):
    return sum(values)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    os.environ["MMG_PASSWORD"] = PASSWORD
    commands = Commands(tmp_path_factory.mktemp("commands"))
    try:
        watched = Watched(1, listen="127.0.0.1:0")
        address = format_address(watched.cluster.address)
        pure = {"MMG_PASSWORD": PASSWORD, "MMGEVENT_PURE": "1"}
        commands.start("worker", "--procs", "1", address, environ=pure)
        watched.wait_for_workers(2)
        yield watched
        watched.close()
    finally:
        del os.environ["MMG_PASSWORD"]
        commands.close()


@pytest.fixture(autouse=True)
def unhurt(watched):
    yield
    watched.check()


def fail(watched, *args, **options):
    """Run a job that must fail; the JobError."""
    with pytest.raises(mmg.JobError) as caught:
        watched.submit(*args, **options).result(PATIENCE_S)
    return caught.value


def can_travel(key):
    try:
        return pickle.loads(pickle.dumps(key)) == key
    except Exception:  # a class without a name
        return False


def test_blocks_of_both_kinds_of_worker_meet(watched, tmp_path):
    here = str(tmp_path)
    largest = (1 << 63) - 1

    def mapfn(key, value):
        from mmgevent import _speedups

        open(os.path.join(here, str(_speedups.NATIVE)), "w").close()
        while len(os.listdir(here)) < 2:  # the worker with the C core waits for that without
            time.sleep(0.005)
        yield mmg.Block(array.array("q", range(3000)), array.array("q", [largest]) * 3000)
        yield mmg.Block(array.array("d", [1.0, -0.0, math.nan]), array.array("q", [1, 2, 3]))

    for reducefn, expected in (
        (mmg.reducers.sum_values, 40 * largest),
        (mmg.reducers.count_values, 40),
        (lambda key, values: len(values), 40),
    ):
        results = watched.submit({n: n for n in range(40)}, mapfn, reducefn).result(PATIENCE_S)
        assert len(results) == 3001
        assert results[2] == expected
        assert [value for key, value in results.items() if key != key] == [
            120 if reducefn is mmg.reducers.sum_values else 40
        ]


def test_equal_keys_of_every_kind_meet_whichever_worker_maps_them(watched, tmp_path):
    rows = [row for row in ([key for key in row if can_travel(key)] for row in kinds.EQUAL) if row]
    items = [(n, (row, key)) for row, keys in enumerate(rows) for n, key in enumerate(keys)] * 10
    here = str(tmp_path)

    def mapfn(key, value):
        from mmgevent import _speedups

        open(os.path.join(here, str(os.getpid())), "w").close()
        while len(os.listdir(here)) < 2:  # the worker of one core waits for that of the other
            time.sleep(0.005)
        row, given = value
        yield given, (row, _speedups.NATIVE)

    def reducefn(key, values):
        return len(values), sorted(set(values))

    groups = watched.submit(items, mapfn, reducefn, partitions=64).result(PATIENCE_S).values()
    assert len(groups) == len(rows)
    for count, marks in groups:
        assert len({row for row, _ in marks}) == 1
        assert count == 10 * len(rows[marks[0][0]])
    assert {native for _, marks in groups for _, native in marks} == {_speedups.NATIVE, False}


def test_keys_of_different_kinds_stay_apart_and_every_nan_is_one(watched):
    items = [(n, key) for n, key in enumerate(kinds.DIFFERENT) if can_travel(key) or key != key] * 4

    def mapfn(key, value):
        yield value, key

    result = watched.submit(items, mapfn, lambda key, values: sorted(values)).result(PATIENCE_S)
    assert sorted(result.values()) == [[n] * 4 for n in sorted({n for n, _ in items})]


@pytest.mark.parametrize("key", [[1], {"a": 1}, {1}, ("a", [1]), bytearray(b"a"), (1, (2, {3}))], ids=repr)
def test_an_unhashable_key_fails_the_job_by_name(watched, key):
    error = fail(watched, [(7, key)], lambda k, v: [(v, 1)], add)
    assert error.kind == "key"
    assert "keys must be hashable" in str(error)


class HashRaises:
    def __hash__(self):
        raise KeyError("angry hash")

    def __eq__(self, other):
        return True


class EqRaises:
    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise LookupError("angry eq")


class PartitionRaises:
    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return 1

    def __partition_key__(self):
        raise OSError("angry partition key")


class HashLies:
    """Another hash in each process that it comes to; that of os.getpid() is the same where one executor does all."""

    def __init__(self, journeys=0):
        self.journeys = journeys

    def __reduce__(self):
        return HashLies, (self.journeys + 1,)

    def __eq__(self, other):
        return isinstance(other, HashLies)

    def __hash__(self):
        return self.journeys


class ByIdentity:
    pass


@pytest.mark.parametrize(
    ("key_class", "said"),
    [
        (HashRaises, "angry hash"),
        (EqRaises, "angry eq"),
        (PartitionRaises, "angry partition key"),
        (ByIdentity, "ByIdentity: it hashes by identity"),
    ],
)
def test_a_key_that_raises_or_says_nothing_fails_the_job_with_its_words(watched, key_class, said):
    def mapfn(key, value):
        yield key_class(), 1
        yield key_class(), 2

    assert said in str(fail(watched, [(n, n) for n in range(4)], mapfn, add))


def test_a_key_whose_hash_differs_between_processes_fails_the_job_by_its_class(watched):
    error = fail(watched, [(n, n) for n in range(4)], lambda k, v: [(HashLies(), 1)], add)
    assert error.kind == "key"
    assert "HashLies" in str(error)


def test_20000_keys_with_one_hash_are_grouped_rightly(watched):
    """Integers that Python's hash takes modulo 2**61 - 1: slow in any dict, and right."""
    modulus = 2**61 - 1
    job = [(n, n) for n in range(20)], lambda k, v: ((modulus * (v * 1000 + n), v) for n in range(1000)), add
    result = watched.submit(*job).result(2 * PATIENCE_S)
    assert len(result) == 20_000
    assert all(result[modulus * n] == n // 1000 for n in range(0, 20_000, 500))


def test_a_key_of_100_mib_comes_through(watched):
    job = [(n, n) for n in range(2)], lambda k, v: [("x" * (100 << 20), v + 1)], add
    ((key, total),) = watched.submit(*job).result(PATIENCE_S).items()
    assert (len(key), key.strip("x"), total) == (100 << 20, "", 3)


@pytest.mark.parametrize(
    "reducefn", [lambda key, values: len(values), count_values], ids=["list", "count_values"]
)
def test_10_million_values_of_one_key_are_reduced_at_once(watched, reducefn):
    job = [(n, n) for n in range(10)], lambda k, v: itertools.repeat(("k", v), 1_000_000), reducefn
    assert watched.submit(*job).result(PATIENCE_S) == {"k": 10_000_000}


def test_lone_surrogates_are_keys_and_values_like_others(watched):
    texts = ["\ud800", "a\udfff", "\udc80" * 300, "\U0001f600\ud83d"]
    items = [(text, text) for text in texts] * 3
    result = watched.submit(items, lambda k, v: [(k, v)], lambda k, values: "".join(values)).result(
        PATIENCE_S
    )
    assert result == {text: text * 3 for text in texts}


def test_a_lone_surrogate_in_an_error_is_told(watched):
    def mapfn(key, value):
        raise ValueError("\ud800")

    assert "\\ud800" in str(fail(watched, [("\udfff", 1)], mapfn, add))


def make_lambda():
    return lambda: 1


def make_generator():
    return (n for n in ())


def make_file():
    return open(os.devnull)


def make_local_class():
    class Local:
        pass

    return Local()


class RaisesWhenPickled:
    def __reduce__(self):
        raise RuntimeError("not me")


class RaisesWhenUnpickled:
    def __reduce__(self):
        return (int, ("no number",))


@pytest.mark.parametrize(
    "make", [make_lambda, make_generator, make_file, make_local_class, RaisesWhenPickled]
)
def test_a_value_that_cannot_be_pickled_fails_the_job_by_name(watched, make):
    error = fail(watched, [(7, 7)], lambda k, v: [("the key", make())])
    assert error.kind == "record"
    assert "the key" in str(error)
    assert "pickle" in str(error)


@pytest.mark.parametrize(
    "reducefn", [None, lambda key, values: len(values)], ids=["in the driver", "in reduce"]
)
def test_a_value_that_cannot_be_unpickled_fails_the_job(watched, reducefn):
    error = fail(watched, [(7, 7)], lambda k, v: [("the key", RaisesWhenUnpickled())], reducefn)
    assert "no number" in str(error)


def test_a_value_changed_after_it_was_yielded_is_what_it_became_inline_too(watched):
    """Values are kept as they are until they are encoded, as in plain Python: who changes them sees it, inline too."""

    def mapfn(key, value):
        row = []
        for n in range(3):
            row.append(n)
            yield "same list", row

    job = mmg.Job([(1, 1)], mapfn, lambda key, values: values)
    result = watched.cluster.run(job)
    assert result == mmg.run(job, inline=True) == {"same list": [[0, 1, 2]] * 3}
