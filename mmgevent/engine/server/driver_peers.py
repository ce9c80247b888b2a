"""The peers that hand in jobs or look: what frames a driver may send, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.conductor import Conductor
from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.peers import Peer
from mmgevent.errors import MmgeventError, ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import BATCH, CODE, Frame
from mmgevent.wire.hello import PYTHON_VERSION, clean_name, dill_version
from mmgevent.wire.listings import QUESTIONS
from mmgevent.wire.messages import control
from mmgevent.wire.numbers import follows

log = get_log(__name__)


class DriverPeer(Peer):
    """A driver: the jobs that it submitted."""

    role = "driver"

    def __init__(self, conductor: Conductor, link: Link, is_local: bool):
        super().__init__(conductor, link, is_local)
        self._jobs: dict[int, HostedJob] = {}  # by the driver's number
        self._owner = conductor.number_owner()
        self._last_job = 0  # the last number so far
        self._has_begun_anew = False  # its numbers have begun anew, so that any may be of an old job
        self._handlers: dict[str, Callable[[Frame, dict[str, Any]], None]] = {
            "submit": self._on_submit,
            **dict.fromkeys(QUESTIONS, self._on_question),
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
        self._conductor.watchers.remove(self.link)
        self._conductor.lookout.forget(self.link)
        for job in list(self._jobs.values()):
            self._conductor.cancel(job)
        self._jobs.clear()

    def _greet(self, message: dict[str, Any]) -> None:
        if message["type"] == "hello" and message["role"] == "looker":  # of any version of Python
            self._handlers = dict.fromkeys(QUESTIONS, self._on_question)
            message = {**message, "role": self.role, "python": PYTHON_VERSION, "dill": dill_version()}
        super()._greet(message)

    def _on_hello(self, message: dict[str, Any]) -> None:
        if not self.is_local:
            self.link.name = clean_name(f"driver {message['host']}/{message['pid']}")
        self._conductor.lookout.greet(self.link, message, is_local=self.is_local)

    def _on_message(self, frame: Frame, message: dict[str, Any]) -> None:
        handler = self._handlers.get(message["type"])
        if handler is not None:
            handler(frame, message)
            return
        job_handler = self._job_handlers.get(message["type"])
        if job_handler is None:
            raise ProtocolError(f"a driver does not send {message['type']!r}")
        job = self._find_job(frame)
        if job is not None:
            job_handler(job, frame, message)

    def _on_data(self, frame: Frame) -> None:
        job = self._find_job(frame)
        if job is None:
            return
        if frame.kind == CODE:
            try:
                is_whole = job.receive_code(bytes(frame.payload))
            except ProtocolError:
                raise
            except MmgeventError as error:
                self.link.send(control("rejected", frame.job, error=str(error)))
                self._conductor.cancel(job)
                return
            if is_whole:
                self._conductor.start_job(job)
        elif frame.kind == BATCH:
            if job.input.receive(frame.task, bytes(frame.payload)).is_whole:
                self._conductor.take_batch(job, frame.task)
        else:
            raise ProtocolError(f"a driver does not send {frame!r}")

    def _find_job(self, frame: Frame) -> HostedJob | None:
        """Return the job of a frame, or None if it is over."""
        job = self._jobs.get(frame.job)
        if job is None and not (1 <= frame.job <= self._last_job or (frame.job and self._has_begun_anew)):
            raise ProtocolError(f"{frame!r} is about a job that was never submitted")
        if job is not None and job not in self._conductor.jobs:
            del self._jobs[frame.job]
            return None
        return job

    # jobs

    def _on_submit(self, frame: Frame, message: dict[str, Any]) -> None:
        if not frame.job or frame.job in self._jobs or not follows(frame.job, self._last_job):
            raise ProtocolError(f"job {frame.job} was submitted already")
        self._has_begun_anew = self._has_begun_anew or frame.job < self._last_job
        self._last_job = frame.job
        conductor = self._conductor
        if conductor.moved_to is not None:
            self.link.send(control("moved", frame.job, address=conductor.moved_to))
            return
        self._jobs = {number: job for number, job in self._jobs.items() if job in conductor.jobs}
        try:
            if len(self._jobs) >= conductor.jobs.most_of_one():
                raise MmgeventError(f"this driver has {len(self._jobs)} jobs already: wait for some to end")
            if message.get("context_bytes") and not self.is_local:
                raise MmgeventError("surroundings travel to executors of the driver's own engine only")
            source = None
            if "source" in message:
                source = self._jobs.get(message["source"])
                if source is None or source.kept is None or not source.kept.is_free:
                    error = "the results of the stage before are not on this server"
                    self.link.send(control("rejected", frame.job, error=error, again=True))
                    return
            job = conductor.add_job(self.link, frame.job, message, self._owner, source)
        except ProtocolError:
            raise
        except MmgeventError as error:
            self.link.send(control("rejected", frame.job, error=str(error)))
            return
        self._jobs[frame.job] = job
        if job.code.is_whole:
            conductor.start_job(job)

    def _on_batch(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        try:
            batch = job.input.announce(frame.task, message)
        except ProtocolError:
            raise
        except MmgeventError as error:
            self._conductor.refuse_input(job, error)
            return
        if batch.is_whole:
            self._conductor.take_batch(job, frame.task)

    def _on_input_end(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        job.input.total = message["batches"]
        self._conductor.end_input_if_complete(job)

    def _on_cancel(self, job: HostedJob, frame: Frame, message: dict[str, Any]) -> None:
        self._jobs.pop(frame.job, None)
        self._conductor.cancel(job)

    # workers

    def _on_question(self, frame: Frame, message: dict[str, Any]) -> None:
        self._conductor.lookout.take(self.link, message)

    def _on_watch(self, frame: Frame, message: dict[str, Any]) -> None:
        self._conductor.watchers.add(self.link)

    def _on_tell(self, frame: Frame, message: dict[str, Any]) -> None:
        self._conductor.watchers.tell_worker(self.link, frame, message, is_local=self.is_local)

    def _on_dismiss(self, frame: Frame, message: dict[str, Any]) -> None:
        self._conductor.watchers.dismiss(frame.task, message["reason"])
