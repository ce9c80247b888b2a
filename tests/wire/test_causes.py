"""Every item that was set aside counts for one cause, whatever a worker says of them."""

from hypothesis import given
from hypothesis import strategies as st

from mmgevent.wire.causes import MAX_CAUSES, Causes, split_by_cause

TEXT = st.text(max_size=5)
ROW = st.one_of(
    st.lists(st.one_of(st.integers(-3, 30), TEXT, st.none(), st.floats()), max_size=7),
    st.tuples(st.integers(1, 30), TEXT, TEXT, TEXT, TEXT, TEXT).map(list),
)


@given(st.lists(ROW, max_size=12), st.integers(1, 100))
def test_whatever_a_worker_says_the_items_add_up(rows, count):
    parts = split_by_cause({"causes": rows, "failure": {"error": "last"}}, count)
    assert sum(items for items, _ in parts) == count
    assert all(items > 0 for items, _ in parts)


def test_causes_are_told_apart_and_the_others_count_with_the_last_item():
    causes = Causes()
    for number in range(3 * MAX_CAUSES):
        for _ in range(2):
            causes.add({"function": "mapfn", "error_type": f"E{number}", "error": "x" * 10_000})
    rows = causes.rows()
    assert len(rows) == MAX_CAUSES
    assert all(len(row[-1]) < 1000 for row in rows)
    last = {"error_type": "E9"}
    parts = split_by_cause({"causes": rows, "failure": last}, 6 * MAX_CAUSES)
    assert [items for items, _ in parts] == [2] * MAX_CAUSES + [4 * MAX_CAUSES]
    assert parts[-1][1] == last


def test_one_cause_needs_no_rows():
    causes = Causes()
    causes.add({"error_type": "E"})
    causes.add({"error_type": "E"})
    assert causes.rows() is None
    assert split_by_cause({"failure": {"error_type": "E"}}, 2) == [(2, {"error_type": "E"})]
