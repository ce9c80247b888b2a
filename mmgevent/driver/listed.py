"""What a program learns of the workers and jobs of a cluster: `workers()` and `jobs()`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.wire.listings import JOB_FIELDS, WORKER_FIELDS, clean_row, read_listing, rows_in, shown_name

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle


class _NameAndSlots(NamedTuple):
    name: str  #: "host/pid", or the name it was given
    slots: int


class WorkerInfo(_NameAndSlots):
    """A worker that is present: (name, slots), with more about it as attributes.

    Two are equal if names and slots are. An attribute is None if the server does not say it.
    """

    #: the server's number of it
    number: int | None = None
    #: "HOST:PORT" it connects from; "local" for the worker in the server's own engine
    address: str | None = None
    #: slots that run something
    busy: int | None = None
    #: "ready", "set aside" (the server gives it nothing for a while), "leaving" or "drained"
    state: str | None = None
    #: why it is set aside
    why: str | None = None
    #: cores that its executors use, and their memory, bytes; None unless `measure=True`
    cores: float | None = None
    memory_bytes: int | None = None
    #: its version of mmgevent
    version: str | None = None
    #: when it joined, seconds since 1970
    since: float | None = None
    #: executors of it that died; the last one, why and when (seconds since 1970)
    deaths: int | None = None
    last_death: str | None = None
    last_death_at: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobInfo:
    """A job that is not over."""

    id: str  #: as `JobHandle.id`
    name: str
    #: who submitted it, as their program says; "" if the cluster does not know
    user: str = ""
    host: str = ""
    pid: int = 0
    since: float | None = None  #: when it was submitted, seconds since 1970
    #: "submitting", "map", "plan", "reduce", "delivering", or "kept" (for the next stage)
    phase: str = ""
    done: int = 0  #: items in map, tasks in reduce
    total: int | None = None  #: None while the datasource is read
    percent: float | None = None  #: of this phase
    left_s: float | None = None  #: time left of this phase, seconds, a guess
    waiting: int = 0  #: tasks that no slot has yet
    running: int = 0  #: tasks that a slot has
    skipped: int = 0  #: items set aside or lost
    spilled_bytes: int = 0  #: bytes on the disk of the server


def workers_of(ask: Callable[..., dict[str, Any]], *, measure: bool) -> list[WorkerInfo]:
    """Return the workers of a server, of which `ask(question, **fields)` asks."""
    found: list[WorkerInfo] = []

    def ask_and_take(question: str, **fields: Any) -> dict[str, Any]:
        answer = ask(question, **fields)
        rows: Iterable[dict[str, Any]] = rows_in(answer) or itertools.repeat({})
        for name, slots, row in zip(answer["names"], answer["slots"], rows, strict=False):
            worker = WorkerInfo(shown_name(name), slots)
            row = clean_row(row, WORKER_FIELDS)
            vars(worker).update({field: row[field] for field in row if field not in worker._fields})
            found.append(worker)
        return answer

    read_listing(ask_and_take, "list_workers", details=True, measure=measure or None)
    return found


def job_of(row: dict[str, Any]) -> JobInfo:
    """Return the job of a row. Raises ProtocolError for a row that says too little."""
    clean = clean_row(row, JOB_FIELDS, "id", "name")
    clean.pop("number", None)
    return JobInfo(**clean)


def jobs_of(handles: Iterable[JobHandle[Any, Any]]) -> list[JobInfo]:
    """Return the jobs of this program, for a cluster that knows no others."""
    listed = []
    for handle in handles:
        progress = handle.progress()
        listed.append(
            JobInfo(
                id=handle.id or "",
                name=handle._state.name,
                phase=progress.phase,
                done=progress.done,
                total=progress.total,
                percent=None if progress.fraction is None else round(100 * progress.fraction, 1),
                waiting=progress.waiting,
                running=progress.running,
                skipped=progress.skipped,
            )
        )
    return listed
