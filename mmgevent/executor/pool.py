"""Map several items at once in one executor, for functions that wait for something outside.

This is used only if the process was monkey-patched before anything of the user was loaded. Items
begin in order, and their results come out in order. At most `size` items have begun and were not
taken.

The status page shows the oldest item, which is the one to blame for a timeout. It also shows
whether that item runs alone, and so is to blame for a death.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import gevent

from mmgevent.executor.status_page import StatusPage
from mmgevent.job.shipping import settings
from mmgevent.tasks.counters import with_place

#: Position in the batch, key, value.
IndexedItem = tuple[int, Any, Any]


class _ItemEnded(gevent.GreenletExit):
    """Ends the greenlet of an item, since an item before it failed."""

    ends_item = True  #: see `mapping.is_end_of_greenlet`


class ItemPool:
    """Runs up to `size` items at once."""

    def __init__(self, size: int, page: StatusPage):
        self._size = size
        self._page = page
        #: position of a running item -> its key, and when it began; oldest first
        self._running: dict[int, tuple[Any, float]] = {}
        gevent.Greenlet.add_spawn_callback(_count_for_the_same_item)

    def map_items(
        self, function: Callable[[int, Any, Any], Any], items: Iterable[IndexedItem]
    ) -> Iterator[Any]:
        """Yield `function(*item)` of each item, in order.

        An exception of the function is raised when its item's turn comes. Items that run then are
        ended.
        """
        begun: deque[gevent.Greenlet] = deque()
        try:
            for item in items:
                begun.append(gevent.spawn(settings.in_same_context(self._run), function, item))
                if len(begun) >= self._size:
                    yield _take(begun)
            while begun:
                yield _take(begun)
        finally:
            gevent.killall(list(begun), _ItemEnded)
            self._running.clear()

    def _run(self, function: Callable[[int, Any, Any], Any], item: IndexedItem) -> _Outcome:
        index, key, _ = item
        self._running[index] = (key, monotonic())
        self._show_oldest()
        try:
            return _Outcome(function(*item), None)
        except _ItemEnded:
            raise
        except BaseException as error:  # also SystemExit, for which gevent would end the process
            return _Outcome(None, error)
        finally:
            self._running.pop(index, None)
            self._show_oldest()

    def _show_oldest(self) -> None:
        for index, (key, began_s) in self._running.items():
            self._page.show(index, key, began_s, is_alone=len(self._running) == 1)
            return
        self._page.set_item(None)


def _count_for_the_same_item(greenlet: gevent.Greenlet) -> None:
    """Let a greenlet that a function starts count for the item of that function."""
    greenlet.gr_context = with_place(greenlet.gr_context)


class _Outcome:
    """A result, or an exception instead, which gevent would print otherwise."""

    def __init__(self, result: Any, error: BaseException | None):
        self.result = result
        self.error = error


def _take(begun: deque[gevent.Greenlet]) -> Any:
    outcome = begun.popleft().get()
    if not isinstance(outcome, _Outcome):
        raise outcome  # its greenlet was ended
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
