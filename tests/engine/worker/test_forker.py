"""forker: how the end of an executor is reported."""

import os
import signal

import pytest

from mmgevent.engine.worker.exits import Exit


@pytest.mark.parametrize("high", range(256))
def test_every_status_that_the_system_may_give_has_its_words(high):
    for status in range(high << 8, (high + 1) << 8):
        text = str(Exit(status, 0))
        if os.WIFSIGNALED(status):
            assert text.startswith(f"signal {os.WTERMSIG(status)} (")
        elif os.WIFEXITED(status):
            assert text == f"exit code {os.WEXITSTATUS(status)}"
        else:
            assert text == f"wait status {status}"


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (34, "SIGRTMIN"), (40, "SIGRTMIN+6"), (64, "SIGRTMAX"), (33, "of no known name")],
)
@pytest.mark.skipif(getattr(signal, "SIGRTMIN", None) != 34, reason="signals are numbered otherwise here")
def test_signals_are_told_by_number_and_name(number, name):
    assert str(Exit(number, 0)) == f"signal {number} ({name})"
