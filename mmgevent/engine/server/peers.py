"""The two kinds of peers of a server: what frames each may send, and what they mean.

A peer checks order and ownership and turns frames into calls of the conductor.  A frame that says
something impossible raises `ProtocolError`, which closes that link and affects nobody else.  A
frame that comes too late, about an attempt or job that is over, is ignored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.attempts import HostedAttempt, note_end
from mmgevent.engine.server.conductor import Conductor
from mmgevent.engine.server.workers import WorkerRecord
from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.failures import bound, shorten
from mmgevent.wire.frames import CONTROL, GRANT, OUTPUT, Frame
from mmgevent.wire.hello import PYTHON_VERSION, clean_name, dill_version, find_mismatch, hello
from mmgevent.wire.limits import MAX_SLOTS
from mmgevent.wire.messages import MAX_NOTICE_BYTES, MAX_OFFERS_BYTES, PROTOCOL, control, message_of
from mmgevent.wire.positions import entry_of

log = get_log(__name__)

#: Time for a refusal to reach the peer before its link closes, seconds.
REFUSAL_S = 2.0

_WORKER_PASSWORD_ONLY = "the worker password only"


class Peer:
    """One link of the server, from its hello to its end."""

    role: str

    def __init__(self, conductor: Conductor, link: Link, is_local: bool):
        self._conductor = conductor
        self.link = link
        self.is_local = is_local
        self._has_hello = False

    def on_frame(self, frame: Frame) -> None:
        """Act on a frame.  Raises ProtocolError if the peer may not send it."""
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
        elif frame.kind != GRANT:  # the link takes the grants of open lanes: this one is late
            self._on_data(frame)

    def on_close(self, reason: str) -> None:
        """Forget what belongs to the peer, after its link closed."""
        raise NotImplementedError

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
            self._refuse("version", mismatch)
            return
        self._has_hello = True
        self.link.send(hello("server", dill=ours["dill"]))
        self._on_hello(message)

    def _refuse(self, code: str, error: str) -> None:
        """Say why this peer cannot be served, and close its link."""
        log.warning("refused: %s: %s", self.link.name, error)
        self.link.send(control("refused", code=code, error=error))
        self.link.close(error, REFUSAL_S)

    def _on_hello(self, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _on_data(self, frame: Frame) -> None:
        raise NotImplementedError


class WorkerPeer(Peer):
    """A worker: slots, and the attempts that they run."""

    role = "worker"

    def __init__(self, conductor: Conductor, link: Link, is_local: bool):
        super().__init__(conductor, link, is_local)
        self._worker = WorkerRecord(link, is_local=is_local)
        self._handlers: dict[str, Callable[[HostedAttempt, dict[str, Any]], None]] = {
            "done": conductor.attempts.finish,
            "failed": self._on_failed,
            "died": self._on_died,
            "unprepared": self._on_unprepared,
            "returned": self._on_returned,
            "kept": self._on_kept,
            "content": self._on_content,
            "notice": self._on_notice,
        }

    def on_close(self, reason: str) -> None:
        if self._worker.number:
            self._conductor.remove_worker(self._worker, reason)

    def _on_hello(self, message: dict[str, Any]) -> None:
        slots = message.get("slots", 0)
        if not 1 <= slots <= MAX_SLOTS:
            self._refuse(
                "slots", f"a worker has 1 to {MAX_SLOTS} slots, not {slots}: start it with fewer (--procs)"
            )
            return
        offers = message.get("offers", [])
        if len(json.dumps(offers)) > MAX_OFFERS_BYTES:
            raise ProtocolError(f"a worker offers names of at most {MAX_OFFERS_BYTES} bytes in all")
        self._worker.slots, self._worker.offers = slots, frozenset(offers)
        self._worker.version = clean_name(message["version"])
        name = message.get("name") or f"{message['host']}/{message['pid']}"
        self.link.name = clean_name(name)
        self._conductor.add_worker(self._worker)

    def _on_data(self, frame: Frame) -> None:
        if frame.kind != OUTPUT:
            raise ProtocolError(f"a worker does not send {frame!r}")
        attempts = self._conductor.attempts
        attempt = attempts.find(frame.attempt, self._worker.number)
        if attempt is not None:
            attempts.take_output(attempt, bytes(frame.payload))

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        type_ = message["type"]
        handler = self._handlers.get(type_)
        if handler is not None:
            attempt = self._conductor.attempts.find(frame.attempt, self._worker.number)
            if attempt is not None:  # else it is over, and the message late
                handler(attempt, message)
        elif type_ == "printed":
            job = self._conductor.jobs.get(frame.job)
            if job is not None and frame.job in self._worker.jobs:
                job.signals.prints.take(self.link.name, message, time.monotonic())
        elif type_ == "leaving":
            self._conductor.drain_worker(self._worker)
        elif type_ == "examined":
            self._conductor.lookout.examinations.take(self._worker, frame.task, message)
        elif type_ == "tell":
            self._conductor.watchers.tell_drivers(self._worker, frame, message)
        else:
            raise ProtocolError(f"a worker does not send {type_!r}")

    def _on_failed(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        failure = self._failure_of(message)
        note_end(attempt, "failed", failure, _item_of(attempt, message))
        self._conductor.report_failed(
            attempt,
            failure,
            _item_of(attempt, message),
            is_spent=message.get("spent", False),
            is_divisible=attempt.is_map and message.get("divisible", False),
            skipped=message.get("skipped", 0),
            is_doubted=self._conductor.oversight.note_failure(self._worker, attempt),
        )
        self._conductor.set_aside_if_due(self._worker)

    def _on_died(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        self._conductor.report_death(
            attempt,
            self._failure_of(message),
            _item_of(attempt, message),
            is_divisible=attempt.is_map and message.get("divisible", False),
            has_ended_template=message.get("template", False),
        )

    def _on_unprepared(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        self._conductor.report_unprepared(attempt, self._failure_of(message), message.get("died", False))

    def _failure_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the failure that a worker reports, in its own name and no other."""
        ours = {"worker": self.link.name}
        return bound(ours | message["failure"] | ours)  # first, so that it is kept

    def _on_returned(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        scheduler = self._conductor.scheduler
        if not (self._worker.is_leaving or scheduler.was_recalled(attempt.number)):
            self._worker.standing.note_return()
        note_end(attempt, "returned", {})
        self._conductor.report(scheduler.attempt_returned, attempt.number)
        self._conductor.set_aside_if_due(self._worker)

    def _on_kept(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        self._conductor.report(self._conductor.scheduler.attempt_kept, attempt.number)

    def _on_content(self, attempt: HostedAttempt, message: dict[str, Any]) -> None:
        note_end(attempt, "returned", {})
        if attempt.is_map and not attempt.job.input.batches[attempt.batch].has_refs:
            raise ProtocolError(f"contents of batch {attempt.batch} were asked for, which has no files")
        self._conductor.report(self._conductor.scheduler.attempt_needs_content, attempt.number)

    @staticmethod
    def _on_notice(attempt: HostedAttempt, message: dict[str, Any]) -> None:
        """Pass a notice to the driver: one of each kind an attempt, so that no worker floods it."""
        once = message.get("once")
        if attempt.has_noticed if once is None else attempt.has_noticed_once:
            return
        if once is None:
            attempt.has_noticed = True
        else:
            attempt.has_noticed_once = True
            once = shorten(once, MAX_NOTICE_BYTES)
        attempt.job.send("notice", text=shorten(message["text"], MAX_NOTICE_BYTES), once=once)


class LenderPeer(WorkerPeer):
    """A worker that has proved the worker password only.

    It runs tasks. It may not send what reaches drivers otherwise: user messages, and offers of
    functions, by which it would choose the jobs that it gets.
    """

    def _on_hello(self, message: dict[str, Any]) -> None:
        if message.get("offers"):
            raise ProtocolError(f"a worker with {_WORKER_PASSWORD_ONLY} offers no functions")
        super()._on_hello(message)

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        if message["type"] == "tell":
            raise ProtocolError(f"a worker with {_WORKER_PASSWORD_ONLY} sends no user messages")
        super()._on_message(frame, message)


def _item_of(attempt: HostedAttempt, message: dict[str, Any]) -> int | None:
    """Return the position of the item at fault, or None if the attempt has no such item."""
    item: int | None = message.get("item")
    if item is None or not (attempt.is_map and attempt.lo <= entry_of(item) < attempt.hi):
        return None
    return item
