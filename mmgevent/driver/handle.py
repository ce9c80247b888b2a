"""A submitted job as its user sees it: wait for it, read its results, cancel it.

A job has one native thread of its own, which runs the driver's generator and finishfn
and puts records here in chunks.  They are kept until somebody asks for them: `result`
makes a dict of all, `stream` hands them out once and from then on keeps at most
MAX_UNREAD, so that the job waits for its reader.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.driver.job_driver import JobDriver
from mmgevent.driver.job_state import Progress
from mmgevent.driver.results import apply_finish, build_dict
from mmgevent.errors import ForkedError, JobCancelled, StartError, UsageError
from mmgevent.job.shipping import settings
from mmgevent.machine.resources import SIGNAL_LOOK_S, start_thread

log = logging.getLogger(__name__)

#: records that wait for the reader of a stream
MAX_UNREAD = 100_000
_CHUNK_RECORDS = 1000

Record = tuple[Any, Any]


class JobHandle:
    """What `submit` returns.  Its methods may be called from any thread."""

    def __init__(self, driver: JobDriver):
        self._driver = driver
        self._state = driver.state
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._chunks: deque[list[Record]] = deque()
        self._filling: list[Record] = []  # touched by the job's thread only
        self._unread = 0
        self._is_streaming = False
        self._reader: int | None = None  # the thread that read the stream last
        self._is_held_up = False  # the job waits for the reader of its stream
        self._is_over = False
        self._error: BaseException | None = None
        self._result: dict[Any, Any] | None = None
        self._callbacks: list[Callable[[JobHandle], None]] = []
        self._state.before_wait = self._flush
        run = settings.in_same_context(self._run)  # for the datasource and finishfn
        self._thread = threading.Thread(target=run, name=f"mmgevent-{driver.job.name}", daemon=True)

    @property
    def id(self) -> str | None:
        """What the server calls the job; None until it has accepted it."""
        return self._state.id

    def result(self, timeout: float | None = None) -> dict[Any, Any]:
        """Wait for the job and return its results as a dict (the same one each time).

        JobError if it failed, JobCancelled, TimeoutError after `timeout` seconds (the job goes on),
        DuplicateKeyError if a dict would lose a record, UsageError once `stream` was called.
        """
        with self._changed:
            if self._is_streaming:
                raise UsageError("the results of this job are streamed: read them from the stream")
            self._wait_until_over(timeout)
            if self._error is not None:
                raise self._error
            if self._result is None:
                self._result = build_dict(record for chunk in self._chunks for record in chunk)
                self._chunks.clear()
            return self._result

    def stream(self) -> Iterator[Record]:
        """Return an iterator over the records, as partitions finish; once, nothing is kept.

        It raises what `result` would raise.  Closing it before its end cancels the job.
        """
        self._check_process()
        with self._changed:
            if self._is_streaming or self._result is not None:
                raise UsageError("the results of this job were given out already")
            self._is_streaming = True
            self._reader = threading.get_ident()
        records = self._stream()
        next(records)  # begun, so that closing or forgetting it cancels the job
        return records

    def cancel(self) -> None:
        """End the job; `result` raises JobCancelled. Idempotent, and nothing happens once it is done."""
        self._check_process()
        self._driver.cancel()
        with self._changed:
            self._changed.notify_all()

    def done(self) -> bool:
        """Is the job over: done, failed or cancelled?"""
        return self._is_over

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job and return what it failed with, None if it succeeded.  TimeoutError."""
        with self._changed:
            self._wait_until_over(timeout)
            return self._error

    def add_done_callback(self, fn: Callable[[JobHandle], None]) -> None:
        """Call `fn(handle)` when the job is over, from its thread; at once if it is.

        An exception of `fn` is logged and goes nowhere else.
        """
        with self._changed:
            if not self._is_over:
                self._callbacks.append(fn)
                return
        self._call(fn)

    def progress(self) -> Progress:
        """Return how far the job is."""
        return self._state.progress

    def stats(self) -> dict[str, Any]:
        """Return the server's figures of a job that is done: seconds, records, spilled_bytes."""
        return dict(self._state.stats)

    def skipped(self) -> list[dict[str, Any]]:
        """Return why items were set aside so far, the last 10,000 at most.

        Each is a failure with "key" and "error" in words. Where they are known it has also the key itself as
        "item_key", and "error_type" and "error_text" of the exception.
        """
        return self._state.set_aside.failures()

    def skipped_items(self) -> Iterator[Record]:
        """Return an iterator over (key, value) of all items that were set aside so far, to be looked at or tried again.

        Values of at most 64 KiB come as they were; larger ones, and those that killed their executors, are read
        again. Where that cannot be done, the value is a `NotKept` that says why.
        """
        self._check_process()
        return self._driver.skipped_items()

    def deaths(self) -> list[dict[str, Any]]:
        """Return the deaths of executors and workers under this job so far, the last 10,000 at most; see `deaths`."""
        return list(self._state.deaths)

    def __repr__(self) -> str:
        state = self._state.progress.phase if not self._is_over else "failed" if self._error else "done"
        return f"<JobHandle {self._driver.job.name} {state}>"

    def start(self) -> None:
        """Start the job's thread; called once, by whoever submits.  StartError where there can be none."""
        try:
            start_thread(self._thread)
        except StartError:
            self._driver.abandon()
            raise

    @property
    def is_own_thread(self) -> bool:
        """Whether this is called from the job's thread: from a callback, or the user's functions in it."""
        return threading.current_thread() is self._thread

    def join(self, *, with_callbacks: bool = True) -> None:
        """Wait until the job is over, however it ends, and, unless told otherwise, has called back.

        At once if called from its own thread.  A job that waits for this thread to read on in its stream never would
        be over: it is cancelled.
        """
        if self.is_own_thread:
            return
        with self._changed:
            while not (self._is_over or (self._is_held_up and self._reader == threading.get_ident())):
                self._changed.wait(SIGNAL_LOOK_S)
        if not self._is_over:
            self.cancel()
        if with_callbacks:
            self._thread.join()
        else:
            self._wait_until_over(None)

    # the job's thread

    def _run(self) -> None:
        job = self._driver.job
        error: BaseException | None = None
        try:
            for record in apply_finish(job.finishfn, job.finish_form, self._driver.records(), job.argv):
                self._filling.append(record)
                if len(self._filling) >= _CHUNK_RECORDS:
                    self._flush()
            self._flush()
        except BaseException as raised:  # handed to whoever asks for the result
            error = raised
            if self._state.is_cancelled and not isinstance(raised, JobCancelled):
                error = JobCancelled(f"job {job.name} was cancelled")  # what its end broke is no news
        with self._changed:
            self._error = error
            self._is_over = True
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for fn in callbacks:
            self._call(fn)

    def _flush(self) -> None:
        """Give what was gathered to the readers, and wait for them if they are far behind."""
        if not self._filling:
            return
        chunk, self._filling = self._filling, []
        with self._changed:
            while self._is_streaming and self._unread >= MAX_UNREAD:
                if self._state.is_cancelled:
                    raise JobCancelled(f"job {self._driver.job.name} was cancelled")
                self._is_held_up = True
                self._changed.notify_all()
                self._changed.wait()
            self._is_held_up = False
            self._chunks.append(chunk)
            self._unread += len(chunk)
            self._changed.notify_all()

    def _call(self, fn: Callable[[JobHandle], None]) -> None:
        try:
            fn(self)
        except Exception:
            log.exception("a done callback of job %s failed", self._driver.job.name)

    # readers

    def _stream(self) -> Iterator[Any]:
        try:
            yield None
            while (chunk := self._next_chunk()) is not None:
                yield from chunk
        finally:
            if not self._is_over:
                self.cancel()
        if self._error is not None:
            raise self._error

    def _next_chunk(self) -> list[Record] | None:
        with self._changed:
            self._reader = threading.get_ident()
            while not self._chunks and not self._is_over:
                self._changed.wait(SIGNAL_LOOK_S)
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            self._unread -= len(chunk)
            self._changed.notify_all()
            return chunk

    def _wait_until_over(self, timeout: float | None) -> None:
        self._check_process()
        until = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"job {self._driver.job.name} was not done in {timeout:g} s; it goes on")
            self._changed.wait(SIGNAL_LOOK_S if left is None else min(left, SIGNAL_LOOK_S))

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError("this job was submitted by the parent of this process: ask for it there")
