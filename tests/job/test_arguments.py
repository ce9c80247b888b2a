"""What functions of a job see as sys.argv in this process, and what everybody else does."""

import sys
import threading

from mmgevent.driver.results import apply_finish
from mmgevent.job.arguments import calls_showing, items_showing, list_to_show, showing
from mmgevent.job.job import Job


def see(*_):
    return list(sys.argv)


def test_what_everybody_sees_anyway_needs_nothing():
    assert list_to_show(None) is None
    assert list_to_show(tuple(sys.argv)) is None
    assert calls_showing(None, see) is see


def test_a_call_sees_its_own_and_what_it_changes_is_there_at_the_next():
    own = sys.argv
    call = calls_showing(["job.py", "a", "b"], lambda: sys.argv.pop())
    assert (call(), call()) == ("b", "a")
    assert sys.argv is own


def test_items_are_made_under_it_and_whoever_takes_them_is_not():
    own, closed = sys.argv, []

    def items():
        try:
            while True:
                yield see()
        finally:
            closed.append(see())

    walk = items_showing(["job.py"], items())
    assert next(walk) == next(walk) == ["job.py"]
    assert sys.argv is own
    walk.close()
    assert closed == [["job.py"]]
    assert list(items_showing(None, [1, 2])) == [1, 2]


def test_threads_that_leave_in_any_order_leave_the_programs_own():
    own = sys.argv
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with showing(["first"]):
            entered.set()
            assert leave.wait(20)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(20)
    with showing(["second"]):
        assert see() == ["second"]
        leave.set()
        thread.join()
        assert see() == ["second"]
    assert sys.argv is own


def test_finishfn_sees_it_and_the_records_are_awaited_without():
    own = list(sys.argv)

    def records():
        yield "records", see()

    each = apply_finish(lambda key, value: [value, see()], "pair", records(), ("job.py",))
    assert list(each) == [("records", [own, ["job.py"]])]
    together = apply_finish(
        lambda groups: [(key, [value, see()]) for key, value in groups], "iterator", records(), ("job.py",)
    )
    assert list(together) == [("records", [own, ["job.py"]])]
    mapping = apply_finish(dict, "iterator", records(), ("job.py",))
    assert list(mapping) == [("records", own)]


def test_a_datasource_is_called_and_walked_under_it_each_time():
    job = Job(lambda: iter([(1, see())]), lambda k, v: {k: v}).with_argv(["job.py", 1])
    assert job.argv == ("job.py", "1")
    assert [value for _, value, _ in job.walk(job.open_datasource())] == [["job.py", "1"]]
    assert [value for _, value, _ in job.walk(job.reopen_datasource())] == [["job.py", "1"]]
