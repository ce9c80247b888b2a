"""Workers that mmg-run waits for: --expect-workers, and --workers-timeout while a job runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmgevent.cli.exits import say
from mmgevent.cli.options import Arguments
from mmgevent.errors import JobCancelled, NoWorkersError
from mmgevent.machine.resources import start_thread

if TYPE_CHECKING:
    from mmgevent.driver.base_cluster import BaseCluster
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.watching import PeerInfo
    from mmgevent.job.job import Job

#: Time between two looks at whether the cluster still works, and between two lines that say how
#: many workers are there, seconds. People read no faster.
LOOK_S = 1.0


def await_workers(command: str, cluster: BaseCluster, job: Job[Any, Any], arguments: Arguments) -> None:
    """Wait for the workers that --expect-workers asks for. Raises what is wrong with the job before."""
    job.check()  # before anybody waits for a job that cannot run

    def say_unless_quiet(text: str) -> None:
        if not arguments.quiet:
            say(command, text)

    wait_for_workers(cluster, arguments.expect_workers, arguments.workers_timeout, say_unless_quiet)


def wait_for_workers(
    cluster: BaseCluster, expected: int, timeout_s: float | None, say: Callable[[str], None]
) -> None:
    """Return as soon as the cluster has so many workers. `say(text)` tells people how many it has.

    Raises NoWorkersError after `timeout_s`, and whatever keeps the cluster from working.
    """
    presence = _Presence()
    cluster.wait_ready()
    cluster.watch(presence.on_joined, presence.on_left, lambda number, data: None)
    deadline_s = None if timeout_s is None else monotonic() + timeout_s
    said = -1
    while True:
        left_s = LOOK_S if deadline_s is None else min(LOOK_S, deadline_s - monotonic())
        count = presence.wait_for(expected, left_s)
        if count >= expected:
            return
        if deadline_s is not None and monotonic() >= deadline_s:
            raise NoWorkersError(
                f"{count} of {_workers(expected)} joined in {timeout_s:g} s; start more with mmg-worker, "
                f"expect fewer with --expect-workers, or wait longer with --workers-timeout"
            )
        if count != said:
            said = count
            say(f"waiting for {_workers(expected)}: {count} so far")
        cluster.wait_ready()


@contextlib.contextmanager
def watching_for_workers(
    handle: JobHandle[Any, Any], most_workers: Callable[[], int], timeout_s: float
) -> Iterator[None]:
    """Cancel the job and raise NoWorkersError if no worker joins in `timeout_s`.

    `most_workers()` returns how many workers the job has had at once, at most.
    """
    is_late = threading.Event()

    def check() -> None:
        if not most_workers():
            is_late.set()
            handle.cancel()

    timer = threading.Timer(timeout_s, check)
    timer.daemon = True
    start_thread(timer)
    try:
        yield
    except JobCancelled:
        if is_late.is_set():
            raise NoWorkersError(
                f"no worker joined in {timeout_s:g} s; start one with mmg-worker, "
                f"or wait longer with --workers-timeout"
            ) from None
        raise
    finally:
        timer.cancel()


class _Presence:
    """The workers that are there. Two threads use it."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._changed = threading.Condition()

    def on_joined(self, peer: PeerInfo) -> None:
        with self._changed:
            self._numbers.add(peer.number)
            self._changed.notify_all()

    def on_left(self, number: int, reason: str) -> None:
        with self._changed:
            self._numbers.discard(number)

    def wait_for(self, expected: int, timeout_s: float) -> int:
        """Wait until there are so many, or for so long. Return how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._numbers) >= expected, timeout_s)
            return len(self._numbers)


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"
