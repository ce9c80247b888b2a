"""The server role: schedules tasks and keeps segments; never runs or unpickles anything of the user's.

What happens on links becomes events of the scheduler, and the scheduler's commands
become frames and calls of the store, in `_carry_out`.  Peers (`engine/server/peers.py`) check what
frames may say; nothing here trusts a number that a peer sent.

Everything runs in one gevent hub.  No event handler blocks; what has to wait for the
disk or for a slow reader has a greenlet of its job.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.net.link import Link
from mmgevent.engine.net.threads import run_in_thread
from mmgevent.engine.scheduler import commands
from mmgevent.engine.scheduler.scheduler import TICK_S, Scheduler
from mmgevent.engine.server.hosted import PROGRESS_S, Attempt, HostedJob, read_rules
from mmgevent.engine.server.intake import Intake
from mmgevent.engine.server.obituaries import certify
from mmgevent.engine.server.partitioning import REDUCE_TASKS_PER_SLOT, choose_partitions, cut_partitions
from mmgevent.engine.server.peers import DriverPeer, Peer, WorkerPeer
from mmgevent.engine.server.store import JobStore, Memory
from mmgevent.engine.server.watchers import MAX_REASON_BYTES, Watchers
from mmgevent.errors import LinkClosed, MmgeventError, ProtocolError, SchedulerError, StoreError
from mmgevent.wire.deaths import describe_death
from mmgevent.wire.failures import bound, shorten
from mmgevent.wire.limits import MAX_CODE_BYTES, MAX_CONTEXT_BYTES
from mmgevent.wire.messages import MAX_NOTICE_BYTES, control
from mmgevent.wire.positions import ALL
from mmgevent.wire.streams import INPUT_WINDOW, grant_frame

log = logging.getLogger(__name__)

GOODBYE_S = 1.0  #: for goodbyes to reach their peers when the server ends
MAX_JOBS = 10_000  #: at once on one server


class Server:
    """Holds jobs and workers and brings them together."""

    def __init__(self, name: str, *, memory_bytes: int, spill_folder: str | None = None):
        """`memory_bytes` bounds the segments held in memory, of all jobs together, and as many bytes of batches."""
        self.name = name
        self._memory = Memory(memory_bytes)
        self._intake = Intake(memory_bytes)
        #: what code all jobs have announced; the largest job is taken by the smallest server
        self._code_memory = Memory(max(memory_bytes, MAX_CODE_BYTES + MAX_CONTEXT_BYTES))
        self._spill_folder = spill_folder
        self._scheduler = Scheduler(random.Random())
        self._peers: set[Peer] = set()
        self.workers: dict[int, WorkerPeer] = {}
        #: of all workers that are not about to leave
        self.slot_count = 0
        self.watchers = Watchers(self.workers)
        self._jobs: dict[int, HostedJob] = {}
        self._attempts: dict[int, Attempt] = {}
        #: set while there are no jobs
        self.idle = Event()
        self.idle.set()
        #: where the server is that takes jobs in our place, once there is one
        self.moved_to: str | None = None
        self._next_worker = 1
        self._next_job = 1
        self._ticker: gevent.Greenlet | None = None
        self._handlers: dict[type, Callable[[Any], Iterable[commands.Command] | None]] = {
            commands.Assign: self._assign,
            commands.Recall: self._recall,
            commands.Revoke: self._revoke,
            commands.Commit: self._commit,
            commands.Discard: self._discard,
            commands.ReleaseBatch: self._release_batch,
            commands.NeedContent: self._need_content,
            commands.Allow: self._allow,
            commands.EnoughInput: self._enough_input,
            commands.PlanReduce: self._plan_reduce,
            commands.FinishJob: self._finish_job,
            commands.FailJob: self._fail_job,
            commands.ItemSkipped: self._item_skipped,
            commands.Notice: self._notice,
        }

    # links

    def attach(
        self, link: Link, role: str, *, is_local: bool = False, when_closed: Callable[[], None] | None = None
    ) -> None:
        """Serve a link whose peer proved the password; `role` is "worker" or "driver".

        `is_local`: the peer is a role of this engine or the engine's own driver, so it has our
        version, and gets the driver's context.  `when_closed` is called after the link's end.
        """
        peer_class = WorkerPeer if role == "worker" else DriverPeer
        peer = peer_class(self, link, is_local)
        self._peers.add(peer)

        def on_close(reason: str) -> None:
            peer.on_close(reason)
            if when_closed is not None:
                when_closed()

        link.start(peer.on_frame, on_close)

    def detach(self, peer: Peer) -> None:
        """Forget a peer whose link closed."""
        self._peers.discard(peer)

    def move(self, address: str) -> None:
        """Take no more jobs: another server, at `address`, does. Everybody is told."""
        self.moved_to = address
        for peer in self._peers:
            peer.link.send(control("moved", address=address))

    def stop(self, reason: str) -> None:
        """Say goodbye to everybody and close all links (blocks for up to GOODBYE_S).

        Jobs that are not done are their drivers' again, who hand them in to the next server here.
        """
        peers = list(self._peers)
        for peer in peers:
            peer.link.send(control("goodbye", reason=reason))
        gevent.joinall([gevent.spawn(peer.link.close, reason, GOODBYE_S) for peer in peers])
        if self._ticker is not None:
            self._ticker.kill()

    # events of workers

    def add_worker(self, peer: WorkerPeer) -> int:
        number = self._next_worker
        self._next_worker += 1
        self.workers[number] = peer
        self.slot_count += peer.slots
        log.info("worker joined: %s with %d slots", peer.link.name, peer.slots)
        self.watchers.joined(number, peer)
        self.run(self._scheduler.add_worker(number, peer.slots, peer.offers, time.monotonic()))
        return number

    def remove_worker(self, peer: WorkerPeer, reason: str) -> None:
        del self.workers[peer.number]
        log.info("worker left: %s: %s", peer.link.name, reason)
        self.watchers.left(peer.number, reason)
        if not peer.is_leaving:
            self.slot_count -= peer.slots
        hurt: dict[HostedJob, list[Attempt]] = {}
        for number in sorted(peer.attempts):
            attempt = self._attempts[number]
            hurt.setdefault(attempt.job, []).append(attempt)
        made = self._scheduler.remove_worker(peer.number, time.monotonic())
        name = peer.link.name
        error = f"worker {name} is gone ({shorten(reason, MAX_REASON_BYTES)})"
        failure = {"kind": "lost", "worker": name, "error": error}
        for job, attempts in hurt.items():
            job.tell("died", failure=certify(failure, attempts, made, self.workers))
        self.run(made)

    def drain_worker(self, peer: WorkerPeer) -> None:
        """A worker is about to leave: it gets nothing more."""
        if not peer.is_leaving:
            peer.is_leaving = True
            self.slot_count -= peer.slots
        self.report("drain_worker", peer.number)

    def find_attempt(self, number: int, worker: int) -> Attempt | None:
        """Return a live attempt of this worker; None if it is over."""
        attempt = self._attempts.get(number)
        if attempt is not None and attempt.worker != worker:
            raise ProtocolError(f"attempt {number} belongs to another worker")
        return attempt

    def take_output(self, attempt: Attempt, data: bytes) -> None:
        """Stage what an attempt puts out, and let it send on once that is stored."""
        if attempt.done is not None:
            raise ProtocolError(f"output of attempt {attempt.number} came after it was done")
        attempt.window.received(len(data))
        job = attempt.job
        if job.store.stage(attempt.number, data):
            self._grant_output(attempt, len(data))
            return
        attempt.pending_bytes += len(data)
        if job.spilling is None:
            job.spilling = self._spawn(job, self._spill, job)

    def finish_attempt(self, attempt: Attempt, message: dict[str, Any]) -> None:
        """An attempt says it is done: its output must be here, or in the message, and whole."""
        if attempt.done is not None:
            return  # said again while the disk is behind
        store = attempt.job.store
        inline = message.get("inline", b"")
        if inline:
            attempt.window.widen(attempt.window.window_bytes + len(inline))  # it needed no credit
            self.take_output(attempt, inline)
        if message["size"] != store.staged_bytes(attempt.number) or not store.is_whole(attempt.number):
            raise ProtocolError(f"attempt {attempt.number} is done, but its output did not arrive whole")
        if not attempt.may_put_out(store.staged_partitions(attempt.number)):
            raise ProtocolError(f"attempt {attempt.number} put out partitions that are not its own")
        attempt.done = message
        if not attempt.pending_bytes:
            self._end_done(attempt, message)
        # Else its slot gets no other for it before the disk has caught up: that bounds what is pending.

    def _end_done(self, attempt: Attempt, message: dict[str, Any]) -> None:
        job = attempt.job
        if not attempt.is_map:
            self.report("attempt_done", attempt.number)
            return
        job.count_mapped(attempt, message)
        skipped = job.store.staged_records(attempt.number, job.partitions) if "skipped" in message else 0
        failure = None
        if skipped:
            failure = bound({**message.get("failure", {}), "worker": self._name_of(attempt.worker)})
        self.report("attempt_done", attempt.number, items=message["items"], skipped=skipped, failure=failure)

    def _name_of(self, worker: int) -> str:
        """Return the name of a worker, "" if it is gone."""
        peer = self.workers.get(worker)
        return "" if peer is None else shorten(peer.link.name)

    def report(self, event: str, *args: Any, **facts: Any) -> None:
        """Tell the scheduler what a peer says happened and do what follows; `event` names one of its methods.

        ProtocolError for what cannot have happened: the peer broke the rules, and nothing has changed.
        """
        self.run(self._ask_scheduler(event, *args, **facts))

    def report_death(
        self, attempt: Attempt, failure: dict[str, Any], item: int | None, *, is_divisible: bool
    ) -> None:
        """An executor died: as `report`, and the driver is told, with what is done about it."""
        made = self._ask_scheduler("attempt_died", attempt.number, failure, item, is_divisible=is_divisible)
        certificate = certify(failure, [attempt], made, self.workers)
        attempt.job.tell("died", attempt.task, failure=certificate, item=item)
        self.run(made)

    def report_unprepared(self, attempt: Attempt, failure: dict[str, Any], has_died: bool) -> None:
        """The job's setupfn failed in an executor, or killed it: as `report_death`, unless it ends the job."""
        made = self._ask_scheduler("attempt_unprepared", attempt.number, failure)
        certificate = certify(failure, [attempt], made, self.workers)
        del certificate["task"]  # which had not begun, and is not to blame
        if has_died:
            attempt.job.tell("died", attempt.task, failure=certificate)
        elif certificate["outcome"] != "failed":
            text = describe_death(certificate) or ""
            once = f"{failure.get('worker')} {failure.get('error')}"
            attempt.job.tell(
                "notice", text=shorten(text, MAX_NOTICE_BYTES), once=shorten(once, MAX_NOTICE_BYTES)
            )
        self.run(made)

    def _ask_scheduler(self, event: str, *args: Any, **facts: Any) -> list[commands.Command]:
        try:
            made: list[commands.Command] = getattr(self._scheduler, event)(*args, time.monotonic(), **facts)
        except SchedulerError as error:
            raise ProtocolError(str(error)) from error
        return made

    # events of drivers

    def add_job(self, link: Link, driver_job: int, submit: dict[str, Any]) -> HostedJob:
        """Make a job of what a driver submits; it is scheduled by `start_job` once its code is here.

        MmgeventError for one that cannot be taken.
        """
        if len(self._jobs) >= MAX_JOBS:
            raise MmgeventError(f"this server has {MAX_JOBS} jobs already: try again later")
        number = self._next_job
        store = JobStore(self._memory, self._spill_folder, run_in_thread)
        job = HostedJob(number, f"{self.name}-{number}", link, driver_job, submit, store, self._intake)
        job.rules = read_rules(job.options)
        job.announce(with_context=True)  # it has to fit a frame
        if not self._code_memory.take(job.lane_bytes):
            held = self._code_memory.used_bytes
            raise MmgeventError(f"this server has {held} bytes of jobs' code already: try again later")
        self._next_job += 1
        self._jobs[number] = job
        self.idle.clear()
        return job

    def start_job(self, job: HostedJob) -> None:
        """Tell the driver to send, and the scheduler that there is a job."""
        job.partitions = job.options.get("partitions") or choose_partitions(self.slot_count)
        self._spawn(job, self._send_results, job)
        if self._ticker is None:
            self._ticker = gevent.spawn(self._tick)
        made = self._scheduler.add_job(job.number, job.rules, time.monotonic())
        job.is_scheduled = True
        job.allowed = max((c.batches for c in made if isinstance(c, commands.Allow)), default=0)
        job.tell("accepted", id=job.id, slots=self.slot_count, partitions=job.partitions, batches=job.allowed)
        log.info("job accepted: %s %s", job.id, job.name)
        self.run(made)

    def has_job(self, job: HostedJob) -> bool:
        """Is this job still going on here?"""
        return self._jobs.get(job.number) is job

    def refuse_input(self, job: HostedJob, error: MmgeventError) -> None:
        """Fail a job whose driver announced input that is not taken; its other jobs go on."""
        self._break_job(job, "datasource", str(error), None)

    def cancel(self, job: HostedJob) -> None:
        self.run(self._scheduler.cancel_job(job.number, time.monotonic()))
        self._drop_job(job)  # a job that was never started is unknown to the scheduler

    # commands

    def run(self, made: Iterable[commands.Command]) -> None:
        """Carry out commands in order, with those that they lead to.

        One that fails breaks its own job, never the link of the peer that happened to bring it about.
        """
        queue = deque(made)
        while queue:
            command = queue.popleft()
            try:
                queue.extend(self._handlers[type(command)](command) or ())
            except Exception as error:
                log.exception("a command failed: %s", type(command).__name__)
                queue.extend(self._give_up(command, error))

    def _give_up(self, command: commands.Command, error: Exception) -> Iterable[commands.Command]:
        """Fail the job of a command that could not be carried out."""
        failure = {"kind": "internal", "error": f"internal error: {type(error).__name__}: {error}"}
        if isinstance(command, commands.FailJob):  # even telling failed
            self._drop_job(self._jobs[command.job])
            return ()
        made: list[commands.Command] = self._scheduler.fail_job(command.job, failure, time.monotonic())
        return made

    def _assign(self, c: commands.Assign) -> None:
        job, worker = self._jobs[c.job], self.workers[c.worker]
        attempt = self._attempts[c.attempt] = Attempt(c.attempt, job, c.worker, c.task)
        worker.attempts.add(c.attempt)
        self._send_code(worker, job)
        fields: dict[str, Any] = {"phase": c.phase, "slot": c.slot, "partitions": job.partitions}
        if c.phase == "map":
            attempt.batch, attempt.lo, attempt.hi, attempt.part = c.batch, c.lo, c.hi, c.part
            fields.update(lo=c.lo, hi=c.hi, skip=list(c.skip) or None)
            if c.part != ALL:
                fields["part"] = list(c.part)
            job.feed_map(worker.link, attempt, fields)
            return
        attempt.partitions = c.partitions
        sizes = job.sizes
        parts = [[partition, sizes[partition]] for partition in c.partitions]
        fields.update(size=sum(size for _, size in parts), parts=parts)
        worker.link.open_lane(attempt.lane, INPUT_WINDOW)
        worker.link.send_in_lane(control("assign", *attempt.lane, **fields))
        attempt.feeder = self._spawn(job, self._feed_reduce, worker.link, attempt)

    def _send_code(self, worker: WorkerPeer, job: HostedJob) -> None:
        if job.number in worker.jobs:
            return
        worker.jobs.add(job.number)
        job.send_code(worker.link, with_context=worker.is_local)

    def _recall(self, c: commands.Recall) -> None:
        attempt = self._attempts[c.attempt]
        self.workers[c.worker].link.send(control("recall", *attempt.lane))

    def _revoke(self, c: commands.Revoke) -> None:
        worker = self.workers[c.worker]
        lane = (c.job, c.task, c.attempt)
        worker.link.drop_lane(lane)
        worker.link.send(control("revoke", *lane))

    def _commit(self, c: commands.Commit) -> None:
        attempt = self._end_attempt(c.attempt)
        job = attempt.job
        if c.phase == "map":
            output = job.store.commit_map(c.attempt, c.batch, c.lo, c.part)
            if attempt.done is not None and "skipped" in attempt.done:
                job.deliver_set_aside(attempt, output, self._name_of(attempt.worker))
        else:
            job.deliver(c.task, attempt.partitions, job.store.commit_reduce(c.attempt))

    def _discard(self, c: commands.Discard) -> None:
        attempt = self._end_attempt(c.attempt)
        attempt.job.store.discard(c.attempt)
        worker = self.workers.get(attempt.worker)
        if worker is not None:
            worker.link.drop_lane(attempt.lane)

    def _end_attempt(self, number: int) -> Attempt:
        attempt = self._attempts.pop(number)
        attempt.is_over = True
        worker = self.workers.get(attempt.worker)
        if worker is not None:
            worker.attempts.discard(number)
        if attempt.feeder is not None:
            attempt.feeder.kill(block=False)
        return attempt

    def _release_batch(self, c: commands.ReleaseBatch) -> None:
        self._jobs[c.job].release_batch(c.batch)

    def _need_content(self, c: commands.NeedContent) -> None:
        self._jobs[c.job].tell("need_content", task=c.batch)

    def _allow(self, c: commands.Allow) -> None:
        job = self._jobs[c.job]
        job.allowed = c.batches
        job.tell(
            "allow",
            batches=c.batches,
            items=job.items_done,
            seconds=job.seconds_done,
            weight=job.weight_done,
            slots=self.slot_count,
        )

    def _enough_input(self, c: commands.EnoughInput) -> None:
        self._jobs[c.job].tell("enough")

    def _plan_reduce(self, c: commands.PlanReduce) -> list[commands.Command]:
        job = self._jobs[c.job]
        sizes = job.store.partition_sizes()
        sizes.pop(job.partitions, None)  # what was set aside
        job.sizes = {p: n for p, n in sizes.items() if p not in job.delivered}
        groups = cut_partitions(job.sizes, REDUCE_TASKS_PER_SLOT * max(1, self.slot_count))
        made: list[commands.Command] = self._scheduler.plan_reduce(c.job, groups, time.monotonic())
        return made

    def _finish_job(self, c: commands.FinishJob) -> None:
        job = self._jobs[c.job]
        job.is_scheduled = False
        job.store.free_committed()
        job.end_results()
        self._tell_workers_end(job)

    def _fail_job(self, c: commands.FailJob) -> None:
        job = self._jobs.get(c.job)
        if job is not None:
            job.tell("job_failed", failure=c.failure, code=c.code)
            log.info("job failed: %s: %s", job.id, c.failure.get("error", c.code))
            self._drop_job(job)

    def _item_skipped(self, c: commands.ItemSkipped) -> None:
        self._jobs[c.job].tell("skipped", failure=c.failure, batch=c.batch, item=c.item)

    def _notice(self, c: commands.Notice) -> None:
        self._jobs[c.job].tell("notice", text=c.text)

    # greenlets of jobs

    def _spawn(self, job: HostedJob, function: Callable[..., None], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(self._guard, job, function, *args)
        job.greenlets.add(greenlet)
        greenlet.rawlink(job.greenlets.discard)
        return greenlet

    def _guard(self, job: HostedJob, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except LinkClosed as error:
            log.debug("%s stopped: %s", job.id, error)  # the link's on_close deals with it
        except StoreError as error:
            self._break_job(
                job, "disk", str(error), "free some disk, or set TMPDIR to a folder that has room"
            )
        except Exception as error:
            log.exception("job failed by a fault of our own: %s", job.id)
            self._break_job(job, "internal", f"internal error: {type(error).__name__}: {error}", None)

    def _break_job(self, job: HostedJob, kind: str, error: str, advice: str | None) -> None:
        failure = {"kind": kind, "error": error, **({"advice": advice} if advice else {})}
        self.run(self._scheduler.fail_job(job.number, failure, time.monotonic()))
        if job.number in self._jobs:  # the scheduler had ended it already: results were going out
            self._fail_job(commands.FailJob(job.number, failure, "failed"))

    def _feed_reduce(self, link: Link, attempt: Attempt) -> None:
        try:
            attempt.job.feed_reduce(link, attempt)
        except Exception as error:
            if not attempt.is_over:
                raise
            log.debug("attempt %d ended while it was fed: %s", attempt.number, error)

    def _spill(self, job: HostedJob) -> None:
        while (written := job.store.write_pending()) is not None:
            number, n_bytes = written
            attempt = self._attempts.get(number)
            if attempt is not None:
                attempt.pending_bytes -= n_bytes
                self._grant_output(attempt, n_bytes)
                if attempt.done is not None and not attempt.pending_bytes:
                    self._end_done(attempt, attempt.done)
        job.spilling = None

    def _send_results(self, job: HostedJob) -> None:
        job.send_results()
        job.tell(
            "job_done",
            stats={
                "results": job.result_tasks,
                "records": job.records_out,
                "seconds": time.monotonic() - job.started_s,
                "map_seconds": job.seconds_done,
                "spilled_bytes": job.store.spilled_bytes,
            },
        )
        log.info("job done: %s", job.id)
        self._drop_job(job)

    def _grant_output(self, attempt: Attempt, n_bytes: int) -> None:
        granted = attempt.window.consumed(n_bytes)
        worker = self.workers.get(attempt.worker)
        if granted and worker is not None:
            worker.link.send(grant_frame(attempt.lane, granted))

    def _tell_workers_end(self, job: HostedJob) -> None:
        for worker in self.workers.values():
            if job.number in worker.jobs:
                worker.jobs.discard(job.number)
                worker.link.drop_lane((job.number, 0, 0))
                worker.link.send(control("job_end", job.number))

    def _drop_job(self, job: HostedJob) -> None:
        if self._jobs.pop(job.number, None) is not None:
            self._tell_workers_end(job)
            job.close()
            self._code_memory.give_back(job.lane_bytes)
            if not self._jobs:
                self.idle.set()

    def _tick(self) -> None:
        progress_due_s = 0.0
        while True:
            gevent.sleep(TICK_S)
            if not self._jobs:
                self._ticker = None
                return
            now = time.monotonic()
            try:
                self.run(self._scheduler.tick(now))
                if now >= progress_due_s:
                    progress_due_s = now + PROGRESS_S
                    self._tell_progress()
            except Exception:
                log.exception("a tick of the server failed")

    def _tell_progress(self) -> None:
        slots, workers = self.slot_count, len(self.workers)
        for job in self._jobs.values():
            if not job.is_scheduled:
                continue
            status = self._scheduler.status(job.number)
            job.tell_progress(
                status.phase,
                done=status.done,
                total=status.total,
                waiting=status.waiting,
                running=status.running,
                workers=workers,
                slots=slots,
                bytes=job.weight_done,
            )
