"""Run jobs on any `concurrent.futures.Executor`: of the standard library, loky, mpi4py, Parsl.

An executor carries only small results, so pieces go through a folder that driver and workers share:
one that is given, or a temporary one of this machine.  A map task writes its pieces into one file,
with a table in front.  A reduce task reads its part of each.

The folder is also the lease of the job's boxes.  When the job ends it is deleted, and the boxes end
with it, whatever process they are in.

Executors fail in ways of their own, and raise whatever they like. Every error that is none of ours
becomes one sentence that names the executor.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import Any, TypeVar

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.boxes import end_job
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.box.spares import end_spares  # of workers that are threads of this process
from mmgevent.driver.runners.elsewhere import EngineCluster
from mmgevent.driver.runners.futures import Futures
from mmgevent.driver.runners.refusals import check_versions, missing_error
from mmgevent.errors import JobCancelled, JobError, MmgeventError, StoreError, UsageError
from mmgevent.machine.leftovers import TemporaryFolder
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import shown
from mmgevent.wire.failures import shorten

log = get_log(__name__)

#: Time for a worker of the executor to answer the first question, seconds: it may have to start.
CHECK_S = 120.0

#: Groups of partitions for each slot. More make the slots end together, and cost little here.
GROUPS_PER_SLOT = 4

#: Text of an executor's error in a message, bytes.
MAX_ERROR_BYTES = 500

#: Number of an entry in the table in front of pieces: where one begins. The last says where all end.
_OFFSET = struct.Struct("<Q")

#: Packages whose executors run on this machine only.
_LOCAL_PACKAGES = ("concurrent", "loky", "joblib")

PieceToken = tuple[str, int]
T = TypeVar("T")


def open_executor(
    executor: Executor, *, folder: str | None = None, slots: int | None = None
) -> EngineCluster:
    """Return a cluster that runs jobs on an executor, which stays the caller's.

    `folder`: one that the executor's workers share with this process; by default a temporary one,
    which only workers of this machine see.
    `slots`: how many tasks it runs at the same time; by default what it says itself.
    """
    found = slots if slots is not None else _slots_of(executor)
    if type(found) is not int or found < 1:
        raise UsageError(
            f"slots must be an int of 1 or more: how many tasks {type(executor).__name__} runs at a time; got {slots!r}"
        )
    if folder is not None and not os.path.isdir(folder):
        raise UsageError(f"folder {folder!r} is no folder: give one that the workers of the executor share")
    name = type(executor).__name__
    return EngineCluster(name, lambda: ExecutorFutures(executor, found, folder), end_spares)


def _slots_of(executor: Executor) -> Any:
    """Return how many tasks an executor runs at a time: those of the standard library and loky know."""
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


class ExecutorFutures(Futures):
    """One job on an executor."""

    def __init__(self, executor: Executor, slots: int, folder: str | None):
        self.name = type(executor).__name__
        self.is_local = type(executor).__module__.partition(".")[0] in _LOCAL_PACKAGES
        self._executor = executor
        self._slots = slots
        self._is_cancelled = False
        self._running: set[Future[Any]] = set()
        self._count = 0
        self._job_id: str | None = None
        try:
            self._place = TemporaryFolder("mmgevent-job-", folder)
        except OSError as error:
            raise UsageError(
                f"no folder can be made for what map tasks pass to reduce tasks: {error}"
            ) from error
        self._folder = self.lease = self._place.path

    @property
    def slots(self) -> int:
        return self._slots

    def groups(self, partitions: int) -> int:
        """Return at most GROUPS_PER_SLOT groups a slot: a piece costs 8 bytes in a file."""
        return min(partitions, GROUPS_PER_SLOT * self._slots)

    def check(self) -> None:
        """Ask a worker for its versions, and whether it sees the folder."""
        question = self._submit(_look, self._folder)
        if not wait([question], CHECK_S).done:
            raise JobError(f"no worker of {self.name} answered for {CHECK_S:g} s", {"kind": "lost"})
        theirs, sees_folder = self._result(question)
        check_versions(theirs, self.name)
        if not sees_folder:
            raise UsageError(
                f"the workers of {self.name} do not see the folder {self._folder}: pass folder=... to connect(), one "
                f"that all of them share with this process"
            )

    def put(self, data: bytes) -> str:
        path = self._next_path()
        _write(path, [data])
        return path

    def map(self, job: BoxedJob, code: str, batch: GuestBatch) -> tuple[Future[Report], Sequence[PieceToken]]:
        self._job_id = job.id
        path = self._next_path()
        future = self._submit(_map, path, job, code, batch)
        return future, [(path, group) for group in range(job.groups)]

    def reduce(
        self, job: BoxedJob, code: str, pieces: Sequence[PieceToken | bytes]
    ) -> tuple[Future[Report], str]:
        path = self._next_path()
        return self._submit(_reduce, path, job, code, list(pieces)), path

    def wait(
        self, futures: Sequence[Future[Report]], timeout_s: float
    ) -> list[tuple[Future[Report], Report]]:
        done = wait(futures, timeout_s, FIRST_COMPLETED).done
        return [(future, self._result(future)) for future in futures if future in done]

    def get(self, token: str) -> bytes:
        data = _read(token)
        os.unlink(token)
        return data

    def cancel(self) -> None:
        self._is_cancelled = True
        for future in list(self._running):
            self._cancel(future)
        self.close()

    def close(self) -> None:
        self._place.remove()
        if self._job_id is not None:
            end_job(self._job_id)  # at once, if the executor's workers are threads of this process

    def _submit(self, function: Any, *args: Any) -> Future[Any]:
        try:
            future = self._executor.submit(function, *args)
        except BrokenExecutor as error:
            raise self._lost(error) from error
        except RuntimeError as error:  # it was shut down
            raise UsageError(f"{self.name} takes no more tasks: {error}") from error
        except Exception as error:
            raise JobError(f"{self.name} takes no task: {_in_words(error)}", {"kind": "lost"}) from error
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        if self._is_cancelled:
            self._cancel(future)
        return future

    def _cancel(self, future: Future[Any]) -> None:
        try:
            future.cancel()
        except Exception as error:  # its box ends with the folder
            log.debug("task not cancelled: %s: %s", self.name, _in_words(error))

    def _result(self, future: Future[T]) -> T:
        """Return the result of a task that has ended."""
        try:
            error = future.exception()
        except (CancelledError, Exception) as raised:
            error = raised
        if error is None:
            return future.result()
        if self._is_cancelled or isinstance(error, JobCancelled | CancelledError):
            raise JobCancelled("the job was cancelled") from error
        if isinstance(error, BrokenExecutor):
            raise self._lost(error) from error
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "mmgevent":
            raise missing_error(self.name) from error
        words = str(error) if isinstance(error, MmgeventError) else _in_words(error)
        raise JobError(f"a task failed on {self.name}: {words}", {"kind": "lost"}) from error

    def _lost(self, error: BaseException) -> JobError:
        return JobError(f"{self.name} has lost its workers: {_in_words(error)}", {"kind": "lost"})

    def _next_path(self) -> str:
        self._count += 1
        return os.path.join(self._folder, str(self._count))


def _in_words(error: BaseException) -> str:
    """Return an error of the executor in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    return shorten(shown(f"{kind}: {first}" if first else kind), MAX_ERROR_BYTES)


# What runs in the executor's workers.


def _look(folder: str) -> tuple[dict[str, str], bool]:
    return guest.versions(), os.path.isdir(folder)


def _map(path: str, job: BoxedJob, code: str, batch: GuestBatch) -> Report:
    report, *pieces = guest.map_batch(job, _read(code), batch)
    if report.carried:
        return report
    offset = _OFFSET.size * (len(pieces) + 1)
    table = [offset, *(offset := offset + len(piece) for piece in pieces)]
    _write(path, [b"".join(map(_OFFSET.pack, table)), *pieces])
    return report


def _reduce(path: str, job: BoxedJob, code: str, pieces: list[PieceToken | bytes]) -> Report:
    report, results = guest.reduce_group(job, _read(code), *map(_read_piece, pieces))
    if not report.carried:
        _write(path, [results])
    return report


def _read(path: str) -> bytes:
    with _blaming_folder(path), open(path, "rb") as file:
        return file.read()


def _read_piece(token: PieceToken | bytes) -> bytes:
    if isinstance(token, bytes):  # it was carried
        return token
    path, group = token
    with _blaming_folder(path), open(path, "rb") as file:
        file.seek(_OFFSET.size * group)
        (start,), (end,) = _OFFSET.unpack(file.read(_OFFSET.size)), _OFFSET.unpack(file.read(_OFFSET.size))
        file.seek(start)
        return file.read(end - start)


def _write(path: str, parts: Sequence[bytes]) -> None:
    """Write a file, which appears whole: an executor may run a task twice."""
    begun = f"{path}.{os.getpid()}"
    with _blaming_folder(path):
        with open(begun, "wb", buffering=0) as file:
            for part in parts:
                file.write(part)
        os.replace(begun, path)


@contextlib.contextmanager
def _blaming_folder(path: str) -> Any:
    """Say what an error of the shared folder means."""
    try:
        yield
    except FileNotFoundError as error:
        if not os.path.exists(os.path.dirname(path)):
            raise JobCancelled("the job has ended") from error
        raise StoreError(f"{path} is not in the shared folder: {error}") from error
    except OSError as error:
        raise StoreError(f"the shared folder fails: {error}") from error
