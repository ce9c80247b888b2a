"""The boxes of this process: one for each job and slot, reused from task to task.

A box ends with its job.  There are four ways to learn of that, and an engine uses those it has:

- `end_job(id)` is called in this process;
- the job's lease, a path, no longer exists;
- the box was idle for IDLE_S;
- this process ends, however that happens.

A task that runs when its job ends raises JobCancelled, and its executor is killed.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from mmgevent.box.box import Box, BoxedJob, worker_name
from mmgevent.errors import JobCancelled, StartError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread

log = get_log(__name__)

#: Time after which an idle box is ended, seconds. The next task of its job starts another in 0.1 s.
IDLE_S = 30.0

#: Time between two looks at idle boxes and at the leases of jobs that run, seconds.
LEASE_LOOK_S = 0.5

#: Ended jobs that are remembered, so that a task of one that arrives late does not run.
MAX_ENDED = 1000

T = TypeVar("T")


class Boxes:
    """Every box of this process.  Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: {job: idle boxes with the time since when}
        self._idle: dict[str, list[tuple[Box, float]]] = {}
        self._busy: set[Box] = set()
        self._ended: OrderedDict[str, None] = OrderedDict()
        #: {job: when its lease was looked at last}
        self._looked_s: dict[str, float] = {}
        self._keeper: threading.Thread | None = None

    def use(
        self,
        job: BoxedJob,
        code: bytes,
        action: Callable[[Box], T],
        is_wanted: Callable[[], bool] | None = None,
    ) -> T:
        """Return `action(box)` with a box of this job, which stops once `is_wanted()` is False.

        Raises JobCancelled if the job has ended, StartError, and what `action` raises.
        """
        box = self._take(job, code)
        try:
            box.is_wanted = is_wanted
            result = action(box)
            is_kept = self._put_back(box)
        except BaseException:
            self._busy.discard(box)
            _close(box)
            raise
        if not is_kept:
            _close(box)
        return result

    def end_job(self, job_id: str) -> None:
        """End the idle boxes of a job now, and those of running tasks within `boxed.LOOK_S`."""
        with self._lock:
            self._ended[job_id] = None
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
            idle = self._idle.pop(job_id, [])
            self._looked_s.pop(job_id, None)
        for box, _ in idle:
            _close(box)

    def is_over(self, job: BoxedJob, look_s: float = LEASE_LOOK_S) -> bool:
        """Return whether a job has ended, as far as this process knows.

        `look_s`: how old the last look at its lease may be.
        """
        if job.id in self._ended:
            return True
        now = monotonic()
        if job.lease is None or now - self._looked_s.get(job.id, 0.0) < look_s:
            return False
        self._looked_s[job.id] = now
        if os.path.exists(job.lease):
            return False
        self.end_job(job.id)
        return True

    def abandon(self) -> None:
        """In a forked child: close the descriptors of all boxes, which stay the parent's."""
        for box in [*self._busy, *(box for idle in self._idle.values() for box, _ in idle)]:
            box.abandon()

    def _take(self, job: BoxedJob, code: bytes) -> Box:
        if self.is_over(job):
            raise JobCancelled("the job has ended")
        with self._lock:
            idle = self._idle.get(job.id)
            box = idle.pop()[0] if idle else None
        if box is None:
            self._end_others()  # of jobs that are over: they leave their templates
            box = Box(job, code, worker_name(), lambda: self.is_over(job))
        self._busy.add(box)
        return box

    def _end_others(self) -> None:
        """End the idle boxes of jobs whose leases have just ended."""
        with self._lock:
            jobs = [idle[0][0].job for idle in self._idle.values() if idle]
        for job in jobs:
            self.is_over(job, 0.0)

    def _put_back(self, box: Box) -> bool:
        """Keep a box for the next task. Return False if there is none, since its job has ended."""
        self._busy.discard(box)
        if self.is_over(box.job):
            return False
        with self._lock:
            if box.job.id in self._ended:  # since the line above: nobody would end it
                return False
            if self._keeper is None:  # first: it ends boxes that are left idle
                keeper = threading.Thread(target=self._keep, name="mmgevent-boxes", daemon=True)
                try:
                    start_thread(keeper)
                except StartError:
                    return False  # the next task starts another box
                self._keeper = keeper
            self._idle.setdefault(box.job.id, []).append((box, monotonic()))
        return True

    def _keep(self) -> None:
        """End idle boxes whose time is over, until there are none."""
        pause = threading.Event()
        is_needed = True
        while is_needed:
            pause.wait(LEASE_LOOK_S)
            with self._lock:
                jobs = [idle[0][0].job for idle in self._idle.values() if idle]
            for job in jobs:
                self.is_over(job)
            old: list[Box] = []
            with self._lock:
                for job_id, idle in list(self._idle.items()):
                    old += [box for box, since_s in idle if monotonic() - since_s > IDLE_S]
                    self._idle[job_id] = [pair for pair in idle if pair[0] not in old]
                    if not self._idle[job_id]:
                        del self._idle[job_id]
                        self._looked_s.pop(job_id, None)
                is_needed = bool(self._idle)
                if not is_needed:
                    self._keeper = None
            for box in old:
                _close(box)


def _close(box: Box) -> None:
    """Close a box.  If that fails, other boxes are closed all the same, and a result is no worse."""
    try:
        box.close()
    except Exception:
        log.exception("a box cannot be closed: %s", box.job.id)


#: The boxes of this process.
boxes = Boxes()


def _start_anew() -> None:
    global boxes
    parents, boxes = boxes, Boxes()
    parents.abandon()


os.register_at_fork(after_in_child=_start_anew)


def use_box(
    job: BoxedJob, code: bytes, action: Callable[[Box], T], is_wanted: Callable[[], bool] | None = None
) -> T:
    """Return `action(box)` with a box of this process, see `Boxes.use`."""
    return boxes.use(job, code, action, is_wanted)


def end_job(job_id: str) -> None:
    """End the boxes of a job in this process, see `Boxes.end_job`."""
    boxes.end_job(job_id)
