"""A cluster as an Executor of `concurrent.futures`: calls instead of jobs.

Calls that wait together, of one function, become the items of one job. If few wait, each has a job
of its own, so a slow call delays no other. If thousands wait, they share jobs. A job costs 20 ms,
and each of its executors imports what the function needs.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from mmgevent.errors import JobError, MmgeventError
from mmgevent.machine.resources import start_thread

if TYPE_CHECKING:
    from mmgevent.driver.cluster import Cluster
    from mmgevent.driver.handle import JobHandle

P = ParamSpec("P")
T = TypeVar("T")

#: Jobs at once for each slot: one runs, and one is ready to follow.
JOBS_PER_SLOT = 2

#: Most jobs at once. Each has a thread here.
MAX_JOBS = 64

#: Most calls of one job. Their results arrive together.
MAX_CALLS = 1000

#: Largest arguments that travel with the function, bytes. Every worker gets those. So larger ones
#: travel alone, to the worker that needs them, but as pickle sends them: without functions and
#: classes of `__main__`.
MAX_CODE_ARGUMENT_BYTES = 64 * 1024


class _Call(NamedTuple):
    future: Future[Any]
    fn: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    #: the same as bytes, if they travel alone
    packed: bytes | None


class ClusterExecutor(Executor):
    """An Executor whose calls run in the executors of a cluster. Any thread may use it."""

    def __init__(self, cluster: Cluster):
        """`cluster` stays open: this neither opens nor closes it."""
        self._cluster = cluster
        self._changed = threading.Condition()  # guards all below
        self._waiting: deque[_Call] = deque()
        self._jobs: set[JobHandle[Any, Any]] = set()
        self._is_shut = False
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on the cluster; return its Future.

        The future has the exception of the call, with a note of the traceback there, or a JobError
        if the call killed its process.

        Raises RuntimeError after `shutdown`.
        """
        future: Future[T] = Future()
        call = _Call(future, fn, (args, kwargs), _pack_if_large((args, kwargs)))
        with self._changed:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._submit_jobs, name="mmgevent-executor", daemon=True
                )
                start_thread(self._thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. `wait` for those that run, and those that wait.

        `cancel_futures`: cancel those that wait.
        """
        with self._changed:
            self._is_shut = True
            cancelled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            thread = self._thread
            self._changed.notify_all()
        for call in cancelled:
            call.future.cancel()
        if wait and thread is not None:
            thread.join()

    def _submit_jobs(self) -> None:
        """Make jobs of the calls that wait, until `shutdown`."""
        while True:
            limit = self._most_jobs()
            with self._changed:
                while not (self._waiting and len(self._jobs) < limit):
                    if self._is_shut and not self._waiting and not self._jobs:
                        return
                    self._changed.wait()
                calls = self._take_calls(limit)
            calls = [call for call in calls if call.future.set_running_or_notify_cancel()]
            if calls:
                self._submit_job(calls)

    def _most_jobs(self) -> int:
        try:
            slots = sum(worker.slots for worker in self._cluster.workers())
        except MmgeventError:
            slots = 1  # the submit of a job says what is wrong
        return max(1, min(MAX_JOBS, JOBS_PER_SLOT * slots))

    def _take_calls(self, limit: int) -> list[_Call]:
        """Take a share of the calls that wait, all of one function."""
        count = min(MAX_CALLS, max(1, len(self._waiting) // limit))
        calls = [self._waiting.popleft()]
        while self._waiting and len(calls) < count and self._waiting[0].fn is calls[0].fn:
            calls.append(self._waiting.popleft())
        return calls

    def _submit_job(self, calls: list[_Call]) -> None:
        from mmgevent.job.job import Job

        name = getattr(calls[0].fn, "__name__", type(calls[0].fn).__name__)
        with_code = {n: call.arguments for n, call in enumerate(calls) if call.packed is None}
        try:
            job = Job(
                [(n, call.packed) for n, call in enumerate(calls)],
                _make_mapfn(calls[0].fn, with_code),
                name=name,
                partitions=1,
                retransmit=0,
                max_skipped=len(calls) if len(calls) > 1 else 0,
            )
            handle = self._cluster.submit(job)
        except BaseException as error:
            for call in calls:
                call.future.set_exception(error)
            return
        with self._changed:
            self._jobs.add(handle)
        handle.add_done_callback(lambda handle: self._on_done(handle, calls))

    def _on_done(self, handle: JobHandle[Any, Any], calls: list[_Call]) -> None:
        try:
            for call, (value, error) in zip(calls, _outcomes(handle, len(calls)), strict=True):
                if error is None:
                    call.future.set_result(value)
                else:
                    call.future.set_exception(error)
        finally:
            with self._changed:
                self._jobs.discard(handle)
                self._changed.notify_all()


def _outcomes(handle: JobHandle[Any, Any], count: int) -> Iterator[tuple[Any, BaseException | None]]:
    """Yield (value, exception or None) of each call of a job that has ended."""
    failed = handle.exception()
    if failed is not None:
        yield from ((None, failed) for _ in range(count))
        return
    results = handle.result()
    skipped = {failure.get("key"): failure for failure in handle.skipped()}
    for number in range(count):
        if number in results:
            yield results[number][0]
        else:
            failure = skipped.get(repr(number), {})
            error = failure.get("error", "the call was set aside")
            yield None, JobError(f"{error} (on {failure.get('worker', 'a worker')})", dict(failure))


def _pack_if_large(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> bytes | None:
    """Return large arguments as bytes; None for small ones, and for those that only dill can send."""
    try:
        packed = pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return None  # the job sends them with its function, or says what is wrong with them
    return packed if len(packed) > MAX_CODE_ARGUMENT_BYTES else None


def _make_mapfn(
    fn: Callable[..., Any], with_code: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
) -> Callable[[int, bytes | None], Iterator[tuple[int, tuple[Any, BaseException | None]]]]:
    """Return the mapfn of a job: it travels by value, with `fn` and with small arguments."""

    def call(number: int, packed: bytes | None) -> Iterator[tuple[int, tuple[Any, BaseException | None]]]:
        import pickle
        import traceback

        args, kwargs = with_code[number] if packed is None else pickle.loads(packed)
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = fn(*args, **kwargs), None
        except Exception as error:
            error.add_note(f"on the worker: {traceback.format_exc()}")
            outcome = None, error
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # a class with arguments of its own, or a content that stays there
                outcome = None, RuntimeError("".join(traceback.format_exception_only(error)).strip())
        yield number, outcome

    return call
