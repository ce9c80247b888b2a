"""What the user is told of a job while it runs, beside its progress: texts, in the right thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Notices of others that a job shows: some pages of a terminal. A worker could cause thousands a
#: second: it may return every attempt with a notice, or leave and join again.
MAX_NOTICES = 1000


class Notices:
    """Shows the notices of one job to the user, or in the log."""

    def __init__(self, name: str, show: Callable[[str], None] | None):
        """`show`: the user's own; None: they go to the log, with the name of the job."""
        self._name = name
        self._show = show
        self._seen: set[str] = set()
        self._of_others = 0
        self._held: list[str] = []  # for the job's thread to show
        self._holder: int | None = None  # the thread whose notices are held

    @property
    def are_held(self) -> bool:
        """Whether another thread's notices wait for the job's thread."""
        return self._holder is not None

    def show(self, text: str) -> None:
        """Show a text to the user."""
        if self._holder == threading.get_ident():
            self._held.append(text)
        elif self._show is None:
            log.warning("%s: %s", self._name, text)
        else:
            self._show(text)

    def drop_callback(self) -> None:
        """Call the user's function no more: it may not return."""
        self._show = log.debug

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep notices of this thread, which is not the job's: callbacks are called in that one."""
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None

    def take_held(self) -> list[str]:
        """Return what another thread has kept, for the job's thread to show."""
        held, self._held = self._held, []
        return held

    def pick(self, text: str, once: str | None) -> str | None:
        """Return what to show of a text of the server or a worker, None if nothing.

        Of several texts with the same `once`, only the first is shown, and of all MAX_NOTICES.
        """
        if once is not None and once in self._seen:
            return None
        self._of_others += 1
        if self._of_others > MAX_NOTICES:
            is_first = self._of_others == MAX_NOTICES + 1
            return (
                f"there were {MAX_NOTICES:,} notices of workers; the next ones are not shown"
                if is_first
                else None
            )
        if once is not None:
            self._seen.add(once)
        return text
