"""A server that has proved the password and then says whatever it likes to the drivers that come."""

import contextlib
import hashlib
import ssl
import tempfile

from mmgevent.access.handshake import ServerHandshake, derive_key
from mmgevent.engine.net.tls import _make_certificate
from mmgevent.wire.frames import CONTROL, Decoder, Frame
from mmgevent.wire.messages import control, decode_message
from tests.trust.raw_peer import PASSWORD, hello_of
from tests.trust.strangers import Impostor


class Guest:
    """A driver that came: what a script sends it."""

    def __init__(self, sock):
        self.sock = sock
        self.decoder = Decoder()

    def send(self, *frames):
        self.sock.sendall(b"".join(frame.encode() for frame in frames))

    def say(self, type, job=0, task=0, attempt=0, **fields):
        self.send(control(type, job, task, attempt, **fields))

    def accept(self, job, **fields):
        self.say("accepted", job, **{"id": "job-1", "slots": 1, "partitions": 1, "batches": 5, **fields})

    def frames(self):
        while data := self.sock.recv(65536):
            self.decoder.feed(data)
            while (frame := self.decoder.next_frame()) is not None:
                yield frame


@contextlib.contextmanager
def hostile_server(on_message, on_hello=lambda guest: None):
    """Listen; call `on_message(guest, frame, message)` for each control frame of a driver, `on_hello(guest)` first."""
    private_pem, certificate_pem, certificate_der = _make_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["mmgevent/1"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(private_pem + certificate_pem)
        file.flush()
        context.load_cert_chain(file.name)

    def talk(sock):
        with context.wrap_socket(sock, server_side=True) as tls:
            handshake = ServerHandshake(derive_key(PASSWORD), hashlib.sha256(certificate_der).digest())
            while handshake.needed:
                data = tls.recv(handshake.needed)
                if not data:
                    return
                tls.sendall(handshake.feed(data))
            guest = Guest(tls)
            guest.send(hello_of("server"))
            on_hello(guest)
            for frame in guest.frames():
                if frame.kind == CONTROL:
                    on_message(guest, frame, decode_message(frame.payload))

    server = Impostor(talk)
    try:
        yield server
    finally:
        server.cut()
        server.close()


def raw_control(payload, job=0):
    """Return a control frame of any bytes."""
    return Frame(CONTROL, payload, job)
