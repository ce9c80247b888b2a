"""The commands of the scheduler to the server.

Every event method of `Scheduler` returns a list of commands, which the server carries out in order.
They hold facts and numbers only. The server turns them into frames, calls of the store, and log
lines.

- An attempt that was assigned is ended by exactly one `Commit` or `Discard`.
- A job that was added is ended by exactly one `FinishJob` or `FailJob`. After that no command names
  it.
- A batch that was added is ended by exactly one `ReleaseBatch`, unless its job ends first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.wire.positions import ALL, Part


class Assign(NamedTuple):
    """Send an attempt to a slot of a worker. It runs at once, or after those that the slot has."""

    worker: int
    slot: int  #: 0 .. slots of the worker - 1
    job: int
    task: int
    attempt: int
    phase: str  #: "map" or "reduce"
    batch: int  #: 0 in reduce
    lo: int  #: first entry of the batch to map; 0 in reduce
    hi: int  #: one behind the last; 0 in reduce
    skip: tuple[int, ...]  #: ascending positions of items in [lo, hi) that were set aside
    partitions: tuple[int, ...]  #: partitions to reduce; () in map
    part: Part = ALL  #: part to map, if there is a single entry
    is_duplicate: bool = False  #: another attempt of the task is live


class Recall(NamedTuple):
    """Ask a worker to return a queued attempt. It answers that it returns or keeps it."""

    worker: int
    job: int
    attempt: int


class Revoke(NamedTuple):
    """Let a worker end an attempt that no longer matters. From now on its slot counts as free."""

    worker: int
    job: int
    task: int
    attempt: int


class Commit(NamedTuple):
    """Make the staged output of this attempt count. No other attempt of its task counts."""

    job: int
    task: int
    attempt: int
    phase: str  #: "map" or "reduce"
    batch: int  #: 0 in reduce; batch, lo and part give the place of the output in datasource order
    lo: int
    part: Part = ALL


class Discard(NamedTuple):
    """Drop the staged output, if any, of an attempt that ended without counting."""

    job: int
    task: int
    attempt: int


class ReleaseBatch(NamedTuple):
    """Forget the bytes of a batch. All its items are committed, set aside or lost."""

    job: int
    batch: int


class NeedContent(NamedTuple):
    """Ask the driver to send this batch again, with the contents of its files."""

    job: int
    batch: int


class Allow(NamedTuple):
    """Let the driver send batches up to this total."""

    job: int
    batches: int


class EnoughInput(NamedTuple):
    """Ask the driver of a "oneshot" job to read no further. Its input counts as ended."""

    job: int


class PlanReduce(NamedTuple):
    """Cut the partitions into reduce tasks and answer with `Scheduler.plan_reduce`."""

    job: int


class FinishJob(NamedTuple):
    """End the job with success: everything of it is committed."""

    job: int


class FailJob(NamedTuple):
    """End the job without success, and release all that it holds."""

    job: int
    failure: dict[str, Any]  #: see `errors.JobError.from_failure`
    code: str  #: "failed", "skipped" (more items set aside than allowed) or "cancelled"


class ItemSkipped(NamedTuple):
    """Report to the driver that an item was set aside, and why."""

    job: int
    batch: int
    item: int  #: its position
    failure: dict[str, Any]


class Notice(NamedTuple):
    """Show the user of the job a text."""

    job: int
    text: str


Command = (
    Assign
    | Recall
    | Revoke
    | Commit
    | Discard
    | ReleaseBatch
    | NeedContent
    | Allow
    | EnoughInput
    | PlanReduce
    | FinishJob
    | FailJob
    | ItemSkipped
    | Notice
)
