"""One job on the server: its code, its input, its segments and its results.

A hosted job knows the link of its driver and its own store; it does not know workers or the
scheduler.  The server reads none of its bytes: batches are chunks with a count, code is chunks,
results are segments.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent

from mmgevent.engine.greenlets import spawn
from mmgevent.engine.net.link import Link
from mmgevent.engine.server.batches import JobInput
from mmgevent.engine.server.delivery import Delivery
from mmgevent.engine.server.figures import JobFigures
from mmgevent.engine.server.history.history import JobHistory
from mmgevent.engine.server.intake import Intake, Share, append_chunk
from mmgevent.engine.server.kept_results import KeptResults
from mmgevent.engine.server.prints import HostedSignals
from mmgevent.engine.server.store import JobStore
from mmgevent.engine.server.task_log import TaskLog
from mmgevent.engine.server.terms import check_terms
from mmgevent.errors import LinkClosed, MmgeventError, OptionError, ProtocolError, StoreError
from mmgevent.machine.logs import get_log
from mmgevent.wire.frames import CODE, Frame
from mmgevent.wire.lanes import CODE_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control

log = get_log(__name__)

DISK_ADVICE = "free some disk, or set TMPDIR to a folder that has room"


class JobCode:
    """The code of a job, and in front of it the surroundings of the driver.

    Surroundings are for executors of the driver's own machine only.
    """

    def __init__(self, submit: dict[str, Any], share: Share):
        """`submit`: the driver's message.  `share`: the memory of its link for code."""
        self._share = share
        self.code_bytes: int = submit["code_bytes"]
        self.context_bytes: int = submit.get("context_bytes", 0)
        self.fingerprint: str = submit["fingerprint"]
        self._context: list[bytes] = []
        self._code: list[bytes] = []
        self._received = 0  # bytes
        self._held = 0  # bytes that count against the share
        self._window = ReceiveWindow(CODE_WINDOW)

    @property
    def size(self) -> int:
        """Return the bytes of context and code together."""
        return self.context_bytes + self.code_bytes

    @property
    def is_whole(self) -> bool:
        """Return whether every byte has arrived."""
        return self._received == self.size

    def receive(self, data: bytes) -> int:
        """Take bytes of the context, then of the code; return the credit to grant.

        Raises MmgeventError if the link may hold no more code.
        """
        self._window.received(len(data))
        if len(data) > self._share.room_bytes:
            raise too_much_code(self._share)
        missing = max(0, self.context_bytes - self._received)
        self._received += len(data)
        if self._received > self.size:
            raise ProtocolError(f"more than the announced {self.size} bytes of code came")
        self.hold(len(data))
        if missing:
            append_chunk(self._context, data[:missing])
        if len(data) > missing:
            append_chunk(self._code, data[missing:])
        return self._window.consumed(len(data))

    def hold(self, n_bytes: int) -> None:
        """Count bytes against the share, until `close`."""
        self._held += n_bytes
        self._share.arrive(n_bytes, promised=False)

    def chunks(self, *, with_context: bool) -> Iterator[bytes]:
        """Yield all bytes, without the context unless asked for."""
        if with_context:
            yield from self._context
        yield from self._code

    def close(self) -> None:
        """Free the memory."""
        self._context.clear()
        self._code.clear()
        held, self._held = self._held, 0
        self._share.give_back(held)


class HostedJob:
    """One job that a driver submitted."""

    def __init__(
        self,
        history: JobHistory,
        link: Link,
        driver_job: int,
        submit: dict[str, Any],
        store: JobStore,
        intake: Intake,
        code_share: Share,
        on_failure: Callable[[HostedJob, dict[str, Any]], None],
    ):
        """`history`: what is remembered of it.  `submit`: the driver's message.

        `on_failure`: called with a failure that ends the job.

        Raises MmgeventError if the message announces more than a job may have, OptionError if an
        option makes no sense.
        """
        self.number = history.number
        self.history = history
        self.rules = check_terms(submit)
        self.name: str = submit["name"]
        # Decoded they could take twenty times as much memory.
        self._options = json.dumps(submit["options"]).encode("ascii")
        #: Partitions that an earlier server delivered, ascending.
        self.delivered = array("H", sorted(set(submit.get("skip", ()))))
        self.link = link
        self.driver_job = driver_job
        self.store = store
        self.code = JobCode(submit, code_share)
        is_oneshot = self.rules.allocation == "oneshot"
        self.input: JobInput = JobInput(link, driver_job, intake, is_oneshot=is_oneshot)
        self.delivery = Delivery(link, driver_job, store)
        #: Results that stay here, as the input of a job to come. None: they go to the driver.
        self.kept = KeptResults(store) if submit.get("keep") else None
        self.signals = HostedSignals(
            self._send_prints, history.note_lines, is_silent=submit["options"].get("silent", False)
        )
        self._on_failure = on_failure
        #: The scheduler knows the job: its code is here, and it is neither done nor failed.
        self.is_scheduled = False
        #: Number of partitions, 0 before the job started.
        self.partitions = 0
        #: {partition: bytes} to reduce, once the map phase is over.
        self.sizes: dict[int, int] = {}
        #: The last two workers that did tasks of it.
        self.done_by: tuple[int, ...] = ()
        #: {task: the worker that says it fails}, while another tries it
        self.doubts: dict[int, int] = {}
        self.figures = JobFigures(time.monotonic())
        self._last_progress: dict[str, Any] = {}
        self._greenlets: set[gevent.Greenlet] = set()
        #: Greenlet that writes pending output to the disk, or None if nothing is pending.
        self.spilling: gevent.Greenlet | None = None
        #: What its driver is told of attempts that ended; None unless it keeps a log.
        self.task_log = TaskLog() if submit["options"].get("logs") else None
        self.announcement(with_context=True)  # raises if it does not fit a frame
        self.code.hold(len(self._options))

    @property
    def id(self) -> str:
        """Return its name on this server, which no other job ever has."""
        return self.history.id

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that the driver sent."""
        options: dict[str, Any] = json.loads(self._options)
        return options

    # code

    def receive_code(self, data: bytes) -> bool:
        """Take bytes of the code; return whether the code is whole.

        Raises MmgeventError if the server can hold no more code of this driver.
        """
        granted = self.code.receive(data)
        if granted:
            self.link.send(grant_frame((self.driver_job, 0, 0), granted))
        return self.code.is_whole

    def announcement(self, *, with_context: bool) -> Frame:
        """Return the message that announces this job to a worker.

        Raises OptionError if the options do not fit a frame.
        """
        try:
            return control(
                "job",
                self.number,
                options=self.signals.prints.choose_options(self.options),
                code_bytes=self.code.code_bytes,
                fingerprint=self.code.fingerprint,
                context_bytes=(self.code.context_bytes or None) if with_context else None,
            )
        except ValueError as error:
            raise OptionError(f"the job's options are too large: {error}") from error

    def send_code(self, worker: Link, *, with_context: bool) -> None:
        """Announce this job to a worker and send it the code."""
        lane = (self.number, 0, 0)
        worker.send(self.announcement(with_context=with_context))
        worker.open_lane(lane, CODE_WINDOW)
        for chunk in self.code.chunks(with_context=with_context):
            worker.send_in_lane(Frame(CODE, chunk, *lane))
        worker.close_lane(lane)

    def note_done_by(self, worker: int) -> None:
        """Note that a worker did a task of the job."""
        if worker not in self.done_by:
            self.done_by = (*self.done_by[-1:], worker)

    # messages to the driver

    def send(self, type: str, task: int = 0, **fields: Any) -> None:
        """Send the driver a message about this job."""
        self.link.send(control(type, self.driver_job, task, **fields))

    def _send_prints(self, **fields: Any) -> bool:
        return self.link.send_if_room(control("printed", self.driver_job, **fields))

    def send_progress(self, phase: str, **numbers: Any) -> None:
        """Send the driver how far the job is, unless nothing changed."""
        figures = self.figures
        numbers.update(items=figures.items, retries=figures.retries, peak=figures.peak_bytes or None)
        numbers["counters"] = self.signals.counters.counts() or None
        progress = {"phase": phase, **numbers}
        if progress != self._last_progress:
            self._last_progress = progress
            self.send("progress", **progress)

    def end_progress(self) -> None:
        """Send the driver that the last reduce task is done, if it was told of such tasks."""
        last = self._last_progress
        if last.get("phase") == "reduce":
            self.send("progress", **{**last, "done": last["total"], "waiting": 0, "running": 0, "busy": 0})

    def tell_task_ends(self, *, is_last: bool = False) -> None:
        """Send the driver what is new for its job log, if it keeps one."""
        if self.task_log is not None:
            self.task_log.flush(self.link, self.driver_job, is_last=is_last)

    def send_results(self) -> None:
        """Send the driver all results and then the end of the job (blocks).

        Results that are kept stay here.
        """
        self.delivery.send_all()
        self.signals.prints.end()
        kept = self.kept
        if kept is not None:
            self.code.close()  # nothing of it runs any more
            kept.is_whole = True
        self.tell_task_ends(is_last=True)
        self.send(
            "job_done" if kept is None else "stage_done",
            stats={
                "results": self.delivery.result_tasks,
                "records": self.delivery.records_out if kept is None else kept.records,
                **self.stats(),
                "counters": self.signals.counters.counts(),
            },
        )

    def stats(self) -> dict[str, Any]:
        """Return the figures so far, for the driver."""
        return {
            "seconds": time.monotonic() - self.figures.started_s,
            "map_seconds": self.input.seconds_done,
            "spilled_bytes": self.store.spilled_bytes,
            **self.figures.as_stats(),
        }

    # greenlets

    def spawn(self, function: Callable[..., None], *args: Any) -> gevent.Greenlet:
        """Run a function in a greenlet that ends with the job.  Its errors fail the job."""
        greenlet = spawn(self._on_fault, self._guard, function, *args)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        return greenlet

    def _on_fault(self, greenlet: gevent.Greenlet) -> None:
        """Fail the job: its failure could not be reported as it should."""
        log.error("job failed by an internal error: %s", self.id, exc_info=greenlet.exc_info)
        self._on_failure(self, internal_failure(greenlet.exception))

    def _guard(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except LinkClosed as error:
            log.debug("%s stopped: %s", self.id, error)  # the link's on_close handles it
        except StoreError as error:
            self._on_failure(self, {"kind": "disk", "error": str(error), "advice": DISK_ADVICE})
        except Exception as error:
            log.exception("job failed by an internal error: %s", self.id)
            self._on_failure(self, internal_failure(error))

    def close(self) -> None:
        """Free everything: greenlets, memory, disk. What does not close keeps none of the others."""
        current = gevent.getcurrent()
        with ExitStack() as parts:
            for part in (self.store, self.code, self.input, self.delivery):  # the last one first
                parts.callback(part.close)
            gevent.killall([g for g in self._greenlets if g is not current], block=False)
            self._greenlets.clear()


def too_much_code(share: Share) -> MmgeventError:
    """Return the error of a job whose code the server cannot hold now."""
    used, ours = share.intake.held_bytes, share.held_bytes
    return MmgeventError(
        f"this server has {used} bytes of jobs' code already, {ours} of them this driver's: try again later"
    )


def internal_failure(error: BaseException) -> dict[str, Any]:
    """Return the failure of a job that ends by a bug of mmgevent."""
    return {"kind": "internal", "error": f"internal error: {type(error).__name__}: {error}"}
