"""Bars say what slots did, each task is in one of them, and they have limits."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mmgevent.engine.server.history import tracks as module
from mmgevent.engine.server.history.recent import Recent, Room
from mmgevent.engine.server.history.tracks import BAR_S, GAP_S, MAX_TRACKS, SHORT_S, TrackCount, Tracks


def make_tracks():
    return Tracks(Recent(Room(10**9), 10**9), TrackCount())


def bars_of(tracks):
    return list(tracks.bars.since(0)[2])


OUTCOMES = st.sampled_from(["done", "duplicate", "failed", "died", "lost", ""])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.2), st.floats(-1, 1e9), OUTCOMES), max_size=60))
def test_every_task_that_ran_is_in_one_bar_and_bars_of_a_slot_do_not_overlap(steps):
    tracks, now, expected = make_tracks(), 100.0, 0
    for number, (slot, pause, seconds, outcome) in enumerate(steps):
        track = tracks.begin(7, slot, "w", number, number, "map", now)
        now += pause
        tracks.end(track, number, outcome, seconds if outcome in ("done", "duplicate") else None, now)
        expected += 1
    tracks.close()
    bars = bars_of(tracks)
    assert sum(bar.tasks for bar in bars) == expected
    for slot in range(4):
        mine = sorted((bar for bar in bars if bar.slot == slot), key=lambda bar: bar.end_s)
        assert all(bar.start_s <= bar.end_s for bar in mine)
        assert all(first.end_s <= second.start_s for first, second in pairwise(mine))
        assert all(0 <= bar.busy_s <= bar.end_s - bar.start_s + 1e-9 for bar in mine)


def test_short_tasks_are_one_bar_until_a_pause_a_death_or_a_second():
    tracks, now = make_tracks(), 0.0

    def work(count, outcome="done"):
        nonlocal now
        for _ in range(count):
            track = tracks.begin(1, 0, "w", 1, 5, "map", now)
            now += SHORT_S / 2
            tracks.end(
                track,
                1,
                outcome,
                SHORT_S / 2 if outcome == "done" else None,
                now,
                "gone" * (outcome != "done"),
            )

    work(3)
    now += 2 * GAP_S
    work(2)
    work(1, "died")
    work(round(2.5 * BAR_S / (SHORT_S / 2)))
    tracks.settle(now)
    assert len(bars_of(tracks)) in (5, 6)  # the last one is open yet
    now += 2 * GAP_S
    tracks.settle(now)
    bars = bars_of(tracks)
    assert [(bar.tasks, bar.outcome, bar.error) for bar in bars[:3]] == [
        (3, "done", ""),
        (2, "done", ""),
        (1, "died", "gone"),
    ]
    assert all(bar.end_s - bar.start_s <= BAR_S + 1e-9 for bar in bars)


def test_attempts_that_wait_behind_another_and_are_revoked_never_ran():
    tracks = make_tracks()
    first = tracks.begin(1, 0, "w", 1, 1, "map", 0.0)
    tracks.begin(1, 0, "w", 2, 2, "map", 0.0)
    assert [(task, since) for _, task, _, since in tracks.running()] == [(1, 0.0)]
    tracks.end(first, 2, "", None, 1.0)
    tracks.end(first, 1, "", None, 3.0)
    assert [(bar.task, bar.outcome, bar.end_s) for bar in bars_of(tracks)] == [(1, "revoked", 3.0)]


def test_tracks_have_limits_and_what_is_not_seen_is_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_ALL_TRACKS", MAX_TRACKS + 5)
    count = TrackCount()
    jobs = [Tracks(Recent(Room(10**9), 10**9), count) for _ in range(2)]
    for tracks in jobs:
        for worker in range(MAX_TRACKS + 10):
            track = tracks.begin(worker, 0, "w", worker, worker, "map", 0.0)
            tracks.end(track, worker, "done", 1.0, 1.0)
    assert [tracks.unseen for tracks in jobs] == [10, MAX_TRACKS + 5]
    for tracks in jobs:
        tracks.close()
    assert count.tracks == 0
