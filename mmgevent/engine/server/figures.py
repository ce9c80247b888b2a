"""The figures of one job on the server: sums of what its tasks report.

Only attempts that count are summed: those whose output was committed. Sums of what workers report
are integers, and those that progress has stay below MAX_INT: whatever a worker reports, they can be
sent.
"""

from __future__ import annotations

from typing import Any

from mmgevent.wire.shapes import MAX_INT

#: Microseconds of a second: what workers report is finer than a millisecond.
_US = 1_000_000


class JobFigures:
    """Sums over the tasks of one job."""

    def __init__(self, now: float):
        #: when the job was submitted, by `monotonic`
        self.started_s = now
        #: when its reduce phase began, by `monotonic`; 0.0 before
        self.reduce_began_s = 0.0
        #: items that were mapped, without those that were set aside
        self.items = 0
        #: records of mapfn
        self.mapped_records = 0
        #: different keys that were reduced
        self.keys = 0
        #: times that items or tasks were tried again after an exception
        self.retries = 0
        #: bytes of all records between map and reduce; None before they are known
        self.shuffled_bytes: int | None = None
        #: most memory that an executor had; 0 while none has reported
        self.peak_bytes = 0
        self._cpu_us = 0
        self._has_cpu = False
        self._slot_s = 0.0
        self._slots = 0
        self._noted_s: float | None = now

    def add(self, done: dict[str, Any], *, is_map: bool) -> None:
        """Add the `done` message of an attempt that counts."""
        if is_map:
            self.items = min(self.items + done["items"], MAX_INT)
            self.mapped_records += done["records"]
        else:
            self.keys += done["groups"]
        self.add_retries(done.get("retries", 0))
        self.peak_bytes = max(self.peak_bytes, done.get("peak_bytes", 0))
        if "cpu_us" in done:
            self._has_cpu = True
            self._cpu_us += done["cpu_us"]

    def add_retries(self, count: int) -> None:
        """Count so many more retries."""
        self.retries = min(self.retries + count, MAX_INT)

    def note_slots(self, slots: int, now: float) -> None:
        """Note that the job may have had so many slots since the last call."""
        if self._noted_s is not None:
            self._slot_s += (self._slots or slots) * max(0.0, now - self._noted_s)
            self._slots, self._noted_s = slots, now

    def end(self, slots: int, now: float) -> None:
        """Note that no task of the job is left."""
        self.note_slots(slots, now)
        self._noted_s = None

    def as_stats(self) -> dict[str, Any]:
        """Return the figures that are known, for the driver."""
        stats: dict[str, Any] = {
            "items": self.items,
            "mapped_records": self.mapped_records,
            "retries": self.retries,
        }
        if self.shuffled_bytes is not None:  # the reduce phase has begun
            stats.update(keys=self.keys, shuffled_bytes=self.shuffled_bytes)
        if self._slot_s:
            stats["slot_seconds"] = self._slot_s
        if self.peak_bytes:
            stats["peak_bytes"] = self.peak_bytes
        if self._has_cpu:
            stats["cpu_seconds"] = self._cpu_us // _US + round(self._cpu_us % _US / _US, 6)
        return stats
