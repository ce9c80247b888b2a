"""The box: our template and executor of one job, driven by a plain thread of another engine's process.

The box keeps what an executor of ours has: its own `__main__` and modules, one hash seed, limits,
kills that do not hurt the host, the status page, last words.  It touches nothing of its host.

A box runs one task at a time.  When its executor dies it forks another, which takes 2 ms.  When its
template dies it starts another, which takes 0.1 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from mmgevent.box.boxed import BoxedExecutor, BoxLimits
from mmgevent.box.prints import BoxPrints
from mmgevent.box.spares import LastingTemplate, leave_template, take_template
from mmgevent.engine.worker.deaths import judge_death
from mmgevent.engine.worker.exits import Exit
from mmgevent.errors import EngineError, JobCancelled, ProtocolError
from mmgevent.job.shipping.trial import fingerprint
from mmgevent.wire import failures
from mmgevent.wire.frames import CONTROL, INPUT, OUTPUT, Frame, Payload, join_payloads, split_payload
from mmgevent.wire.lanes import INPUT_WINDOW, OUTPUT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.positions import position_of

#: Number that the executor knows its job by.
_JOB = 1

#: Executors in a row that may be lost before they begin an attempt, by no fault of the attempt.
MAX_IDLE_DEATHS = 3


class BoxedJob(NamedTuple):
    """A job as a box needs it.  It travels by pickle, so its fields are plain."""

    #: name of the job that no other job anywhere has
    id: str
    #: options as they are sent to executors, see `driver.packing.PackedJob`
    options: dict[str, Any]
    #: number of partitions
    partitions: int
    #: number of groups that partitions are put into: partition p is in group p % groups
    groups: int
    #: surroundings of the driver (JSON), if executors run on its machine; else empty
    context: bytes = b""
    #: a path that exists as long as the job runs; None if its engine can end boxes
    lease: str | None = None
    #: most bytes of a task's output that travel in its report
    carried_bytes: int = 0
    #: groups that a reduce task is of, if its pieces have others, too; else None
    reduced: tuple[int, ...] | None = None

    def partitions_of(self, groups: Container[int]) -> tuple[int, ...]:
        """Return the partitions that are in these groups."""
        return tuple(p for p in range(self.partitions) if p % self.groups in groups)


class Outcome(NamedTuple):
    """How one run of a task in a box ended."""

    #: "done", "failed", "content", "died", "unprepared", or "forkless" if its template died
    type: str
    #: fields of the message of that type, see `wire.messages`
    message: dict[str, Any]


class BoxAttempt(NamedTuple):
    """One run of a task, as `engine.worker.deaths` needs it."""

    number: int
    is_map: bool
    job: BoxLimits
    #: the first entry, one behind the last, and positions to leave out
    lo: int
    hi: int
    skip: Iterable[int]

    @property
    def only_item(self) -> int | None:
        """The position of the only item of a map attempt, or None if it has several."""
        if not self.is_map:
            return None
        left = set(map(position_of, range(self.lo, self.hi))).difference(self.skip)
        return left.pop() if len(left) == 1 else None


class Box:
    """One template with one executor of one job.  One thread uses it at a time."""

    def __init__(self, job: BoxedJob, code: bytes, worker: str, is_over: Callable[[], bool]):
        """Start the template.  Raises StartError.

        `worker`: name of the host process in reports.  `is_over()` says whether the job has ended.
        """
        self.job = job
        self._limits = BoxLimits.of(job.options)
        self._worker = worker
        self._is_over = is_over
        #: says whether the engine still wants the task that runs; None if the engine does not know
        self.is_wanted: Callable[[], bool] | None = None
        self._code = job.context + code
        self._announcement = control(
            "job",
            _JOB,
            options=job.options,
            code_bytes=len(code),
            fingerprint=fingerprint(code),
            context_bytes=len(job.context) or None,
        )
        #: templates that ended while one of its tasks ran
        self.template_deaths = 0
        self._template = self._take_template()
        self._is_closed = False
        self._executor: BoxedExecutor | None = None
        self._attempt = 0
        #: what executors printed, for the next report
        self.printed = BoxPrints()
        #: texts for the user: [(text, once)]
        self.notices: list[tuple[str, str | None]] = []

    def run(
        self, phase: str, pieces: Iterable[Payload], size: int, emit: Callable[[bytes], object], **fields: Any
    ) -> Outcome:
        """Run one task on these bytes of input, `size` in all.

        `emit(bytes)` receives its output, whose cuts have no meaning.  It counts only if the
        outcome is "done".  `fields` are those of the message `assign`.

        Raises JobCancelled if the job ends meanwhile, EngineError and StartError.  Then close the
        box.
        """
        payloads = list(join_payloads(pieces))
        reason = None
        for _ in range(MAX_IDLE_DEATHS):
            executor = self._ready_executor()
            run = _Run(executor, self._next_attempt(phase, fields), emit)
            run.assign(payloads, size, phase=phase, partitions=self.job.partitions, **fields)
            outcome = self._finish(executor, run)
            if outcome is not None:
                return outcome
            reason = executor.exit
        raise EngineError(f"{MAX_IDLE_DEATHS} executors in a row were lost between two tasks: {reason}")

    def close(self) -> None:
        """Kill the executor, and leave the template to the next box. Idempotent."""
        if not self._is_closed:
            self._template.link.receive()  # the executor may have ended: its pid may be another's
        if self._executor is not None:
            self._drop_executor()
        if not self._is_closed:
            self._is_closed = True
            leave_template(self._template)

    def abandon(self) -> None:
        """In a forked child of the host: close the descriptors, so that only the host keeps it."""
        if self._executor is not None:
            self._executor.abandon()
        self._template.link.abandon()

    def _take_template(self) -> LastingTemplate:
        options = self.job.options
        return take_template(greenlets=(options.get("greenlets") or 0) > 1, flags=options.get("flags") or ())

    def _ready_executor(self) -> BoxedExecutor:
        """Return an executor that has the job. What died while no task ran is replaced."""
        self._template.link.receive()
        if self._executor is not None and self._executor.exit is not None:
            self._drop_executor()
        if self._template.link.end is not None:
            self._template.link.close()
            self._template = self._take_template()
        if self._executor is None:
            self._executor = BoxedExecutor(self._template.link, self._limits)
            self._executor.send_job(self._announcement, self._code)
        return self._executor

    def _next_attempt(self, phase: str, fields: dict[str, Any]) -> BoxAttempt:
        self._attempt += 1
        return BoxAttempt(
            self._attempt,
            phase == "map",
            self._limits,
            fields.get("lo", 0),
            fields.get("hi", 0),
            fields.get("skip", ()),
        )

    def _take_prints(self, executor: BoxedExecutor) -> None:
        """Take what an executor has printed for the next report, unless nobody wants it."""
        self.printed.take_from(executor)
        if self.job.options.get("silent"):
            self.printed.take()

    def _finish(self, executor: BoxedExecutor, run: _Run) -> Outcome | None:
        """Wait for the outcome.  Returns None if the executor had died before the task began."""
        while run.outcome is None and executor.exit is None:
            for frame in executor.step():
                run.take(frame, self._note)
            self._take_prints(executor)
            if self._is_over():
                raise JobCancelled("the job has ended")
            if self.is_wanted is not None and not self.is_wanted():
                raise JobCancelled("the engine no longer wants this task")
            warning = executor.enforce_limits()
            if warning is not None:
                self._note(f"{self._worker}: {warning}", None)
        executor.end_prints()
        self._take_prints(executor)
        if run.outcome is not None:
            executor.has_run = True
            if run.outcome.type == "unprepared":
                self._drop_executor()
            return self._named(run.outcome)
        assert executor.exit is not None
        try:
            return self._judge(executor, executor.exit, run.attempt)
        finally:
            self._drop_executor()

    def _judge(self, executor: BoxedExecutor, end: Exit, attempt: BoxAttempt) -> Outcome | None:
        """Return what a dead executor means for its task, None if nothing."""
        if end.error is not None:
            raise EngineError(f"no executor can be started: {end}")
        position = executor.position()
        if position.attempt != attempt.number and not position.is_setup and executor.has_run:
            return None
        failure, item, is_divisible = judge_death(executor, end, attempt, self._worker)
        if end.template is not None:
            if not end.is_fact:
                return None  # a guess may cost time, but fail nothing
            self.template_deaths += 1
            return Outcome("forkless", {"failure": failure})
        if position.is_setup:
            return Outcome("unprepared", {"failure": failure, "died": True})
        return Outcome("died", {"failure": failure, "item": item, "divisible": is_divisible})

    def _drop_executor(self) -> None:
        assert self._executor is not None
        self._executor.close()
        self._executor = None

    def _named(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the name of this worker in its failure."""
        failure = outcome.message.get("failure")
        if failure is not None:
            outcome.message["failure"] = failures.bound({**failure, "worker": self._worker})
        return outcome

    def _note(self, text: str, once: str | None) -> None:
        self.notices.append((text, once))


class _Run:
    """The frames of one attempt."""

    def __init__(self, executor: BoxedExecutor, attempt: BoxAttempt, emit: Callable[[bytes], object]):
        self.attempt = attempt
        self.outcome: Outcome | None = None
        self._executor = executor
        self._emit = emit
        self._lane = (_JOB, 1, attempt.number)
        self._window = ReceiveWindow(OUTPUT_WINDOW)

    def assign(self, payloads: list[Payload], size: int, **fields: Any) -> None:
        """Send the assignment and queue the input."""
        link = self._executor.link
        link.open_lane(self._lane, INPUT_WINDOW)
        link.send_in_lane(control("assign", *self._lane, slot=0, size=size, **fields))
        for payload in payloads:
            for frame in split_payload(INPUT, payload, *self._lane):
                link.send_in_lane(frame)

    def take(self, frame: Frame, note: Callable[[str, str | None], None]) -> None:
        """Act on a frame of the executor."""
        if frame.lane != self._lane:
            raise ProtocolError(f"an executor sent {frame!r} about {self._lane}")
        link = self._executor.link
        if frame.kind == OUTPUT:
            n_bytes = len(frame.payload)
            self._window.received(n_bytes)
            self._emit(bytes(frame.payload))
            granted = self._window.consumed(n_bytes)
            if granted:
                link.send_first(grant_frame(self._lane, granted))
        elif frame.kind == CONTROL:
            message = message_of(frame)
            if message["type"] == "notice":
                if not message.get("quiet"):
                    note(message["text"], message.get("once"))
                return
            if message.get("inline"):
                self._emit(message["inline"])
            self.outcome = Outcome(message["type"], dict(message))
            link.drop_lane(self._lane)


def worker_name() -> str:
    """Return the name of this process in reports, "host/pid"."""
    return f"{os.uname().nodename}/{os.getpid()}"
