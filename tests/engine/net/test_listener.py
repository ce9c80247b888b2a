"""The listener over loopback: strangers cannot keep those who know the password out."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from mmgevent.access.handshake import derive_key
from mmgevent.engine.net import listener as listener_module
from mmgevent.engine.net import tls
from mmgevent.engine.net.listener import MAX_HANDSHAKES, Listener, open_listener

KEY = derive_key("a password of the tests")

#: for what must happen, on the slowest machine
WAIT_S = 20.0

#: the beginning of a TLS record with a client's hello; the rest never comes
HALF_HELLO = bytes.fromhex("1603010200010001fc0303")


class House:
    """A listener, the peers that got in, and the sockets of strangers."""

    def __init__(self) -> None:
        self.came_in = Event()
        self.links = []
        self.strangers = []
        self.listener = Listener(open_listener("127.0.0.1", 0), KEY, self.attach)

    def attach(self, link, role):
        self.links.append((link, role))
        self.came_in.set()

    def let_in_strangers(self, count, say=b""):
        for _ in range(count):
            stranger = socket.create_connection(self.listener.address)
            self.strangers.append(stranger)
            if say:
                stranger.sendall(say)

    def connect(self):
        """Connect with the right password."""
        client = tls.connect(self.listener.address, KEY, "worker", timeout=WAIT_S)
        assert self.came_in.wait(WAIT_S)
        client.close()

    def close(self):
        self.listener.close()
        for stranger in self.strangers:
            stranger.close()
        for link, _ in self.links:
            link.close("the test is over")


@pytest.fixture
def house():
    house = House()
    yield house
    house.close()


def test_silent_strangers_keep_nobody_out(house, monkeypatch):
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 2 * WAIT_S)  # nobody gets in when it ends
    house.let_in_strangers(200)
    house.connect()
    assert house.links[0][1] == "worker"


def test_strangers_who_stop_in_the_middle_keep_nobody_out(house, monkeypatch):
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 2 * WAIT_S)
    monkeypatch.setattr(listener_module, "MIN_HANDSHAKE_S", 0.2)
    house.let_in_strangers(3 * MAX_HANDSHAKES, HALF_HELLO)
    house.connect()


def test_who_stops_in_the_middle_is_left_alone_while_nobody_waits(house, monkeypatch):
    monkeypatch.setattr(listener_module, "MIN_HANDSHAKE_S", 0.0)
    house.let_in_strangers(MAX_HANDSHAKES - 1, HALF_HELLO)
    house.connect()
    for stranger in house.strangers:
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)


@pytest.mark.parametrize("say", [b"", HALF_HELLO], ids=["silent", "half a hello"])
def test_the_deadline_of_a_stranger_begins_when_it_comes(house, monkeypatch, caplog, say):
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 0.5)
    monkeypatch.setattr(listener_module, "MAX_HANDSHAKES", 1)
    house.let_in_strangers(20, say)
    began = time.monotonic()
    for stranger in house.strangers:
        stranger.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):  # it was closed with what it said unread
            assert stranger.recv(1) == b""
    assert time.monotonic() - began < 20 * 0.5 / 2  # one after another it would be 10 s
    assert "did not finish the handshake in 0.5 s" in caplog.text


def test_the_longest_silent_makes_room_when_there_are_too_many(house, monkeypatch):
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 2 * WAIT_S)  # that is not what ends it
    monkeypatch.setattr(listener_module, "MAX_UNPROVED", 3)
    house.let_in_strangers(4)
    house.strangers[0].settimeout(WAIT_S)
    assert house.strangers[0].recv(1) == b""
    house.connect()


class Flaky:
    """A listening socket whose first calls of `accept` fail."""

    def __init__(self, sock, errors):
        self._sock = sock
        self._errors = errors

    def accept(self):
        if self._errors:
            code = self._errors.pop()
            raise OSError(code, os.strerror(code))
        return self._sock.accept()

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_whatever_accept_says_the_port_stays_open(monkeypatch, caplog):
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.01)
    codes = [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EMFILE]
    came_in = Event()
    sock = Flaky(open_listener("127.0.0.1", 0), list(codes))
    listener = Listener(sock, KEY, lambda link, role: (link.close("enough"), came_in.set()))
    gevent.sleep(0)
    client = tls.connect(listener.address, KEY, "driver", timeout=WAIT_S)
    assert came_in.wait(WAIT_S)
    for code in codes:
        assert f"cannot accept now: {os.strerror(code)}" in caplog.text
    client.close()
    listener.close()
    assert not listener._unproved


def test_a_listener_that_accepts_no_more_says_so(caplog):
    lost = []
    sock = Flaky(open_listener("127.0.0.1", 0), [errno.EBADF])
    listener = Listener(sock, KEY, lambda link, role: None, on_lost=lost.append)
    with gevent.Timeout(WAIT_S):
        while not lost:
            gevent.sleep(0.005)
    listener.close()
    assert lost == ["the server accepts no connections any more: OSError: [Errno 9] Bad file descriptor"]
    assert lost[0] in caplog.text


def test_a_listener_that_is_closed_is_not_lost():
    lost = []
    listener = Listener(open_listener("127.0.0.1", 0), KEY, lambda link, role: None, on_lost=lost.append)
    gevent.sleep(0)
    listener.close()
    gevent.sleep(0.01)
    assert not lost


def test_the_watchdog_is_started_once_a_process():
    program = (
        "import threading, gevent; from mmgevent.engine.watchdog import start_watchdog\n"
        "for _ in range(3): start_watchdog(); gevent.sleep(0)\n"
        "print([t.name for t in threading.enumerate()].count('mmgevent-watchdog'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert ended.stdout == "1\n"
