"""Failure records: whatever a worker or executor says went wrong can be told to the driver."""

from __future__ import annotations

import pytest

from mmgevent.errors import JobError
from mmgevent.failures import MAX_STRING_BYTES, bound, shorten
from mmgevent.wire.messages import control, decode_message

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
