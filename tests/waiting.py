"""Wait for what other processes do, of which no event reaches this one."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Look until a condition is true. Fail if it never is."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f"not so in {timeout_s:g} s: {condition}"
        time.sleep(0.01)
