"""Scripts written for mincemeat: Servers, Clients and daemons with real engines, and whole programs."""

import collections
import contextlib
import errno
import itertools
import os
import queue
import re
import signal
import socket
import threading
import time

import pytest

import mmgevent.mincemeat as mincemeat
from mmgevent.errors import AuthenticationError, ConnectError, JobError, PasswordError, StartError
from mmgevent.mincemeat import TaskManager, endpoint
from mmgevent.mincemeat import __main__ as worker_command
from mmgevent.mincemeat import client as client_module
from tests.integration.commands import wait_for
from tests.ports import free_port

HOST = "127.0.0.1"
PASSWORD = "a password for these tests only"
DEADLINE_S = 60.0

LINES = [
    "Humpty Dumpty sat on a wall",
    "Humpty Dumpty had a great fall",
    "All the King's horses and all the King's men",
    "Couldn't put Humpty together again",
]
COUNTS = dict(collections.Counter(word for line in LINES for word in line.split()))


def count_words(key, line):
    for word in line.split():
        yield word, 1


def add(key, values):
    return sum(values)


def wait_until(predicate, what, timeout_s=DEADLINE_S):
    """Look again and again until something is so, or fail."""
    until = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


@pytest.fixture
def started():
    """Daemons of a test; stopped at its end."""
    daemons = []
    yield daemons
    for daemon in reversed(daemons):
        daemon.stop(timeout=DEADLINE_S)
        assert not daemon.is_alive()


@pytest.fixture
def serve(started):
    """Start a Server in a thread, on a free port."""

    def start(
        cls=mincemeat.Server,
        *,
        daemon=mincemeat.Server_daemon,
        before=None,
        options=None,
        is_started=True,
        **more,
    ):
        credentials = {"password": PASSWORD, "interface": HOST, "port": 0, **more}
        server = daemon(credentials, cls=cls, **(options or {}))
        started.append(server)
        if before is not None:
            before(server.endpoint)
        if is_started:
            server.start()
        return server

    return start


@pytest.fixture
def join(started):
    """Start a Client in a thread."""

    def start(server, cls=mincemeat.Client, *, daemon=mincemeat.Client_daemon, options=None):
        credentials = {"password": PASSWORD, "interface": HOST, "port": server.endpoint.addr[1]}
        client = daemon(credentials, cls=cls, **(options or {}))
        started.append(client)
        client.start()
        return client

    return start


def next_results(server):
    """Wait for the oldest results of a Server daemon."""
    wait_until(lambda: server.endpoint.output or not server.is_alive(), "results")
    results = server.endpoint.results()
    assert results is not None, server.state()
    return results


# jobs


@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_clients_gives_the_same_results(serve, join, count):
    scale = count * 73
    server = serve(
        datasource=dict(enumerate(LINES * scale)), mapfn=count_words, reducefn=add, is_started=False
    )
    clients = [join(server) for _ in range(count)]
    assert all(client.endpoint.authenticated(timeout=DEADLINE_S) for client in clients)
    server.start()
    assert next_results(server) == {word: n * scale for word, n in COUNTS.items()}
    server.join(DEADLINE_S)
    assert server.state() == "success"
    assert server.endpoint.finished()
    for client in clients:
        client.join(DEADLINE_S)
        assert client.state() == "success"


class LazyLines:
    """Keys and values, no length, and nothing read before its time."""

    def __iter__(self):
        return iter(range(len(LINES)))

    def __getitem__(self, key):
        return LINES[key]


class Maponly(mincemeat.Server):
    """Counts in collectfn and finishfn, without a reduce phase."""

    datasource = LazyLines()
    longest = 4

    def mapfn(self, key, line):
        for word in line.split():
            yield word[: self.longest], 1

    def collectfn(self, groups):
        for key, values in groups:
            yield key, values if len(values) < 10 else [sum(values)]

    def finishfn(self, key, values):
        return sum(values)


def test_a_subclass_with_methods_and_a_datasource_of_its_own(serve, join):
    server = serve(Maponly)
    join(server)
    expected = collections.Counter(word[:4] for line in LINES for word in line.split())
    assert next_results(server) == expected


def test_without_a_map_phase_values_go_to_reducefn_as_they_are(serve, join):
    server = serve(datasource={"a": [1, 2, 3], "b": ()}, reducefn=add)
    join(server)
    assert next_results(server) == {"a": 6, "b": 0}


def test_run_server_returns_the_results_and_process_comes_in_steps():
    server = mincemeat.Server(map={})
    server.datasource = dict(enumerate(LINES))
    server.mapfn = count_words
    server.reducefn = add
    assert server.run_server(password=PASSWORD, port=0, interface=HOST, asynchronous=True) is None
    client = mincemeat.Client(map=server._map)
    client.conn(HOST, server.addr[1], PASSWORD, asynchronous=True)
    until = time.monotonic() + DEADLINE_S
    while server.process(timeout=0.05):
        assert time.monotonic() < until
    assert server.finished()
    assert client.finished()
    assert server.output.popleft() == (None, COUNTS)
    assert server.results() is None


def fail(key, line):
    raise RuntimeError(f"no such line: {line}")


def test_a_job_that_fails_ends_the_server_and_says_why(serve, join):
    server = serve(datasource={1: "x"}, mapfn=fail, reducefn=add)
    join(server)
    server.join(DEADLINE_S)
    assert re.match(r"failed: mapfn at 1 .*RuntimeError: no such line: x", server.state(), re.DOTALL)


def test_a_job_that_fails_comes_out_of_process_as_joberror():
    server = mincemeat.Server(map={})
    server.conn(PASSWORD, 0, HOST, asynchronous=True, datasource={1: "x"}, mapfn=fail)
    client = mincemeat.Client(map=server._map)
    client.conn(HOST, server.addr[1], PASSWORD, asynchronous=True)
    with pytest.raises(JobError, match="no such line: x"):
        server.process(timeout=DEADLINE_S)
    assert server.closed
    assert client.closed
    assert not server.finished()


def test_a_permanent_server_outlives_a_job_that_fails(serve, join):
    failed = []

    class Kept(mincemeat.Server):
        def mapfn(self, key, line):
            return [(len(line) // len(line), 1)]

        def failfn(self, txn, error):
            failed.append(txn)
            super().failfn(txn, error)

    server = serve(Kept, cycle=TaskManager.PERMANENT)
    join(server)
    server.endpoint.set_datasource({1: ""}, txn="bad")
    server.endpoint.set_datasource({1: "good"}, txn="good")
    wait_until(lambda: server.endpoint.output, "results")
    assert server.endpoint.output.popleft() == ("good", {1: [1]})
    assert failed == ["bad"]
    assert server.is_alive()


# the queue


def test_a_permanent_server_idles_between_transactions_and_ends_when_told(serve, join):
    taken = queue.Queue()
    server = serve(
        mapfn=count_words,
        reducefn=add,
        cycle=TaskManager.PERMANENT,
        resultfn=lambda txn, results: taken.put((txn, results)),
    )
    client = join(server)
    assert TaskManager.statename[server.endpoint.taskmanager.state] == "Idle"
    for txn in ("first", ("second", 2)):
        server.endpoint.set_datasource({1: LINES[0]}, txn=txn, retransmit=50)
        assert taken.get(timeout=DEADLINE_S) == (txn, dict.fromkeys(LINES[0].split(), 1))
        wait_until(lambda: server.endpoint.taskmanager.state == TaskManager.IDLE, "idle")
    assert server.state() == "authenticated"
    assert not server.endpoint.finished()
    server.endpoint.taskmanager.defaults["cycle"] = TaskManager.SINGLEUSE
    server.endpoint.taskmanager.jump_start(count=1)
    server.join(DEADLINE_S)
    assert server.state() == "success"
    assert server.endpoint.results() is None
    client.join(DEADLINE_S)
    assert client.state() == "success"


def test_transactions_queued_before_the_start_are_all_done_in_order(serve, join):
    def queue_three(server):
        for n in range(3):
            server.set_datasource({n: LINES[n]}, txn=n)

    server = serve(before=queue_three, mapfn=count_words, reducefn=add)
    join(server)
    server.join(DEADLINE_S)
    assert [txn for txn, _ in server.endpoint.output] == [0, 1, 2]
    assert [server.endpoint.results() for _ in range(4)] == [
        dict(collections.Counter(line.split())) for line in LINES[:3]
    ] + [None]


def test_an_empty_datasource_has_empty_results(serve):
    server = serve(datasource={}, mapfn=count_words)
    assert next_results(server) == {}


class Endless:
    """Items without end, for jobs that give one to every worker."""

    def __init__(self, name):
        self.name = name

    def __iter__(self):
        return (f"{n}@{self.name}" for n in itertools.count())

    def __getitem__(self, key):
        return ""


class Echo(mincemeat.Client):
    """Maps with a method of its own, and sends the Server some of it."""

    mapped = 0

    def mapfn(self, key, value):
        self.mapped += 1
        if self.mapped % 5 == 1:
            self.send_command("whatever", {(key,): b"\0"}, txn=("t", 1))
        yield key, 1


def test_oneshot_transactions_come_in_three_ways_and_reach_every_client(serve, join):
    received = []

    class Transactions(mincemeat.Server):
        def unrecognized_command(self, command, data, txn, chan):
            received.append((command, data, txn, chan.addr[0]))
            self.set_datasource(Endless("command"), txn="command", allocation=TaskManager.ONESHOT)
            return True

    def prepare(server):
        server.taskmanager.defaults["cycle"] = TaskManager.PERMANENT
        for _ in range(4):
            server.set_datasource(Endless("initial"), txn="initial", allocation=TaskManager.ONESHOT)
        server.schedule.append((mincemeat.timer(), add_scheduled, 0.05))

    def add_scheduled():
        server.endpoint.set_datasource(Endless("scheduled"), txn="scheduled", allocation=TaskManager.ONESHOT)

    server = serve(Transactions, before=None, options={}, cycle=TaskManager.PERMANENT)
    clients = [join(server, Echo) for _ in range(3)]
    wait_until(lambda: len(server.endpoint.taskmanager.channels) == 3, "three channels")
    prepare(server.endpoint)
    expected = {"initial", "scheduled", "command"}
    wait_until(lambda: expected <= {txn for txn, _ in list(server.endpoint.output)}, "results of all kinds")
    server.endpoint.schedule.clear()
    server.endpoint.taskmanager.defaults["cycle"] = TaskManager.SINGLEUSE
    server.join(DEADLINE_S)
    assert server.endpoint.finished()
    assert not server.endpoint.taskmanager.channels
    while (result := server.endpoint.results()) is not None:
        assert list(result.values()) == [[1]] * 3, result
    for client in clients:
        client.join(DEADLINE_S)
        assert client.state() == "success"
    command, data, txn, host = received[0]
    assert (command, list(data.values()), txn, host) == ("whatever", [b"\0"], ("t", 1), HOST)


# methods of a Client


class Worker(mincemeat.Client):
    """All three functions are methods, with state."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def mapfn(self, key, line):
        self.seen.append((key, os.getpid()))
        for word in line.split():
            yield word, 1

    def collectfn(self, key, values):
        return [10 * sum(values)]

    def reducefn(self, key, values):
        return sum(values), os.getpid()


@pytest.mark.parametrize(("mapfn", "reducefn"), [(False, None), (None, None), (False, add), (False, False)])
def test_methods_of_a_client_are_used_where_the_server_sends_none(serve, join, mapfn, reducefn):
    def set_functions(server):
        server.mapfn, server.reducefn = mapfn, reducefn
        server.datasource = dict(enumerate(LINES))

    server = serve(before=set_functions)
    client = join(server, Worker)
    results = next_results(server)
    assert sorted(client.endpoint.seen) == [(n, os.getpid()) for n in range(len(LINES))]
    if reducefn is None:
        expected = COUNTS
        assert {word: sum(values) // 10 for word, values in results.items()} == expected
    elif reducefn is False:
        assert results == {word: (10 * n, os.getpid()) for word, n in COUNTS.items()}
    else:
        assert results == {word: 10 * n for word, n in COUNTS.items()}


def test_a_client_reduces_with_its_own_method_without_a_map_phase(serve, join):
    def set_functions(server):
        server.reducefn = False
        server.datasource = {"a": [1, 2], "b": [3]}

    server = serve(before=set_functions)
    join(server, Worker)
    assert next_results(server) == {"a": (3, os.getpid()), "b": (3, os.getpid())}


# commands


class Talker(mincemeat.Client):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = queue.Queue()

    def unrecognized_command(self, command, data=None, txn=None):
        self.heard.put((command, data, txn))
        return command != "forbidden"

    def pong(self, command, data, txn):
        self.heard.put((command, data[1], float(txn)))


class Listener(mincemeat.Server):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = queue.Queue()

    def unrecognized_command(self, command, data=None, txn=None, chan=None):
        if command == "answer":
            chan.send_command("answered", data, txn)
        elif command == "raise":
            raise RuntimeError("a fault of the script's")
        else:
            self.heard.put((command, data, txn))
        return command not in ("forbidden", "raise")

    def pong(self, chan, command, data, txn):
        self.heard.put((command, data[1], float(txn)))


@pytest.fixture
def talkers(serve, join):
    server = serve(Listener)
    clients = [join(server, Talker) for _ in range(2)]
    wait_until(lambda: len(server.endpoint.taskmanager.channels) == 2, "two channels")
    return server, clients


def test_commands_go_both_ways_and_keep_what_they_carry(talkers):
    server, (client, _) = talkers
    payload = {("a", 1): b"\0\xff", None: [(1, 2), {3}]}
    client.endpoint.send_command_backchannel("answer", payload, txn=7, timeout=5.0)
    assert client.endpoint.heard.get(timeout=DEADLINE_S) == ("answered", payload, 7)
    big = os.urandom(3 * 1024 * 1024)
    client.endpoint.send_command("big", big)
    assert server.endpoint.heard.get(timeout=DEADLINE_S) == ("big", big, None)
    for channel in server.endpoint.taskmanager.channels:
        channel.send_command("to all")
    assert client.endpoint.heard.get(timeout=DEADLINE_S) == ("to all", None, None)


def test_pings_are_answered_at_both_ends(talkers):
    server, (client, _) = talkers
    client.endpoint.ping(payload=("any", "thing"))
    command, payload, sent = client.endpoint.heard.get(timeout=DEADLINE_S)
    assert (command, payload) == ("pong", ("any", "thing"))
    assert abs(time.time() - sent) < DEADLINE_S
    server.endpoint.ping()
    came = {server.endpoint.heard.get(timeout=DEADLINE_S)[1] for _ in range(2)}
    assert came == {channel.name() for channel in server.endpoint.taskmanager.channels}


@pytest.mark.parametrize("command", ["forbidden", "raise"])
def test_a_command_that_the_server_does_not_know_closes_that_connection_only(talkers, command):
    server, (client, other) = talkers
    client.endpoint.send_command(command)
    client.join(DEADLINE_S)
    assert client.endpoint.closed
    wait_until(lambda: len(server.endpoint.taskmanager.channels) == 1, "one channel is left")
    assert other.is_alive()
    other.endpoint.send_command("answer", 1)
    assert other.endpoint.heard.get(timeout=DEADLINE_S) == ("answered", 1, None)


def test_a_command_that_a_client_does_not_know_closes_its_connection_only(talkers):
    server, clients = talkers
    first, second = server.endpoint.taskmanager.channels
    first.send_command("forbidden")
    wait_until(lambda: first.closed, "that channel is closed")
    assert not second.closed
    assert sum(client.is_alive() for client in clients) >= 1
    assert list(server.endpoint.taskmanager.channels) == [second]


def test_closing_a_channel_ends_its_client(talkers):
    server, clients = talkers
    (channel, *_) = server.endpoint.taskmanager.channels
    channel.handle_close()
    wait_until(
        lambda: channel.closed and any(not client.is_alive() for client in clients), "one client ended"
    )
    assert channel.shutdown
    assert server.is_alive()


# daemons


def test_a_port_has_one_server(serve):
    server = serve()
    assert server.state() == "authenticated"
    other = mincemeat.Server(map={})
    with pytest.raises(OSError, match="another program listens there") as caught:
        other.conn(PASSWORD, server.endpoint.addr[1], HOST)
    assert caught.value.errno == errno.EADDRINUSE
    assert other._map == {}
    with pytest.raises(OSError, match="does not have that address") as caught:
        other.conn(PASSWORD, 0, "192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert not other.finished()
    server.stop()
    assert server.state() == "failed: incomplete"
    assert not server.is_alive()
    other.conn(PASSWORD, server.endpoint.addr[1], HOST, asynchronous=True)
    other.handle_close()
    assert other.process() is False


def test_a_daemon_that_was_not_started_is_idle_and_can_be_stopped():
    server = mincemeat.Server_daemon({"password": PASSWORD, "interface": HOST, "port": 0})
    assert server.state() == "idle"
    assert server.name() == server.name == f"Server@{HOST}:{server.endpoint.addr[1]}"
    server.stop(timeout=DEADLINE_S)
    assert server.endpoint.closed


def test_scheduled_events_and_a_tidy_end(serve, join):
    server = serve(cycle=TaskManager.PERMANENT)
    fired = queue.Queue()
    due = mincemeat.timer() + 1.5
    schedule = collections.deque([(due, lambda: fired.put(mincemeat.timer()), None)])
    client = join(server, options={"schedule": schedule})
    assert client.endpoint.authenticated(timeout=0.25)
    assert client.state() == "authenticated"
    assert fired.get(timeout=DEADLINE_S) >= due
    wait_until(lambda: server.endpoint.taskmanager.channels, "a channel")
    (channel,) = server.endpoint.taskmanager.channels
    assert (client.endpoint.closed, channel.closed, client.endpoint.shutdown) == (False, False, False)
    client.endpoint.handle_close()
    assert client.endpoint.shutdown
    assert client.endpoint.finished()
    wait_until(lambda: client.endpoint.closed and channel.closed, "both ends closed")
    client.join(DEADLINE_S)
    assert client.state() == "success"
    assert not server.endpoint.taskmanager.channels


def test_who_has_the_last_results_may_close_the_server_at_once(serve, join):
    has_results, closed = threading.Event(), threading.Event()

    class Slow(mincemeat.Server):
        def resultfn(self, txn, results):
            has_results.set()
            assert closed.wait(DEADLINE_S)

    server = serve(
        Slow, datasource=dict(enumerate(LINES)), mapfn=count_words, reducefn=add, cycle=TaskManager.PERMANENT
    )
    join(server)
    assert has_results.wait(DEADLINE_S)
    server.endpoint.taskmanager.defaults["cycle"] = TaskManager.SINGLEUSE
    server.endpoint.handle_close()
    closed.set()
    server.join(DEADLINE_S)
    assert server.state() == "success"


def test_constructors_do_not_wait_for_their_engines(started):
    """Each is the quickest of some: others may have the cores just then."""
    took = collections.defaultdict(list)
    for _ in range(4):
        made = []
        for kind in (mincemeat.Server_daemon, mincemeat.Server_HB_daemon):
            began = time.monotonic()
            made.append(kind({"password": PASSWORD, "interface": HOST, "port": 0}))
            took[kind].append(time.monotonic() - began)
        credentials = {"password": PASSWORD, "interface": HOST, "port": made[0].endpoint.addr[1]}
        for kind in (mincemeat.Client_daemon, mincemeat.Client_HB_daemon):
            began = time.monotonic()
            made.append(kind(credentials))
            took[kind].append(time.monotonic() - began)
        began = time.monotonic()
        made.append(mincemeat.Client_daemon(credentials, cls=Worker))
        took[Worker].append(time.monotonic() - began)
        assert not any(daemon.endpoint.authenticated() for daemon in made[2:])
        for daemon in made:
            daemon.stop(timeout=DEADLINE_S)
            assert daemon.endpoint.closed
    assert {kind: min(times) for kind, times in took.items() if min(times) > 0.1} == {}


def test_an_event_that_is_scheduled_before_is_not_early_after(serve, join):
    server = serve(cycle=TaskManager.PERMANENT)
    fired = queue.Queue()
    for _ in range(4):  # the best of some, as above
        delay_s = 0.3
        due = mincemeat.timer() + delay_s
        schedule = collections.deque([(due, lambda: fired.put(mincemeat.timer()), None)])
        join(server, options={"schedule": schedule})
        constructed = mincemeat.timer()
        assert fired.get(timeout=DEADLINE_S) >= due
        if due - constructed > delay_s - 0.1:
            return
    raise AssertionError("the constructor took the time that its script had measured out")


def test_what_is_sent_before_the_connection_arrives_in_order(serve, join):
    server = serve(Listener)
    client = mincemeat.Client(map={})
    client.conn(HOST, server.endpoint.addr[1], PASSWORD, asynchronous=True)
    assert client.auth is None
    for n in range(5):
        client.send_command("early", n)
    assert client.authenticated(timeout=DEADLINE_S)
    client.send_command("late", 5)
    heard = [server.endpoint.heard.get(timeout=DEADLINE_S) for _ in range(6)]
    assert heard == [*(("early", n, None) for n in range(5)), ("late", 5, None)]
    (channel,) = server.endpoint.taskmanager.channels
    assert channel.is_client
    client.handle_close()
    assert client.process(timeout=DEADLINE_S) is False


def test_who_sends_more_before_the_connection_than_is_kept_is_closed(monkeypatch, serve):
    monkeypatch.setattr(client_module, "MAX_UNPROCESSED_BYTES", 100_000)
    server = serve()
    client = mincemeat.Client(map={})
    client.conn(HOST, server.endpoint.addr[1], PASSWORD, asynchronous=True)
    client.send_command("big", bytes(200_000))
    assert client.finished()
    assert client.process(timeout=DEADLINE_S) is False


def test_a_short_wait_for_the_connection_does_not_count_the_time_to_connect(serve, join):
    client = join(serve(cycle=TaskManager.PERMANENT))
    assert not client.endpoint.authenticated()
    assert client.endpoint.authenticated(timeout=0.01)
    assert client.endpoint.authenticated()


def test_silence_is_counted_from_the_connection_on(serve, join):
    server = serve(mincemeat.Server_HB, daemon=mincemeat.Server_HB_daemon, cycle=TaskManager.PERMANENT)
    client = join(
        server,
        mincemeat.Client_HB,
        daemon=mincemeat.Client_HB_daemon,
        options={"interval": 0.01, "allowed": 0.02, "timeout": 0.01},
    )
    assert client.endpoint.authenticated(timeout=DEADLINE_S)


def test_an_engine_that_cannot_start_is_told_by_process_and_by_the_state(monkeypatch, started):
    """A port that is taken is told by the constructor; what comes later has no other way."""
    monkeypatch.setenv("MMG_PYTHON", "/bin/false")
    server = mincemeat.Server(map={})
    server.conn(PASSWORD, 0, HOST, asynchronous=True)
    with pytest.raises(StartError, match=r"the engine could not start: .* /bin/false"):
        server.process(timeout=DEADLINE_S)
    assert isinstance(server.error, StartError)
    assert server.closed
    daemon = mincemeat.Server_daemon({"password": PASSWORD, "interface": HOST, "port": 0})
    started.append(daemon)
    daemon.start()
    daemon.join(DEADLINE_S)
    assert daemon.state().startswith("failed: the engine could not start")
    client = mincemeat.Client(map={})
    client.conn(HOST, 1, PASSWORD)
    assert isinstance(client.error, StartError)
    assert not client.authenticated()


def test_a_python_that_is_not_there_is_told_by_the_constructor(monkeypatch):
    monkeypatch.setenv("MMG_PYTHON", "/no/such/python")
    for kind in (mincemeat.Server_daemon, mincemeat.Client_daemon):
        with pytest.raises(StartError, match="MMG_PYTHON is '/no/such/python'"):
            kind({"password": PASSWORD, "interface": HOST, "port": free_port()})


def test_a_server_has_its_port_at_once(serve):
    server = serve(is_started=False)
    credentials = {"password": PASSWORD, "interface": HOST, "port": server.endpoint.addr[1]}
    with (
        contextlib.closing(socket.create_connection(server.endpoint.addr, timeout=DEADLINE_S)),
        pytest.raises(OSError, match="another program listens there"),
    ):
        mincemeat.Server_daemon(credentials)


def test_a_daemons_timeout_is_called_and_shortened_by_what_it_returns(started):
    class Often(mincemeat.Server_daemon):
        calls = 0

        def timeout(self):
            self.calls += 1
            super().timeout()
            if self.calls >= 5:
                self.endpoint.handle_close()
            return 0.01

    server = Often(credentials={"password": PASSWORD, "interface": HOST, "port": 0}, timeout=999.0)
    started.append(server)
    server.start()
    server.join(DEADLINE_S)
    assert server.calls >= 5
    assert server.state() == "failed: incomplete"


def test_who_sends_more_than_a_server_processes_is_closed(monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_UNPROCESSED_BYTES", 100_000)
    server = mincemeat.Server(map={})
    server.conn(PASSWORD, 0, HOST, asynchronous=True)  # and nobody processes it
    clients = [mincemeat.Client(map={}) for _ in range(2)]
    for client in clients:
        client.conn(HOST, server.addr[1], PASSWORD, asynchronous=True)
    clients[0].send_command("small", bytes(1000))
    clients[1].send_command("big", bytes(200_000))
    assert clients[1].finished(timeout=DEADLINE_S)
    assert not clients[0].finished()
    for end in (*clients, server):
        end.handle_close()
        assert end.process(timeout=DEADLINE_S) is False


def test_no_interface_is_all_of_them_for_a_server_and_localhost_for_a_client(serve, started):
    server = serve(interface="", datasource={1: "a b"}, mapfn=count_words)
    host, port = server.endpoint.addr
    assert host == "0.0.0.0"
    client = mincemeat.Client_daemon(credentials={"password": PASSWORD, "interface": "", "port": port})
    started.append(client)
    client.start()
    assert next_results(server) == {"a": [1], "b": [1]}


def test_one_set_of_credentials_serves_both(started):
    port = free_port()
    credentials = {
        "password": PASSWORD,
        "interface": HOST,
        "port": port,
        "datasource": dict(enumerate(LINES)),
        "mapfn": count_words,
        "collectfn": None,
        "reducefn": add,
        "finishfn": None,
        "resultfn": None,
    }
    server = mincemeat.Server_daemon(credentials)
    started.append(server)
    client = mincemeat.Client_daemon(credentials)
    started.append(client)
    server.start()
    client.start()
    assert next_results(server) == COUNTS


def test_a_client_that_is_refused_returns_and_says_why(serve):
    server = serve()
    client = mincemeat.Client(map={})
    client.conn(HOST, server.endpoint.addr[1], "another password")
    assert not client.authenticated()
    assert isinstance(client.error, AuthenticationError)
    client = mincemeat.Client(map={})
    client.password = PASSWORD
    client.conn(HOST, free_port())
    assert not client.authenticated(timeout=0.25)
    assert client.auth is None
    assert isinstance(client.error, ConnectError)
    client.conn(HOST, server.endpoint.addr[1], asynchronous=True)
    assert client.authenticated(timeout=DEADLINE_S)
    assert client.auth == "Done"
    client.handle_close()
    assert client.process() is False


def test_a_refused_client_daemon_fails_with_the_reason(started):
    client = mincemeat.Client_daemon({"password": PASSWORD, "interface": HOST, "port": free_port()})
    started.append(client)
    client.start()
    client.join(DEADLINE_S)
    assert client.state().startswith("failed: ")
    assert "refused" in client.state()


def test_heartbeats_go_both_ways_and_hurt_nobody_who_answers(serve, join):
    server = serve(
        mincemeat.Server_HB,
        daemon=mincemeat.Server_HB_daemon,
        options={"interval": 0.05, "allowed": DEADLINE_S},
        cycle=TaskManager.PERMANENT,
    )
    client = join(
        server,
        mincemeat.Client_HB,
        daemon=mincemeat.Client_HB_daemon,
        options={"interval": 0.05, "allowed": DEADLINE_S},
    )
    assert client.endpoint.authenticated(timeout=DEADLINE_S)
    begun = client.endpoint._pong_seen
    wait_until(lambda: client.endpoint._pong_seen != begun, "a pong at the Client")
    wait_until(lambda: server.endpoint._pong_seen, "a pong at the Server")
    assert client.is_alive()


def test_a_client_that_answers_no_pings_is_closed_and_a_plain_worker_is_not(serve, commands):
    server = serve(
        mincemeat.Server_HB,
        daemon=mincemeat.Server_HB_daemon,
        options={"interval": 0.1, "allowed": 3.0},
        cycle=TaskManager.PERMANENT,
    )
    port = server.endpoint.addr[1]
    plain = commands.start("worker", "--procs", "1", f"{HOST}:{port}", environ={"MMG_PASSWORD": PASSWORD})
    wait_for(plain.stderr, "joined the server")
    silent = mincemeat.Client(map={})  # and nobody processes it
    silent.conn(HOST, port, PASSWORD, asynchronous=True)
    wait_until(lambda: len(server.endpoint.taskmanager.channels) == 2, "two channels")
    assert silent.finished(timeout=DEADLINE_S)
    wait_until(lambda: len(server.endpoint.taskmanager.channels) == 1, "one channel is left")
    assert silent.process(timeout=DEADLINE_S) is False
    assert plain.poll() is None


def test_a_client_leaves_a_server_that_answers_no_pings(started):
    server = mincemeat.Server(map={})
    server.conn(PASSWORD, 0, HOST, asynchronous=True)  # and nobody processes it
    credentials = {"password": PASSWORD, "interface": HOST, "port": server.addr[1]}
    client = mincemeat.Client_HB_daemon(credentials, interval=0.1, allowed=1.0)
    started.append(client)
    client.start()
    client.join(DEADLINE_S)
    assert client.endpoint.closed
    server.handle_close()
    assert server.process() is False


# programs


def start_worker(commands, port, *more):
    return commands.start("-p", PASSWORD, "-P", port, *more, HOST, program=("-m", "mmgevent.mincemeat"))


def start_script(commands, name, text, *argv):
    return commands.start(*argv, program=(commands.write(name, text),))


def wait_listening(port):
    def answers():
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port), 5.0):
            return True
        return False

    wait_until(answers, f"somebody listens on {port}")


#: for a mapfn: the second client would come too late, when all is done
WAIT_FOR_TWO = """
    import os, time
    open("client-%d" % os.getppid(), "w").close()
    while sum(name.startswith("client-") for name in os.listdir()) < 2:
        time.sleep(.01)
"""

HUMPTY = f"""
import sys
import mmgevent.mincemeat as mincemeat

data = {LINES!r}
datasource = dict(enumerate(data))

def mapfn(k, v):
    for w in v.split():
        yield w, 1

def reducefn(k, vs):
    result = sum(vs)
    return result

s = mincemeat.Server()
s.datasource = datasource
s.mapfn = mapfn
s.reducefn = reducefn

results = s.run_server(password={PASSWORD!r}, port=int(sys.argv[1]))
print(sorted(results.items()))
"""


def test_the_classic_script_with_two_workers(commands):
    port = free_port()
    text = HUMPTY.replace("def mapfn(k, v):", f"def mapfn(k, v):{WAIT_FOR_TWO}")
    script = start_script(commands, "humpty.py", text, port)
    wait_listening(port)
    workers = [start_worker(commands, port) for _ in range(2)]
    done = commands.finish(script)
    assert done.stdout == f"{sorted(COUNTS.items())}\n"
    assert done.returncode == 0
    assert [commands.finish(worker).returncode for worker in workers] == [0, 0]
    assert commands.left_behind() == []


def test_the_worker_command_ends_with_a_server_that_is_killed(commands):
    port = free_port()
    script = start_script(
        commands, "idle.py", HUMPTY.replace("s.datasource = datasource", "s.cycle = 1"), port
    )
    wait_listening(port)
    worker = start_worker(commands, port, "-v")
    wait_for(worker.stderr, "authenticated")
    script.send_signal(signal.SIGKILL)
    assert commands.finish(worker).returncode == 0
    commands.finish(script)
    assert commands.left_behind() == []


def test_the_worker_command_says_how_to_give_a_password():
    with pytest.raises(PasswordError, match="-p PASSWORD"):
        worker_command.run([HOST])


def test_the_worker_command_says_what_is_wrong(commands):
    def run(*argv):
        return commands.run(*argv, program=("-m", "mmgevent.mincemeat"))

    no_server = run("-p", PASSWORD, "-P", free_port(), HOST)
    assert no_server.returncode == 3
    assert "refused" in no_server.stderr
    assert "Traceback" not in no_server.stderr
    empty = run("-P", free_port())
    assert empty.returncode == 2
    assert "-p PASSWORD" in empty.stderr
    assert mincemeat.VERSION in run("--version").stdout


ELECTION = f"""
import sys
import mmgevent.mincemeat as mincemeat

class Lines(object):
    lines = {LINES!r} * 20
    def __iter__(self):
        return iter(range(len(self.lines)))
    def __getitem__(self, key):
        return self.lines[key]

def mapfn(k, v):
{WAIT_FOR_TWO}    for w in v.split():
        yield w, 1

def sum_values(k, vs):
    return sum(vs)

credentials = {{"password": {PASSWORD!r}, "interface": "localhost", "port": int(sys.argv[1])}}

def client(credentials):
    c = mincemeat.Client()
    c.conn(**credentials)
    if c.auth != "Done":
        raise Exception("no server")

def server(credentials):
    s = mincemeat.Server()
    s.datasource = Lines()
    s.mapfn = mapfn
    s.collectfn = sum_values
    s.finishfn = sum_values
    return s.run_server(**credentials)

while True:
    try:
        client(credentials)
        print("client")
        break
    except Exception:
        try:
            print(sorted(server(credentials).items()))
            break
        except OSError:
            pass  # another was faster
"""


def test_of_several_equal_scripts_one_becomes_the_server(commands):
    port = free_port()
    scripts = [start_script(commands, "election.py", ELECTION, port) for _ in range(3)]
    said = sorted(commands.finish(script).stdout for script in scripts)
    results = f"{sorted((word, 20 * n) for word, n in COUNTS.items())}\n"
    assert said == sorted([results, "client\n", "client\n"])
    assert commands.left_behind() == []


MASTERLESS = f"""
import errno, socket, sys, threading
import mmgevent.mincemeat as mincemeat

def mapfn(k, v):
    for w in v.split():
        yield w, 1

def sum_values(groups):
    for k, vs in groups:
        yield k, sum(vs)

credentials = {{"password": {PASSWORD!r}, "interface": "localhost", "port": int(sys.argv[1])}}

svr = svrthr = cli = None
for _ in range(10):
    try:
        c = mincemeat.Client(map={{}})
        c.conn(asynchronous=False, **credentials)
        if c.auth != "Done":
            raise socket.error(errno.ENOTCONN, "Authentication failure")
        cli = c
        break
    except socket.error:
        if svr is None:
            s = mincemeat.Server(map={{}})
            s.datasource = dict(enumerate({LINES!r}))
            s.mapfn = mapfn
            s.collectfn = sum_values
            s.finishfn = sum_values
            try:
                s.conn(asynchronous=True, **credentials)
            except socket.error:
                pass
            else:
                svr = s
                svrthr = threading.Thread(target=svr.process)
                svrthr.start()
        else:
            svrthr.join(.1)

assert cli is not None
if svr:
    svrthr.join(30)
    assert svr.finished()
    print(sorted(svr.results().items()))
"""


def test_a_script_without_a_server_starts_one_and_works_for_it(commands):
    done = commands.finish(start_script(commands, "masterless.py", MASTERLESS, free_port()))
    assert done.stdout == f"{sorted(COUNTS.items())}\n", done.stderr
    assert done.returncode == 0
    assert commands.left_behind() == []


DAEMON = f"""
import sys, threading, time
import mmgevent.mincemeat as mincemeat

def mapfn(k, v):
{WAIT_FOR_TWO}
    for w in v.split():
        yield w, 1

def sum_values(k, vs):
    try:
        return sum(vs)
    except TypeError:
        return vs

results = []
credentials = {{
    "password": {PASSWORD!r},
    "interface": "localhost",
    "port": int(sys.argv[1]),
    "datasource": dict(enumerate({LINES!r} * 10)),
    "mapfn": mapfn,
    "collectfn": sum_values,
    "reducefn": None,
    "finishfn": sum_values,
    "resultfn": lambda txn, r: results.append(r),
}}

class Cli(mincemeat.Client_daemon):
    def timeout(self):
        self.endpoint.ping("timeout", threading.current_thread().name)
        return super().timeout()

class Svr(mincemeat.Server_daemon):
    def timeout(self):
        for chan in self.endpoint.taskmanager.channels:
            chan.send_command("ping", ("timeout", chan.name()))
        return super().timeout()

cli = svr = None
states = set()
limit = mincemeat.timer() + 60
while mincemeat.timer() < limit:
    if not cli:
        cli = Cli(credentials, timeout=.2)
        cli.start()
    time.sleep(.05)
    if cli.state() in ("authenticated", "success"):
        break
    if cli.state().startswith("fail"):
        cli.stop(.1)
        cli = None
    if not svr:
        try:
            svr = Svr(credentials, timeout=.2)
            svr.start()
        except Exception as e:
            print("no server here:", e, file=sys.stderr)
    elif svr.state().startswith("fail"):
        svr.stop(.1)
        svr = None

while cli.is_alive():
    states.add(cli.state())
    cli.endpoint.send_command_backchannel("ping", ("from main", 1))
    cli.join(.2)
if svr:
    svr.join(30)
    states.add(svr.state())
    print(sorted(results[0].items()))
states.add(cli.state())
print(sorted(states))
"""


def test_daemons_of_two_equal_scripts(commands):
    port = free_port()
    scripts = [start_script(commands, "daemon.py", DAEMON, port) for _ in range(2)]
    done = [commands.finish(script) for script in scripts]
    assert [ended.returncode for ended in done] == [0, 0], done
    (results,) = [line for ended in done for line in ended.stdout.splitlines() if line.startswith("[(")]
    assert results == str(sorted((word, 10 * n) for word, n in COUNTS.items()))
    assert all("'success'" in ended.stdout for ended in done), done
    assert commands.left_behind() == []


REPL = f"""
import os
import socket
import threading
import sys
import mmgevent.mincemeat as mincemeat
from queue import Queue

TEXTS = {{"humpty": {LINES!r}, "empty": []}}

def mapfn(name, line):
    number, at, command = name.partition("@")
    if at:
        yield from eval(command)(line)
    else:
        for word in line.split():
            yield word, 1

class Forever:
    def __iter__(self):
        n = 0
        while True:
            yield "%d@lambda corpus: [(socket.gethostname(), os.name)]" % n
            n += 1
    def __getitem__(self, key):
        return ""

class Svr(mincemeat.Server_HB):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inflight = {{}}
        self.loctxn = 1000

    def unrecognized_command(self, command, data=None, txn=None, chan=None):
        loctxn = str(self.loctxn)
        self.loctxn += 1
        if command == "transaction":
            datasource = {{"%s %d" % (data, i): line for i, line in enumerate(TEXTS[data])}}
            allocation = mincemeat.TaskManager.CONTINUOUS
        elif command == "stats":
            datasource, allocation = Forever(), mincemeat.TaskManager.ONESHOT
        else:
            return False
        self.inflight[loctxn] = command, txn, chan
        self.set_datasource(datasource=datasource, txn=loctxn, allocation=allocation,
                            cycle=mincemeat.TaskManager.PERMANENT)
        return True

    def resultfn(self, txn, results):
        command, txn, chan = self.inflight.pop(txn)
        chan.send_command(command + "done", data=results, txn=txn)

class Cli(mincemeat.Client_HB):
    answers = Queue()

    def unrecognized_command(self, command, data=None, txn=None):
        if command in ("transactiondone", "statsdone"):
            self.answers.put((txn, data))
            return True
        return False

class SvrDaemon(mincemeat.Server_HB_daemon):
    def stop(self):
        self.endpoint.taskmanager.defaults["cycle"] = mincemeat.TaskManager.SINGLEUSE
        self.endpoint.taskmanager.jump_start(count=1)
        return super().stop(60)

credentials = {{
    "password": {PASSWORD!r}, "interface": "localhost", "port": int(sys.argv[1]),
    "datasource": None, "cycle": mincemeat.TaskManager.PERMANENT,
    "mapfn": mapfn, "collectfn": None, "reducefn": None, "finishfn": None, "resultfn": None,
}}
svr = SvrDaemon(credentials, cls=Svr)
svr.start()
clients = [mincemeat.Client_HB_daemon(credentials, cls=Cli) for _ in range(2)]
for cli in clients:
    cli.start()
while len(svr.endpoint.taskmanager.channels) < 2:
    cli.join(.01)

for txn, (cli, command, data) in enumerate([
    (clients[0], "transaction", "humpty"), (clients[1], "transaction", "empty"), (clients[1], "stats", ""),
]):
    cli.endpoint.send_command_backchannel(command, data, txn=str(txn))
    came, results = cli.endpoint.answers.get(timeout=60)
    print(came, sorted((k, sum(v) if isinstance(v[0], int) else v) for k, v in results.items()))

svr.stop()
for cli in clients:
    cli.join(60)
print([thread.state() for thread in [svr] + clients])
"""


def test_clients_hand_in_jobs_and_get_the_results(commands):
    done = commands.finish(start_script(commands, "repl.py", REPL, free_port()))
    assert done.returncode == 0, done.stderr
    first, second, third, states = done.stdout.splitlines()
    assert first == f"0 {sorted(COUNTS.items())}"
    assert second == "1 []"
    assert third == f"2 [({socket.gethostname()!r}, ['posix', 'posix'])]"
    assert states == "['success', 'success', 'success']"
    assert commands.left_behind() == []


PATCHED = f"""
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import mmgevent.mincemeat as mincemeat

class Cli(mincemeat.Client):
    def mapfn(self, k, v):
        gevent.sleep(.01)
        yield k, v
        self.send_command("mapped", k)

class Svr(mincemeat.Server):
    mapped = []
    def unrecognized_command(self, command, data=None, txn=None, chan=None):
        self.mapped.append((command, data))
        return True

credentials = {{"password": {PASSWORD!r}, "interface": "localhost", "port": int(sys.argv[1])}}
svr = mincemeat.Server_daemon(credentials, cls=Svr)
svr.endpoint.datasource = {{n: n for n in range(5)}}
clients = [mincemeat.Client_daemon(credentials, cls=Cli) for _ in range(2)]
svr.endpoint.taskmanager.defaults["cycle"] = mincemeat.TaskManager.PERMANENT
for daemon in [svr] + clients:
    daemon.start()
with gevent.Timeout(60):
    while len(Svr.mapped) < 5 or not svr.endpoint.output:
        gevent.sleep(.01)
svr.endpoint.taskmanager.defaults["cycle"] = mincemeat.TaskManager.SINGLEUSE
for daemon in [svr] + clients:
    daemon.join(60)
print(svr.endpoint.results() == {{n: [n] for n in range(5)}}, sorted(Svr.mapped))
print([daemon.state() for daemon in [svr] + clients])
"""


def test_a_program_that_gevent_has_patched(commands):
    done = commands.finish(start_script(commands, "patched.py", PATCHED, free_port()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"True {[('mapped', n) for n in range(5)]}",
        "['success', 'success', 'success']",
    ]
    assert commands.left_behind() == []


def test_a_server_closes_while_its_datasource_waits():
    has_begun, may_go = threading.Event(), threading.Event()

    class Source(dict):
        def __iter__(self):
            yield 1
            has_begun.set()
            may_go.wait()

    server = mincemeat.Server()
    server.mapfn = lambda key, value: [(key, value)]
    server.reducefn = lambda key, values: values
    server.datasource = Source({1: 1})
    server.conn(password="long enough", port=0, interface="127.0.0.1", asynchronous=True)
    try:
        while not has_begun.is_set():
            assert server.process(timeout=0.01)
        began_s = time.monotonic()
        server.handle_close()
        assert server._wait_closed(5)
        assert time.monotonic() - began_s < 5
    finally:
        may_go.set()
        server.handle_close()
