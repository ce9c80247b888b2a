"""The attempts of a worker: which slot has each, what runs it, and what became of it.

Frames pass unchanged between the server's link and the executors. The workload reads only which
attempt a frame belongs to, and when an attempt begins and ends. Attempts that have not begun wait
in their slots. When an executor dies, the workload reports why.

The hub calls the methods here when a frame arrives, or a supervisor's greenlet calls them when its
executor ends. So no method blocks, except `wait_for_running` and `end`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.greenlets import Greenlets
from mmgevent.engine.net.link import Link
from mmgevent.engine.worker.crew import Crew
from mmgevent.engine.worker.deaths import describe_place, judge_death
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.forkers import Forkers
from mmgevent.engine.worker.held import AttemptRunner, CachedJob, EarlyRecalls, HeldAttempt
from mmgevent.engine.worker.offering import Offering
from mmgevent.engine.worker.slot import IDLE_EXECUTORS, ExecutorSlot
from mmgevent.engine.worker.supervisor import Supervisor
from mmgevent.errors import ProtocolError
from mmgevent.machine.logs import get_log
from mmgevent.wire import failures
from mmgevent.wire.frames import CONTROL, GRANT, INPUT, OUTPUT, Frame
from mmgevent.wire.messages import control, message_of

log = get_log(__name__)

#: Time for a revoked attempt to end by itself, seconds. If it does, its executor is not killed.
REVOKE_S = 0.1


class Workload:
    """Every attempt of one worker that has not ended. It is the `Employer` of the worker's crew."""

    def __init__(
        self,
        link: Link,
        greenlets: Greenlets,
        forkers: Forkers,
        name: str,
        slot_count: int,
        *,
        scratch_dir: str | None,
        max_items: int | None = None,
        offering: Offering | None,
        is_local: bool,
        close: Callable[[str], None],
    ):
        """`link` leads to the server. `name` is the worker's, `close(reason)` ends it.
        `max_items`: items after which an executor is replaced; None for no limit.
        """
        self.slots = [ExecutorSlot(index, sends_ahead=max_items is None) for index in range(slot_count)]
        #: whether the worker leaves: nothing new begins
        self.is_leaving = False
        self.crew = Crew(
            self, link, greenlets, forkers, name, slot_count, scratch_dir=scratch_dir, is_local=is_local
        )
        self._close = close
        self._link = link
        self._greenlets = greenlets
        self._name = name
        self._offering = offering
        self._max_items = max_items
        #: when the last attempt ended, by `monotonic`; 0.0 if there was none
        self._last_end_s = 0.0
        #: attempt number -> the attempt
        self._attempts: dict[int, HeldAttempt] = {}
        self._early_recalls = EarlyRecalls(slot_count)
        #: set when an attempt or an executor has ended
        self._progress = Event()

    @property
    def busy_until_s(self) -> float:
        """When the last attempt ended, by `monotonic`: now, if there is one; 0.0 if there was none."""
        return monotonic() if self._attempts else self._last_end_s

    def end(self) -> None:
        """Forget all attempts and end all executors (blocks)."""
        if self._offering is not None:
            self._offering.leave(self.on_frame)
        self._attempts.clear()
        for slot in self.slots:
            slot.clear()
        self.crew.end()

    # -- wishes of the server

    def prepare(self, job: CachedJob) -> None:
        """Fork executors of a new job, so that they are ready for its first tasks."""
        if self.is_leaving or job.fault is not None or job.offered_phases:
            return
        for slot in self.slots:
            if len(slot.executors) <= IDLE_EXECUTORS:
                self.crew.start(slot, job, [])

    def begin_job(self, job: CachedJob) -> None:
        """Run the attempts of a job whose code has arrived."""
        self.crew.send_code(job)
        self._advance_all()

    def end_job(self, job: CachedJob) -> None:
        """Forget the attempts of a job and end its executors."""
        for attempt in list(self._attempts.values()):
            if attempt.job is job:
                self._forget(attempt)
                if attempt.is_offered and self._offering is not None:
                    self._offering.revoke(attempt.lane)
        self.crew.dismiss(job)
        self._advance_all()

    def assign(self, job: CachedJob | None, frame: Frame, message: dict[str, Any]) -> None:
        """Take an attempt, or refuse it. Raises ProtocolError if slot or number are impossible."""
        if job is None or self.is_leaving or frame.attempt in self._early_recalls:
            self._link.send(control("returned", *frame.lane))
            return
        if message["slot"] >= len(self.slots) or frame.attempt in self._attempts:
            raise ProtocolError(f"attempt {frame.attempt} cannot be on slot {message['slot']}")
        fault = job.fault or job.find_fault(message, has_offering=self._offering is not None)
        if fault is not None:
            failure = {"kind": "options", "error": fault, "worker": self._name}
            self._link.send_in_lane(control("failed", *frame.lane, failure=failures.bound(failure)))
            return
        attempt = HeldAttempt(job, frame, message)
        slot = self.slots[attempt.slot]
        slot.add(attempt)
        self._attempts[attempt.number] = attempt
        self._advance(slot)

    def take_data(self, frame: Frame) -> None:
        """Pass on a frame of an attempt: input, or credit for output."""
        attempt = self._attempts.get(frame.attempt)
        if attempt is None or attempt.lane != frame.lane:
            return  # the attempt has ended
        if frame.kind == INPUT:
            attempt.take_input(frame)
        elif attempt.executor is not None:
            attempt.executor.link.send(frame)

    def recall(self, number: int) -> None:
        """Return an attempt that has not begun, or say that it is kept."""
        attempt = self._attempts.get(number)
        if attempt is None:
            self._early_recalls.add(number)
        elif attempt.executor is None:
            self._return(attempt)
        else:
            self._link.send(control("kept", *attempt.lane))

    def revoke(self, number: int) -> None:
        """End an attempt whose outcome no longer matters."""
        attempt = self._attempts.get(number)
        if attempt is None:
            return
        attempt.is_revoked = True
        if attempt.executor is None:
            self._forget(attempt)
        elif isinstance(attempt.executor, Offering):
            self._forget(attempt)
            attempt.executor.revoke(attempt.lane)
            self._advance(self.slots[attempt.slot])
        else:
            self._greenlets.spawn(self._end_revoked, attempt, delay_s=REVOKE_S)

    def return_waiting(self) -> None:
        """Return all attempts that have not begun."""
        for attempt in list(self._attempts.values()):
            if attempt.executor is None:
                self._return(attempt)

    def wait_for_running(self, timeout_s: float) -> None:
        """Wait (blocks) until no attempt runs, for at most `timeout_s`."""
        with gevent.Timeout(timeout_s, False):
            while (self.crew or self._offering) and any(a.executor for a in self._attempts.values()):
                self._progress.clear()
                self._progress.wait()

    # -- attempts on their way

    def _advance_all(self) -> None:
        for slot in self.slots:
            self._advance(slot)

    def _advance(self, slot: ExecutorSlot) -> None:
        """Send executors of a slot the attempts that they should have by now."""
        while not self.is_leaving and (attempt := slot.next_to_send()) is not None:
            if attempt.is_offered:
                self.advance_offered()
                return
            executor = slot.find_executor(attempt.job) or self.crew.start(slot, attempt.job, [attempt])
            if executor is None:
                return
            slot.send(attempt, executor)

    def advance_offered(self) -> None:
        """Send the offered functions the oldest attempts of all slots, as long as there is room."""
        while self._offering is not None and not self.is_leaving:
            offered = [
                attempt
                for slot in self.slots
                if (attempt := slot.next_to_send()) is not None and attempt.is_offered
            ]
            oldest = min(offered, key=lambda attempt: attempt.number, default=None)
            if oldest is None or not self._offering.has_room(oldest.job):
                return
            self._offering.announce(oldest)
            self.slots[oldest.slot].send(oldest, self._offering)

    def _return(self, attempt: HeldAttempt) -> None:
        """Return an attempt to the server, which assigns it elsewhere."""
        self._forget(attempt)
        if not attempt.is_revoked:
            self._link.send(control("returned", *attempt.lane))

    def _forget(self, attempt: HeldAttempt) -> None:
        del self._attempts[attempt.number]
        self.slots[attempt.slot].remove(attempt)
        self._last_end_s = monotonic()
        self._progress.set()

    def _end_revoked(self, attempt: HeldAttempt) -> None:
        """Kill the executor of a revoked attempt, unless the attempt has ended by itself."""
        executor = attempt.executor
        if attempt.number not in self._attempts or not isinstance(executor, Supervisor):
            return
        if executor.position().attempt != attempt.number:  # attempts before it still run
            self._greenlets.spawn(self._end_revoked, attempt, delay_s=REVOKE_S)
            return
        slot = self.slots[attempt.slot]
        self._forget(attempt)
        slot.forget_executor(executor)
        for behind in slot.attempts_of(executor):
            self._return(behind)
        executor.kill("its attempt was revoked")
        self._advance(slot)

    # -- news of executors

    def on_frame(self, executor: AttemptRunner, frame: Frame) -> None:
        """Pass on a frame about an attempt, or act on its outcome."""
        attempt = self._attempts.get(frame.attempt)
        if attempt is None or attempt.executor is not executor:
            return  # the attempt was revoked, or its job has ended
        if attempt.lane != frame.lane:
            raise ProtocolError(f"an executor sent {frame!r} about {attempt.lane}")
        if frame.kind == CONTROL:
            self._take_message(attempt, frame)
        elif attempt.is_revoked:
            return
        elif frame.kind == OUTPUT:
            self._link.send_in_lane(frame)
        elif frame.kind == GRANT:
            self._link.send(frame)
        else:
            raise ProtocolError(f"an executor sent {frame!r}")

    def _take_message(self, attempt: HeldAttempt, frame: Frame) -> None:
        message = message_of(frame)
        type_ = message["type"]
        slot, executor = self.slots[attempt.slot], attempt.executor
        self.crew.note_answer()
        if isinstance(executor, Supervisor):
            if type_ == "notice":
                self._pass_notice(attempt, executor, message)
                return
            executor.has_run = True
            executor.end_prints(has_more=type_ != "done" or "printed" in message)
            if type_ == "unprepared":
                self._forget(attempt)
                self._report_unprepared(attempt, executor, message["failure"])
                executor.kill("its setupfn failed")
                self._advance(slot)
                return
        if type_ == "done":
            attempt.job.add_duration(attempt.is_map, message["seconds"])
        elif type_ == "failed":
            fields = {name: value for name, value in message.items() if name != "type"}
            fields["failure"] = failures.bound({**message["failure"], "worker": self._name})
            frame = control("failed", *attempt.lane, **fields)
        elif type_ != "content":
            raise ProtocolError(f"an executor sent the message {type_!r}")
        self._forget(attempt)
        if not attempt.is_revoked:
            self._link.send_in_lane(frame)
        if isinstance(executor, Supervisor):
            self._count_items(slot, executor, attempt, message)
        self._advance(slot)

    def _count_items(
        self, slot: ExecutorSlot, executor: Supervisor, attempt: HeldAttempt, message: dict[str, Any]
    ) -> None:
        """Count what an attempt ran. Replace an executor that has run as many items as one may."""
        executor.item_count += message.get("items", attempt.entry_count) + message.get("skipped", 0)
        if self._max_items is not None and executor.item_count >= self._max_items:
            slot.forget_executor(executor)
            executor.kill("it had run --max-items items")

    def _pass_notice(self, attempt: HeldAttempt, executor: Supervisor, message: dict[str, Any]) -> None:
        """Send the user a notice of an executor. Only log it if it is marked quiet."""
        if message.get("quiet"):
            log.info("%s: %s", executor.link.name, message["text"])
            return
        text = f"{self._name}: {message['text']}"
        self._link.send(control("notice", *attempt.lane, text=text, once=message.get("once")))

    def on_death(self, executor: Supervisor, slot: ExecutorSlot, end: Exit) -> None:
        """Report the attempt that ran, and return the others: they had not begun."""
        self._progress.set()
        sent = slot.attempts_of(executor)
        if end.error is not None:  # it was never forked
            self.crew.pause(sent, end.error)
            return
        at = executor.position().attempt
        running = [attempt for attempt in sent if attempt.number == at]
        if not running and not executor.has_run:
            running = sent[:1]  # it died of the job's code, before it could begin anything
        for attempt in sent:
            if attempt not in running:
                self._return(attempt)
        for attempt in running:
            self._forget(attempt)
            if not attempt.is_revoked:
                self._report_death(attempt, executor, end)
        self._advance(slot)

    def on_template_death(
        self, executor: Supervisor, slot: ExecutorSlot, end: Exit, *, is_blamed: bool
    ) -> None:
        """Report one attempt of the job that ended a template, and return all others.

        The server counts for the job, and not for the task: others may have done it.
        """
        self._progress.set()
        sent = slot.attempts_of(executor)
        at = executor.position().attempt
        culprit = next((a for a in sent if a.number == at), sent[0]) if is_blamed and sent else None
        for attempt in sent:
            if attempt is culprit and not attempt.is_revoked:
                self._forget(attempt)
                self._report_death(attempt, executor, end)
            else:
                self._return(attempt)
        self._advance(slot)

    def _report_death(self, attempt: HeldAttempt, executor: Supervisor, end: Exit) -> None:
        """Report to the server that an executor died during an attempt, and why."""
        failure, item, is_divisible = judge_death(executor, end, attempt, self._name)
        log.info("executor died: %s: %s, attempt %s", executor.link.name, end, attempt.number)
        if end.template is not None:
            self._link.send_in_lane(control("died", *attempt.lane, failure=failure, template=True))
        elif executor.position().is_setup:
            self._report_unprepared(attempt, executor, failure, has_died=True)
        else:
            fields: dict[str, Any] = {"item": item, "divisible": is_divisible or None}
            self._link.send_in_lane(control("died", *attempt.lane, failure=failure, **fields))

    def _report_unprepared(
        self, attempt: HeldAttempt, executor: Supervisor, failure: dict[str, Any], *, has_died: bool = False
    ) -> None:
        """Report to the server that the setupfn of a job failed in an executor.

        The job's other attempts in this slot are returned, since the next executor may fail in the
        same way.
        """
        slot = self.slots[attempt.slot]
        slot.forget_executor(executor)
        if not attempt.is_revoked:
            failure = failures.bound({**failure, "worker": self._name})
            self._link.send(control("unprepared", *attempt.lane, failure=failure, died=has_died or None))
        for behind in slot.attempts_behind(executor, attempt.job):
            self._return(behind)

    def on_near_limit(self, executor: Supervisor, slot: ExecutorSlot, warning: str) -> None:
        """Warn the user that an executor is near its limit, once for each executor."""
        number = executor.position().attempt
        running = next((a for a in slot.attempts_of(executor) if a.number == number), None)
        if running is not None:
            executor.has_warned = True
            text = f"{describe_place(executor, running, self._name)}: {warning}"
            self._link.send(control("notice", *running.lane, text=text))

    def on_pause_end(self, wanted_by: list[HeldAttempt]) -> None:
        """Return the attempts that got no executor, and start those that arrived since."""
        for attempt in wanted_by:
            if attempt.number in self._attempts:
                self._return(attempt)
        self._advance_all()

    def on_hopeless(self, reason: str) -> None:
        """Close the worker: this machine cannot start executors."""
        self._close(reason)
