"""A worker with real executors, driven by a test that plays the server over a local link."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import types

import gevent
import psutil
import pytest
from gevent.event import Event
from gevent.queue import Queue
from gevent.server import StreamServer
from gevent.socket import AF_UNIX
from gevent.socket import socket as GeventSocket

from mmgevent.engine.net.local_link import local_pair
from mmgevent.engine.scheduler.durations import MAX_ATTEMPTS_PER_SLOT
from mmgevent.engine.worker import crew, forker, supervisor, template_deaths, workload
from mmgevent.engine.worker.crew import MAX_FORK_FAILURES
from mmgevent.engine.worker.forkers import MAX_IDLE_TEMPLATES, Forkers, Kind
from mmgevent.engine.worker.held import MAX_ATTEMPTS
from mmgevent.engine.worker.role import WorkerRole
from mmgevent.engine.worker.silence import MAX_UNANSWERED, Silence
from mmgevent.job.functions import Functions
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.machine.processes import Look
from mmgevent.tasks import records
from mmgevent.wire.frames import CODE, CONTROL, GRANT, INPUT, OUTPUT, split_payload
from mmgevent.wire.lanes import CODE_WINDOW, INPUT_WINDOW, OUTPUT_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.positions import position_of
from mmgevent.wire.shapes import MAX_INLINE_BYTES

WAIT_S = 20.0
PARTITIONS = 4
#: the kind of template of jobs without greenlets or flags
PLAIN = Kind(False, ())

JOB = '''
import ctypes, os, signal, socket, subprocess, sys, time

def mapfn(key, value):
    return ACTIONS[key.split()[0]](key, value)

def reducefn(key, values):
    if key == "kill me":
        os._exit(3)
    return sum(values)

def words(key, text):
    for word in text.split():
        yield word, 1

def gate(key, path):
    """Say who is here, go on when told."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(f"{os.getpid()} {key}".encode())
        sock.recv(1)
    yield key, 1

def quit(key, status):
    print("these were my last words")
    os._exit(status)

def segfault(key, value):
    ctypes.string_at(0)

def loop(key, value):
    while True:
        pass

def flood(key, n_lines):
    for i in range(n_lines):
        print("x" * 99)
        print("y" * 99, file=sys.stderr)
    yield key, n_lines

def bomb(key, n_bytes):
    yield key, len(bytearray(n_bytes))

def shared_bomb(key, n_bytes):
    import mmap
    memory = mmap.mmap(-1, n_bytes)
    for start in range(0, n_bytes, 4096):
        memory[start] = 1
    while True:
        time.sleep(1)

def fail(key, value):
    raise ValueError(value)

def leave(key, value):
    raise SystemExit(value)

def close_all(key, value):
    os.closerange(0, 512)
    yield key, 1

def kill_template(key, value):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

def fork(key, value):
    os.fork()
    yield key, 1

def hold(key, path):
    child = subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(f"{child.pid} {key}".encode())
        sock.recv(1)
    os._exit(5)

def many(key, count):
    for i in range(count):
        yield f"{i:060d}", i

def pid(key, value):
    yield os.getpid(), 1

ACTIONS = {name: value for name, value in globals().items() if callable(value)}
'''


def code_of(source: str) -> bytes:
    """Pack the functions of a job whose source is this text."""
    module = sys.modules["job_under_test"] = types.ModuleType("job_under_test")
    try:
        exec(compile(source, "job_under_test.py", "exec"), module.__dict__)
        mapfn, reducefn, setupfn = (module.__dict__.get(name) for name in ("mapfn", "reducefn", "setupfn"))
        functions = Functions.of(mapfn, None, reducefn, setupfn)
        return pack_functions(functions, by_value=["job_under_test"])
    finally:
        del sys.modules["job_under_test"]


class FakeServer:
    """The other end of a worker's link: assigns by hand, grants what comes, remembers it all."""

    def __init__(self, link):
        self.link = link
        self.messages: list[tuple[int, dict]] = []
        self.outputs: dict[int, bytearray] = {}
        self.grants = True
        self.closed = Event()
        self._news = Event()
        self._windows: dict[tuple[int, int, int], ReceiveWindow] = {}
        self._last_attempt = 0
        link.start(self._on_frame, lambda reason: self.closed.set())

    def _on_frame(self, frame):
        if frame.kind == CONTROL:
            message = decode_message(frame.payload)
            self.messages.append((frame.attempt or frame.job, message))
            if "inline" in message:
                self.outputs.setdefault(frame.attempt, bytearray()).extend(message["inline"])
        elif frame.kind == OUTPUT:
            self.outputs.setdefault(frame.attempt, bytearray()).extend(frame.payload)
            window = self._windows.setdefault(frame.lane, ReceiveWindow(OUTPUT_WINDOW))
            window.received(len(frame.payload))
            if self.grants and (n_bytes := window.consumed(len(frame.payload))):
                self.link.send(grant_frame(frame.lane, n_bytes))
        else:
            assert frame.kind == GRANT
        self._news.set()

    def grant_all(self):
        self.grants = True
        for lane, window in self._windows.items():
            self.link.send(grant_frame(lane, window.consumed(OUTPUT_WINDOW)))

    def submit(self, job, source=JOB, **options):
        code = code_of(source)
        self.link.send(control("job", job, options=options, code_bytes=len(code), fingerprint="f"))
        self.link.open_lane((job, 0, 0), CODE_WINDOW)
        for frame in split_payload(CODE, code, job):
            self.link.send_in_lane(frame)

    def assign_map(self, items, job=1, slot=0, **fields):
        data = records.encode_items(items)
        fields = {"lo": 0, "hi": len(items), "skip": [], **fields}
        return self._assign(data, job, phase="map", slot=slot, **fields)

    def assign_reduce(self, parts, job=1, slot=0):
        """`parts`: {partition: [segment, ...]}"""
        sizes = [[partition, sum(map(len, segments))] for partition, segments in parts.items()]
        data = b"".join(segment for segments in parts.values() for segment in segments)
        return self._assign(data, job, phase="reduce", slot=slot, parts=sizes)

    def _assign(self, data, job, **fields):
        self._last_attempt += 1
        lane = (job, self._last_attempt, self._last_attempt)
        is_inline = self._last_attempt % 2 and len(data) <= MAX_INLINE_BYTES
        fields["inline"] = data if is_inline else None
        self.link.open_lane(lane, INPUT_WINDOW)
        self.link.send_in_lane(control("assign", *lane, size=len(data), partitions=PARTITIONS, **fields))
        if not is_inline:
            for frame in split_payload(INPUT, data, *lane):
                self.link.send_in_lane(frame)
        return self._last_attempt

    def tell(self, type_, attempt, job=1):
        self.link.send(control(type_, job, attempt, attempt))

    def outcomes(self, attempt):
        return [
            m
            for number, m in self.messages
            if number == attempt and m["type"] not in ("hello", "notice", "printed")
        ]

    def wait_for(self, *attempts):
        """The outcome of each attempt, once all have one; the only one if there is one."""
        with gevent.Timeout(WAIT_S, TimeoutError(f"no outcome of {attempts}, only {self.messages}")):
            while not all(self.outcomes(attempt) for attempt in attempts):
                self._news.clear()
                self._news.wait()
        found = [self.outcomes(attempt)[0] for attempt in attempts]
        return found[0] if len(found) == 1 else found

    def records_of(self, attempt):
        """Everything the attempt put out: {key: [value, ...]}"""
        found: dict = {}
        for _, data in records.decode_flush(bytes(self.outputs.get(attempt, b""))):
            segment = records.decode_segment(data)
            for key, value in zip(segment.keys, segment.values, strict=True):
                found.setdefault(key, []).extend(value if segment.grouped else [value])
        return found


class Gate:
    """Where items of the action "gate" wait until the test lets them go."""

    def __init__(self):
        # Not below the folder of the test, whose path may be too long for a socket.
        self._folder = tempfile.TemporaryDirectory(prefix="mmg-", dir="/tmp")
        self.path = f"{self._folder.name}/gate"
        self.arrivals: Queue = Queue()
        listener = GeventSocket(AF_UNIX)
        listener.bind(self.path)
        listener.listen(64)
        self._open: list[Event] = []
        self._server = StreamServer(listener, self._serve)
        self._server.start()

    def _serve(self, sock, address):
        pid, key = sock.recv(1000).decode().split(" ", 1)
        go = Event()
        self._open.append(go)
        self.arrivals.put((int(pid), key, go))
        go.wait()

    def next(self):
        """(pid, key, event to set) of the next item that waits."""
        return self.arrivals.get(timeout=WAIT_S)

    def close(self):
        for go in self._open:
            go.set()
        self._server.stop(timeout=1)
        self._folder.cleanup()


def executors() -> list[psutil.Process]:
    """The executors of this process that are alive."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() == "mmg-executor" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_until_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=WAIT_S)
    assert not alive


def wait_until(condition):
    """Look until it holds, while this process's own greenlets go on."""
    with gevent.Timeout(WAIT_S):
        while not condition():
            gevent.sleep(0.001)


def living_greenlets():
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


@pytest.fixture(scope="module")
def forkers():
    # Earlier modules may leave a process of Python's own, such as the resource tracker of multiprocessing.
    before = set(psutil.Process().children(recursive=True))
    forkers = Forkers()
    forkers.get()
    gevent.sleep(0)
    yield forkers
    forkers.close()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def start(forkers, tmp_path):
    """Start a worker with N slots; afterwards nothing of it may be left."""
    workers = []
    before = living_greenlets(), psutil.Process().num_fds(), len(forkers._forkers)

    def start_worker(slots=1, forkers=forkers):
        ours, theirs = local_pair("local worker")
        server = FakeServer(ours)
        worker = WorkerRole(
            theirs, slots=slots, forkers=forkers, name="host/1", scratch_dir=str(tmp_path), is_local=True
        )
        worker.start()
        workers.append((worker, server))
        return server, worker

    yield start_worker
    for worker, server in workers:
        worker.stop("the test is over")
        assert worker.closed.is_set()
        assert server.closed.wait(WAIT_S)
    assert executors() == []
    if len(forkers._forkers) == before[2]:
        gevent.sleep(0)
        # No more than before: what earlier tests left to be closed may be closed by now.
        assert living_greenlets() <= before[0]
        assert psutil.Process().num_fds() <= before[1]


@pytest.fixture
def gate(start):
    gate = Gate()
    yield gate
    gate.close()


def test_says_hello_with_what_it_has(start):
    server, _ = start(slots=3)
    with gevent.Timeout(WAIT_S):
        while not server.messages:
            server._news.wait()
    message = server.messages[0][1]
    assert (message["type"], message["role"], message["slots"], message["name"]) == (
        "hello",
        "worker",
        3,
        "host/1",
    )


def test_counts_words_in_a_map_and_a_reduce(start):
    server, _ = start(slots=2)
    server.submit(1)
    first = server.assign_map([("words 1", "a b a"), ("words 2", "c")], slot=0)
    second = server.assign_map([("words 3", "a c")], slot=1)
    done, _ = server.wait_for(first, second)
    assert (done["type"], done["items"], done["records"]) == ("done", 2, 4)
    assert done["size"] == len(server.outputs[first])
    assert server.records_of(first) == {"a": [1, 1], "b": [1], "c": [1]}
    parts: dict[int, list[bytes]] = {}
    for attempt in (first, second):
        for partition, data in records.decode_flush(bytes(server.outputs[attempt])):
            parts.setdefault(partition, []).append(bytes(data))
    reduced = server.assign_reduce(parts)
    assert server.wait_for(reduced)["type"] == "done"
    assert server.records_of(reduced) == {"a": [3], "b": [1], "c": [2]}


def test_maps_only_its_range_and_leaves_out_skipped_items(start):
    server, _ = start()
    server.submit(1)
    items = [(f"words {i}", f"w{i}") for i in range(6)]
    attempt = server.assign_map(items, lo=1, hi=5, skip=[position_of(2)])
    assert server.wait_for(attempt)["items"] == 3
    assert set(server.records_of(attempt)) == {"w1", "w3", "w4"}


def test_code_and_input_larger_than_their_windows_arrive(start):
    server, _ = start()
    server.submit(
        1,
        JOB
        + f"\nPADDING = '{os.urandom(CODE_WINDOW).hex()}'\ndef keep(): return PADDING\nACTIONS['keep'] = keep\n",
    )
    text = " ".join(f"{i:09d}" for i in range(400_000))
    attempt = server.assign_map([("words", text)])
    assert server.wait_for(attempt)["records"] == 400_000


def test_a_reduce_reads_segments_larger_than_the_window(start):
    server, _ = start()
    server.submit(1)
    segments = [records.encode_segment([f"{n:0100d}" for n in range(10_000)], [i] * 10_000) for i in range(5)]
    grouped = [
        records.encode_segment(s.keys, [[v] for v in s.values], grouped=True)
        for s in map(records.decode_segment, segments)
    ]
    attempt = server.assign_reduce({0: grouped, 3: grouped[:1]})
    assert server.wait_for(attempt)["type"] == "done"
    assert server.records_of(attempt)[f"{7:0100d}"] == [10, 0]


def test_output_waits_for_credit(start):
    server, _ = start()
    server.submit(1)
    server.grants = False
    attempt = server.assign_map([("many", 200_000)])
    with gevent.Timeout(WAIT_S):
        while len(server.outputs.get(attempt, b"")) < OUTPUT_WINDOW:
            server._news.clear()
            server._news.wait()
    assert len(server.outputs[attempt]) == OUTPUT_WINDOW
    assert not server.outcomes(attempt)
    server.grant_all()
    assert server.wait_for(attempt)["size"] == len(server.outputs[attempt]) > OUTPUT_WINDOW


def test_an_exception_is_reported_with_item_and_worker(start):
    server, _ = start()
    server.submit(1)
    attempt = server.assign_map([("words", ""), ("fail", "no such luck")])
    failed = server.wait_for(attempt)
    assert (failed["type"], failed["item"], failed["failure"]["worker"]) == (
        "failed",
        position_of(1),
        "host/1",
    )
    assert "no such luck" in failed["failure"]["error"]
    assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "done"


def test_system_exit_is_an_exception_like_any_other(start):
    server, _ = start()
    server.submit(1)
    assert server.wait_for(server.assign_map([("leave", "now")]))["type"] == "failed"


def test_code_that_does_not_load_fails_every_attempt(start):
    server, _ = start()
    server.link.send(control("job", 1, options={}, code_bytes=7, fingerprint="f"))
    server.link.open_lane((1, 0, 0), CODE_WINDOW)
    for frame in split_payload(CODE, b"garbage", 1):
        server.link.send_in_lane(frame)
    for _ in range(2):
        failed = server.wait_for(server.assign_map([("words", "a")]))
        assert failed["type"] == "failed"
        assert failed["failure"]["kind"] in ("shipping", "import")


@pytest.mark.parametrize(
    "options",
    [
        {"greenlets": "x"},
        {"greenlets": 1e300},
        {"task_timeout": "x"},
        {"task_timeout": -1},
        {"task_timeout": True},
        {"setup_timeout": 0},
        {"memory_limit": [1]},
        {"memory_limit": "2GiB"},
        {"memory_limit": 10**30},
        {"flags": "-O"},
        {"flags": ["-c"]},
        {"flags": ["-O", "--help"]},
        {"flags": ["-O -c"]},
        {"flags": ["-O", "-OO"]},
        {"flags": ["-O", "-O"]},
        {"flags": ["-b", "-O"]},
        {"flags": ["-X utf8"]},
        {"flags": [["-O"]]},
        {"flags": {"-O": 1}},
    ],
    ids=str,
)
def test_options_that_make_no_sense_fail_their_job_and_no_other(start, options):
    server, _ = start()
    server.submit(1, **options)
    server.submit(2, greenlets=None, task_timeout=None, memory_limit=None, setup_timeout=None)
    for _ in range(2):
        failed = server.wait_for(server.assign_map([("words", "a")]))
        assert (failed["type"], failed["failure"]["kind"]) == ("failed", "options")
        assert failed["failure"]["worker"] == "host/1"
        assert next(iter(options)) in failed["failure"]["error"]
    assert server.wait_for(server.assign_map([("words", "a")], job=2))["type"] == "done"


def test_an_error_about_an_option_is_short(start):
    server, _ = start()
    server.submit(1, task_timeout="x" * 100_000)
    failure = server.wait_for(server.assign_map([("words", "a")]))["failure"]
    assert failure["kind"] == "options"
    assert len(failure["error"]) < 1000


def test_a_killed_executor_is_reported_with_its_item_and_replaced(start, gate):
    server, _ = start()
    server.submit(1)
    attempt = server.assign_map([("words 1", "a"), ("gate 2", gate.path)])
    behind = server.assign_map([("words 3", "a")])
    pid, _, _ = gate.next()
    os.kill(pid, signal.SIGKILL)
    died, done = server.wait_for(attempt, behind)
    assert (died["type"], died["item"], done["type"]) == ("died", position_of(1), "done")
    failure = died["failure"]
    assert failure["kind"] == "died"
    assert "signal 9 (SIGKILL)" in failure["error"]
    assert (failure["key"], failure["function"], failure["worker"]) == ("'gate 2'", "mapfn", "host/1")
    assert server.wait_for(server.assign_map([("words 3", "a")]))["type"] == "done"


def test_os_exit_is_reported_with_status_and_last_words(start):
    server, _ = start()
    server.submit(1)
    failure = server.wait_for(server.assign_map([("quit", 3)]))["failure"]
    assert "exit code 3" in failure["error"]
    assert "these were my last words" in failure["last_words"]


def test_a_death_in_reduce_names_the_key(start):
    server, _ = start()
    server.submit(1)
    segment = records.encode_segment(["a", "kill me"], [[1], [1]], grouped=True)
    failure = server.wait_for(server.assign_reduce({0: [segment]}))["failure"]
    assert (failure["key"], failure["function"]) == ("'kill me'", "reducefn")


def test_a_segfault_leaves_the_python_stack(start):
    server, _ = start()
    server.submit(1)
    failure = server.wait_for(server.assign_map([("segfault", None)]))["failure"]
    assert "signal 11 (SIGSEGV)" in failure["error"]
    assert "Segmentation fault" in failure["last_words"]
    assert "in segfault" in failure["last_words"]


def test_an_endless_loop_ends_by_task_timeout(start):
    server, _ = start()
    server.submit(1, task_timeout=1.0)
    attempt = server.assign_map([("words", "a"), ("loop", 0)])
    died = server.wait_for(attempt)
    assert (died["type"], died["item"], died["failure"]["kind"]) == ("died", position_of(1), "timeout")
    assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "done"


def test_a_flood_of_output_neither_stops_nor_fills_anything(start):
    server, _ = start()
    server.submit(1)
    assert server.wait_for(server.assign_map([("flood", 30_000)]))["type"] == "done"
    failure = server.wait_for(server.assign_map([("flood", 30_000), ("quit", 1)]))["failure"]
    assert len(failure["last_words"]) < 5000
    assert re.search(r"\d{7} bytes left out", failure["last_words"])


def test_memory_beyond_the_limit_is_an_error_or_a_death(start):
    server, _ = start()
    server.submit(1, memory_limit=256 << 20)
    failed = server.wait_for(server.assign_map([("bomb", 1 << 30)]))
    assert failed["type"] == "failed"
    assert "MemoryError" in failed["failure"]["error"]
    died = server.wait_for(server.assign_map([("shared_bomb", 300 << 20)]))
    assert (died["type"], died["failure"]["kind"]) == ("died", "memory")
    assert server.wait_for(server.assign_map([("bomb", 1 << 20)]))["type"] == "done"


def test_a_held_attempt_can_be_recalled_and_a_running_one_not(start, gate):
    server, _ = start()
    server.submit(1)
    running = server.assign_map([("gate", gate.path)])
    held = server.assign_map([("words", "a")])
    _, _, go = gate.next()
    server.tell("recall", held)
    server.tell("recall", running)
    returned, kept = server.wait_for(held, running)
    assert (returned["type"], kept["type"]) == ("returned", "kept")
    go.set()
    with gevent.Timeout(WAIT_S):
        while len(server.outcomes(running)) < 2:
            server._news.clear()
            server._news.wait()
    assert [m["type"] for m in server.outcomes(running)] == ["kept", "done"]
    assert [m["type"] for m in server.outcomes(held)] == ["returned"]


def test_a_recall_that_overtakes_its_attempt_is_remembered(start):
    server, _ = start()
    server.submit(1)
    server.tell("recall", 1)
    assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "returned"


def test_short_tasks_are_sent_ahead(start, gate):
    server, _ = start()
    server.submit(1)
    server.wait_for(server.assign_map([("words", "a")]))
    server.assign_map([("gate", gate.path)])
    ahead = server.assign_map([("words", "b")])
    _, _, go = gate.next()
    server.tell("recall", ahead)
    assert server.wait_for(ahead)["type"] == "kept"
    go.set()


def test_the_first_of_many_short_tasks_are_sent_ahead_and_all_end_in_their_order(start, gate):
    server, _ = start()
    server.submit(1)
    for _ in range(5):
        server.wait_for(server.assign_map([("words", "a")]))
    server.assign_map([("gate", gate.path)])
    ahead = [server.assign_map([("words", "b")]) for _ in range(40)]
    _, _, go = gate.next()
    for attempt in ahead:
        server.tell("recall", attempt)
    answers = [outcome["type"] for outcome in server.wait_for(*ahead)]
    assert answers == sorted(
        answers
    )  # "kept" of the first, "returned" of others: that depends on how short they were
    assert answers[0] == "kept"
    kept = ahead[: answers.count("kept")]
    go.set()
    server.wait_for(server.assign_map([("words", "c")]))
    ends = [number for number, m in server.messages if m["type"] == "done" and number in kept]
    assert ends == kept


def test_of_reduces_behind_short_maps_none_is_sent_ahead(start, gate):
    server, _ = start()
    server.submit(1)
    for _ in range(5):
        server.wait_for(server.assign_map([("words", "a")]))
    running = server.assign_map([("gate", gate.path)])
    segment = records.encode_segment(["a"], [[1]], grouped=True)
    reduces = [server.assign_reduce({0: [segment]}) for _ in range(3)]
    _, _, go = gate.next()
    for attempt in reduces:
        server.tell("recall", attempt)
    assert {outcome["type"] for outcome in server.wait_for(*reduces)} == {"returned"}
    go.set()
    assert server.wait_for(running)["type"] == "done"


def test_a_slot_has_room_for_all_that_a_server_gives_it_and_all_that_it_takes_back():
    assert MAX_ATTEMPTS >= 2 * MAX_ATTEMPTS_PER_SLOT


def test_what_was_sent_ahead_is_given_back_when_the_executor_dies(start, gate):
    server, _ = start()
    server.submit(1)
    server.wait_for(server.assign_map([("words", "a")]))
    running = server.assign_map([("gate", gate.path)])
    ahead = server.assign_map([("words", "b")])
    pid, _, _ = gate.next()
    os.kill(pid, signal.SIGKILL)
    died, returned = server.wait_for(running, ahead)
    assert (died["type"], returned["type"]) == ("died", "returned")


def test_a_job_whose_code_kills_executors_is_blamed(start):
    server, _ = start()
    server.submit(
        1,
        "import os\nclass Bad:\n    def __setstate__(self, state): os._exit(9)\nBAD = Bad()\nBAD.x = 1\ndef mapfn(k, v): return [BAD]\n",
    )
    for _ in range(2):
        died = server.wait_for(server.assign_map([("a", 1)]))
        assert died["type"] == "died"
        assert "exit code 9, while it loaded the job's functions" in died["failure"]["error"]


def test_an_executor_is_set_up_once_before_its_first_attempt(start):
    server, _ = start(slots=2)
    server.submit(1, SETUP.format(deed="pass"), setup_timeout=60.0)
    first = server.assign_map([("n", 1)])
    second = server.assign_map([("n", 1)])
    assert [m["type"] for m in server.wait_for(first, second)] == ["done", "done"]
    assert server.records_of(first) == server.records_of(second) == {"n": [1]}
    with gevent.Timeout(WAIT_S, False):
        while len(executors()) < 2:  # the other one may be about to take its name
            gevent.sleep(0.01)
    assert len(executors()) == 2, "the other slot's is there, too, and was not set up"


SETUP = """
import os, time
calls = 0
def setupfn():
    global calls
    calls += 1
    {deed}
def mapfn(key, value):
    yield key, calls
"""


@pytest.mark.parametrize(
    ("deed", "kind", "error"),
    [
        ("1 / 0", "exception", "ZeroDivisionError: division by zero"),
        ("os._exit(5)", "died", "the executor died: exit code 5"),
        ("time.sleep(100)", "timeout", "it took longer than setup_timeout, 0.3 s"),
        ("bytearray(10**10)", "memory", "MemoryError"),
    ],
)
def test_an_executor_that_cannot_be_set_up_is_replaced_and_all_that_waited_for_it_comes_back(
    start, deed, kind, error
):
    server, _ = start()
    server.submit(
        1,
        SETUP.format(deed=deed),
        setup_timeout=0.3,
        task_timeout=0.1,
        memory_limit=500 << 20,
    )
    first = server.assign_map([("n", 1)])
    behind = server.assign_map([("n", 1)])
    unprepared, returned = server.wait_for(first, behind)
    assert (unprepared["type"], unprepared.get("died")) == ("unprepared", kind in ("died", "timeout") or None)
    failure = unprepared["failure"]
    assert (failure["function"], failure["kind"], failure["worker"]) == ("setupfn", kind, "host/1")
    assert failure["error"].startswith(error)
    assert not {"key", "item"} & set(failure)
    assert returned["type"] == "returned"
    again = server.assign_map([("n", 1)])
    assert server.wait_for(again)["type"] == "unprepared"


def test_a_revoked_attempt_is_killed_without_a_word_and_the_next_one_runs(start, gate):
    server, _ = start()
    server.submit(1)
    revoked = server.assign_map([("gate 1", gate.path)])
    held = server.assign_map([("gate 2", gate.path)])
    after = server.assign_map([("words", "a")])
    pid, _, _ = gate.next()
    victim = psutil.Process(pid)
    server.tell("revoke", held)
    server.tell("revoke", revoked)
    assert server.wait_for(after)["type"] == "done"
    wait_until_gone([victim])
    assert server.outcomes(revoked) == server.outcomes(held) == []
    assert gate.arrivals.empty()


def test_a_revoked_attempt_that_ends_by_itself_costs_no_executor(start, gate, monkeypatch):
    monkeypatch.setattr(workload, "REVOKE_S", WAIT_S)
    server, _ = start()
    server.submit(1)
    revoked = server.assign_map([("gate", gate.path)])
    pid, _, go = gate.next()
    server.tell("revoke", revoked)
    go.set()
    after = server.assign_map([("pid", None)])
    assert server.wait_for(after)["type"] == "done"
    assert set(server.records_of(after)) == {pid}
    assert server.outcomes(revoked) == []


def test_two_jobs_take_turns_on_one_slot(start):
    server, _ = start()
    server.submit(1)
    server.submit(2)
    attempts = [server.assign_map([("pid", None)], job=1 + i % 2) for i in range(8)]
    server.wait_for(*attempts)
    pids = [next(iter(server.records_of(attempt))) for attempt in attempts]
    assert pids == [pids[0], pids[1]] * 4
    assert pids[0] != pids[1]


def test_idle_executors_of_other_jobs_are_few(start):
    server, _ = start()
    pids = []
    for job in range(1, 9):
        server.submit(job)
        attempt = server.assign_map([("pid", None)], job=job)
        server.wait_for(attempt)
        pids += server.records_of(attempt)
    kept = [process for process in executors() if process.pid in pids[-3:]]
    assert len(kept) == 3
    wait_until_gone([process for process in executors() if process not in kept])


def test_executors_are_forked_before_their_first_attempt(start):
    server, _ = start(slots=2)
    server.submit(1)
    attempt = server.assign_map([("pid", None)], slot=1)
    server.wait_for(attempt)
    with gevent.Timeout(WAIT_S):
        while len(executors()) < 2:  # the other one may not have had its name yet
            gevent.sleep(0.01)
    assert len(executors()) == 2
    assert set(server.records_of(attempt)) < {process.pid for process in executors()}


def test_the_end_of_a_job_leaves_no_process(start, gate):
    server, _ = start(slots=2)
    server.submit(1)
    server.assign_map([("gate", gate.path)])
    gate.next()
    old = executors()
    assert old
    server.link.send(control("job_end", 1))
    server.submit(2)
    server.wait_for(server.assign_map([("words", "a")], job=2))
    wait_until_gone(old)


def test_a_killed_template_is_replaced(start, gate):
    own = Forkers()
    try:
        server, _ = start(forkers=own)
        server.submit(1)
        attempt = server.assign_map([("gate", gate.path)])
        gate.next()
        os.kill(own.get().pid, signal.SIGKILL)
        died = server.wait_for(attempt)
        assert (died["type"], died["failure"]["kind"], died["template"]) == ("died", "died", True)
        assert "forks executors ended: signal 9 (SIGKILL)" in died["failure"]["error"]
        assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "done"
    finally:
        own.close()


@pytest.mark.parametrize(
    "number", [signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL], ids=["stop", "term", "kill"]
)
def test_of_several_jobs_none_is_blamed_for_their_template_and_each_gets_its_own(
    start, gate, monkeypatch, number
):
    monkeypatch.setattr(forker, "PING_S", 0.05)
    own = Forkers()
    try:
        server, _ = start(slots=2, forkers=own)
        server.submit(1)
        server.submit(2)
        attempts = [server.assign_map([(f"gate {job}", gate.path)], job=job, slot=job - 1) for job in (1, 2)]
        running = [gate.next() for _ in attempts]
        assert len({psutil.Process(pid).ppid() for pid, _, _ in running}) == 1
        os.kill(own.get().pid, number)
        for attempt in attempts:
            assert server.wait_for(attempt)["type"] == "returned"
        attempts = [server.assign_map([(f"gate {job}", gate.path)], job=job, slot=job - 1) for job in (1, 2)]
        running = sorted((gate.next() for _ in attempts), key=lambda item: item[1])
        first, second = (psutil.Process(pid).parent() for pid, _, _ in running)
        assert first != second
        first.send_signal(number)
        assert server.wait_for(attempts[0])["type"] == "died"
        running[1][2].set()
        assert server.wait_for(attempts[1])["type"] == "done"
    finally:
        own.close()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs SCHED_IDLE")
def test_a_template_that_gets_no_turn_is_not_killed(start, gate, monkeypatch):
    monkeypatch.setattr(forker, "PING_S", 0.002)
    seen = []
    real = Silence.note
    monkeypatch.setattr(
        Silence, "note", lambda self, look, **known: seen.append(look.state) or real(self, look, **known)
    )
    own = Forkers()
    hogs = []
    try:
        server, _ = start(forkers=own)
        server.submit(1)
        attempt = server.assign_map([("gate", gate.path)])
        _, _, go_on = gate.next()
        template = own.get()
        core = {max(os.sched_getaffinity(0))}
        os.sched_setaffinity(template.pid, core)
        hogs += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        for hog in hogs:
            os.sched_setaffinity(hog.pid, core)
        os.sched_setscheduler(template.pid, os.SCHED_IDLE, os.sched_param(0))
        wait_until(lambda: seen.count("R") > 10 * MAX_UNANSWERED)
        go_on.set()
        assert server.wait_for(attempt)["type"] == "done"
        assert template.is_alive
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        own.close()


def test_a_template_that_is_ended_for_its_silence_alone_counts_for_no_job(start, gate, monkeypatch):
    """As on systems that do not tell what a process does."""
    monkeypatch.setattr(forker, "PING_S", 0.01)
    stopped = set()
    monkeypatch.setattr(forker, "look_at", lambda pid: None if pid in stopped else Look("R", 0.0))
    own = Forkers()
    try:
        server, worker = start(forkers=own)
        server.submit(1)
        for _ in range(2):
            attempt = server.assign_map([("gate", gate.path)])
            pid, _, _ = gate.next()
            template = psutil.Process(pid).parent()
            template.suspend()
            stopped.add(template.pid)
            assert server.wait_for(attempt)["type"] == "returned"
        assert not worker.closed.is_set()
    finally:
        own.close()


def test_a_job_that_ends_its_template_rests_longer_each_time(start, monkeypatch):
    rests = []
    real = template_deaths.rest_s
    monkeypatch.setattr(crew, "rest_s", lambda deaths: rests.append(deaths) or real(deaths) / 100)
    own = Forkers()
    try:
        server, worker = start(slots=2, forkers=own)
        server.submit(1)
        for _ in range(4):
            attempt = server.assign_map([("kill_template", None)])
            assert server.wait_for(attempt)["template"] is True
        assert rests == [1, 2, 3, 4]
        assert [template_deaths.rest_s(n) for n in (1, 2, 3, 100)] == [0.2, 0.4, 0.8, 6.4]
        assert not worker.closed.is_set()
    finally:
        own.close()


def test_a_template_that_answers_is_not_killed_however_long_an_item_takes(start, gate, monkeypatch):
    monkeypatch.setattr(forker, "PING_S", 0.02)
    own = Forkers()
    try:
        server, _ = start(forkers=own)
        server.submit(1)
        attempt = server.assign_map([("gate", gate.path)])
        _, _, go_on = gate.next()
        pongs = []
        template = own.get()
        real = template._take_report
        monkeypatch.setattr(
            template, "_take_report", lambda report: real(report) or pongs.append("pong" in report)
        )
        wait_until(lambda: sum(pongs) > 3 * MAX_UNANSWERED)
        go_on.set()
        assert server.wait_for(attempt)["type"] == "done"
    finally:
        own.close()


def test_a_fault_of_our_own_with_a_template_counts_for_no_job(start, gate, monkeypatch):
    monkeypatch.setattr(forker, "PING_S", 0.02)
    own = Forkers()
    try:
        server, worker = start(forkers=own)
        server.submit(1)
        attempt = server.assign_map([("gate", gate.path)])
        gate.next()

        def fail(report):
            raise ZeroDivisionError("a fault of our own")

        monkeypatch.setattr(own.get(), "_take_report", fail)
        assert server.wait_for(attempt)["type"] == "returned"
        assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "done"
        assert not worker.closed.is_set()
    finally:
        own.close()


def deny_descriptors(monkeypatch, name, count):
    """Let the process run out of descriptors at each of the next `count` calls the supervisor makes of `name`."""
    where = supervisor.socket if name == "socketpair" else os
    real, left = getattr(where, name), [count]

    def denied(*args, **kwargs):
        if (
            sys._getframe(1).f_globals["__name__"]
            in ("mmgevent.engine.worker.supervisor", "mmgevent.machine.resources")
            and left[0]
        ):
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, denied)


@pytest.mark.parametrize(
    "name", ["socketpair", "pipe", *(["memfd_create"] if sys.platform == "linux" else [])]
)
def test_an_executor_without_descriptors_is_tried_again(start, monkeypatch, name):
    deny_descriptors(monkeypatch, name, 2)  # for the job, and for its first attempt
    server, _ = start()
    descriptors = psutil.Process().num_fds()
    server.submit(1)
    attempt = server.assign_map([("words", "a")])
    assert server.wait_for(attempt)["type"] == "returned"
    assert psutil.Process().num_fds() <= descriptors
    assert server.wait_for(server.assign_map([("words", "a")]))["type"] == "done"


def test_a_worker_that_never_gets_descriptors_gives_up(start, monkeypatch):
    monkeypatch.setattr(crew, "FORK_PAUSE_S", 0.0)
    deny_descriptors(monkeypatch, "pipe", 1000)
    server, worker = start()
    server.submit(1)
    for _ in range(MAX_FORK_FAILURES):
        attempt = server.assign_map([("words", "a")])
        with gevent.Timeout(WAIT_S):
            while not server.outcomes(attempt) and not worker.closed.is_set():
                gevent.wait([server._news, worker.closed], count=1)
                server._news.clear()
    assert worker.closed.is_set()
    assert "Too many open files" in worker.close_reason


def test_a_template_that_always_dies_at_its_start_closes_the_worker(start, monkeypatch):
    monkeypatch.setattr(crew, "FORK_PAUSE_S", 0.0)
    monkeypatch.setenv("MMG_PYTHON", "/bin/false")
    own = Forkers()
    try:
        server, worker = start(forkers=own)
        for job in range(1, 2 * MAX_FORK_FAILURES):
            if worker.closed.is_set():
                break
            server.submit(job)
            attempt = server.assign_map([("words", "a")], job=job)
            with gevent.Timeout(WAIT_S):
                while not server.outcomes(attempt) and not worker.closed.is_set():
                    gevent.wait([server._news, worker.closed], count=1)
                    server._news.clear()
        assert worker.closed.wait(WAIT_S)
        assert "template process ended at its start: exit code 1" in worker.close_reason
    finally:
        own.close()


FLAGS_JOB = """
import os, sys
def mapfn(key, value): yield f"{sys.flags.optimize}{sys.flags.bytes_warning} {os.getppid()}", 1
"""


def test_each_set_of_flags_has_a_template_and_idle_ones_end(start):
    own = Forkers()
    try:
        server, _ = start(forkers=own)
        sets = [[], ["-O"], ["-OO"], ["-b"], ["-bb"], ["-O", "-b"], ["-O"]]
        templates = []
        for job, flags in enumerate(sets, 1):
            server.submit(job, source=FLAGS_JOB, flags=flags)
            attempt = server.assign_map([("it", 1)], job=job)
            assert server.wait_for(attempt)["type"] == "done"
            seen, _, pid = next(iter(server.records_of(attempt))).partition(" ")
            assert (
                seen
                == f"{('-OO' in flags and 2) or ('-O' in flags and 1) or 0}{('-bb' in flags and 2) or ('-b' in flags and 1) or 0}"
            )
            templates.append(psutil.Process(int(pid)))
            server.link.send(control("job_end", job))
            forker = own._forkers[Kind(False, tuple(flags))]
            wait_until(lambda forker=forker: forker.is_idle)
        assert len(set(templates)) == len(sets)  # that of -O had ended meanwhile
        kept = [templates[0], *templates[-MAX_IDLE_TEMPLATES:]]
        ended = [template for template in templates if template not in kept]
        wait_until(lambda: not any(template.is_running() for template in ended))
        assert all(template.is_running() for template in kept)
    finally:
        own.close()


def test_templates_with_executors_are_not_ended(start, gate):
    own = Forkers()
    try:
        server, _ = start(slots=4, forkers=own)
        sets = [["-O"], ["-OO"], ["-b"], ["-bb"]]
        for job, flags in enumerate(sets, 1):
            server.submit(job, flags=flags)
        attempts = [
            server.assign_map([(f"gate {job}", gate.path)], job=job, slot=job - 1) for job in (1, 2, 3, 4)
        ]
        held = [gate.next() for _ in attempts]
        assert len({psutil.Process(pid).ppid() for pid, _, _ in held}) == len(sets)
        for _, _, go_on in held:
            go_on.set()
        server.wait_for(*attempts)
    finally:
        own.close()


def test_a_process_that_keeps_the_descriptors_hides_no_death_and_ends_too(start, gate):
    server, _ = start()
    server.submit(1)
    attempt = server.assign_map([("hold", gate.path)])
    pid, _, go = gate.next()
    left = psutil.Process(pid)
    go.set()
    assert "exit code 5" in server.wait_for(attempt)["failure"]["error"]
    wait_until_gone([left])


def test_closing_every_descriptor_does_no_harm(start):
    server, _ = start()
    server.submit(1)
    for _ in range(2):
        assert server.wait_for(server.assign_map([("close_all", None)]))["type"] == "done"


def test_a_forked_child_that_returns_from_the_function_says_nothing(start):
    server, _ = start()
    server.submit(1)
    first = server.assign_map([("fork", None)])
    second = server.assign_map([("words", "a")])
    server.wait_for(first, second)
    assert [m["type"] for m in server.outcomes(first)] == ["done"]
    assert server.records_of(first) == {"fork": [1]}


def test_greenlets_run_items_at_once_and_results_keep_their_order(start, gate):
    server, _ = start()
    server.submit(1, greenlets=20)
    attempt = server.assign_map([(f"gate {i}", gate.path) for i in range(40)])
    waiting = [gate.next() for _ in range(20)]
    assert sorted(key for _, key, _ in waiting) == sorted(f"gate {i}" for i in range(20))
    for _, _, go in reversed(waiting):
        go.set()
    for _ in range(20):
        gate.next()[2].set()
    assert server.wait_for(attempt)["items"] == 40
    assert len(server.records_of(attempt)) == 40


def test_with_greenlets_a_death_blames_none_of_several_items_and_the_only_one(start, gate):
    server, _ = start()
    server.submit(1, greenlets=3)
    items = [("gate 0", gate.path), ("gate 1", gate.path), ("gate 2", gate.path)]
    attempt = server.assign_map(items)
    waiting = [gate.next() for _ in range(3)]
    os.kill(waiting[0][0], signal.SIGKILL)
    died = server.wait_for(attempt)
    assert died["type"] == "died"
    assert "item" not in died
    assert "key" not in died["failure"]
    assert "on several items" in died["failure"]["error"]
    attempt = server.assign_map(items, lo=1, hi=3, skip=[position_of(1)])
    os.kill(gate.next()[0], signal.SIGKILL)
    died = server.wait_for(attempt)
    assert (died["item"], died["failure"]["key"]) == (position_of(2), "'gate 2'")


def test_with_greenlets_the_oldest_item_is_the_one_that_took_too_long(start, gate):
    server, _ = start()
    server.submit(1, greenlets=3, task_timeout=1.0)
    died = server.wait_for(server.assign_map([(f"gate {i}", gate.path) for i in range(3)]))
    assert (died["item"], died["failure"]["key"], died["failure"]["kind"]) == (
        position_of(0),
        "'gate 0'",
        "timeout",
    )


def test_a_lost_link_ends_every_executor(start, gate):
    server, worker = start(slots=2)
    server.submit(1)
    server.assign_map([("gate", gate.path)])
    gate.next()
    server.link.close("cut")
    assert worker.closed.wait(WAIT_S)
    assert executors() == []


def test_a_leaving_worker_finishes_what_runs_and_gives_back_the_rest(start, gate):
    server, worker = start()
    server.submit(1)
    running = server.assign_map([("gate", gate.path)])
    held = server.assign_map([("words", "a")])
    _, _, go = gate.next()
    stopping = gevent.spawn(worker.stop, "enough", WAIT_S)
    assert server.wait_for(held)["type"] == "returned"
    go.set()
    assert server.wait_for(running)["type"] == "done"
    stopping.join(WAIT_S)
    assert worker.closed.is_set()
    assert {"type": "goodbye", "reason": "enough"} in [message for _, message in server.messages]


def test_a_leaving_worker_says_so_first_and_returns_what_still_comes(start, gate):
    server, worker = start()
    server.submit(1)
    running = server.assign_map([("gate", gate.path)])
    held = server.assign_map([("words", "a")])
    _, _, go = gate.next()
    stopping = gevent.spawn(worker.stop, "enough", WAIT_S)
    server.wait_for(held)
    types = [message["type"] for _, message in server.messages]
    assert types.index("leaving") < types.index("returned")
    late = server.assign_map([("words", "a")])
    assert server.wait_for(late)["type"] == "returned"
    assert not stopping.dead
    go.set()
    assert server.wait_for(running)["type"] == "done"
    stopping.join(WAIT_S)


def test_the_reason_of_a_goodbye_fits_its_message(start):
    server, worker = start()
    worker.stop("x" * 1_000_000)
    goodbye = server.messages[-1][1]
    assert goodbye["type"] == "goodbye"
    assert len(goodbye["reason"]) <= 1000
    assert len(worker.close_reason) <= 1000


def test_a_long_goodbye_of_the_server_is_shortened(start):
    server, worker = start()
    server.link.send(control("goodbye", reason="x" * 100_000))
    assert worker.closed.wait(WAIT_S)
    assert len(worker.close_reason) <= 1000


def test_a_leaving_worker_does_not_wait_longer_than_its_grace(start, gate):
    server, worker = start()
    server.submit(1)
    server.assign_map([("gate", gate.path)])
    gate.next()
    worker.stop("enough", 0.05)
    assert executors() == []


@pytest.mark.parametrize(
    "frame",
    [
        control("assign", 1, 1, 1, phase="map", slot=7, size=0, partitions=1, lo=0, hi=0),
        control("job", 1, options={}, code_bytes=0, fingerprint="f"),
        control("done", 1, 1, 1, size=0, records=0, items=0, seconds=0, groups=0),
        next(split_payload(OUTPUT, b"x", 1, 1, 1)),
    ],
    ids=["no such slot", "job twice", "not for workers", "wrong kind"],
)
def test_what_a_server_must_not_send_closes_the_link(start, frame):
    server, worker = start()
    server.submit(1)
    server.link.send_in_lane(frame)
    assert worker.closed.wait(WAIT_S)


def test_more_input_than_its_window_for_a_held_attempt_closes_the_link(start, gate):
    server, worker = start()
    server.submit(1)
    server.assign_map([("gate", gate.path)])
    gate.next()
    held = server.assign_map([("words", "behind")])
    lane = (1, held, held)
    server.link.wait_for_room(lane, 0, WAIT_S)
    server.link.drop_lane(lane)  # with its window: from now on no credit is asked for
    for frame in split_payload(INPUT, bytes(INPUT_WINDOW), *lane):
        server.link.send_in_lane(frame)
    server.link.send_in_lane(control("recall", *lane))  # a worker that went on would answer
    server._news.clear()
    gevent.wait([server._news, server.closed], timeout=WAIT_S, count=1)
    assert not server.outcomes(held)
    assert worker.closed.wait(WAIT_S)
    assert "has not begun" in worker.close_reason


def test_a_refusal_is_kept(start):
    server, worker = start()
    server.link.send(control("refused", code="version", error="too old"))
    assert worker.closed.wait(WAIT_S)
    assert worker.refusal == ("version", "too old")
