"""How far a job is, and how long the rest of its phase will take.

Runners report what they know. `complete` adds what the driver knows: how large the input is, and the
time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmgevent.driver.input.total import InputTotal

#: Time of a phase before anybody guesses when it ends, seconds. Earlier rates are mostly start-up.
GUESS_AFTER_S = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a job is. What a runner does not know is None."""

    #: "starting", "map", "plan" or "reduce"; in the end "done", "failed" or "cancelled"
    phase: str = "starting"
    #: items in the map phase, tasks in the reduce phase
    done: int = 0
    #: The whole, in the unit of `done`; None while it is not known.
    total: int | None = None
    waiting: int = 0
    running: int = 0
    workers: int = 0
    slots: int = 0
    #: bytes of files that were mapped; 0 if the input is no files
    bytes: int = 0
    #: items that were set aside
    skipped: int = 0
    #: the stage of a chain that runs, from 1, and their number
    stage: int = 1
    stages: int = 1
    #: items that were mapped, without those set aside
    items: int | None = None
    #: bytes of all files of the input
    total_bytes: int | None = None
    #: slots that have tasks of the job
    busy: int | None = None
    #: times that items or tasks were tried again after an exception
    retries: int | None = None
    #: executors and workers that were lost under the job
    deaths: int = 0
    #: bytes of records that did not fit into memory
    spilled_bytes: int | None = None
    #: most memory of an executor so far
    peak_bytes: int | None = None
    #: share of the phase that is done, from 0 to 1
    fraction: float | None = None
    #: time that the rest of the phase will take at the speed so far
    seconds_left: float | None = None


class PhaseClock:
    """When the phase of a job began, as far as its progress says."""

    def __init__(self) -> None:
        self._phase: tuple[int, str] | None = None
        self._began_s = 0.0
        self._began_at = 0.0  # the share that was done then

    def seconds_left(self, progress: Progress) -> float | None:
        """Return how long the rest of the phase will take, or None if that cannot be said yet."""
        fraction = progress.fraction
        if fraction is None or not progress.workers:
            return None
        now, phase = monotonic(), (progress.stage, progress.phase)
        if phase != self._phase or fraction < self._began_at:
            self._phase, self._began_s, self._began_at = phase, now, fraction
        done, seconds = fraction - self._began_at, now - self._began_s
        if done <= 0 or seconds < GUESS_AFTER_S:
            return None
        return (1 - fraction) * seconds / done


def complete(progress: Progress, total: InputTotal | None, clock: PhaseClock, deaths: int) -> Progress:
    """Return progress with what the driver knows. What the runner has said stays."""
    if total is not None:
        progress = _with_input(progress, total)
    if progress.fraction is None and progress.total and progress.phase in ("map", "plan", "reduce"):
        progress = replace(progress, fraction=min(1.0, progress.done / progress.total))
    left = progress.seconds_left
    if left is None and progress.phase in ("map", "reduce"):
        left = clock.seconds_left(progress)
    return replace(progress, seconds_left=left, deaths=deaths)


def _with_input(progress: Progress, total: InputTotal) -> Progress:
    n_bytes, items = total.n_bytes, total.items
    if not total.is_of_files:
        progress = replace(progress, bytes=0)
    elif n_bytes is not None:
        progress = replace(progress, bytes=min(progress.bytes, n_bytes), total_bytes=n_bytes)
    if progress.phase not in ("starting", "map", "plan"):
        return progress
    if n_bytes:
        progress = replace(progress, fraction=progress.bytes / n_bytes)
    if progress.total is None and items is not None and items >= progress.done:
        progress = replace(progress, total=items)
    return progress
