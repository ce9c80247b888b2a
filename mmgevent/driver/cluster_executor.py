"""A cluster as an Executor of `concurrent.futures`: calls instead of jobs.

What a call returns or raises is pickled by itself, there. So each call has its own outcome, also
where one of a job cannot be sent. A job that fails as a whole is made again of each of its calls.

Calls that wait together, of one function, become the items of one job. If few wait, each has a job
of its own, so a slow call delays no other. If thousands wait, they share jobs. A job costs 20 ms,
and each of its executors imports what the function needs.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from mmgevent.driver.callbacks import call_back
from mmgevent.errors import JobCancelled, JobError, UsageError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import SIGNAL_LOOK_S, start_thread

if TYPE_CHECKING:
    from mmgevent.driver.cluster import Cluster
    from mmgevent.driver.handle import JobHandle

log = get_log(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Jobs at once for each slot: one runs, and one is ready to follow.
JOBS_PER_SLOT = 2

#: Time after which slots are counted again while calls wait, seconds.
RECOUNT_S = 1.0

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
    #: whether it gets a job of its own, since it was in one that failed
    is_alone: bool = False


#: How a call ended: (value, exception or None).
_Outcome = tuple[Any, BaseException | None]


class ClusterExecutor(Executor):
    """An Executor whose calls run in the executors of a cluster. Any thread may use it.

    Its thread lives while calls wait or run. The program does not end before they are done. (Python
    3.12 starts no thread once the main thread has ended: calls that wait then fail. Use `with`.)
    """

    def __init__(self, cluster: Cluster, max_workers: int | None = None):
        """`cluster` stays open: this neither opens nor closes it.

        `max_workers`: most calls at once; by default as many as the cluster has slots.
        """
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            raise UsageError(f"max_workers must be an int of 1 or more, or None; got {max_workers!r}")
        self._cluster = cluster
        self._max_workers = max_workers
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all below
        self._waiting: deque[_Call] = deque()
        self._jobs: set[JobHandle[Any, Any]] = set()
        self._is_shut = False
        self._thread: threading.Thread | None = None  # None if nothing waits or runs
        self._aborts = self._aborts_before_job = 0  # the latter: when the last calls were taken
        self._delivering: set[int] = set()  # threads that call done callbacks now

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on the cluster; return its Future.

        The future has the exception of the call, with a note of the traceback there, or a JobError
        if the call killed its process. A call whose process was lost may run again.

        Raises RuntimeError after `shutdown`, StartError if no thread can be started, and
        ForkedError in a forked child.
        """
        self._cluster._check_process()
        future: Future[T] = Future()
        call = _Call(future, fn, (args, kwargs), _pack_if_large((args, kwargs)))
        with self._changed:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._thread is None:
                thread = threading.Thread(target=self._submit_jobs, name="mmgevent-executor", daemon=False)
                start_thread(thread)  # it waits for the lock
                self._thread = thread
            self._waiting.append(call)
            self._changed.notify_all()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. `wait` for those that run, and those that wait.

        `cancel_futures`: cancel those that wait. In a done callback of a future it does not wait,
        since the callback belongs to what it would wait for. Idempotent.
        """
        if os.getpid() != self._pid:
            return  # the calls are the parent's
        with self._changed:
            self._is_shut = True
            self._changed.notify_all()
        if cancel_futures:
            self._cancel_waiting()
        with self._changed:
            while wait and self._thread is not None and threading.get_ident() not in self._delivering:
                self._changed.wait(SIGNAL_LOOK_S)

    def abort(self) -> None:
        """Cancel all calls, also those that run: their futures get JobCancelled. Does not wait."""
        with self._changed:
            self._aborts += 1  # the job that is being submitted is cancelled, too
            jobs = list(self._jobs)
        self._cancel_waiting()
        for job in jobs:
            job.cancel()

    def _cancel_waiting(self) -> None:
        with self._changed:
            cancelled = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for call in cancelled:
            if not call.future.cancel():  # its job has failed, and it would have had another
                self._deliver([(call, (None, JobCancelled("the call was cancelled")))])

    def _submit_jobs(self) -> None:
        """Make jobs of the calls that wait, until nothing waits or runs."""
        calls: list[_Call] = []
        try:
            while calls := self._next_calls():
                calls = [call for call in calls if call.is_alone or _begin(call)]
                if calls:
                    self._submit_job(calls)
        except BaseException as error:  # a fault of our own: nobody waits in vain
            with self._changed:
                calls += self._waiting
                self._waiting.clear()
                self._thread = None
                self._changed.notify_all()
            log.exception("calls lost: %s", len(calls))
            self._deliver((call, (None, error)) for call in calls if call.is_alone or _begin(call))

    def _next_calls(self) -> list[_Call]:
        """Wait for calls that may become a job now. Return none once nothing waits or runs."""
        while True:
            limit = self._most_jobs()
            with self._changed:
                while not (self._waiting and len(self._jobs) < limit):
                    if not self._waiting and not self._jobs:
                        self._thread = None
                        self._changed.notify_all()
                        return []
                    if not self._changed.wait(RECOUNT_S):
                        break  # workers may have joined
                else:
                    self._aborts_before_job = self._aborts
                    return self._take_calls(limit)

    def _most_jobs(self) -> int:
        if self._max_workers is not None:
            return min(MAX_JOBS, self._max_workers)
        try:
            slots = sum(worker.slots for worker in self._cluster.workers())
        except Exception as error:  # the submit of a job says what is wrong
            log.debug("workers unknown: %s", error)
            slots = 1
        return max(1, min(MAX_JOBS, JOBS_PER_SLOT * slots))

    def _take_calls(self, limit: int) -> list[_Call]:
        """Take a share of the calls that wait, all of one function."""
        calls = [self._waiting.popleft()]
        if self._max_workers is not None or calls[0].is_alone:
            return calls  # several calls of a job may run at once
        count = min(MAX_CALLS, max(1, (len(self._waiting) + 1) // limit))
        while self._waiting and len(calls) < count:
            if self._waiting[0].fn is not calls[0].fn or self._waiting[0].is_alone:
                break
            calls.append(self._waiting.popleft())
        return calls

    def _submit_job(self, calls: list[_Call]) -> None:
        from mmgevent.job.job import Job

        aborts = self._aborts_before_job
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
            self._on_failure(calls, error, aborts)
            return
        with self._changed:
            self._jobs.add(handle)
            is_aborted = self._aborts != aborts
        if is_aborted:
            handle.cancel()
        handle.add_done_callback(lambda handle: self._on_done(handle, calls, aborts))

    def _on_done(self, handle: JobHandle[Any, Any], calls: list[_Call], aborts: int) -> None:
        try:
            error = handle.exception()
            if error is None:
                self._deliver(zip(calls, _outcomes(handle, len(calls)), strict=True))
            else:
                self._on_failure(calls, error, aborts)
        finally:
            with self._changed:
                self._jobs.discard(handle)
                self._changed.notify_all()

    def _on_failure(self, calls: list[_Call], error: BaseException, aborts: int) -> None:
        """Act on a job that cannot be submitted, or has failed. One call may be to blame.

        `aborts`: how often `abort` had been called when the calls were taken.
        """
        is_of_calls = isinstance(error, Exception) and not isinstance(error, JobCancelled)
        if len(calls) > 1 and is_of_calls and getattr(error, "kind", None) != "lost":
            with self._changed:
                if self._aborts == aborts:
                    self._waiting.extendleft(call._replace(is_alone=True) for call in reversed(calls))
                    self._changed.notify_all()
                    return
            error = JobCancelled("the call was cancelled")
        self._deliver((call, (None, error)) for call in calls)

    def _deliver(self, ended: Iterable[tuple[_Call, _Outcome]]) -> None:
        """Give calls their outcomes. Whatever a done callback raises concerns no other call."""
        is_outermost = threading.get_ident() not in self._delivering
        self._delivering.add(threading.get_ident())
        try:
            for call, (value, error) in ended:
                if error is None:
                    call_back("the end of a call", call.future.set_result, value)
                else:
                    call_back("the end of a call", call.future.set_exception, error)
        finally:
            if is_outermost:
                self._delivering.discard(threading.get_ident())


def _begin(call: _Call) -> bool:
    """Note that a call runs. Return False if it was cancelled, or if its holder has ended it."""
    try:
        return call.future.set_running_or_notify_cancel()
    except RuntimeError:
        return False


def _outcomes(handle: JobHandle[Any, Any], count: int) -> Iterator[_Outcome]:
    """Yield the outcome of each call of a job that is done."""
    results = handle.result()
    skipped = {failure.get("key"): failure for failure in handle.skipped()}
    for number in range(count):
        if number in results:
            yield _unpack(*results[number][0])
        else:
            failure = skipped.get(repr(number), {})
            error = failure.get("error", "the call was set aside")
            yield None, JobError(f"{error} (on {failure.get('worker', 'a worker')})", dict(failure))


def _unpack(packed: bytes, is_error: bool) -> _Outcome:
    try:
        found = pickle.loads(packed)
    except BaseException as error:
        error.add_note("while the result of the call was unpickled here")
        return None, error
    return (None, found) if is_error else (found, None)


def _pack_if_large(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> bytes | None:
    """Return large arguments as bytes; None for small ones, and for those that only dill can send."""
    try:
        packed = pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return None  # the job sends them with its function, or says what is wrong with them
    return packed if len(packed) > MAX_CODE_ARGUMENT_BYTES else None


def _make_mapfn(
    fn: Callable[..., Any], with_code: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
) -> Callable[[int, bytes | None], Iterator[tuple[int, tuple[bytes, bool]]]]:
    """Return the mapfn of a job: it travels by value, with `fn` and with small arguments.

    It yields what the call returned or raised as a pickle, and whether it raised.
    """

    def call(number: int, packed: bytes | None) -> Iterator[tuple[int, tuple[bytes, bool]]]:
        import pickle
        import traceback

        is_error = False
        try:
            args, kwargs = with_code[number] if packed is None else pickle.loads(packed)
            data = pickle.dumps(fn(*args, **kwargs), pickle.HIGHEST_PROTOCOL)
        except BaseException as error:
            is_error = True
            error.add_note(f"on the worker: {traceback.format_exc()}")
            try:
                data = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
                pickle.loads(data)
            except Exception:  # a class with arguments of its own, or a content that stays there
                text = "".join(traceback.format_exception_only(error)).strip()
                data = pickle.dumps(RuntimeError(text), pickle.HIGHEST_PROTOCOL)
        yield number, (data, is_error)

    return call
