"""The transactions of a Server: a queue of jobs that run one after another.

A transaction is a datasource with its id (`txn`), allocation, cycle and retransmit. It uses the
functions that the Server has when the transaction begins. This module decides when the next job is
submitted and when the Server is done. The engine decides which task runs where.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mmgevent.errors import FunctionError, MmgeventError, UsageError
from mmgevent.job.inputs.walks import StandIn, is_repeatable
from mmgevent.job.job import Job
from mmgevent.machine.logs import get_log

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.mincemeat.channel import ServerChannel

log = get_log(__name__)

#: Names under which a Client offers its own methods.
MAPFN, COLLECTFN, REDUCEFN, REDUCE_ONLY = "mapfn", "collectfn", "reducefn", "reduceonly"


@dataclass(frozen=True)
class Transaction:
    """One datasource to process.

    A field that is None gets its default when the transaction begins.
    """

    datasource: Any
    txn: Any = None
    allocation: int | None = None
    cycle: int | None = None
    retransmit: float | None = None


class TransactionOwner(Protocol):
    """What a TaskManager needs of its Server."""

    mapfn: Any
    collectfn: Any
    reducefn: Any
    finishfn: Any
    shutdown: bool

    def name(self) -> str: ...

    def failfn(self, txn: Any, error: BaseException) -> None: ...

    def handle_close(self) -> None: ...

    def _is_open(self) -> bool: ...

    def _wake(self) -> None: ...

    def _submit(self, job: Job[Any, Any]) -> JobHandle[Any, Any]: ...

    def _deliver(self, txn: Any, results: dict[Any, Any]) -> None: ...


class TaskManager:
    """The transactions of one Server."""

    # States of a Server.
    IDLE, START, MAPPING, REDUCING, FINISHING, FINISHED = range(6)
    statename: ClassVar[dict[int, str]] = {
        IDLE: "Idle",
        START: "Starting",
        MAPPING: "Mapping",
        REDUCING: "Reducing",
        FINISHING: "Finishing",
        FINISHED: "Finished",
    }

    # Values of `tasks`: the phases of a job.
    MAPREDUCE, MAPONLY, REDUCEONLY = range(3)
    tasksname: ClassVar[dict[int, str]] = {
        MAPREDUCE: "Map/Reduce",
        MAPONLY: "Skip Reduce",
        REDUCEONLY: "Skip Map",
    }

    # Values of `allocation`: items as long as there are any, or one for every worker.
    CONTINUOUS, ONESHOT = range(2)

    # Values of `cycle`: end when nothing is left to do, or wait for more.
    SINGLEUSE, PERMANENT = range(2)

    def __init__(
        self,
        server: TransactionOwner,
        tasks: int | None = None,
        allocation: int | None = None,
        cycle: int | None = None,
    ):
        self.server = server
        #: transactions that have not begun
        self.deque: deque[Transaction] = deque()
        #: live channels, {channel: None}; replaced, never changed, so that any thread may iterate
        #: over it
        self.channels: dict[ServerChannel, None] = {}
        #: defaults of transactions; `retransmit` is in percent of the workers
        self.defaults: dict[str, Any] = _Defaults(
            self._default_changed,
            datasource=None,
            txn=None,
            allocation=self.CONTINUOUS if allocation is None else allocation,
            cycle=self.SINGLEUSE if cycle is None else cycle,
            retransmit=5,
        )
        self._tasks = tasks
        self._lock = threading.Lock()  # guards the choice between the next transaction and the end
        self._current: Transaction | None = None
        self._handle: JobHandle[Any, Any] | None = None
        self._is_finished = False
        self._has_delivered = False  # some transaction has ended
        self._ends_when_idle = False  # the script set the default cycle, or called jump_start
        self._last_cycle: int | None = None  # `cycle` of the last transaction

    @property
    def state(self) -> int:
        """One of the states above; `statename` has their names."""
        if self._is_finished:
            return self.FINISHED
        handle = self._handle
        if handle is None:
            return self.IDLE if self._current is None else self.START
        phase = handle.progress().phase
        if phase == "map":
            return self.MAPPING
        if phase in ("plan", "reduce"):
            return self.REDUCING
        return self.FINISHING if handle.done() or phase == "done" else self.START

    @property
    def tasks(self) -> int:
        """The phases of a job: MAPREDUCE, MAPONLY or REDUCEONLY."""
        return which_tasks(self.server) if self._tasks is None else self._tasks

    @property
    def datasource(self) -> Any:
        """The datasource of the current transaction, or of the first that waits.

        None if there is none.
        """
        if self._current is not None:
            return self._current.datasource
        return next((waiting.datasource for waiting in list(self.deque)), None)

    @property
    def txn(self) -> Any:
        """The id of the current transaction, or None."""
        return None if self._current is None else self._current.txn

    @property
    def cycle(self) -> int:
        """What happens after the current or last transaction: SINGLEUSE or PERMANENT."""
        own = self._last_cycle if self._current is None else self._current.cycle
        cycle: int = self.defaults["cycle"] if own is None else own
        return cycle

    def jump_start(self, count: int | None = None, avoid: Any = None) -> None:
        """Begin the next transaction. A SINGLEUSE Server ends if there is none."""
        if self.defaults["cycle"] == self.SINGLEUSE:
            self._ends_when_idle = True
        self._end_if_over()
        self.server._wake()

    def open(self, cycle: int | None) -> None:
        """Begin the work of a Server that listens now.

        Until its first transaction it idles, whatever the cycle.
        """
        if cycle is not None:
            dict.__setitem__(self.defaults, "cycle", cycle)
        self._is_finished = self._has_delivered = self._ends_when_idle = False
        self._last_cycle = None

    def add(self, transaction: Transaction) -> None:
        """Queue a transaction. Any thread may call this."""
        if self._is_finished:
            log.warning("%s is finished: transaction %s is too late", self.server.name(), transaction.txn)
        self.deque.append(transaction)
        self.server._wake()

    def advance(self) -> None:
        """Deliver results, begin the next transaction, or end the Server."""
        handle, current = self._handle, self._current
        if handle is not None and current is not None and handle.done() and not self.server.shutdown:
            self._deliver(current, handle)
        while (transaction := self._take_next()) is not None:
            self._begin(transaction)
        self._end_if_over()

    def _take_next(self) -> Transaction | None:
        with self._lock:
            if self._current is not None or not self.deque or self.server.shutdown:
                return None
            self._ends_when_idle = False
            self._current = self.deque.popleft()
            return self._current

    def _end_if_over(self) -> None:
        with self._lock:
            is_idle = self._current is None and not self.deque
            # Who closes the Server may have had the last results before this thread is done with them.
            may_end = self.server._is_open() or (self.server.shutdown and self._has_delivered)
            if not is_idle or not may_end or not self._is_over():
                return
            self._is_finished = True
        log.info("%s is finished", self.server.name())
        self.server.handle_close()

    def cancel(self) -> None:
        """Cancel the current transaction, if there is one."""
        if self._handle is not None:
            self._handle.cancel()

    def _begin(self, transaction: Transaction) -> None:
        try:
            job = make_job(self.server, transaction, self.defaults)
            self._handle = self.server._submit(job)
        except MmgeventError as error:
            self._fail(transaction, error)
            return
        self._handle.add_done_callback(lambda _: self.server._wake())
        log.info("%s: transaction %s begins", self.server.name(), transaction.txn)

    def _deliver(self, transaction: Transaction, handle: JobHandle[Any, Any]) -> None:
        error = handle.exception(timeout=0)
        results: dict[Any, Any] = {}
        if error is None:
            try:
                results = handle.result(timeout=0)
            except MmgeventError as raised:  # a DuplicateKeyError
                error = raised
        if error is not None:
            self._fail(transaction, error)
            return
        log.info("%s: transaction %s has %d results", self.server.name(), transaction.txn, len(results))
        try:
            self.server._deliver(transaction.txn, results)
        finally:
            self._finish(transaction)

    def _fail(self, transaction: Transaction, error: BaseException) -> None:
        try:
            self.server.failfn(transaction.txn, error)
        finally:
            self._finish(transaction)

    def _finish(self, transaction: Transaction) -> None:
        self._has_delivered = True
        self._last_cycle = transaction.cycle
        self._handle = self._current = None

    def _is_over(self) -> bool:
        """Return whether the Server ends when nothing is left to do."""
        if self._ends_when_idle:
            return True
        return self._has_delivered and self.cycle == self.SINGLEUSE

    def _default_changed(self, name: str, before: Any, after: Any) -> None:
        if name != "cycle":
            return
        self._last_cycle = None
        if after == self.SINGLEUSE and before != after:
            self._ends_when_idle = True
        self._end_if_over()
        self.server._wake()


class _Defaults(dict[str, Any]):
    """A dict that calls a function when a value is set."""

    def __init__(self, on_set: Callable[[str, Any, Any], None], **values: Any):
        super().__init__(values)
        self._on_set = on_set

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        super().__setitem__(name, value)
        self._on_set(name, before, value)


def which_tasks(server: Any) -> int:
    """Return which phases a Server's functions ask for.

    A function that is None skips its phase. False means the Client's own function.
    """
    if server.reducefn is None:
        return TaskManager.MAPONLY
    return TaskManager.REDUCEONLY if server.mapfn is None else TaskManager.MAPREDUCE


def make_job(server: Any, transaction: Transaction, defaults: dict[str, Any]) -> Job[Any, Any]:
    """Return the engine's job for a transaction. Raises UsageError if it cannot run."""
    datasource = transaction.datasource
    if not hasattr(datasource, "__iter__") or not hasattr(datasource, "__getitem__"):
        raise UsageError(
            f"a datasource has __iter__, which gives keys, and __getitem__, such as a dict; "
            f"got {type(datasource).__name__}"
        )

    mapfn, collectfn, reducefn = choose_functions(server)
    allocation = _first(transaction.allocation, defaults["allocation"])
    percent = _first(transaction.retransmit, defaults["retransmit"])
    table = _Table(datasource)
    return Job(
        table.__iter__ if is_repeatable(datasource) else table,
        mapfn,
        reducefn,
        collectfn=collectfn,
        finishfn=server.finishfn or None,
        allocation="oneshot" if allocation == TaskManager.ONESHOT else "continuous",
        retransmit=min(1.0, max(0.0, percent / 100)),
    )


class _Table(StandIn):
    """A datasource in the engine's form: its keys with their values, read one at a time."""

    def __init__(self, datasource: Any):
        self.stands_for = datasource

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return ((key, self.stands_for[key]) for key in self.stands_for)


def choose_functions(server: Any) -> tuple[Any, Any, Any]:
    """Return mapfn, collectfn and reducefn for the engine. A name means a Client's own method.

    Raises FunctionError if the Server's collectfn would have to run with a Client's mapfn.
    """
    tasks = which_tasks(server)
    if tasks == TaskManager.REDUCEONLY:
        if server.reducefn is False:
            return None, None, REDUCE_ONLY
        return None, None, reduce_whole(server.reducefn)
    reducefn = REDUCEFN if server.reducefn is False else server.reducefn
    if server.mapfn:
        return server.mapfn, server.collectfn or None, reducefn
    if server.collectfn:
        raise FunctionError(
            "the Server has a collectfn but no mapfn: the Clients' own mapfn goes with their own collectfn; "
            "give the Server both, or neither"
        )
    return MAPFN, COLLECTFN, reducefn


def reduce_whole(reducefn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reducefn for jobs without map phase, whose datasource gives lists of values."""
    from mmgevent.job.functions import form_of

    form = form_of(reducefn, "reducefn")
    return functools.partial(_reduce_pair if form == "pair" else _reduce_groups, reducefn)


def _reduce_pair(reducefn: Callable[..., Any], key: Any, values: list[Any]) -> Any:
    return reducefn(key, _only(key, values))


def _reduce_groups(reducefn: Callable[..., Any], groups: Any) -> Any:
    return reducefn((key, _only(key, values)) for key, values in groups)


def _only(key: Any, values: list[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(f"the keys of a datasource must differ, but {key!r} occurs {len(values)} times")
    return values[0]


def _first(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)
