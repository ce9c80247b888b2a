"""What anybody may send: seeds, what was found once, and a search for more."""

from __future__ import annotations

import pytest

from mmgevent.tasks.records import SEGMENT_VERSION
from tests.effort import share_of
from tests.trust import fuzz, fuzz_engine

#: inputs tried of each target: some five seconds of each, a minute of all; `make fuzz` takes longer
RUNS = {
    "frames": 50_000,
    "messages": 800_000,
    "objects": 400_000,
    "flushes": 25_000,
    "segments": 350_000,
    "columns": 150_000,
    "server_handshake": 100_000,
    "client_handshake": 90_000,
    "changed_handshake": 120_000,
    "peers": 5_000,
}

needs_engine = pytest.mark.skipif(bool(fuzz_engine.MISSING), reason=fuzz_engine.MISSING)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_seeds_and_their_cuts_break_no_target(target):
    few = fuzz.seeds(target)[:5]
    for seed in fuzz.seeds(target):
        fuzz.TARGETS[target](seed)
    for seed in few:
        for end in range(min(len(seed), 200) + 1):
            fuzz.TARGETS[target](seed[:end])
        for at in range(min(len(seed), 100)):
            for changed in (0, 0xFF, seed[at] ^ 1):
                fuzz.TARGETS[target](seed[:at] + bytes([changed]) + seed[at + 1 :])


@pytest.mark.parametrize(("target", "data"), fuzz.FOUND, ids=lambda value: str(value)[:30])
def test_what_was_found_once_breaks_nothing_any_more(target, data):
    fuzz.TARGETS[target](data)


@needs_engine
@pytest.mark.parametrize("target", fuzz.TARGETS)
@pytest.mark.parametrize("effort", [0.02, pytest.param(1.0, marks=pytest.mark.long)], ids=["short", "long"])
def test_a_search_by_coverage_finds_nothing_that_breaks_a_target(target, effort, tmp_path):
    runs = share_of(int(RUNS[target] * effort))
    found = fuzz_engine.search(target, tmp_path, seed=1, runs=runs)
    assert not found.crashes, found.log[-4000:]
    assert found.executions >= runs


@needs_engine
def test_the_memory_of_whoever_starts_a_search_is_not_counted_as_its_own(tmp_path):
    ballast = bytearray(b"x") * ((fuzz_engine.MEMORY_MIB + 100) << 20)
    assert not fuzz_engine.search(
        "frames", tmp_path, seed=1, seconds=3
    ).crashes  # it is looked at once a second
    assert ballast


@needs_engine
def test_a_search_finds_its_way_through_magic_and_version_from_nothing(tmp_path):
    found = fuzz_engine.search("planted", tmp_path, seed=1, runs=1_000_000)
    (crash,) = found.crashes
    assert crash.startswith(b"MMGS" + bytes([SEGMENT_VERSION]))
