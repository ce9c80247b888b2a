"""The password proof against wrong passwords, strangers, and people in between."""

from __future__ import annotations

import hashlib
import hmac
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgevent.access import handshake
from mmgevent.access.handshake import (
    CLIENT_HELLO_BYTES,
    PROOF_BYTES,
    REFUSAL,
    SERVER_HELLO_BYTES,
    ClientHandshake,
    ServerHandshake,
    derive_key,
)
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    PasswordError,
    ProtocolError,
    VersionMismatchError,
)

KEY, OTHER_KEY = bytes(32), bytes(31) + b"\1"
CERTIFICATE, OTHER_CERTIFICATE = b"c" * 32, b"d" * 32


def converse(client, server, tamper=lambda n, message: message) -> None:
    """Carry messages between both until neither sends any. `tamper(n, message)` may change them."""
    message, machines, n = client.start(), (server, client), 0
    while message:
        message = machines[n % 2].feed(tamper(n, message))
        n += 1


def pair(client_key=KEY, server_key=KEY, client_sees=CERTIFICATE, role="worker"):
    return ClientHandshake(client_key, client_sees, role), ServerHandshake(server_key, CERTIFICATE)


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_both_sides_agree_with_one_password(role):
    client, server = pair(role=role)
    converse(client, server)
    assert client.done
    assert server.done
    assert server.role == role
    assert client.error is None is server.error
    assert client.needed == server.needed == 0


def test_the_proofs_are_computed_as_docs_protocol_says():
    client, server = (
        ClientHandshake(KEY, CERTIFICATE, "driver", b"n" * 32),
        ServerHandshake(KEY, CERTIFICATE, b"m" * 32),
    )
    hello = client.start()
    assert hello == b"MMGEVENT" + b"\1\2" + b"n" * 32
    answer = server.feed(hello)
    assert answer == b"MMGEVENT" + b"\1" + b"m" * 32

    def prove(label, transcript):
        text = label + hashlib.sha256(transcript).digest() + CERTIFICATE
        return hmac.new(KEY, text, "sha256").digest()

    proof = client.feed(answer)
    assert proof == prove(b"mmgevent/1 client", hello + answer)
    assert server.feed(proof) == prove(b"mmgevent/1 server", hello + answer + proof)
    assert len(hello) + len(answer) + len(proof) <= 256


def test_a_wrong_password_is_told_apart_from_a_lost_connection():
    client, server = pair(client_key=OTHER_KEY)
    converse(client, server)
    assert isinstance(server.error, AuthenticationError)
    assert isinstance(client.error, AuthenticationError)
    assert "the password was refused" in str(client.error)
    assert "MMG_PASSWORD" in str(client.error)
    assert not client.done
    assert not server.done
    assert isinstance(client.ended(), AuthenticationError)
    assert isinstance(pair()[0].ended(), ConnectError)


def test_a_man_in_the_middle_with_his_own_certificate_is_found_by_both():
    client, server = pair(client_sees=OTHER_CERTIFICATE)
    converse(client, server)
    assert isinstance(server.error, AuthenticationError)
    assert isinstance(client.error, AuthenticationError)


def test_a_server_that_does_not_know_the_password_is_found_before_anything_is_sent_to_it():
    client = ClientHandshake(KEY, CERTIFICATE, "worker")
    impostor = ServerHandshake(OTHER_KEY, CERTIFICATE)
    client.feed(impostor.feed(client.start()))
    assert client.feed(bytes(PROOF_BYTES)) == b""
    assert isinstance(client.error, AuthenticationError)
    assert "nothing was sent" in str(client.error)


def test_a_reflected_proof_is_refused():
    client, server = pair()
    proof = client.feed(server.feed(client.start()))
    assert client.feed(proof) == b""
    assert isinstance(client.error, AuthenticationError)


def test_a_reflected_hello_is_no_server_hello():
    client = ClientHandshake(KEY, CERTIFICATE, "worker")
    client.feed(client.start())
    assert client.needed == PROOF_BYTES - (CLIENT_HELLO_BYTES - SERVER_HELLO_BYTES)
    client.feed(bytes(PROOF_BYTES))
    assert isinstance(client.error, AuthenticationError)


def test_a_replayed_client_is_refused():
    said: list[bytes] = []
    client, server = pair()
    converse(client, server, lambda n, message: said.append(message) or message)
    again = ServerHandshake(KEY, CERTIFICATE)
    again.feed(said[0])
    assert again.feed(said[2]) == REFUSAL
    assert isinstance(again.error, AuthenticationError)


def test_a_replayed_server_is_refused():
    said: list[bytes] = []
    client, server = pair()
    converse(client, server, lambda n, message: said.append(message) or message)
    again = ClientHandshake(KEY, CERTIFICATE, "worker")
    again.start()
    again.feed(said[1])
    again.feed(said[3])
    assert isinstance(again.error, AuthenticationError)


SIZES = [CLIENT_HELLO_BYTES, SERVER_HELLO_BYTES, PROOF_BYTES, PROOF_BYTES]


@pytest.mark.parametrize("step", range(4))
def test_no_changed_byte_goes_unnoticed(step):
    for position in range(SIZES[step]):
        for bit in (1, 128):

            def flip(n, message, position=position, bit=bit):
                if n != step:
                    return message
                changed = bytearray(message)
                changed[position] ^= bit
                return bytes(changed)

            client, server = pair()
            converse(client, server, flip)
            assert not client.done, position
            assert client.error or server.error
            # Only the last message can be changed without the server's knowledge.
            assert not server.done or step == 3


@pytest.mark.parametrize("step", range(4))
def test_a_truncated_handshake_is_never_done(step):
    for length in range(SIZES[step]):
        client, server = pair()
        converse(client, server, lambda n, message, k=length: message[:k] if n == step else message)
        receiver = client if step % 2 else server
        assert not receiver.done
        assert receiver.error is None
        assert receiver.needed == SIZES[step] - length
        assert isinstance(receiver.ended(), ConnectError)


def test_it_works_byte_by_byte():
    client, server = pair()
    to_server, to_client = client.start(), b""
    while to_server or to_client:
        to_client = b"".join(server.feed(bytes([byte])) for byte in to_server)
        to_server = b"".join(client.feed(bytes([byte])) for byte in to_client)
    assert client.done
    assert server.done


def test_bytes_after_the_last_proof_are_left_over():
    client, server = pair()
    last = server.feed(client.feed(server.feed(client.start())))
    client.feed(last + b"first frame")
    assert client.done
    assert client.leftover == b"first frame"
    assert server.leftover == b""


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_garbage_never_proves_anything(pieces, is_client):
    client, server = pair()
    machine = client if is_client else server
    client.start()
    for piece in pieces:
        machine.feed(piece)
    assert not machine.done


@pytest.mark.parametrize(
    ("said", "guess"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"\x00", "begins with"),
    ],
)
def test_strangers_are_known_by_their_first_bytes(said, guess):
    for machine in pair():
        if isinstance(machine, ClientHandshake):
            machine.start()
        machine.feed(said)
        assert isinstance(machine.error, ProtocolError)
        assert guess in str(machine.error)
        assert machine.needed == 0


def test_another_version_is_named_on_both_sides(monkeypatch):
    client, server = pair()
    hello = client.start()
    monkeypatch.setattr(handshake, "VERSION", 2)
    answer = server.feed(hello)
    assert isinstance(server.error, VersionMismatchError)
    assert "version 1" in str(server.error)
    monkeypatch.undo()
    client.feed(answer)
    assert isinstance(client.error, VersionMismatchError)
    assert "version 2" in str(client.error)


def test_an_unknown_role_is_refused():
    server = ServerHandshake(KEY, CERTIFICATE)
    server.feed(b"MMGEVENT\1\x09" + bytes(32))
    assert isinstance(server.error, ProtocolError)


def test_a_machine_that_gave_up_says_nothing_more():
    server = ServerHandshake(OTHER_KEY, CERTIFICATE)
    client = ClientHandshake(KEY, CERTIFICATE, "worker")
    converse(client, server)
    assert server.feed(bytes(1000)) == b""
    assert server.leftover == b""


def test_the_key_is_scrypt_over_the_normalised_password():
    expected = hashlib.scrypt("é".encode(), salt=b"mmgevent/1", n=2**14, r=8, p=1, dklen=32)
    assert derive_key("e\u0301") == derive_key("é") == expected
    assert derive_key("é", "ours") != expected


def test_the_key_is_derived_once():
    derive_key("once")
    before = derive_key.cache_info().misses
    derive_key("once")
    assert derive_key.cache_info().misses == before


@pytest.mark.parametrize("password", ["", "\ud800"])
def test_unusable_passwords_are_refused(password):
    with pytest.raises(PasswordError):
        derive_key(password)


def test_a_password_of_bytes_that_are_no_utf8_is_those_bytes():
    expected = hashlib.scrypt(b"\xff\xfe", salt=b"mmgevent/1", n=2**14, r=8, p=1, dklen=32)
    assert derive_key("\udcff\udcfe") == expected


def test_proofs_are_compared_in_constant_time():
    source = inspect.getsource(handshake)
    assert source.count("hmac.compare_digest(message, self._prove(") == 2
