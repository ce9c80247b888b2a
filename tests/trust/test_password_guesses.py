"""Guessing passwords is slow, and slows down nobody else."""

import contextlib
import hashlib
import os
import ssl
import subprocess
import sys
import threading
import time

import pytest

from mmgevent.access.guesses import FREE_GUESSES, MAX_ADDRESSES, MAX_WAIT_S, PAUSE_S, Guesses
from mmgevent.access.handshake import (
    LENDER_REFUSAL,
    REFUSAL,
    SERVER_HELLO_BYTES,
    LenderHandshake,
    derive_key,
)
from mmgevent.access.worker_key import server_key
from mmgevent.errors import ConnectError
from tests.integration.commands import ROOT
from tests.trust.strangers import (
    WAIT_S,
    Server,
    client_machine,
    connect_tls,
    prove,
    read_to_end,
    receive,
    wait_until,
)

#: as many as nobody mistypes
MANY = 100


@pytest.fixture
def house(tmp_path):
    server = Server(tmp_path)
    yield server
    server.close()


WRONG_KEY = derive_key("a guess")


def guess(address, source="127.0.0.1", lends=False):
    """Try a password, main or worker; return what the server answers, after its hello."""
    with contextlib.suppress(ConnectionError, ssl.SSLError), connect_tls(address, source=source) as sock:
        machine = client_machine(sock, WRONG_KEY)
        if lends:
            digest = hashlib.sha256(sock.getpeercert(True)).digest()
            machine = LenderHandshake(server_key(WRONG_KEY).worker_key, digest)
        sock.sendall(machine.start())
        sock.sendall(machine.feed(receive(sock, SERVER_HELLO_BYTES)))
        return read_to_end(sock)
    return b""


def test_guesses_are_free_at_first_and_then_twice_a_second(house):
    """Of main passwords and of worker passwords together."""
    began = time.monotonic()
    for n in range(FREE_GUESSES + 4):
        lends = n % 2 == 1
        assert guess(house.address, lends=lends) == (LENDER_REFUSAL if lends else REFUSAL)
    assert time.monotonic() - began >= 4 * PAUSE_S * 0.99


def test_a_hundred_guesses_side_by_side_come_no_faster(house):
    answers = []
    began = time.monotonic()
    threads = [threading.Thread(target=lambda: answers.append(guess(house.address))) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    took_s = time.monotonic() - began
    assert len(answers) == MANY
    assert set(answers) <= {REFUSAL, b""}
    assert answers.count(REFUSAL) <= FREE_GUESSES + took_s / PAUSE_S + 1
    assert "too many wrong passwords came from that address" in house.log
    house.assert_serves()  # and from that very address whoever knows the password is let in again


def test_the_right_password_gets_in_beside_somebody_who_guesses(house):
    """From one address; both take turns."""
    is_over = threading.Event()
    guessed = []

    def go_on_guessing():
        while not is_over.is_set():
            guessed.append(guess(house.address))

    guesser = threading.Thread(target=go_on_guessing)
    guesser.start()
    try:
        for n in range(3):
            count = FREE_GUESSES + 2 * n
            wait_until(lambda count=count: len(guessed) >= count, "guesses wait for one another")
            with connect_tls(house.address) as sock:
                assert prove(sock)
    finally:
        is_over.set()
        guesser.join(WAIT_S)
    assert REFUSAL in guessed


#: in a network of its own, where 127.0.0.2 is as good as another machine; prints what became of whom
FROM_ANOTHER_ADDRESS = """
import sys, threading
from pathlib import Path
from tests.trust.strangers import WAIT_S, Server
from tests.trust.test_password_guesses import MANY, guess

house = Server(Path(sys.argv[1]))
threads = [threading.Thread(target=guess, args=[house.address, "127.0.0.2"]) for _ in range(MANY)]
for thread in threads:
    thread.start()
house.wait_for(r"connection refused: 127\\.0\\.0\\.2:\\d+: too many wrong passwords")
for _ in range(20):
    house.assert_serves()
print(any("127.0.0.1:" in line for line in house.log.splitlines() if "refused" in line))
for thread in threads:
    thread.join(WAIT_S)
house.close()
"""


#: runs what follows where there is nothing but a loopback interface
IN_A_NETWORK = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def can_have_a_network():
    return subprocess.run([*IN_A_NETWORK, "true"], capture_output=True).returncode == 0


def test_guesses_from_one_address_hold_up_no_other(tmp_path):
    if not can_have_a_network():
        pytest.skip("this machine gives nobody a network namespace, and there is one loopback address")
    ended = subprocess.run(
        [*IN_A_NETWORK, sys.executable, "-c", FROM_ANOTHER_ADDRESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
    )
    assert ended.stdout == "False\n", ended.stderr


# the rule, in virtual time


def test_an_address_waits_until_all_but_the_free_guesses_are_paid_off():
    guesses = Guesses()
    waits = [guesses.admit("127.0.0.1", 0.0) for _ in range(FREE_GUESSES + 3)]
    assert waits == [0.0] * FREE_GUESSES + [PAUSE_S, 2 * PAUSE_S, 3 * PAUSE_S]
    assert guesses.admit("127.0.0.1", 100.0) == 0.0


def test_nobody_waits_longer_than_the_longest_wait_and_the_next_one_is_refused():
    guesses = Guesses()
    count = FREE_GUESSES + round(MAX_WAIT_S / PAUSE_S)
    assert max(guesses.admit("127.0.0.1", 0.0) for _ in range(count)) == MAX_WAIT_S
    with pytest.raises(ConnectError, match="may try again in a moment"):
        guesses.admit("127.0.0.1", 0.0)
    assert guesses.admit("127.0.0.1", PAUSE_S) == MAX_WAIT_S  # one was paid off


def test_the_right_password_owes_nothing():
    guesses = Guesses()
    for _ in range(10 * FREE_GUESSES):
        assert guesses.admit("127.0.0.1", 0.0) == 0.0
        guesses.forgive("127.0.0.1", 0.0)
    assert len(guesses) == 0


def test_a_right_password_forgives_no_wrong_ones():
    guesses = Guesses()
    for _ in range(FREE_GUESSES):
        guesses.admit("127.0.0.1", 0.0)
    assert guesses.admit("127.0.0.1", 0.0) == PAUSE_S
    guesses.forgive("127.0.0.1", PAUSE_S)
    assert guesses.admit("127.0.0.1", PAUSE_S) == 0.0
    assert guesses.admit("127.0.0.1", PAUSE_S) == PAUSE_S


def test_other_addresses_owe_nothing_but_a_network_of_ipv6_is_one():
    guesses = Guesses()
    for n in range(FREE_GUESSES):
        assert guesses.admit(f"fd00::{n:x}", 0.0) == 0.0
    assert guesses.admit("fd00::ffff:ffff", 0.0) == PAUSE_S
    assert guesses.admit("fd00:0:0:1::1", 0.0) == 0.0
    assert guesses.admit("fe80::1%lo", 0.0) == 0.0
    assert guesses.admit("127.0.0.1", 0.0) == 0.0


def test_what_is_remembered_is_bounded():
    guesses = Guesses()
    for n in range(MAX_ADDRESSES + 1000):
        guesses.admit(f"127.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0)
    assert len(guesses) == MAX_ADDRESSES
