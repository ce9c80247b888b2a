"""What is known of a job is complete only when every answer says that the job is over, and pages lack nothing."""

from mmgevent.engine.looking import Events
from mmgevent.web.board import Board
from mmgevent.web.busiest import MAX_LISTED
from mmgevent.web.job_view import ASKED, MAX_LANES, MAX_LINES, JobView

BAR = {"worker": "w", "slot": 0, "phase": "map", "outcome": "done", "start": 1.0, "seconds": 1.0, "busy": 1.0,
       "tasks": 1, "task": 1}  # fmt: skip


def events(*rows, next=1, lost=0, more=False, over=False, **found):
    return Events(list(rows), next, lost, has_more=more, is_over=over, found={"rows": list(rows), **found})


def test_a_job_that_ends_between_two_questions_is_asked_for_the_rest():
    view = JobView("j-1")
    for what in ASKED:
        view.take(what, events(over=what != "tasks"))
    assert view.is_known
    assert not view.is_complete  # its last tasks are unknown
    view.take("tasks", events(BAR, more=True, over=True))
    assert not view.is_complete
    view.take("tasks", events(over=True))
    assert view.is_complete
    assert len(view.whole()["work"]["lanes"]) == 1


def test_a_page_is_sent_each_line_once_and_learns_how_many_are_forgotten():
    view = JobView("j-1")
    view.take("logs", events({"text": "one"}, {"text": "ERROR:mine:two", "dropped": 3}, lost=2))
    first = view.changes(0)
    assert first["whole"]
    assert [line["text"] for line in first["lines"]] == ["one", "ERROR:mine:two"]
    assert first["lines"][1]["level"] == "ERROR"
    assert first["lost_lines"] == 5
    view.take("logs", events({"text": "three"}))
    second = view.changes(first["version"])
    assert [line["text"] for line in second["lines"]] == ["three"]
    assert view.changes(second["version"]) == {"job": "j-1", "version": view.version, "whole": False}
    view.take("logs", events(*[{"text": str(number)} for number in range(3 * MAX_LINES)]))
    assert len(view.changes(0)["lines"]) == MAX_LINES


def test_lanes_are_limited_and_the_others_are_counted():
    view = JobView("j-1")
    view.take("tasks", events(*[{**BAR, "slot": slot} for slot in range(MAX_LANES + 30)]))
    work = view.whole()["work"]
    assert (len(work["lanes"]), work["hidden_lanes"], work["hidden_tasks"]) == (MAX_LANES, 30, 30)


def test_pages_list_the_busiest_workers_whoever_they_are_now():
    board = Board("host:1")
    rows = [{"number": number, "name": "w", "slots": 1, "busy": 0} for number in range(1, 10_001)]
    board.change("workers", rows, [])
    first = board.changes(0)
    assert [row["number"] for row in first["workers"]["rows"]] == list(range(1, MAX_LISTED + 1))
    assert first["totals"]["workers"] == 10_000
    board.change("workers", [{**rows[7000], "busy": 1}], [])
    second = board.changes(first["version"])
    assert [row["number"] for row in second["workers"]["rows"]] == [7001]
    assert second["workers"]["gone"] == [MAX_LISTED]
    assert second["totals"]["busy"] == 1
    board.change("workers", [], [7001])
    third = board.changes(second["version"])
    assert [row["number"] for row in third["workers"]["rows"]] == [MAX_LISTED]
    assert third["workers"]["gone"] == [7001]
