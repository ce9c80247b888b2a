"""Items that kill whoever maps them: found, named, set aside if that is allowed, and nothing else is lost."""

import os
import re

import pytest

import mmgevent as mmg
from tests.integration.commands import Commands
from tests.trust.watch import PATIENCE_S, Watched


@pytest.fixture(scope="module")
def watched():
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture(autouse=True)
def unhurt(watched):
    yield
    watched.check()


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    started.close()


def add(key, values):
    return sum(values)


def in_one_batch(count):
    """Items whose reading takes next to no time, so that many share a batch, and their keys."""
    return [(f"item {n}", n) for n in range(count)]


class Poison:
    """Kills whoever pickles it: after the map of all items of a task, when nobody is on any."""

    def __init__(self, n):
        self.n = n

    def __reduce__(self):
        os._exit(9)


def die_at(poisons):
    def mapfn(key, value):
        if value in poisons:
            os._exit(7)
        yield value % 3, value

    return mapfn


def die_of_output_at(poisons):
    def mapfn(key, value):
        yield value % 3, Poison(value) if value in poisons else value

    return mapfn


def die_among_others_at(poisons):
    """With greenlets: all wait, the poison least; the others have begun before it."""

    def mapfn(key, value):
        import gevent

        gevent.sleep(0.02)
        if value in poisons:
            os._exit(7)
        yield value % 3, value

    return mapfn


def total_without(poisons, count):
    return {r: sum(n for n in range(r, count, 3) if n not in poisons) for r in range(3)}


WAYS = [
    pytest.param(die_at, {}, 300, id="on the item"),
    pytest.param(die_of_output_at, {}, 300, id="between items"),
    pytest.param(die_among_others_at, {"greenlets": 16}, 64, id="among greenlets"),
]


@pytest.mark.parametrize(("way", "options", "count"), WAYS)
@pytest.mark.parametrize("poisons", [{50}, {0, 17, 63}], ids=["one", "three"])
def test_poison_items_are_found_set_aside_and_reported_and_the_job_goes_on(
    watched, way, options, count, poisons
):
    seen = []
    handle = watched.cluster.submit(
        mmg.Job(in_one_batch(count), way(poisons), add, max_skipped=len(poisons), **options),
        on_notice=seen.append,
    )
    assert handle.result(PATIENCE_S) == total_without(poisons, count)
    assert {failure["key"] for failure in handle.skipped()} == {f"'item {n}'" for n in poisons}
    assert all(failure["kind"] == "died" for failure in handle.skipped())
    for n in poisons:
        assert any(text.startswith(f"item set aside: 'item {n}': ") for text in seen)
    assert [death["outcome"] for death in handle.deaths()].count("set aside") == len(poisons)


@pytest.mark.parametrize(("way", "options", "count"), WAYS)
def test_without_max_skipped_the_job_fails_and_names_the_item(watched, way, options, count):
    handle = watched.submit(in_one_batch(count), way({50}), add, **options)
    with pytest.raises(mmg.JobError) as caught:
        handle.result(PATIENCE_S)
    assert (caught.value.kind, caught.value.key) == ("died", "'item 50'")
    assert handle.deaths()[-1]["outcome"] == "failed"
    assert handle.skipped() == []


@pytest.mark.parametrize(("way", "options", "count"), WAYS)
def test_more_poison_than_allowed_fails_the_job_with_its_own_error(watched, way, options, count):
    handle = watched.submit(in_one_batch(count), way({3, 50}), add, max_skipped=1, **options)
    with pytest.raises(mmg.TooManySkippedError) as caught:
        handle.result(PATIENCE_S)
    assert caught.value.key in ("'item 3'", "'item 50'")
    assert len(handle.skipped()) == 1


def test_a_poison_item_costs_a_bounded_number_of_executors(watched):
    """Three to be sure, then one for each halving."""
    handle = watched.submit(in_one_batch(1000), die_of_output_at({500}), add, max_skipped=1, partitions=8)
    assert handle.result(PATIENCE_S) == total_without({500}, 1000)
    assert 3 <= len(handle.deaths()) <= 3 + 10


def test_an_item_that_hangs_is_set_aside_like_one_that_kills(watched):
    def hang(key, value):
        while value == 5:
            pass
        yield value % 3, value

    handle = watched.submit(in_one_batch(30), hang, add, task_timeout=1.0, max_skipped=1)
    assert handle.result(PATIENCE_S) == total_without({5}, 30)
    assert [failure["kind"] for failure in handle.skipped()] == ["timeout"]


def test_progress_counts_what_was_set_aside(watched):
    def fail_or_wait(key, value):
        import time

        if value in (1, 2):
            os._exit(7)
        time.sleep(0.05)
        yield value % 3, value

    counts = []
    job = mmg.Job(in_one_batch(40), fail_or_wait, add, max_skipped=2)
    handle = watched.cluster.submit(job, on_progress=lambda progress: counts.append(progress.skipped))
    assert handle.result(PATIENCE_S) == total_without({1, 2}, 40)
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert handle.progress().phase == "done"
    assert handle.progress().skipped == 2


def test_mmg_run_says_which_items_it_set_aside_and_writes_the_rest(commands):
    commands.write(
        "poison.py",
        "import os\n"
        "datasource = [(f'item {n}', n) for n in range(20)]\n"
        "def mapfn(k, v):\n    if v == 7: os._exit(7)\n    yield 'sum', v\n"
        "def reducefn(k, vs): return sum(vs)\n",
    )
    ended = commands.run("run", "--procs", "2", "--set", "max_skipped=1", "poison.py")
    assert (ended.returncode, ended.stdout) == (0, f"sum\t{sum(range(20)) - 7}\n")
    assert re.search(
        r"^mmg-run: item set aside: 'item 7': the executor died: exit code 7$", ended.stderr, re.M
    )
    assert len(re.findall("; tried again on ", ended.stderr)) == 2
    ended = commands.run("run", "--procs", "2", "poison.py")
    assert ended.returncode == 1
    assert re.search(
        r"^mmg-run: mapfn at 'item 7' on \S+: the executor died: exit code 7$", ended.stderr, re.M
    )
    assert commands.left_behind() == []
