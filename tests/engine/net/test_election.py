"""Who becomes the server: traps of addresses, then members of a cluster, sixty in the end."""

from __future__ import annotations

import collections
import contextlib
import errno
import gc
import http.server
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

import gevent
import pytest
from gevent import socket

from mmgevent.access.handshake import derive_key
from mmgevent.access.worker_key import server_key
from mmgevent.engine import membership, watchdog
from mmgevent.engine.member_settings import Settings
from mmgevent.engine.membership import Membership
from mmgevent.engine.net import election, tls
from mmgevent.engine.net.election import Elected, Joined, NoPlaceError, bind_or_connect, canonical
from mmgevent.engine.net.listener import Listener, open_listener
from mmgevent.engine.server.role import ServerRole
from mmgevent.engine.worker.forkers import Forkers
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    ListenError,
    PasswordError,
    VersionMismatchError,
)
from mmgevent.wire.messages import control
from tests.new_objects import only_new_objects
from tests.ports import free_port, reserved_port

KEY = derive_key("a password of the tests")
OTHER_KEY = derive_key("quite another password")
HOST = "127.0.0.1"
#: for what must happen: reached only when something is broken
LATE_S = 40.0


def live_greenlets():
    return {id(o) for o in gc.get_objects() if isinstance(o, gevent.Greenlet) and not o.dead}


@pytest.fixture(autouse=True)
def no_leaks():
    gevent.get_hub().threadpool.apply(id, (0,))  # its notifier opens descriptors at the first use
    descriptors = len(os.listdir("/proc/self/fd"))
    with only_new_objects():
        greenlets = live_greenlets()
        yield
        with gevent.Timeout(LATE_S, False):
            while live_greenlets() - greenlets or len(os.listdir("/proc/self/fd")) > descriptors:
                gevent.sleep(0.01)
                gc.collect()
        assert not live_greenlets() - greenlets
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture(autouse=True)
def short_contest(monkeypatch):
    monkeypatch.setattr(election, "CONTEST_S", 0.3)


def wait_until(is_so, what=""):
    with gevent.Timeout(LATE_S, AssertionError(f"did not happen: {what or is_so}")):
        while not is_so():
            gevent.sleep(0.005)


def take_place(*addresses, key=KEY, role="worker", may_serve=True, timeout=0.5):
    return bind_or_connect(addresses, key, role, may_serve=may_serve, timeout=timeout)


def is_listening(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def assert_elected(place, address):
    assert isinstance(place, Elected)
    assert place.address == address
    assert place.sock.getsockname()[:2] == address
    assert is_listening(place.sock)
    place.sock.close()


@pytest.fixture
def here():
    return HOST, free_port()


@pytest.fixture
def there():
    return HOST, free_port()


@contextlib.contextmanager
def listening(address, key=KEY):
    """A listener that holds on to whoever proves the password; yields [(link, role)]."""
    came = []
    place = take_place(address)
    listener = Listener(place.sock, key, lambda link, role: came.append((link, role)))
    try:
        yield came
    finally:
        listener.close()
        for link, _ in came:
            link.close()


@contextlib.contextmanager
def held(address, *, reuse=False, listens=False):
    """A socket of a stranger, who never answers."""
    with socket.socket() as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if listens:
            sock.listen()
        yield sock


# one address


def test_where_nobody_is_one_is_elected(here):
    assert_elected(take_place(here), here)


def test_who_has_a_worker_password_only_is_never_elected(here):
    worker_key = server_key(KEY).worker_key
    with pytest.raises(NoPlaceError, match="refused") as nobody:
        take_place(here, key=worker_key)
    assert not nobody.value.is_occupied
    with listening(here) as came:
        place = take_place(here, key=worker_key)
        assert isinstance(place, Joined)
        place.sock.close()
        wait_until(lambda: [role for _, role in came] == ["lender"])
        with pytest.raises(PasswordError, match="takes the main password"):
            take_place(here, key=worker_key, role="driver")


def test_where_a_server_is_one_joins_it_in_the_role_one_wants(here):
    with listening(here) as came:
        for role in ("worker", "driver"):
            place = take_place(here, role=role)
            assert isinstance(place, Joined)
            assert place.address == here
            wait_until(lambda role=role: came and came[-1][1] == role)
            place.sock.close()


def test_who_may_not_serve_is_not_elected(here):
    with pytest.raises(NoPlaceError, match=rf"{here[1]}.*refused") as caught:
        take_place(here, may_serve=False)
    assert not caught.value.is_occupied
    assert_elected(take_place(here), here)


def test_of_two_bound_sockets_the_one_that_listens_first_is_elected(here):
    with held(here, reuse=True) as stranger:
        place = take_place(here)
        with pytest.raises(OSError, match="in use") as caught:
            stranger.listen()
        assert caught.value.errno == errno.EADDRINUSE
        assert_elected(place, here)


def test_an_address_that_is_held_by_who_does_not_listen_is_occupied(here):
    with held(here):
        began = time.monotonic()
        with pytest.raises(NoPlaceError, match=f"{here[1]} and does not listen") as caught:
            take_place(here)
    assert caught.value.is_occupied
    assert time.monotonic() - began >= election.CONTEST_S  # it might have been about to listen


def test_who_only_seemed_to_take_an_address_is_waited_for(here, monkeypatch):
    monkeypatch.setattr(election, "CONTEST_S", LATE_S)
    with held(here) as stranger:
        gevent.spawn_later(0.1, stranger.close)
        assert_elected(take_place(here), here)


def test_who_was_about_to_listen_is_joined(here, monkeypatch):
    """Between `bind` and `listen` of the winner, others find the address taken and silent."""
    monkeypatch.setattr(election, "CONTEST_S", LATE_S)
    with held(here) as winner:
        came = []
        listener = None

        def listen():
            nonlocal listener
            winner.listen()
            listener = Listener(winner, KEY, lambda link, role: came.append(link))

        gevent.spawn_later(0.1, listen)
        place = take_place(here)
        assert isinstance(place, Joined)
        place.sock.close()
        listener.close()
        for link in came:
            link.close()


def test_a_silent_stranger_is_no_server(here):
    with held(here, listens=True):
        with pytest.raises(NoPlaceError, match=f"{here[1]} accepts but does not answer") as caught:
            take_place(here)
        assert caught.value.is_occupied


def test_a_stranger_that_hangs_up_is_no_server(here):
    with held(here, listens=True) as stranger:

        def hang_up():
            while True:
                stranger.accept()[0].close()

        greenlet = gevent.spawn(hang_up)
        with pytest.raises(NoPlaceError, match=f"{here[1]}") as caught:
            take_place(here)
        assert caught.value.is_occupied
        greenlet.kill()


def test_a_server_that_dies_during_the_handshake_is_succeeded(here, monkeypatch):
    monkeypatch.setattr(election, "CONTEST_S", LATE_S)
    with held(here, reuse=True, listens=True) as dying:

        def die():
            sock, _ = dying.accept()
            dying.close()
            sock.close()

        gevent.spawn(die)
        assert_elected(take_place(here, timeout=LATE_S), here)


def test_a_server_that_dies_in_the_middle_of_tls_is_succeeded(here, monkeypatch):
    """Its end is an EOF error in OpenSSL, and nothing at all in the kernel."""
    monkeypatch.setattr(election, "CONTEST_S", LATE_S)
    with held(here, reuse=True, listens=True) as dying:

        def die():
            sock, _ = dying.accept()
            dying.close()
            while b"mmgevent" not in sock.recv(65536):  # else the end would be a reset
                pass
            sock.close()

        gevent.spawn(die)
        assert_elected(take_place(here, timeout=LATE_S), here)


def test_a_foreign_service_is_no_server(here):
    service = http.server.ThreadingHTTPServer(here, http.server.BaseHTTPRequestHandler)
    service.RequestHandlerClass.log_message = lambda *_: None
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.raises(NoPlaceError, match=f"{here[1]} but it is not an mmgevent server") as caught:
            take_place(here, timeout=LATE_S)
        assert caught.value.is_occupied
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


def test_who_connects_to_himself_is_not_taken_for_a_server(monkeypatch):
    # In the range where the system takes ports for connections, a connect may get the very port that it
    # is for. Here the first one does. The port is held, since others might take a free one in between.
    connected_to_itself = []
    connect = tls.socket.create_connection

    def connect_from_there(address):
        if connected_to_itself:
            return connect(address)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as its holder has
        sock.bind(address)
        sock.connect(address)
        connected_to_itself.append(sock.getsockname() == sock.getpeername())
        return sock

    monkeypatch.setattr(tls.socket, "create_connection", connect_from_there)
    with reserved_port() as port:
        assert_elected(take_place((HOST, port), timeout=LATE_S), (HOST, port))
    assert connected_to_itself == [True]


def test_another_password_is_said_as_such(here):
    with listening(here, OTHER_KEY), pytest.raises(AuthenticationError, match=f"{here[1]}.*password"):
        take_place(here)


def test_an_address_of_another_machine_is_not_bound(here, monkeypatch):
    # Every address that a test may try is this machine's: what the system says of others is played.
    def refuse(host, port):
        cause = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        raise ListenError(f"cannot listen on {host}:{port}") from cause

    monkeypatch.setattr(election, "open_listener", refuse)
    with pytest.raises(
        NoPlaceError, match=f"no server at {HOST}:{here[1]}, which is another machine's"
    ) as no:
        take_place(here)
    assert not no.value.is_occupied


@pytest.mark.parametrize("name", ["two..dots", "x" * 64 + ".example"])
def test_a_name_that_cannot_be_found_is_said(name, there):
    with pytest.raises(NoPlaceError, match=f"cannot find {name}: .*label") as caught:
        take_place((name, 11235))
    assert not caught.value.is_occupied
    assert_elected(take_place((name, 11235), there), there)


def test_a_name_that_nobody_knows_is_said(monkeypatch):
    def know_nothing(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(election.socket, "getaddrinfo", know_nothing)
    with pytest.raises(NoPlaceError, match=r"cannot find nowhere\.invalid: Name or service not known"):
        take_place(("nowhere.invalid", 11235))


# names


def test_localhost_is_its_ipv4_address():
    assert canonical(("localhost", 11235)) == (HOST, 11235)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_a_numeric_address_is_taken_as_written(host):
    assert canonical((host, 11235)) == (host, 11235)


def let_resolve(monkeypatch, *addresses):
    """Let every name have these addresses. No real name has several on every machine."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, port, *_, **__):
        numeric = addresses if host.isalpha() else (host,)
        return [found for one in numeric for found in resolve(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("name", "addresses", "taken"),
    [
        ("several", ["10.0.0.20", "10.0.0.3", "10.0.0.100"], "10.0.0.3"),
        ("several", ["10.0.0.100", "10.0.0.3", "10.0.0.20"], "10.0.0.3"),
        ("both", ["2001:db8::1", "10.0.0.3"], "10.0.0.3"),
        ("own", ["127.0.1.1", "192.168.1.5"], "192.168.1.5"),
        ("own", ["127.0.1.1", "2001:db8::2"], "2001:db8::2"),
        ("own", ["127.0.1.1", "fe80::2"], "127.0.1.1"),
        ("own", ["::1", "127.0.1.1", "127.0.0.1"], "127.0.0.1"),
        ("six", ["2001:db8::2", "2001:db8::1", "::1"], "2001:db8::1"),
        ("localhost", ["::1", "127.0.0.1", "10.0.0.3"], "127.0.0.1"),
        ("localhost", ["::1"], "::1"),
    ],
)
def test_of_the_addresses_of_a_name_everybody_takes_the_same(monkeypatch, name, addresses, taken):
    let_resolve(monkeypatch, *addresses)
    assert canonical((name, 80)) == (taken, 80)


def test_a_server_listens_where_nodes_look_for_the_name(monkeypatch, here):
    let_resolve(monkeypatch, "127.0.0.3", "127.0.0.2")
    with contextlib.closing(open_listener("own", here[1])) as sock:
        assert sock.getsockname() == canonical(("own", here[1])) == ("127.0.0.2", here[1])


def test_who_is_elected_where_only_its_machine_can_reach_it_says_so(members, here, monkeypatch, caplog):
    let_resolve(monkeypatch, "127.0.0.1")
    member = members.add(("own", here[1]))
    wait_until(is_in(member, "server"))
    assert (
        "own is 127.0.0.1 here, which only this machine can reach; write its address instead" in caplog.text
    )
    for local in ("localhost", HOST):
        caplog.clear()
        other = members.add((local, free_port()))
        wait_until(is_in(other, "server"))
        assert "reach" not in caplog.text


def test_localhost_and_its_address_do_not_elect_two(here):
    place = take_place(("localhost", here[1]))
    assert isinstance(place, Elected)
    assert place.sock.getsockname() == here
    listener = Listener(place.sock, KEY, lambda link, role: link.close())
    joined = take_place(here)
    assert isinstance(joined, Joined)
    joined.sock.close()
    listener.close()


def test_an_ipv6_address_can_be_had():
    try:
        here = ("::1", free_port("::1"))
    except AssertionError:
        pytest.skip("this machine has no IPv6")
    with listening(here):
        place = take_place(here)
        assert isinstance(place, Joined)
        place.sock.close()


# several addresses


@pytest.mark.parametrize("listens", [False, True], ids=["bound", "silent"])
def test_behind_an_occupied_address_the_next_one_is_taken(here, there, listens):
    with held(here, listens=listens):
        assert_elected(take_place(here, there), there)


def test_every_address_is_named_when_none_has_a_place(here, there):
    with held(here), held(there, listens=True), pytest.raises(NoPlaceError) as caught:
        take_place(here, there)
    assert f"{here[1]} and does not listen" in str(caught.value)
    assert f"{there[1]} accepts but does not answer" in str(caught.value)


def test_an_address_that_is_free_comes_before_a_server_on_a_later_one(here, there):
    with listening(there):
        assert_elected(take_place(here, there), here)


def test_who_may_not_serve_goes_on_to_the_server_on_a_later_address(here, there):
    with listening(there):
        place = take_place(here, there, may_serve=False)
        assert isinstance(place, Joined)
        assert place.address == there
        place.sock.close()


def test_a_refused_password_counts_only_where_every_address_refuses_it(here, there):
    with listening(here, OTHER_KEY):
        assert_elected(take_place(here, there), there)
        with pytest.raises(NoPlaceError, match=rf"{here[1]}.*password.*; .*{there[1]}.*refused") as caught:
            take_place(here, there, may_serve=False)
        assert caught.value.is_occupied
        with listening(there, OTHER_KEY), pytest.raises(AuthenticationError, match=f"{here[1]}.*password"):
            take_place(here, there)


@contextlib.contextmanager
def serving(address, key=KEY):
    """A server without workers, in this process. Yields its listener."""
    server = ServerRole("test", memory_bytes=1 << 20)
    listener = Listener(take_place(address).sock, key, server.attach)
    try:
        yield listener
    finally:
        listener.close()
        server.stop("the test is over")


def test_a_server_is_found_unless_it_is_oneself(here, there):
    with serving(there) as listener:
        assert election.find_server([here, there], KEY, b"", 5.0) == there
        assert election.find_server([here, there], KEY, listener.digest, 5.0) is None
        assert election.find_server([here, there], OTHER_KEY, b"", 5.0) is None
        assert election.find_server([("two..dots", 1), here], KEY, b"", 5.0) is None


def test_who_proves_the_password_and_says_no_hello_is_no_server_found(here, there):
    with listening(here) as came, serving(there):
        assert election.find_server([here, there], KEY, b"", 0.5) == there
        assert len(came) == 1


#: A server with another Python version at PORT. It prints "listens", and "refused" at each refusal.
OTHER_VERSION = """
import logging, sys
import mmgevent.wire.hello
mmgevent.wire.hello.PYTHON_VERSION = "3.99"
import gevent
from mmgevent.engine.net.listener import Listener, open_listener
from mmgevent.engine.server.role import ServerRole
from mmgevent.access.handshake import derive_key
from mmgevent.wire.messages import control

logging.basicConfig(stream=sys.stdout, format="%(message)s")
server = ServerRole("strange", memory_bytes=1 << 20)
listener = Listener(open_listener("127.0.0.1", int(sys.argv[1])), derive_key("a password of the tests"), server.attach)
print("listens", flush=True)
gevent.sleep(1000)
"""


@contextlib.contextmanager
def another_version(address):
    """A server of another Python version. Yields a function that waits for its next refusal."""
    command = [sys.executable, "-c", OTHER_VERSION, str(address[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:

        def wait_for(word):
            while word not in (line := read_line()):
                assert line, f"it ended before it said {word}"

        def read_line():
            with gevent.Timeout(LATE_S):
                socket.wait_read(process.stdout.fileno())
            return process.stdout.readline().decode()

        try:
            wait_for("listens")
            yield lambda: wait_for("refused:")
        finally:
            process.kill()


def test_a_server_of_another_version_is_no_server_found(here, there):
    with another_version(here), serving(there):
        assert election.find_server([here, there], KEY, b"", LATE_S) == there
        assert election.find_server([here], KEY, b"", LATE_S) is None


# members


class Members:
    """Members of one cluster, all in this process, and the states of each."""

    def __init__(self):
        self._members = []
        self.changes = {}

    def add(self, *addresses, key=KEY, procs=1, **settings):
        forkers = Forkers(None)
        told = Settings(
            addresses,
            key,
            procs=procs,
            forkers=forkers,
            memory_bytes=1 << 20,
            scratch="/tmp",
            **{"timeout": 0.5, **settings},
        )
        changes = []

        def on_change(member):
            changes.append((member.state, member.address))
            if member.presence is not None:  # as the engine's driver does, to notice its end
                member.presence.start(lambda frame: None, member.lose)

        member = Membership(told, on_change)
        self.changes[member] = changes
        self._members.append(member)
        member.start()
        return member

    def close(self):
        gevent.joinall([gevent.spawn(member.stop, "the test is over") for member in self._members])


@pytest.fixture
def members(monkeypatch):
    monkeypatch.setattr(watchdog, "start_watchdog", lambda: None)  # it would never end
    monkeypatch.setattr(membership, "EARLIER_S", 0.05)
    made = Members()
    yield made
    made.close()


def is_in(member, state):
    return lambda: member.state == state


def test_the_first_is_the_server_and_the_next_its_workers(members, here):
    first = members.add(here)
    wait_until(is_in(first, "server"))
    others = [members.add(here, procs=procs) for procs in (1, 1, 0)]
    for other in others:
        wait_until(is_in(other, "worker"))
        assert other.address == here
        assert members.changes[other] == [("worker", here)]
    assert members.changes[first] == [("server", here)]


def test_all_at_once_make_one_server(members, here, monkeypatch):
    monkeypatch.setattr(election, "CONTEST_S", 3.0)
    all_ = [members.add(here, timeout=LATE_S) for _ in range(15)]
    wait_until(lambda: all(m.state in ("server", "worker") for m in all_))
    assert sorted(m.state for m in all_) == ["server"] + ["worker"] * 14


def test_a_server_that_leaves_is_succeeded(members, here):
    all_ = [members.add(here, timeout=LATE_S) for _ in range(4)]
    while all_:
        wait_until(lambda: sorted(m.state for m in all_) == ["server"] + ["worker"] * (len(all_) - 1))
        server = next(m for m in all_ if m.state == "server")
        all_.remove(server)
        server.stop("it leaves")
        assert server.state == "closed"
        assert server.address is None


def test_who_has_no_executors_notices_that_the_server_left(members, here):
    server = members.add(here)
    wait_until(is_in(server, "server"))
    other = members.add(here, procs=0)
    wait_until(is_in(other, "worker"))
    server.stop("it leaves")
    wait_until(is_in(other, "server"))
    assert [state for state, _ in members.changes[other]] == ["worker", "connecting", "server"]


def test_an_occupied_address_is_said_and_taken_once_it_is_free(members, here):
    with held(here, listens=True):
        member = members.add(here)
        wait_until(is_in(member, "occupied"))
        assert f"{here[1]} accepts but does not answer" in member.reason
        assert member.address is None
        with pytest.raises(ConnectError, match="does not answer"):
            member.open_link()
    wait_until(is_in(member, "server"))
    assert member.reason == ""


def test_a_member_stops_at_once_whatever_it_is_doing(members, here):
    with held(here, listens=True):
        member = members.add(here, timeout=1000.0)
        gevent.sleep(0.05)
        with gevent.Timeout(LATE_S):
            member.stop("enough")
        assert (member.state, member.reason) == ("closed", "enough")
        member.stop("again")
        assert member.reason == "enough"
        assert members.changes[member] == [("closed", None)]


@pytest.fixture
def no_folder(monkeypatch, tmp_path):
    """There is no folder for temporary files. Yields a function that makes it again."""
    folder = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delattr(os, "memfd_create")  # files in memory need no folder
    return folder.mkdir


def test_who_cannot_be_the_server_now_leaves_the_address_to_others_and_tries_again(members, here, no_folder):
    member = members.add(here)
    wait_until(lambda: "gone" in member.reason)
    assert f"cannot be the server at {HOST}:{here[1]} now" in member.reason
    assert member.state == "connecting"
    with contextlib.closing(open_listener(*here)):  # it does not hold on to it
        pass
    no_folder()
    wait_until(is_in(member, "server"))
    assert member.error is None


def test_who_stays_for_once_and_cannot_be_the_server_closes(members, here, no_folder):
    member = members.add(here, once=True)
    wait_until(is_in(member, "closed"))
    assert isinstance(member.error, ConnectError)
    assert "cannot be the server" in member.reason


def test_a_wrong_password_closes_a_member(members, here):
    server = members.add(here)
    wait_until(is_in(server, "server"))
    other = members.add(here, key=OTHER_KEY)
    wait_until(is_in(other, "closed"))
    assert isinstance(other.error, AuthenticationError)
    assert "password" in other.reason
    assert server.state == "server"


@pytest.mark.parametrize("procs", [0, 1])
def test_another_version_everywhere_closes_who_never_had_a_place(members, here, procs):
    with another_version(here):
        member = members.add(here, procs=procs, timeout=LATE_S)
        wait_until(is_in(member, "closed"))
    assert isinstance(member.error, VersionMismatchError)
    assert "3.99" in member.reason
    assert [state for state, _ in members.changes[member]] == ["closed"]


@pytest.mark.parametrize("procs", [0, 1])
@pytest.mark.parametrize("once", [False, True])
def test_behind_a_server_of_another_version_the_next_address_is_taken(members, here, there, procs, once):
    with another_version(here):
        first = members.add(here, there, procs=procs, once=once, timeout=LATE_S)
        wait_until(is_in(first, "server"))
        assert first.address == there
        other = members.add(here, there, procs=procs, once=once, timeout=LATE_S)
        wait_until(is_in(other, "worker"))
        assert members.changes[other] == [("worker", there)]


def reset(sock):
    """Close a connection as a crash does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for_reset(sock):
    """Return once the peer's reset has arrived, so that a read or a write would fail."""
    poller = select.poll()
    poller.register(sock.fileno(), 0)
    wait_until(lambda: poller.poll(0), "a reset")


@contextlib.contextmanager
def greeting(address, *greet):
    """A server that calls greet[n](sock) for its n-th peer, and serves later ones. Yields their roles."""
    server = ServerRole("test", memory_bytes=1 << 20)
    came = []

    def attach(link, role):
        came.append(role)
        if len(came) > len(greet):
            server.attach(link, role)
        else:
            gevent.spawn(greet[len(came) - 1], link._sock).join()

    listener = Listener(take_place(address).sock, KEY, attach)
    try:
        yield came
    finally:
        listener.close()
        server.stop("the test is over")


def refuse(code):
    def say(sock):
        sock.sendall(control("refused", code=code, error=f"no: {code}").encode())
        reset(sock)

    return say


def say_goodbye(sock):
    sock.sendall(control("goodbye", reason="it leaves").encode())
    sock.close()


def read_and_reset(sock):
    sock.recv(1)
    reset(sock)


def hang_up(sock):
    sock.recv(65536)
    sock.close()


CHANCES = [reset, read_and_reset, hang_up, say_goodbye]


@pytest.mark.parametrize(
    ("code", "error"), [("version", VersionMismatchError), ("busy", ConnectError), ("full", ConnectError)]
)
def test_a_refusal_is_heard_though_the_server_did_not_wait_for_our_hello(here, code, error):
    with greeting(here, refuse(code)):
        sock = tls.connect(here, KEY, "driver", LATE_S)
        wait_for_reset(sock)
        with contextlib.closing(sock), pytest.raises(error, match=f"{here[1]}: no: {code}"):
            election.greet(sock, here, LATE_S)


@pytest.mark.parametrize("procs", [0, 1])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("chance", CHANCES)
def test_a_server_that_is_lost_by_chance_before_its_hello_is_joined_again(
    members, here, there, chance, procs, once
):
    with greeting(here, chance, chance) as came:
        member = members.add(here, there, procs=procs, once=once, timeout=LATE_S)
        wait_until(lambda: member.state != "connecting", "a place")
        assert members.changes[member] == [("worker", here)]
        assert len(came) == 3
        members.close()


@pytest.mark.parametrize("procs", [0, 1])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("chance", [*CHANCES, refuse("busy")])
def test_behind_a_server_that_takes_nobody_the_next_address_is_taken(
    members, here, there, chance, procs, once
):
    with greeting(here, *[chance] * 1000):
        member = members.add(here, there, procs=procs, once=once, timeout=LATE_S)
        wait_until(is_in(member, "server"))
        assert members.changes[member] == [("server", there)]
        members.close()


@pytest.mark.parametrize("procs", [0, 1])
def test_who_stays_in_one_place_only_says_how_it_lost_the_only_one_there_was(members, here, procs):
    with greeting(here, *[read_and_reset] * 1000):
        member = members.add(here, procs=procs, once=True, timeout=LATE_S)
        wait_until(is_in(member, "closed"))
    assert isinstance(member.error, ConnectError)
    assert re.search(rf"{here[1]} .*before its hello", member.reason)


@pytest.mark.parametrize("procs", [0, 1])
def test_a_server_of_another_version_is_named_beside_one_that_is_lost(members, here, there, procs):
    with greeting(here, *[read_and_reset] * 1000), greeting(there, *[refuse("version")] * 1000):
        member = members.add(here, there, procs=procs, timeout=LATE_S)
        wait_until(is_in(member, "closed"))
    assert isinstance(member.error, VersionMismatchError)
    assert re.search(rf"{here[1]} .*before its hello", member.reason)
    assert f"{there[1]}: no: version" in member.reason


def test_a_server_of_another_version_on_an_earlier_address_moves_nobody(members, here, there):
    with held(here, listens=True):
        server = members.add(here, there)
        wait_until(is_in(server, "server"))
        worker = members.add(there)
        wait_until(is_in(worker, "worker"))
    with another_version(here) as wait_for_refusal:
        for _ in range(3):
            wait_for_refusal()
    assert members.changes[server] == [("server", there)]
    assert members.changes[worker] == [("worker", there)]


@pytest.mark.parametrize("procs", [0, 1])
@pytest.mark.parametrize(
    ("stranger", "text"),
    [(another_version, "3.99"), (lambda address: listening(address, OTHER_KEY), "password")],
    ids=["version", "password"],
)
def test_who_had_a_place_outlasts_strangers_in_it(members, here, stranger, text, procs):
    first = members.add(here)
    wait_until(is_in(first, "server"))
    member = members.add(here, procs=procs, may_serve=False, timeout=LATE_S)
    wait_until(is_in(member, "worker"))
    first.stop("it leaves")
    with stranger(here):
        wait_until(lambda: text in member.reason)
        assert member.state == "occupied"
    second = members.add(here)
    wait_until(is_in(second, "server"))
    wait_until(is_in(member, "worker"))
    assert member.error is None


def test_who_stays_in_one_place_only_closes_when_there_is_none(members, here):
    member = members.add(here, once=True, may_serve=False)
    wait_until(is_in(member, "closed"))
    assert isinstance(member.error, ConnectError)
    assert str(here[1]) in member.reason


@pytest.mark.parametrize("procs", [0, 1])
def test_who_stays_in_one_place_only_closes_when_it_is_gone(members, here, procs):
    server = members.add(here)
    wait_until(is_in(server, "server"))
    member = members.add(here, once=True, procs=procs)
    wait_until(is_in(member, "worker"))
    server.stop("it leaves")
    wait_until(is_in(member, "closed"))
    assert member.error is None
    assert [state for state, _ in members.changes[member]] == ["worker", "closed"]


def test_a_name_that_cannot_be_found_closes_nobody(members):
    member = members.add(("two..dots", 11235))
    wait_until(lambda: "cannot find" in member.reason)
    assert member.state == "connecting"


def break_accept(monkeypatch):
    """End every listener of this process by a fault."""

    def accept(self):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(socket.socket, "accept", accept)


def break_looks(monkeypatch):
    def find_server(*_):
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(election, "find_server", find_server)


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (break_accept, "accepts no connections any more: OSError"),
        (break_looks, "ZeroDivisionError: of the test"),
    ],
)
def test_a_server_that_lost_a_part_of_itself_gives_its_place_up(
    members, here, there, monkeypatch, caplog, break_it, text
):
    monkeypatch.setattr(membership, "EARLIER_S", 0.01)
    with held(here, listens=True):
        server = members.add(here, there)
        wait_until(is_in(server, "server"))
        with monkeypatch.context() as patch:
            break_it(patch)
            with contextlib.suppress(ConnectError):  # the accept that waits is the last one
                tls.connect(there, KEY, "driver", 0.1).close()
            wait_until(lambda: text in caplog.text)
        states = members.changes[server]
        wait_until(lambda: states[-1] == ("server", there) and states.count(("server", there)) > 1)


def test_a_server_on_a_later_address_gives_way_to_one_on_an_earlier(members, here, there):
    with held(here, listens=True):
        later = members.add(here, there)
        wait_until(is_in(later, "server"))
        assert later.address == there
        worker = members.add(there)
        wait_until(is_in(worker, "worker"))
    earlier = members.add(here)
    wait_until(is_in(earlier, "server"))
    wait_until(lambda: later.state == "worker" and later.address == here)
    wait_until(is_in(worker, "server"))  # it knows no other address
    states = [state for state, _ in members.changes[later]]
    assert states[states.index("server") :] == ["server", "connecting", "worker"]


def test_a_server_does_not_give_way_to_itself(members, here, monkeypatch):
    """Its first candidate is a name of its own address that cannot be found at first."""
    looked_up = []

    def look_up(address):
        if address == here:
            return here
        looked_up.append(address)
        if len(looked_up) == 1:
            raise ConnectError("cannot find late")
        return here

    monkeypatch.setattr(election, "canonical", look_up)
    member = members.add(("late", here[1]), here)
    wait_until(lambda: len(looked_up) >= 4)
    assert members.changes[member] == [("server", here)]


# many processes

#: N processes that are members of the cluster at PORT from the same moment on; each says "PID STATE" at every
#: change. They are forks of one that has imported all, which is why sixty take no longer than one.
CROWD = """
import os, signal, sys
from mmgevent.engine import membership
from mmgevent.engine.net import election, listener
from mmgevent.engine.worker import forkers
from mmgevent.access.handshake import derive_key
from mmgevent.wire.messages import control

count, port = map(int, sys.argv[1:])
key = derive_key("a password of the tests")
reader, writer = os.pipe()

def be_member():
    os.close(writer)
    os.read(reader, 1)  # all begin when the last one is here
    member = membership.Membership(
        membership.Settings(
            [("127.0.0.1", port)], key, procs=1, forkers=forkers.Forkers(None), memory_bytes=1 << 20,
            scratch="/tmp", timeout=60.0,
        ),
        lambda member: os.write(1, f"{os.getpid()} {member.state}\\n".encode()),
    )
    member.run()

for _ in range(count):
    if not os.fork():
        be_member()
        os._exit(1)
os.close(reader)
os.close(writer)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


class Crowd:
    """Members in processes of their own, and what each has said since the last kill."""

    def __init__(self, count, port):
        self.states = {}  # of those that live
        self.elected = []  # pids, in order
        self._count = count
        self._killed = set()
        self._said = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", CROWD, str(count), str(port)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def settle(self):
        """Read until one is the server and all others are its workers. Return its pid."""
        until = time.monotonic() + LATE_S
        wanted = collections.Counter(worker=self._count - 1, server=1)
        while collections.Counter(self.states.values()) != wanted:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, until - time.monotonic()))
            assert ready, f"not settled: {collections.Counter(self.states.values())}"
            self._read()
        return next(pid for pid, state in self.states.items() if state == "server")

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self._killed.add(pid)
        self._count -= 1
        self.states.clear()  # all have to find a place anew

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdout.close()
        self._process.wait()

    def _read(self):
        data = os.read(self._process.stdout.fileno(), 65536)
        assert data, "all of them ended"
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            pid, state = line.decode().split()
            if int(pid) not in self._killed:
                self.states[int(pid)] = state
            if state == "server":
                self.elected.append(int(pid))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("members", "kills"), [(8, 2), pytest.param(60, 20, marks=pytest.mark.long)])
def test_as_many_as_come_at_once_elect_one_and_another_after_each_kill(here, members, kills):
    servers = []
    with contextlib.closing(Crowd(members, here[1])) as crowd:
        for _ in range(kills + 1):
            servers.append(crowd.settle())
            assert crowd.elected == servers, "more than one was elected"
            if len(servers) <= kills:
                crowd.kill(servers[-1])
    assert len(set(servers)) == kills + 1
