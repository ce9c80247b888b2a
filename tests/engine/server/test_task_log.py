"""What a server says of attempts that ended: those that ran, in rows of limited number."""

from types import SimpleNamespace

import pytest

from mmgevent.engine.scheduler.commands import Assign
from mmgevent.engine.server.task_log import MAX_UNREAD_BYTES, MAX_WAITING, MESSAGE_BYTES, TaskLog
from mmgevent.errors import ProtocolError
from mmgevent.wire.done_tasks import MAX_ROWS, ROW_BYTES, unpack_rows
from mmgevent.wire.messages import decode_message
from mmgevent.wire.shapes import MAX_INT
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
        return [row for message in self.messages for row in message.get("rows", ())]

    def done(self):
        """Return the rows of plain tasks that are done, as dicts."""
        rows = []
        for message in self.messages:
            if message["type"] == "tasks_done":
                tasks, slots = unpack_rows(message["inline"], message["places"], message["at_ms"])
                for row in zip(*tasks, strict=True):
                    named = dict(zip(tasks._fields, row, strict=True))
                    rows.append({**named, "worker": slots[row[0]][0], "slot": slots[row[0]][1]})
        return rows


def assigned(log, attempt, task, *, slot=0, worker=1, name="host/1", is_duplicate=False):
    batches = {1: SimpleNamespace(size=100, items=10)}
    job = SimpleNamespace(sizes={}, input=SimpleNamespace(batches=batches))
    made = SimpleNamespace(
        number=attempt, task=task, batch=1, lo=0, hi=5, partitions=(), done=None, is_map=True, job=job
    )
    made.logged = None
    c = Assign(worker, slot, 1, task, attempt, "map", 1, 0, 5, (), (), is_duplicate=is_duplicate)
    log.assign(c, made, name)
    return made


DONE = {"seconds": 0.25, "items": 5, "records": 7, "groups": 3, "size": 40}


def test_attempts_that_never_ran_have_no_row_and_duplicates_are_marked():
    log, link = TaskLog(), Link()
    first, queued = assigned(log, 1, 1), assigned(log, 2, 2)
    twin = assigned(log, 3, 1, slot=1, is_duplicate=True)
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
    (done,) = link.done()
    assert (done["attempt"], done["task"], done["worker"], done["slot"]) == (1, 1, "host/1", 0)
    assert (done["us"], done["entries"], done["items"], done["records"], done["keys"]) == (
        250_000,
        5,
        5,
        7,
        3,
    )
    assert (done["bytes_in"], done["bytes_out"]) == (50, 40)
    rows = check_rows(link.rows())
    assert [(row["attempt"], row["outcome"], row.get("duplicate")) for row in rows] == [
        (3, "revoked", 1),
        (5, "failed", None),
    ]
    assert rows[1]["item"] == 3
    assert "traceback" not in rows[1]
    assert len(rows[1]["error"]) <= 200
    assert not log._whys
    assert not any(slot.attempts for slot in log._slots.values())


def test_every_task_has_a_row_and_many_share_a_message():
    log, link = TaskLog(), Link()
    count = 2 * MAX_ROWS + 7
    for number in range(1, count + 1):
        attempt = assigned(log, number, number, slot=number % 3)
        attempt.done = {**DONE, "records": number}
        log.end(attempt, is_committed=True)
    log.flush(link, 1)
    assert [len(message["inline"]) // ROW_BYTES for message in link.messages] == [MAX_ROWS, MAX_ROWS, 7]
    rows = link.done()
    assert [(row["task"], row["slot"], row["records"]) for row in rows] == [
        (number, number % 3, number) for number in range(1, count + 1)
    ]
    log.flush(link, 1)
    assert len(link.messages) == 3


@pytest.mark.parametrize(
    "strange",
    [
        {"records": MAX_INT},
        {"size": 2**32},
        {"seconds": -1.0},
        {"seconds": 1.0},
        {"seconds": 1e300},
        {"slow": [[30, "'slow'", 3]]},
        {"skipped": 1},
    ],
)
def test_a_task_that_does_not_fit_a_row_of_numbers_has_an_object(strange):
    log, link = TaskLog(), Link()
    attempt = assigned(log, 1, 1)
    attempt.done = {**DONE, **strange}
    log.end(attempt, is_committed=True)
    log.flush(link, 1)
    assert link.done() == []
    (row,) = check_rows(link.rows())
    assert (row["task"], row["outcome"], row["items"]) == (1, "done", 5)


def test_workers_with_long_names_share_messages_that_fit_a_frame():
    log, link = TaskLog(), Link()
    for number in range(1, MAX_ROWS + 1):
        attempt = assigned(log, number, number, worker=number, name="\U0001f600" * 1000)
        attempt.done = DONE
        log.end(attempt, is_committed=True)
    for _ in range(MAX_ROWS):
        link.control_bytes = 0  # its driver has read all
        log.flush(link, 1)
    assert len(link.messages) > 1
    assert [row["task"] for row in link.done()] == list(range(1, MAX_ROWS + 1))
    assert {len(row["worker"]) for row in link.done()} == {300}


def test_rows_of_numbers_that_no_server_of_ours_sends_are_a_breach_of_the_protocol():
    log, link = TaskLog(), Link()
    attempt = assigned(log, 1, 1)
    attempt.done = DONE
    log.end(attempt, is_committed=True)
    log.flush(link, 1)
    (message,) = link.messages
    rows, places, at_ms = message["inline"], message["places"], message["at_ms"]
    second = (10**6).to_bytes(4, "little")
    for bad in [
        (rows[:-1], places, at_ms),
        (b"", places, at_ms),
        (rows, [], at_ms),
        (rows, [[0, "w"]], at_ms),
        (rows, [[0, "w" * 301, 0]], at_ms),
        (rows, [[0, 5, 0]], at_ms),
        (rows, [[True, "w", 0]], at_ms),
        (rows[:-4] + second, places, at_ms),
        (rows[:-8] + b"\xff" * 4 + rows[-4:], places, at_ms),
    ]:
        with pytest.raises(ProtocolError, match="tasks_done"):
            unpack_rows(*bad)


def test_a_driver_that_does_not_read_costs_a_limited_number_of_rows():
    log, link = TaskLog(), Link()
    for number in range(1, MAX_WAITING + 11):
        attempt = assigned(log, number, number)
        attempt.done = DONE
        log.end(attempt, is_committed=True)
    for _ in range(3):
        log.flush(link, 1)
    assert MAX_UNREAD_BYTES <= link.control_bytes < MAX_UNREAD_BYTES + 2 * MESSAGE_BYTES
    assert MAX_UNREAD_BYTES + 2 * MESSAGE_BYTES < MAX_WAITING * ROW_BYTES  # all of them
    sent = len(link.done())
    log.flush(link, 1, is_last=True)
    assert link.messages[-1]["lost"] == MAX_WAITING + 10 - sent
    assert len(link.done()) == sent


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
