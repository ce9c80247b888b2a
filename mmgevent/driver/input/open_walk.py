"""A walk through a datasource, and who ends it.

The end of a walk runs code of the user's: what stands in `finally` and `with` of a generator. It
belongs to the thread that iterates. A generator cannot be closed while it runs, and what it has
opened may be bound to its thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

from mmgevent.job.inputs.walks import release_dropped
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log

log = get_log(__name__)

Item = tuple[Any, Any, int]


class OpenWalk:
    """One walk, which is closed in the thread that iterates."""

    def __init__(self, job: Job[Any, Any], opened: Any):
        """opened: what is walked through, as `Job.open_datasource` returns it.

        A generator is closed with the walk, even if the program keeps it: the job has claimed it.
        """
        self._name = job.name
        self._items: Iterator[Item] | None = job.walk(opened)
        self._opened = opened if isinstance(opened, GeneratorType) else None
        self._lock = threading.Lock()
        self._thread: int | None = None

    def items(self) -> Iterator[Item] | None:
        """Return the items that are left, which this thread iterates over; None if it is closed."""
        with self._lock:
            if self._items is not None:
                self._thread = threading.get_ident()
            return self._items

    def close(self) -> None:
        """End the walk where it stands. Idempotent.

        In another thread than that which iterates, it does nothing: that thread may be in the
        user's code for as long as it likes. It calls this, too, when it comes back.
        """
        with self._lock:
            if self._thread not in (None, threading.get_ident()):
                return
            items, self._items = self._items, None
        opened, self._opened = self._opened, None
        for each in (items, opened):
            if isinstance(each, GeneratorType):
                self._close(each)
        del items, opened, each
        release_dropped()

    def _close(self, generator: GeneratorType[Any, None, None]) -> None:
        try:
            generator.close()
        except (Exception, SystemExit) as error:  # the job has ended as it has
            log.warning(
                "the datasource of job %s raised %s when it was closed: %s",
                self._name,
                type(error).__name__,
                error,
            )
