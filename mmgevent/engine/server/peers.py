"""The two kinds of peers of a server: what frames each may send, and what they mean.

A peer checks order and ownership and turns frames into calls of the server.  A frame
that says something impossible raises `ProtocolError`, which closes that link and hurts
nobody else; one that comes too late, about an attempt or job that is over, is ignored.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.hosted import Attempt, HostedJob
from mmgevent.errors import MmgeventError, ProtocolError
from mmgevent.wire.failures import bound, shorten
from mmgevent.wire.frames import BATCH, CODE, CONTROL, GRANT, OUTPUT, Frame
from mmgevent.wire.hello import PYTHON_VERSION, dill_version, find_mismatch, hello
from mmgevent.wire.limits import MAX_SLOTS
from mmgevent.wire.messages import MAX_NOTICE_BYTES, MAX_OFFERS_BYTES, PROTOCOL, control, message_of
from mmgevent.wire.positions import entry_of
from mmgevent.wire.telling import MessageLength

if TYPE_CHECKING:
    from mmgevent.engine.server.role import Server

log = logging.getLogger(__name__)

MAX_DRIVER_JOBS = 1000  #: at once of one driver
MAX_NAME_CHARS = 100  #: of a peer
MAX_LISTED_WORKERS = 1000  #: with the longest names they still fit one frame
REFUSAL_S = 2.0  #: for a refusal to reach the peer before its link closes


class Peer:
    """One link of the server, from its hello to its end."""

    role: str

    def __init__(self, server: Server, link: Link, is_local: bool):
        self.server = server
        self.link = link
        self.is_local = is_local
        self._has_hello = False

    def on_frame(self, frame: Frame) -> None:
        if frame.kind == CONTROL:
            message = message_of(frame)
            if not self._has_hello:
                self._greet(message)
            elif message["type"] == "goodbye":
                self.link.close(f"it said goodbye: {message['reason']}")
            else:
                self._on_message(frame, message)
        elif not self._has_hello:
            raise ProtocolError("the first frame is not a hello")
        elif frame.kind != GRANT and not frame.payload:
            raise ProtocolError("a data frame without data came")
        else:
            self._on_data(frame)

    def on_close(self, reason: str) -> None:
        self.server.detach(self)

    def _greet(self, message: dict[str, Any]) -> None:
        if message["type"] != "hello" or message["role"] != self.role:
            raise ProtocolError(f"expected a hello of a {self.role}, got {message['type']!r}")
        ours: dict[str, Any] = {
            "protocol": PROTOCOL,
            "python": PYTHON_VERSION,
            "dill": message["dill"] if self.is_local else dill_version(),
        }
        mismatch = find_mismatch(ours, message, self.role)
        if mismatch:
            log.warning("refused: %s: %s", self.link.name, mismatch)
            self.link.send(control("refused", code="version", error=mismatch))
            self.link.close(mismatch, REFUSAL_S)
            return
        self._has_hello = True
        self.link.send(hello("server", dill=ours["dill"]))
        self._on_hello(message)

    def _on_hello(self, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _on_data(self, frame: Frame) -> None:
        raise NotImplementedError


def _tidy(name: str) -> str:
    """Make a name that a peer chose fit for logs and messages."""
    return re.sub(r"[^\w ./:@+-]", "?", name, flags=re.ASCII)[:MAX_NAME_CHARS]


class WorkerPeer(Peer):
    """A worker: slots, and the attempts they run."""

    role = "worker"

    def __init__(self, server: Server, link: Link, is_local: bool):
        super().__init__(server, link, is_local)
        self.number = 0  #: 0 before its hello
        self.slots = 0
        self.offers: frozenset[str] = frozenset()
        self.address = "local" if is_local else link.name  #: HOST:PORT it comes from
        self.told = MessageLength()
        #: jobs whose code it has
        self.jobs: set[int] = set()
        #: numbers of its live attempts
        self.attempts: set[int] = set()
        self.is_leaving = False

    def on_close(self, reason: str) -> None:
        super().on_close(reason)
        if self.number:
            self.server.remove_worker(self, reason)

    def _on_hello(self, message: dict[str, Any]) -> None:
        self.slots = message.get("slots", 0)
        if not 1 <= self.slots <= MAX_SLOTS:
            raise ProtocolError(f"a worker has 1 to {MAX_SLOTS} slots, not {self.slots}")
        offers = message.get("offers", [])
        if len(json.dumps(offers)) > MAX_OFFERS_BYTES:
            raise ProtocolError(f"a worker offers names of at most {MAX_OFFERS_BYTES} bytes in all")
        self.offers = frozenset(offers)
        name = message.get("name") or f"{message['host']}/{message['pid']}"
        self.link.name = _tidy(name)
        self.number = self.server.add_worker(self)

    def _on_data(self, frame: Frame) -> None:
        if frame.kind == GRANT:
            return  # for a lane that was dropped meanwhile
        if frame.kind != OUTPUT:
            raise ProtocolError(f"a worker does not send {frame!r}")
        attempt = self.server.find_attempt(frame.attempt, self.number)
        if attempt is not None:
            self.server.take_output(attempt, bytes(frame.payload))

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        type_ = message["type"]
        if type_ == "leaving":
            self.server.drain_worker(self)
            return
        if type_ == "tell":
            self.server.watchers.tell_drivers(self, frame, message)
            return
        attempt = self.server.find_attempt(frame.attempt, self.number)
        if type_ == "notice":
            if attempt is not None:
                self._pass_notice(attempt, message)
            return
        if type_ not in _ATTEMPT_EVENTS:
            raise ProtocolError(f"a worker does not send {type_!r}")
        if attempt is None:
            return  # late
        if type_ == "done":
            self.server.finish_attempt(attempt, message)
        elif type_ == "unprepared":
            has_died = message.get("died", False)
            self.server.report_unprepared(attempt, bound(message["failure"]), has_died)
        elif type_ in ("failed", "died"):
            item = message.get("item")
            if item is not None and not (attempt.is_map and attempt.lo <= entry_of(item) < attempt.hi):
                item = None
            is_divisible = attempt.is_map and message.get("divisible", False)
            failure = bound(message["failure"])
            if type_ == "died":
                self.server.report_death(attempt, failure, item, is_divisible=is_divisible)
            else:
                self.server.report(
                    "attempt_failed",
                    attempt.number,
                    failure,
                    item,
                    is_spent=message.get("spent", False),
                    is_divisible=is_divisible,
                    skipped=message.get("skipped", 0),
                )
        else:
            self.server.report(_ATTEMPT_EVENTS[type_], attempt.number)

    @staticmethod
    def _pass_notice(attempt: Attempt, message: dict[str, Any]) -> None:
        """Tell the driver; one of each kind an attempt, or a worker could flood it."""
        once = message.get("once")
        if attempt.has_noticed if once is None else attempt.has_noticed_once:
            return
        if once is None:
            attempt.has_noticed = True
        else:
            attempt.has_noticed_once = True
            once = shorten(once, MAX_NOTICE_BYTES)
        attempt.job.tell("notice", text=shorten(message["text"], MAX_NOTICE_BYTES), once=once)


_ATTEMPT_EVENTS = {
    "done": "attempt_done",
    "failed": "attempt_failed",
    "died": "attempt_died",  # by way of `report_death`
    "unprepared": "attempt_unprepared",  # by way of `report_unprepared`
    "returned": "attempt_returned",
    "kept": "attempt_kept",
    "content": "attempt_needs_content",
}


class DriverPeer(Peer):
    """A driver: the jobs it handed in."""

    role = "driver"

    def __init__(self, server: Server, link: Link, is_local: bool):
        super().__init__(server, link, is_local)
        self._jobs: dict[int, HostedJob] = {}  # by the driver's number
        self._seen_jobs = 0  # the highest number so far
        self._handlers: dict[str, Callable[[Frame, dict[str, Any]], None]] = {
            "submit": self._on_submit,
            "list_workers": self._on_list_workers,
            "watch": self._on_watch,
            "tell": self._on_tell,
            "dismiss": self._on_dismiss,
        }
        self._job_handlers: dict[str, Callable[[HostedJob, Frame, dict[str, Any]], None]] = {
            "batch": self._on_batch,
            "input_end": self._on_input_end,
            "cancel": self._on_cancel,
        }

    def on_close(self, reason: str) -> None:
        super().on_close(reason)
        self.server.watchers.remove(self)
        for job in list(self._jobs.values()):
            self.server.cancel(job)
        self._jobs.clear()

    def _on_hello(self, message: dict[str, Any]) -> None:
        if not self.is_local:
            self.link.name = _tidy(f"driver {message['host']}/{message['pid']}")

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        handler = self._handlers.get(message["type"])
        if handler is not None:
            handler(frame, message)
            return
        of_job = self._job_handlers.get(message["type"])
        if of_job is None:
            raise ProtocolError(f"a driver does not send {message['type']!r}")
        job = self._find_job(frame)
        if job is not None:
            of_job(job, frame, message)

    def _on_list_workers(self, frame: Frame, message: dict[str, Any]) -> None:
        listed = list(self.server.workers.values())[:MAX_LISTED_WORKERS]
        names, slots = [w.link.name for w in listed], [w.slots for w in listed]
        self.link.send(control("workers", names=names, slots=slots))

    def _on_watch(self, frame: Frame, message: dict[str, Any]) -> None:
        self.server.watchers.add(self)

    def _on_tell(self, frame: Frame, message: dict[str, Any]) -> None:
        self.server.watchers.tell_worker(self, frame, message)

    def _on_dismiss(self, frame: Frame, message: dict[str, Any]) -> None:
        self.server.watchers.dismiss(frame.task, message["reason"])

    def _on_data(self, frame: Frame) -> None:
        if frame.kind == GRANT:
            return  # for a lane that was dropped meanwhile
        job = self._find_job(frame)
        if job is None:
            return
        if frame.kind == CODE:
            if job.receive_code(bytes(frame.payload)):
                self.server.start_job(job)
        elif frame.kind == BATCH:
            batch = job.receive_batch(frame.task, bytes(frame.payload))
            if batch.is_whole:
                self._take_batch(job, frame.task)
        else:
            raise ProtocolError(f"a driver does not send {frame!r}")

    def _find_job(self, frame: Frame) -> HostedJob | None:
        """Return the job of a frame; None if it is over."""
        job = self._jobs.get(frame.job)
        if job is None and not 1 <= frame.job <= self._seen_jobs:
            raise ProtocolError(f"{frame!r} is about a job that was never submitted")
        if job is not None and not self.server.has_job(job):
            del self._jobs[frame.job]
            return None
        return job

    def _on_submit(self, frame: Frame, message: dict[str, Any]) -> None:
        if frame.job <= self._seen_jobs:
            raise ProtocolError(f"job {frame.job} was submitted already")
        self._seen_jobs = frame.job
        if self.server.moved_to is not None:
            self.link.send(control("moved", frame.job, address=self.server.moved_to))
            return
        self._jobs = {number: job for number, job in self._jobs.items() if self.server.has_job(job)}
        try:
            if len(self._jobs) >= MAX_DRIVER_JOBS:
                raise MmgeventError(f"this driver has {MAX_DRIVER_JOBS} jobs already: wait for some to end")
            if message.get("context_bytes") and not self.is_local:
                raise MmgeventError("surroundings travel to executors of the driver's own engine only")
            job = self.server.add_job(self.link, frame.job, message)
        except ProtocolError:
            raise
        except MmgeventError as error:
            self.link.send(control("rejected", frame.job, error=str(error)))
            return
        self._jobs[frame.job] = job
        if job.has_code:
            self.server.start_job(job)

    def _on_batch(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        try:
            batch = job.announce_batch(frame.task, message)
        except ProtocolError:
            raise
        except MmgeventError as error:
            self.server.refuse_input(job, error)
            return
        if batch.is_whole:
            self._take_batch(job, frame.task)

    def _take_batch(self, job: HostedJob, number: int) -> None:
        batch = job.batches[number]
        if batch.is_content:
            self.server.report("content_arrived", job.number, number)
            return
        job.batch_count += 1
        self.server.report("add_batch", job.number, number, batch.items, has_refs=batch.has_refs)
        self._end_input_if_complete(job)

    def _on_input_end(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        job.input_total = message["batches"]
        self._end_input_if_complete(job)

    def _end_input_if_complete(self, job: HostedJob) -> None:
        if job.input_total is not None and job.batch_count >= job.input_total and self.server.has_job(job):
            self.server.report("end_input", job.number)

    def _on_cancel(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        self._jobs.pop(frame.job, None)
        self.server.cancel(job)
