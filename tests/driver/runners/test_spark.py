"""Spark: what is refused, what is missing, workers that die, sessions that end and that stay."""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
import zlib

import pytest

import mmgevent as mmg
from mmgevent.box.reports import Report
from mmgevent.driver.runners import spark_errors, spark_sessions, spark_tasks
from tests.driver.runners.places import DEADLINE_S, PLACES, wait_until
from tests.driver.runners.test_contract import EXPECTED, add, by_three, numbers
from tests.integration.commands import ROOT, wait_for
from tests.ports import free_port, reserved_port

HAS_SPARK = (
    importlib.util.find_spec("pyspark") is not None and importlib.util.find_spec("pyarrow") is not None
)

needs_spark = pytest.mark.skipif(not HAS_SPARK, reason="the package pyspark or pyarrow is not installed")
needs_java = pytest.mark.skipif(
    not HAS_SPARK or shutil.which("java") is None, reason="pyspark or Java is not installed"
)

#: Murmur3 (x86, 32 bits, seed 42) of four bytes, as Spark 4.3 answers `SELECT hash(n)`.
SPARKS_HASHES = {0: 933211791, 1: -559580957, 2: 1765031574, 100: -1320625441}


def test_labels_give_each_group_a_partition_of_its_own():
    assert {number: spark_tasks._hash_int(number) for number in (0, 1)} == {
        number: SPARKS_HASHES[number] for number in (0, 1)
    }
    for groups in (1, 2, 5, 64):
        labels = spark_tasks.labels_for(groups)
        assert [spark_tasks._hash_int(label) % groups for label in labels] == list(range(groups))


def test_a_missing_pyspark_is_one_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(mmg.UsageError, match=r"mmgevent\[spark\]"):
        mmg.connect("spark-local:2")


@needs_spark
def test_a_missing_pyarrow_is_one_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(mmg.UsageError, match=r"package pyarrow.*mmgevent\[spark\]"):
        mmg.connect("spark-local:2")


@needs_spark
def test_a_missing_java_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(mmg.UsageError, match="needs Java 17"):
        mmg.connect("spark-local:2")
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mmg.UsageError, match="no java on the PATH"):
        mmg.connect("spark-local:2")


@needs_java
@pytest.mark.parametrize("scheme", ["spark", "sc"])
def test_nobody_at_the_address(scheme):
    with (
        reserved_port() as port,
        pytest.raises(mmg.ConnectError, match=f"nobody answers at {scheme}://127.0.0.1:{port}"),
    ):
        mmg.connect(f"{scheme}://127.0.0.1:{port}")


@needs_spark
@pytest.mark.long
def test_what_is_no_connect_server_is_told_in_time(monkeypatch):
    """Pyspark itself would try again and again."""
    monkeypatch.setattr("mmgevent.driver.runners.spark_sessions.ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"sc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(mmg.ConnectError, match=f"no Spark session can be opened at {where}: .*no answer"):
            mmg.connect(where)


@needs_java
@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_what_is_no_master_is_told_in_time(greeting, monkeypatch):
    """Spark itself asks for a minute, and ends its JVM then."""
    monkeypatch.setattr("mmgevent.driver.runners.spark_knock.ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        answer = threading.Thread(target=lambda: held.append(server.accept()[0]) or held[0].send(greeting))
        answer.start()
        port = server.getsockname()[1]
        with pytest.raises(
            mmg.ConnectError, match=rf"nobody answers at spark://127\.0\.0\.1:{port} .*Spark master"
        ):
            mmg.connect(f"spark://127.0.0.1:{port}")
        answer.join(30)
        held[0].close()


@needs_java
@pytest.mark.parametrize(
    "where",
    ["spark-local:0", "spark-local:x", "spark://", "sc://127.0.0.1:x", "spark://:7077", "spark://h:70:80"],
)
def test_a_where_that_is_none(where):
    with pytest.raises(mmg.UsageError, match=r"spark-local:N|names no host|no number"):
        mmg.connect(where)


def test_the_line_of_an_error_that_says_what_happened():
    text = (
        "[X] An exception was thrown from the Python worker.\nTraceback (most recent call last):\n"
        '  File "a.py", line 1\nModuleNotFoundError: no such module\n\n\tat org.apache.spark.X(Y.scala:1)\n'
        "java.lang.IllegalStateException: later\n"
    )
    assert spark_errors.explain(RuntimeError(text)) == "ModuleNotFoundError: no such module"
    assert spark_errors.explain(RuntimeError("first\n\tat X")) == "first"
    assert spark_errors.explain(RuntimeError()) == "RuntimeError"


def test_an_error_whose_jvm_has_ended_is_told_all_the_same():
    """An error of Java asks its JVM what it says."""

    class OfJava(Exception):
        def __str__(self):
            raise ConnectionRefusedError

    assert spark_errors.explain(OfJava()) == "OfJava, and the JVM of Spark has ended"
    error = mmg.JobError("x")
    error.__cause__ = OfJava()
    assert "the JVM of Spark has ended" in str(spark_errors.unusable(error))


def test_a_task_that_failed_stops_all_groups():
    rows = list(spark_tasks._rows_of_map(7, Report(failure={"error": "x"}), [b"a", b"b"], [3, 4]))
    assert [row.target for row in rows if row.kind == spark_tasks.HALT] == [3, 4]
    assert not [row for row in rows if row.kind == spark_tasks.DATA]


def test_a_report_is_the_same_after_its_way():
    report = Report(
        failure={"error": "x\n\udc80"}, items=3, seconds=0.5, rows=b"a\nb", killers=((4, {"key": "4"}),),
        deaths=({"kind": "timeout"},), notices=(("text", None),), worker="host/1",
    )  # fmt: skip
    assert spark_tasks.decode_report(spark_tasks.encode_report(report)) == report
    assert spark_tasks.decode_report(spark_tasks.encode_report(Report())) == Report()


def test_large_pieces_are_cut_into_rows():
    piece = bytes(range(256)) * 10_000
    rows = list(spark_tasks._rows_of_map(1, Report(), [piece, b""], [3, 4]))[1:]
    assert [row.seq for row in rows] == [0, 1, 2]
    assert b"".join(row.data for row in rows) == piece
    assert max(len(row.data) for row in rows) == spark_tasks.ROW_BYTES


class StandIn:
    """A session whose server is lost: pyspark tries each call again for minutes."""

    def __init__(self):
        self.conf = types.SimpleNamespace(set=lambda name, value: None)
        self.interrupted = []
        self.may_go = threading.Event()

    def addTag(self, tag):
        pass

    def interruptTag(self, tag):
        self.interrupted.append(tag)
        self.may_go.wait()


def test_a_server_that_is_lost_keeps_no_job_from_ending(monkeypatch):
    monkeypatch.setattr("mmgevent.driver.runners.spark_sessions.INTERRUPT_S", 0.2)
    lost = StandIn()
    opened = spark_sessions.OpenSession(lost, end=lambda: None)

    def cancelled():
        raise mmg.JobCancelled

    try:
        with pytest.raises(mmg.JobCancelled):
            opened.run(lost.may_go.wait, cancelled, "tag")
    finally:
        lost.may_go.set()
    assert lost.interrupted == ["tag"]


def test_a_query_that_has_ended_is_not_interrupted():
    standing = StandIn()
    opened = spark_sessions.OpenSession(standing, end=lambda: None)
    assert opened.run(lambda: 5, lambda: None) == 5
    assert standing.interrupted == []


def test_a_session_that_is_lost_is_left_without_an_error():
    def lost():
        raise ConnectionRefusedError

    spark_sessions._leave(lost)


@pytest.fixture(scope="module")
def session():
    """A session of the user's, which jobs do not end."""
    with PLACES["spark"][0]() as place:
        yield place.cluster._opened.session


@pytest.fixture
def cluster(session):
    with mmg.connect(session) as cluster:
        yield cluster


on_spark = [needs_java, pytest.mark.long]


class TestOnSpark:
    pytestmark = on_spark

    def test_a_session_of_the_users_stays(self, session):
        setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
        before = session.conf.get(setting)
        with mmg.connect(session) as cluster:
            assert cluster.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED
        assert session.range(5).count() == 5
        assert session.conf.get(setting) == before

    def test_spark_hashes_as_we_do(self, session):
        found = session.sql("SELECT hash(CAST(0 AS int)), hash(1), hash(2), hash(100)").collect()[0]
        assert list(found) == [spark_tasks._hash_int(number) for number in (0, 1, 2, 100)]

    def test_a_second_session_is_refused(self, session):
        with pytest.raises(mmg.UsageError, match="has a Spark session already"):
            mmg.connect("spark-local:2")

    @pytest.mark.parametrize(
        "endless",
        [itertools.count(), itertools.cycle([1]), itertools.repeat((1, 1))],
        ids=lambda s: type(s).__name__,
    )
    def test_a_datasource_without_end_is_refused(self, cluster, endless):
        with pytest.raises(mmg.UsageError, match="has no end"):
            cluster.run(mmg.Job(endless, by_three, add))
        assert cluster.run(mmg.Job(itertools.repeat((1, 1), 3), by_three, add)) == {1: 3}

    def test_a_datasource_too_large_for_the_driver_is_refused(self, cluster, monkeypatch):
        monkeypatch.setattr("mmgevent.driver.runners.spark_runner.MAX_INPUT_BYTES", 10_000)
        with pytest.raises(mmg.UsageError, match="needs the whole input"):
            cluster.run(mmg.Job(((n, n) for n in itertools.count()), by_three, add))

    @pytest.mark.parametrize("options", [{"allocation": "oneshot"}])
    def test_oneshot_is_refused(self, cluster, options):
        with pytest.raises(mmg.UsageError, match="oneshot"):
            cluster.run(mmg.Job(numbers(3), by_three, add, **options))

    def test_watch_and_tell_are_refused(self, cluster):
        for call in (lambda: cluster.watch(None, None, None), lambda: cluster.tell(1, b""), cluster.workers):
            with pytest.raises(mmg.UsageError, match="runs on Spark"):
                call()

    def test_workers_without_the_files_get_their_contents(self, cluster, tmp_path, monkeypatch):
        from mmgevent.driver.runners.spark_sessions import SparkWorkers

        path = tmp_path / "input.txt"
        path.write_text("a b\nc\n")
        monkeypatch.setattr(cluster._opened, "workers", lambda: SparkWorkers(2, False))
        moved = tmp_path / "moved.txt"
        real = spark_tasks.map_task

        def as_on_another_machine(job, code, labels, with_refs):
            run = real(job, code, labels, with_refs)

            def hidden(batches):
                if with_refs:
                    os.rename(path, moved)
                try:
                    yield from run(batches)
                finally:
                    if with_refs:
                        os.rename(moved, path)

            return hidden

        monkeypatch.setattr(spark_tasks, "map_task", as_on_another_machine)
        assert cluster.run(mmg.Job(mmg.Files(path), lambda key, text: [("size", len(text))], add)) == {
            "size": 6
        }

    @pytest.mark.parametrize("phase", ["map", "reduce"])
    def test_a_python_worker_of_spark_dies(self, cluster, tmp_path, phase):
        mark = str(tmp_path / "mark")

        def die_once():
            """Kill the process that has this box: the parent of the executor's template."""
            if os.path.exists(mark):
                return
            open(mark, "w").close()
            with open(f"/proc/{os.getppid()}/stat") as file:
                os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGKILL)

        def mapfn(key, value):
            if phase == "map" and value == 50:
                die_once()
            yield value % 3, value

        def reducefn(key, values):
            if phase == "reduce" and key == 1:
                die_once()
            return sum(values)

        assert cluster.run(mmg.Job(numbers(100), mapfn, reducefn)) == EXPECTED
        assert os.path.exists(mark)

    def test_an_action_that_raises_a_timeout_of_its_own_fails_at_once(self, cluster):
        looks = []

        def look():
            looks.append(1)
            if len(looks) > 100:
                raise AssertionError("it does not wait between looks")

        def raises():
            raise TimeoutError("of the action")

        with pytest.raises(mmg.JobError, match="Spark failed: of the action"):
            cluster._opened.run(raises, look)

    def test_results_larger_than_are_fetched_at_once(self, cluster):
        job = mmg.Job(
            numbers(40), lambda key, value: [(value, os.urandom(1) * 2**20)], lambda key, values: values[0]
        )
        found = cluster.run(job)
        assert {key: len(value) for key, value in found.items()} == dict.fromkeys(range(40), 2**20)
        assert all(zlib.crc32(value) == zlib.crc32(value[:1] * 2**20) for value in found.values())


#: Runs a job each time a line comes, and prints how many tasks run at a time.
PROGRAM_FOR_MANY_JOBS = """
import sys, mmgevent as mmg
if __name__ == "__main__":
    with mmg.connect(sys.argv[1]) as cluster:
        print("open", flush=True)
        for line in sys.stdin:
            seen = []
            job = mmg.Job({i: i for i in range(9)}, lambda k, v: [(v % 3, v)], lambda k, vs: sum(vs))
            assert cluster.run(job, progress=seen.append) == {0: 9, 1: 12, 2: 15}
            print("slots", seen[-1].slots, "local", cluster._opened.workers().are_local, flush=True)
"""


@contextlib.contextmanager
def spark_daemon(folder, name, *arguments):
    """A master or worker of standalone Spark. Yields the file that it writes."""
    pyspark = importlib.util.find_spec("pyspark").submodule_search_locations[0]
    environ = {
        **on_loopback(),
        "SPARK_WORKER_DIR": str(folder),
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_DAEMON_JAVA_OPTS": "-Dspark.master.rest.enabled=false",  # it has a port of its own
    }
    command = [f"{pyspark}/bin/spark-class", f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1"]
    log = folder / f"{name}-{free_port()}.log"  # a pipe that nobody reads would stop it
    with (
        log.open("w") as written,
        subprocess.Popen(
            [*command, "--webui-port", "0", *arguments], env=environ, stderr=written, text=True
        ) as daemon,
    ):
        try:
            yield log
        finally:
            daemon.terminate()


def on_loopback():
    return {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}


@needs_java
@pytest.mark.long
@pytest.mark.timeout(300)  # it starts seven processes with a JVM or a Python of their own
def test_a_standing_cluster_is_not_this_machine_and_may_grow(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM_FOR_MANY_JOBS)
    address = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:

        def start(name, *arguments):
            return stack.enter_context(spark_daemon(tmp_path, name, *arguments))

        def start_worker(cores):
            output = start("worker.Worker", "--cores", str(cores), "--memory", "1g", f"spark://{address}")
            wait_until(lambda: "Successfully registered with master" in output.read_text())

        master = start("master.Master", "--port", address.partition(":")[2])
        wait_until(lambda: "New state: ALIVE" in master.read_text())
        driver = stack.enter_context(
            subprocess.Popen(
                [sys.executable, program, f"spark://{address}"],
                env=on_loopback(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        stack.callback(driver.kill)

        def run_a_job():
            print("run", file=driver.stdin, flush=True)
            return driver.stdout.readline()

        assert driver.stdout.readline() == "open\n"
        start_worker(3)  # it has none yet, and Spark says 2 then
        assert run_a_job() == "slots 3 local False\n"
        start_worker(2)
        while (slots := run_a_job()) != "slots 5 local False\n":  # its executor takes seconds to come
            assert slots == "slots 3 local False\n"
        driver.stdin.close()
        assert driver.wait(60) == 0


PROGRAM = """
import mmgevent as mmg, os
if __name__ == "__main__":
    with mmg.connect("spark-local:2") as cluster:
        job = mmg.Job({i: i for i in range(9)}, lambda k, v: [(v % 3, v)], lambda k, vs: sum(vs))
        assert cluster.run(job) == {0: 9, 1: 12, 2: 15}
        assert list(children())
    print("left", *children())
"""
CHILDREN = """
def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()
"""


@needs_java
@pytest.mark.long
def test_a_session_of_ours_ends_and_leaves_no_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("if __name__", CHILDREN + "if __name__", 1))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout == "left\n", done.stderr[-2000:]


@needs_java
@pytest.mark.long
@pytest.mark.parametrize("moment", ["Setting default log level", "Setting Spark log level"])
def test_ctrl_c_while_a_session_starts_is_one_line_and_leaves_no_jvm(moment, tmp_path):
    job = tmp_path / "job.py"
    job.write_text("datasource = {1: 1}\ndef mapfn(key, value): yield key, value\n")
    command = [sys.executable, "-m", "mmgevent", "run", "--on", "spark-local:1", job]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process.stderr, moment)  # before pyspark knows the port of the JVM, and after that
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)  # it ends when the JVM has ended, too
    assert process.returncode == 130
    assert "mmg-run: interrupted" in stderr
    assert "Traceback" not in stderr
    assert "ERROR" not in stderr


@needs_java
@pytest.mark.long
def test_ctrl_c_while_a_job_runs_is_two_lines_and_leaves_no_process(tmp_path):
    pids, job = tmp_path / "pids", tmp_path / "job.py"
    pids.mkdir()
    job.write_text(
        "import os, time\ndatasource = {1: 1}\n"
        f"def mapfn(key, value):\n    open(os.path.join({str(pids)!r}, str(os.getpid())), 'w')\n    time.sleep(1000)\n"
    )
    command = [sys.executable, "-m", "mmgevent", "run", "--on", "spark-local:1", job]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: os.listdir(pids) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "mmg-run: interrupted after" in stderr
    assert "Traceback" not in stderr
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in os.listdir(pids)))
