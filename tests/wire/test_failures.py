"""Failure records: whatever a worker or executor says went wrong can be sent to the driver."""

from __future__ import annotations

import pytest

from mmgevent.errors import JobError
from mmgevent.wire import failures
from mmgevent.wire.failures import (
    MAX_LINE_CHARS,
    MAX_STRING_BYTES,
    advise_on_skips,
    bound,
    name_skipped,
    shorten,
)
from mmgevent.wire.messages import control, decode_message, encode_message

PLAIN = {"kind": "exception", "error": "E: e", "item": 3, "key": "'k'", "traceback": "t", "worker": "h/1"}


def test_a_failure_as_ours_are_is_left_as_it_is():
    assert bound(PLAIN) == PLAIN


@pytest.mark.parametrize(
    "strange",
    [
        {"error": float("inf")},
        {"error": ["x"] * 80_000},
        {"traceback": 1, "last_words": {}, "advice": [], "key": {}, "worker": 1.5, "kind": True},
        {"item": 10**4000},
        {str(n): "x" * MAX_STRING_BYTES for n in range(100)},
        {"n" * 200_000: 1, "\ud800" * 30_000: 1},
        {"error": "\ud800" * 100_000, "traceback": "\U0001f40d" * 100_000},
    ],
    ids=["infinite", "a long list", "of other types", "a long number", "many", "long names", "long strings"],
)
def test_a_failure_of_any_kind_fits_a_message_and_makes_an_error(strange):
    failure = bound({**strange, "function": "mapfn"})
    frame = control("job_failed", 1, failure=failure, code="failed")
    assert decode_message(frame.payload)["failure"] == failure
    error = JobError.from_failure(failure)
    assert isinstance(str(error), str)
    assert all(type(value) in (str, type(None)) for value in (error.kind, error.key, error.traceback))


def test_a_text_loses_its_middle():
    assert shorten("short") == "short"
    text = shorten("b" + "x" * 100_000 + "e")
    assert text.startswith("b")
    assert text.endswith("e")
    assert "characters left out" in text
    assert len(text) <= MAX_STRING_BYTES


def test_the_limit_is_named_beside_other_advice():
    failure = {"error": "E", "advice": "install it"}
    assert advise_on_skips(failure, 70, 0.01)["advice"] == (
        "install it; more of the 70 items fail than max_skipped=0.01 allows"
    )
    assert advise_on_skips({"error": "E"}, 70, 3)["advice"] == "more items fail than max_skipped=3 allows"


def test_an_item_that_was_set_aside_is_named_in_one_line():
    failure = {"key": "'k'", "error": "E: first\nsecond \x1b[31m\u202e" + "x" * 10_000}
    line = name_skipped(None, failure)
    assert line.startswith("item set aside: 'k': E: first\\nsecond \\x1b[31m\\u202exxx")
    assert line.endswith("xxx...")
    assert line.isprintable()
    assert MAX_LINE_CHARS < len(line) < MAX_LINE_CHARS + 100
    assert name_skipped("item 3 of batch 4", {"error": None}) == "item set aside: item 3 of batch 4: "


def test_an_input_that_has_no_room_is_left_out():
    given = "x" * failures.MAX_INPUT_CHARS
    kept = bound({"error": "no", failures.INPUT: given})
    assert kept == {"error": "no", failures.INPUT: given}  # whole, though it is a long string
    for wrong in (given + "x", "\xe4" * 10, 5):
        assert failures.INPUT not in bound({"error": "no", failures.INPUT: wrong})
    full = {f"field{i}": "\x00" * failures.MAX_STRING_BYTES for i in range(failures.MAX_FIELDS - 1)}
    kept = bound({**full, failures.INPUT: given})
    assert failures.INPUT not in kept
    encode_message("failed", failure=kept)  # it fits in a frame
    few = {f"field{i}": "y" * (failures.MAX_STRING_BYTES - 100) for i in range(5)}
    kept = bound({**few, failures.INPUT: given})
    assert kept[failures.INPUT] == given
    later = {**kept, "worker": "w" * failures.MAX_STRING_BYTES, "advice": "a" * failures.MAX_STRING_BYTES}
    encode_message("job_failed", failure=later)
