"""A submitted job in its user's program: wait for it, read its results, cancel it.

A job has a native thread of its own.  It runs the runner's generator and finishfn, and puts records
here in chunks.  They are kept until somebody asks for them: `result` makes a dict of all, `stream`
yields them once.  A stream keeps at most MAX_UNREAD records, so the job waits for its reader.

A job that is cancelled or has failed ends for everybody, even if its thread waits in the user's
code (the datasource, finishfn or a callback) and cannot be interrupted. That thread is then left
behind, with a warning.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mmgevent.driver.arguments import check_wait
from mmgevent.driver.callbacks import call_back
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.readable import EndedPartitions, Readable
from mmgevent.driver.results import build_dict, results_of
from mmgevent.driver.runners.runner import LOOK_S, Runner
from mmgevent.driver.telling import Telling
from mmgevent.errors import JobCancelled, StartError, UsageError
from mmgevent.job.job import K, V
from mmgevent.job.shipping import settings
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import SIGNAL_LOOK_S, start_thread

if TYPE_CHECKING:
    from mmgevent.job.outputs.sinks import Sink

log = get_log(__name__)

#: Largest number of records that wait for the reader of a stream.
MAX_UNREAD = 100_000
#: Time for the thread of a job that was cancelled, or has failed, to end by itself, seconds. While
#: it waits in our code, it looks every LOOK_S.
GRACE_S = 2 * LOOK_S
#: Number of records in a chunk: a lock is taken once for each.
_CHUNK_RECORDS = 1000

Record = tuple[Any, Any]


class JobHandle(Readable[K, V], Telling):
    """A submitted job.  Its methods may be called from any thread."""

    def __init__(self, runner: Runner):
        self._runner = runner
        self._state = runner.state
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._chunks: deque[list[Record] | EndedPartitions] = deque()
        self._filling: list[Record] = []  # used by the job's thread only
        self._unread = 0
        self._is_streaming = False
        self._reader: int | None = None  # the thread that read the stream last
        self._is_held_up = False  # the job waits for the reader of its stream
        self._is_over = False
        self._has_called_back = False
        self._ender: threading.Thread | None = None  # ends the job if its own thread does not
        self._is_left_behind = False  # the job is over, and its thread is not
        self._error: BaseException | None = None
        self._result: dict[Any, Any] | None = None
        self._callbacks: list[Callable[[JobHandle[K, V]], None]] = []
        self._wakes: list[Callable[[], None]] = []  # of coroutines that wait for records
        self._state.before_wait = self._flush
        if runner.job.finish_form != "iterator":  # one call of it has records of any partition
            self._state.on_partitions = self._end_partitions
        self._state.on_failure = self._start_ender
        run = settings.in_same_context(self._run)  # the datasource and finishfn need the context
        self._thread = threading.Thread(target=run, name=f"mmgevent-{runner.job.name}", daemon=True)

    @property
    def id(self) -> str | None:
        """The server's name for the job; None until a server has accepted it."""
        return self._state.id

    def result(self, timeout: float | None = None) -> dict[K, V]:
        """Wait for the job and return its results as a dict (the same one each time).

        Raises:

        - JobError if the job failed, JobCancelled if it was cancelled;
        - TimeoutError after `timeout` seconds; the job goes on;
        - DuplicateKeyError if a dict would lose a record;
        - UsageError if `stream` was called before, or is called meanwhile by another thread.
        """
        with self._changed:
            self._check_not_streamed()
            self._check_goes_on_in(None)
            self._wait_until_over(timeout, self._check_not_streamed)
            if self._error is not None:
                raise self._error
            if self._result is None:
                chunks = (chunk for chunk in self._chunks if not isinstance(chunk, EndedPartitions))
                self._result = build_dict(record for chunk in chunks for record in chunk)
                self._chunks.clear()
            return self._result

    def stream(self) -> Iterator[tuple[K, V]]:
        """Return an iterator over the records as partitions finish.

        It can be called once: nothing is kept.

        It raises the errors of `result`.  Closing it before its end cancels the job.
        """
        return self._stream_now()

    def cancel(self) -> None:
        """End the job.

        `result` raises JobCancelled.  Idempotent; nothing happens if the job is over.

        If the datasource, finishfn or a callback waits at that moment, it is not interrupted: its
        thread is left behind, and a warning in the log says where it waits.
        """
        self._check_process()
        self._runner.cancel()
        self._start_ender()

    def done(self) -> bool:
        """Return whether the job is over: done, failed or cancelled."""
        return self._is_over

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job and return its error, or None if it succeeded.

        Raises TimeoutError as `result` does.
        """
        with self._changed:
            self._wait_until_over(timeout)
            return self._error

    def add_done_callback(self, fn: Callable[[JobHandle[K, V]], None]) -> None:
        """Call `fn(handle)` when the job is over, in a thread of the job; at once if it is over.

        An exception of `fn` is logged and nothing else happens.
        """
        with self._changed:
            if not self._is_over:
                self._callbacks.append(fn)
                return
        self._call(fn)

    def progress(self) -> Progress:
        """Return how far the job is."""
        return self._state.look()

    def stats(self) -> dict[str, Any]:
        """Return the figures of a job, such as seconds and records, all of them once it is done.

        docs/progress.md lists them. What is not known where the job runs is left out.
        """
        return self._state.figures()

    def skipped(self) -> list[dict[str, Any]]:
        """Return why items were set aside so far: the last 10,000 failures at most.

        Each has "key" and "error" in words.  If they are known, it also has the key itself as
        "item_key", and "error_type" and "error_text" of the exception. In a chain it has the
        number of its "stage".

        Raises JobError (kind "record") for a key that cannot be unpickled here.
        """
        return self._runner.skipped()

    def skipped_items(self) -> Iterator[Record]:
        """Return an iterator over (key, value) of all items that were set aside so far.

        Values of at most 64 KiB are as they were.  Larger ones, and those that killed their
        executors, are read again.  If that fails, the value is a `NotKept` that says why.
        """
        self._check_process()
        return self._runner.skipped_items()

    def deaths(self) -> list[dict[str, Any]]:
        """Return the last deaths of executors and workers under this job, 10,000 at most.

        `mmgevent.wire.deaths` describes the fields of each.
        """
        return list(self._state.deaths)

    def _final_state(self) -> str | None:
        """Return how the job has ended, or None if it goes on."""
        if not self._is_over:
            return None
        return "cancelled" if self._state.is_cancelled else "failed" if self._error else "done"

    def start(self) -> None:
        """Start the job's thread.

        Called once, by `submit`. Raises StartError if no thread can be started.
        """
        try:
            start_thread(self._thread)
        except StartError:
            self._runner.close()
            raise

    @property
    def is_own_thread(self) -> bool:
        """Return whether a thread of the job calls this, in a function of the user's."""
        return threading.current_thread() in (self._thread, self._ender)

    def join(self, *, with_callbacks: bool = True) -> None:
        """Wait until the job is over and, by default, its callbacks have returned.

        It returns at once in a thread of the job.  A job that waits for this very thread to read
        its stream would never be over: it is cancelled.  A thread that was left behind is not
        waited for.
        """
        if self.is_own_thread:
            return
        with self._changed:
            while not (self._is_over or (self._is_held_up and self._reader == threading.get_ident())):
                self._changed.wait(SIGNAL_LOOK_S)
        if not self._is_over:
            self.cancel()
        if not with_callbacks:
            self._wait_until_over(None)
            return
        with self._changed:
            while not self._has_called_back:
                self._changed.wait(SIGNAL_LOOK_S)
        if not self._is_left_behind:
            self._thread.join()
        if self._ender is not None:
            self._ender.join(GRACE_S)

    # What runs in the job's thread.

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for record in results_of(self._runner, self._runner.records()):
                self._filling.append(record)
                if len(self._filling) >= _CHUNK_RECORDS:
                    self._flush()
            self._flush()
        except BaseException as raised:  # raised where the result is asked for
            error = raised
            if self._state.is_cancelled and not isinstance(raised, JobCancelled):
                error = self._state.cancelled_error()  # errors that follow from the end are no news
        self._finish(error)

    def _flush(self) -> None:
        """Pass gathered records to the readers, and wait for them if they are far behind."""
        if not self._filling:
            return
        chunk, self._filling = self._filling, []
        with self._changed:
            if self._is_left_behind:
                raise self._state.ending_error()
            while self._is_streaming and self._unread >= MAX_UNREAD:
                self._state.check_cancelled()
                self._is_held_up = True
                self._changed.notify_all()
                self._changed.wait()
            self._is_held_up = False
            self._chunks.append(chunk)
            self._unread += len(chunk)
            self._notify()

    def _end_partitions(self, partitions: tuple[int, ...], of: int) -> None:
        """Pass gathered records on, and that these partitions end behind them."""
        self._flush()
        with self._changed:
            self._chunks.append(EndedPartitions(partitions, of))
            self._notify()

    def _notify(self) -> None:
        """Wake all that wait for a change, also in event loops. The lock is held."""
        self._changed.notify_all()
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    # What ends a job that was cancelled or has failed, in a thread of its own.

    def _start_ender(self) -> None:
        with self._changed:
            self._changed.notify_all()
            if self._is_over or self._ender is not None or sys.is_finalizing():  # no thread starts then
                return
            name = f"{self._thread.name}-end"
            self._ender = threading.Thread(target=self._end_without_thread, name=name, daemon=True)
            try:
                start_thread(self._ender)
            except StartError as error:  # then the job ends with its own thread
                log.debug("job %s: %s", self._state.name, error)

    def _end_without_thread(self) -> None:
        """End the job if its thread does not: it waits in the user's code."""
        if self._ends_by_itself():
            return
        from mmgevent.driver.left_behind import describe_place

        log.warning(
            "job %s %s, but its thread %s cannot be ended and is left behind: %s",
            self._state.name,
            "was cancelled" if self._state.is_cancelled else "has failed",
            self._thread.name,
            describe_place(self._thread),
        )
        self._is_left_behind = True
        self._runner.give_up()
        self._finish(self._state.ending_error())
        self._runner.close()  # last: the thread may wait for the very file that this closes

    def _ends_by_itself(self) -> bool:
        """Wait for the end of the job; return whether it has ended GRACE_S later."""
        until = time.monotonic() + GRACE_S
        with self._changed:
            while not self._is_over and time.monotonic() < max(until, self._runner.keeps_until_s):
                self._changed.wait(min(SIGNAL_LOOK_S, GRACE_S))
                if self._is_held_up and not self._state.is_cancelled:  # it waits for its reader
                    until = time.monotonic() + GRACE_S
            return self._is_over

    # What runs in either of them.

    def _finish(self, error: BaseException | None) -> None:
        """Note that the job is over, and call back; only the first end counts."""
        if self._state.job_log is not None:
            self._state.job_log.end(self._state, error)
        with self._changed:
            if self._is_over:
                return
            self._error = error
            self._is_over = True
            callbacks, self._callbacks = self._callbacks, []
            self._notify()
        try:
            for fn in callbacks:
                self._call(fn)
        finally:
            with self._changed:
                self._has_called_back = True
                self._changed.notify_all()

    def _call(self, fn: Callable[[JobHandle[K, V]], None]) -> None:
        call_back(f"a done callback of job {self._state.name}", fn, self)

    # What runs in the threads of readers.

    def _begin_stream(self, sink: Sink | None = None) -> None:
        self._check_process()
        self._check_goes_on_in(sink)
        with self._changed:
            if self._is_streaming or self._result is not None:
                raise UsageError("the results of this job were given out already")
            self._is_streaming = True
            self._reader = threading.get_ident()
            self._changed.notify_all()  # who waits in `result` gets none of them

    def _next_chunk(self) -> list[Record] | EndedPartitions | None:
        """Return what is next; an empty list if there was nothing for a while; None at the end."""
        with self._changed:
            self._reader = threading.get_ident()
            if not self._chunks and not self._is_over:
                self._changed.wait(SIGNAL_LOOK_S)
            if self._chunks and isinstance(self._chunks[0], EndedPartitions):
                return self._chunks.popleft()
            return self._take_chunk(None)

    def _take_chunk(self, wake: Callable[[], None] | None) -> list[Record] | None:
        with self._changed:
            self._reader = threading.get_ident()
            while self._chunks:
                chunk = self._chunks.popleft()
                if isinstance(chunk, EndedPartitions):
                    continue
                self._unread -= len(chunk)
                self._changed.notify_all()
                return chunk
            if self._is_over:
                return None
            if wake is not None:
                self._wakes.append(wake)
            return []

    def _wait_until_over(self, timeout: float | None, check: Callable[[], None] | None = None) -> None:
        """Wait with the lock held; call `check` after each wait, when others may have had the lock."""
        self._check_process()
        check_wait(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"job {self._state.name} was not done in {timeout:g} s; it goes on")
            self._changed.wait(SIGNAL_LOOK_S if left is None else min(left, SIGNAL_LOOK_S))
            if check is not None:
                check()
