"""A group of greenlets that have one owner: none of them ends by a fault unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent


class Greenlets:
    """Greenlets that end with their owner, or before."""

    def __init__(self, on_fault: Callable[[gevent.Greenlet], None]):
        """`on_fault(greenlet)` is called when one of them ends by an exception."""
        self._on_fault = on_fault
        self._greenlets: set[gevent.Greenlet] = set()

    def spawn(self, function: Callable[..., None], *args: Any, delay_s: float = 0.0) -> gevent.Greenlet:
        """Call `function(*args)` in a greenlet, after a delay."""
        greenlet = gevent.spawn_later(delay_s, function, *args)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)
        greenlet.link_exception(self._on_fault)
        return greenlet

    def kill(self) -> None:
        """End all that run (blocks)."""
        gevent.killall(list(self._greenlets))
