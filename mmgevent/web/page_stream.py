"""What one open page is sent: it remembers what the page has seen, and notices when the page closes."""

from __future__ import annotations

import contextlib
from typing import Any

from gevent.event import Event
from gevent.socket import wait_read

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.web.job_view import JobView
from mmgevent.web.observer import Observer


class PageReader:
    """Reads for one page what it has not seen yet, of the board and of one job."""

    def __init__(self, observer: Observer, job: str):
        """`job`: id or name of a job that the page looks into, or ""."""
        self._observer, self._job = observer, job
        self._seen = self._seen_of_view = 0
        self._has_read = False
        self._view: JobView | None = None

    def read(self, closed: Event, timeout_s: float) -> dict[str, Any] | None:
        """Return what is new, or None if nothing is for some time, or the page closed (blocks)."""
        self._observer.want()
        news = self._news()
        if news is None:
            self._observer.wait_for_news(timeout_s, closed)
            news = self._news()
        return news

    def _news(self) -> dict[str, Any] | None:
        board = self._observer.board
        view = self._observer.want_job(self._job) if self._job else None
        if view is not self._view:  # the server was lost, and another connection tells everything anew
            self._view, self._seen_of_view = view, 0
        news = None
        if board.version != self._seen or not self._has_read:
            news = board.changes(self._seen)
            self._seen, self._has_read = board.version, True
        if view is not None and view.version != self._seen_of_view:
            news = news or {"version": self._seen, "whole": False, "address": board.address}
            news["view"] = view.changes(self._seen_of_view)
            self._seen_of_view = view.version
        return news


class ClosingPage:
    """Notices that a page closes: its socket can be read, and nobody sends a request over it any more."""

    def __init__(self, sock: Any):
        #: set when it has closed
        self.event = Event()
        self._greenlet = spawn(end_process, self._watch, sock)

    def wait(self, seconds: float) -> bool:
        """Wait until it has closed, for so long at most. Return whether it has."""
        self.event.wait(max(0.0, seconds))
        return bool(self.event.is_set())

    def stop(self) -> None:
        """Watch no longer."""
        self._greenlet.kill(block=False)

    def _watch(self, sock: Any) -> None:
        with contextlib.suppress(OSError):  # it is closed here
            wait_read(sock.fileno())
        self.event.set()
