"""A backend of joblib, so that `Parallel` and scikit-learn use a cluster.

    import joblib
    import mmgevent as mmg
    import mmgevent.joblib

    mmgevent.joblib.register()
    with mmg.connect("bighost") as cluster, joblib.parallel_config("mmgevent", cluster=cluster):
        GridSearchCV(...).fit(X, y)

Arrays travel as values, also memory-mapped ones: a worker elsewhere does not see the file. Parallel
calls inside of a call run one after another there, since every slot has its executor already.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import joblib
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase, SequentialBackend

from mmgevent.driver.batched_calls import BatchRunner, Item, run_batch
from mmgevent.driver.cluster_executor import ClusterExecutor
from mmgevent.errors import JobError, UsageError

if TYPE_CHECKING:
    from mmgevent.driver.cluster import Cluster

#: Time for the first worker of a cluster without any to come and answer, seconds.
WORKERS_S = 60.0

#: Name of the backend.
NAME = "mmgevent"


def register() -> None:
    """Make "mmgevent" a backend of joblib, in this process. Idempotent."""
    joblib.register_parallel_backend(NAME, ClusterBackend)


class ClusterBackend(AutoBatchingMixin, ParallelBackendBase):
    """What `joblib.parallel_config("mmgevent", cluster=...)` makes."""

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, cluster: Cluster | str | None = None, nesting_level: int | None = None, **options: Any
    ):
        """`cluster`: an open cluster, which stays the caller's, or what `connect` takes.

        By default it is the cores of this machine. What this opens is closed after each `Parallel`,
        or at the end of `with Parallel(...)`.
        """
        super().__init__(nesting_level=nesting_level, **options)
        if cluster is not None and not isinstance(cluster, str) and not hasattr(cluster, "workers"):
            raise UsageError(
                f"cluster must be a cluster of mmgevent, or a WHERE of connect(); got {type(cluster).__name__}"
            )
        self._given = cluster
        self._cluster: Any = None
        self._executor: ClusterExecutor | None = None
        self._took = threading.local()
        self._runners: dict[int, BatchRunner] = {}

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return how many calls run at once; n_jobs=-1 stands for all slots of the cluster.

        The answer is 1 for n_jobs=1 only: joblib then makes the calls in this process.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        is_open = self._cluster is not None
        try:
            return max(2, self._count_slots() + 1 + (-1 if n_jobs is None else n_jobs))
        finally:
            if not is_open:
                self._leave()

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any
    ) -> int:
        """Get ready for a `Parallel`; return the number of its calls at once."""
        if n_jobs == 1:
            raise joblib.parallel.FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        cluster = self._open()
        try:
            count = self.effective_n_jobs(n_jobs)
            self._executor = ClusterExecutor(cluster, max_workers=count)
        except BaseException:
            self._leave()
            raise
        return count

    def submit(self, func: Any, callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        """Run a batch of calls on the cluster."""
        assert self._executor is not None
        items: list[Item] = [
            (function, tuple(map(_as_value, args)), {name: _as_value(arg) for name, arg in kwargs.items()})
            for function, args, kwargs in func.items
        ]
        runner = self._runner_of(items)
        if runner is None:
            future = self._executor.submit(run_batch, items)
        else:
            future = self._executor.submit(runner, [(args, kwargs) for _, args, kwargs in items])
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch that is done, or raise its exception."""
        results, self._took.seconds = out.result()
        return results

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Note how long a batch took there, without the way: small calls get larger batches then.

        joblib calls this after `retrieve_result_callback`, in the same thread. `duration` has all.
        """
        super().batch_completed(batch_size, min(duration, self._took.seconds))

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel all calls, also those that run."""
        if self._executor is not None:
            self._executor.abort()
        if not ensure_ready:
            self.terminate()

    def terminate(self) -> None:
        """End the calls, and the cluster unless it is the caller's. Idempotent."""
        executor, self._executor = self._executor, None
        self._runners.clear()
        self.reset_batch_stats()
        if executor is not None:
            executor.abort()
            executor.shutdown()
        self._leave()

    def _leave(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None and cluster is not self._given:
            cluster.close()

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int]:
        """Return what `Parallel` inside of a call uses."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), 1

    def _open(self) -> Any:
        if self._cluster is None:
            if self._given is None or isinstance(self._given, str):
                from mmgevent.driver.connecting import connect

                self._cluster = connect(self._given or "local")
            else:
                self._cluster = self._given
        return self._cluster

    def _count_slots(self) -> int:
        cluster = self._open()
        slots: int = sum(worker.slots for worker in cluster.workers())
        if slots == 0:
            with ClusterExecutor(cluster) as executor:
                asked = executor.submit(os.getpid)
                try:
                    asked.result(WORKERS_S)
                except TimeoutError:
                    executor.abort()
                    raise JobError(
                        f"no worker answered for {WORKERS_S:g} s: start mmg-worker", {"kind": "lost"}
                    ) from None
            slots = sum(worker.slots for worker in cluster.workers())
        return slots

    def _runner_of(self, items: list[Item]) -> BatchRunner | None:
        """Return what calls the function that all items have, the same for all batches; else None.

        Functions travel by value with it, and arguments apart. So batches can share a job, and
        large arguments do not travel to workers that do not need them.
        """
        function = items[0][0]
        if any(other is not function for other, _, _ in items):
            return None
        runner = self._runners.get(id(function))
        if runner is None:
            runner = self._runners[id(function)] = BatchRunner(function)
        return runner


def _as_value(argument: Any) -> Any:
    """Return a memory-mapped array as a plain one: what maps the file cannot travel."""
    numpy = sys.modules.get("numpy")
    return numpy.array(argument) if numpy is not None and isinstance(argument, numpy.memmap) else argument
