"""A server as a process, and those who come to it, or in between, without being asked: plain sockets and threads."""

import contextlib
import hashlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time

from mmgevent.access.handshake import ClientHandshake, derive_key
from tests.integration.commands import ROOT

PASSWORD = "a password of the tests of trust"
KEY = derive_key(PASSWORD)

#: for what must happen, on the slowest machine
WAIT_S = 60.0


def wait_until(condition, what):
    """Look until it holds: what another process does has no event here.  Returns what the condition did."""
    until = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < until, f"it never came to hold: {what}"
        time.sleep(0.01)
    return found


class Server:
    """A real mmg-server with PASSWORD; what it says goes to a file, so that it never waits for a reader."""

    def __init__(self, folder, *options, environ=None):
        self._read_bytes = 0
        self._path = folder / f"server-{time.monotonic_ns()}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
        with open(self._path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmgevent", "server", "--listen", "127.0.0.1:0", *options],
                env={
                    **clean,
                    "HOME": str(folder),
                    "PYTHONPATH": str(ROOT),
                    "MMG_PASSWORD": PASSWORD,
                    **(environ or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        port = int(self.wait_for(r"listens on 127\.0\.0\.1:(\d+)")[1])
        self.address = ("127.0.0.1", port)
        self.where = f"127.0.0.1:{port}"

    @property
    def log(self):
        """What it said, since `forget`."""
        return self._path.read_bytes()[self._read_bytes :].decode()

    def forget(self):
        """Look at nothing that was said before: ports come again."""
        self._read_bytes = self._path.stat().st_size

    def wait_for(self, pattern):
        """Wait until the log has the pattern; return the match."""
        return wait_until(lambda: re.search(pattern, self.log), f"{pattern!r} in the server's log")

    def said_of(self, sock_name):
        """Wait until the server has said why it refused the connection from this address; return it."""
        host, port = sock_name
        return self.wait_for(rf"connection refused: {re.escape(host)}:{port}: (.*)")[1]

    def assert_serves(self):
        """It runs, and whoever knows the password gets in."""
        assert self.process.poll() is None, self.log
        with connect_tls(self.address) as sock:
            assert prove(sock), self.log

    def close(self):
        self.process.terminate()
        self.process.wait(WAIT_S)


def connect_plain(address, source="127.0.0.1"):
    sock = socket.create_connection(address, WAIT_S, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def client_context(protocols=("mmgevent/1",)):
    """A client that takes any certificate, as ours does without --tls-ca."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


def connect_tls(address, context=None, source="127.0.0.1"):
    return (context or client_context()).wrap_socket(connect_plain(address, source))


def client_machine(sock, key=KEY, role="worker"):
    return ClientHandshake(key, hashlib.sha256(sock.getpeercert(True)).digest(), role)


def receive(sock, n_bytes):
    """Return so many bytes, or those that came before the end."""
    data = b""
    while len(data) < n_bytes and (more := sock.recv(n_bytes - len(data))):
        data += more
    return data


def prove(sock, key=KEY, role="worker"):
    """Carry the handshake over a TLS socket; return whether both sides know the password."""
    machine = client_machine(sock, key, role)
    said = machine.start()
    while said or machine.needed:
        if said:
            sock.sendall(said)
        data = sock.recv(machine.needed)
        if not data:
            return False
        said = machine.feed(data)
    return machine.done


def read_to_end(sock):
    """Return all that comes until the other side closes the connection, in whatever way."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while more := sock.recv(65536):
            data += more
    return data


class Impostor:
    """Listens, and has `talk(sock)` with each who comes, in a thread."""

    def __init__(self, talk):
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.where = "{}:{}".format(*self.address)
        self._came = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(WAIT_S)
            self._came.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=[sock]))
            self._threads[-1].start()

    def _serve(self, sock):
        # that the other side leaves, even in the middle of TLS, is what these talks are for
        with contextlib.suppress(OSError), sock:
            self._talk(sock)

    def cut(self):
        """End the connections there are."""
        for sock in self._came:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Take no more; wait for the talks to end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def impostor_context(cert, key, protocols=("mmgevent/1",)):
    """A server's side of TLS with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def relay_to(address, change=lambda upwards, data: data):
    """Return a talk that passes bytes on, both ways, to and from the address."""

    def talk(front):
        with connect_plain(address) as back:
            _forward(front, back, change)

    return talk


def _forward(front, back, change):
    """Pass bytes both ways until both sides have ended; `change(upwards, data)` sees each piece on its way."""

    def pump(source, sink, upwards):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(change(upwards, data))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    upward = threading.Thread(target=pump, args=[front, back, True])
    upward.start()
    pump(back, front, False)
    upward.join(WAIT_S)
