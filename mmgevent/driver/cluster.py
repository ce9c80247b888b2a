"""Clusters: what a driver submits jobs to.

`LocalCluster` has its server in its own engine, with executors of this machine and, if it
listens, workers of others; `connect` uses a server that stands somewhere.  Either starts
one engine process; when that ends unasked, or the server behind it, the next job, or
the one that is under way, gets another.

What speaks with the engine is imported once that is starting on another core, and what jobs need
(dill among it) when a job comes.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.configuration import Configuration
from mmgevent.engine.start import start_engine
from mmgevent.errors import EngineError, ForkedError, JobError, StartError, UsageError
from mmgevent.machine.resources import count_default_executors
from mmgevent.wire.limits import MAX_SLOTS

if TYPE_CHECKING:
    import socket

    from mmgevent.access.addresses import Address
    from mmgevent.driver.engine_link import EngineProcess
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.job_driver import JobDriver, Progress
    from mmgevent.driver.watching import OnJoined, OnLeft, OnTell, Watch
    from mmgevent.job.job import Job
    from mmgevent.wire.frames import Frame

#: for the engine to start its roles; a busy machine takes long to start Python
START_S = 60.0

#: for a server that was lost to come back, or another to take its address: less than a job waits for its engine
#: (`driver.START_S`), so that it ends with the reason
PATIENCE_S = 115.0

#: for the thread of a watch to end
END_S = 5.0

#: of a server that is gone before it has answered, and then of the next one
MAX_ASKS = 5

OnProgress = Callable[["Progress"], None]
OnNotice = Callable[[str], None]


class WorkerInfo(NamedTuple):
    """A worker that is present."""

    name: str  #: "host/pid"
    slots: int


class PeerInfo(NamedTuple):
    """A worker that is present, to those who watch."""

    number: int  #: this cluster's number of it, never used again
    name: str  #: "host/pid", or the name it was given
    address: str  #: "HOST:PORT" it comes from; "local" for the one in the server's own engine
    slots: int
    offers: tuple[str, ...]  #: the names of the functions that its process offers


class Cluster:
    """Submit and run jobs; made by `LocalCluster` or `connect`."""

    #: for the first engine: a socket that listens already
    _listener: socket.socket | None = None

    def __init__(self, configuration: Configuration, *, max_resubmits: int | None = None):
        self._configuration = configuration
        self._max_resubmits = max_resubmits
        self._moved_to: Address | None = None  # where the server said another takes its place
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()  # of the engine and the handles
        self._handles: weakref.WeakSet[JobHandle] = weakref.WeakSet()
        self._watch: Watch | None = None
        self._is_closed = False
        self._retiring: threading.Thread | None = None  # closes the engine before this one
        self._was_ready = False  # some engine of this cluster was
        self._pid = os.getpid()
        self._engine = self._start_engine(configuration)

    def submit(
        self, job: Job, *, on_progress: OnProgress | None = None, on_notice: OnNotice | None = None
    ) -> JobHandle:
        """Hand in a job and return at once; it has a thread of its own.

        UsageError for what is wrong with the job, StartError where there can be no thread.  `on_progress(Progress)` and `on_notice(text)` are
        called from the job's thread.
        """
        from mmgevent.driver.handle import JobHandle

        handle = JobHandle(self._make_driver(job, on_progress, on_notice))
        with self._lock:
            self._handles.add(handle)
        try:
            handle.start()
        except StartError:
            self._handles.discard(handle)
            raise
        return handle

    def run(
        self, job: Job, *, progress: OnProgress | None = None, on_notice: OnNotice | None = None
    ) -> dict[Any, Any]:
        """Run a job to its end and return its results as a dict.

        The datasource, finishfn and `progress` are called in this thread.  UsageError, JobError,
        ConnectError, DuplicateKeyError; KeyboardInterrupt cancels the job.
        """
        from mmgevent.driver.results import apply_finish, build_dict

        driver = self._make_driver(job, progress, on_notice)
        with closing(driver.records()) as records:
            return build_dict(apply_finish(job.finishfn, job.finish_form, records, job.argv))

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are present now; EngineError if a server is lost again and again before it answers."""
        for tries_left in range(MAX_ASKS - 1, -1, -1):
            engine = self._get_engine(None)
            engine.wait_ready(START_S)
            try:
                answer = engine.ask("list_workers")
                break
            except EngineError:
                if not tries_left:
                    raise
        return [WorkerInfo(*row) for row in zip(answer["names"], answer["slots"], strict=True)]

    def watch(self, on_joined: OnJoined, on_left: OnLeft, on_tell: OnTell) -> None:
        """See workers come and go, and hear what they tell, until this cluster is closed; once a cluster.

        `on_joined(PeerInfo(number, name, address, slots, offers))` comes first for every worker that is
        present, then for those that join; `on_left(number, reason)`; `on_tell(number, data)` with bytes of a
        worker's program, between the two.  When the server is lost all have left, and those of the next one join.
        They are called from the thread that reads from the engine: they must not block, nor close this.
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
                raise UsageError("this cluster is watched already: tell others from those callbacks")
            self._watch = Watch(self._get_engine, on_joined, on_left, on_tell)

    def tell(self, number: int, data: bytes) -> None:
        """Tell the program of a worker some bytes, 1 MiB at most; nothing happens if it left.

        `number` is what `watch` said.  Nothing says whether it was received.  Where more than 8 MiB wait for a
        worker, it is let go, or, if the server is elsewhere, this program's link to that, and jobs are handed in
        again: tell paths rather than contents.  UsageError.
        """
        self._find_watch().tell(number, data)

    def dismiss(self, number: int, reason: str) -> None:
        """Say goodbye to a worker and close its link; nothing happens if it left.

        A worker that reconnects will, and has another number then.  The one in the server's own engine stays.
        """
        self._find_watch().dismiss(number, reason)

    def _find_watch(self) -> Watch:
        self._check_process()
        if self._watch is None:
            raise UsageError("call watch() first: it says which workers there are")
        return self._watch

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) of the server that workers may join; None if there is no port.  ListenError."""
        self._check_process()
        address = self._engine.wait_ready(START_S).get("address")
        return None if address is None else (address[0], address[1])

    def wait_ready(self) -> None:
        """Wait until the engine runs; raise what kept it from it (ListenError, ConnectError, ...)."""
        self._check_process()
        self._engine.wait_ready(START_S)

    def close(self) -> None:
        """Wait for running jobs and what they call back, then end the engine with all its processes; idempotent.

        Called from a job's callback it waits for the other jobs, but not for their callbacks, which may do the
        same.  UsageError, and nothing is closed, where it would wait for its own thread: while jobs run, in a callback of
        `watch` or a node.
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

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is not None and os.getpid() != self._pid:
            return  # a child leaves its parent's block, with sys.exit() perhaps: that matters, this is not its own
        if exc_type is not None:
            for handle in self._running():
                handle.cancel()
            self._end()
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._is_closed else f'engine {self._engine.pid}'}>"

    def _running(self) -> list[JobHandle]:
        with self._lock:
            return [handle for handle in self._handles if not handle.done()]

    def _end(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.close()
        with self._lock:
            self._is_closed = True
            engine, retiring = self._engine, self._retiring
        engine.close()
        if retiring is not None and not engine.is_reading_thread:
            retiring.join(END_S)
        if watch is not None:
            watch.join(END_S)

    def _make_driver(self, job: Job, on_progress: OnProgress | None, on_notice: OnNotice | None) -> JobDriver:
        from mmgevent.driver.job_driver import JobDriver
        from mmgevent.job.job import Job

        self._check_process()
        if self._is_closed:
            raise UsageError("this cluster is closed: make another")
        if not isinstance(job, Job):
            raise UsageError(f"expected a Job, got {type(job).__name__}: make one with mmgevent.Job(...)")
        is_local = self._configuration.join is None and self._configuration.elect is None
        return JobDriver(
            job,
            self._get_engine,
            lambda: next(self._numbers),
            is_local=is_local,
            stays_here=is_local and self._configuration.listen is None,
            max_resubmits=self._max_resubmits,
            on_progress=on_progress,
            on_notice=on_notice,
        )

    def _get_engine(self, lost: str | None) -> EngineProcess:
        """Return the engine, perhaps not ready yet; another one if it has ended."""
        self._check_process()
        with self._lock:
            engine = self._engine
            if engine.refusal is not None:
                raise engine.refusal
            if self._is_closed:
                raise JobError(f"the cluster was closed{f': {lost}' if lost else ''}", {"kind": "lost"})
            self._was_ready |= engine.was_ready
            if engine.has_ended and self._was_ready:
                if self._configuration.listen is not None and engine.was_ready:
                    address = engine.wait_ready(0)["address"]  # what port 0 became: workers know it
                    self._configuration = self._configuration._replace(listen=address)
                self._retire(engine)
                patient = self._configuration._replace(patience=PATIENCE_S)
                if self._moved_to is not None:
                    patient = patient._replace(join=self._moved_to)
                engine = self._engine = self._start_engine(patient)
        return engine

    def _retire(self, engine: EngineProcess) -> None:
        """Close an engine that has ended, the rest in a thread: its own may be in a callback that wants our lock."""
        engine.end_process()
        self._retiring = threading.Thread(target=engine.close, name="mmgevent-retire", daemon=True)
        self._retiring.start()

    def _start_engine(self, configuration: Configuration) -> EngineProcess:
        # Another engine binds by itself: the end of this one frees the port.
        listener, self._listener = self._listener, None
        started = start_engine(has_executors=bool(configuration.procs), has_offers=False, listener=listener)
        from mmgevent.driver.engine_link import EngineProcess

        return EngineProcess(started, configuration, on_message=self._on_message)

    def _on_message(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        """Take what comes about no job (in the engine's reading thread)."""
        if message["type"] == "moved" and self._configuration.join is not None:
            from mmgevent.access.addresses import parse_address

            self._moved_to = parse_address(message["address"])
        elif self._watch is not None:
            self._watch.on_message(engine, frame, message)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                "this cluster was made in the parent of this process: make it after the fork, in the process that uses it"
            )


class LocalCluster(Cluster):
    """A server and executors of this machine, in processes of their own, for as long as it is open."""

    def __init__(
        self,
        procs: int | None = None,
        *,
        listen: str | int | tuple[str, int] | None = None,
        password: str | None = None,
        certificates: Certificates | None = None,
        segment_memory: int | str | None = None,
        verbose: int = 0,
    ):
        """Start the engine and return at once.

        `procs`: executors; None: one a core, or as many as there is memory for; 0 for none, which needs `listen`.
        `listen`: "[HOST:]PORT" (or a pair) where workers may join; None opens no port.
        `password`: what they must know; None finds it as the commands do, only if a port is opened.
        `certificates`: what to show them, and perhaps to ask of them, besides; none are needed.
        `segment_memory`: bytes (or "64MiB") of intermediate results held in memory; more goes to disk.
        """
        if procs is None:
            procs = count_default_executors()
        if type(procs) is not int or not 0 <= procs <= MAX_SLOTS:
            raise UsageError(f"procs must be an int from 0 to {MAX_SLOTS}, got {procs!r}")
        if not procs and listen is None:
            raise UsageError("procs=0 leaves nobody to do the work: pass listen=... so that workers can join")
        address = None
        if listen is not None:
            from mmgevent.access.addresses import parse_listen
            from mmgevent.access.password import find_password

            address = parse_listen(str(listen)) if isinstance(listen, (str, int)) else listen
            password = find_password(password)
        memory_bytes = None
        if segment_memory is not None:
            from mmgevent.job.options import parse_size

            memory_bytes = parse_size(segment_memory)
        super().__init__(
            Configuration(
                procs=procs,
                listen=address,
                password=password,
                certificates=certificates or NO_CERTIFICATES,
                memory_bytes=memory_bytes,
                verbose=verbose,
            )
        )


class RemoteCluster(Cluster):
    """A server that stands somewhere; made by `connect`."""


def connect(
    address: str | tuple[str, int],
    *,
    password: str | None = None,
    certificates: Certificates | None = None,
    timeout: float = 10.0,
    procs: int = 0,
    verbose: int = 0,
) -> Cluster:
    """Connect to a running server, "HOST[:PORT]".

    `procs` executors of this machine join it as a worker, for as long as this is open.  ConnectError if
    nobody answers within `timeout` seconds, AuthenticationError, VersionMismatchError.
    """
    from mmgevent.access.addresses import parse_address
    from mmgevent.access.password import find_password

    host, port = parse_address(address) if isinstance(address, str) else address
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


def run(
    job: Job, *, inline: bool = False, progress: OnProgress | None = None, **cluster: Any
) -> dict[Any, Any]:
    """Run one job and return its results as a dict.

    On a `LocalCluster(**cluster)` of its own, or, with `inline=True`, in this process, where a
    debugger sees everything.
    """
    if inline:
        if cluster:
            raise UsageError(f"inline=True starts no processes: leave out {', '.join(cluster)}")
        from mmgevent.driver.results import build_dict
        from mmgevent.driver.runners.inline import run_inline

        return build_dict(run_inline(job))
    with LocalCluster(**cluster) as local:
        return local.run(job, progress=progress)
