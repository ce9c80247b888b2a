"""How large the input of a job is, as soon as that can be known.

What costs nothing is found when the job is submitted: the length of a collection, the sizes of some
files. Folders and footers of Parquet are looked at in a thread of its own, and only once somebody
asks. At the end of the datasource the feeder knows all of it.
"""

from __future__ import annotations

import threading
from typing import Any

from mmgevent.errors import MmgeventError, StartError
from mmgevent.job.inputs.source import Source
from mmgevent.job.inputs.totals import Total, count_items, is_of_files, quick_total, slow_total
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread

log = get_log(__name__)


class InputTotal:
    """The size of one job's input. Any thread may ask."""

    def __init__(self, opened: Any, *, is_oneshot: bool = False):
        """`opened`: what is walked through. `is_oneshot`: each worker gets one item, so nobody knows."""
        #: whether items stand in files or a database: the driver reads refs to them, and no items
        self.is_source = isinstance(opened, Source)
        #: whether bytes mean something
        self.is_of_files = is_of_files(opened)
        self._total = Total()
        #: bytes that were read, once the datasource has ended
        self.bytes_read: int | None = None
        self._source: Source | None = None  # to be looked at
        self._is_closed = False
        if is_oneshot:
            return
        if not self.is_source:
            self._total = Total(count_items(opened))
            return
        quick = quick_total(opened)
        if quick is not None:
            self._total = quick
        elif self.is_of_files:
            self._source = opened

    @classmethod
    def of_results(cls, count: int) -> InputTotal:
        """Return the size of an input that is so many results of another job."""
        made = cls(())
        made._total = Total(count)
        return made

    @property
    def items(self) -> int | None:
        """Return the number of items, or None."""
        return self._total.items

    @property
    def n_bytes(self) -> int | None:
        """Return the bytes of the input, or None if they are not known or mean nothing."""
        if not self.is_of_files:
            return None
        return self._total.n_bytes if self.bytes_read is None else self.bytes_read

    @property
    def entries_and_weight(self) -> tuple[int | None, int | None]:
        """Return the number of entries and the weight of all batches, each None if it is not known.

        An entry of a source may be many items, and a source of files weighs its bytes.
        """
        return None if self.is_source else self._total.items, self.n_bytes

    def look(self) -> None:
        """Begin to find out what is not known. Idempotent."""
        source, self._source = self._source, None
        if source is None or self.bytes_read is not None:
            return
        thread = threading.Thread(target=self._look_at, args=(source,), name="mmgevent-total", daemon=True)
        try:
            start_thread(thread)
        except StartError as error:
            log.debug("the size of the input stays unknown: %s", error)

    def end(self, entries: int, n_bytes: int) -> None:
        """Note that the datasource has ended, with so many entries and bytes."""
        if self.is_of_files:
            self.bytes_read = n_bytes
        if not self.is_source:
            self._total = Total(entries)

    def close(self) -> None:
        """Look no further. Idempotent."""
        self._is_closed = True

    def _look_at(self, source: Source) -> None:
        try:
            self._total = slow_total(source, lambda: self.bytes_read is None and not self._is_closed)
        except (MmgeventError, OSError) as error:  # the job itself says so if it matters
            log.debug("the size of the input stays unknown: %s", error)
