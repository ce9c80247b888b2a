"""A cluster on another engine: what `connect` returns for Dask, Ray, Spark, or an Executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from mmgevent.driver.base_cluster import BaseCluster, OnNotice, OnProgress
from mmgevent.errors import UsageError

if TYPE_CHECKING:
    from mmgevent.driver.runners.futures import Futures
    from mmgevent.driver.runners.runner import Runner
    from mmgevent.job.job import Job


class ForeignCluster(BaseCluster):
    """Submit and run jobs on another engine.  Make a subclass, or an `EngineCluster`.

    What only our own engine has is refused by name: `watch`, `tell`, `dismiss`.
    """

    def __init__(self, engine: str, end: Callable[[], None] | None = None):
        """`engine`: its name in messages.  `end()` is called once, when the cluster is closed."""
        super().__init__()
        #: name of the engine in messages
        self.engine = engine
        self._end_engine = end

    @property
    def address(self) -> None:
        """None: no port is open."""
        return None

    def wait_ready(self) -> None:
        """Return at once: the engine was there when this was made."""
        self._check_process()

    def close(self) -> None:
        """Wait for running jobs and their callbacks, then leave the engine. Idempotent."""
        self._check_process()
        with self._lock:
            handles = list(self._handles)
        is_callback = any(handle.is_own_thread for handle in handles)
        for handle in handles:
            handle.join(with_callbacks=not is_callback)
        self._end()

    def watch(self, on_joined: Any, on_left: Any, on_tell: Any) -> NoReturn:
        """Refuse: only our own engine knows its workers one by one."""
        self._refuse("watch")

    def tell(self, number: int, data: bytes) -> NoReturn:
        """Refuse: only workers of our own engine receive messages."""
        self._refuse("tell")

    def dismiss(self, number: int, reason: str) -> NoReturn:
        """Refuse: only our own engine's workers can be sent away."""
        self._refuse("dismiss")

    def workers(self, *, measure: bool = False) -> NoReturn:
        """Refuse: ask the engine itself."""
        self._refuse("workers")

    def _describe(self) -> str:
        return "closed" if self._is_closed else f"on {self.engine}"

    def _engine_name(self) -> str:
        return self.engine

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{what}() needs workers of mmgevent, and this job runs on {self.engine}")

    def _end(self) -> None:
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed and self._end_engine is not None:
            self._end_engine()


class EngineCluster(ForeignCluster):
    """A cluster on an engine of futures."""

    def __init__(
        self, engine: str, make_futures: Callable[[], Futures], end: Callable[[], None] | None = None
    ):
        """`make_futures()` returns the engine's `Futures` for one job."""
        super().__init__(engine, end)
        self._make_futures = make_futures

    def _make_runner(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        from mmgevent.driver.runners.futures import FuturesRunner

        futures = self._make_futures()
        try:
            return FuturesRunner(job, futures, on_progress=on_progress, on_notice=on_notice)
        except BaseException:
            futures.close()
            raise
