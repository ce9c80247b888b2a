"""What a program can do with the results of a job, beside reading them one by one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from mmgevent.driver.runners.runner import Runner
from mmgevent.errors import ForkedError, UsageError
from mmgevent.job.job import K, V

if TYPE_CHECKING:
    from mmgevent.driver.failures.error_groups import ErrorGroup
    from mmgevent.driver.job_state import JobState
    from mmgevent.job.outputs.ranking import Order
    from mmgevent.job.outputs.sinks import Sink


class EndedPartitions(NamedTuple):
    """Stands between chunks: every record of these partitions was before it."""

    partitions: tuple[int, ...]
    #: number of all partitions of the job
    of: int


class Readable(Generic[K, V]):
    """The results of a job, for everything that takes all of them."""

    _runner: Runner
    _pid: int
    _is_streaming: bool
    _result: dict[Any, Any] | None

    @property
    def state(self) -> JobState:
        """Return what the driver knows of the job, for commands."""
        return self._runner.state

    def __repr__(self) -> str:
        from mmgevent.driver.progress.text import describe_state

        said = describe_state(self.state.look(), self._final_state())
        return f"<{type(self).__name__} {self.state.name} {said}>"

    def _repr_html_(self) -> str:
        from mmgevent.driver.progress.html_text import job_html

        state = self.state
        return job_html(state.name, state.look(), self._final_state(), state.figures())

    def _final_state(self) -> str | None:
        """Return how the job has ended, or None if it goes on."""
        raise NotImplementedError

    def result(self, timeout: float | None = None) -> dict[K, V]:
        """Wait for the job and return its results."""
        raise NotImplementedError

    def done(self) -> bool:
        """Return whether the job is over."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the job."""
        raise NotImplementedError

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job and return its error, or None."""
        raise NotImplementedError

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call a function with the handle once the job is over, in any thread."""
        raise NotImplementedError

    def _begin_stream(self, sink: Sink | None = None) -> None:
        """Note that the results are streamed. Raise UsageError if they were given out already."""
        raise NotImplementedError

    def _next_chunk(self) -> list[Any] | EndedPartitions | None:
        """Return what is next; an empty list if there was nothing for a while; None at the end."""
        raise NotImplementedError

    def _take_chunk(self, wake: Callable[[], None]) -> list[tuple[K, V]] | None:
        """Return the next records, an empty list if there are none yet, or None behind the last ones.

        If there are none yet, `wake` is called once when that changes, in any thread.
        """
        raise NotImplementedError

    def stream_to(self, sink: Sink) -> Iterator[tuple[K, V]]:
        """Return an iterator as `stream` does, for what is written to a sink.

        The sink learns where partitions end, between two records.
        """
        return self._stream_now(sink)

    def _stream_now(self, sink: Sink | None = None) -> Generator[tuple[K, V], None, None]:
        """Return an iterator over the records. Raise UsageError if they were given out already."""
        self._begin_stream(sink)
        records = self._stream(sink)
        next(records)  # begun, so that closing or forgetting it cancels the job
        return records

    def _stream(self, sink: Sink | None) -> Generator[Any, None, None]:
        with self._streaming():
            yield None
            while (chunk := self._next_chunk()) is not None:
                if not isinstance(chunk, EndedPartitions):
                    yield from chunk
                    if not chunk and sink is not None:
                        sink.note_pause()
                elif sink is not None:
                    sink.note_partitions(*chunk)

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        """Cancel the job if its records are not read to their end; raise its error behind them."""
        try:
            yield
        finally:
            if not self.done():
                self.cancel()
        error = self.exception()
        if error is not None:
            raise error

    def write(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        columns: str | Iterable[str] | None = None,
        sort: str | None = None,
        top: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
        part_size: int | str | None = None,
    ) -> int:
        """Wait for the job, write its results to a file or folder, and return their number.

        A file replaces another one when all is written. A path that ends in / is a folder of parts,
        whose `_SUCCESS` is written last: both as `mmg-run -o` does. The results are given out by
        this, as by `stream`; after `result` they can be written again and again.

        `format`: "tsv", "jsonl", "csv", "pickle", with ".gz", ".bz2", ".xz" or ".zst" behind it to
        compress; or "parquet". By default the suffixes of `path` decide.
        `columns`: names for the columns of csv and parquet.
        `sort`: "key", "-key", "value", "-value", where - is for the largest first.
        `top`: how many records to keep; those of the largest values, unless `sort` is given.
        `overwrite`: replace the results in a folder; otherwise one that is not empty is refused.
        `resume`: keep what the same job has written to a folder. If there is something, the job must
        have been submitted with `resume=path`, too. The number returned includes what was there.
        `part_size`: size of the parts of a folder before compression, such as "64MiB".

        Raises:

        - OutputError or UsageError for what is wrong with the arguments, at once; the job goes on;
        - OutputError for a record that cannot be written or ordered; the job is cancelled;
        - the errors of `result`.
        """
        from mmgevent.job.options import parse_memory
        from mmgevent.job.outputs.opening import open_output  # rarely needed
        from mmgevent.job.outputs.order import choose_order

        order = choose_order(sort, top)
        output = open_output(
            path,
            format,
            columns=columns,
            overwrite=overwrite,
            resume=resume,
            part_bytes=parse_memory(part_size),
            job=self._runner.job,
            sort=sort,
            top=top,
        )
        count = output.made_records
        if output.is_complete:
            self.cancel()
            return count
        with output as sink:
            return count + self.write_to(sink, order)

    def write_to(self, sink: Sink, order: Order | None) -> int:
        """Write all records to a sink, and return their number. For `write`, here and of a cluster."""
        from mmgevent.job.outputs.order import put_in_order
        from mmgevent.job.outputs.receipts import Receipt

        count = 0
        with closing(self._records(sink)) as records:
            ordered: Iterable[tuple[Any, Any]] = records if order is None else put_in_order(records, order)
            for key, value in ordered:
                sink.write(key, value)
                count += key.records if type(key) is Receipt else 1
        return count

    def errors(self) -> list[ErrorGroup]:
        """Return the errors that have set items aside so far: one for each function, exception and line.

        The most frequent one is first. Each has a `count` and one example. Raises JobError as
        `skipped`.
        """
        return self._runner.errors()

    def columns(self) -> tuple[Any, Any]:
        """Wait for the job and return the keys and the values of its results, as two columns.

        With numpy they are arrays: of int64, float64 or bool where all are of one of these kinds, else
        of objects. Without numpy, ints and floats are in an `array.array`, all else in a list. Results
        are given out as by `write`. Raises the errors of `result`.
        """
        from mmgevent.driver.result_columns import columns_of  # rarely needed

        with closing(self._records()) as records:
            return columns_of(records)

    def to_pandas(self, columns: str | Iterable[str] | None = None) -> Any:
        """Wait for the job and return its results as a DataFrame of pandas.

        Keys and values are columns; a tuple is as many columns as it is long. `columns`: their
        names; by default key and value, with _0, _1 or the names of a namedtuple behind them.

        Raises OutputError at once if pandas is not installed or names are wrong, and for a record
        that does not fit; and the errors of `result`. Results are given out as by `write`.
        """
        return _table_of(self, "pandas", columns)

    def to_polars(self, columns: str | Iterable[str] | None = None) -> Any:
        """Return the results as a DataFrame of polars; otherwise as `to_pandas`."""
        return _table_of(self, "polars", columns)

    def to_arrow(self, columns: str | Iterable[str] | None = None) -> Any:
        """Return the results as a Table of pyarrow; otherwise as `to_pandas`."""
        return _table_of(self, "pyarrow", columns)

    def __await__(self) -> Generator[Any, None, dict[K, V]]:
        """Wait for the job in a coroutine: `await handle` is `handle.result()`.

        If the task that awaits is cancelled, or its time is over, the job goes on.
        """
        return self._await_result().__await__()

    async def __aiter__(self) -> AsyncIterator[tuple[K, V]]:
        """Read the records in a coroutine: `async for key, value in handle`, as `stream`.

        If the loop ends before they do, or its task is cancelled, the job is cancelled.
        """
        import asyncio  # other programs need not import it

        self._begin_stream()
        with self._streaming():
            while True:
                changed = asyncio.Event()
                chunk = self._take_chunk(_in_this_loop(changed.set))
                if chunk is None:
                    break
                for record in chunk:
                    yield record
                if chunk:
                    await asyncio.sleep(0)  # others have their turn, even if records keep coming
                else:
                    await changed.wait()

    async def _await_result(self) -> dict[K, V]:
        import asyncio

        over = asyncio.Event()
        wake = _in_this_loop(over.set)
        self._check_process()
        self._check_not_streamed()
        self.add_done_callback(lambda handle: wake())
        await over.wait()
        return await asyncio.to_thread(self.result)  # a large dict takes a while

    def _records(self, sink: Sink | None = None) -> Generator[tuple[K, V], None, None]:
        """Return an iterator over the records, whose end before theirs cancels the job."""
        self._check_goes_on_in(sink)
        if self._result is None:
            try:
                return self._stream_now(sink)
            except UsageError:
                if self._result is None:  # otherwise another thread has just made it
                    raise
        return (record for record in self._result.items())

    def _check_goes_on_in(self, sink: Sink | None) -> None:
        """Raise UsageError if the results and what is in a sink already are not all results."""
        plan = self._runner.parts_plan
        if plan is not None and (sink is None or sink.plan is not plan):
            raise UsageError(
                f"the job was submitted to write its results into {plan.name}: write them there, with what was asked "
                f"for the plan"
            )
        left_out, there = self._runner.made, None if sink is None else sink.made
        left_out, there = (made if made and made.partitions else None for made in (left_out, there))
        if left_out == there:
            return
        if left_out is not None:
            raise UsageError(
                "the job was submitted with resume=FOLDER and makes only what is not in that folder as it was then: "
                "call handle.write(FOLDER, resume=True)"
            )
        raise UsageError(
            "the folder has results already, and the job was submitted to make all: submit it with "
            "cluster.submit(job, resume=FOLDER)"
        )

    def _check_not_streamed(self) -> None:
        if self._is_streaming:
            raise UsageError("the results of this job are streamed: read them from the stream")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError("this job was submitted by the parent of this process: ask for it there")


def _table_of(results: Readable[Any, Any], library: str, columns: str | Iterable[str] | None) -> Any:
    from mmgevent.job.outputs.tables import TableMaker  # rarely needed

    maker = TableMaker(library, columns)
    with closing(results._records()) as records:
        return maker.make(records)


def _in_this_loop(act: Callable[[], None]) -> Callable[[], None]:
    """Return a function for any thread, which calls another one in the event loop that runs here."""
    import asyncio

    loop = asyncio.get_running_loop()

    def call() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits in it
            loop.call_soon_threadsafe(act)

    return call
