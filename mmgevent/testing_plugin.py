"""The pytest plugin: a fixture that checks a job. It imports the rest when a test uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def mmgevent_check() -> Iterator[Callable[..., dict[Any, Any]]]:
    """`mmgevent.testing.check`, whose cluster ends with the session."""
    from mmgevent import testing

    yield testing.check
    testing.close_shared()
