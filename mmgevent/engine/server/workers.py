"""The workers of a server: one record each, and the table of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mmgevent.engine.net.link import Link
from mmgevent.engine.server.standing import Standing
from mmgevent.wire.failures import shorten
from mmgevent.wire.numbers import next_number
from mmgevent.wire.user_messages import MessageLength


class WorkerRecord:
    """What the server knows of one worker."""

    __slots__ = (
        "address",
        "attempts",
        "death_count",
        "is_dismissed",
        "is_drained",
        "is_leaving",
        "is_local",
        "jobs",
        "joined_s",
        "last_death",
        "link",
        "load",
        "message_length",
        "number",
        "offers",
        "slots",
        "standing",
        "version",
    )

    def __init__(self, link: Link, *, is_local: bool):
        """`is_local`: the worker is a role of the server's own engine."""
        self.number = 0  #: 0 before `Workers.add`
        self.link = link
        self.slots = 0  #: 0 before its hello
        #: Names of the functions that the worker's program offers.
        self.offers: frozenset[str] = frozenset()
        self.is_local = is_local
        #: HOST:PORT that the worker connected from, or "local".
        self.address = "local" if is_local else link.name
        #: Length of the user message that the worker is sending.
        self.message_length = MessageLength()
        #: Jobs whose code it has.
        self.jobs: set[int] = set()
        #: Numbers of its live attempts.
        self.attempts: set[int] = set()
        #: The worker said that it is about to leave: it gets no more attempts.
        self.is_leaving = False
        #: A driver sent it away: no task is to blame for its loss.
        self.is_dismissed = False
        #: It was asked to leave when its tasks are done. It gets no more attempts.
        self.is_drained = False
        #: Whether it does its share.
        self.standing = Standing(0)
        self.version = ""  #: of its mmgevent, as it says
        self.joined_s = 0.0  #: when it joined, by `monotonic`
        self.death_count = 0  #: executors of it that died
        #: The last of them: when, by `monotonic`, and why. None if none died.
        self.last_death: tuple[float, str] | None = None
        #: (cores in use, bytes of memory in use) of its executors when they were measured last.
        #: None if nobody has looked yet.
        self.load: tuple[float, int] | None = None

    def note_death(self, why: str) -> None:
        """Note that an executor of it died."""
        self.death_count += 1
        self.last_death = (time.monotonic(), why)

    @property
    def name(self) -> str:
        """Return its name as listings show it: with the reason if it is set aside."""
        reason = self.standing.reason
        return f"{self.link.name} (set aside: {reason})" if reason else self.link.name


class Workers:
    """The workers of one server, by number."""

    def __init__(self) -> None:
        self._records: dict[int, WorkerRecord] = {}
        self._last_number = 0
        #: Slots of all workers that get tasks: they are neither about to leave nor set aside.
        self.slot_count = 0

    def add(self, worker: WorkerRecord) -> None:
        """Give a worker that joined its number."""
        worker.number = self._last_number = next_number(self._last_number, self._records)
        worker.standing = Standing(worker.slots)
        worker.joined_s = time.monotonic()
        self._records[worker.number] = worker
        self.slot_count += worker.slots

    def remove(self, worker: WorkerRecord) -> None:
        """Forget a worker whose link closed."""
        self.retire(worker)
        del self._records[worker.number]

    def retire(self, worker: WorkerRecord) -> None:
        """Note that a worker is about to leave."""
        if not worker.is_leaving:
            worker.is_leaving = True
            if not worker.standing.reason:
                self.slot_count -= worker.slots

    def set_aside(self, worker: WorkerRecord, reason: str, now: float) -> float:
        """Note that a worker is set aside; return for how many seconds."""
        if not worker.is_leaving and not worker.standing.reason:
            self.slot_count -= worker.slots
        return worker.standing.set_aside(reason, now)

    def readmit(self, worker: WorkerRecord) -> None:
        """Note that a worker that was set aside gets tasks again."""
        worker.standing.readmit()
        if not worker.is_leaving:
            self.slot_count += worker.slots

    def get(self, number: int) -> WorkerRecord | None:
        """Return the worker of a number, or None if it left."""
        return self._records.get(number)

    def name_of(self, number: int) -> str:
        """Return the name of a worker, or "" if it left."""
        worker = self._records.get(number)
        return "" if worker is None else shorten(worker.link.name)

    def __getitem__(self, number: int) -> WorkerRecord:
        return self._records[number]

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)
