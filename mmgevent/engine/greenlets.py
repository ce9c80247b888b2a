"""Every greenlet has an owner, and its unexpected end is a failure of what it served.

This is the only module that spawns greenlets (`tests/trust/ownership.py` checks it). Whoever spawns
one says what to do about a fault in it:

- `spawn` and `Greenlets` take `on_fault(greenlet)`. It fails what the greenlet served: a job, a
  link, an executor, a worker.
- `end_process` is the owner of what everything depends on. A process that went on without it would
  hang. One that ends is replaced by others: drivers start another engine, workers join again.
- `spawn_awaited` is for a greenlet whose `get` is called: that raises what ended it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from mmgevent.machine.logs import get_log

log = get_log(__name__)

OnFault = Callable[[gevent.Greenlet], None]


def spawn(
    on_fault: OnFault, function: Callable[..., None], *args: Any, delay_s: float = 0.0
) -> gevent.Greenlet:
    """Call `function(*args)` in a greenlet, after a delay.

    `on_fault(greenlet)` is called when it ends by an exception. The hub calls it, so it must not
    block. If it fails itself, the process ends.
    """
    greenlet = gevent.spawn_later(delay_s, function, *args) if delay_s else gevent.spawn(function, *args)

    def take_fault(ended: gevent.Greenlet) -> None:
        try:
            on_fault(ended)
        except Exception:
            log.exception("the owner of a greenlet failed: %s", ended)
            end_process(ended)

    greenlet.link_exception(take_fault)
    return greenlet


def spawn_awaited(function: Callable[..., Any], *args: Any) -> gevent.Greenlet:
    """Call `function(*args)` in a greenlet whose `get` the caller will call."""
    return gevent.spawn(function, *args)


def end_process(greenlet: gevent.Greenlet) -> None:
    """End this process: raise SystemError in its main greenlet, which cleans up."""
    text = f"internal error: {type(greenlet.exception).__name__}: {greenlet.exception}"
    log.critical("the process ends by a fault of our own: %s", greenlet, exc_info=greenlet.exc_info)
    gevent.get_hub().handle_system_error(SystemError, SystemError(text))


class Greenlets:
    """Greenlets that end with their owner, or before."""

    def __init__(self, on_fault: OnFault):
        """`on_fault(greenlet)` is called when one of them ends by an exception."""
        self.on_fault = on_fault
        self._greenlets: set[gevent.Greenlet] = set()

    def spawn(self, function: Callable[..., None], *args: Any, delay_s: float = 0.0) -> gevent.Greenlet:
        """Call `function(*args)` in a greenlet, after a delay."""
        greenlet = spawn(self.on_fault, function, *args, delay_s=delay_s)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)
        return greenlet

    def kill(self) -> None:
        """End all that run (blocks)."""
        gevent.killall(list(self._greenlets))
