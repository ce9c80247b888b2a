"""The output of one job on its way from the server to the driver.

Outputs of reduce tasks, and items that map tasks have set aside, wait in one queue.  One greenlet
sends them, one lane at a time, as fast as the driver grants credit.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from gevent.event import Event

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.store import JobStore, Output
from mmgevent.wire.frames import RESULT, Frame, Lane, join_payloads
from mmgevent.wire.lanes import RESULT_WINDOW
from mmgevent.wire.messages import control
from mmgevent.wire.shapes import MAX_INT


class _Parcel(NamedTuple):
    """Some partitions of one output."""

    task: int
    partitions: tuple[int, ...]
    output: Output
    #: Further fields of the `results` message: batch and worker of items set aside, or keys and counters.
    about: dict[str, Any]


class Delivery:
    """The queue of outputs for one driver."""

    def __init__(self, link: Link, driver_job: int, store: JobStore):
        """`link` leads to the driver, which knows the job as `driver_job`."""
        self._link = link
        self._driver_job = driver_job
        self._store = store
        self._queue: deque[_Parcel] = deque()
        self._has_news = Event()
        self._has_ended = False
        #: Lane of the last output that was begun.
        self._lane: Lane | None = None
        #: Outputs and records queued so far.
        self.result_tasks = 0
        self.records_out = 0

    def add(
        self, task: int, partitions: tuple[int, ...], output: Output, keys: int, counters: dict[str, int]
    ) -> None:
        """Queue the output of a reduce task, how many keys it had, and what its functions counted."""
        self.records_out += sum(output.flushes.records)
        about = {"keys": min(keys, MAX_INT), **({"counters": counters} if counters else {})}
        self._put(_Parcel(task, partitions, output, about))

    def add_set_aside(self, task: int, partition: int, output: Output, batch: int, worker: str) -> None:
        """Queue what a committed map attempt has set aside in `partition`, if anything."""
        if output.count(partition):
            self._store.lend(output)
            self._put(_Parcel(task, (partition,), output, {"batch": batch, "worker": worker}))

    def _put(self, parcel: _Parcel) -> None:
        self.result_tasks += 1
        self._queue.append(parcel)
        self._has_news.set()

    def end(self) -> None:
        """Note that every output is queued."""
        self._has_ended = True
        self._has_news.set()

    def send_all(self) -> None:
        """Send the queue until its end (blocks).  Raises LinkClosed and StoreError."""
        while True:
            while self._queue:
                parcel = self._queue.popleft()
                self._send(parcel)
                if "batch" in parcel.about:
                    self._store.give_back(parcel.output)
                else:
                    self._store.free(parcel.output)
            if self._has_ended:
                return
            self._has_news.clear()
            self._has_news.wait()

    def _send(self, parcel: _Parcel) -> None:
        lane = self._lane = (self._driver_job, parcel.task, 0)
        rows: dict[int, list[int]] = {partition: [partition, 0, 0] for partition in parcel.partitions}
        flushes = parcel.output.flushes
        for partition, n_bytes, records in zip(
            flushes.partitions, flushes.lengths, flushes.records, strict=True
        ):
            if partition in rows:
                row = rows[partition]
                row[1] += n_bytes
                row[2] += records
        parts = list(rows.values())
        size = sum(row[1] for row in parts)
        self._link.open_lane(lane, RESULT_WINDOW)
        self._link.send_in_lane(control("results", *lane, parts=parts, size=size, **parcel.about))
        for partition in rows:
            for data in join_payloads(self._store.read_output(parcel.output, partition)):
                self._link.send_in_lane(Frame(RESULT, data, *lane))
                self._link.wait_for_room(lane, RESULT_WINDOW)
        self._link.wait_for_room(lane, 0)
        self._link.close_lane(lane)

    def close(self) -> None:
        """Drop the queue. The store frees the outputs."""
        if self._lane is not None:
            self._link.drop_lane(self._lane)
        self._queue.clear()
