"""Clusters: what a driver submits jobs to.

A cluster starts one engine process.  Its server is in that engine (`LocalCluster`), elsewhere
(`connect`), or in one of several nodes (`Node`).  If the engine or the server is lost, another
engine is started for the running or next job.

Imports wait for their turn, to save start-up time: the modules that speak with the engine are
imported while it starts on another core, and those that jobs need (dill among them) with the first
job.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.driver.arguments import check_procs, check_timeout, check_verbose
from mmgevent.driver.base_cluster import BaseCluster, OnNotice, OnProgress
from mmgevent.engine.configuration import Configuration
from mmgevent.engine.start import start_engine
from mmgevent.errors import EngineError, JobError, ProtocolError, UsageError
from mmgevent.wire.numbers import next_number

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mmgevent.access.addresses import Address
    from mmgevent.driver.engine_link import EngineProcess
    from mmgevent.driver.listed import JobInfo, WorkerInfo
    from mmgevent.driver.runners.runner import Runner
    from mmgevent.driver.watching import OnJoined, OnLeft, OnTell, Watch
    from mmgevent.job.job import Job
    from mmgevent.wire.frames import Frame

Listed = TypeVar("Listed")

#: Time for the engine to start its roles, seconds.  A busy machine takes long to start Python.
ROLES_S = 60.0
#: Time for a lost server to return, or another to take its address, seconds.  It is shorter than
#: the wait of a job for its engine (`job_driver.START_S`), so the job fails with the engine's
#: reason.
PATIENCE_S = 115.0
#: Time for the thread of a watch to end, seconds.
WATCH_END_S = 5.0
#: Largest number of servers that are asked for their workers, if one after another is lost
#: meanwhile.
MAX_ASKS = 5


class Cluster(BaseCluster):
    """A cluster with an engine of ours; made by `LocalCluster` or `connect`."""

    #: a socket that listens already, for the first engine; None if there is none
    _listener: socket.socket | None = None

    def __init__(self, configuration: Configuration, *, max_resubmits: int | None = None):
        super().__init__()
        self._configuration = configuration
        self._max_resubmits = max_resubmits
        # Address of the server that replaces ours; None until ours says so.
        self._moved_to: Address | None = None
        self._last_job = 0  # number of the job that was submitted last
        self._watch: Watch | None = None
        self._retiring: threading.Thread | None = None  # closes the previous engine
        self._was_ready = False  # an engine of this cluster was
        self._engine = self._start_engine(configuration)

    def _number_job(self) -> int:
        self._last_job = next_number(self._last_job, ())
        return self._last_job

    def workers(self, *, measure: bool = False) -> list[WorkerInfo]:
        """Return the workers that are present now.

        `measure`: also have them measure the cores and the memory that they use, which takes 0.3 s.

        Raises EngineError if MAX_ASKS servers in a row are lost before they answer.
        """
        from mmgevent.driver.listed import workers_of

        return self._listed(lambda ask: workers_of(ask, measure=measure))

    def jobs(self) -> list[JobInfo]:
        """Return the jobs of the server that are not over, of whichever program.

        Raises EngineError if MAX_ASKS servers in a row are lost before they answer.
        """
        from mmgevent.driver.listed import job_of
        from mmgevent.wire.listings import read_listing

        return self._listed(lambda ask: read_listing(ask, "list_jobs", job_of))

    def _listed(self, read: Callable[[Callable[..., dict[str, Any]]], list[Listed]]) -> list[Listed]:
        """Return what `read(ask)` reads from the server."""
        for tries_left in range(MAX_ASKS - 1, -1, -1):
            engine = self._get_engine(None)
            engine.wait_ready(ROLES_S)
            try:
                return read(engine.ask)
            except EngineError:
                if not tries_left:
                    raise
        raise AssertionError("MAX_ASKS is above 0")

    def watch(self, on_joined: OnJoined, on_left: OnLeft, on_tell: OnTell) -> None:
        """See workers join and leave, and receive their messages, until this cluster is closed.

        - `on_joined(PeerInfo(number, name, address, slots, offers))` is called for every worker
          that is present, then for each that joins.
        - `on_tell(number, data)` is called with bytes that a worker's program sent.
        - `on_left(number, reason)` is called when a worker has left.  If the server is lost, all
          have left, and the workers of the next server join.

        The thread that reads from the engine calls them: they must not block, and must not close
        this cluster. Raises UsageError for a second call.
        """
        from mmgevent.driver.watching import Watch

        self._check_process()
        for callback in (on_joined, on_left, on_tell):
            if not callable(callback):
                raise UsageError(f"watch takes three functions, got {callback!r}")
        with self._lock:
            if self._is_closed:
                raise UsageError("this cluster is closed: make another")
            if self._watch is not None:
                raise UsageError("this cluster is watched already: pass the news on from those callbacks")
            self._watch = Watch(self._get_engine, on_joined, on_left, on_tell)

    def tell(self, number: int, data: bytes) -> None:
        """Send bytes to the program of a worker, 1 MiB at most; nothing happens if the worker left.

        `number` is the worker's number in `watch`.  There is no receipt.  A worker that does not
        read loses whole messages when more than 8 MiB wait for it.  So send paths rather than
        contents. Raises UsageError if `data` cannot be sent.
        """
        self._find_watch().tell(number, data)

    def dismiss(self, number: int, reason: str) -> None:
        """Close the link to a worker, with a reason; nothing happens if it left.

        A worker that reconnects has another number then.  The worker in the server's own engine
        stays.
        """
        self._find_watch().dismiss(number, reason)

    def _find_watch(self) -> Watch:
        self._check_process()
        if self._watch is None:
            raise UsageError("call watch() first: it says which workers there are")
        return self._watch

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) where workers may join.

        None if there is no port. Raises ListenError if the port cannot be opened.
        """
        self._check_process()
        address = self._wait_for_engine().get("address")
        return None if address is None else (address[0], address[1])

    def wait_ready(self) -> None:
        """Wait until the engine runs.

        Raise the error that prevents it (ListenError, ConnectError, ...).
        """
        self._check_process()
        self._wait_for_engine()

    def _wait_for_engine(self) -> dict[str, Any]:
        """Return the facts of the engine once it runs. If it is killed before that, try another."""
        if not self._is_closed:
            engine = self._get_engine(None)
            try:
                return engine.wait_ready(ROLES_S)
            except EngineError:
                if not engine.was_killed:
                    raise
            self._get_engine(None)
        return self._engine.wait_ready(ROLES_S)

    def close(self) -> None:
        """Wait for running jobs and their callbacks, then end the engine and all its processes.

        Idempotent.

        It does not wait for the thread of a cancelled job that was left behind.  In a job's
        callback it waits for the other jobs, but not for their callbacks, which may do the same.
        Raises UsageError, and closes nothing, if it would wait for its own thread: in a callback of
        `watch` or a node, while jobs run.
        """
        self._check_process()
        with self._lock:
            handles = list(self._handles)
            engine = self._engine
        if engine.is_reading_thread and not all(handle.done() for handle in handles):
            raise UsageError(
                "close() waits for running jobs, and their results come through the thread of this callback: "
                "cancel them first, or close from another thread"
            )
        is_callback = any(handle.is_own_thread for handle in handles)
        for handle in handles:
            handle.join(with_callbacks=not is_callback and not engine.is_reading_thread)
        self._end()

    def _describe(self) -> str:
        return "closed" if self._is_closed else f"engine {self._engine.pid}"

    def _engine_name(self) -> str:
        from mmgevent.access.addresses import format_address

        configuration = self._configuration
        if configuration.join is not None:
            return f"the server {format_address(configuration.join)}"
        if configuration.elect is not None:
            return f"the elected server of {', '.join(map(format_address, configuration.elect))}"
        return "local"

    def _end(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.close()
        with self._lock:
            self._is_closed = True
            engine, retiring = self._engine, self._retiring
        engine.close()
        if retiring is not None and not engine.is_reading_thread:
            retiring.join(WATCH_END_S)
        if watch is not None:
            watch.join(WATCH_END_S)

    def _make_runner(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        from mmgevent.driver.job_driver import JobDriver

        is_local = self._configuration.join is None and self._configuration.elect is None
        return JobDriver(
            job,
            self._get_engine,
            self._number_job,
            is_local=is_local,
            stays_here=is_local and self._configuration.listen is None,
            max_resubmits=self._max_resubmits,
            on_progress=on_progress,
            on_notice=on_notice,
        )

    def _make_chain(
        self, job: Job[Any, Any], on_progress: OnProgress | None, on_notice: OnNotice | None
    ) -> Runner:
        from mmgevent.driver.chain_driver import ChainDriver

        return ChainDriver(job, self._make_runner, on_progress, on_notice)

    def _get_engine(self, lost: str | None) -> EngineProcess:
        """Return the engine, which may not be ready yet; start another if it has ended."""
        self._check_process()
        with self._lock:
            engine = self._engine
            if engine.refusal is not None:
                raise engine.refusal
            if self._is_closed:
                raise JobError(f"the cluster was closed{f': {lost}' if lost else ''}", {"kind": "lost"})
            self._was_ready |= engine.was_ready
            if engine.has_ended and (self._was_ready or engine.was_killed):
                if self._configuration.listen is not None and engine.was_ready:
                    # Workers know the port that was chosen for port 0.
                    address = engine.wait_ready(0)["address"]
                    self._configuration = self._configuration._replace(listen=address)
                self._retire(engine)
                patient = self._configuration._replace(patience=PATIENCE_S)
                if self._moved_to is not None:
                    patient = patient._replace(join=self._moved_to)
                engine = self._engine = self._start_engine(patient)
        return engine

    def _retire(self, engine: EngineProcess) -> None:
        """Close an engine that has ended, in a thread.

        Its own thread may be in a callback that needs our lock.
        """
        engine.end_process()
        self._retiring = threading.Thread(target=engine.close, name="mmgevent-retire", daemon=True)
        self._retiring.start()

    def _start_engine(self, configuration: Configuration) -> EngineProcess:
        # A later engine binds the port by itself: the end of this one frees it.
        listener, self._listener = self._listener, None
        started = start_engine(has_executors=bool(configuration.procs), has_offers=False, listener=listener)
        from mmgevent.driver.engine_link import EngineProcess

        return EngineProcess(started, configuration, on_message=self._on_message)

    def _on_message(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        """Handle a message about no job (in the engine's reading thread)."""
        if message["type"] == "moved" and self._configuration.join is not None:
            from mmgevent.access.addresses import parse_address

            try:
                self._moved_to = parse_address(message["address"])
            except UsageError as error:
                raise ProtocolError(f"a server moves to no address: {error}") from None
        elif self._watch is not None:
            self._watch.on_message(engine, frame, message)


class RemoteCluster(Cluster):
    """A server that runs elsewhere; made by `connect_to_server`."""


def connect_to_server(
    address: tuple[str, int],
    *,
    password: str | None = None,
    certificates: Certificates | None = None,
    timeout: float = 10.0,
    procs: int = 0,
    verbose: int = 0,
) -> Cluster:
    """Connect to a running server at (host, port).

    `procs` executors of this machine join it as a worker, for as long as this is open.
    Raises ConnectError if nobody answers within `timeout` seconds, AuthenticationError and
    VersionMismatchError.
    """
    from mmgevent.access.password import find_password

    check_procs(procs)
    check_timeout(timeout)
    check_verbose(verbose)
    host, port = address
    configuration = Configuration(
        procs=procs,
        join=(host, port),
        password=find_password(password),
        certificates=certificates or NO_CERTIFICATES,
        timeout=timeout,
        verbose=verbose,
    )
    cluster = RemoteCluster(configuration)
    try:
        cluster.wait_ready()
    except BaseException:
        cluster._end()
        raise
    return cluster
