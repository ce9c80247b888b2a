"""Functions that nodes offer, end to end: hosts are processes of their own, or this one."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import reducers
from tests.ports import free_port

PASSWORD = "a password for these tests only"
WAIT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
ITEMS = [(number, number) for number in range(400)]

#: offers `stats` and what argv names; tells on stdout what it does
HOST = r"""
import os, sys, time
import mmgevent as mmg

calls = 0
def stats(key, value):
    global calls
    calls += 1
    yield "host", os.getpid()
    yield "values", value

def say(key, value):
    os.write(1, b"began %d\n" % key)  # in one piece: the main thread prints too
    while not os.path.exists(value):
        time.sleep(0.01)
    yield key, os.getpid()

def total(key, values):
    return sum(values), os.getpid()

def fork(key, value):
    child = os.fork()
    if not child:
        time.sleep(1000)
    yield key, child

known = {"stats": stats, "say": say, "total": total, "fork": fork}
address, *names = sys.argv[1:]
node = mmg.Node(address, may_serve=False, functions={name: known[name] for name in names})
node.wait(timeout=60)
os.write(1, b"ready\n")
sys.stdin.read()
node.close()
"""


class Host:
    """A process that offers functions."""

    def __init__(self, address, names):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, address, *names],
            cwd=ROOT,
            env={**os.environ, "MMG_PASSWORD": PASSWORD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, text):
        for line in self.process.stdout:
            if line.strip() == text:
                return
        raise AssertionError(f"{text!r} never came")


@pytest.fixture
def cluster():
    with mmg.LocalCluster(1, listen=("127.0.0.1", 0), password=PASSWORD) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def start(request):
    hosts = []

    def start_host(address, *names):
        if not isinstance(address, str):
            address = "{}:{}".format(*address)
        host = Host(address, names)
        hosts.append(host)
        host.wait_for("ready")
        return host

    yield start_host
    for host in hosts:
        host.process.kill()
        host.process.communicate(timeout=WAIT_S)


def wait_until(predicate, what):
    until = time.monotonic() + WAIT_S
    while not predicate():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def count_workers(cluster):
    try:
        return len(cluster.workers())
    except mmg.EngineError:  # between two servers
        return 0


@pytest.fixture
def node():
    """A node of this process that is the server, and offers functions."""
    seen = []

    def remember(key, value):
        seen.append(value)
        yield os.getpid(), value

    def fail(key, value):
        if value == 7:
            raise LookupError("seven is not to be found")
        yield key, value

    functions = {
        "remember": remember,
        "fail": fail,
        "words": lambda key, text: [(word, 1) for word in text.split()],
        "large": lambda key, n_bytes: [((key, part), bytes(1 << 20)) for part in range(n_bytes >> 20)],
        "total": lambda key, values: sum(values),
        "groups": lambda groups: [(key, sum(values)) for key, values in groups],
        "leave": lambda key, value: sys.exit(value),
        "one": lambda one: one,
    }
    with mmg.Node(f"127.0.0.1:{free_port()}", procs=2, password=PASSWORD, functions=functions) as node:
        node.wait("server", WAIT_S)
        node.seen = seen
        yield node
    assert not any(thread.name == "mmgevent-offered" for thread in threading.enumerate())


def test_offered_functions_have_the_state_of_their_process(node):
    for count in (1, 2):
        result = node.run(mmg.Job(ITEMS, "remember"))
        assert result == {os.getpid(): [value for _, value in ITEMS]}
        assert len(node.seen) == count * len(ITEMS)
    assert sorted(set(node.seen)) == list(range(400))


def split(key, text):
    return [(word, 1) for word in text.split()]


def add(key, values):
    return sum(values)


@pytest.mark.parametrize(
    "functions",
    [
        {"mapfn": "words", "reducefn": "total"},
        {"mapfn": "words", "reducefn": "groups"},
        {"mapfn": "words", "reducefn": reducers.sum_values},
        {"mapfn": "words", "reducefn": "total", "collectfn": "groups"},
        {"mapfn": "words", "reducefn": add, "collectfn": "total"},
        {"mapfn": "words", "reducefn": add, "collectfn": reducers.sum_values},
        {"mapfn": split, "reducefn": "total"},
        {"mapfn": split, "reducefn": "groups", "collectfn": add},
    ],
)
def test_offered_and_shipped_functions_mix(node, functions):
    texts = [(number, "a b a " * number) for number in range(50)]
    expected = collections.Counter(word for _, text in texts for word in text.split())
    assert node.run(mmg.Job(texts, **functions)) == expected


def test_map_only_keeps_the_order_of_the_datasource(node):
    assert node.run(mmg.Job([(n, "a") for n in range(100)], "words")) == {"a": [1] * 100}


def test_reduce_only_by_name(node):
    assert node.run(mmg.Job([(n % 3, n) for n in range(100)], None, "total")) == {
        r: sum(range(r, 100, 3)) for r in range(3)
    }


def test_an_exception_of_an_offered_function_fails_the_job_and_no_more(node):
    with pytest.raises(mmg.JobError, match="LookupError: seven is not to be found") as raised:
        node.run(mmg.Job(ITEMS, "fail"))
    assert (raised.value.kind, raised.value.function, raised.value.key) == ("exception", "mapfn", "7")
    assert "raise LookupError" in raised.value.traceback
    with pytest.raises(mmg.JobError, match="SystemExit"):
        node.run(mmg.Job(ITEMS, "leave"))
    assert len(node.run(mmg.Job(ITEMS, "fail", max_skipped=1))) == 399


def test_a_function_that_cannot_be_called_in_its_role_fails_the_job(node):
    with pytest.raises(mmg.JobError, match=r"mapfn.*1 required positional parameter"):
        node.run(mmg.Job(ITEMS, "one"))


def test_fifty_megabytes_come_through(node):
    result = node.run(mmg.Job([(n, 10 << 20) for n in range(5)], "large"))
    assert sum(len(value) for values in result.values() for value in values) == 50 << 20


def test_each_worker_gets_what_it_offers(cluster, start):
    one, two = start(cluster.address, "stats"), start(cluster.address, "total")
    assert set(cluster.run(mmg.Job(ITEMS, "stats"))["host"]) == {one.pid}
    result = cluster.run(mmg.Job(ITEMS, lambda key, value: [(key % 2, value)], "total"))
    assert result == {r: (sum(range(r, 400, 2)), two.pid) for r in range(2)}
    both = start(cluster.address, "stats", "total")
    result = cluster.run(mmg.Job(ITEMS, "stats", "total"))
    assert result["values"] == (sum(range(400)), both.pid)


def test_a_job_waits_for_a_worker_that_offers_its_function(cluster, start):
    notices = []
    waits = threading.Event()

    def notice(text):
        notices.append(text)
        waits.set()

    handle = cluster.submit(mmg.Job(ITEMS, "stats"), on_notice=notice)
    assert waits.wait(WAIT_S)
    assert "no worker offers stats" in notices[0]
    host = start(cluster.address, "stats")
    assert set(handle.result(WAIT_S)["host"]) == {host.pid}


def test_another_that_offers_it_takes_over_from_one_that_is_killed(cluster, start, tmp_path):
    gate = tmp_path / "gate"
    first = start(cluster.address, "say")
    handle = cluster.submit(mmg.Job([(n, str(gate)) for n in range(20)], "say"))
    first.wait_for("began 0")
    second = start(cluster.address, "say")
    first.process.kill()
    first.process.wait(WAIT_S)
    gate.touch()
    assert handle.result(WAIT_S) == {n: [second.pid] for n in range(20)}


def test_a_host_that_is_killed_is_missed_though_a_child_of_it_lives(cluster, start):
    first = start(cluster.address, "fork", "say")
    [child] = cluster.run(mmg.Job([(1, 1)], "fork"))[1]
    try:
        first.process.kill()
        wait_until(lambda: len(cluster.workers()) == 1, "the killed host is still a worker")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_oneshot_reaches_every_worker_that_offers_it(cluster, start):
    hosts = [start(cluster.address, "stats") for _ in range(3)]
    start(cluster.address, "total")
    handle = cluster.submit(mmg.Job(((n, n) for n in range(1000)), "stats", allocation="oneshot"))
    result = handle.result(WAIT_S)
    assert sorted(result["host"]) == sorted(host.pid for host in hosts)
    assert len(result["values"]) == 3


def test_a_cancelled_job_ends_at_once_and_the_next_runs_when_the_function_returns(cluster, start, tmp_path):
    gate = tmp_path / "gate"
    host = start(cluster.address, "say", "stats")
    handle = cluster.submit(mmg.Job([(n, str(gate)) for n in range(5)], "say"))
    host.wait_for("began 0")
    handle.cancel()
    with pytest.raises(mmg.JobCancelled):
        handle.result(WAIT_S)
    following = cluster.submit(mmg.Job(ITEMS, "stats"))
    gate.touch()
    assert set(following.result(WAIT_S)["host"]) == {host.pid}


def test_a_host_serves_the_next_server_when_its_function_has_returned(start, tmp_path):
    gate = tmp_path / "gate"
    address = f"127.0.0.1:{free_port()}"
    first = mmg.Node(address, procs=1, password=PASSWORD)
    first.wait("server", WAIT_S)
    host = start(address, "say", "stats")
    with mmg.Node(address, procs=1, password=PASSWORD) as second:
        second.wait("worker", WAIT_S)
        handle = second.submit(mmg.Job([(n, str(gate)) for n in range(3)], "say"))
        host.wait_for("began 0")
        os.kill(
            first._engine.pid, signal.SIGKILL
        )  # it starts another, and is not alone in looking for a place
        wait_until(lambda: count_workers(second) == 3, "all three are back")
        gate.touch()
        assert handle.result(WAIT_S) == {n: [host.pid] for n in range(3)}
        assert set(second.run(mmg.Job(ITEMS, "stats"))["host"]) == {host.pid}
        first.close()


def test_what_cannot_go_with_names_is_refused_at_submit(node):
    for option in ({"task_timeout": 5}, {"memory_limit": "1GiB"}, {"greenlets": 2}):
        with pytest.raises(mmg.UsageError, match=f"{next(iter(option))} cannot go with the function 'words'"):
            node.submit(mmg.Job(ITEMS, "words", **option))
    with pytest.raises(mmg.UsageError, match="inline run has none"):
        mmg.run(mmg.Job(ITEMS, "words"), inline=True)


def test_a_function_may_submit_a_job_of_its_own():
    """Not by name, or it would wait for itself; shipped functions run elsewhere."""
    nodes = []

    def nested(key, value):
        inner = nodes[0].run(mmg.Job([(n, n) for n in range(value)], lambda k, v: [(k % 2, v)], add))
        yield key, inner

    with mmg.Node(
        f"127.0.0.1:{free_port()}", procs=2, password=PASSWORD, functions={"nested": nested}
    ) as node:
        nodes.append(node)
        assert node.run(mmg.Job([(1, 10)], "nested")) == {1: [{0: 20, 1: 25}]}


def test_a_node_closes_although_its_function_runs():
    entered, go = threading.Event(), threading.Event()

    def wait(key, value):
        entered.set()
        assert go.wait(WAIT_S)
        yield key, value

    with mmg.LocalCluster(0, listen=("127.0.0.1", 0), password=PASSWORD) as cluster:
        cluster.wait_ready()
        address = "{}:{}".format(*cluster.address)
        node = mmg.Node(address, may_serve=False, password=PASSWORD, functions={"wait": wait})
        node.wait("worker", WAIT_S)
        handle = cluster.submit(mmg.Job([(1, 1)], "wait"))
        assert entered.wait(WAIT_S)
        node.close()
        assert node.state == "closed"
        with mmg.Node(address, may_serve=False, password=PASSWORD, functions={"wait": wait}) as again:
            again.wait("worker", WAIT_S)
            go.set()
            assert handle.result(WAIT_S) == {1: [1]}
    wait_until(lambda: "mmgevent-offered" not in {t.name for t in threading.enumerate()}, "a thread is left")
