"""What fails in one item costs that item: on real clusters, for lines of files as for items of a list."""

import dataclasses
import math
import os
import subprocess
import sys

import gevent
import pytest

import mmgevent as mmg
from mmgevent.reducers import sum_values
from mmgevent.tasks.skipping import MAX_NAMED, MAX_VALUE_BYTES

LINES = 3000


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


@pytest.fixture
def log(tmp_path):
    """A file of numbers, one line each; `write(bad)` puts a word in the place of some of them."""
    path = tmp_path / "log.txt"

    def write(bad=(), word="bad", lines=LINES):
        path.write_text("".join(f"{word if i in bad else i}\n" for i in range(lines)))
        return mmg.Lines(path)

    write.path = path
    return write


def offset_of(line, bad=(), word="bad"):
    return sum(len(word if i in bad else str(i)) + 1 for i in range(line))


def ints(at, line):
    yield "n", 1
    yield "sum", int(line)


def add(key, values):
    return sum(values)


def expected(bad=(), lines=LINES):
    good = [i for i in range(lines) if i not in bad]
    return {"n": len(good), "sum": sum(good)}


@pytest.mark.parametrize("greenlets", [0, 5])
@pytest.mark.parametrize("reducefn", [add, sum_values])
def test_a_broken_line_is_set_aside_and_all_others_count(cluster, log, greenlets, reducefn):
    bad = {5, 77, LINES - 1}
    job = mmg.Job(log(bad), ints, reducefn, max_skipped=3, greenlets=greenlets)
    assert mmg.run(job, inline=True) == expected(bad)
    handle = cluster.submit(job)
    assert handle.result(60) == expected(bad)
    keys = [(str(log.path), offset_of(line, bad)) for line in sorted(bad)]
    skipped = sorted(handle.skipped(), key=lambda failure: failure["item_key"][1])
    assert [failure["item_key"] for failure in skipped] == keys
    assert [failure["key"] for failure in skipped] == [repr(key) for key in keys]
    assert {(f["error_type"], f["error_text"]) for f in skipped} == {
        ("ValueError", "invalid literal for int() with base 10: 'bad'")
    }
    assert all(failure["worker"] for failure in skipped)
    assert sorted(handle.skipped_items()) == [(key, "bad") for key in keys]
    assert handle.progress().skipped == 3


def test_shares_count_lines(cluster, log):
    bad = set(range(0, LINES, 100))
    for share, is_allowed in ((0.01, True), (0.0099, False)):
        job = mmg.Job(log(bad), ints, add, max_skipped=share)
        for run in (mmg.run, lambda job, inline=False: cluster.run(job)):
            if is_allowed:
                assert run(job, inline=True) == expected(bad)
            else:
                with pytest.raises(
                    mmg.TooManySkippedError,
                    match=r"more of the \d+ items fail than max_skipped=0.0099 allows",
                ):
                    run(job, inline=True)


def test_one_line_too_many_ends_the_job(cluster, log):
    job = mmg.Job(log({1, 2, 3}), ints, add, max_skipped=2)
    for run in (lambda: mmg.run(job, inline=True), lambda: cluster.run(job)):
        with pytest.raises(mmg.TooManySkippedError, match="invalid literal") as raised:
            run()
        assert "more items fail than max_skipped=2 allows" in str(raised.value)


@pytest.mark.parametrize("greenlets", [0, 3])
def test_lines_that_kill_are_found_and_only_they_are_set_aside(cluster, log, greenlets):
    killers = {"33", "1500", "1501"}

    def mapfn(at, line):
        if line in killers:
            os._exit(3)
        return ints(at, line)

    handle = cluster.submit(mmg.Job(log(), mapfn, add, max_skipped=3, greenlets=greenlets))
    assert handle.result(100) == expected(set(map(int, killers)))
    assert sorted(handle.skipped_items()) == sorted(
        ((str(log.path), offset_of(int(line))), line) for line in killers
    )
    keys = {repr((str(log.path), offset_of(int(line)))) for line in killers}
    assert {failure["key"] for failure in handle.skipped()} == keys
    per_culprit = len(handle.deaths()) / len(killers)
    assert per_culprit <= math.log2(LINES) + 3


@dataclasses.dataclass(frozen=True)
class Place:
    x: int


@pytest.mark.parametrize("form", [list, iter, dict])
@pytest.mark.parametrize("key", [Place(7), ("a", "b"), None, 1.5])
def test_an_item_that_kills_is_named_by_its_key_whatever_its_type(cluster, form, key):
    def mapfn(key, value):
        if value == "bad":
            os._exit(3)
        yield value, 1

    items = [((n, n), "good") for n in range(50)] + [(key, "bad")]
    handle = cluster.submit(mmg.Job(form(items), mapfn, add, max_skipped=1))
    assert handle.result(100) == {"good": 50}
    assert [(failure["key"], failure["item_key"]) for failure in handle.skipped()] == [(repr(key), key)]
    assert list(handle.skipped_items()) == [(key, "bad")]


def test_a_line_whose_output_kills_is_found_by_halves(cluster, log):
    class Poison:
        def __reduce__(self):
            os._exit(9)

    def mapfn(at, line):
        yield "n", Poison() if line == "2024" else 1

    handle = cluster.submit(mmg.Job(log(), mapfn, lambda key, values: len(values), max_skipped=1))
    assert handle.result(100) == {"n": LINES - 1}
    assert list(handle.skipped_items()) == [((str(log.path), offset_of(2024)), "2024")]
    assert len(handle.deaths()) <= math.log2(LINES) + 3


def test_a_collectfn_that_fails_is_traced_to_the_line(cluster, log, tmp_path):
    calls = tmp_path / "calls"

    def collectfn(key, values):
        with open(calls, "a") as file:
            file.write(".")
        if 1234 in values:
            raise ValueError("not this one")
        return sum(values)

    job = mmg.Job(log(), lambda at, line: [("sum", int(line))], add, collectfn=collectfn, max_skipped=1)
    right = {"sum": expected()["sum"] - 1234}
    assert mmg.run(job, inline=True) == right
    calls.write_text("")
    handle = cluster.submit(job)
    assert handle.result(100) == right
    assert list(handle.skipped_items()) == [((str(log.path), offset_of(1234)), "1234")]
    assert handle.skipped()[0]["function"] == "collectfn"
    # each of the halvings calls it twice, and of the batches of the job each once
    assert len(calls.read_text()) <= 2 * (math.log2(LINES) + 3)


def test_a_flaky_line_is_tried_again_at_once(cluster, log, tmp_path):
    tried = tmp_path / "tried"

    def mapfn(at, line):
        if int(line) % 100 == 7:
            with open(tried, "a+") as file:
                file.seek(0)
                if f"<{line}>" not in file.read():
                    file.write(f"<{line}>")
                    raise ConnectionError("come again")
        return ints(at, line)

    assert cluster.run(mmg.Job(log(), mapfn, add, retries=1)) == expected()
    assert tried.read_text().count("<") == LINES / 100


def test_unreadable_lines_and_files_are_set_aside(cluster, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1\n\xff\xfe\n2\n")
    job = mmg.Job(mmg.Lines(tmp_path / "a.txt"), ints, add, max_skipped=1)
    handle = cluster.submit(job)
    assert mmg.run(job, inline=True) == handle.result(60) == {"n": 2, "sum": 3}
    ((key, value),) = handle.skipped_items()
    assert key == (str(tmp_path / "a.txt"), 2)
    assert "could not be read" in repr(value)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_bytes(b"text")
    files = mmg.Job(
        mmg.Files(tmp_path / "b.txt", tmp_path / "c.txt"), lambda path, text: [(text, 1)], add, max_skipped=1
    )
    assert mmg.run(files, inline=True) == cluster.run(files) == {"text": 1}


def test_skips_by_the_ten_thousand_are_all_there(cluster):
    count, every = 40_000, 4

    def mapfn(key, value):
        if key % every == 1:
            raise ValueError(key)
        yield "n", 1

    notices = []
    job = mmg.Job([(i, i) for i in range(count)], mapfn, sum_values, max_skipped=0.25)
    handle = cluster.submit(job, on_notice=notices.append)
    assert handle.result(100) == {"n": count * (every - 1) // every}
    assert len(handle.skipped()) == min(10_000, count // every)
    assert sorted(handle.skipped_items()) == [(i, i) for i in range(count) if i % every == 1]
    assert len(notices) == MAX_NAMED + 2
    assert notices[-1] == "10000 items were set aside in all"
    assert notices[-2].startswith("set aside 10,000 x mapfn: ValueError at test_skipping.py:")


def test_errors_that_repeat_are_grouped_by_function_exception_and_line(cluster):
    def mapfn(key, value):
        if key % 10 == 1:
            raise ValueError(key)
        if key % 100 == 2:
            return {}[key]
        if key % 1000 == 3:
            int(f"number {key}")
        return [("n", 1)]

    count = 10_000
    handle = cluster.submit(
        mmg.Job([(i, i) for i in range(count)], mapfn, sum_values, max_skipped=0.5),
        on_notice=lambda text: None,
    )
    handle.result(100)
    groups = handle.errors()
    assert [(group.error_type, group.count) for group in groups] == [
        ("ValueError", 1000),
        ("KeyError", 100),
        ("ValueError", 10),
    ]
    assert len({group.line for group in groups}) == 3  # two of them are of one class
    assert all(group.function == "mapfn" and group.key in group.error for group in groups)
    assert sum(group.count for group in groups) == len(handle.skipped())


def test_a_driver_names_a_few_and_counts_the_rest(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        "datasource = {i: i for i in range(100)}\n"
        "def mapfn(k, v):\n    if v >= 40: raise ValueError('no')\n    yield 'n', 1\n"
        "def reducefn(k, vs): return sum(vs)\n"
        "options = {'max_skipped': 60}\n"
    )
    for how in ([], ["--inline"]):
        done = subprocess.run(
            [sys.executable, "-m", "mmgevent", "run", *how, str(job)],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stdout) == (0, "n\t40\n"), done.stderr
        assert done.stderr.count("item set aside:") == MAX_NAMED
        assert "60 items were set aside in all" in done.stderr


def test_large_values_are_read_again_or_named_as_not_kept(cluster):
    large = "x" * (MAX_VALUE_BYTES + 1)

    def mapfn(key, value):
        raise ValueError("no")

    again = cluster.submit(mmg.Job({"a": large, "b": "small"}, mapfn, add, max_skipped=2))
    assert again.result(60) == {}
    assert dict(again.skipped_items()) == {"a": large, "b": "small"}
    once = cluster.submit(mmg.Job(iter([("a", large), ("b", "small")]), mapfn, add, max_skipped=2))
    assert once.result(60) == {}
    items = dict(once.skipped_items())
    assert items["b"] == "small"
    assert isinstance(items["a"], mmg.NotKept)
    assert "large" in items["a"].reason


@pytest.mark.parametrize("make", [dict, lambda pairs: iter(list(pairs))], ids=["mapping", "iterator"])
def test_items_that_killed_are_given_again(cluster, make):
    def mapfn(key, value):
        if value == 5:
            os._exit(1)
        yield "n", 1

    handle = cluster.submit(mmg.Job(make((f"k{i}", i) for i in range(10)), mapfn, add, max_skipped=1))
    assert handle.result(60) == {"n": 9}
    assert list(handle.skipped_items()) == [("k5", 5)]


def test_a_failure_of_reduce_says_that_keys_are_not_set_aside(cluster):
    def reducefn(key, values):
        raise ValueError("no")

    job = mmg.Job({1: 1}, lambda k, v: [(k, v)], reducefn, max_skipped=1)
    for run in (lambda: mmg.run(job, inline=True), lambda: cluster.run(job)):
        with pytest.raises(mmg.JobError, match="max_skipped sets items aside in map only"):
            run()


@pytest.mark.parametrize("options", [{}, {"greenlets": 5}, {"greenlets": 5, "retries": 1}])
@pytest.mark.parametrize("kind", [gevent.GreenletExit, gevent.Timeout, StopIteration])
def test_what_ends_greenlets_costs_its_own_item_too(cluster, options, kind):
    def mapfn(key, value):
        gevent.sleep(0)
        if key == 5:
            raise kind
        return [("n", 1)]

    items = [(i, i) for i in range(100)]
    handle = cluster.submit(mmg.Job(items, mapfn, add, max_skipped=1, **options))
    assert handle.result(60) == {"n": 99}
    assert list(handle.skipped_items()) == [(5, 5)]
    with pytest.raises(mmg.JobError, match="mapfn at 5 "):
        cluster.run(mmg.Job(items, mapfn, add, **options))
