"""Make blocking calls, of disks for example, without holding up the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from mmgevent.machine.resources import shortage_error


class _Raised:
    """An exception on its way out of the thread pool, which would print it otherwise."""

    def __init__(self, error: Exception):
        self.error = error


def run_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that blocks in the hub's thread pool. Only this greenlet waits.

    Raises StartError if the pool needs a thread and can have none.
    """
    try:
        result = gevent.get_hub().threadpool.apply(_capture, (function, *args))
    except RuntimeError as error:  # from the pool itself
        raise shortage_error("a thread", error) from error
    if isinstance(result, _Raised):
        raise result.error
    return result


def start_thread_pool() -> None:
    """Start a thread of the hub's pool, which also looks up names.

    Raises StartError if there can be none.
    """
    run_in_thread(int)


def _capture(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return _Raised(error)
