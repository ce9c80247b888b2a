"""Decide where parts end, so that they hold whole partitions, and record which.

A folder tells its `Units` what it writes. They know when a part is due, and add to the record.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mmgevent.job.outputs.record import About, FolderRecord, Unit

if TYPE_CHECKING:
    from mmgevent.job.outputs.folder_files import FolderFiles

#: Age of a part at which it ends with the next partition: this share of the time since the folder
#: was opened. So a kill costs no more than that, and a long job has some hundred parts more.
AGE_SHARE = 0.05

#: The least such age, seconds. A part costs up to 30 ms, for it waits for the disk.
MIN_AGE_S = 0.25


class Units:
    """The units of one run: the one that is being written, and those in the record."""

    def __init__(self, files: FolderFiles, about: About):
        self.about = about
        self._files = files
        self._opened_s = self._part_opened_s = time.monotonic()
        #: whether there is a record of this run, or of the one that it continues
        self.is_recorded = False
        self._parts: list[dict[str, Any]] = []  # whose last partition goes on in the next one
        self._partitions: list[int] = []  # that have ended since the last unit
        self._of = 0  # number of all partitions
        #: whether the last record that was written is the last one of its partition
        self.is_between = False
        self._partition_bytes = 0  # of the partition that is being written
        self._largest_bytes = 0  # of a partition
        self._ends = False  # with the part that gets its name now

    def begin_part(self) -> None:
        """Note that a part was opened."""
        self._part_opened_s = time.monotonic()

    def add_bytes(self, n_bytes: int) -> None:
        """Note that a record was written."""
        self._partition_bytes += n_bytes
        self.is_between = False

    def add_partitions(self, partitions: tuple[int, ...], of: int) -> None:
        """Note that partitions, `of` all, have ended."""
        self._partitions += partitions
        self._of = of
        self.is_between = True
        self._largest_bytes = max(self._largest_bytes, self._partition_bytes)
        self._partition_bytes = 0

    def is_due(self, room_bytes: int) -> bool:
        """Return whether the unit is to end, if the part has room for so many bytes."""
        return self.is_between and (bool(self._parts) or room_bytes < self._largest_bytes or self.is_old())

    def is_old(self) -> bool:
        """Return whether a kill would cost more than it should."""
        now_s = time.monotonic()
        return now_s - self._part_opened_s > max(MIN_AGE_S, AGE_SHARE * (now_s - self._opened_s))

    def end(self) -> None:
        """Note that the unit ends with the part that gets its name next."""
        self._ends = True

    def record_end(self, part: dict[str, Any]) -> None:
        """Add the unit to the record if it ends with this part, which has no name yet."""
        if not self._ends:
            return
        if not self.is_recorded:
            self.keep(FolderRecord(self.about, self._of, []))
        self._files.add_unit(Unit([*self._parts, part], self._partitions))

    def add_unit(self, parts: list[dict[str, Any]], partitions: tuple[int, ...], of: int) -> None:
        """Add parts that executors have written, and that hold whole partitions, to the record."""
        if not self.is_recorded:
            self.keep(FolderRecord(self.about, of, []))
        self._files.add_unit(Unit(parts, list(partitions)))

    def keep(self, record: FolderRecord) -> None:
        """Go on from a record."""
        self._files.write_record(record)
        self.is_recorded = True

    def add_part(self, part: dict[str, Any]) -> None:
        """Note that a part has its name."""
        self._parts.append(part)
        if self._ends:
            self._parts, self._partitions, self._ends = [], [], False
