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


class Report(NamedTuple):
    """What became of a task."""

    #: the failure record that ends the job; None if the task is done, or needs content
    failure: dict[str, Any] | None = None
    #: whether the job ends since more items fail than it allows
    is_over_limit: bool = False
    #: whether the files of the batch are not here as they were: send it again with contents
    needs_content: bool = False
    #: items that were mapped, without those set aside
    items: int = 0
    #: records of the output
    records: int = 0
    #: time of executors, seconds
    seconds: float = 0.0
    #: segments of rows of items that executors set aside, see `tasks.skipping`
    rows: bytes = b""
    #: (position, failure record) of items that were set aside because they killed executors, or
    #: because no run of the task could name them
    killers: tuple[tuple[int, dict[str, Any]], ...] = ()
    #: death records, see `wire.deaths`
    deaths: tuple[dict[str, Any], ...] = ()
    #: (text, once) of notices, see `JobState.notice`
    notices: tuple[tuple[str, str | None], ...] = ()
    #: name of the process that did it, "host/pid"
    worker: str = ""
