"""Run jobs on Dask (`distributed`): `connect("dask://HOST:8786")`, `connect(client)`.

A Dask worker sends whole keys only.  So a task has one key for all that it returns.  If that is only
a report, which carries the output, the driver gets it at once: a finished key's type is known here.
Else the report has a key of its own, which picks it on the same worker, and so has each piece.  Dask
keeps these keys, spills them, sends them from worker to worker, and computes them again when a
worker is lost.

Everything that a task needs travels in the task or is a task itself.  Nothing is scattered, since
Dask cannot compute scattered data again.
"""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.boxes import end_job
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.driver.runners import dask_tasks
from mmgevent.driver.runners.elsewhere import EngineCluster
from mmgevent.driver.runners.engines import require
from mmgevent.driver.runners.futures import Futures
from mmgevent.driver.runners.refusals import check_versions, missing_error
from mmgevent.errors import ConnectError, JobCancelled, JobError, UsageError
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Name of the engine in messages.
NAME = "Dask"

#: Port of a Dask scheduler, unless the address says another.
DEFAULT_PORT = 8786

#: Time for a scheduler to answer at first, seconds.
CONNECT_S = 10.0

#: Largest greeting of a scheduler, bytes.  That of version 2026.8 has some 100.
MAX_GREETING_BYTES = 1024 * 1024

#: A length on Dask's wire, in front of what it sends.
_LENGTH = struct.Struct("<Q")

#: Time for the first worker to come, seconds: an adaptive cluster has none until somebody asks.
WORKERS_S = 60.0

#: Time for the workers to answer a call beside the tasks, seconds.  A worker that is stopped or
#: lost must not keep the driver.
CALL_S = 5.0

#: Time for which the number of slots is believed, seconds.
SLOTS_S = 2.0

#: Largest code that travels in each task, bytes.  Larger code is a key, which workers fetch once.
INLINE_CODE_BYTES = 32 * 1024

#: Python that a worker without mmgevent can run, too.
_IS_INSTALLED = "__import__('importlib.util').util.find_spec('mmgevent') is not None"

#: Size of a task at which Dask warns, bytes.  Ours are batches of at most 16 MiB and the code.
_GRAPH_WARNING = {"distributed.admin.large-graph-warning-threshold": "1GiB"}


def open_dask(where: Any) -> EngineCluster:
    """Return a cluster on a Dask scheduler: "dask://HOST[:PORT]", or a client, which stays open.

    Raises ConnectError if nobody answers, UsageError if `distributed` is not installed.
    """
    distributed = require("distributed", NAME, "dask")
    if not isinstance(where, str):
        if where.asynchronous:
            raise UsageError(
                "connect() needs a Client that is not asynchronous: Client(...) without asynchronous=True"
            )
        known: set[str] = set()
        return EngineCluster(NAME, lambda: DaskFutures(where, known))
    from mmgevent.access.addresses import parse_address

    try:
        host, port = parse_address(where.partition("://")[2].rstrip("/"), DEFAULT_PORT)
    except UsageError as error:
        raise UsageError(f"expected dask://HOST[:{DEFAULT_PORT}], got {where!r}: {error}") from error
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    try:
        _knock(host, port)
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False, name="mmgevent")
    except OSError as error:
        raise ConnectError(
            f"no Dask scheduler answers at {address} ({_first_line(error)}): start `dask scheduler` there, or give "
            f"another address"
        ) from error
    checked: set[str] = set()
    return EngineCluster(NAME, lambda: DaskFutures(client, checked), client.close)


def _knock(host: str, port: int) -> None:
    """Raise OSError unless a scheduler answers: Dask tries a closed port for long, and a silent one for ever.

    A scheduler speaks first: the length of its greeting as a number of 8 bytes.
    """
    with socket.create_connection((host, port), CONNECT_S) as link:
        try:
            head = link.recv(_LENGTH.size, socket.MSG_WAITALL)
        except TimeoutError:
            raise OSError(f"it said nothing for {CONNECT_S:g} s: it is none, or wants TLS") from None
    if len(head) < _LENGTH.size or _LENGTH.unpack(head)[0] > MAX_GREETING_BYTES:
        raise OSError("what listens there is none")


class DaskFutures(Futures):
    """One job on Dask."""

    name = NAME

    def __init__(self, client: Any, checked: set[str]):
        """`checked`: addresses of workers that were asked already."""
        from distributed import LocalCluster, as_completed

        self._checked = checked
        self._client = client
        self.is_local = isinstance(client.cluster, LocalCluster)
        self._id = uuid.uuid4().hex
        self._job_id: str | None = None
        self._lock = threading.Lock()
        #: every future of the job that is not freed
        self._futures: set[Any] = set()
        self._is_cancelled = False
        self._is_closed = False
        self._count = 0
        self._slots = 1
        self._slots_due_s = 0.0
        self._finished = as_completed(loop=client.loop)
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self._finished.thread_condition = self._completed.thread_condition
        self._watched: set[Any] = set()
        #: future of a report -> the task that makes it, which may be the same
        self._tasks: dict[Any, Any] = {}

    @property
    def slots(self) -> int:
        if monotonic() >= self._slots_due_s:
            self._look_at_workers()
        return self._slots

    def check(self) -> None:
        """Ask all workers for their versions, once a cluster.  Wait for the first if there is none."""
        if not (workers := self._look_at_workers()):
            self._wait_for_worker()
            workers = self._look_at_workers()
        new = [address for address in workers if address not in self._checked]
        if not new:
            return
        run = partial(self._client.run, workers=new)
        found = self._call(lambda: run(eval, _IS_INSTALLED, callback_timeout=WORKERS_S))
        if not all(found.values()):
            raise UsageError(
                f"{missing_error(NAME)} (or client.register_plugin(distributed.PipInstall([...]))); it is missing on "
                f"{list(found.values()).count(False)} of {len(found)}, such as {min(each for each in found if not found[each])}"
            )
        answers = self._call(lambda: run(guest.versions, callback_timeout=WORKERS_S))
        for theirs in answers.values():
            check_versions(theirs, NAME)
        self._checked.update(answers)

    def put(self, data: bytes) -> Any:
        if len(data) <= INLINE_CODE_BYTES:
            return data
        return self._submit("code", dask_tasks.keep, data)

    def map(self, job: BoxedJob, code: Any, batch: GuestBatch) -> tuple[Any, Sequence[Any]]:
        self._job_id = job.id
        whole = self._submit("map", dask_tasks.map_batch, job, code, batch)
        return whole, [(whole, job.groups)]

    def keep(self, tokens: Sequence[Any]) -> Sequence[Any]:
        """Pick the pieces on the worker that has them, and free the key of all."""
        whole, groups = tokens[0]
        pieces = self._pick(whole, range(1, groups + 1))
        self._free([whole])
        return pieces

    def forget(self, tokens: Sequence[Any]) -> None:
        """Free tasks whose reports carried all, and pieces.

        Dask keeps pieces until the tasks of `reduce` have them, and knows how to make them again.
        """
        self._free([token[0] if isinstance(token, tuple) else token for token in tokens])

    def reduce(self, job: BoxedJob, code: Any, pieces: Sequence[Any]) -> tuple[Any, Any]:
        self._job_id = job.id
        whole = self._submit("reduce", dask_tasks.reduce_group, job, code, *pieces)
        return whole, (whole, 1)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[tuple[Any, Report]]:
        new = [future for future in futures if future not in self._watched]
        self._watched.update(new)
        self._finished.update(new)
        until_s = monotonic() + timeout_s
        ready = self._completed.thread_condition
        while True:
            for future in self._finished.next_batch(block=False):
                self._ask_for_report(future)
            with ready:
                left_s = until_s - monotonic()
                if self._completed.has_ready() or left_s <= 0:
                    break
                if not self._finished.has_ready():
                    ready.wait(left_s)
        done = []
        for future, result in self._completed.next_batch(block=False):
            whole = self._tasks.pop(future)
            self._watched.discard(whole)
            if isinstance(result, tuple) and result and isinstance(result[0], Report):
                result = result[0]  # it was lost when its report was asked for, and is made again
            if not isinstance(result, Report):
                if self._is_to_repeat(result):
                    self._client.retry([future])
                    continue
                raise self._lost(result)
            if future is not whole:
                self._free([future])
            done.append((whole, result))
        return done

    def get(self, token: Any) -> bytes:
        whole, _ = token
        try:
            data: bytes = whole.result()[1]
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            raise self._lost(error) from error
        self._free([whole])
        return data

    def cancel(self) -> None:
        with self._lock:
            was_cancelled, self._is_cancelled = self._is_cancelled, True
            futures = list(self._futures)
        if not was_cancelled:
            self._leave(lambda: self._client.cancel(futures, force=True))
            self._end_boxes()

    def close(self) -> None:
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            futures = list(self._futures)
            self._futures.clear()
        if was_closed:
            return
        if not self._is_cancelled:
            self._is_cancelled = True
            self._end_boxes()
        for future in futures:
            future.release()
        self._finished.clear()
        self._completed.clear()

    def _submit(self, phase: str, function: Callable[..., Any], *args: Any) -> Any:
        self._count += 1
        key = f"mmgevent-{phase}-{self._id}-{self._count}"
        from dask import config

        with config.set(_GRAPH_WARNING):
            future = self._call(lambda: self._client.submit(function, *args, key=key, pure=False))
        return self._own([future])[0]

    def _ask_for_report(self, whole: Any) -> None:
        """Ask for the report of a task that has ended, unless it is all that the task gave."""
        is_all = whole.status != "finished" or whole.type is Report
        report = whole if is_all else self._pick(whole, [0])[0]
        self._tasks[report] = whole
        self._completed.add(report)

    def _pick(self, whole: Any, places: Sequence[int]) -> list[Any]:
        keys = [f"{whole.key}-{place}" for place in places]
        return self._own(
            self._call(lambda: self._client.map(dask_tasks.pick, [whole] * len(places), places, key=keys))
        )

    def _own(self, futures: list[Any]) -> list[Any]:
        """Note futures of the job. Raises JobCancelled, and frees them, if it has ended."""
        with self._lock:
            self._futures.update(futures)
            is_cancelled = self._is_cancelled
        if is_cancelled:
            self._leave(lambda: self._client.cancel(futures, force=True))
            raise JobCancelled("the job was cancelled")
        return futures

    def _free(self, futures: Sequence[Any]) -> None:
        with self._lock:
            self._futures.difference_update(futures)
        for future in futures:
            future.release()

    def _look_at_workers(self) -> list[str]:
        """Count slots.  Return the addresses of the workers, which no two workers share."""
        threads = self._call(self._client.nthreads)
        self._slots = max(1, sum(threads.values()))
        self._slots_due_s = monotonic() + SLOTS_S
        return list(threads)

    def _wait_for_worker(self) -> None:
        """Give Dask a task, so that an adaptive cluster starts a worker, and wait for that."""
        probe = self._client.submit(int, key=f"mmgevent-look-{self._id}", pure=False)
        try:
            probe.result(timeout=WORKERS_S)
        except TimeoutError as error:
            raise JobError(
                f"{NAME} has no workers, and none came in {WORKERS_S:g} s", {"kind": "lost"}
            ) from error
        finally:
            probe.release()

    def _end_boxes(self) -> None:
        job_id = self._job_id
        if job_id is not None:
            self._leave(lambda: self._client.run(end_job, job_id, on_error="ignore", callback_timeout=CALL_S))

    def _leave(self, action: Callable[[], Any]) -> None:
        """Tell Dask to end something.  If it cannot be reached, nothing of the job can."""
        try:
            action()
        except Exception as error:
            log.info("%s does not answer at the end of a job: %r", NAME, error)

    def _call(self, action: Callable[[], Any]) -> Any:
        """Return what a call of the client returns; raise what means that Dask is lost as JobError."""
        try:
            return action()
        except Exception as error:
            raise self._lost(error) from error

    def _is_to_repeat(self, result: Any) -> bool:
        """Return whether a worker gave up a task that it took for cancelled, and the job goes on."""
        return isinstance(result, tuple) and isinstance(result[1], JobCancelled) and not self._is_cancelled

    def _lost(self, result: Any) -> JobError | JobCancelled:
        """Return what a failure of Dask means: an exception, or (type, exception, traceback)."""
        error = result[1] if isinstance(result, tuple) else result
        if self._is_cancelled or isinstance(error, JobCancelled):
            return JobCancelled("the job was cancelled")
        return JobError(f"{NAME} cannot run the job: {_first_line(error)}", {"kind": "lost"})


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__
