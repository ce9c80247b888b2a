"""What the scheduler tells the server to do.

Every event method of `mmgevent.engine.scheduler.scheduler.Scheduler` returns a list of these, to be carried out in order.
They are facts and numbers only; the server turns them into frames, calls of the store, and log lines.

An attempt that was assigned is ended by exactly one `Commit` or `Discard`; a job that was added by exactly
one `FinishJob` or `FailJob`, after which no command names it; a batch by exactly one `ReleaseBatch`,
unless its job ends first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.wire.positions import ALL, Part


class Assign(NamedTuple):
    """Send an attempt to a slot of a worker. It runs at once, or after the one the slot has."""

    worker: int
    slot: int  #: 0 .. slots of the worker - 1
    job: int
    task: int
    attempt: int
    phase: str  #: "map" or "reduce"
    batch: int  #: 0 in reduce
    lo: int  #: first entry of the batch to map; 0 in reduce
    hi: int  #: one behind the last; 0 in reduce
    skip: tuple[int, ...]  #: positions of items in [lo, hi) that were set aside, ascending
    partitions: tuple[int, ...]  #: partitions to reduce; () in map
    part: Part = ALL  #: of a single entry, which part to map


class Recall(NamedTuple):
    """Ask a worker for a queued attempt back; it answers returned or kept."""

    worker: int
    job: int
    attempt: int


class Revoke(NamedTuple):
    """Tell a worker that an attempt no longer matters. Its slot counts as free from now on."""

    worker: int
    job: int
    task: int
    attempt: int


class Commit(NamedTuple):
    """Make the staged output of this attempt the task's output: the one attempt of the task that counts."""

    job: int
    task: int
    attempt: int
    phase: str  #: "map" or "reduce"
    batch: int  #: with lo and part the place of the output in datasource order; 0 in reduce
    lo: int
    part: Part = ALL


class Discard(NamedTuple):
    """Drop what is staged (perhaps nothing) of an attempt that ended without counting."""

    job: int
    task: int
    attempt: int


class ReleaseBatch(NamedTuple):
    """Forget the bytes of a batch: all its items are committed or set aside."""

    job: int
    batch: int


class NeedContent(NamedTuple):
    """Ask the driver for this batch again, with the contents of its files."""

    job: int
    batch: int


class Allow(NamedTuple):
    """Let the driver send batches up to this total."""

    job: int
    batches: int


class EnoughInput(NamedTuple):
    """Tell the driver to read no further ("oneshot"); the scheduler takes the input as ended."""

    job: int


class PlanReduce(NamedTuple):
    """Cut the partitions into reduce tasks and answer with `Scheduler.plan_reduce`."""

    job: int


class FinishJob(NamedTuple):
    """Everything of the job is committed."""

    job: int


class FailJob(NamedTuple):
    """The job ended without success; release all it holds."""

    job: int
    failure: dict[str, Any]  #: see `errors.JobError.from_failure`
    code: str  #: "failed", "skipped" (more items set aside than allowed) or "cancelled"


class ItemSkipped(NamedTuple):
    """An item was set aside, and why."""

    job: int
    batch: int
    item: int  #: its position
    failure: dict[str, Any]


class Notice(NamedTuple):
    """Something the user of the job should know."""

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
