"""What a server asks its workers while somebody looks: their load, where they are, a stack.

A worker answers an `examine` with an `examined` of the same number. It may be slow, old or hostile:
each question has a time limit, and of an answer only known fields of the right type are kept.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
from gevent.event import Event

from mmgevent.engine.server.hosted import HostedJob
from mmgevent.engine.server.workers import WorkerRecord, Workers
from mmgevent.errors import MmgeventError
from mmgevent.shown_text import shown
from mmgevent.wire.failures import shorten
from mmgevent.wire.listings import MAX_STACK_BYTES, PLACE_FIELDS, rows_in
from mmgevent.wire.messages import control
from mmgevent.wire.numbers import next_number

#: Time in which the load of a worker stays what it was measured, seconds. With many workers it is
#: longer, see LOADS_PER_S.
LOAD_S = 2.0

#: Loads that a server has measured a second, at most. An answer costs it 0.1 ms.
LOADS_PER_S = 1000

#: Time that a listing waits for the load of a worker, seconds since the worker was asked. It
#: measures for 0.25 s.
LOAD_WAIT_S = 1.0

#: Workers that are asked where their executors are: those with the oldest attempts.
MAX_ASKED = 100

#: Time that such a worker has, seconds.
ANSWER_S = 3.0

#: Time that a worker has to find a stack, seconds. It waits for the executor itself.
STACK_S = 10.0

#: Executors of one answer, and of one question.
MAX_PLACES = 20

#: Workers that are asked for their load without a pause for links.
SLICE_WORKERS = 500


class _Question:
    """One `examine` without an answer yet."""

    def __init__(self, worker: WorkerRecord, number: int):
        self.worker = worker
        self.number = number
        self.asked_s = time.monotonic()
        self.event = Event()
        #: The answer; None if there is none yet, or if the worker left.
        self.answer: dict[str, Any] | None = None


class Examinations:
    """The questions to the workers of one server."""

    def __init__(self, workers: Workers):
        self._workers = workers
        #: {worker: {number: question}}
        self._questions: dict[int, dict[int, _Question]] = {}
        self._last_number = 0
        #: {worker: its question}, of loads that are being measured
        self._measuring: dict[int, _Question] = {}
        self._loads_due_s = 0.0

    def take(self, worker: WorkerRecord, number: int, message: dict[str, Any]) -> None:
        """Take an answer of a worker. One that nobody waits for is ignored."""
        question = self._questions.get(worker.number, {}).get(number)
        if question is None:
            return
        rows_in(message)  # raises ProtocolError now, where the peer is to blame
        question.answer = message
        if self._measuring.get(worker.number) is question:
            worker.load = _load_of(message)
        self._end(question)

    def forget(self, worker: WorkerRecord) -> None:
        """End all that was asked of a worker that left."""
        for question in list(self._questions.get(worker.number, {}).values()):
            self._end(question)

    def _end(self, question: _Question) -> None:
        """Wait for an answer no longer. Idempotent."""
        number = question.worker.number
        of_worker = self._questions.get(number, {})
        of_worker.pop(question.number, None)
        if not of_worker:
            self._questions.pop(number, None)
        if self._measuring.get(number) is question:
            del self._measuring[number]
        question.event.set()

    def _ask(self, worker: WorkerRecord, what: str, job: int = 0, **fields: Any) -> _Question:
        self._last_number = number = next_number(self._last_number, ())
        question = _Question(worker, number)
        self._questions.setdefault(worker.number, {})[number] = question
        worker.link.send(control("examine", job, number, what=what, **fields))
        return question

    # loads

    def measure_all(self) -> None:
        """Have all workers measure their load, unless they did lately (pauses for links)."""
        now = time.monotonic()
        if now < self._loads_due_s:
            return
        self._loads_due_s = now + max(LOAD_S, len(self._workers) / LOADS_PER_S)
        for at, worker in enumerate(list(self._workers), 1):
            if worker.number not in self._measuring and self._workers.get(worker.number) is worker:
                self._measuring[worker.number] = self._ask(worker, "load")
            if at % SLICE_WORKERS == 0:
                gevent.sleep(0)

    def wait_for_loads(self, workers: list[WorkerRecord]) -> None:
        """Wait until the loads of these workers are known.

        Each has LOAD_WAIT_S since it was asked, so that silent workers delay a listing only once,
        however many pages it has.
        """
        begun_s = time.monotonic() - LOAD_WAIT_S
        questions = [q for w in workers if (q := self._measuring.get(w.number)) and q.asked_s > begun_s]
        if questions:
            self._wait(questions, max(question.asked_s for question in questions) - begun_s)

    @staticmethod
    def _wait(questions: list[_Question], seconds: float) -> None:
        gevent.wait([question.event for question in questions], timeout=seconds)

    # prints

    def overhear(self, job: HostedJob) -> None:
        """Have all workers send what the functions of a silent job print from now on."""
        prints = job.signals.prints
        if not prints.is_silent or prints.is_overheard:
            return
        prints.is_overheard = True  # workers to come learn it with the job
        for worker in self._workers:
            if job.number in worker.jobs:
                self._ask(worker, "prints", job.number)

    # places

    def find_longest(self, job: HostedJob) -> list[dict[str, Any]]:
        """Return where the executors of a job are, the longest running first.

        Each row names its worker, and whether that has not answered.
        """
        busy = [worker for worker in self._workers if worker.attempts and job.number in worker.jobs]
        busy.sort(key=lambda worker: min(worker.attempts))
        questions = [self._ask(worker, "where", job.number) for worker in busy[:MAX_ASKED]]
        self._wait(questions, ANSWER_S)
        rows: list[dict[str, Any]] = []
        for question in questions:
            rows += _places_of(question)
            self._end(question)
        rows.sort(key=lambda row: -row["running_s"])
        return rows[:MAX_PLACES]

    def find_stack(self, worker: WorkerRecord, pid: int) -> list[dict[str, Any]]:
        """Return one row with the Python stack of an executor.

        Raises MmgeventError if the worker does not find it.
        """
        question = self._ask(worker, "stack", pid=pid)
        self._wait([question], STACK_S)
        answer = question.answer
        self._end(question)
        name = worker.link.name
        if answer is None:
            raise MmgeventError(f"{name} gave no answer in {STACK_S:g} s, or left")
        if "error" in answer:
            raise MmgeventError(f"{name}: {shown(answer['error'])}")
        texts = [row["stack"] for row in rows_in(answer) if type(row.get("stack")) is str]
        return [{"stack": shorten(text, MAX_STACK_BYTES)} for text in texts[:1]]


def _load_of(message: dict[str, Any]) -> tuple[float, int] | None:
    row = next(iter(rows_in(message)), {})
    cores: Any = row.get("cores")
    n_bytes: Any = row.get("memory_bytes")
    if type(cores) not in (int, float) or not 0 <= cores < 1e6 or type(n_bytes) is not int:
        return None
    return float(cores), min(max(0, n_bytes), 2**62)


def _places_of(question: _Question) -> list[dict[str, Any]]:
    """Return the places in an answer, with the worker's name."""
    rows = []
    for given in rows_in(question.answer or {})[:MAX_PLACES]:
        row = {name: given[name] for name, types in PLACE_FIELDS.items() if type(given.get(name)) in types}
        if "running_s" in row and "pid" in row:
            row = {name: shorten(value, 1000) if type(value) is str else value for name, value in row.items()}
            rows.append({**row, "worker": question.worker.link.name, "number": question.worker.number})
    return rows
