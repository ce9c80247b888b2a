"""What a server remembers of its jobs has limits, whatever jobs do, and readers learn what they missed."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mmgevent.engine.server.history import error_tally, history
from mmgevent.engine.server.history.error_tally import MAX_GROUPS, OTHERS, ErrorTally, GroupCount
from mmgevent.engine.server.history.history import MAX_ENDED, Histories
from mmgevent.engine.server.history.recent import EVENT_BYTES, Recent, Room
from mmgevent.engine.server.looking.followers import Followers
from mmgevent.wire.frames import MAX_PAYLOAD
from mmgevent.wire.listings import PAGE_BYTES
from mmgevent.wire.messages import control
from mmgevent.wire.prints import MAX_LINE_BYTES


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.just("read"), st.integers(0, 900))), max_size=60))
def test_readers_see_each_event_once_or_learn_that_it_is_lost(steps):
    room = Room(10 * EVENT_BYTES)
    recents = [Recent(room, 6 * EVENT_BYTES) for _ in range(3)]
    added, seen, missed, cursors = [[], [], []], [[], [], []], [0, 0, 0], [0, 0, 0]
    for who, step in [*steps, (0, "read"), (1, "read"), (2, "read")]:
        if step == "read":
            last, lost, events = recents[who].since(cursors[who])
            found = list(events)
            assert found == added[who][last : last + len(found)]
            missed[who] += lost
            seen[who] += found
            cursors[who] = last + len(found)
        else:
            added[who].append(len(added[who]))
            recents[who].add(len(added[who]) - 1, step)
        assert room.used_bytes == sum(recent.n_bytes for recent in recents) <= 10 * EVENT_BYTES
        assert all(recent.n_bytes <= 6 * EVENT_BYTES for recent in recents)
    for who in range(3):
        assert seen[who] == sorted(set(seen[who]))
        assert len(seen[who]) + missed[who] == len(added[who])


def test_a_reader_who_has_seen_more_than_there_is_begins_anew():
    recent = Recent(Room(10**6), 10**6)
    recent.add("first", 5)
    last, lost, events = recent.since(77)
    assert (last, lost, list(events)) == (0, 0, ["first"])


def test_one_job_that_prints_without_end_takes_nothing_from_another(monkeypatch):
    monkeypatch.setattr(history, "ALL_BYTES", 100 * EVENT_BYTES)
    histories = Histories()
    quiet, loud = histories.begin(1, "s-1", "quiet"), histories.begin(2, "s-2", "loud")
    quiet.note_lines("w", [("one line", "")])
    for _ in range(1000):
        loud.note_lines("w", [("x" * 100, "")])
    assert [line.text for line in quiet.lines.since(0)[2]] == ["one line"]
    assert loud.lines.since(0)[1] > 900


def failure(number=1, **fields):
    return {"function": "mapfn", "error_type": f"E{number}", "line": "job.py:3", "error": "no", **fields}


def test_errors_are_grouped_by_function_exception_and_line_with_the_first_as_example():
    tally = ErrorTally(GroupCount())
    tally.add(failure(key="'a'", worker="w1"), 1.0, count=3, set_aside=3)
    tally.add(failure(key="'b'", worker="w2"), 2.0)
    tally.add(failure(line="job.py:9"), 3.0)
    first, second = tally.since(0)
    assert (first["count"], first["set_aside"], first["key"], first["worker"]) == (4, 3, "'a'", "w1")
    assert (first["first_at"], first["last_at"]) == (1.0, 2.0)
    assert (second["line"], second["count"]) == ("job.py:9", 1)
    assert tally.since(tally.version) == []
    tally.add(failure(), 4.0)
    assert [row["number"] for row in tally.since(3)] == [1]


def test_groups_have_limits_and_no_error_is_uncounted(monkeypatch):
    monkeypatch.setattr(error_tally, "MAX_ALL_GROUPS", MAX_GROUPS + 10)
    count = GroupCount()
    tally, other = ErrorTally(count), ErrorTally(count)
    for number in range(10 * MAX_GROUPS):
        tally.add(failure(number, error="\U0001f4a5" * 9000, key="\ud800" * 9000), 1.0)
        other.add(failure(number), 1.0)
    for each in (tally, other):
        rows = each.since(0)
        assert sum(row["count"] for row in rows) == 10 * MAX_GROUPS
        assert len(rows) <= MAX_GROUPS + 1
        assert rows[-1]["error_type"] == OTHERS
    assert len(control("answer", found={"rows": tally.since(0)}, next=1).payload) < MAX_PAYLOAD
    tally.close()
    other.close()
    assert count.groups == 0


class Jobs(list):
    """The live jobs of a server: none."""

    def __init__(self):
        self.histories = Histories()


def test_pages_of_lines_fit_a_frame_and_follow_each_other():
    jobs = Jobs()
    job = jobs.histories.begin(1, "s-1", "job")
    for number in range(1500):
        job.note_lines("w" * 300, [(f"{number} " + "\U0001f4a5" * MAX_LINE_BYTES, "\u202e" * 2000)][:1])
    followers, seen, after = Followers(jobs), [], 0
    while True:
        fields = followers.read("logs", job, after)
        assert len(control("answer", **fields).payload) < MAX_PAYLOAD
        rows = fields["found"]["rows"]
        assert len(json.dumps(rows[:-1])) <= PAGE_BYTES
        seen += [int(row["text"].partition(" ")[0]) for row in rows]
        after = fields["next"]
        if not fields["more"]:
            break
    assert seen == list(range(seen[0], 1500))
    assert len(seen) > 100


def test_jobs_that_are_over_are_remembered_and_the_oldest_forgotten():
    jobs = Jobs()
    for number in range(1, MAX_ENDED + 11):
        job = jobs.histories.begin(number, f"s-{number}", "nightly")
        job.note_error(failure())
        job.note_outcome("failed", "no \N{RIGHT-TO-LEFT OVERRIDE}" * 1000)
        jobs.histories.end(job)
    followers = Followers(jobs)
    rows = followers.ended()
    assert [row["number"] for row in rows] == list(range(MAX_ENDED + 10, 10, -1))
    assert len(control("answer", found={"rows": rows}).payload) < MAX_PAYLOAD
    assert followers.find("nightly").number == MAX_ENDED + 10  # the last of that name
    assert followers.find("s-11").number == 11
