"""Map several items at once in one executor, for functions that wait for something outside.

Used only where the process was monkey-patched before anything of the user's was loaded. Items begin
in order and their results come out in order; at most `size` of them are begun and not yet taken.
The page shows the item that has been running longest, which is the one to blame for a timeout, and
whether it is the only one, and so to blame for a death.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import gevent

from mmgevent.executor.status_page import StatusPage
from mmgevent.job.shipping import settings

#: index in the batch, key, value
IndexedItem = tuple[int, Any, Any]


class _ItemEnded(gevent.GreenletExit):
    """The greenlet of an item is told to end, since an item before it failed."""

    ends_item = True  #: see `mapping.is_end_of_greenlet`


class ItemPool:
    """Runs up to `size` items at once."""

    def __init__(self, size: int, page: StatusPage):
        self._size = size
        self._page = page
        self._running: dict[int, tuple[Any, float]] = {}  # index: key, time it began; in that order

    def map_items(
        self, function: Callable[[int, Any, Any], Any], items: Iterable[IndexedItem]
    ) -> Iterator[Any]:
        """Yield `function(*item)` of each item, in order.

        An exception of the function comes out at its item's turn; what runs then is ended.
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
        except BaseException as error:  # SystemExit too: gevent would end the process for it
            return _Outcome(None, error)
        finally:
            self._running.pop(index, None)
            self._show_oldest()

    def _show_oldest(self) -> None:
        for index, (key, began_s) in self._running.items():
            self._page.show(index, key, began_s, is_alone=len(self._running) == 1)
            return
        self._page.set_item(None)


class _Outcome:
    """A result or the exception instead; kept from gevent, which would print it."""

    def __init__(self, result: Any, error: BaseException | None):
        self.result = result
        self.error = error


def _take(begun: deque[gevent.Greenlet]) -> Any:
    outcome = begun.popleft().get()
    if not isinstance(outcome, _Outcome):
        raise outcome  # it was told to end
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
