"""The password proof against wrong passwords, strangers, and people in between."""

from __future__ import annotations

import hashlib
import hmac
import inspect

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mmgevent.access import handshake
from mmgevent.access.handshake import (
    CLIENT_HELLO_BYTES,
    LENDER_REFUSAL,
    PROOF_BYTES,
    REFUSAL,
    SERVER_HELLO_BYTES,
    ClientHandshake,
    LenderHandshake,
    ServerHandshake,
    client_key,
    derive_key,
)
from mmgevent.access.worker_key import SIGNATURE_BYTES, WorkerKey, server_key
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


def pair(client_has=KEY, server_has=KEY, client_sees=CERTIFICATE, role="worker"):
    server = ServerHandshake(server_has, CERTIFICATE)
    if role == "lender":
        return LenderHandshake(server_key(client_has).worker_key, client_sees), server
    return ClientHandshake(client_has, client_sees, role), server


ROLES = ["worker", "driver", "lender"]


@pytest.mark.parametrize("role", ROLES)
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
    assert hello == b"MMGEVENT" + b"\2\2" + b"n" * 32
    answer = server.feed(hello)
    assert answer == b"MMGEVENT" + b"\2" + b"m" * 32

    def prove(label, transcript):
        text = label + hashlib.sha256(transcript).digest() + CERTIFICATE
        return hmac.new(KEY, text, "sha256").digest()

    proof = client.feed(answer)
    assert proof == prove(b"mmgevent/2 client", hello + answer)
    assert server.feed(proof) == prove(b"mmgevent/2 server", hello + answer + proof)
    assert len(hello) + len(answer) + len(proof) <= 256


def test_the_proofs_of_a_lender_are_computed_as_docs_protocol_says():
    ours = server_key(KEY)
    client = LenderHandshake(ours.worker_key, CERTIFICATE, b"n" * 32)
    server = ServerHandshake(KEY, CERTIFICATE, b"m" * 32)
    hello = client.start()
    assert hello == b"MMGEVENT" + b"\2\3" + b"n" * 32
    answer = server.feed(hello)
    proof = client.feed(answer)
    text = b"mmgevent/2 lender" + hashlib.sha256(hello + answer).digest() + CERTIFICATE
    secret = hmac.new(KEY, b"mmgevent/2 worker secret", "sha256").digest()
    assert proof == hmac.new(secret, text, "sha256").digest()
    signature = server.feed(proof)
    seed = hmac.new(KEY, b"mmgevent/2 worker signing key", "sha256").digest()
    private = Ed25519PrivateKey.from_private_bytes(seed)
    text = b"mmgevent/2 server to lender" + hashlib.sha256(hello + answer + proof).digest() + CERTIFICATE
    assert signature == private.sign(text)
    assert ours.worker_key == WorkerKey(secret, private.public_key().public_bytes_raw())


def test_who_has_the_worker_password_only_is_neither_a_driver_nor_a_worker_with_the_main_one():
    """He may name any role and prove whatever he can: each role is verified with its own key."""
    secret = server_key(KEY).worker_key.secret
    labels = (b"mmgevent/2 client", b"mmgevent/2 lender", b"mmgevent/2 server")
    for role in (1, 2):
        for label in labels:
            server = ServerHandshake(KEY, CERTIFICATE)
            hello = b"MMGEVENT\2" + bytes([role]) + bytes(32)
            answer = server.feed(hello)
            text = label + hashlib.sha256(hello + answer).digest() + CERTIFICATE
            assert server.feed(hmac.digest(secret, text, "sha256")) == REFUSAL
            assert not server.done
            assert isinstance(server.error, AuthenticationError)


def test_a_lender_with_the_main_secret_is_none():
    server = ServerHandshake(KEY, CERTIFICATE)
    posing = LenderHandshake(WorkerKey(KEY, server_key(KEY).worker_key.public), CERTIFICATE)
    converse(posing, server)
    assert not server.done
    assert "another worker password" in str(server.error)
    assert "the worker password was refused" in str(posing.error)


def test_a_thief_of_a_worker_password_who_plays_the_server_is_refused_by_a_lender():
    """He answers with all that the worker password lets him compute."""
    stolen = server_key(KEY).worker_key

    class Thief(ServerHandshake):
        """A server that takes any lender, and signs with a key of his own."""

        answer = b""

        def _on_lender_proof(self, message):
            self._transcript += message
            return self.answer

    def hmac_of(thief, label):
        return hmac.digest(stolen.secret, thief._statement(label), "sha256")

    answers = [
        lambda thief, proof: proof + proof,
        lambda thief, proof: hmac_of(thief, b"mmgevent/2 server").ljust(SIGNATURE_BYTES, b"\0"),
        lambda thief, proof: hmac_of(thief, b"mmgevent/2 server to lender") * 2,
        lambda thief, proof: server_key(OTHER_KEY).sign(thief._statement(b"mmgevent/2 server to lender")),
        lambda thief, proof: server_key(stolen.secret).sign(thief._statement(b"mmgevent/2 server to lender")),
        lambda thief, proof: bytes(SIGNATURE_BYTES),
    ]
    for answer in answers:
        lender, thief = LenderHandshake(stolen, CERTIFICATE), Thief(OTHER_KEY, CERTIFICATE)
        proof = lender.feed(thief.feed(lender.start()))
        thief._on_lender_proof(proof)
        assert lender.feed(answer(thief, proof)) == b""
        assert not lender.done
        assert "did not prove that it knows the main password" in str(lender.error)


def test_an_unsigned_proof_of_a_server_does_not_do_for_a_lender():
    """A server that answers as to a worker with the main password proves nothing to a lender."""
    lender = LenderHandshake(server_key(KEY).worker_key, CERTIFICATE)
    lender.start()
    lender.feed(b"MMGEVENT\2" + bytes(32))
    lender.feed(bytes(PROOF_BYTES))
    assert not lender.done
    assert lender.needed == SIGNATURE_BYTES - PROOF_BYTES


@pytest.mark.parametrize("role", ["driver", "worker"])
def test_a_signature_for_a_lender_proves_nothing_to_others(role):
    client = ClientHandshake(KEY, CERTIFICATE, role)
    client.start()
    client.feed(b"MMGEVENT\2" + bytes(32))
    client.feed(server_key(KEY).sign(client._statement(b"mmgevent/2 server to lender")))
    assert isinstance(client.error, AuthenticationError)


@pytest.mark.parametrize("role", ROLES)
def test_a_proof_of_any_kind_counts_as_a_guess(role):
    """The listener asks this before each proof, to make those wait who guess."""
    client, server = pair(client_has=OTHER_KEY, role=role)
    hello = client.start()
    assert not server.completes_proof(hello)
    proof = client.feed(server.feed(hello))
    assert not server.completes_proof(proof[:-1])
    assert server.completes_proof(proof)
    server.feed(proof)
    assert not server.completes_proof(proof)


def test_a_wrong_password_is_told_apart_from_a_lost_connection():
    client, server = pair(client_has=OTHER_KEY)
    converse(client, server)
    assert isinstance(server.error, AuthenticationError)
    assert isinstance(client.error, AuthenticationError)
    assert "the password was refused" in str(client.error)
    assert "MMG_PASSWORD" in str(client.error)
    assert not client.done
    assert not server.done
    assert isinstance(client.ended(), AuthenticationError)
    assert isinstance(pair()[0].ended(), ConnectError)


def test_a_wrong_worker_password_is_told_apart_from_a_lost_connection():
    client, server = pair(client_has=OTHER_KEY, role="lender")
    converse(client, server)
    assert isinstance(server.error, AuthenticationError)
    assert "another worker password" in str(server.error)
    assert isinstance(client.error, AuthenticationError)
    assert "the worker password was refused" in str(client.error)
    assert "mmg-server worker-password" in str(client.error)


@pytest.mark.parametrize("role", ROLES)
def test_a_man_in_the_middle_with_his_own_certificate_is_found_by_both(role):
    client, server = pair(client_sees=OTHER_CERTIFICATE, role=role)
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


@pytest.mark.parametrize("role", ROLES)
def test_a_replayed_client_is_refused(role):
    said: list[bytes] = []
    client, server = pair(role=role)
    converse(client, server, lambda n, message: said.append(message) or message)
    again = ServerHandshake(KEY, CERTIFICATE)
    again.feed(said[0])
    assert again.feed(said[2]) == (LENDER_REFUSAL if role == "lender" else REFUSAL)
    assert isinstance(again.error, AuthenticationError)


@pytest.mark.parametrize("role", ROLES)
def test_a_replayed_server_is_refused(role):
    said: list[bytes] = []
    client, server = pair(role=role)
    converse(client, server, lambda n, message: said.append(message) or message)
    again = pair(role=role)[0]
    again.start()
    again.feed(said[1])
    again.feed(said[3])
    assert isinstance(again.error, AuthenticationError)


SIZES = {
    "worker": [CLIENT_HELLO_BYTES, SERVER_HELLO_BYTES, PROOF_BYTES, PROOF_BYTES],
    "lender": [CLIENT_HELLO_BYTES, SERVER_HELLO_BYTES, PROOF_BYTES, SIGNATURE_BYTES],
}


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("role", SIZES)
def test_no_changed_byte_goes_unnoticed(role, step):
    for position in range(SIZES[role][step]):
        for bit in (1, 128):

            def flip(n, message, position=position, bit=bit):
                if n != step:
                    return message
                changed = bytearray(message)
                changed[position] ^= bit
                return bytes(changed)

            client, server = pair(role=role)
            converse(client, server, flip)
            assert not client.done, position
            assert client.error or server.error
            # Only the last message can be changed without the server's knowledge.
            assert not server.done or step == 3


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("role", SIZES)
def test_a_truncated_handshake_is_never_done(role, step):
    for length in range(SIZES[role][step]):
        client, server = pair(role=role)
        converse(client, server, lambda n, message, k=length: message[:k] if n == step else message)
        receiver = client if step % 2 else server
        assert not receiver.done
        assert receiver.error is None
        assert receiver.needed == SIZES[role][step] - length
        assert isinstance(receiver.ended(), ConnectError)


@pytest.mark.parametrize("role", ROLES)
def test_it_works_byte_by_byte(role):
    client, server = pair(role=role)
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


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans(), st.sampled_from(ROLES))
def test_garbage_never_proves_anything(pieces, is_client, role):
    client, server = pair(role=role)
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
    monkeypatch.setattr(handshake, "VERSION", 3)
    answer = server.feed(hello)
    assert isinstance(server.error, VersionMismatchError)
    assert "version 2" in str(server.error)
    monkeypatch.undo()
    client.feed(answer)
    assert isinstance(client.error, VersionMismatchError)
    assert "version 3" in str(client.error)


def test_an_unknown_role_is_refused():
    server = ServerHandshake(KEY, CERTIFICATE)
    server.feed(b"MMGEVENT\2\x09" + bytes(32))
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


def test_a_worker_has_the_key_of_either_password():
    worker_key = server_key(KEY).worker_key
    assert client_key(worker_key.encode()) == worker_key
    assert client_key("once") == derive_key("once")


@pytest.mark.parametrize("password", ["", "\ud800", server_key(KEY).worker_key.encode()])
def test_unusable_passwords_are_refused(password):
    with pytest.raises(PasswordError):
        derive_key(password)


def test_a_password_of_bytes_that_are_no_utf8_is_those_bytes():
    expected = hashlib.scrypt(b"\xff\xfe", salt=b"mmgevent/1", n=2**14, r=8, p=1, dklen=32)
    assert derive_key("\udcff\udcfe") == expected


def test_proofs_are_compared_in_constant_time():
    source = inspect.getsource(handshake)
    assert source.count("hmac.compare_digest(message, expected)") == 3
    assert "message ==" not in source.replace("message == self._refusal", "")
