"""A Spark session, classic or Connect: found or started, asked what its workers have, ended.

A session that is started here ends with its cluster.  A session of the user's stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from mmgevent.driver.runners import spark_tasks
from mmgevent.driver.runners.engines import require
from mmgevent.driver.runners.refusals import check_versions, missing_error
from mmgevent.driver.runners.runner import LOOK_S
from mmgevent.driver.runners.spark_errors import ENGINE, explain, unusable
from mmgevent.driver.runners.spark_jvm import end_jvm, without_ends_in_the_log
from mmgevent.driver.runners.spark_knock import reach
from mmgevent.errors import ConnectError, JobError, MmgeventError, UsageError
from mmgevent.machine.leftovers import TemporaryFolder
from mmgevent.machine.logs import get_log

#: Variable by which pyspark knows that a process uses Connect.
_CONNECT_MODE = "SPARK_CONNECT_MODE_ENABLED"

#: Time for a Connect server to say that it is one, seconds.
ANSWER_S = 15.0

#: Time for workers to answer the first question, seconds: executors may have to start.
CHECK_S = 120.0

#: Time for Spark to end a cancelled query, seconds. It kills a busy Python worker after 2 to 4.
INTERRUPT_S = 20.0

#: Attempts at a task in `spark-local`, as on a cluster: else one dead Python worker ends the job.
TASK_ATTEMPTS = 4

#: First version whose data frames take tables of Arrow, and whose queries have tags.
MIN_VERSION = (4, 0)

_ROWS_SETTING = "spark.sql.execution.arrow.maxRecordsPerBatch"

#: Settings of a session that is on this machine only.
LOCAL_SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}

T = TypeVar("T")

log = get_log(__name__)


class SparkWorkers(NamedTuple):
    """What is known of the workers of a session."""

    #: how many tasks run at the same time, as far as Spark knows now
    slots: int
    #: whether all of them are on this machine, and no others can come
    are_local: bool


class OpenSession:
    """A session that jobs run on.  Any thread may use it."""

    def __init__(self, session: Any, end: Callable[[], None] | None = None):
        """`session`: a SparkSession. `end()` ends it, if it is ours."""
        self.is_connect = type(session).__module__.startswith("pyspark.sql.connect")
        self._end = end
        self._restore: Callable[[], None] | None = None
        if end is None:
            session = self._own(session)
        session.conf.set(_ROWS_SETTING, spark_tasks.ROWS_AT_A_TIME)
        self.session = session
        self._asked_slots = 0
        self._are_local = False
        self._lock = threading.Lock()

    def workers(self) -> SparkWorkers:
        """Return what the workers are now.  They are asked for their versions when there are more.

        A standing cluster may grow, and at first its executors have not all come.

        Raises UsageError, VersionMismatchError or ConnectError if jobs cannot run there.
        """
        with self._lock:
            slots = self._count_slots()
            if slots > self._asked_slots:
                self._asked_slots, self._are_local = self._ask_workers()
                slots = self._count_slots()  # more may have come meanwhile
            return SparkWorkers(slots, self._are_local)

    def run(self, action: Callable[[], T], look: Callable[[], None], tag: str | None = None) -> T:
        """Return `action()`, which runs a query in a thread of its own.

        `look()` is called every LOOK_S meanwhile.  If it raises, the queries with this tag are
        interrupted; by default that is this one.  Raises JobError (kind "lost") if the query fails.
        """
        tag = tag or f"mmgevent-{uuid.uuid4().hex}"
        answer: Future[T] = Future()
        thread = threading.Thread(target=self._act, args=(tag, action, answer), daemon=True, name=tag)
        thread.start()
        try:
            while True:
                look()
                if wait([answer], LOOK_S).done:
                    return answer.result()
        except MmgeventError:
            raise
        except Exception as error:
            raise JobError(f"{ENGINE} failed: {explain(error)}", {"kind": "lost"}) from error
        finally:
            if not answer.done():
                self._interrupt(tag, answer)

    def close(self) -> None:
        """End the session if it is ours; else give it back as it was."""
        if self._restore is not None:
            _leave(self._restore)
        if self._end is not None:
            self._end()

    def _own(self, session: Any) -> Any:
        """Return a session with settings of its own, or note how to restore those of this one."""
        if not self.is_connect:
            return session.newSession()
        before = session.conf.get(_ROWS_SETTING)
        self._restore = lambda: session.conf.set(_ROWS_SETTING, before)
        return session

    def _act(self, tag: str, action: Callable[[], T], answer: Future[T]) -> None:
        try:
            self.session.addTag(tag)  # of this thread
            answer.set_result(action())
        except BaseException as error:  # raised in the thread that waits
            answer.set_exception(error)

    def _interrupt(self, tag: str, answer: Future[Any]) -> None:
        """End the query, and wait for that.  A Connect server that is lost blocks each call for minutes."""
        until_s = time.monotonic() + INTERRUPT_S

        def interrupt() -> None:
            while not answer.done() and time.monotonic() < until_s:  # it may not have begun at first
                with contextlib.suppress(Exception):  # the session may be over, and the query with it
                    self.session.interruptTag(tag)
                wait([answer], LOOK_S)

        threading.Thread(target=interrupt, daemon=True, name=f"{tag}-end").start()
        wait([answer], INTERRUPT_S)

    def _count_slots(self) -> int:
        """Return how many tasks run at the same time: the parts that Spark makes of a range."""
        if not self.is_connect:
            return max(1, int(self._ask(lambda: self.session.sparkContext.defaultParallelism)))
        parts = (
            self.session.range(0, spark_tasks.PROBE_ROWS)
            .selectExpr("spark_partition_id() AS part")
            .distinct()
        )
        return max(1, int(self._ask(parts.count)))

    def _ask_workers(self) -> SparkWorkers:
        folder = TemporaryFolder("mmgevent-look-")
        try:
            probe = spark_tasks.make_probe(folder.path, spark_tasks.read_boot_id())
            frame = self.session.range(0, spark_tasks.PROBE_ROWS).mapInArrow(probe, "data binary")
            rows = self._ask(lambda: frame.toArrow().column("data").to_pylist())
            master = str(self._ask(lambda: self.session.conf.get("spark.master", "")))
        finally:
            folder.remove()
        found = [json.loads(row) for row in rows]
        for each in found:
            if "missing" in each:
                raise missing_error(ENGINE)
            check_versions(each["versions"], ENGINE)
        is_fixed = master == "local" or master.startswith("local[")  # others may come to a cluster
        return SparkWorkers(len(found), is_fixed and all(each["is_local"] for each in found))

    def _ask(self, action: Callable[[], T]) -> T:
        """Return `action()`.  Raises what prevents jobs from running there."""
        until_s = time.monotonic() + CHECK_S

        def look() -> None:
            if time.monotonic() > until_s:
                raise ConnectError(f"no worker of {ENGINE} took a task for {CHECK_S:g} s: are there any?")

        try:
            return self.run(action, look)
        except JobError as error:
            raise unusable(error) from error


def use_session(session: Any) -> OpenSession:
    """Return a session of the user's for jobs. Raises UsageError if it is none, or too old."""
    _require_packages()
    if not hasattr(session, "createDataFrame") or not hasattr(session, "interruptTag"):
        raise UsageError(f"connect() takes a SparkSession, got {type(session).__name__} of pyspark")
    return OpenSession(session)


def start_session(where: str) -> OpenSession:
    """Start a session at `spark://HOST:PORT`, `sc://HOST[:PORT]` or `spark-local[:N]`.

    Raises UsageError if something is missing here, ConnectError if nobody answers.
    """
    _require_packages()
    scheme = where.partition(":")[0]
    if scheme == "sc":
        reach(where)
        return _start(where, lambda builder: _build_connect(builder, where))
    if scheme == "spark":
        reach(where)
        master, settings = where, {"spark.ui.showConsoleProgress": "false"}
    else:
        master, settings = f"local[{_parse_local(where)},{TASK_ATTEMPTS}]", LOCAL_SETTINGS
    _require_java()
    _refuse_second(where)
    return _start(where, lambda builder: _build_classic(builder, master, settings))


def _require_packages() -> None:
    pyspark = require("pyspark", ENGINE, "spark")
    require("pyarrow", ENGINE, "spark")
    version = tuple(int(part) for part in pyspark.__version__.split(".")[:2])
    if version < MIN_VERSION:
        raise UsageError(
            f"{ENGINE} needs pyspark {'.'.join(map(str, MIN_VERSION))} or later, this Python has {pyspark.__version__}: "
            f"pip install 'mmgevent[spark]'"
        )


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which(os.path.join(home, "bin", "java") if home else "java") is None:
        raise UsageError(
            f"{ENGINE} needs Java 17 or later, and there is no "
            f"{os.path.join(home, 'bin', 'java') if home else 'java on the PATH'}: install it, or set JAVA_HOME"
        )


def _refuse_second(where: str) -> None:
    """Raise UsageError if this process has a classic session: there can be only one."""
    from pyspark import SparkContext

    context = SparkContext._active_spark_context
    if context is not None:
        raise UsageError(
            f"this process has a Spark session already, at {context.master}, so {where} cannot be opened: "
            f"pass that session, mmgevent.connect(spark), or stop it"
        )


def _parse_local(where: str) -> int:
    _, _, count = where.partition(":")
    if not count:
        return os.cpu_count() or 1
    if not (count.isascii() and count.isdigit() and int(count)):
        raise UsageError(f"expected spark-local:N with N tasks at a time, 1 or more, got {where!r}")
    return int(count)


def _start(where: str, build: Callable[[Any], tuple[Any, Callable[[], None]] | Any]) -> OpenSession:
    from pyspark.sql import SparkSession

    try:
        built = build(SparkSession.builder.appName("mmgevent"))
    except Exception as error:
        raise ConnectError(f"no {ENGINE} session can be opened at {where}: {explain(error)}") from error
    session, end = built if isinstance(built, tuple) else (built, built.stop)
    try:
        return OpenSession(session, end)
    except BaseException:
        end()
        raise


def _build_connect(builder: Any, where: str) -> tuple[Any, Callable[[], None]]:
    """Open a session of Connect. Returns it with what ends it, and lets pyspark open classic ones again."""
    _await_answer(where)
    was_connect = _CONNECT_MODE in os.environ

    def forget_connect() -> None:
        if not was_connect:
            os.environ.pop(_CONNECT_MODE, None)

    with contextlib.ExitStack() as undo:
        undo.callback(forget_connect)
        session = builder.remote(where).create()
        undo.pop_all()

    def end() -> None:
        _leave(session.stop)
        forget_connect()

    return session, end


def _await_answer(where: str) -> None:
    """Raise ConnectError unless a gRPC server answers: pyspark itself tries a silent one for minutes."""
    from pyspark.sql.connect.client import DefaultChannelBuilder

    grpc = import_module("grpc")
    with DefaultChannelBuilder(where).toChannel() as channel:
        try:
            grpc.channel_ready_future(channel).result(ANSWER_S)
        except grpc.FutureTimeoutError as error:
            raise ConnectError(f"no answer came for {ANSWER_S:g} s: is Spark Connect there?") from error


def _leave(action: Callable[[], None]) -> None:
    """Give a session back, or end it.  One that is lost needs neither, and its jobs have said so."""
    try:
        action()
    except Exception as error:
        log.info("%s does not answer at the end of a session: %s", ENGINE, explain(error))


def _build_classic(builder: Any, master: str, settings: dict[str, str]) -> tuple[Any, Callable[[], None]]:
    """Start a classic session: a JVM, and a context in it. Returns it with what ends both."""
    from pyspark import SparkContext

    had_jvm = SparkContext._gateway is not None
    is_local = settings is LOCAL_SETTINGS
    is_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    builder = builder.master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with (
            without_ends_in_the_log(),
            local_environment() if is_local else contextlib.nullcontext(),
        ):
            session = builder.getOrCreate()
    except Exception as error:
        told = explain(error)  # the JVM has to say it
        if not had_jvm:
            end_jvm()
        raise ConnectError(told) from error
    except BaseException:
        if not had_jvm:
            end_jvm()
        raise
    finally:
        if is_main:  # Spark's handler cancels jobs of others, too
            signal.signal(signal.SIGINT, on_interrupt)

    def end() -> None:
        with without_ends_in_the_log():
            _leave(session.stop)
            if not had_jvm:
                end_jvm()

    return session, end


@contextlib.contextmanager
def local_environment() -> Iterator[None]:
    """Let a Spark of this machine use only loopback, and the Python of this process, unless set."""
    wanted = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
