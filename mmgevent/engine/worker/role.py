"""The worker role: one link to a server, from its hello to its end.

The role knows the server: who it is, which jobs it has sent, how to leave it. What becomes of
attempts is in `workload`, what becomes of executors in `crew`.

The hub calls a handler for each frame of the server. No handler blocks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.greenlets import Greenlets, end_process, spawn
from mmgevent.engine.net.link import Link
from mmgevent.engine.worker.examination import Examination
from mmgevent.engine.worker.forkers import Forkers
from mmgevent.engine.worker.held import CachedJob
from mmgevent.engine.worker.limits import NO_LIMITS, ExecutorLimits
from mmgevent.engine.worker.offering import Offering
from mmgevent.engine.worker.workload import Workload
from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire import failures
from mmgevent.wire.frames import CODE, CONTROL, GRANT, INPUT, Frame
from mmgevent.wire.hello import dill_version, hello
from mmgevent.wire.lanes import CODE_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.limits import MAX_CODE_BYTES, MAX_CONTEXT_BYTES
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.user_messages import MAX_RECEIVER_BYTES

log = get_log(__name__)

#: Time for the last frames to reach the server when the worker leaves, seconds.
FLUSH_S = 1.0

#: Longest reason to close in a message, bytes.
MAX_REASON_BYTES = 1000


class WorkerRole:
    """A worker of one server. A new link gets a new worker."""

    def __init__(
        self,
        link: Link,
        *,
        slots: int,
        forkers: Forkers,
        name: str | None = None,
        scratch_dir: str | None = None,
        limits: ExecutorLimits = NO_LIMITS,
        offers: Sequence[str] = (),
        offering: Offering | None = None,
        is_local: bool = False,
        on_tell: Callable[[Frame], None] | None = None,
        on_drain: Callable[[str], None] | None = None,
    ):
        """`forkers` and `offering` outlive the worker.

        `offers`: names of the functions that `offering` calls. `is_local`: the server is in this
        engine, so that versions need no check.

        `on_tell` is called with the `tell` frames of drivers, unchanged, and must not block. Each
        driver has a lane of its own. `on_drain(reason)` is called when somebody drains this worker:
        its process is to leave once its tasks are done.
        """
        self.link = link
        self.name = name or f"{socket.gethostname()}/{os.getpid()}"
        #: set when link, executors and greenlets have ended
        self.closed = Event()
        #: why it closed; "" before
        self.close_reason = ""
        #: set when the server has answered the hello: it will assign work
        self.accepted = Event()
        #: (code, error) of the server's refusal
        self.refusal: tuple[str, str] | None = None
        #: whether the server said goodbye, so that this end is no fault
        self.has_goodbye = False
        self._offers = list(offers)
        self._offering = offering
        self._is_local = is_local
        self._limits = limits
        self._on_tell = on_tell
        self._on_drain = on_drain
        #: job number -> the job
        self._jobs: dict[int, CachedJob] = {}
        self._greenlets = Greenlets(self._on_fault)
        self._workload = Workload(
            link,
            self._greenlets,
            forkers,
            self.name,
            slots,
            scratch_dir=scratch_dir,
            max_items=limits.max_items,
            offering=offering,
            is_local=is_local,
            close=self._shut,
        )
        self._examination = Examination(link, self._greenlets, self._workload.crew, self._jobs, self.name)
        self._closer: gevent.Greenlet | None = None
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[str, Callable[[Frame, dict[str, Any]], None]]:
        """Return what to do for each type of message of a server."""
        return {
            "hello": self._on_hello,
            "refused": self._on_refused,
            "goodbye": self._on_goodbye,
            "moved": self._on_moved,
            "job": self._on_job,
            "job_end": self._on_job_end,
            "assign": self._on_assign,
            "recall": lambda frame, message: self._workload.recall(frame.attempt),
            "revoke": lambda frame, message: self._workload.revoke(frame.attempt),
            "tell": self._on_tell_of_driver,
            "examine": self._examination.take,
            "drain": self._on_drained,
        }

    @property
    def has_run(self) -> bool:
        """Whether an executor ever answered for an attempt."""
        return self._workload.crew.has_run

    @property
    def busy_until_s(self) -> float:
        """When its last task ended, by `monotonic`: now, if one runs; 0.0 if there was none."""
        return self._workload.busy_until_s

    @property
    def is_short(self) -> bool:
        """Whether it closed because it cannot start executors on this machine."""
        return self._workload.crew.is_short

    # -- life

    def start(self) -> None:
        """Say hello and begin to work."""
        if self._offering is not None:
            self._offering.serve(self._workload.on_frame, self._workload.advance_offered)
        self.link.start(self.on_frame, self._shut)
        dill = "same" if self._is_local else dill_version()
        slots = len(self._workload.slots)
        self.link.send(hello("worker", dill=dill, slots=slots, offers=self._offers, name=self.name))

    def stop(self, reason: str, grace_s: float = 0.0) -> None:
        """Leave (blocks).

        Say so, return what has not begun, let the rest run for `grace_s`, then end it.
        """
        reason = failures.shorten(reason, MAX_REASON_BYTES)
        self._workload.is_leaving = True
        self.link.send(control("leaving"))  # before anything is returned, or that would come again
        self._workload.return_waiting()
        self._workload.wait_for_running(grace_s)
        # The goodbye goes before every lane. A `done` behind it would be lost.
        self.link.drain(FLUSH_S)
        self.link.send(control("goodbye", reason=reason))
        self.link.close(reason, FLUSH_S)
        self._shut(reason)
        self.closed.wait()

    def tell(self, *frames: Frame) -> None:
        """Send a message of this worker's program to the drivers that watch. Does not block.

        The worker closes when more than MAX_RECEIVER_BYTES wait: the server does not read. See
        `wire.user_messages`.
        """
        for frame in frames:
            self.link.send_in_lane(frame)
            if self.link.queued_bytes(frame.lane) > MAX_RECEIVER_BYTES:
                self._shut(f"{MAX_RECEIVER_BYTES} bytes of its messages wait for the server")

    def _shut(self, reason: str) -> None:
        """Begin the end. The first reason counts."""
        if self._closer is None:
            self.close_reason = failures.shorten(reason, MAX_REASON_BYTES)
            self._workload.is_leaving = True
            self._closer = spawn(end_process, self._end)

    def _end(self) -> None:
        try:
            self.link.close(self.close_reason, 0.0)
            self._greenlets.kill()
            self._workload.end()
            self._jobs.clear()
        finally:
            self.closed.set()

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        log.error("worker closed by a fault of our own: %s", self.name, exc_info=greenlet.exc_info)
        self._shut(f"internal error: {greenlet.exception}")

    # -- frames of the server

    def on_frame(self, frame: Frame) -> None:
        """Act on a frame of the server. Raises ProtocolError for what a server must not send."""
        if self._closer is not None:
            return
        if frame.kind == CONTROL:
            message = message_of(frame)
            handler = self._handlers.get(message["type"])
            if handler is None:
                raise ProtocolError(f"a server does not send {message['type']!r}")
            handler(frame, message)
        elif frame.kind == CODE:
            self._on_code(frame)
        elif frame.kind in (INPUT, GRANT):
            self._workload.take_data(frame)
        else:
            raise ProtocolError(f"a server does not send {frame!r} to a worker")

    def _on_hello(self, frame: Frame, message: dict[str, Any]) -> None:
        if message["role"] != "server":
            raise ProtocolError(f"expected a server, found a {message['role']}")
        self.accepted.set()

    def _on_refused(self, frame: Frame, message: dict[str, Any]) -> None:
        self.refusal = (message["code"], message["error"])
        self._shut(f"refused: {message['error']}")

    def _on_goodbye(self, frame: Frame, message: dict[str, Any]) -> None:
        self.has_goodbye = True
        self._shut(f"the server said goodbye: {message['reason']}")

    def _on_moved(self, frame: Frame, message: dict[str, Any]) -> None:
        log.info("the server of %s moves to %s and will close", self.name, message["address"])

    def _on_tell_of_driver(self, frame: Frame, message: dict[str, Any]) -> None:
        if self._on_tell is not None:
            self._on_tell(frame)

    def _on_drained(self, frame: Frame, message: dict[str, Any]) -> None:
        """Leave, if this process may. Otherwise the server gives it no more tasks."""
        log.warning("%s gets no more tasks: %s", self.name, message["reason"])
        if self._on_drain is not None:
            self._on_drain(message["reason"])

    def _on_job(self, frame: Frame, message: dict[str, Any]) -> None:
        if frame.job in self._jobs:
            raise ProtocolError(f"job {frame.job} came twice")
        for name, limit in (("code_bytes", MAX_CODE_BYTES), ("context_bytes", MAX_CONTEXT_BYTES)):
            if message.get(name, 0) > limit:
                raise ProtocolError(f"{name} is {message[name]}, at most {limit} are taken")
        options = self._limits.apply(message["options"])
        if options is not message["options"]:
            fields = {name: value for name, value in message.items() if name != "type"}
            frame = control("job", frame.job, **{**fields, "options": options})
            message = message_of(frame)
        job = self._jobs[frame.job] = CachedJob(frame, message, ReceiveWindow(CODE_WINDOW))
        self._workload.prepare(job)

    def _on_code(self, frame: Frame) -> None:
        job = self._jobs.get(frame.job)
        if job is None:
            return  # it has ended
        job.window.received(len(frame.payload))
        job.code += frame.payload
        if len(job.code) > job.lane_bytes:
            raise ProtocolError(f"more code came than the {job.lane_bytes} bytes announced")
        grant = job.window.consumed(len(frame.payload))
        if job.is_complete:
            self._workload.begin_job(job)
        elif grant:
            self.link.send(grant_frame(frame.lane, grant))

    def _on_job_end(self, frame: Frame, message: dict[str, Any]) -> None:
        job = self._jobs.pop(frame.job, None)
        if job is not None:
            self._workload.end_job(job)

    def _on_assign(self, frame: Frame, message: dict[str, Any]) -> None:
        self._workload.assign(self._jobs.get(frame.job), frame, message)
