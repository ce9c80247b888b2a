"""Nodes and election with processes of their own: kills, stopped servers, moves, hosts of all kinds, commands."""

import collections
import contextlib
import os
import random
import signal
import socket
import threading
import time

import psutil
import pytest

import mmgevent as mmg
from tests.integration.commands import ROOT, read_tsv, wait_for
from tests.integration.sums import SUMS, assert_delivered_once, gated_job, quick_job, slow_job
from tests.ports import free_port

PASSWORD = "a password for these tests only"
#: for what must happen: reached only when something is broken
LATE_S = 60.0
#: seconds for nodes to connect to one address; a silent one costs as much
TIMEOUT_S = 1.0


def wait_until(is_so, what):
    until = time.monotonic() + LATE_S
    while not is_so():
        assert time.monotonic() < until, f"did not happen: {what() if callable(what) else what}"
        time.sleep(0.005)


class Nodes:
    """Nodes of this process, what became of each, and what all of them leave behind."""

    def __init__(self, commands):
        self.all = []
        self.changes = {}
        self._commands = commands

    def add(self, *addresses, **options):
        changes = []
        node = mmg.Node(
            list(addresses),
            on_state=lambda *change: changes.append(change),
            **{"procs": 1, "password": PASSWORD, "timeout": TIMEOUT_S, **options},
        )
        self.changes[node] = changes
        self.all.append(node)
        return node

    def wait_all(self, nodes=None):
        """Wait until all these have a place; return the server among them."""
        nodes = self.all if nodes is None else nodes
        wait_until(
            lambda: sorted(n.state for n in nodes) == ["server"] + ["worker"] * (len(nodes) - 1),
            lambda: f"one server: {[(n.state, n.reason) for n in nodes]}",
        )
        return next(n for n in nodes if n.is_server)

    def wait_for(self, node, state):
        wait_until(lambda: node.state == state, lambda: f"{state}: {node.state} ({node.reason})")

    def engine_of(self, node):
        return psutil.Process(node._engine.pid)

    def close(self):
        for node in self.all:
            for handle in node._running():  # of a test that failed
                handle.cancel()
        closers = [threading.Thread(target=node.close, daemon=True) for node in self.all]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(LATE_S)
            assert not closer.is_alive()
        assert not self._commands.left_behind()


@pytest.fixture
def nodes(commands, monkeypatch):
    for name in ("HOME", "MMGEVENT_TESTED_BY"):  # engines of this process are recognised, too
        monkeypatch.setenv(name, commands.environ[name])
    commands.environ["MMG_PASSWORD"] = PASSWORD
    made = Nodes(commands)
    yield made
    made.close()


@pytest.fixture
def here():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def there():
    return f"127.0.0.1:{free_port()}"


def as_pair(address):
    host, _, port = address.partition(":")
    return host, int(port)


@contextlib.contextmanager
def silent_stranger(address):
    with socket.create_server(as_pair(address), backlog=100) as sock:
        yield sock


# a cluster of equals


def test_the_first_node_serves_and_all_run_jobs(nodes, here):
    for procs in (1, 2, 0):
        nodes.add(here, procs=procs)
    server = nodes.wait_all()
    for node in nodes.all:
        assert node.run(quick_job()) == SUMS
        assert sorted(info.slots for info in node.workers()) == [n for n in (1, 2) if n or node is server]
        assert node.address == as_pair(here)
        assert node.reason == ""


def test_localhost_and_its_addresses_are_one_cluster(nodes, here):
    port = as_pair(here)[1]
    for address in ("localhost", "127.0.0.1", "localhost"):
        nodes.add(f"{address}:{port}")
    nodes.wait_all()
    assert all(len(node.workers()) == 3 for node in nodes.all)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("count", "kills"), [(6, 2), pytest.param(20, 10, marks=pytest.mark.long)])
def test_kills_of_the_server_of_many_nodes_lose_and_repeat_nothing(nodes, here, count, kills):
    chance = random.Random(20)
    for _ in range(count):
        nodes.add(here, timeout=10.0)
    nodes.wait_all()
    is_over = threading.Event()
    notices, errors = [], []
    done = collections.Counter()

    def submit_continuously(node):
        try:
            while not is_over.is_set():
                assert_delivered_once(node.submit(slow_job(), on_notice=notices.append))
                done[node] += 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [
        threading.Thread(target=submit_continuously, args=(node,), daemon=True) for node in nodes.all[:5]
    ]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        wait_until(lambda: any(n.is_server for n in nodes.all), "an election")
        is_over.wait(chance.uniform(0.0, 0.8))  # a random moment, whatever they are doing
        servers = [n for n in nodes.all if n.is_server]
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                nodes.engine_of(server).kill()
            wait_until(lambda server=server: not server.is_server, "the end of a server")
    nodes.wait_all()
    before = done.copy()
    wait_until(lambda: errors or all(done[n] > before[n] for n in nodes.all[:5]), "jobs after the last kill")
    is_over.set()
    for thread in threads:
        thread.join(LATE_S)
        assert not thread.is_alive()
    assert not errors
    assert any("resubmitted" in text for text in notices)


def test_a_node_whose_engine_is_killed_starts_another(nodes, here, tmp_path):
    node = nodes.add(here)
    nodes.wait_all()
    handle = node.submit(gated_job(str(tmp_path / "gate")), on_notice=lambda text: None)
    wait_until(lambda: handle.progress().running, "a job that runs")
    killed = nodes.engine_of(node)
    killed.kill()
    (tmp_path / "gate").touch()
    assert_delivered_once(handle)
    assert nodes.engine_of(node).pid != killed.pid
    assert [state for state, _ in nodes.changes[node]] == ["server", "connecting", "server"]
    assert "its engine ended" in nodes.changes[node][1][1]


def test_a_node_whose_engine_is_killed_in_its_first_moment_starts_another(nodes, here):
    node = nodes.add(here)
    nodes.engine_of(node).kill()
    nodes.wait_all()
    assert node.run(quick_job()) == SUMS


# a server that hangs


@pytest.mark.timeout(240)
def test_nodes_leave_a_stopped_server_for_the_next_address(nodes, here, there, tmp_path):
    first = nodes.add(here, there)
    nodes.wait_for(first, "server")
    others = [nodes.add(here, there, procs=1), nodes.add(here, there, procs=0)]
    for other in others:
        nodes.wait_for(other, "worker")
    handle = others[0].submit(gated_job(str(tmp_path / "gate")), on_notice=lambda text: None)
    wait_until(lambda: handle.progress().running, "a job that runs")
    stopped = nodes.engine_of(first)
    stopped.suspend()
    try:
        server = nodes.wait_all(others)
        assert server.address == as_pair(there)
        assert any("silent for 15 s" in reason for _, reason in nodes.changes[others[0]])
        (tmp_path / "gate").touch()
        assert_delivered_once(handle)
        assert others[1].run(quick_job()) == SUMS
    finally:
        stopped.resume()
    # It is still the server of the first address, and the others come back to it.
    wait_until(lambda: all(n.address == as_pair(here) for n in nodes.all), "all at the first address")
    assert nodes.wait_all() is first
    for node in nodes.all:
        assert node.run(quick_job()) == SUMS


@pytest.mark.timeout(240)
def test_nodes_of_a_stopped_server_say_so_and_go_on_after_it(nodes, here, tmp_path):
    first = nodes.add(here)
    nodes.wait_for(first, "server")
    others = [nodes.add(here, procs=procs) for procs in (1, 0)]
    for other in others:
        nodes.wait_for(other, "worker")
    notices = []
    gate = tmp_path / "gate"
    handles = [other.submit(gated_job(str(gate)), on_notice=notices.append) for other in others]
    wait_until(lambda: all(handle.progress().running for handle in handles), "jobs that run")
    stopped = nodes.engine_of(first)
    stopped.suspend()
    try:
        for other in others:
            nodes.wait_for(other, "occupied")
            assert f"{here} accepts but does not answer" in other.reason
            assert other.address is None
            with pytest.raises(TimeoutError, match=r"occupied after 0.1 s: .*does not answer"):
                other.wait(timeout=0.1)
        wait_until(lambda: any("does not answer" in text for text in notices), "a notice")
    finally:
        stopped.resume()
    gate.touch()
    for handle in handles:
        assert_delivered_once(handle)
    assert nodes.wait_all() is first


# a server that is in the wrong place


@pytest.mark.timeout(240)
def test_a_server_on_a_later_address_moves_to_the_earlier(nodes, commands, here, there, tmp_path):
    gate = str(tmp_path / "gate")
    with silent_stranger(here):
        later = nodes.add(here, there)
        nodes.wait_for(later, "server")
        assert later.address == as_pair(there)
        other = nodes.add(here, there)
        nodes.wait_for(other, "worker")
        worker = commands.start("worker", "--procs", "1", f"{here},{there}")
        client = mmg.connect(as_pair(there), password=PASSWORD)
        wait_until(lambda: len(client.workers()) == 3, "a worker that passes over the stranger")
        running = [cluster.submit(gated_job(gate), on_notice=lambda _: None) for cluster in (client, later)]
        wait_until(lambda: all(h.progress().running for h in running), "jobs that run")
    earlier = nodes.add(here, there)
    nodes.wait_for(earlier, "server")
    # Whoever hands in a job now, sooner or later hears that it is not taken any more.
    refused = threading.Event()
    late = []

    def hear(text):
        if f"resubmitted to {here} when it closes" in text:
            refused.set()

    def is_refused():
        late.append(client.submit(quick_job(), on_notice=hear))
        return refused.wait(0.2)

    wait_until(is_refused, "a job that is refused")
    assert not any(handle.done() for handle in running)
    (tmp_path / "gate").touch()
    for handle in running:
        assert_delivered_once(handle)
    for handle in late:
        assert_delivered_once(handle)
    wait_until(lambda: all(n.address == as_pair(here) for n in nodes.all), "all at the first address")
    assert nodes.wait_all() is earlier
    wait_until(lambda: len(client.workers()) == 4, "all workers at the first address")
    assert {info.name for info in client.workers()} == {info.name for info in earlier.workers()}
    assert other.run(quick_job()) == SUMS
    client.close()
    worker.send_signal(signal.SIGTERM)
    assert commands.finish(worker).returncode == 143


# strangers on an earlier address

#: `mmg-worker` of another Python version
OTHER_VERSION = """
import mmgevent.wire.hello
mmgevent.wire.hello.PYTHON_VERSION = "3.99"
from mmgevent.cli.worker import main
main()
"""


@pytest.mark.timeout(240)
def test_a_node_of_another_version_on_an_earlier_address_leaves_a_cluster_alone(nodes, commands, here, there):
    with silent_stranger(here):
        for procs in (1, 1, 0):
            nodes.add(here, there, procs=procs)
        server = nodes.wait_all()
        assert server.address == as_pair(there)
    stranger = commands.start("--procs", "1", "--elect", here, program=("-c", OTHER_VERSION))
    wait_for(stranger.stderr, "elected")
    wait_for(stranger.stderr, "refused: .*has Python")  # the server has looked
    assert nodes.all[2].run(quick_job()) == SUMS
    assert nodes.wait_all() is server
    nodes.engine_of(server).kill()
    wait_until(lambda: not server.is_server, "the end of a server")
    assert nodes.all[2].run(quick_job()) == SUMS
    assert nodes.wait_all().address == as_pair(there)
    newcomer = nodes.add(here, procs=0)  # knows no other address
    with pytest.raises(mmg.VersionMismatchError, match=f"{here}: .*Python 3.99"):
        newcomer.wait(timeout=LATE_S)
    assert newcomer.state == "closed"
    stranger.send_signal(signal.SIGTERM)
    assert commands.finish(stranger).returncode == 143


@pytest.mark.parametrize("procs", [0, 1])
def test_a_cluster_of_others_on_an_earlier_address_ends_no_node(nodes, here, there, procs):
    others = nodes.add(here, password="the password of others")
    nodes.wait_for(others, "server")
    server = nodes.add(there)
    nodes.wait_for(server, "server")
    node = nodes.add(here, there, procs=procs, may_serve=False)
    nodes.wait_for(node, "worker")
    server.close()
    wait_until(lambda: "password" in node.reason, lambda: node.reason)
    nodes.add(there)
    assert node.run(quick_job()) == SUMS
    states = [state for state, _ in nodes.changes[node]]
    assert "occupied" in states
    assert states[-1] == "worker"
    assert "closed" not in states


# what a node says


def test_a_node_tells_where_it_stands(nodes, here):
    with silent_stranger(here):
        node = nodes.add(here)
        assert node.state in ("connecting", "occupied")
        assert not node.is_server
        assert node.address is None
        assert node.wait("occupied", timeout=LATE_S) == "occupied"
        with pytest.raises(TimeoutError, match=f"occupied after 0 s: {here} accepts but does not answer"):
            node.wait(timeout=0)
    assert node.wait(timeout=LATE_S) == "server"
    assert node.is_server
    assert (node.address, node.reason) == (as_pair(here), "")
    assert repr(node) == "<Node server>"
    node.close()
    node.close()
    assert (node.state, node.reason, node.address) == ("closed", "closed by this side", None)
    assert node.wait("closed") == "closed"
    with pytest.raises(mmg.UsageError, match="the node is closed"):
        node.wait()
    with pytest.raises(mmg.UsageError, match="closed"):
        node.submit(quick_job())
    assert [state for state, _ in nodes.changes[node]] == ["occupied", "server", "closed"]


def test_a_node_is_closed_at_the_end_of_its_block(nodes, here):
    with nodes.add(here) as node:
        assert node.run(quick_job()) == SUMS
    assert node.state == "closed"
    handles = []

    def fail_in_the_middle():
        with node:
            handles.append(node.submit(gated_job("/nowhere/at/all")))
            wait_until(lambda: handles[0].progress().running, "a job that runs")
            raise ZeroDivisionError

    node = nodes.add(here)
    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert node.state == "closed"
    assert isinstance(handles[0].exception(LATE_S), mmg.JobCancelled)


def test_a_wrong_password_closes_a_node(nodes, here):
    server = nodes.add(here)
    nodes.wait_for(server, "server")
    node = nodes.add(here, password="not the right one at all")
    with pytest.raises(mmg.AuthenticationError, match=f"{here}.*password"):
        node.wait(timeout=LATE_S)
    assert node.state == "closed"
    assert "password" in node.reason
    with pytest.raises(mmg.AuthenticationError):
        node.run(quick_job())
    with pytest.raises(mmg.AuthenticationError):
        node.workers()
    assert server.run(quick_job()) == SUMS


def test_a_node_for_once_closes_when_nobody_is_there(nodes, here):
    node = nodes.add(here, once=True, may_serve=False)
    with pytest.raises(mmg.ConnectError, match=f"{here}.*refused"):
        node.wait(timeout=LATE_S)
    assert node.state == "closed"


@pytest.mark.parametrize("procs", [0, 1])
def test_a_node_for_once_closes_with_its_server(nodes, here, procs, tmp_path):
    server = nodes.add(here)
    nodes.wait_for(server, "server")
    node = nodes.add(here, once=True, may_serve=False, procs=procs)
    nodes.wait_for(node, "worker")
    handle = node.submit(gated_job(str(tmp_path / "gate")), on_notice=lambda _: None)
    wait_until(lambda: handle.progress().running, "a job that runs")
    nodes.engine_of(server).kill()
    assert node.wait("closed", timeout=LATE_S) == "closed"
    assert isinstance(handle.exception(LATE_S), mmg.ConnectError)
    with pytest.raises(mmg.ConnectError, match="the node is closed"):
        node.run(quick_job())
    with pytest.raises(mmg.ConnectError, match="the node is closed"):
        node.workers()


def test_a_node_that_may_not_serve_waits_for_one_that_may(nodes, here):
    node = nodes.add(here, may_serve=False)
    wait_until(lambda: "refused" in node.reason, "a reason")
    assert node.state == "connecting"
    handle = node.submit(quick_job(), on_notice=lambda _: None)
    nodes.add(here)
    assert handle.result(LATE_S) == SUMS
    assert node.state == "worker"


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ([[]], {}, "needs an address"),
        ([""], {}, "address is empty"),
        ([None], {}, "addresses must be"),
        ([[5, 6]], {}, "an address must be"),
        ([("host", 0)], {}, "port 0"),
        (["host:70000"], {}, "not a port number"),
        (["localhost"], {"procs": -1}, "procs must be"),
        (["localhost"], {"procs": 1.0}, "procs must be"),
        (["localhost"], {"timeout": 0}, "timeout must be"),
        (["localhost"], {"functions": {"f": 1}}, "must be callable"),
        (["localhost"], {"functions": {"no name": print}}, "a name like"),
        (["localhost"], {"functions": [print]}, "functions must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, text):
    with pytest.raises(mmg.UsageError, match=text):
        mmg.Node(*arguments, **{"password": PASSWORD, **options})


def test_no_state_of_another_name_is_waited_for(nodes, here):
    with pytest.raises(mmg.UsageError, match="'sever' is no state of a node; expected connecting, "):
        nodes.add(here).wait("sever")


# hosts


def test_many_threads_of_a_host_submit_at_once(nodes, here):
    node = nodes.add(here, procs=2)
    results = []

    def run():
        for _ in range(3):
            results.append(node.run(quick_job()))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LATE_S)
        assert not thread.is_alive()
    assert results == [SUMS] * 30


#: what scripts of the hosts below share
SCRIPT = """
import os, sys, time
import mmgevent as mmg

def spread(key, value):
    yield value % 7, value

def add(key, values):
    return sum(values)

def run(node):
    return node.run(mmg.Job([(n, n) for n in range(60)], spread, add))

SUMS = {n: sum(range(n, 60, 7)) for n in range(7)}
"""

PATCHED = (
    """
from gevent import monkey; monkey.patch_all()
import gevent
"""
    + SCRIPT
    + """
turns = 0

def be_busy():
    global turns
    while True:
        # At first longer than anybody waits before another look at the engine: all do so in one turn.
        until = time.perf_counter() + (0.3 if node.state == "connecting" else 0.02)
        while time.perf_counter() < until:
            pass
        turns += 1
        gevent.sleep(0.001)

with mmg.Node(sys.argv[1], procs=2) as node:
    before = turns
    busy = gevent.spawn(be_busy)
    jobs = [gevent.spawn(run, node) for _ in range(5)]
    assert [job.get() for job in jobs] == [SUMS] * 5
    handles = [node.submit(mmg.Job([(1, 2)], reducefn=add)) for _ in range(5)]
    assert [handle.result() for handle in handles] == [{1: 2}] * 5
    assert turns > before + 5, turns  # nobody was kept waiting
    os.kill(node._engine.pid, 9)
    assert run(node) == SUMS
print(node.state)
"""
)

FORKING = (
    SCRIPT
    + """
children = []
for number in range(4):
    pid = os.fork()
    if not pid:
        with mmg.Node(sys.argv[1], procs=1) as node:
            node.wait(timeout=60)
            assert run(node) == SUMS
            os.write(1, b"ran\\n")
        sys.exit(0)
    children.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
)

FORKED = (
    SCRIPT
    + """
def expect_forked(call, *args):
    try:
        call(*args)
    except mmg.ForkedError as error:
        assert "after the fork" in str(error), error
    else:
        raise AssertionError(f"{call} worked in the child")

with mmg.Node(sys.argv[1], procs=1) as node:
    assert run(node) == SUMS
    child = os.fork()
    if not child:
        expect_forked(run, node)
        expect_forked(node.workers)
        expect_forked(node.close)
        expect_forked(node.wait)
        for name in ("state", "reason", "is_server", "address"):
            expect_forked(getattr, node, name)
        with mmg.Node(sys.argv[1], procs=1) as own:
            assert own.wait(timeout=60) == "worker"
            assert run(own) == SUMS
        sys.stdout.write("child\\n")
        sys.stdout.flush()
        os._exit(0) if "hard" in sys.argv else sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert node.is_server
    assert run(node) == SUMS
print("parent")
"""
)


def run_script(nodes, commands, text, *arguments):
    ended = commands.finish(commands.start(*arguments, program=("-c", text)))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_monkey_patched_host_runs_jobs_from_greenlets(nodes, commands, here):
    assert run_script(nodes, commands, PATCHED, here) == "closed\n"


def test_every_forked_child_of_a_host_may_be_a_node(nodes, commands, here):
    assert run_script(nodes, commands, FORKING, here) == "ran\n" * 4


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_a_node_is_of_no_use_in_a_child_and_is_not_hurt_by_it(nodes, commands, here, how):
    assert run_script(nodes, commands, FORKED, here, how) == "child\nparent\n"


# commands

EXAMPLES = ROOT / "examples"
RHYME = """humpty dumpty sat on a wall humpty dumpty had a great fall
all the king's horses and all the king's men couldn't put humpty together again"""
HUMPTY = dict(collections.Counter(RHYME.split()))

#: says through a pipe that it runs, once, and then waits for a file
GATED = """
import os, sys, time
pipe, gate = sys.argv[1:]

def datasource():
    return ((n, n) for n in range(40))

def mapfn(key, value):
    if not value:
        try:
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # somebody reads it the first time only
        except OSError:
            pass
        else:
            os.write(fd, b"runs")
            os.close(fd)
        while not os.path.exists(gate):
            time.sleep(0.01)
    yield value % 3, value

def reducefn(key, values):
    return sum(values)
"""


def start_member(commands, address, *options):
    """Start `mmg-worker --elect`; return it, and what it became."""
    member = commands.start("worker", "--elect", "--procs", "1", *options, address)
    return member, wait_for(member.stderr, r"(elected|joined)")[1]


def test_a_job_elects_its_own_server_when_there_is_none(nodes, commands, here):
    for _ in range(2):  # the second finds the address as the first left it
        ended = commands.run("run", "--elect", here, "--procs", "2", EXAMPLES / "humpty.py")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert read_tsv(ended.stdout) == HUMPTY
        assert not commands.left_behind()


def test_commands_tell_what_they_became(nodes, commands, here):
    members = [start_member(commands, here) for _ in range(2)]
    assert [became for _, became in members] == ["elected", "joined"]
    ended = commands.run("run", "--elect", here, "--procs", "0", EXAMPLES / "humpty.py")
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == HUMPTY
    for (member, _), number, code in zip(members, (signal.SIGINT, signal.SIGTERM), (130, 143), strict=True):
        member.send_signal(number)
        ended = commands.finish(member)
        assert ended.returncode == code, ended
        assert "Traceback" not in ended.stderr


def test_who_stays_for_once_leaves_with_the_server(nodes, commands, here):
    server, became = start_member(commands, here)
    assert became == "elected"
    once, became = start_member(commands, here, "--once")
    assert became == "joined"
    server.send_signal(signal.SIGTERM)
    assert commands.finish(server).returncode == 143
    ended = commands.finish(once)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended


@pytest.mark.parametrize(
    "command", [("worker", "--procs", "1", "--elect"), ("run", "--procs", "1", "--elect")]
)
def test_a_wrong_password_ends_a_command(nodes, commands, here, command):
    nodes.wait_for(nodes.add(here), "server")
    job = [EXAMPLES / "humpty.py"] if command[0] == "run" else []
    ended = commands.run(*command, here, *job, environ={"MMG_PASSWORD": "not the right one at all"})
    assert ended.returncode == 4, ended
    assert "password" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_an_electing_job_with_all_its_processes(nodes, commands, tmp_path, here, number, code):
    os.mkfifo(tmp_path / "pipe")
    job = commands.write("gated.py", GATED)
    process = commands.start(
        "run", "--elect", here, "--procs", "2", job, tmp_path / "pipe", tmp_path / "gate"
    )
    assert (tmp_path / "pipe").read_text() == "runs"
    process.send_signal(number)
    ended = commands.finish(process)
    assert ended.returncode == code, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert not commands.left_behind()


def test_a_job_survives_the_end_of_the_elected_worker(nodes, commands, tmp_path, here):
    members = [start_member(commands, here) for _ in range(3)]
    assert [became for _, became in members] == ["elected", "joined", "joined"]
    os.mkfifo(tmp_path / "pipe")
    job = commands.write("gated.py", GATED)
    process = commands.start(
        "run", "--elect", here, "--procs", "0", job, tmp_path / "pipe", tmp_path / "gate"
    )
    assert (tmp_path / "pipe").read_text() == "runs"
    server = members.pop(0)[0]
    server.kill()
    server.wait()
    (tmp_path / "gate").touch()
    ended = commands.finish(process)
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout) == {str(n): sum(range(n, 40, 3)) for n in range(3)}
    assert "the job is resubmitted" in ended.stderr
    for member, _ in members:
        member.send_signal(signal.SIGTERM)
        ended = commands.finish(member)
        assert (ended.returncode, "Traceback" in ended.stderr) == (143, False), ended
