"""Who looks at a server, and what they see: listings, the state of one worker, orders.

A driver or a looker asks; `wire.listings` says what. Each link has a queue of questions and, while
there are any, one greenlet that answers them in order and pauses between slices. So neither 10,000
workers nor a hundred lookers keep the hub from its links. Nothing is computed, and no worker is
asked for anything, unless somebody looks.

Names of people are what their programs say: everybody here has proved the main password.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from mmgevent.engine.greenlets import spawn
from mmgevent.engine.net.link import Link
from mmgevent.engine.scheduler.rules import JobStatus
from mmgevent.engine.scheduler.scheduler import Scheduler
from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.jobs import Jobs
from mmgevent.engine.server.looking.examinations import Examinations
from mmgevent.engine.server.looking.followers import Followers
from mmgevent.engine.server.looking.orders import Orders
from mmgevent.engine.server.looking.snapshot import (
    NOBODY,
    Submitter,
    describe_job,
    describe_server,
    describe_worker,
    mark_of_job,
    mark_of_worker,
)
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.errors import MmgeventError, ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import shown
from mmgevent.wire.hello import VERSION, clean_name, user_name
from mmgevent.wire.listings import FOLLOWED, MAX_LEFT, PAGE_ROWS
from mmgevent.wire.messages import control

log = get_log(__name__)

#: Workers in a `workers` message without rows. With the longest names and reasons they fit a frame.
MAX_LISTED_WORKERS = 1000

#: Questions of one link that wait. A client of ours asks one at a time.
MAX_QUESTIONS = 100

#: Workers or jobs that are looked at without a pause for links.
SLICE_ROWS = 500

#: Time between two answers with changes on one link, seconds.
DELTAS_S = 0.5


class _Looker:
    """One link that has asked something."""

    def __init__(self, link: Link):
        self.link = link
        self.questions: deque[dict[str, Any]] = deque()
        self.answering: gevent.Greenlet | None = None
        #: {question: {number: mark}} of the rows that were sent as deltas.
        self.sent: dict[str, dict[int, Any]] = {}
        #: {what: when changes of it may be sent next, by `monotonic`}
        self._due_s: dict[str, float] = {}

    def wait_until_due(self, what: str) -> None:
        """Wait until changes may be sent, which is DELTAS_S after the last ones (blocks)."""
        gevent.sleep(max(0.0, self._due_s.get(what, 0.0) - time.monotonic()))
        now = time.monotonic()
        self._due_s = {each: due_s for each, due_s in self._due_s.items() if due_s > now}
        self._due_s[what] = now + DELTAS_S

    def continue_now(self, what: str) -> None:
        """Let the rest of changes that did not fit one answer be sent without a pause."""
        self._due_s.pop(what, None)


class ServerLookout:
    """Answers what drivers and lookers ask of one server."""

    def __init__(self, jobs: Jobs, workers: Workers, scheduler: Scheduler, orders: Orders):
        self._jobs, self._workers, self._scheduler = jobs, workers, scheduler
        self._orders = orders
        self._people: dict[Link, Submitter] = {}
        self._lookers: dict[Link, _Looker] = {}
        self._began_s = time.monotonic()
        self._left: deque[tuple[float, str, str]] = deque(maxlen=MAX_LEFT)
        self.examinations = Examinations(workers)
        self._followers = Followers(jobs)

    # who

    def greet(self, link: Link, hello: dict[str, Any], *, is_local: bool) -> None:
        """Note who is at the other end of a link. `is_local`: the driver of this very engine."""
        user = user_name() if is_local else hello.get("user", "?")
        self._people[link] = Submitter(clean_name(user), clean_name(hello["host"]), hello["pid"])

    def who(self, link: Link) -> Submitter:
        """Return who is at the other end of a link."""
        return self._people.get(link, NOBODY)

    def forget(self, link: Link) -> None:
        """Forget a link that closed."""
        self._people.pop(link, None)
        looker = self._lookers.pop(link, None)
        if looker is not None and looker.answering is not None:
            looker.answering.kill(block=False)

    def note_left(self, worker: WorkerRecord, reason: str) -> None:
        """Note that a worker left."""
        self._left.append((time.monotonic(), worker.link.name, reason))
        self.examinations.forget(worker)

    # questions

    def take(self, link: Link, message: dict[str, Any]) -> None:
        """Take a question. Raises ProtocolError if too many wait."""
        if message["type"] == "list_workers" and not message.get("details"):
            listed = list(self._workers)[:MAX_LISTED_WORKERS]
            names, slots = [worker.name for worker in listed], [worker.slots for worker in listed]
            link.send(control("workers", names=names, slots=slots))
            return
        looker = self._lookers.get(link)
        if looker is None:
            looker = self._lookers[link] = _Looker(link)
        if len(looker.questions) >= MAX_QUESTIONS:
            raise ProtocolError(f"it asks without reading: {MAX_QUESTIONS} questions wait")
        looker.questions.append(message)
        if looker.answering is None:
            looker.answering = spawn(lambda greenlet: self._on_fault(link, greenlet), self._answer, looker)

    @staticmethod
    def _on_fault(link: Link, greenlet: gevent.Greenlet) -> None:
        log.error("an answer failed by a fault of our own: %s", link.name, exc_info=greenlet.exc_info)
        link.close_soon(f"internal error: {greenlet.exception}")

    def _answer(self, looker: _Looker) -> None:
        """Answer what waits, and end."""
        while looker.questions and not looker.link.is_closed:
            message = looker.questions.popleft()
            type_ = message["type"]
            if type_ == "list_workers":
                self._list_workers(looker, message)
            elif type_ == "list_jobs":
                self._list_jobs(looker, message)
            else:
                self._act(looker, message)
            gevent.sleep(0)
        looker.answering = None

    def _list_workers(self, looker: _Looker, message: dict[str, Any]) -> None:
        def busy(worker: WorkerRecord) -> int:
            return self._scheduler.count_busy(worker.number)

        page: list[WorkerRecord] = []
        if message.get("measure") and not message.get("after"):
            self.examinations.measure_all()
        rest = self._choose(
            looker, message, self._workers, lambda worker: mark_of_worker(worker, busy(worker)), page
        )
        if message.get("measure"):
            self.examinations.wait_for_loads(page)
        page = [worker for worker in page if self._workers.get(worker.number) is worker]
        looker.link.send(
            control(
                "workers",
                names=[worker.name for worker in page],
                slots=[worker.slots for worker in page],
                found={"rows": [describe_worker(worker, busy(worker)) for worker in page]},
                **rest,
            )
        )

    def _list_jobs(self, looker: _Looker, message: dict[str, Any]) -> None:
        page: list[HostedJob] = []
        rest = self._choose(
            looker, message, self._jobs, lambda job: mark_of_job(job, self._status_of(job)), page
        )
        now = time.monotonic()
        rows = [
            describe_job(job, self.who(job.link), self._status_of(job), now)
            for job in page
            if job in self._jobs
        ]
        looker.link.send(control("jobs", found={"rows": rows}, **rest))

    def _status_of(self, job: HostedJob) -> JobStatus | None:
        return self._scheduler.status(job.number) if job.is_scheduled and job in self._jobs else None

    def _choose(
        self,
        looker: _Looker,
        message: dict[str, Any],
        table: Any,
        mark_of: Callable[[Any], Any],
        page: list[Any],
    ) -> dict[str, Any]:
        """Put what the answer lists into `page`; return its fields `next` and `gone`."""
        after = message.get("after", 0)
        records = sorted((each for each in table if each.number > after), key=lambda each: each.number)
        if not message.get("deltas"):
            page += records[:PAGE_ROWS]
            return {"next": page[-1].number} if len(records) > PAGE_ROWS else {}
        sent = looker.sent.setdefault(message["type"], {})
        gone: list[int] = []
        if not after:
            looker.wait_until_due(message["type"])
            gone = [number for number in sent if table.get(number) is None][:PAGE_ROWS]
            for number in gone:
                del sent[number]
        for each in _in_slices(records):
            if table.get(each.number) is not each:
                continue  # it left meanwhile
            mark = mark_of(each)
            if sent.get(each.number) == mark:
                continue
            if len(page) == PAGE_ROWS:
                return {"gone": gone, "next": page[-1].number}
            sent[each.number] = mark
            page.append(each)
        return {"gone": gone}

    # one thing

    def _act(self, looker: _Looker, message: dict[str, Any]) -> None:
        """Do or find what a question asks, and answer it."""
        what, name = message["what"], message.get("name", "")
        who = self.who(looker.link)
        error = None
        rows: list[dict[str, Any]] = []
        try:
            if what in FOLLOWED:
                looker.link.send(control("answer", **self._follow(looker, message)))
                return
            if what == "server":
                rows = [describe_server(self._jobs, self._workers, self._left, self._began_s)]
            elif what == "ended":
                rows = self._followers.ended()
            elif what == "busy":
                rows = self._followers.samples()
            elif what == "cancel":
                rows = [self._orders.cancel(name, who)]
            elif what == "drain":
                rows = [self._orders.drain(name, who)]
            elif what == "where":
                rows = self.examinations.find_longest(self._orders.find_job(name))
            elif what == "stack":
                worker = self._orders.find_numbered_worker(name)
                rows = self.examinations.find_stack(worker, message.get("pid", 0))
            else:
                error = f"this server, mmgevent {VERSION}, does not know {shown(repr(what))}"
        except MmgeventError as refused:
            error = str(refused)
        looker.link.send(control("answer", found={"rows": rows}, error=error))

    def _follow(self, looker: _Looker, message: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an answer about what happened in a job since the last one.

        Raises UsageError if there is no such job.
        """
        what, history = message["what"], self._followers.find(message.get("name", ""))
        job = self._jobs.get(history.number)
        if what == "logs" and job is not None and job.history is history:
            self.examinations.overhear(job)
        about = f"{what} of {history.id}"
        looker.wait_until_due(about)
        fields = self._followers.read(what, history, message.get("after", 0))
        if fields.get("more"):
            looker.continue_now(about)
        return fields


def _in_slices(records: list[Any]) -> Iterator[Any]:
    """Yield all, and let others run after each SLICE_ROWS of them."""
    for at, record in enumerate(records, 1):
        yield record
        if at % SLICE_ROWS == 0:
            gevent.sleep(0)
