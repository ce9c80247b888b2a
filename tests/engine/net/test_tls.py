"""TLS and the password proof over loopback: who gets in, and what error all others get."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import select
import ssl as plain_ssl
import struct
import tempfile
import threading

import gevent
import pytest
from gevent import socket, ssl
from gevent.event import Event

from mmgevent.access.addresses import format_address
from mmgevent.access.certificates import Certificates
from mmgevent.access.handshake import CLIENT_HELLO_BYTES, ClientHandshake, derive_key
from mmgevent.engine.net import tls
from mmgevent.errors import AuthenticationError, ConnectError, ProtocolError, VersionMismatchError
from mmgevent.wire.frames import Decoder
from mmgevent.wire.messages import control
from tests.new_objects import only_new_objects

KEY = derive_key("a password of the tests")
OTHER_KEY = derive_key("another password")


@pytest.fixture(scope="module")
def context():
    return tls.server_context()


def live_greenlets():
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, gevent.Greenlet) and not o.dead]


@pytest.fixture(autouse=True)
def no_greenlets_left():
    with only_new_objects():
        yield
        gevent.sleep(0)
        assert live_greenlets() == []


@pytest.fixture
def listener():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    yield sock
    sock.close()


def serve(listener, context, key=KEY, deadline_s=10.0):
    """Accept one connection in a greenlet, whose value is tls.accept's or its exception."""

    def accept():
        sock, _ = listener.accept()
        try:
            return tls.accept(sock, *context, key, deadline_s)
        except Exception as error:
            assert sock.fileno() == -1 or sock.closed
            return error

    return gevent.spawn(accept)


def answer(listener, talk):
    """Be a stranger: accept one plain connection and hand it to `talk`."""

    def accept():
        sock, _ = listener.accept()
        with sock:
            talk(sock)

    return gevent.spawn(accept)


def test_one_password_lets_both_in(listener, context):
    server = serve(listener, context)
    client = tls.connect(listener.getsockname(), KEY, "driver")
    sock, role, leftover = server.get()
    assert (role, leftover) == ("driver", b"")
    assert client.version() == sock.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == "mmgevent/1"
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()
    sock.close()


def test_bytes_right_behind_the_proof_are_not_lost(listener, context):
    frame = control("enough", job=7)

    def accept_and_talk():
        sock, _ = listener.accept()
        proved, _, _ = tls.accept(sock, *context, KEY, 10.0)
        proved.sendall(frame.encode())
        return proved

    server = gevent.spawn(accept_and_talk)
    client = tls.connect(listener.getsockname(), KEY, "worker")
    decoder = Decoder()
    while (got := decoder.next_frame()) is None:
        decoder.feed(client.recv(65536))
    assert got == frame
    client.close()
    server.get().close()


def connected(listener, context):
    """Two ends of a proved connection: client, server."""
    server = serve(listener, context)
    client = tls.connect(listener.getsockname(), KEY, "worker")
    return client, server.get()[0]


def test_a_connection_that_is_lost_leaves_no_error_to_the_next(listener, context):
    """OpenSSL keeps errors by thread. One that is left there would end the next idle connection."""
    (lost, peer), (healthy, other) = connected(listener, context), connected(listener, context)
    socket.socket.shutdown(lost, socket.SHUT_WR)
    peer.close()  # so that OpenSSL writes its complaint to a closed socket: EPIPE
    with contextlib.suppress(OSError):
        assert lost.recv(1) == b""
    for sock in (healthy, other):
        sock.settimeout(0.0)
        with pytest.raises(ssl.SSLWantReadError):
            sock.recv(1)
    other.sendall(b"all is well")
    healthy.settimeout(10.0)
    assert healthy.recv(100) == b"all is well"
    for sock in (lost, healthy, other):
        sock.close()


def test_a_wrong_password_is_said_to_both(listener, context):
    server = serve(listener, context)
    with pytest.raises(AuthenticationError, match="the password was refused") as error:
        tls.connect(listener.getsockname(), OTHER_KEY, "worker")
    assert format_address(listener.getsockname()[:2]) in str(error.value)
    assert isinstance(server.get(), AuthenticationError)


def test_a_man_in_the_middle_with_his_own_certificate_is_refused(listener, context):
    """The man in the middle speaks TLS with both sides and passes on the handshake."""
    behind = socket.socket()
    behind.bind(("127.0.0.1", 0))
    behind.listen()
    server = serve(behind, context)
    his_context, _ = tls.server_context()

    def pass_on(sock):
        front = his_context.wrap_socket(sock, server_side=True)
        plain = socket.create_connection(behind.getsockname())
        back = tls.client_context().wrap_socket(plain)
        for source, sink, size in (
            (front, back, 42),
            (back, front, 41),
            (front, back, 32),
            (back, front, 32),
        ):
            sink.sendall(source.recv(size))
        front.close()
        back.close()

    middle = answer(listener, pass_on)
    with pytest.raises(AuthenticationError):
        tls.connect(listener.getsockname(), KEY, "worker")
    assert isinstance(server.get(), AuthenticationError)
    middle.get()
    behind.close()


def test_a_server_of_another_version_is_named(listener, context):
    def be_version_3(sock):
        wrapped = context[0].wrap_socket(sock, server_side=True)
        wrapped.recv(CLIENT_HELLO_BYTES)
        wrapped.sendall(b"MMGEVENT\x03" + bytes(32))
        wrapped.close()

    later = answer(listener, be_version_3)
    with pytest.raises(VersionMismatchError, match="the server speaks version 3"):
        tls.connect(listener.getsockname(), KEY, "worker")
    later.get()


def test_a_client_of_another_version_learns_ours(listener, context):
    server = serve(listener, context)
    client = tls.client_context().wrap_socket(socket.create_connection(listener.getsockname()))
    client.sendall(b"MMGEVENT\x03\x01" + bytes(32))
    assert client.recv(100)[:9] == b"MMGEVENT\x02"
    assert client.recv(1) == b""
    client.close()
    assert isinstance(server.get(), VersionMismatchError)


def is_reset(sock):
    """Wait until the peer has closed. Return whether that was a reset."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLRDHUP)
    with gevent.Timeout(10.0):
        while not (ended := poller.poll(0)):
            gevent.sleep(0.005)
    return bool(ended[0][1] & select.POLLERR)


@pytest.mark.parametrize(
    ("hello", "said", "error"),
    [
        (b"MMGEVENT\x03\x01" + bytes(32), [], VersionMismatchError),
        (b"MMGEVENT\x02\x01" + bytes(32), [bytes(32)], AuthenticationError),
    ],
    ids=["version", "password"],
)
def test_a_refused_client_that_says_more_is_not_reset(listener, context, hello, said, error):
    """On a slow wire a reset would overtake the refusal."""
    server = serve(listener, context)
    client = tls.client_context().wrap_socket(socket.create_connection(listener.getsockname()))
    for part in (hello, *said, b"more", b"and more"):
        client.sendall(part)
    assert not is_reset(client)
    client.close()
    assert isinstance(server.get(), error)


def test_a_server_whose_certificate_is_refused_is_not_reset(listener, context, tmp_path):
    authority = tmp_path / "authority.pem"
    authority.write_bytes(tls._make_certificate()[1])

    def be_unknown(sock):
        wrapped = context[0].wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.*unknown ca"):
            wrapped.do_handshake()
        assert not is_reset(wrapped)
        wrapped.close()

    unknown = answer(listener, be_unknown)
    with pytest.raises(AuthenticationError, match="the certificate of the server was refused"):
        tls.connect(listener.getsockname(), KEY, "worker", certificates=Certificates(ca=str(authority)))
    unknown.get()


def test_what_a_server_says_before_it_is_lost_is_heard_though_nothing_can_be_said_to_it(
    listener, context, monkeypatch
):
    is_gone = Event()

    class LateHandshake(ClientHandshake):
        def start(self):
            assert is_gone.wait(10.0)
            return super().start()

    def be_version_3_and_crash(sock):
        wrapped = context[0].wrap_socket(sock, server_side=True)
        wrapped.sendall(b"MMGEVENT\x03" + bytes(32))
        wrapped.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wrapped.close()
        is_gone.set()

    monkeypatch.setattr(tls, "ClientHandshake", LateHandshake)
    later = answer(listener, be_version_3_and_crash)
    with pytest.raises(VersionMismatchError, match="the server speaks version 3"):
        tls.connect(listener.getsockname(), KEY, "worker")
    later.get()


def test_nobody_listening_is_told_from_the_os_error():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and never listens: the port is nobody else's
        address = sock.getsockname()
        with pytest.raises(ConnectError, match=f"127.0.0.1:{address[1]}: Connection refused") as error:
            tls.connect(address, KEY, "worker")
    assert isinstance(error.value.__cause__, ConnectionRefusedError)


def reset(sock, peer):
    """Let the peer of a connection reset it, and wait until that has come."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    select.select([sock.fileno()], [], [])


@pytest.mark.parametrize("where", [(tls.socket, "create_connection"), (tls, "_connect_plain")])
def test_a_connection_that_is_reset_at_once_was_lost(listener, monkeypatch, where):
    """As by a server that is killed with connections that it has not accepted."""
    connect = getattr(*where)

    def connect_and_lose(*args):
        sock = connect(*args)
        reset(sock, listener.accept()[0])
        return sock

    monkeypatch.setattr(*where, connect_and_lose)
    address = listener.getsockname()
    with pytest.raises(ConnectError, match=f"127.0.0.1:{address[1]}.*reset") as error:
        tls.connect(address, KEY, "worker")
    assert isinstance(error.value.__cause__, tls.LOST)


def test_a_client_that_resets_at_once_has_left(listener, context):
    client = socket.create_connection(listener.getsockname())
    sock, _ = listener.accept()
    reset(sock, client)
    with pytest.raises(ConnectError, match="the client left during the handshake"):
        tls.accept(sock, *context, KEY)


def test_a_server_that_accepts_but_does_not_answer_is_told(listener):
    with pytest.raises(ConnectError, match="accepts but does not answer") as error:
        tls.connect(listener.getsockname(), KEY, "worker", timeout=0.3)
    assert error.value.__cause__ is None


def test_one_deadline_covers_tls_and_proof(listener, context):
    def silent_after_tls(sock):
        wrapped = context[0].wrap_socket(sock, server_side=True)
        wrapped.recv(100)
        wrapped.recv(100)
        wrapped.close()

    stranger = answer(listener, silent_after_tls)
    with pytest.raises(ConnectError, match="accepts but does not answer"):
        tls.connect(listener.getsockname(), KEY, "worker", timeout=0.5)
    stranger.get()


def say(text: bytes):
    def talk(sock):
        sock.sendall(text)
        sock.recv(65536)

    return talk


@pytest.mark.parametrize("banner", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_something_else_that_answers_is_no_mmgevent_server(listener, banner):
    stranger = answer(listener, say(banner))
    with pytest.raises(
        AuthenticationError, match=r"something answers at .* but it is not an mmgevent server"
    ):
        tls.connect(listener.getsockname(), KEY, "worker")
    stranger.get()


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_a_tls_server_for_something_else_is_no_mmgevent_server(listener, context, protocols):
    private_pem, certificate_pem, _ = tls._make_certificate()
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if protocols:
        other.set_alpn_protocols(protocols)
    with tempfile.NamedTemporaryFile() as file:
        file.write(private_pem + certificate_pem)
        file.flush()
        other.load_cert_chain(file.name)

    def talk(sock):
        # Newer versions of OpenSSL write an answer to who hangs up.
        with other.wrap_socket(sock, server_side=True) as wrapped, contextlib.suppress(BrokenPipeError):
            wrapped.recv(100)

    stranger = answer(listener, talk)
    with pytest.raises(AuthenticationError, match="not an mmgevent server"):
        tls.connect(listener.getsockname(), KEY, "worker")
    stranger.get()


def test_a_server_that_hangs_up_is_a_failed_connection(listener):
    stranger = answer(listener, lambda sock: None)
    with pytest.raises(ConnectError):
        tls.connect(listener.getsockname(), KEY, "worker")
    stranger.get()


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 300, b"MMGEVENT" * 10])
def test_a_client_without_tls_is_a_stranger(listener, context, text):
    server = serve(listener, context)
    client = socket.create_connection(listener.getsockname())
    client.sendall(text)
    assert isinstance(server.get(), ProtocolError)
    client.close()


def test_a_client_with_older_tls_or_without_our_alpn_is_a_stranger(listener, context):
    for prepare in (
        lambda c: setattr(c, "maximum_version", plain_ssl.TLSVersion.TLSv1_2),
        lambda c: c.set_alpn_protocols(["h2"]),
    ):
        server = serve(listener, context)
        client_context = tls.client_context()
        client_context.minimum_version = plain_ssl.TLSVersion.TLSv1_2
        prepare(client_context)
        plain = socket.create_connection(listener.getsockname())
        try:
            wrapped = client_context.wrap_socket(plain)
            wrapped.recv(1)
            wrapped.close()
        except OSError:
            plain.close()
        assert isinstance(server.get(), ProtocolError)


def test_a_silent_client_is_dropped_at_the_deadline(listener, context):
    server = serve(listener, context, deadline_s=0.05)
    client = socket.create_connection(listener.getsockname())
    assert isinstance(server.get(), ConnectError)
    assert client.recv(1) == b""
    client.close()


def test_a_client_that_leaves_is_a_lost_connection(listener, context):
    server = serve(listener, context)
    socket.create_connection(listener.getsockname()).close()
    assert isinstance(server.get(), ConnectError)


def test_a_killed_accept_closes_its_socket(listener, context):
    accepted = Event()

    def accept():
        sock, _ = listener.accept()
        accepted.set()
        tls.accept(sock, *context, KEY, 10.0)

    server = gevent.spawn(accept)
    client = socket.create_connection(listener.getsockname())
    assert accepted.wait(10)
    server.kill()
    assert client.recv(1) == b""
    client.close()


def test_no_ticket_is_sent_so_no_session_can_be_resumed(listener, context):
    server = serve(listener, context)
    client = tls.connect(listener.getsockname(), KEY, "worker")
    sock, _, _ = server.get()
    sock.sendall(b"x")
    assert client.recv(1) == b"x"  # tickets would have come before
    assert client.session is None or not client.session.has_ticket
    client.close()
    sock.close()


def test_the_certificate_is_new_each_time_and_its_key_leaves_no_file(context, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []
    load = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda self, path: made.append(path) or load(self, path)
    )
    _, digest = tls.server_context()
    assert digest != context[1]
    assert len(digest) == hashlib.sha256().digest_size
    assert [os.path.dirname(path) for path in made] == ["/dev/fd"]  # of a file without a name
    assert list(tmp_path.iterdir()) == []


def test_a_plain_blocking_client_of_another_implementation_gets_in(listener, context):
    """docs/protocol.md in thirty lines, with the standard library only."""
    import hmac
    import socket as plain_socket

    address, result = listener.getsockname(), []

    def implement():
        settings = plain_ssl.SSLContext(plain_ssl.PROTOCOL_TLS_CLIENT)
        settings.check_hostname, settings.verify_mode = False, plain_ssl.CERT_NONE
        settings.set_alpn_protocols(["mmgevent/1"])
        with settings.wrap_socket(plain_socket.create_connection(address)) as sock:
            certificate = hashlib.sha256(sock.getpeercert(True)).digest()
            said = b"MMGEVENT\x02\x01" + os.urandom(32)
            sock.sendall(said)
            said += sock.recv(41)
            proof = hmac.digest(
                KEY, b"mmgevent/2 client" + hashlib.sha256(said).digest() + certificate, "sha256"
            )
            sock.sendall(proof)
            said += proof
            expected = hmac.digest(
                KEY, b"mmgevent/2 server" + hashlib.sha256(said).digest() + certificate, "sha256"
            )
            result.append(sock.recv(32) == expected)

    server = serve(listener, context)
    thread = threading.Thread(target=implement)
    thread.start()
    sock, role, _ = server.get()
    assert role == "worker"
    sock.recv(1)
    sock.close()
    thread.join()
    assert result == [True]
