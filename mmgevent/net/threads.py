"""Call what blocks, such as a disk, without holding up the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent


class _Raised:
    """An exception on its way out of the thread pool, which would print it."""

    def __init__(self, error: Exception):
        self.error = error


def run_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call something that blocks, in the hub's thread pool; only this greenlet waits."""
    result = gevent.get_hub().threadpool.apply(_capture, (function, *args))
    if isinstance(result, _Raised):
        raise result.error
    return result


def _capture(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return _Raised(error)
