"""Run a job on an engine of futures: Dask, Ray, any `concurrent.futures.Executor`.

`Futures` is what such an engine has to offer: it calls functions of `box.guest` in its workers,
keeps their outputs, and passes them on by name.  `FuturesRunner` does the rest: it reads the
datasource, submits a map task for each batch and a reduce task for each group of partitions, and
keeps the books of the job.

The shuffle is the engine's own.  A map task gives one *piece* for each group of partitions.  A
reduce task gets the pieces of its group, in the order of batches.  The driver sees neither.

What is small takes a shorter way: a report *carries* it.  So tiny items cost few round trips.  The
driver passes carried pieces on in reduce tasks.

The first tasks get many items, and give back what they do not map in time: see `box.portions`.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.driver.input.batching import next_size
from mmgevent.driver.packing import with_parts
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners.boxed_runner import BoxedRunner
from mmgevent.driver.runners.decoding import decode_flushes, find_receipt_in_flush
from mmgevent.driver.runners.lookout import Lookout
from mmgevent.driver.runners.map_tasks import (
    BUDGET_S,
    CARRIED_BYTES,
    MapRange,
    Outputs,
)
from mmgevent.driver.runners.runner import LOOK_S
from mmgevent.engine.server.partitioning import choose_partitions
from mmgevent.errors import JobCancelled, JobError
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log
from mmgevent.wire.partition_sets import encode_partitions

if TYPE_CHECKING:
    from mmgevent.job.outputs.parts_plan import PartsPlan

log = get_log(__name__)

#: Map tasks submitted for each slot: one runs, the next ones wait in the engine, so that no slot
#: waits for the driver.  Each holds a batch of at most 16 MiB in the driver.
AHEAD = 3

#: Groups of partitions for each slot.  While one slot reduces a large group, others reduce the rest.
GROUPS_PER_SLOT = 2

#: What an engine knows a running task by.  The driver keeps them in dicts.
Future = Any
#: What an engine knows bytes by: the pieces of a map task, the results of a reduce task, the code.
Token = Any


class Futures(ABC):
    """One job's share of an engine of futures.  It is made for one job and closed with it.

    One thread at a time calls its methods, but for `cancel` and `close`, which any thread may call
    at any time, also twice.

    The engine's failures (a worker lost for good, no memory, a broken pool) are raised as JobError
    with the kind "lost" and one sentence that names the engine.
    """

    #: name of the engine in messages, such as "Dask"
    name: str
    #: whether all tasks run on this machine: then executors get this process's surroundings
    is_local = False
    #: whether `cancel` reaches running boxes; else a `lease` is needed
    lease: str | None = None

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many tasks run at the same time, at least 1.  It may change while the job runs."""

    def groups(self, partitions: int) -> int:
        """Return into how many groups to put so many partitions; asked once, at the start."""
        return min(partitions, GROUPS_PER_SLOT * self.slots)

    @abstractmethod
    def check(self) -> None:
        """Raise what prevents jobs from running there, see `Runner.check`.

        `refusals.check_versions` compares what `box.guest.versions` returns in a worker.
        """

    @abstractmethod
    def put(self, data: bytes) -> Token:
        """Make bytes available to every task: the code.  Called once, before `map`."""

    @abstractmethod
    def map(self, job: BoxedJob, code: Token, batch: GuestBatch) -> tuple[Future, Sequence[Token]]:
        """Submit `guest.map_batch(job, code, batch)`, with the code's bytes in place of its token.

        Returns the future of its report, and `job.groups` tokens of its pieces, in order.  A task
        that an engine runs twice has the same result.
        """

    @abstractmethod
    def reduce(self, job: BoxedJob, code: Token, pieces: Sequence[Token]) -> tuple[Future, Token]:
        """Submit `guest.reduce_group(job, code, *pieces)`, with bytes in place of tokens.

        A piece may be of several reduce tasks. `forget` gets it when all of them are submitted.
        Pieces that were carried are bytes already.  Returns the future of its report, and the token
        of its results.
        """

    @abstractmethod
    def wait(self, futures: Sequence[Future], timeout_s: float) -> list[tuple[Future, Report]]:
        """Wait until one of the futures is done, at most `timeout_s`.

        Returns those that are done, with their reports; an empty list if none is.  Raises JobError
        for a task that the engine has lost for good, and JobCancelled after `cancel`.
        """

    @abstractmethod
    def get(self, token: Token) -> Any:
        """Return the bytes of a reduce task that is done.  They are asked for once."""

    def keep(self, tokens: Sequence[Token]) -> Sequence[Token]:
        """Return the tokens of the pieces of a map task that is done and whose report carries none."""
        return tokens

    def forget(self, tokens: Sequence[Token]) -> None:
        """Let the engine free pieces or results: only submitted tasks need them.

        The default keeps them.
        """
        return

    @abstractmethod
    def cancel(self) -> None:
        """Stop every task of the job now, the user's code in it, too, and submit no more.

        Any thread may call this.  Idempotent.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds of the job, and end its boxes.  Idempotent."""


class FuturesRunner(BoxedRunner):
    """One job on an engine of futures."""

    def __init__(
        self,
        job: Job[Any, Any],
        futures: Futures,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """Pack the job's functions and claim its datasource.

        `futures` is owned from now on.  Raises UsageError if something is wrong with the job.
        """
        self._futures = futures
        super().__init__(
            job, futures.name, is_local=futures.is_local, on_progress=on_progress, on_notice=on_notice
        )

    def check(self) -> None:
        """Raise what prevents the job from running on the engine."""
        self._futures.check()

    def write_parts(self, plan: PartsPlan) -> None:
        """Let executors write parts of the results."""
        if (packed := with_parts(self._packed, plan)) is not None:
            self._packed, self.parts_plan = packed, plan

    def run(self) -> Generator[tuple[Any, Any], None, None]:
        """Map, then reduce.  See `Runner.run`."""
        began_s = time.monotonic()
        self.wait_for_check()
        slots = self._futures.slots
        partitions = self.state.partitions or choose_partitions(slots)
        self.state.partitions = partitions
        options = self.state.options_for(self._packed.options)
        if self.state.delivered:
            options = {**options, "unwanted": encode_partitions(self.state.delivered)}
        boxed = BoxedJob(
            f"{self.job.name}-{uuid.uuid4().hex}",
            options,
            partitions,
            self._futures.groups(partitions),
            self._packed.context,
            self._futures.lease,
            CARRIED_BYTES,
        )
        self.state.id = boxed.id
        try:
            code = self._futures.put(self._packed.code)
            try:
                outputs = self._map(boxed, code)
            finally:
                self.state.show_held_notices()
            self._accounts.end_map()
            yield from self._reduce(boxed, code, outputs)
        except BaseException:
            self.leave()
            raise
        finally:
            self.state.stats = self._accounts.stats(time.monotonic() - began_s, slots)

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon, and stop all tasks. Idempotent."""
        super().cancel()
        self.leave()

    def leave(self) -> None:
        """Stop all tasks."""
        self._end(self._futures.cancel)

    def close(self) -> None:
        """Release what belongs to a job that is over or never ran. Idempotent."""
        super().close()
        self._end(self._futures.close)

    def _map(self, boxed: BoxedJob, code: Token) -> Outputs:
        """Map all batches; return their pieces."""
        feeder, futures, accounts = self._feeder, self._futures, self._accounts
        assert feeder is not None
        running: dict[Future, tuple[MapRange, Sequence[Token]]] = {}
        rests: deque[MapRange] = deque()
        lacking: list[MapRange] = []  # tasks whose files the workers do not have
        outputs = Outputs(boxed.groups)

        def submit(task: MapRange) -> None:
            sent = outputs.job_of_next(boxed)
            # What is given back would wait with the datasource.
            is_whole = accounts.speed(slots).is_known or not feeder.never_waits
            future, pieces = futures.map(sent, code, task.for_guest(None if is_whole else BUDGET_S))
            running[future] = task, pieces

        def take(timeout_s: float) -> None:
            for future, report in self._wait(running, timeout_s):
                task, pieces = running.pop(future)
                if report.needs_content:
                    accounts.take_repeated(report)
                    lacking.append(task)
                    continue
                if report.mapped_to is not None:
                    task, rest = task.split(report.mapped_to)
                    rests.append(rest)
                accounts.take_map(task.number, task.share, report)
                outputs.refine(boxed.partitions, accounts.expected_output_bytes())
                if report.carried:
                    futures.forget(pieces)
                outputs.add(task, report.carried or futures.keep(pieces), is_carried=bool(report.carried))

        def look() -> None:
            with self.state.notices.holding():
                take(0.0)

        with Lookout(look, self._fail) as lookout:
            while True:
                slots = max(1, futures.slots)
                while (rests or not feeder.has_ended) and len(running) < AHEAD * slots:
                    task = self._next_task(rests, slots, lookout)
                    self.state.check_cancelled()
                    if task is None:
                        break
                    submit(task)
                    if running and not feeder.never_waits:
                        break  # reports come in while a slow datasource makes the next item
                self.state.show_held_notices()
                while lacking:
                    task = lacking.pop()
                    submit(task._replace(batch=feeder.content_of(task.number)))
                if not running:
                    if feeder.has_ended and not rests:
                        return outputs
                    continue
                self.state.before_wait()
                is_full = (feeder.has_ended and not rests) or len(running) >= AHEAD * slots
                take(LOOK_S if is_full else 0.0)
                self._tell("map", accounts.items, accounts.total, len(running), slots)

    def _next_task(self, rests: deque[MapRange], slots: int, lookout: Lookout) -> MapRange | None:
        """Return the next task: of what was given back, or of the datasource.  None at its end."""
        feeder = self._feeder
        assert feeder is not None
        speed = self._accounts.speed(slots)
        if rests:
            options = self.job.options
            size = next_size(speed, at_least=options.greenlets, multiple=options.items_per_call or 1)
            task, rest = rests.popleft().cut(size)
            if rest is not None:
                rests.appendleft(rest)
            return task
        read = partial(feeder.next_batch, speed, is_given_back=feeder.never_waits)
        numbered = read() if feeder.never_waits else lookout.call(read)
        if numbered is None:
            return None
        number, batch = numbered
        self._accounts.add_batch(batch)
        return MapRange(number, batch, 0, batch.items)

    def _reduce(self, boxed: BoxedJob, code: Token, outputs: Outputs) -> Iterator[tuple[Any, Any]]:
        futures, accounts = self._futures, self._accounts
        running: dict[Future, tuple[Token, tuple[int, ...]]] = {}
        boxed = boxed._replace(groups=outputs.groups)
        for groups, pieces in outputs.group(boxed.groups, max(1, futures.slots)):
            reduced = None if outputs.are_alike else tuple(groups)
            future, data = futures.reduce(boxed._replace(reduced=reduced), code, pieces)
            wanted = (each for each in boxed.partitions_of(groups) if each not in self.state.delivered)
            running[future] = data, tuple(wanted)
        futures.forget(outputs.tokens())
        done, total = 0, len(running)
        while running:
            self.state.before_wait()
            for future, report in self._wait(running, LOOK_S):
                data, made = running.pop(future)
                accounts.take_reduce(report, done + 1)
                done += 1
                self._tell("reduce", done, total, len(running), max(1, futures.slots))
                if report.carried or not report.records:
                    futures.forget([data])
                if report.records:
                    results = report.carried[0] if report.carried else futures.get(data)
                    yield from self._read(results, made)
                self.state.delivered.update(made)
                self.state.end_partitions(made)

    def _read(self, results: Any, partitions: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
        if self.parts_plan is not None:
            of = self.state.partitions or 0
            receipt = find_receipt_in_flush(results, self.parts_plan, partitions, of)
            if receipt is not None:
                yield receipt, None
                return
        yield from decode_flushes(results, self.plain)

    def _wait(self, running: dict[Future, Any], timeout_s: float) -> list[tuple[Future, Report]]:
        self.state.check_cancelled()
        if not running:
            return []
        try:
            done = self._futures.wait(list(running), timeout_s)
        except JobError:
            self.state.check_cancelled()  # what follows from the end is no news
            raise
        self.state.check_cancelled()
        return done

    def _fail(self, error: Exception) -> None:
        """End the job, whose thread waits in the datasource (in another thread)."""
        if isinstance(error, JobCancelled):
            return  # whoever has cancelled it sees to its end
        self.state.failure = error
        assert self._feeder is not None
        self._feeder.end_batch()
        self.state.on_failure()

    def _end(self, action: Callable[[], None]) -> None:
        """Let the engine end something.  If it fails, how the job itself has ended matters more."""
        try:
            action()
        except Exception as error:
            log.warning("%s does not answer at the end of a job: %r", self._futures.name, error)
