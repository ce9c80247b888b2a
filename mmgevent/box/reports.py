"""What goes to a task on another engine, and what comes back beside its output."""

from __future__ import annotations

from typing import Any, NamedTuple


class GuestBatch(NamedTuple):
    """A batch of the job's input."""

    number: int
    #: number of entries
    items: int
    #: encoded entries, see `tasks.records.encode_items`
    data: bytes
    #: whether its entries are refs: files, or parts of files
    has_refs: bool
    #: the first entry to map
    lo: int = 0
    #: one behind the last entry to map; None for the end of the batch
    hi: int | None = None
    #: seconds after which entries are given back; None to map all. See `box.portions`.
    budget_s: float | None = None

    @property
    def end(self) -> int:
        """One behind the last entry to map."""
        return self.items if self.hi is None else self.hi


class Report(NamedTuple):
    """What became of a task."""

    #: the failure record that ends the job; None if the task is done, or needs content
    failure: dict[str, Any] | None = None
    #: whether the job ends since more items fail than it allows
    is_over_limit: bool = False
    #: whether the files of the batch are not here as they were: send it again with contents
    needs_content: bool = False
    #: one behind the last entry that was mapped, if the task gives the others back; else None
    mapped_to: int | None = None
    #: items that were mapped, without those set aside
    items: int = 0
    #: records of the output
    records: int = 0
    #: (name, count) of what the functions counted
    counters: tuple[tuple[str, int], ...] = ()
    #: time of executors, seconds
    seconds: float = 0.0
    #: times that items or tasks were tried again after an exception
    retries: int = 0
    #: different keys that were reduced
    keys: int = 0
    #: processor time of executors in the task, microseconds
    cpu_us: int = 0
    #: most memory of an executor, bytes
    peak_bytes: int = 0
    #: bytes of the records that go to reduce tasks
    shuffled_bytes: int = 0
    #: segments of rows of items that executors set aside, see `tasks.skipping`
    rows: bytes = b""
    #: (position, failure record) of items that were set aside because they killed executors, or
    #: because no run of the task could name them
    killers: tuple[tuple[int, dict[str, Any]], ...] = ()
    #: death records, see `wire.deaths`
    deaths: tuple[dict[str, Any], ...] = ()
    #: (text, once) of notices, see `JobState.notice`
    notices: tuple[tuple[str, str | None], ...] = ()
    #: (item, text) of lines that functions printed, and how many more there were
    printed: tuple[tuple[str, str], ...] = ()
    printed_dropped: int = 0
    #: name of the process that did it, "host/pid"
    worker: str = ""
    #: its output, if that is small: the pieces of a map task, or the results of a reduce task.  Else
    #: it is empty, and so is the output if this is not.
    carried: tuple[bytes, ...] = ()
    #: its slowest items and largest keys, as `wire.task_ends` has them, if the job keeps a log
    slow: tuple[list[Any], ...] = ()
    largest: tuple[list[Any], ...] = ()
