"""The jobs of `differential` in virtual time, with the server's own code between simulated drivers and workers.

    $ python -m tests.trust.differential_simulation SEED...

`cluster_simulation` says what goes wrong meanwhile: links are cut, executors die, the server is lost. Half of the
workers map and reduce with the C core, the others with its Python twin. Each job ends as `Drawn.expected` and
`Drawn.fault` have it, and leaves nothing in the server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from mmgevent import _speedups
from mmgevent._speedups import _fallback
from mmgevent.job.functions import Functions
from mmgevent.tasks import mapping, records
from tests.trust import differential
from tests.trust.cluster_simulation import Cluster, Job, SimulatedWorker, replay
from tests.trust.comparing import canonical, check_same, plain

#: Most items of a job, so that a seed takes some tens of milliseconds.
MAX_ITEMS = 60
#: Where tasks look the functions of the core up.
_LOOKED_UP = (_speedups, mapping)
_TWIN = {name: getattr(_fallback, name) for name in _speedups.__all__ if hasattr(_fallback, name)}


class DrawnJob(Job):
    """A drawn job, as its driver knows it."""

    def __init__(self, cluster: Cluster, drawn: differential.Drawn):
        super().__init__(cluster)
        # Functions that wait for files or end their process have no place here.
        troubles = {
            n: "raise" if what == "die" else what
            for n, what in drawn.recipe.troubles.items()
            if n < MAX_ITEMS
        }
        recipe = dataclasses.replace(drawn.recipe, troubles=troubles, flaky=frozenset(), kill_phase="")
        self.drawn = dataclasses.replace(drawn, recipe=recipe, count=min(drawn.count, MAX_ITEMS), finish="")
        self.batches = self._cut([(n, n) for n in range(self.drawn.count)], cluster)
        kept = {
            name: drawn.options[name]
            for name in ("retries", "max_skipped", "partitions")
            if name in drawn.options
        }
        if 0 < kept.get("max_skipped", 0) < 1 and len(troubles) * 2 >= self.drawn.count:
            kept["max_skipped"] = len(troubles)
        self.drawn.options = kept
        self.options = {"retries": 0, "retransmit": cluster.random.choice([0.0, 0.5, 1.0]), **kept}
        self.exceptions = self.options["retries"] * (not troubles)
        self.set_aside: dict[tuple[int, int], Any] = {}

    @staticmethod
    def _cut(items: list[tuple[Any, Any]], cluster: Cluster) -> list[list[tuple[Any, Any]]]:
        """Cut the items into batches of any size."""
        batches = []
        while items:
            size = cluster.random.choice([1, 2, 7, 30])
            batches.append(items[:size])
            items = items[size:]
        return batches

    @property
    def functions(self) -> Functions:  # type: ignore[override]
        return Functions.of(*self.drawn.functions(self.drawn.recipe))

    def begin_again(self) -> None:
        super().begin_again()
        self.exceptions = self.options["retries"] * (not self.drawn.recipe.troubles)

    def take_set_aside(self, batch: int, data: bytes) -> None:
        offset = 0
        while offset < len(data):
            segment = records.decode_segment(data, offset)
            for key, row in zip(segment.keys, segment.values, strict=True):
                self.set_aside[batch, row[0]] = key
            offset = segment.end

    def take_result(self, key: Any, value: Any) -> None:
        key = canonical(key)
        assert key not in self.results, "a key was reduced twice"
        self.results[key] = plain(value)

    def check(self) -> None:
        assert self.end is not None
        if fault := self.drawn.fault:
            assert self.end.startswith("skipped:") == (fault == "TooManySkippedError"), self.end
            assert self.end != "done"
            return
        assert self.end == "done", self.end
        check_same(self.results, self.drawn.expected())
        assert sorted(self.set_aside.values()) == sorted(self.drawn.recipe.troubles)


class MixedWorker(SimulatedWorker):
    """A worker with the C core or without."""

    #: "failed" may overtake the outcome, and then ends a job that has no retries: nobody can tell that it is no truth
    late_words = ("output", "done", "returned", "kept")

    def __init__(self, cluster: Cluster, slots: int):
        super().__init__(cluster, slots)
        self.is_pure = cluster.chance(0.5)

    @contextlib.contextmanager
    def core(self) -> Iterator[None]:
        if not self.is_pure:
            yield
            return
        before = [
            (module, name, vars(module)[name])
            for module in _LOOKED_UP
            for name in _TWIN
            if name in vars(module)
        ]
        for module, name, _ in before:
            setattr(module, name, _TWIN[name])
        try:
            yield
        finally:
            for module, name, function in before:
                setattr(module, name, function)


class DrawnCluster(Cluster):
    """A simulated cluster with one drawn job, sometimes beside another."""

    worker_class = MixedWorker
    command = "python -m tests.trust.differential_simulation"
    chaos_steps = 150

    def __init__(self, seed: int):
        super().__init__(seed)
        self.drawn = differential.draw(seed)
        if self.drawn.recipe.value == "long":
            self.window_bytes = 1 << 20  # else it takes a step for each 50 bytes

    def draw_jobs(self) -> Iterator[Job]:
        yield DrawnJob(self, self.drawn)
        if self.chance(0.1):
            yield Job(self)


def replay_drawn(seed: int) -> Cluster:
    """Run one seed; whatever goes wrong comes with the command that does it again."""
    return replay(seed, DrawnCluster)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        done = replay_drawn(int(argument))
        sys.stdout.write(
            f"seed {argument}: {done.step} steps, {len(done.servers)} servers, "
            f"{', '.join(str(job.end) for job in done.jobs)}, {sum(len(job.results) for job in done.jobs)} results\n"
        )
