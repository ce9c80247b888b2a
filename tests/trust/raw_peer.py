"""Peers of a real server that have proved the password and then send whatever they like, and the processes around them.

A `RawPeer` is a blocking TLS socket: what it sends is what a test says, byte by byte. Processes write their stderr to
a file, which may grow, so that nothing they log can hold them up.
"""

import contextlib
import hashlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

import mmgevent as mmg
from mmgevent.access.handshake import ClientHandshake, derive_key
from mmgevent.tasks import records
from mmgevent.wire.frames import BATCH, CODE, CONTROL, HEARTBEAT, INPUT, OUTPUT, RESULT, Decoder, Frame
from mmgevent.wire.frames import split_payload as cut
from mmgevent.wire.hello import PYTHON_VERSION, dill_version
from mmgevent.wire.lanes import grant_frame
from mmgevent.wire.messages import PROTOCOL, control, decode_message

PASSWORD = "a password for these tests only"
PATIENCE_S = 40.0  #: for what comes at once on an idle machine
BEAT_S = 1.0  #: between heartbeats of a peer that only stays


def wait_until(condition, what="it", timeout_s=PATIENCE_S):
    """Look until it holds, and return what it gave: what another process does has no event here."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} never came to hold"
        time.sleep(0.01)
    return found


def client_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["mmgevent/1"])
    return context


def hello_of(role, **fields):
    about = {"python": PYTHON_VERSION, "dill": dill_version(), "version": "raw", "host": "raw", "pid": 1}
    return control("hello", role=role, protocol=PROTOCOL, **about, **fields)


class RawPeer:
    """One connection, from the proof of the password on; `role` is "worker" or "driver"."""

    def __init__(self, address, role, *, slots=1, says_hello=True, receive_bytes=None):
        """`receive_bytes`: of the kernel's receive buffer, for one that does not read."""
        self.role = role
        raw = socket.socket()
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.settimeout(PATIENCE_S)
        raw.connect(address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = client_context().wrap_socket(raw)
        self._prove()
        self._decoder = Decoder()
        self._sending = threading.Lock()
        self._left = threading.Event()
        self._stayer = None
        if says_hello:
            fields = {"slots": slots} if role == "worker" else {}
            self.send(hello_of(role, **fields))

    def _prove(self):
        digest = hashlib.sha256(self.sock.getpeercert(True)).digest()
        machine = ClientHandshake(derive_key(PASSWORD), digest, self.role)
        self.sock.sendall(machine.start())
        while machine.needed:
            data = self.sock.recv(machine.needed)
            assert data, "the server closed during the handshake"
            if answer := machine.feed(data):
                self.sock.sendall(answer)
        assert machine.error is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()

    # sending

    def send_bytes(self, data):
        """Send, as far as the server lets us: it may have cut us off, which reading tells."""
        with self._sending, contextlib.suppress(ConnectionError, ssl.SSLError):
            self.sock.sendall(data)

    def send(self, *frames):
        self.send_bytes(b"".join(frame.encode() for frame in frames))

    def say(self, type, job=0, task=0, attempt=0, **fields):
        self.send(control(type, job, task, attempt, **fields))

    def stay(self):
        """Send heartbeats from now on, so that the silence of this peer is no reason to cut it; never read."""
        self._stayer = threading.Thread(target=self._beat, daemon=True)
        self._stayer.start()

    def _beat(self):
        with contextlib.suppress(OSError):  # it was closed
            while not self._left.wait(BEAT_S):
                self.send(Frame(HEARTBEAT))

    # receiving

    def next_frame(self):
        """Return the next frame; None at the end of the connection, however it came."""
        while (frame := self._decoder.next_frame()) is None:
            try:
                data = self.sock.recv(256 * 1024)
            except TimeoutError:
                raise AssertionError(f"nothing came in {PATIENCE_S} s") from None
            except OSError:  # a reset, or the end of TLS without a farewell
                return None
            if not data:
                return None
            self._decoder.feed(data)
        return frame

    def messages(self, *types):
        """Yield (frame, message) of the control messages of these types, until the connection ends."""
        while (frame := self.next_frame()) is not None:
            if frame.kind == CONTROL:
                message = decode_message(frame.payload)
                if message["type"] in types:
                    yield frame, message

    def wait_for(self, *types):
        """Return (frame, message) of the next message of one of these types."""
        found = next(self.messages(*types), None)
        assert found is not None, f"the connection ended before any of {types} came"
        return found

    def wait_closed(self):
        """Read on until the server has closed the connection."""
        while self.next_frame() is not None:
            pass

    # leaving

    def leave(self):
        self._left.set()
        self.sock.close()
        if self._stayer is not None:
            self._stayer.join(PATIENCE_S)

    def reset(self):
        """Close with a RST, as a process does that dies with data unread."""
        self._left.set()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class RawWorker(RawPeer):
    """A worker that takes attempts and reports on them as it likes."""

    def __init__(self, address, *, slots=1, **options):
        super().__init__(address, "worker", slots=slots, **options)

    def take(self, phase="map"):
        """Return (frame, message) of the next `assign` of this phase; those of others are given back."""
        for frame, message in self.messages("assign"):
            if message["phase"] == phase:
                return frame, message
            self.say("returned", *frame.lane)
        raise AssertionError(f"the connection ended before an attempt to {phase} came")

    def read_input(self, assign):
        """Return the bytes of an attempt's input, granting as they come."""
        frame, message = assign
        data = message.get("inline", b"")
        while len(data) < message["size"]:
            got = self.next_frame()
            assert got is not None, "the connection ended in the middle of the input"
            if got.kind == INPUT and got.lane == frame.lane:
                data += got.payload
                self.send(grant_frame(frame.lane, len(got.payload)))
        return data

    def put_out(self, assign, output):
        """Send bytes of output, without asking whether there is credit for them."""
        self.send(*cut(OUTPUT, output, *assign[0].lane))

    def done(self, assign, size, **fields):
        said = {"records": 1, "items": 1, "seconds": 0.1, "groups": 1, **fields}
        self.say("done", *assign[0].lane, size=size, **said)

    def finish(self, assign, output):
        self.put_out(assign, output)
        self.done(assign, len(output))


class RawDriver(RawPeer):
    """A driver that hands in jobs of opaque bytes."""

    def __init__(self, address, **options):
        super().__init__(address, "driver", **options)

    def submit(self, job=1, code=b"c", code_bytes=None, **options):
        """Hand in a job whose code is these bytes; which only a raw worker takes."""
        size = len(code) if code_bytes is None else code_bytes
        self.say("submit", job, name="raw", options=options, code_bytes=size, fingerprint="f")
        self.send(*cut(CODE, code, job))

    def announce(self, batch, size, job=1, items=1, **fields):
        self.say("batch", job, batch, items=items, size=size, weight=size, **fields)

    def send_batch(self, batch, data, job=1, items=1):
        self.announce(batch, len(data), job, items)
        self.send(*cut(BATCH, data, job, batch))

    def read_results(self):
        """Take results, granting as they come, until a job is done; return its statistics."""
        while (frame := self.next_frame()) is not None:
            if frame.kind == RESULT:
                self.send(grant_frame(frame.lane, len(frame.payload)))
            elif frame.kind == CONTROL and (message := decode_message(frame.payload))["type"] == "job_done":
                return message["stats"]
        raise AssertionError("the connection ended before the job was done")


def flush_of(partitions):
    """Return one flush with a segment of one record for each of these partitions."""
    segment = records.encode_segment(["key"], ["value"])
    return records.encode_flush(dict.fromkeys(partitions, segment))


class Process:
    """One mmgevent command, with what it says on stderr in a file."""

    def __init__(self, folder, *arguments, program=("-m", "mmgevent"), preexec_fn=None):
        self.log = Path(folder) / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "MMG_PASSWORD": PASSWORD},
                start_new_session=True,
                preexec_fn=preexec_fn,
            )
        self.pid = self.process.pid
        self.psutil = psutil.Process(self.pid)

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def wait_said(self, text):
        wait_until(
            lambda: text in self.said or self.process.poll() is not None, f"{text!r} in {self.log.name}"
        )
        assert text in self.said, self.said

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout_s=PATIENCE_S):
        return self.process.wait(timeout_s)

    def stop(self, number=signal.SIGTERM):
        self.send_signal(number)
        return self.wait()

    def open_files(self):
        """Return what its descriptors lead to."""
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(os.readlink(entry))
        return found

    def cpu_s(self):
        times = self.psutil.cpu_times()
        return times.user + times.system

    def close(self):
        """Kill it, if it still runs, with all it started; it must leave nothing."""
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self.psutil.children(recursive=True)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
        assert not alive, f"left behind: {alive}"


class _Over(Exception):
    """A test is over, and so are jobs of it that are not."""


@contextlib.contextmanager
def connected(server):
    """Connect a driver's cluster; jobs that still run at the end are cancelled, so that no test waits for another."""
    with contextlib.suppress(_Over), mmg.connect(server.address, password=PASSWORD) as cluster:
        yield cluster
        raise _Over


@contextlib.contextmanager
def running(folder, *arguments, **options):
    process = Process(folder, *arguments, **options)
    try:
        yield process
    finally:
        process.close()


@contextlib.contextmanager
def running_server(folder, *arguments, **options):
    """Run mmg-server on a free port; `.address` is (host, port), `.where` the same as text."""
    with running(folder, "server", "--listen", "127.0.0.1:0", "-v", *arguments, **options) as server:
        server.wait_said("server listens on ")
        server.where = server.said.split("server listens on ")[1].split()[0]
        server.address = ("127.0.0.1", int(server.where.rpartition(":")[2]))
        yield server


@contextlib.contextmanager
def running_worker(folder, server, *arguments, procs=2, **options):
    with running(folder, "worker", "--procs", str(procs), *arguments, server.where, **options) as worker:
        worker.wait_said("joined the server")
        yield worker
