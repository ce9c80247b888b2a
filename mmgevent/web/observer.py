"""Ask a server how it stands, as long as somebody looks at the dashboard.

One connection, one question at a time: the server sends what has changed since the last, so 10,000
workers cost it nothing but what they do. While nobody looks nothing is asked, and after a while the
connection is closed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import RLock

from mmgevent.engine.greenlets import spawn
from mmgevent.engine.looking import Looker
from mmgevent.engine.net.threads import run_in_thread
from mmgevent.errors import MmgeventError, ProtocolError, UsageError
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import shown
from mmgevent.web.board import Board
from mmgevent.web.job_view import ASKED, JobView
from mmgevent.web.own_bundles import find_commands
from mmgevent.wire.listings import (
    JOB_FIELDS,
    MAX_ROWS,
    WORKER_FIELDS,
    Paging,
    clean_row,
    rows_in,
)

log = get_log(__name__)

#: Time between two rounds of questions, seconds. The server sends changes twice a second at most.
ROUND_S = 0.5

#: Time between two rounds in which workers are asked for their load, seconds.
LOAD_S = 5.0

#: Time for which a request counts as somebody who looks, seconds: the scrapes of Prometheus come
#: every 15 s or so, and would otherwise open a connection each.
INTEREST_S = 30.0

#: First pause before a server that is lost is tried again, seconds. It doubles each time.
FIRST_PAUSE_S = 0.5

#: Longest such pause, seconds.
MAX_PAUSE_S = 10.0

#: Longest time that a request waits for the first answers of the server, seconds.
PATIENCE_S = 5.0

#: Jobs that are looked into at one time: each is four questions in a round.
MAX_VIEWS = 16

#: Time for which a request counts as somebody who looks into a job, seconds. Streams renew it.
VIEW_S = 10.0

#: Time between two looks for bundles on this machine, seconds: some twenty files are opened.
BUNDLES_S = 3.0

#: Answers that are read about one job in a row. The rest waits for the next round.
MAX_CATCH_UP = 50

_KINDS: tuple[tuple[str, str, dict[str, tuple[type, ...]], tuple[str, ...]], ...] = (
    ("jobs", "list_jobs", JOB_FIELDS, ("number", "id", "name")),
    ("workers", "list_workers", WORKER_FIELDS, ("number", "name", "slots")),
)


class Observer:
    """Keeps a board up to date while it is wanted."""

    def __init__(
        self,
        board: Board,
        open_looker: Callable[[], contextlib.AbstractContextManager[Looker]],
        on_fault: Callable[[gevent.Greenlet], None],
    ):
        """`on_fault(greenlet)` is called if the observer itself fails."""
        self.board = board
        self._open = open_looker
        self._wanted_until_s = 0.0
        self._wanted = Event()
        self._looker: Looker | None = None
        self._views: dict[str, tuple[JobView, float]] = {}  # {job: (view, wanted until)}
        self._bundles_due_s = 0.0
        self._lock = RLock()  # one question at a time
        #: Replaced at each change of the board, then set.
        self._changed = Event()
        self._greenlet = spawn(on_fault, self._run)

    def stop(self) -> None:
        """Close the connection and end; may be called again."""
        self._greenlet.kill()

    def want(self) -> None:
        """Say that somebody looks, from now on for INTEREST_S."""
        self._wanted_until_s = time.monotonic() + INTEREST_S
        self._wanted.set()

    def want_job(self, job: str) -> JobView | None:
        """Say that somebody looks into a job; return what is known of it. None: there are too many."""
        view = self._views.get(job, (None, 0.0))[0]
        now = time.monotonic()
        if view is None:
            if len(self._views) >= MAX_VIEWS:
                oldest = min(self._views, key=lambda each: self._views[each][1])
                if self._views[oldest][1] > now:
                    return None
                del self._views[oldest]
            view = JobView(job)
        self._views[job] = view, now + VIEW_S
        self.want()
        return view

    def wait_for_change(self, seen: int, timeout_s: float) -> bool:
        """Wait until the board has another version than `seen`; return whether it has."""
        if self.board.version == seen:
            self.wait_for_news(timeout_s)
        return self.board.version != seen

    def wait_for_news(self, timeout_s: float, *others: Event) -> None:
        """Wait until something has changed, or one of the other events is set."""
        gevent.wait([self._changed, *others], timeout=timeout_s, count=1)

    def wait_until_known(self) -> None:
        """Wait for the first answers of the server, or for the reason why there are none."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.board.is_connected and self.board.why == "not asked yet":
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self.wait_for_change(self.board.version, left_s):
                return

    def cancel(self, job: str) -> str:
        """Cancel a job, by its id. Return its name. Raises MmgeventError if that cannot be done."""
        with self._lock:
            if self._looker is None:
                raise UsageError(f"the server is not connected: {self.board.why}")
            rows = self._looker.find("cancel", job)
        return shown(str(rows[0].get("name", job))) if rows else job

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._wanted.wait()
            try:
                with self._open() as looker:
                    self._begin(looker)
                    pause_s = FIRST_PAUSE_S
                    self._watch(looker)
                    self.board.set_state(connected=False, why="nobody looked")
            except MmgeventError as error:
                self.board.set_state(connected=False, why=shown(str(error)))
                log.info("the server is lost: %s", error)
                self._tell()
                gevent.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            finally:
                self._looker = None
            if time.monotonic() >= self._wanted_until_s:
                self._wanted.clear()

    def _begin(self, looker: Looker) -> None:
        self._looker = looker
        self.board.reset()
        self._views = {job: (JobView(job), until_s) for job, (_, until_s) in self._views.items()}
        self._note("busy_lately", looker.busy_lately)
        self._note("ended", looker.ended)

    def _watch(self, looker: Looker) -> None:
        """Ask again and again, as long as somebody looks."""
        load_due_s = 0.0
        while (now := time.monotonic()) < self._wanted_until_s:
            measures = now >= load_due_s
            if measures:
                load_due_s = now + LOAD_S
            before = self.board.version
            ended = self.board.server.get("ended")
            self._ask_server(looker)
            has_ended = self.board.server.get("ended") != ended  # one may be over before it was listed
            for kind, question, fields, required in _KINDS:
                extra = {"details": True, "measure": measures} if kind == "workers" else {}
                for rows, gone in self._changes_of(looker, question, **extra):
                    clean = [clean_row(row, fields, *required) for row in rows]
                    if clean or gone:
                        self.board.change(kind, clean, gone)
                    if self.board.count(kind) > MAX_ROWS:
                        raise ProtocolError(f"the server has more than {MAX_ROWS} {kind}")
            if measures:
                self.board.note_loads()
            if has_ended:
                self._note("ended", looker.ended)
            self.board.set_state(connected=True)
            if self._ask_about_jobs(looker) or self.board.version != before:
                self._tell()
            gevent.sleep(ROUND_S)

    def _note(self, name: str, ask: Callable[[], Any]) -> None:
        """Note a fact, unless the server is too old to know it."""
        try:
            with self._lock:
                self.board.set_fact(name, ask())
        except UsageError as error:
            log.info("the server tells no %s: %s", name, error)

    def _ask_server(self, looker: Looker) -> None:
        with self._lock:
            row = looker.describe_server()
        self.board.set_server(row)

    def _ask_about_jobs(self, looker: Looker) -> bool:
        """Ask about the jobs that somebody looks into; return whether something is new."""
        now = time.monotonic()
        self._views = {job: view for job, view in self._views.items() if view[1] > now}
        before = [view.version for view, _ in self._views.values()]
        views = [view for view, _ in self._views.values()]
        for view in views:
            if not view.is_complete:
                self._ask_about_job(looker, view)
        if now >= self._bundles_due_s:
            self._bundles_due_s = now + BUNDLES_S
            self._find_bundles(views)
        return before != [view.version for view in views]

    def _find_bundles(self, views: list[JobView]) -> None:
        """Look which errors can be replayed on this machine."""
        known = [*self.board.rows("jobs"), *(self.board.fact("ended") or ())]
        for view in views:
            row = next((row for row in known if row["id"] == view.job), None)
            if view.has_errors and row is not None:
                view.note_replays(run_in_thread(find_commands, row["name"], row.get("since", 0.0)))

    def _ask_about_job(self, looker: Looker, view: JobView) -> None:
        try:
            for what in ASKED:
                for _ in range(MAX_CATCH_UP):
                    with self._lock:
                        events = looker.follow(what, view.job, view.seen.get(what, 0))
                    view.take(what, events)
                    if not events.has_more:
                        break
        except UsageError as error:
            view.fail(str(error))

    def _changes_of(
        self, looker: Looker, question: str, **extra: Any
    ) -> Iterator[tuple[list[dict[str, Any]], list[int]]]:
        """Yield the changes of a listing, page by page."""
        paging = Paging()
        while True:
            with self._lock:
                answer = looker.ask(question, deltas=True, **paging.fields, **extra)
            is_last = paging.is_last(answer)
            yield rows_in(answer), answer.get("gone", [])
            if is_last:
                return

    def _tell(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()
