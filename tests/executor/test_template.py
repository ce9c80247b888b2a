"""The template and the executors it forks, spoken to with plain blocking sockets."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import types

import psutil
import pytest

from mmgevent.engine.start import start_template
from mmgevent.executor.channel import Channel
from mmgevent.executor.status_page import Position, StatusPage, render_key
from mmgevent.job.functions import Functions
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.tasks import records
from mmgevent.wire.frames import CODE, CONTROL, INPUT, OUTPUT, split_payload
from mmgevent.wire.messages import control, decode_message

WAIT_S = 20.0


class Executor:
    """The test's ends of an executor's descriptors."""

    def __init__(self):
        ours, self.theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        self.channel = Channel(ours)
        self.stdout, self.their_stdout = os.pipe()
        self.stderr, self.their_stderr = os.pipe()
        self.page, self.page_fd = StatusPage.create()
        self.pid = 0
        self._attempt = 0

    def descriptors(self):
        return [self.theirs.detach(), self.their_stdout, self.their_stderr, self.page_fd]

    def load(self, source, **options):
        code = pack(source)
        self.channel.send(
            control("job", 1, options=options, code_bytes=len(code), fingerprint="f"),
            *split_payload(CODE, code, 1),
        )

    def map(self, items):
        """Run a map. Return its outcome and its records, {key: [values]}."""
        self._attempt += 1
        lane = (1, self._attempt, self._attempt)
        data = records.encode_items(items)
        fields = {"phase": "map", "slot": 0, "lo": 0, "hi": len(items), "partitions": 1}
        self.channel.send(
            control("assign", *lane, size=len(data), **fields), *split_payload(INPUT, data, *lane)
        )
        output = bytearray()
        while True:
            frame = self.channel.next_frame()
            if frame.kind == OUTPUT:
                output += frame.payload
            elif frame.kind == CONTROL:
                message = decode_message(frame.payload)
                output += message.get("inline", b"")
                break
        found: dict = {}
        for _, segment in records.decode_flush(bytes(output)):
            decoded = records.decode_segment(segment)
            for key, value in zip(decoded.keys, decoded.values, strict=True):
                found.setdefault(key, []).extend(value if decoded.grouped else [value])
        return message, found

    def ask(self, source):
        """Return the value that an expression has there, as text."""
        self.load(f"def mapfn(key, value):\n    import os, signal, sys\n    yield 'it', repr({source})\n")
        message, found = self.map([("a", 1)])
        assert message["type"] == "done", message
        return found["it"][0]

    def close(self):
        self.channel.abandon()
        self.page.close()
        os.close(self.stdout)
        os.close(self.stderr)


class TemplateUnderTest:
    """A started template, the reports it sends, the executors it forked."""

    def __init__(self, **options):
        template = start_template(**options)
        self.process, self.sock = template.process, template.sock
        self.sock.settimeout(WAIT_S)
        self.executors: list[Executor] = []
        self._lines = self.sock.makefile("rb")

    def report(self):
        return json.loads(self._lines.readline())

    def fork(self):
        executor = Executor()
        descriptors = executor.descriptors()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        request = {"fork": len(self.executors), "scratch_dir": None}
        self.sock.sendmsg([json.dumps(request).encode() + b"\n"], [rights])
        for fd in descriptors:
            os.close(fd)
        self.executors.append(executor)
        report = self.report()
        assert report["forked"] == request["fork"]
        executor.pid = report["pid"]
        return executor

    def close(self):
        self._lines.close()
        self.sock.close()
        status = self.process.wait(WAIT_S)
        while self.executors:
            self.executors.pop().close()
        return status


@pytest.fixture(scope="module")
def shared():
    template = TemplateUnderTest()
    yield template
    assert template.close() == 0


@pytest.fixture
def executor(shared):
    executor = shared.fork()
    yield executor
    os.kill(executor.pid, signal.SIGKILL)
    while shared.report().get("exited") != executor.pid:
        pass


@pytest.fixture
def template():
    template = TemplateUnderTest()
    yield template
    template.close()


def pack(source):
    module = sys.modules["job_under_test"] = types.ModuleType("job_under_test")
    try:
        exec(compile(source, "job_under_test.py", "exec"), module.__dict__)
        return pack_functions(Functions.of(module.mapfn), by_value=["job_under_test"])
    finally:
        del sys.modules["job_under_test"]


def wait_for_end(pid):
    """Wait until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], WAIT_S)
        assert ready, f"process {pid} is still there"
    finally:
        os.close(fd)


def test_an_executor_leads_its_own_session(executor):
    assert executor.ask("os.getsid(0) == os.getpgid(0) == os.getpid()") == "True"


def test_an_executor_has_nothing_open_but_its_own(executor):
    listed = executor.ask(
        "{int(n): os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') "
        "if os.path.lexists('/proc/self/fd/' + n)}"
    )
    links = eval(listed)
    assert links.pop(0) == "/dev/null"
    assert links.pop(1) != links.pop(2)
    # mmap keeps a descriptor of the page; stacks are written behind it; the socket is out of the way
    assert sorted(link.split(":")[0] for link in links.values()) == ["/memfd", "/memfd", "socket"]
    assert max(links) >= 200


@pytest.mark.parametrize(
    "read", ["sys.stdin.read()", "input()", "list(sys.stdin)", "sys.stdin.buffer.read(1)"]
)
def test_an_executor_has_no_stdin_and_says_so(executor, read):
    executor.load(f"def mapfn(key, value):\n    import sys\n    yield 'it', {read}\n")
    message, _ = executor.map([("a", 1)])
    assert "something wanted to read stdin" in message["failure"]["error"]
    assert "use --inline" in message["failure"]["advice"]


def test_what_an_executor_starts_reads_nothing(executor):
    started = "__import__('subprocess').run(['cat'], stdin=sys.stdin, capture_output=True).stdout"
    assert executor.ask(f"({started}, os.readlink('/proc/self/fd/0'))") == "(b'', '/dev/null')"


def test_an_executor_has_the_signals_of_a_fresh_python(executor):
    numbers = sorted(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
    handlers = f"[repr(signal.getsignal(n))[:22] for n in {numbers}]"
    program = f"import signal; print(repr({handlers}))"
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert executor.ask(handlers) == fresh.stdout.strip()


def test_all_executors_hash_alike_and_draw_random_numbers_apart(shared):
    one, other = shared.fork(), shared.fork()
    assert one.ask("hash('x')") == other.ask("hash('x')")
    one, other = shared.fork(), shared.fork()
    assert one.ask("__import__('random').random()") != other.ask("__import__('random').random()")


def test_an_executor_has_loaded_nothing_of_gevent(executor):
    assert executor.ask("[name for name in sys.modules if name.startswith(('gevent', 'greenlet'))]") == "[]"


def test_an_executor_has_loaded_nothing_that_only_drivers_and_packages_need(executor):
    names = ["subprocess", "difflib"]
    if sys.version_info < (3, 12):  # from 3.12 on something loads it, which was not found yet
        names.append("zipfile")
    # Each takes a millisecond of every start.
    assert executor.ask(f"[name for name in {names} if name in sys.modules]") == "[]"


def test_the_import_path_has_no_working_directory_of_the_starter(executor):
    assert executor.ask("'' in sys.path or os.getcwd() in sys.path[:1]") == "False"


def test_what_an_executor_prints_arrives_line_by_line(executor):
    executor.load(
        "def mapfn(key, value):\n    import sys\n    print('hé')\n    print('oh', file=sys.stderr)\n    return []\n"
    )
    assert executor.map([("a", 1)])[0]["type"] == "done"
    assert os.read(executor.stdout, 100) == "hé\n".encode()
    assert os.read(executor.stderr, 100) == b"oh\n"


def test_an_executor_collects_garbage_but_not_what_the_template_made(executor):
    assert executor.ask(
        "(lambda gc: (gc.isenabled(), gc.get_freeze_count() > 10_000))(__import__('gc'))"
    ) == ("(True, True)")


def test_the_page_is_empty_when_nothing_runs(executor):
    executor.load("def mapfn(key, value):\n    return []\n")
    assert executor.map([("a", 1)])[0]["type"] == "done"
    until = time.monotonic() + 10
    while executor.page.read().attempt:  # it is emptied right after the outcome was sent
        assert time.monotonic() < until
    assert executor.page.read() == Position(0, None, 0.0, None)


def test_a_traceback_is_whole_where_warnings_are_errors(executor):
    executor.load(
        "import warnings\n"
        "def mapfn(key, value):\n"
        "    warnings.simplefilter('error')\n"
        "    raise ValueError(key)\n"
    )
    message, _ = executor.map([("a", 1)])
    assert 'File "job_under_test.py", line 4, in mapfn' in message["failure"]["traceback"]


def test_an_exit_is_reported_with_its_status(template):
    executor = template.fork()
    executor.load("def mapfn(key, value):\n    import os\n    os._exit(value)\n")
    data = records.encode_items([("a", 3)])
    lane = (1, 1, 1)
    executor.channel.send(
        control("assign", *lane, size=len(data), phase="map", slot=0, lo=0, hi=1, partitions=1),
        *split_payload(INPUT, data, *lane),
    )
    report = template.report()
    assert report["exited"] == executor.pid
    assert os.WEXITSTATUS(report["status"]) == 3
    assert report["maxrss_kb"] > 1000
    assert executor.page.read().key == "'a'"


def test_an_executor_ends_when_its_link_does(template):
    executor = template.fork()
    executor.channel.abandon()
    assert template.report() | {"maxrss_kb": 0} == {"exited": executor.pid, "status": 0, "maxrss_kb": 0}


def test_what_an_executor_leaves_of_its_process_group_ends_with_it(template):
    executor = template.fork()
    child = int(executor.ask("__import__('subprocess').Popen(['sleep', '1000']).pid"))
    os.kill(executor.pid, signal.SIGKILL)
    assert template.report()["exited"] == executor.pid
    wait_for_end(child)


def test_everything_ends_when_the_socket_closes(template):
    executor = template.fork()
    child = int(executor.ask("__import__('subprocess').Popen(['sleep', '1000']).pid"))
    assert template.close() == 0
    wait_for_end(executor.pid)
    wait_for_end(child)


def test_executors_end_when_their_template_is_killed(template):
    pids = [template.fork().pid for _ in range(3)]
    template.process.kill()
    for pid in pids:
        wait_for_end(pid)


def test_everything_ends_when_the_starter_is_killed():
    program = (
        "import time; import tests.executor.test_template as t; "
        "template = t.TemplateUnderTest(); print(template.process.pid, template.fork().pid, flush=True); "
        "time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = list(map(int, starter.stdout.readline().split()))
        assert all(map(psutil.pid_exists, pids))
        starter.kill()
    for pid in pids:
        wait_for_end(pid)


def test_ctrl_c_does_not_reach_the_template(template):
    template.fork()
    assert os.getsid(template.process.pid) != os.getsid(0)
    os.kill(template.process.pid, signal.SIGINT)
    assert template.fork().pid


def test_the_password_does_not_travel(monkeypatch):
    monkeypatch.setenv("MMG_PASSWORD", "secret")
    template = TemplateUnderTest()
    try:
        assert template.fork().ask("os.environ.get('MMG_PASSWORD')") == "None"
    finally:
        template.close()


def test_with_greenlets_everything_is_patched_first():
    template = TemplateUnderTest(greenlets=True)
    try:
        assert template.fork().ask("__import__('socket').socket.__module__").startswith("'gevent.")
        assert template.fork().ask("__import__('time').sleep.__module__").startswith("'gevent.")
        executor = template.fork()
        executor.load(
            "import subprocess\ndef mapfn(key, value):\n    yield 'out', subprocess.check_output(['echo', 'x'])\n"
        )
        assert executor.map([("a", 1)])[1] == {"out": [b"x\n"]}
    finally:
        assert template.close() == 0


def test_a_page_tells_attempt_item_and_key():
    page, fd = StatusPage.create()
    reader = StatusPage(fd)
    os.close(fd)
    page.begin(7)
    assert reader.read() == Position(7, None, 0.0, None)
    for key, shown in [
        ("a", "'a'"),
        (-5, "-5"),
        ("\ud800", "'?'"),
        ("é" * 100, repr("é" * 59)),
        (10**5000, "a key of type int"),
    ]:
        page.mark(3, key)
        position = reader.read()
        assert (position.attempt, position.item, position.key) == (7, 3, shown)
        assert 0.0 <= position.running_s < WAIT_S
    page.mark_call(0, None)  # the items of a call are read
    position = reader.read()
    assert (position.item, position.key, position.is_of_several, position.call) == (None, None, True, None)
    page.mark_call(256, "a")
    position = reader.read()
    assert (position.item, position.key, position.is_of_several) == (None, None, True)
    assert position.call == "a call of 256 items, from 'a' on"
    assert 0.0 <= position.running_s < WAIT_S
    page.set_item(None)
    assert reader.read().call is None
    page.end()
    assert reader.read().attempt == 0
    page.close()
    reader.close()


def test_the_clock_of_an_item_stands_still_while_it_waits():
    page, fd = StatusPage.create()
    os.close(fd)
    page.begin(1)
    page.show(0, "a", -1000.0)
    stopped = page.stop_clock()
    assert page.read().running_s == 0.0
    page.start_clock(stopped)
    assert page.read().running_s > 1000.0
    page.close()


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (("/tmp/x", 5), "('/tmp/x', 5)"),
        ((1,), "(1,)"),
        ((), "()"),
        (b"x" * 1000, repr(b"x" * 60)),
        (None, "None"),
        (object(), None),
        ((object(),), None),
        ((1, 2, 3, 4, 5), None),
        (10**5000, "an int of 16610 bits"),
    ],
    ids=range(9),
)
def test_keys_of_plain_types_are_rendered_and_others_never_asked(key, shown):
    assert render_key(key) == shown
