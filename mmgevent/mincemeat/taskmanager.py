"""The transactions of a Server: a queue, of which one at a time is a job of the engine.

A transaction is a datasource with its id (`txn`), allocation, cycle and retransmit; the
functions are those the Server has when it begins.  Which task runs where is the engine's
business: what is here says when the next job is handed in, and when the Server is done.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmgevent.errors import FunctionError, MmgeventError, UsageError
from mmgevent.job.inputs.walks import StandIn, is_repeatable
from mmgevent.job.job import Job

if TYPE_CHECKING:
    from mmgevent.driver.handle import JobHandle
    from mmgevent.mincemeat.channel import ServerChannel
    from mmgevent.mincemeat.server import Server

log = logging.getLogger(__name__)

#: names under which a Client offers its own methods
MAPFN, COLLECTFN, REDUCEFN, REDUCE_ONLY = "mapfn", "collectfn", "reducefn", "reduceonly"


@dataclass(frozen=True)
class Transaction:
    """One datasource to be worked on; what is None is taken from the defaults when it begins."""

    datasource: Any
    txn: Any = None
    allocation: int | None = None
    cycle: int | None = None
    retransmit: float | None = None


class TaskManager:
    """The transactions of one Server."""

    # states
    IDLE, START, MAPPING, REDUCING, FINISHING, FINISHED = range(6)
    statename: ClassVar[dict[int, str]] = {
        IDLE: "Idle",
        START: "Starting",
        MAPPING: "Mapping",
        REDUCING: "Reducing",
        FINISHING: "Finishing",
        FINISHED: "Finished",
    }

    # tasks: which phases there are
    MAPREDUCE, MAPONLY, REDUCEONLY = range(3)
    tasksname: ClassVar[dict[int, str]] = {
        MAPREDUCE: "Map/Reduce",
        MAPONLY: "Skip Reduce",
        REDUCEONLY: "Skip Map",
    }

    # allocation: items until there are none, or one for every worker
    CONTINUOUS, ONESHOT = range(2)

    # cycle: end once there is nothing left to do, or wait for more
    SINGLEUSE, PERMANENT = range(2)

    def __init__(
        self,
        server: Server,
        tasks: int | None = None,
        allocation: int | None = None,
        cycle: int | None = None,
    ):
        self.server = server
        #: transactions that wait
        self.deque: deque[Transaction] = deque()
        #: live channels, {channel: None}; replaced, never changed, so that any thread may walk through it
        self.channels: dict[ServerChannel, None] = {}
        #: what a transaction that does not say gets; `retransmit` is in percent of the workers
        self.defaults: dict[str, Any] = _Defaults(
            self._default_changed,
            datasource=None,
            txn=None,
            allocation=self.CONTINUOUS if allocation is None else allocation,
            cycle=self.SINGLEUSE if cycle is None else cycle,
            retransmit=5,
        )
        self._tasks = tasks
        self._lock = threading.Lock()  # of what is begun next, or that nothing is
        self._current: Transaction | None = None
        self._handle: JobHandle | None = None
        self._is_finished = False
        self._has_delivered = False  # some transaction was done
        self._is_told_to_end = False  # by somebody who set the default cycle, or called jump_start
        self._last_cycle: int | None = None  # what the last transaction itself said

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
        """Which phases the Server's functions make."""
        return which_tasks(self.server) if self._tasks is None else self._tasks

    @property
    def datasource(self) -> Any:
        """The datasource that is worked on, or the first that waits; None if there is none."""
        if self._current is not None:
            return self._current.datasource
        return next((waiting.datasource for waiting in list(self.deque)), None)

    @property
    def txn(self) -> Any:
        """The id of the transaction that is worked on."""
        return None if self._current is None else self._current.txn

    @property
    def cycle(self) -> int:
        """What happens after the transaction that is worked on, or was last: SINGLEUSE or PERMANENT."""
        own = self._last_cycle if self._current is None else self._current.cycle
        cycle: int = self.defaults["cycle"] if own is None else own
        return cycle

    def jump_start(self, count: int | None = None, avoid: Any = None) -> None:
        """Look now whether there is something to do; a Server that has nothing, and is SINGLEUSE, ends."""
        if self.defaults["cycle"] == self.SINGLEUSE:
            self._is_told_to_end = True
        self._end_if_over()
        self.server._wake()

    def open(self, cycle: int | None) -> None:
        """Begin the life of a Server that listens now; with no transaction yet it idles, whatever the cycle."""
        if cycle is not None:
            dict.__setitem__(self.defaults, "cycle", cycle)
        self._is_finished = self._has_delivered = self._is_told_to_end = False
        self._last_cycle = None

    def add(self, transaction: Transaction) -> None:
        """Queue a transaction; from any thread."""
        if self._is_finished:
            log.warning("%s is finished: transaction %s comes too late", self.server.name(), transaction.txn)
        self.deque.append(transaction)
        self.server._wake()

    def advance(self) -> None:
        """Hand over results, begin the next transaction, or end the Server (in the thread that processes it)."""
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
            self._is_told_to_end = False
            self._current = self.deque.popleft()
            return self._current

    def _end_if_over(self) -> None:
        with self._lock:
            is_idle = self._current is None and not self.deque
            if not is_idle or not self.server._is_open() or not self._is_over():
                return
            self._is_finished = True
        log.info("%s is finished", self.server.name())
        self.server.handle_close()

    def cancel(self) -> None:
        """Give up the transaction that is worked on, if there is one."""
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

    def _deliver(self, transaction: Transaction, handle: JobHandle) -> None:
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
        """With nothing left to do: is that the end?"""
        if self._is_told_to_end:
            return True
        return self._has_delivered and self.cycle == self.SINGLEUSE

    def _default_changed(self, name: str, before: Any, after: Any) -> None:
        if name != "cycle":
            return
        self._last_cycle = None
        if after == self.SINGLEUSE and before != after:
            self._is_told_to_end = True
        self._end_if_over()
        self.server._wake()


class _Defaults(dict[str, Any]):
    """A dict that tells when a value is set."""

    def __init__(self, on_set: Callable[[str, Any, Any], None], **values: Any):
        super().__init__(values)
        self._on_set = on_set

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        super().__setitem__(name, value)
        self._on_set(name, before, value)


def which_tasks(server: Any) -> int:
    """Return which phases the functions of a Server make: None skips one, False is a Client's own."""
    if server.reducefn is None:
        return TaskManager.MAPONLY
    return TaskManager.REDUCEONLY if server.mapfn is None else TaskManager.MAPREDUCE


def make_job(server: Any, transaction: Transaction, defaults: dict[str, Any]) -> Job:
    """Return the engine's job for a transaction.  UsageError for what cannot be run."""
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
    """A datasource as the engine has it: its keys with their values, read one at a time."""

    def __init__(self, datasource: Any):
        self.stands_for = datasource

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return ((key, self.stands_for[key]) for key in self.stands_for)


def choose_functions(server: Any) -> tuple[Any, Any, Any]:
    """Return mapfn, collectfn and reducefn for the engine, names where a Client's own methods are meant.

    FunctionError where the Server's collectfn would have to run beside a Client's mapfn.
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
    """Return a reducefn that gets each value of the datasource as it is: without a map phase it is the values."""
    from mmgevent.job.functions import form_of

    form = form_of(reducefn, "reducefn")
    return functools.partial(_reduce_pair if form == "pair" else _reduce_groups, reducefn)


def _reduce_pair(reducefn: Callable[..., Any], key: Any, values: list[Any]) -> Any:
    return reducefn(key, _only(key, values))


def _reduce_groups(reducefn: Callable[..., Any], groups: Any) -> Any:
    return reducefn((key, _only(key, values)) for key, values in groups)


def _only(key: Any, values: list[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(f"the keys of a datasource must differ, but {key!r} came {len(values)} times")
    return values[0]


def _first(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)
