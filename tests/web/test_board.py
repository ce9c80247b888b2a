"""A board tells each page what it lacks, whatever the page saw last, and holds no more than there is."""

from hypothesis import given
from hypothesis import strategies as st

from mmgevent.web import board as boards
from mmgevent.web.board import KINDS, Board


class Page:
    """What a page of the browser keeps, by the same rules."""

    def __init__(self):
        self.seen = 0
        self.rows = {kind: {} for kind in KINDS}
        self.state = self.server = None

    def apply(self, board):
        told = board.changes(self.seen)
        self.seen = told["version"]
        if told["whole"]:
            self.rows = {kind: {} for kind in KINDS}
        self.state, self.server = told.get("state", self.state), told.get("server", self.server)
        for kind in KINDS:
            part = told.get(kind, {"rows": [], "gone": []})
            for number in part["gone"]:
                self.rows[kind].pop(number, None)
            self.rows[kind].update({row["number"]: row for row in part["rows"]})
        return told


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KINDS), st.dictionaries(st.integers(1, 6), st.integers(0, 3)),
                  st.sets(st.integers(1, 6))),
        st.tuples(st.just("reset")),
        st.tuples(st.just("state"), st.booleans(), st.sampled_from(["", "lost"])),
        st.tuples(st.just("server"), st.integers(0, 3)),
        st.tuples(st.just("page"), st.integers(0, 2)),
    ),
    max_size=40,
)  # fmt: skip


@given(STEPS)
def test_pages_that_look_now_and_then_see_what_there_is(steps):
    board, pages = Board("host:1"), [Page() for _ in range(3)]
    for step, *given_ in steps:
        if step == "change":
            kind, values, gone = given_
            gone -= values.keys()
            board.change(kind, [{"number": number, "value": value} for number, value in values.items()], gone)
        elif step == "reset":
            board.reset()
        elif step == "state":
            board.set_state(connected=given_[0], why=given_[1])
        elif step == "server":
            board.set_server({"jobs": given_[0]})
        else:
            pages[given_[0]].apply(board)
    for page in pages:
        page.apply(board)
        for kind in KINDS:
            assert sorted(page.rows[kind].items()) == [(row["number"], row) for row in board.rows(kind)]
        assert (page.state["connected"], page.state["why"]) == (board.is_connected, board.why)
        assert page.server == board.server


def test_a_page_that_is_up_to_date_is_told_nothing():
    board, page = Board("host:1"), Page()
    board.change("jobs", [{"number": 1}], [])
    assert page.apply(board)["whole"]
    assert page.apply(board) == {"version": board.version, "whole": False, "address": "host:1"}
    board.set_state(connected=False, why=board.why)  # as before
    assert page.apply(board)["version"] == page.seen


def test_a_page_that_is_too_far_behind_is_told_everything(monkeypatch):
    monkeypatch.setattr(boards, "MAX_GONE", 3)
    board, page = Board("host:1"), Page()
    board.change("workers", [{"number": number} for number in range(1, 10)], [])
    page.apply(board)
    for number in range(1, 6):
        board.change("workers", [], [number])
    assert page.apply(board)["whole"]
    assert sorted(page.rows["workers"]) == [6, 7, 8, 9]


def test_a_page_of_another_dashboard_is_told_everything():
    board, page = Board("host:1"), Page()
    page.seen = 1000  # it saw the one before this
    assert page.apply(board)["whole"]
