"""The worker role: one link to a server, N slots, an executor for what each of them runs.

A worker relays. Frames of an attempt pass between link and executor as they came; what the worker
reads of them is who they belong to, and when an attempt begins and ends. It holds attempts that
have not begun, ends executors that must end, and says what an executor died of, which the executor
itself cannot.

Everything happens in reaction to frames of the server or of an executor, which come from the hub itself, or to
a death, in a greenlet of its supervisor; no handler blocks. The only loop of its own is
`_watch`, which looks for items that take too long and executors that have grown too large.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.net.link import Link
from mmgevent.engine.worker.forker import Exit, Forkers
from mmgevent.engine.worker.obituary import describe_death, describe_place
from mmgevent.engine.worker.offering import Offering
from mmgevent.engine.worker.slot import IDLE_EXECUTORS, CachedJob, HeldAttempt, Slot
from mmgevent.engine.worker.supervisor import Supervisor
from mmgevent.errors import EngineError, ProtocolError, StartError
from mmgevent.wire import failures
from mmgevent.wire.frames import CODE, CONTROL, GRANT, INPUT, OUTPUT, Frame
from mmgevent.wire.hello import dill_version, hello
from mmgevent.wire.lanes import CODE_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.limits import MAX_CODE_BYTES, MAX_CONTEXT_BYTES
from mmgevent.wire.messages import control, message_of
from mmgevent.wire.user_messages import MAX_RECEIVER_BYTES

log = logging.getLogger(__name__)

#: how long a revoked attempt may still end by itself, which saves its executor
REVOKE_S = 0.1
#: between two looks at the items and the memory of the executors whose jobs have limits
WATCH_S = 0.1
#: for the last frames to reach the server when the worker leaves
FLUSH_S = 1.0
#: of a reason to close, as it stands in a message
MAX_REASON_BYTES = 1000
#: executors in a row that could not be forked, before the worker gives up
MAX_FORK_FAILURES = 8
#: The same where there never was an executor, and the user waits: the server is in this engine.
MAX_FIRST_FAILURES = 4
#: pause after the first of them, doubled each time
FORK_PAUSE_S = 0.05
#: recalls remembered that came before their attempt (they go before every lane), for each slot
MAX_EARLY_RECALLS = 64


class Worker:
    """One link of this engine to a server, from its hello to its end; a new link gets a new worker."""

    def __init__(
        self,
        link: Link,
        *,
        slots: int,
        forkers: Forkers,
        name: str | None = None,
        scratch_dir: str | None = None,
        offers: Sequence[str] = (),
        offering: Offering | None = None,
        is_local: bool = False,
        on_tell: Callable[[Frame], None] | None = None,
    ):
        """`forkers` and `offering` outlive the worker. `is_local`: the server is in this engine, versions need no check.

        `offers`: names of the functions that `offering` has called.

        `on_tell` gets the `tell` frames of drivers as they came, each driver's in a lane of its own; it must not block.
        """
        self.link = link
        self.name = name or f"{socket.gethostname()}/{os.getpid()}"
        #: set when link, executors and greenlets are gone
        self.closed = Event()
        #: why it closed; "" before
        self.close_reason = ""
        #: set when the server has greeted back: it will give work
        self.accepted = Event()
        #: (code, error) of the server's refusal
        self.refusal: tuple[str, str] | None = None
        #: whether the server said goodbye, so that this end is no fault
        self.has_goodbye = False
        #: whether an executor ever answered for an attempt
        self.has_run = False
        #: whether it closed since this machine lets it start no executor
        self.is_short = False
        self._forkers = forkers
        self._scratch_dir = scratch_dir
        self._offers = list(offers)
        self._offering = offering
        self._is_local = is_local
        self._on_tell = on_tell
        self._slots = [Slot(index) for index in range(slots)]
        self._jobs: dict[int, CachedJob] = {}
        self._attempts: dict[int, tuple[Slot, HeldAttempt]] = {}
        #: every executor that is not dead yet
        self._supervisors: dict[Supervisor, tuple[Slot, CachedJob]] = {}
        self._early_recalls: dict[int, None] = {}  # attempts, the last so many
        self._fork_failures = 0
        self._has_warned = False  # that some slots have no executor
        self._pauses = 0  # after failed forks: while there are any, nothing is forked
        self._is_leaving = False
        self._settled = Event()  # an attempt ended: `stop` looks again
        self._greenlets: set[gevent.Greenlet] = set()
        self._watcher: gevent.Greenlet | None = None
        self._closer: gevent.Greenlet | None = None
        self._handlers: dict[str, Callable[[Frame, dict[str, Any]], None]] = {
            "hello": self._on_hello,
            "refused": self._on_refused,
            "goodbye": self._on_goodbye,
            "moved": self._on_moved,
            "job": self._on_job,
            "job_end": self._on_job_end,
            "assign": self._on_assign,
            "recall": self._on_recall,
            "revoke": self._on_revoke,
            "tell": self._on_tell_of_driver,
        }

    # -- life

    def start(self) -> None:
        """Say hello and begin to work."""
        if self._offering is not None:
            self._offering.serve(self._on_executor_frame, self._advance_offered)
        self.link.start(self.on_frame, self._on_close)
        dill = "same" if self._is_local else dill_version()
        slots = len(self._slots)
        self.link.send(hello("worker", dill=dill, slots=slots, offers=self._offers, name=self.name))

    def stop(self, reason: str, grace_s: float = 0.0) -> None:
        """Leave: say so, give back what has not begun, let the rest run for `grace_s`, then end it. Blocks."""
        reason = failures.shorten(reason, MAX_REASON_BYTES)
        self._is_leaving = True
        self.link.send(control("leaving"))  # before anything is given back, or that would come again
        for number, (_, attempt) in list(self._attempts.items()):
            if attempt.executor is None:
                self._give_back(number)
        with gevent.Timeout(grace_s, False):
            while (self._supervisors or self._offering) and any(
                a.executor for _, a in self._attempts.values()
            ):
                self._settled.clear()
                self._settled.wait()
        self.link.drain(FLUSH_S)  # the goodbye goes before every lane, and a `done` behind it would be lost
        self.link.send(control("goodbye", reason=reason))
        self.link.close(reason, FLUSH_S)
        self._shut(reason)
        self.closed.wait()

    def tell(self, *frames: Frame) -> None:
        """Send what the host of this worker tells the drivers that watch (see `wire.user_messages`); does not block.

        The worker closes when MAX_RECEIVER_BYTES of it wait, which the server does not take.
        """
        for frame in frames:
            self.link.send_in_lane(frame)
            if self.link.queued_bytes(frame.lane) > MAX_RECEIVER_BYTES:
                self._shut(f"{MAX_RECEIVER_BYTES} bytes that it tells wait for the server")

    def _on_close(self, reason: str) -> None:
        self._shut(reason)

    def _shut(self, reason: str) -> None:
        """Begin the end; the first reason counts."""
        if self._closer is None:
            self.close_reason = failures.shorten(reason, MAX_REASON_BYTES)
            self._is_leaving = True
            self._closer = gevent.spawn(self._end)

    def _end(self) -> None:
        self.link.close(self.close_reason, 0.0)
        if self._watcher is not None:
            self._watcher.kill()
        gevent.killall(list(self._greenlets))
        if self._offering is not None:
            self._offering.leave(self._on_executor_frame)
        self._attempts.clear()
        for slot in self._slots:
            slot.clear()
        supervisors = list(self._supervisors)
        for supervisor in supervisors:
            supervisor.kill("the worker leaves")
        for supervisor in supervisors:
            supervisor.join()
        self._jobs.clear()
        self.closed.set()

    def _spawn(self, delay_s: float, function: Callable[..., None], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn_later(delay_s, function, *args)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)
        greenlet.link_exception(self._on_fault)
        return greenlet

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        log.error("worker closed by a fault of our own: %s", self.name, exc_info=greenlet.exc_info)
        self._shut(f"internal error: {greenlet.exception}")

    # -- frames of the server

    def on_frame(self, frame: Frame) -> None:
        """Act on a frame of the server; ProtocolError for what it must not send."""
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
            known = self._attempts.get(frame.attempt)
            if known is None or known[1].lane != frame.lane:
                return  # the attempt is over
            attempt = known[1]
            if frame.kind == INPUT:
                attempt.take_input(frame)
            elif attempt.executor is not None:
                attempt.executor.link.send(frame)
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

    def _on_job(self, frame: Frame, message: dict[str, Any]) -> None:
        if frame.job in self._jobs:
            raise ProtocolError(f"job {frame.job} came twice")
        for name, limit in (("code_bytes", MAX_CODE_BYTES), ("context_bytes", MAX_CONTEXT_BYTES)):
            if message.get(name, 0) > limit:
                raise ProtocolError(f"{name} is {message[name]}, at most {limit} are taken")
        job = self._jobs[frame.job] = CachedJob(frame, message, ReceiveWindow(CODE_WINDOW))
        if self._watcher is None and job.has_limits:
            self._watcher = self._spawn(0, self._watch)
        if not self._is_leaving and job.fault is None and not job.offered_phases:
            for slot in self._slots:
                if len(slot.executors) <= IDLE_EXECUTORS:  # ready when the first task comes
                    self._start_executor(slot, job, [])

    def _on_code(self, frame: Frame) -> None:
        job = self._jobs.get(frame.job)
        if job is None:
            return  # it ended meanwhile
        job.window.received(len(frame.payload))
        job.code += frame.payload
        if len(job.code) > job.lane_bytes:
            raise ProtocolError(f"more code came than the {job.lane_bytes} bytes announced")
        grant = job.window.consumed(len(frame.payload))
        if grant and not job.is_complete:
            self.link.send(grant_frame(frame.lane, grant))
        if job.is_complete:
            for supervisor, (_, of_job) in list(self._supervisors.items()):
                if of_job is job:
                    supervisor.send_job(job.frame, job.code)
            for slot in self._slots:
                self._advance(slot)

    def _on_job_end(self, frame: Frame, message: dict[str, Any]) -> None:
        job = self._jobs.pop(frame.job, None)
        for _, attempt in list(self._attempts.values()):
            if attempt.job is job:
                self._forget(attempt)
                if attempt.is_offered and self._offering is not None:
                    self._offering.revoke(attempt.lane)
        for supervisor, (slot, of_job) in list(self._supervisors.items()):
            if of_job is job:
                slot.forget_executor(supervisor)
                supervisor.kill("its job ended")
        for slot in self._slots:
            self._advance(slot)

    def _on_assign(self, frame: Frame, message: dict[str, Any]) -> None:
        job = self._jobs.get(frame.job)
        if job is None or self._is_leaving or frame.attempt in self._early_recalls:
            self.link.send(control("returned", *frame.lane))
            return
        if message["slot"] >= len(self._slots) or frame.attempt in self._attempts:
            raise ProtocolError(f"attempt {frame.attempt} cannot be on slot {message['slot']}")
        if job.fault is not None:
            failure = {"kind": "options", "error": job.fault, "worker": self.name}
            self.link.send_in_lane(control("failed", *frame.lane, failure=failures.bound(failure)))
            return
        slot = self._slots[message["slot"]]
        attempt = HeldAttempt(job, frame, message)
        if attempt.is_offered and self._offering is None:
            raise ProtocolError(f"attempt {frame.attempt} is of functions that nobody offers here")
        slot.add(attempt)
        self._attempts[attempt.number] = (slot, attempt)
        self._advance(slot)

    def _on_recall(self, frame: Frame, message: dict[str, Any]) -> None:
        known = self._attempts.get(frame.attempt)
        if known is None:
            self._early_recalls[frame.attempt] = None
            if len(self._early_recalls) > MAX_EARLY_RECALLS * len(self._slots):
                del self._early_recalls[next(iter(self._early_recalls))]
        elif known[1].executor is None:
            self._give_back(frame.attempt)
        else:
            self.link.send(control("kept", *known[1].lane))

    def _on_revoke(self, frame: Frame, message: dict[str, Any]) -> None:
        known = self._attempts.get(frame.attempt)
        if known is None:
            return
        attempt = known[1]
        attempt.is_revoked = True
        if attempt.executor is None:
            self._forget(attempt)
        elif isinstance(attempt.executor, Offering):
            self._forget(attempt)
            attempt.executor.revoke(attempt.lane)
            self._advance(known[0])
        else:
            self._spawn(REVOKE_S, self._end_revoked, attempt)

    def _end_revoked(self, attempt: HeldAttempt) -> None:
        """Kill the executor of a revoked attempt, unless it has ended by itself."""
        executor = attempt.executor
        if attempt.number in self._attempts and isinstance(executor, Supervisor):
            if executor.position().attempt != attempt.number:  # it comes after others, which are short
                self._spawn(REVOKE_S, self._end_revoked, attempt)
                return
            slot, _ = self._attempts[attempt.number]
            self._forget(attempt)
            slot.forget_executor(executor)
            for behind in slot.attempts_of(executor):
                self._give_back(behind.number)
            executor.kill("its attempt was revoked")
            self._advance(slot)

    # -- attempts

    def _advance(self, slot: Slot) -> None:
        """Send the executors what they should have by now."""
        while not self._is_leaving and (attempt := slot.next_to_forward()) is not None:
            if attempt.is_offered:
                self._advance_offered()
                return
            executor = slot.find_executor(attempt.job) or self._start_executor(slot, attempt.job, [attempt])
            if executor is None:
                return
            slot.forward(executor)

    def _advance_offered(self) -> None:
        """Send the offered functions what came first, of all slots, while there is room for it."""
        while self._offering is not None and not self._is_leaving:
            nexts = [
                (attempt.number, slot, attempt)
                for slot in self._slots
                if (attempt := slot.next_to_forward()) is not None and attempt.is_offered
            ]
            if not nexts:
                return
            _, slot, first = min(nexts)
            if not self._offering.has_room(first.job):
                return
            self._offering.announce(first)
            slot.forward(self._offering)

    def _give_back(self, number: int) -> None:
        _, attempt = self._attempts[number]
        self._forget(attempt)
        if not attempt.is_revoked:
            self.link.send(control("returned", *attempt.lane))

    def _forget(self, attempt: HeldAttempt) -> None:
        slot, _ = self._attempts.pop(attempt.number)
        slot.remove(attempt)
        self._settled.set()

    # -- executors

    def _start_executor(self, slot: Slot, job: CachedJob, wanted_by: list[HeldAttempt]) -> Supervisor | None:
        """Have an executor forked for this job; None if that cannot be done now, or the worker closes."""
        if self._pauses:
            return None
        try:
            supervisor = Supervisor(
                self._forkers.get(job.greenlets, job.flags),
                f"{self.name} slot {slot.index} job {job.number}",
                self._scratch_dir,
                self._on_executor_frame,
                self._on_death,
                executors=len(self._slots),
            )
        except (OSError, StartError) as error:  # descriptors, processes or memory that others may give back
            self._on_fork_failure(wanted_by, f"no executor can be started: {error}")
            return None
        except EngineError as error:
            log.error("worker closes: no executor can be started: %s", error)
            self._shut(str(error))
            return None
        self._supervisors[supervisor] = (slot, job)
        slot.executors[job.number] = supervisor
        if job.is_complete:
            supervisor.send_job(job.frame, job.code)
        for idle in slot.surplus_executors():
            slot.forget_executor(idle)
            idle.kill("its slot serves other jobs")
        return supervisor

    def _on_executor_frame(self, executor: Supervisor | Offering, frame: Frame) -> None:
        known = self._attempts.get(frame.attempt)
        if known is None or known[1].executor is not executor:
            return  # the attempt was revoked, or its job is over
        slot, attempt = known
        if attempt.lane != frame.lane:
            raise ProtocolError(f"an executor sent {frame!r} about {attempt.lane}")
        if frame.kind == CONTROL:
            self._on_executor_message(slot, attempt, frame)
        elif attempt.is_revoked:
            return
        elif frame.kind == OUTPUT:
            self.link.send_in_lane(frame)
        elif frame.kind == GRANT:
            self.link.send(frame)
        else:
            raise ProtocolError(f"an executor sent {frame!r}")

    def _on_executor_message(self, slot: Slot, attempt: HeldAttempt, frame: Frame) -> None:
        message = message_of(frame)
        type_ = message["type"]
        self._fork_failures = 0
        self.has_run = True
        if isinstance(attempt.executor, Supervisor):
            if type_ == "notice":
                self._pass_notice(attempt, attempt.executor, message)
                return
            attempt.executor.has_run = True
            if type_ == "unprepared":
                self._forget(attempt)
                self._report_unprepared(slot, attempt, attempt.executor, message["failure"])
                attempt.executor.kill("its setupfn failed")
                self._advance(slot)
                return
        if type_ == "done":
            attempt.job.add_duration(attempt.is_map, message["seconds"])
        elif type_ == "failed":
            failure = failures.bound({**message["failure"], "worker": self.name})
            frame = control("failed", *attempt.lane, **{**_fields(message), "failure": failure})
        elif type_ != "content":
            raise ProtocolError(f"an executor sent the message {type_!r}")
        self._forget(attempt)
        if not attempt.is_revoked:
            self.link.send_in_lane(frame)
        self._advance(slot)

    def _pass_notice(self, attempt: HeldAttempt, executor: Supervisor, message: dict[str, Any]) -> None:
        """Have the user told what an executor says, or, if it is for those who want to know more, log it."""
        if message.get("quiet"):
            log.info("%s: %s", executor.link.name, message["text"])
            return
        text = f"{self.name}: {message['text']}"
        self.link.send(control("notice", *attempt.lane, text=text, once=message.get("once")))

    def _on_death(self, executor: Supervisor, exit_: Exit) -> None:
        """Settle what a dead executor had: one attempt was running, the others were not begun."""
        slot, _ = self._supervisors.pop(executor)
        slot.forget_executor(executor)
        self._settled.set()
        had = slot.attempts_of(executor)
        if exit_.error is not None:
            self._on_fork_failure(had, exit_.error)
            return
        position = executor.position()
        running = [a for a in had if a.number == position.attempt]
        if not running and not executor.has_run:
            running = had[:1]  # it died of the job's code, before it could begin anything
        for attempt in had:
            if attempt not in running:
                self._give_back(attempt.number)
        for attempt in running:
            self._forget(attempt)
            if not attempt.is_revoked:
                failure, item, is_divisible = describe_death(executor, exit_, attempt, self.name)
                log.info("executor died: %s: %s, attempt %s", executor.link.name, exit_, attempt.number)
                if position.is_setup:
                    self._report_unprepared(slot, attempt, executor, failure, has_died=True)
                else:
                    died = control(
                        "died", *attempt.lane, failure=failure, item=item, divisible=is_divisible or None
                    )
                    self.link.send_in_lane(died)
        self._advance(slot)

    def _report_unprepared(
        self,
        slot: Slot,
        attempt: HeldAttempt,
        executor: Supervisor,
        failure: dict[str, Any],
        *,
        has_died: bool = False,
    ) -> None:
        """Tell of an executor that its job's setupfn failed in, and give back all that would come to such a one next."""
        slot.forget_executor(executor)
        if not attempt.is_revoked:
            failure = failures.bound({**failure, "worker": self.name})
            self.link.send(control("unprepared", *attempt.lane, failure=failure, died=has_died or None))
        for behind in slot.attempts_behind(executor, attempt.job):
            self._give_back(behind.number)

    def _on_fork_failure(self, had: list[HeldAttempt], error: str) -> None:
        """Give back, after a pause, what cannot run here; give up after too many in a row, unless others run."""
        self._fork_failures += 1
        has_others = any(executor.child.pid is not None for executor in self._supervisors)
        if has_others and not self._has_warned:
            self._has_warned = True
            log.warning("%s has fewer executors than slots: %s", self.name, error)
        log.info("executor not started: %s: %s", self.name, error)
        may_recover = self.has_run or not self._is_local
        most = MAX_FORK_FAILURES if may_recover else MAX_FIRST_FAILURES
        if self._fork_failures >= most and not has_others:
            self.is_short = True
            self._shut(error)
            return
        self._pauses += 1
        doublings = min(self._fork_failures, MAX_FORK_FAILURES - 1)
        self._spawn(FORK_PAUSE_S * 2**doublings, self._end_pause, had)

    def _end_pause(self, had: list[HeldAttempt]) -> None:
        self._pauses -= 1
        for attempt in had:
            if attempt.number in self._attempts:
                self._give_back(attempt.number)
        for slot in self._slots:
            self._advance(slot)

    def _watch(self) -> None:
        """Kill executors that break a limit of their job, warn of those near it; ends when no job has one."""
        while any(job.has_limits for job in self._jobs.values()):
            gevent.sleep(WATCH_S)
            for executor, (slot, job) in list(self._supervisors.items()):
                warning = executor.enforce(job.task_timeout_s, job.memory_limit_bytes, job.setup_timeout_s)
                if warning is not None:
                    self._warn(executor, slot, warning)
        self._watcher = None

    def _warn(self, executor: Supervisor, slot: Slot, warning: str) -> None:
        """Have the user told, once, of the executor that is about to break a limit."""
        number = executor.position().attempt
        running = next((a for a in slot.attempts_of(executor) if a.number == number), None)
        if running is not None:
            executor.has_warned = True
            text = f"{describe_place(executor, running, self.name)}: {warning}"
            self.link.send(control("notice", *running.lane, text=text))


def _fields(message: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a message, without its type."""
    return {name: value for name, value in message.items() if name != "type"}
