"""What a server says of attempts that ended: those that ran, in rows of limited number."""

from types import SimpleNamespace

import pytest

from mmgevent.engine.scheduler.commands import Assign
from mmgevent.engine.server.task_log import MAX_SHORT, MAX_UNREAD_BYTES, MAX_WAITING, SHORT_S, TaskLog
from mmgevent.errors import ProtocolError
from mmgevent.wire.messages import decode_message
from mmgevent.wire.task_ends import MAX_LARGEST, MAX_SLOW, check_rows


class Link:
    """Keeps what is sent; its driver reads nothing."""

    def __init__(self):
        self.messages = []
        self.control_bytes = 0

    def send(self, frame):
        self.messages.append(decode_message(frame.payload))
        self.control_bytes += len(frame.payload)

    def rows(self):
        return [row for message in self.messages for row in message["rows"]]


def assigned(log, attempt, task, *, slot=0, worker=1):
    batches = {1: SimpleNamespace(size=100, items=10)}
    job = SimpleNamespace(sizes={}, input=SimpleNamespace(batches=batches))
    made = SimpleNamespace(
        number=attempt, task=task, batch=1, lo=0, hi=5, partitions=(), done=None, is_map=True, job=job
    )
    log.assign(Assign(worker, slot, 1, task, attempt, "map", 1, 0, 5, (), ()), made, "host/1")
    return made


DONE = {"seconds": 0.25, "items": 5, "records": 7, "groups": 3, "size": 40}


def test_attempts_that_never_ran_have_no_row_and_duplicates_are_marked():
    log, link = TaskLog(), Link()
    first, queued = assigned(log, 1, 1), assigned(log, 2, 2)
    twin = assigned(log, 3, 1, slot=1)
    log.end(queued, is_committed=False)  # revoked behind the first one
    first.done = DONE
    log.end(first, is_committed=True)
    log.end(twin, is_committed=False)
    again = assigned(log, 4, 2)
    log.note(4, "returned", {})
    log.end(again, is_committed=False)
    failing = assigned(log, 5, 2)
    log.note(5, "failed", {"function": "mapfn", "error": "x" * 10_000, "key": "'k'", "traceback": "t"}, 3)
    log.end(failing, is_committed=False)
    log.flush(link, 1)
    rows = check_rows(link.rows())
    assert [(row["attempt"], row["outcome"], row.get("duplicate")) for row in rows] == [
        (1, "done", None),
        (3, "revoked", 1),
        (5, "failed", None),
    ]
    assert rows[0]["us"] == 250_000
    assert (rows[0]["entries"], rows[0]["bytes_in"], rows[0]["bytes_out"]) == (5, 50, 40)
    assert rows[2]["item"] == 3
    assert "traceback" not in rows[2]
    assert len(rows[2]["error"]) <= 200
    assert not log._tasks
    assert not log._whys
    assert not any(slot.attempts for slot in log._slots.values())


def test_short_tasks_beyond_some_have_one_row_a_slot_and_nothing_of_them_is_lost():
    log, link = TaskLog(), Link()
    short = {**DONE, "seconds": SHORT_S / 2}
    for number in range(1, MAX_SHORT + 101):
        attempt = assigned(log, number, number, slot=number % 2)
        slow = [[30, "'slow'", 3]] if number == MAX_SHORT + 50 else []
        attempt.done = {**short, **({"slow": slow} if slow else {})}
        log.end(attempt, is_committed=True)
    long = assigned(log, 1000, 1000)
    long.done = {**DONE, "seconds": SHORT_S}
    log.end(long, is_committed=True)
    failed = assigned(log, 1001, 1001)
    log.note(1001, "failed", {"error": "bad"})
    log.end(failed, is_committed=False)
    log.flush(link, 1)
    rows = check_rows(link.rows())
    sums = [row for row in rows if "count" in row]
    assert len(rows) == MAX_SHORT + 2 + len(sums)
    assert [(row["slot"], row["count"]) for row in sums] == [(1, 50), (0, 50)]
    assert sum(row["items"] for row in rows if row["outcome"] == "done") == 5 * (MAX_SHORT + 101)
    assert sum(row["us"] for row in sums) == round(100 * SHORT_S / 2 * 1e6)
    assert [row["slow"] for row in sums if "slow" in row] == [[[30, "'slow'", 3]]]
    log.flush(link, 1)
    assert len(link.rows()) == len(rows)


def test_a_driver_that_does_not_read_costs_a_limited_number_of_rows():
    log, link = TaskLog(), Link()
    for number in range(1, MAX_WAITING + 11):
        attempt = assigned(log, number, number)
        attempt.done = DONE
        log.end(attempt, is_committed=True)
    for _ in range(3):
        log.flush(link, 1)
    assert MAX_UNREAD_BYTES <= link.control_bytes < 2 * MAX_UNREAD_BYTES
    sent = len(link.rows())
    log.flush(link, 1, is_last=True)
    assert link.messages[0]["lost"] == 10
    assert link.messages[-1]["lost"] == MAX_WAITING - sent


def test_what_workers_say_of_slow_items_is_passed_on_as_far_as_it_makes_sense():
    log, link = TaskLog(), Link()
    attempt = assigned(log, 1, 1)
    attempt.done = {
        **DONE,
        "slow": [[5, "k", 1], [5], ["5", "k", 1], [5, "k" * 1000, 1], [-1, "k", 1], *[[5, "k", 1]] * 100],
        "largest": [[3, "k"], [True, "k"], [3, 4], *[[3, "k"]] * 100],
    }
    log.end(attempt, is_committed=True)
    log.flush(link, 1)
    (row,) = check_rows(link.rows())
    assert row["slow"] == [[5, "k", 1]] * (MAX_SLOW - 4)
    assert row["largest"] == [[3, "k"]] * (MAX_LARGEST - 2)


@pytest.mark.parametrize(
    "change",
    [
        {"task": None},
        {"worker": 5},
        {"outcome": "well"},
        {"other": 1},
        {"us": -1},
        {"slow": [[1]]},
        {"key": "k" * 999},
    ],
)
def test_a_row_that_no_server_of_ours_sends_is_a_breach_of_the_protocol(change):
    row = {
        "phase": "map",
        "task": 1,
        "attempt": 1,
        "worker": "w",
        "slot": 0,
        "outcome": "done",
        "ago_us": 0,
        "us": 1,
    }
    assert check_rows([row]) == [row]
    for bad in ({**row, **change}, {name: row[name] for name in row if name not in change and name != "us"}):
        with pytest.raises(ProtocolError, match="row of task_ends"):
            check_rows([bad])
