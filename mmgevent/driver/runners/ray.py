"""Run jobs on Ray: each map and each reduce is a task, and the object store carries the shuffle.

A map task has an object for each group of partitions, and one for its report.  Ray moves them to
reduce tasks, spills them to disk, and runs a map task again whose objects are lost with a node.

- Ray retries tasks whose worker process died, MAX_RETRIES times.  Faults of the user's code are in
  reports, so Ray's retries do not multiply the job's.
- `ray.cancel(force=True)` ends the worker process, and the box with it.
- Ray cannot call a function in each worker process.  So boxes have a lease, see `box.leased`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from mmgevent.box import leased
from mmgevent.box.box import BoxedJob
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.driver.runners.futures import Futures
from mmgevent.driver.runners.refusals import check_versions, missing_error
from mmgevent.errors import JobCancelled, JobError, MmgeventError
from mmgevent.machine.logs import get_log

log = get_log(__name__)

#: Times that Ray runs a task again whose worker process died.
MAX_RETRIES = 3

#: Time for each node to answer the first question, seconds: it may have to start a process.
CHECK_S = 120.0

#: Time for all nodes to end the boxes of a job, seconds. Boxes end by themselves after a while.
RELEASE_S = 5.0

#: Time for which the number of slots is kept, seconds: Ray's autoscaler takes longer to change it.
SLOTS_S = 1.0

#: How mmgevent comes to workers without an installation on each node.
_ADVICE = "or give it to the session: ray.init(runtime_env={'pip': ['mmgevent']}) and connect(ray)"


class RayFutures(Futures):
    """One job on Ray."""

    name = "Ray"

    def __init__(self, ray: Any, checked: set[str]):
        """`ray`: the package, with a session.  `checked`: ids of nodes that were asked already."""
        self._ray = ray
        self._checked = checked
        self._map = ray.remote(leased.map_batch)
        self._reduce = ray.remote(leased.reduce_group)
        self._running: set[Any] = set()
        self._is_cancelled = False
        self._job_id: str | None = None
        self._slots = 1
        self._slots_due_s = 0.0

    @property
    def slots(self) -> int:
        if time.monotonic() >= self._slots_due_s:
            self._check_session()
            self._slots = max(1, int(self._call(self._ray.cluster_resources).get("CPU", 1)))
            self._slots_due_s = time.monotonic() + SLOTS_S
        return self._slots

    def check(self) -> None:
        """Ask each node for its versions, once a cluster."""
        ray = self._ray
        self._check_session()
        asked = {ref: node for node, ref in self._call(lambda: self._on_nodes(_make_look(), self._checked))}
        refs = list(asked)
        done, late = (
            self._call(lambda: ray.wait(refs, num_returns=len(refs), timeout=CHECK_S)) if refs else ([], [])
        )
        for ref in done:
            is_there, found = self._get(ref)
            if not is_there:
                raise missing_error(self.name, f"{_ADVICE} ({found})")
            check_versions(found, self.name)
            self._checked.add(asked[ref])
        if late:
            raise JobError(f"a node of Ray did not answer for {CHECK_S:g} s", {"kind": "lost"})

    def put(self, data: bytes) -> Any:
        self._check_session()
        return self._call(lambda: self._ray.put(data))

    def map(self, job: BoxedJob, code: Any, batch: GuestBatch) -> tuple[Any, Sequence[Any]]:
        report, *pieces = self._submit(self._map, job.groups + 1, job, code, batch)
        return report, pieces

    def reduce(self, job: BoxedJob, code: Any, pieces: Sequence[Any]) -> tuple[Any, Any]:
        report, results = self._submit(self._reduce, 2, job, code, *pieces)
        return report, results

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[tuple[Any, Report]]:
        self._check_session()
        refs = list(futures)
        done, _ = self._call(lambda: self._ray.wait(refs, timeout=timeout_s))
        if done:
            done, _ = self._call(lambda: self._ray.wait(refs, num_returns=len(refs), timeout=0))
        self._running.difference_update(done)
        return [(ref, self._get(ref)) for ref in done]

    def get(self, token: Any) -> Any:
        return self._get(token)

    def cancel(self) -> None:
        self._is_cancelled = True
        for ref in list(self._running):
            self._leave(partial(self._ray.cancel, ref, force=True))
        self.close()  # whoever gives a job up after a signal does not wait for its thread

    def close(self) -> None:
        job_id, self._job_id = self._job_id, None
        if job_id is not None:
            self._leave(lambda: self._release(job_id))

    def _release(self, job_id: str) -> None:
        running = list(self._running)
        if running:  # a task that begins now would make the lease again
            self._ray.wait(running, num_returns=len(running), timeout=RELEASE_S)
        released = [ref for _, ref in self._on_nodes(leased.release, (), job_id)]
        self._ray.wait(released, num_returns=len(released), timeout=RELEASE_S)

    def _submit(self, task: Any, num_returns: int, job: BoxedJob, *args: Any) -> Any:
        self._check_session()
        if self._is_cancelled:
            raise JobCancelled("the job was cancelled")
        self._job_id = job.id
        options = task.options(num_returns=num_returns, max_retries=MAX_RETRIES)
        refs = self._call(lambda: options.remote(job, *args))
        self._running.add(refs[0])
        if self._is_cancelled:  # meanwhile
            self.cancel()
        return refs

    def _on_nodes(self, function: Any, but: Iterable[str], *args: Any) -> list[tuple[str, Any]]:
        """Submit a function to each node, beside the tasks that run there: [(node, its ref)]."""
        strategies = import_module("ray.util.scheduling_strategies")
        task = self._ray.remote(function)
        nodes = [each["NodeID"] for each in self._ray.nodes() if each["Alive"] and each["NodeID"] not in but]
        places = [strategies.NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        options = [
            {"num_cpus": 0, "max_retries": MAX_RETRIES, "scheduling_strategy": place} for place in places
        ]
        return [(node, task.options(**each).remote(*args)) for node, each in zip(nodes, options, strict=True)]

    def _get(self, ref: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.TaskCancelledError as error:
            raise JobCancelled("the job was cancelled") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, JobCancelled):
                raise JobCancelled("the job was cancelled") from error
            if isinstance(error.cause, MmgeventError):
                raise JobError(f"a task failed on Ray: {error.cause}", {"kind": "lost"}) from error
            raise self._lost(error) from error
        except errors.RayError as error:
            raise self._lost(error) from error
        except Exception as error:  # of the client's connection
            raise self._unusable(error) from error

    def _check_session(self) -> None:
        """Raise JobError if the session has ended: the next call would start a cluster on this machine."""
        if not self._ray.is_initialized():
            raise JobError("the session with Ray has ended", {"kind": "lost"})

    def _call(self, action: Callable[[], Any]) -> Any:
        """Return what a call of Ray returns; raise what means that Ray is lost as JobError."""
        try:
            return action()
        except Exception as error:
            raise self._unusable(error) from error

    def _leave(self, action: Callable[[], Any]) -> None:
        """Tell Ray to end something.  If it cannot be reached, nothing of the job can."""
        try:
            if self._ray.is_initialized():
                action()
        except Exception as error:
            log.info("Ray does not answer at the end of a job: %r", error)

    def _lost(self, error: BaseException) -> JobError:
        return JobError(f"Ray has lost a task: {_first_line(error)}", {"kind": "lost"})

    def _unusable(self, error: BaseException) -> JobError | JobCancelled:
        if self._is_cancelled:
            return JobCancelled("the job was cancelled")
        return JobError(f"Ray cannot run the job: {_first_line(error)}", {"kind": "lost"})


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _make_look() -> Any:
    """Return a function that Ray sends by value, since workers may not have mmgevent."""

    def look() -> tuple[bool, Any]:
        try:
            from mmgevent.box.guest import versions
        except ImportError as error:
            return False, str(error)
        return True, versions()

    return look
