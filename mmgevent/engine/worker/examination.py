"""What a worker finds out about its executors while somebody looks: load, places, stacks.

Nothing here runs unless the server asks. Each question is answered by a greenlet of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gevent

from mmgevent.engine.greenlets import Greenlets
from mmgevent.engine.net.link import Link
from mmgevent.engine.worker.crew import Crew
from mmgevent.engine.worker.deaths import describe_place
from mmgevent.engine.worker.held import CachedJob
from mmgevent.engine.worker.stacks import read_stack
from mmgevent.errors import MmgeventError
from mmgevent.machine.processes import Usage, usage_of
from mmgevent.wire.failures import shorten
from mmgevent.wire.frames import Frame
from mmgevent.wire.hello import PYTHON_VERSION, VERSION
from mmgevent.wire.listings import MAX_STACK_BYTES
from mmgevent.wire.messages import control

#: Time over which CPU time is measured, seconds. The system counts in steps of 10 ms.
SAMPLE_S = 0.25

#: Questions that are being answered at once. The server asks one of each kind at a time.
MAX_QUESTIONS = 20


class Examination:
    """Answers the questions of one worker's server."""

    def __init__(
        self, link: Link, greenlets: Greenlets, crew: Crew, jobs: Mapping[int, CachedJob], name: str
    ):
        """`jobs`: those whose code the worker has. `name` is the worker's."""
        self._link = link
        self._greenlets = greenlets
        self._crew = crew
        self._jobs = jobs
        self._name = name
        self._open = 0

    def take(self, frame: Frame, message: dict[str, Any]) -> None:
        """Answer a question of the server soon."""
        if self._open >= MAX_QUESTIONS:
            self._answer(frame, [], "too many questions at once")
            return
        self._open += 1
        self._greenlets.spawn(self._find_answer, frame, message)

    def _find_answer(self, frame: Frame, message: dict[str, Any]) -> None:
        error = None
        rows: list[dict[str, Any]] = []
        try:
            if message["what"] == "load":
                rows = [self._measure()]
            elif message["what"] == "where":
                rows = self._find_places(frame.job)
            elif message["what"] == "stack":
                stack = read_stack(self._crew.find(message.get("pid", 0)))
                rows = [{"stack": shorten(stack, MAX_STACK_BYTES)}]
            elif message["what"] == "prints":
                self._overhear(frame.job)
            else:
                error = f"mmgevent {VERSION} cannot find out {message['what']!r}"
        except MmgeventError as failed:
            error = str(failed)
        finally:
            self._open -= 1
        self._answer(frame, rows, error)

    def _overhear(self, job: int) -> None:
        """Send from now on what the functions of a job print."""
        if job in self._jobs:
            self._jobs[job].is_silent = False

    def _answer(self, frame: Frame, rows: list[dict[str, Any]], error: str | None) -> None:
        self._link.send(control("examined", frame.job, frame.task, found={"rows": rows}, error=error))

    def _measure(self) -> dict[str, Any]:
        """Return the cores and the memory that the executors use (blocks for SAMPLE_S)."""
        before = self._read_usage()
        gevent.sleep(SAMPLE_S)
        after = self._read_usage()
        cpu_s = sum(usage.cpu_s - before[pid].cpu_s for pid, usage in after.items() if pid in before)
        return {
            "cores": round(max(0.0, cpu_s) / SAMPLE_S, 2),
            "memory_bytes": sum(usage.memory_bytes for usage in after.values()),
        }

    def _read_usage(self) -> dict[int, Usage]:
        found = {executor.pid: usage_of(executor.pid) for executor in self._crew.executors() if executor.pid}
        return {pid: usage for pid, usage in found.items() if usage is not None}

    def _find_places(self, job: int) -> list[dict[str, Any]]:
        """Return a row for each executor of a job that runs an item."""
        rows = []
        for executor, (slot, its_job) in self._crew.posts():
            if its_job.number != job or not executor.pid:
                continue
            position = executor.position()
            attempt = next((a for a in slot.attempts_of(executor) if a.number == position.attempt), None)
            if position.is_setup:
                where = f"setupfn on {self._name}"
            elif attempt is None:
                continue
            else:
                where = describe_place(executor, attempt, self._name)
            rows.append(
                {
                    "pid": executor.pid,
                    "slot": slot.index,
                    "running_s": round(position.running_s, 2),
                    "where": shorten(where, 1000),
                    "python": PYTHON_VERSION,
                    "host": os.uname().nodename,
                }
            )
        return rows
