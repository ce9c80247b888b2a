"""Jobs drawn at random come to what plain Python makes of them, on real clusters and in virtual time."""

from __future__ import annotations

import collections
import subprocess
import sys

import pytest

from tests.effort import some_of
from tests.integration.commands import ROOT
from tests.trust import differential
from tests.trust.comparing import as_found, check_same, plain
from tests.trust.differential_cluster import seeds_of
from tests.trust.differential_simulation import replay_drawn

#: Real jobs of one command, which takes 10 s, some of them for what is killed. `make test` runs the first.
CHUNK = 30
ALL = 300
#: Jobs in virtual time: some 16 ms each.
SHORT_VIRTUAL, CHUNK_VIRTUAL, ALL_VIRTUAL = 100, 1000, 10_000
#: Seconds for a command, on a machine however busy.
LATE_S = 600


def run_real(first: int, last: int) -> subprocess.CompletedProcess[str]:
    """Run the real jobs of these seeds in a program of their own, whose functions and classes are of `__main__`."""
    command = [sys.executable, "-m", "tests.trust.differential", f"{first}-{last}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LATE_S, check=False)


@pytest.mark.parametrize(
    "first",
    [0, *(pytest.param(first, marks=pytest.mark.long) for first in some_of(range(CHUNK, ALL, CHUNK)))],
)
def test_a_real_cluster_gives_what_plain_python_gives(first):
    ran = run_real(first, first + CHUNK - 1)
    assert ran.returncode == 0, ran.stderr[-20_000:]
    assert f"{CHUNK} of {CHUNK} jobs are right" in ran.stdout


def test_the_servers_code_gives_what_plain_python_gives_whatever_goes_wrong():
    for seed in some_of(range(SHORT_VIRTUAL)):
        replay_drawn(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, ALL_VIRTUAL, CHUNK_VIRTUAL))
def test_ten_thousand_seeds_give_what_plain_python_gives(first):
    for seed in some_of(range(first, first + CHUNK_VIRTUAL)):
        replay_drawn(seed)


def test_a_wrong_result_prints_the_command_that_runs_its_seed_again(monkeypatch):
    seed = next(
        seed
        for seed in range(ALL)
        if differential.draw(seed).expected() and not differential.draw(seed).fault
    )
    monkeypatch.setattr(differential.Drawn, "expected", lambda self: {"another key": "another value"})
    with pytest.raises(AssertionError, match=f"python -m tests.trust.differential_simulation {seed}$"):
        replay_drawn(seed)


def test_a_difference_is_found():
    with pytest.raises(AssertionError, match="'a': int\\(1\\), not bool\\(True\\)"):
        check_same({"a": plain(1)}, {"a": plain(True)})
    with pytest.raises(AssertionError, match="came twice"):
        as_found([(1, "x"), (True, "y")])


def test_all_that_can_be_drawn_is_drawn_by_some_seed():
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(ALL):
        drawn = differential.draw(seed)
        recipe = drawn.recipe
        counts.update(
            [f"form {drawn.form}", f"source {drawn.source}", f"value {recipe.value}", *drawn.options]
        )
        counts.update(f"key {kind}" for kind in recipe.keys)
        counts.update(f"trouble {what}" for what in set(recipe.troubles.values()))
        counts.update(
            [
                f"fault {drawn.fault}",
                f"victim {recipe.victim}",
                f"in {recipe.kill_phase}",
                *["flaky"] * bool(recipe.flaky),
            ]
        )
    possible = [
        *(f"form {form}" for form in differential.FORMS),
        *(f"key {kind}" for kind in differential.KEYS),
        *(f"value {kind}" for kind in differential.VALUES),
        *(f"source {source}" for source in ("list", "mapping", "generator", "iterator", "lines", "files")),
        *(f"trouble {what}" for what in ("raise", "late", "exit", "no pair", "bad key", "none", "die")),
        *(f"victim {victim}" for victim in ("executor", "template", "worker", "server")),
        *(
            "fault JobError",
            "fault TooManySkippedError",
            "in map",
            "in reduce",
            "flaky",
            "greenlets",
            "memory_limit",
        ),
        *("partitions", "retries", "max_skipped", "retransmit", "allocation", "task_timeout"),
    ]
    assert [what for what in possible if not counts[what]] == []


def test_seeds_of_a_command_are_single_or_ranges():
    assert [*seeds_of("3")] == [3]
    assert [*seeds_of("28-30")] == [28, 29, 30]
