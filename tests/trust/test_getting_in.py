"""Who does not know the password gets nothing: neither in, nor a byte of a job, nor in the way of others."""

import contextlib
import socket
import ssl
import threading
import time

import psutil
import pytest

from mmgevent.access.handshake import (
    CLIENT_HELLO_BYTES,
    PROOF_BYTES,
    REFUSAL,
    SERVER_HELLO_BYTES,
)
from mmgevent.engine.net.tls import HANDSHAKE_S
from mmgevent.wire.frames import CODE, Frame
from mmgevent.wire.messages import PROTOCOL, control
from tests.integration.commands import Commands, wait_for
from tests.trust.authority import Authority
from tests.trust.strangers import (
    KEY,
    PASSWORD,
    WAIT_S,
    Impostor,
    Server,
    client_context,
    client_machine,
    connect_plain,
    connect_tls,
    impostor_context,
    prove,
    read_to_end,
    receive,
    relay_to,
    wait_until,
)

#: all that a client says before the server has proved the password
BEFORE_THE_PROOF = CLIENT_HELLO_BYTES + PROOF_BYTES

JOB = """
datasource = [(n, "the quick brown fox") for n in range(20)]
def mapfn(key, text):
    for word in text.split():
        yield word, 1
def reducefn(word, counts):
    return sum(counts)
"""
RESULT = "brown\t20\nfox\t20\nquick\t20\nthe\t20\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One server for all the strangers of this file."""
    server = Server(tmp_path_factory.mktemp("house"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def the_server_outlives_the_stranger(house):
    house.forget()
    yield
    house.assert_serves()


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    started.environ["MMG_PASSWORD"] = PASSWORD
    yield started
    started.close()


@pytest.fixture(scope="module")
def his_certificate(tmp_path_factory):
    """Certificate and key of somebody who has nothing to do with us."""
    return Authority(tmp_path_factory.mktemp("his"), "his").issue("mmgevent")


@pytest.fixture
def impostor():
    """Make impostors: impostor(talk)."""
    with contextlib.ExitStack() as opened:

        def make(talk):
            made = Impostor(talk)
            opened.callback(made.close)
            return made

        yield make


# strangers who come to the server


@pytest.mark.parametrize(
    ("connect", "says", "reason"),
    [
        (connect_plain, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not speak TLS 1.3: HTTP_REQUEST"),
        (connect_plain, b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak TLS 1.3"),
        (connect_plain, b"challenge:6d6d6765\n", "does not speak TLS 1.3"),
        (connect_plain, b"MMGEVENT\2\1" + bytes(32), "does not speak TLS 1.3"),
        (connect_tls, b"GET / HTTP/1.1\r\n\r\n", "this is HTTP"),
        (connect_tls, b"SSH-2.0-OpenSSH_9.6\r\n", "this is SSH"),
        (connect_tls, b"challenge:6d6d6765\n", "it begins with b'challeng'"),
        (connect_tls, b"\x16\x03\x01\x02\x00\x01", "this is TLS within TLS"),
        (connect_tls, b"MMGEVENT\2\7" + bytes(32), "the unknown role 7"),
        (connect_tls, b"MMGEVENT\3\1" + bytes(32), "version 3"),
    ],
    ids=lambda value: value.decode("latin-1")[:12] if isinstance(value, bytes) else None,
)
def test_a_stranger_is_sent_away_and_told_nothing_but_our_version(house, connect, says, reason):
    with connect(house.address) as sock:
        name = sock.getsockname()
        with contextlib.suppress(OSError):  # it may be closed already
            sock.sendall(says)
        answer = read_to_end(sock)
    assert reason in house.said_of(name)
    if connect is connect_tls:
        assert answer[:9] in (b"", b"MMGEVENT\2")
        assert len(answer) <= SERVER_HELLO_BYTES
    else:
        assert len(answer) < 100  # at most a record of TLS that says why


def speak_tls_1_2(context):
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def speak_http_2(context):
    context.set_alpn_protocols(["h2"])


def speak_of_nothing(context):
    context.set_alpn_protocols([])


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (speak_tls_1_2, "does not speak TLS 1.3: UNSUPPORTED_PROTOCOL"),
        (speak_http_2, "speaks TLS but not mmgevent"),
        (speak_of_nothing, "speaks TLS but not mmgevent"),
    ],
)
def test_tls_of_another_version_or_for_another_purpose_is_not_enough(house, prepare, reason):
    context = client_context()
    prepare(context)
    plain = connect_plain(house.address)
    name = plain.getsockname()
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(plain) as sock:
        assert not prove(sock)
    assert reason in house.said_of(name)


@pytest.mark.parametrize("connect", [connect_plain, connect_tls], ids=["plain", "in TLS"])
def test_a_gibibyte_without_a_newline_is_cut_at_its_beginning(house, connect):
    block, sent = b"x" * (1 << 20), 0
    with connect(house.address) as sock, contextlib.suppress(ConnectionError, ssl.SSLError):
        while sent < 1 << 30:
            sock.sendall(block)
            sent += len(block)
    assert sent < 64 << 20  # what the kernels of both sides hold


def test_who_dawdles_is_cut_when_the_time_is_up(house):
    """Silence, every byte echoed, half of TLS, silence in TLS, silence after the hello, a byte a second: at once."""
    began = time.monotonic()
    silent, echoing, dripping = (connect_plain(house.address) for _ in range(3))
    half = connect_plain(house.address)
    half.sendall(bytes.fromhex("1603010200010001fc0303"))
    quiet, polite = connect_tls(house.address), connect_tls(house.address)
    polite.sendall(client_machine(polite).start())
    assert len(receive(polite, SERVER_HELLO_BYTES)) == SERVER_HELLO_BYTES

    def echo():
        with contextlib.suppress(ConnectionError):
            while data := echoing.recv(1):
                echoing.sendall(data)

    cut = threading.Event()

    def drip():  # a second apart is what this is about
        context = client_context()
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(into, out).do_handshake()
        with contextlib.suppress(ConnectionError):
            for byte in out.read():
                dripping.sendall(bytes([byte]))
                if cut.wait(1.0):
                    return

    threads = [threading.Thread(target=echo), threading.Thread(target=drip)]
    for thread in threads:
        thread.start()
    for sock in (silent, half, quiet, polite, dripping):
        assert read_to_end(sock) == b""
    threads[0].join(WAIT_S)
    assert time.monotonic() - began >= HANDSHAKE_S - 1  # for nothing but the time
    cut.set()
    threads[1].join(WAIT_S)
    for sock in (silent, echoing, half, quiet, polite, dripping):
        assert f"did not finish the handshake in {HANDSHAKE_S:g} s" in house.said_of(sock.getsockname())
        sock.close()


def test_who_echoes_the_servers_bytes_does_not_prove_anything(house):
    with connect_tls(house.address) as sock:
        sock.sendall(client_machine(sock).start())
        hello = receive(sock, SERVER_HELLO_BYTES)
        sock.sendall(hello[:PROOF_BYTES])
        assert read_to_end(sock) == REFUSAL


def test_500_half_open_handshakes_do_not_keep_a_worker_out(house, commands):
    half_hello = bytes.fromhex("1603010200010001fc0303")
    with contextlib.ExitStack() as opened:
        for n in range(500):
            stranger = opened.enter_context(connect_plain(house.address))
            if n % 2:
                stranger.sendall(half_hello)
        worker = commands.start("worker", "--procs", "1", house.where)
        wait_for(worker.stderr, "joined the server")


def test_nothing_after_a_wrong_proof_is_looked_at(house):
    hello = control(
        "hello",
        role="worker",
        protocol=PROTOCOL,
        python="0.0",
        dill="0",
        version="0",
        host="h",
        pid=1,
        slots=1,
    )
    with connect_tls(house.address) as sock:
        name = sock.getsockname()
        sock.sendall(client_machine(sock).start())
        receive(sock, SERVER_HELLO_BYTES)
        sock.sendall(bytes(PROOF_BYTES) + hello.encode() + Frame(CODE, b"x" * 1000, 1).encode())
        assert read_to_end(sock)[: len(REFUSAL)] in (REFUSAL, b"")  # it may be reset with that unread
    assert "came with another password" in house.said_of(name)
    with connect_tls(house.address) as sock:  # and a right one's frames are: the version above is refused
        machine = client_machine(sock)
        sock.sendall(machine.start())
        proof = machine.feed(receive(sock, SERVER_HELLO_BYTES))
        sock.sendall(proof + hello.encode())
        machine.feed(receive(sock, PROOF_BYTES))
        assert machine.done
        assert b"install the same version of Python" in read_to_end(sock)


# what was overheard


def record_a_session(house):
    """Return what a client and the server said on the wire while the client proved the password."""
    said = {True: b"", False: b""}

    def keep(upwards, data):
        said[upwards] += data
        return data

    relay = Impostor(relay_to(house.address, keep))
    with connect_tls(relay.address) as sock:
        assert prove(sock)
    relay.close()
    return said


@pytest.fixture(scope="module")
def session(house):
    return record_a_session(house)


def test_a_recorded_session_opens_nothing_whole_or_cut_anywhere(house, session):
    recording = session[True]
    for length in (len(recording), *range(1, len(recording), max(1, len(recording) // 60))):
        with connect_plain(house.address) as sock:
            name = sock.getsockname()
            with contextlib.suppress(OSError):  # it may be closed already
                sock.sendall(recording[:length])
                sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
        house.said_of(name)  # refused, for whatever reason


#: after a change that makes both sides wait for more bytes than there are; it decides nothing
STALL_S = 1.0


def try_with_a_change(house, upwards, position):
    """Prove the password through a relay that changes one byte; return whether it came to that, and who got in."""
    seen = {True: 0, False: 0}
    changed = []

    def change(way, data):
        at, seen[way] = position - seen[way], seen[way] + len(data)
        if way is not upwards or not 0 <= at < len(data):
            return data
        changed.append(threading.Timer(STALL_S, relay.cut))
        changed[0].start()
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    relay = Impostor(relay_to(house.address, change))
    got_in = False
    with contextlib.suppress(OSError), connect_tls(relay.address) as sock:
        got_in = prove(sock)
    relay.close()
    for timer in changed:
        timer.cancel()
    return bool(changed), got_in


@pytest.mark.parametrize("upwards", [True, False], ids=["to the server", "to the client"])
def test_a_byte_changed_anywhere_on_the_wire_ends_the_connection(house, session, upwards):
    total = len(session[upwards])
    for position in range(0, total - 120, max(1, total // 60)):  # lengths differ a little: signatures do
        assert try_with_a_change(house, upwards, position) == (True, False), position
    assert try_with_a_change(house, upwards, 10 * total) == (False, True)


def test_proofs_of_one_connection_are_worth_nothing_on_another(house):
    """The same client hello on two connections at once: each server hello is a challenge of its own."""
    with connect_tls(house.address) as one, connect_tls(house.address) as other:
        machine = client_machine(one)
        hello = machine.start()
        one.sendall(hello)
        other.sendall(hello)
        receive(other, SERVER_HELLO_BYTES)
        proof = machine.feed(receive(one, SERVER_HELLO_BYTES))
        other.sendall(proof)
        assert read_to_end(other) == REFUSAL
        one.sendall(proof)  # where it belongs it is good
        machine.feed(receive(one, PROOF_BYTES))
        assert machine.done


# in between


def test_a_relay_that_only_forwards_is_none_of_our_business(house, commands, impostor):
    commands.write("job.py", JOB)
    relay = impostor(relay_to(house.address))
    ended = commands.run("run", "--join", relay.where, "--procs", "1", "job.py")
    assert (ended.returncode, "".join(sorted(ended.stdout.splitlines(True)))) == (0, RESULT), ended.stderr


def run_and_work(commands, where):
    """Let a driver with a job and a worker go to this address; return how they ended."""
    commands.write("job.py", JOB)
    both = [
        commands.start("run", "--join", where, "job.py"),
        commands.start("worker", "--procs", "1", where),
    ]
    return [commands.finish(process) for process in both]


def test_a_man_in_the_middle_of_two_who_know_the_password_is_refused_by_both(
    house, commands, impostor, his_certificate
):
    heard = []

    def sit_between(plain):
        with impostor_context(*his_certificate).wrap_socket(plain, server_side=True) as front:
            back = connect_tls(house.address)
            name = back.getsockname()
            hello = receive(front, CLIENT_HELLO_BYTES)
            back.sendall(hello)
            front.sendall(receive(back, SERVER_HELLO_BYTES))
            proof = receive(front, PROOF_BYTES)
            back.sendall(proof)
            front.sendall(read_to_end(back))
            heard.append((name, hello + proof + read_to_end(front)))
            back.close()

    middle = impostor(sit_between)
    for ended in run_and_work(commands, middle.where):
        assert ended.returncode == 4, ended
        assert "the password was refused" in ended.stderr
    middle.close()  # then all it heard is there
    assert len(heard) == 2
    for name, said in heard:
        assert "came with another password" in house.said_of(name)
        assert len(said) == BEFORE_THE_PROOF


def echo(sock):
    while data := sock.recv(4096):
        sock.sendall(data)


def say_a_challenge(sock):
    sock.sendall(b"challenge:6d6d676576656e74\n")
    read_to_end(sock)


def say_hello_and_zeros(sock):
    sock.recv(4096)
    sock.sendall(b"MMGEVENT\2" + bytes(32) + bytes(PROOF_BYTES))
    read_to_end(sock)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (echo, "did not prove that it knows the password"),
        (say_a_challenge, "it is not an mmgevent server"),
        (say_hello_and_zeros, "did not prove that it knows the password"),
    ],
)
def test_an_impostor_hears_a_hello_and_a_proof_and_nothing_of_the_job(
    commands, impostor, his_certificate, talk, reason
):
    heard = []

    class Hearing:
        """A socket that remembers what was received."""

        def __init__(self, sock):
            self.sendall = sock.sendall
            self._sock = sock
            heard.append(b"")
            self._at = len(heard) - 1

        def recv(self, n_bytes):
            data = self._sock.recv(n_bytes)
            heard[self._at] += data
            return data

    def be_it(plain):
        with impostor_context(*his_certificate).wrap_socket(plain, server_side=True) as sock:
            talk(Hearing(sock))

    stranger = impostor(be_it)
    for ended in run_and_work(commands, stranger.where):
        assert ended.returncode == 4, ended
        assert reason in ended.stderr
    assert len(heard) == 2
    for said in heard:
        assert said[:9] == b"MMGEVENT\2"
        assert len(said) in (CLIENT_HELLO_BYTES, BEFORE_THE_PROOF)


@pytest.mark.parametrize("talk", [echo, say_a_challenge], ids=["echo", "challenge"])
def test_an_impostor_without_tls_hears_no_more_than_the_beginning_of_tls(commands, impostor, talk):
    stranger = impostor(talk)
    for ended in run_and_work(commands, stranger.where):
        assert ended.returncode == 4, ended
        assert "it is not an mmgevent server" in ended.stderr


# passwords


def password_file(commands, name, data, mode=0o600):
    path = commands.folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


NAMED = "pass\u00e9 compos\u00e9"  # NFC
SAME_NAMED = "passe\u0301 compose\u0301"  # NFD


@pytest.mark.parametrize(
    ("theirs", "ours", "agree"),
    [
        (NAMED, SAME_NAMED, True),
        ("twelve chars", "twelve chars\n", True),
        ("twelve chars", "twelve chars\r\n", True),
        ("twelve chars", "twelve chars \n", False),
        ("twelve chars", "twelve chars\n\n", False),
        ("nul\0bearing", "nul\0bearing\n", True),
        ("nul\0bearing", "nul", False),
        ("nul\0bearing", "nul\0other", False),
        ("x" * 4095, "x" * 4095 + "\n", True),
        ("x" * 4095, "x" * 4094, False),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_passwords_agree_when_they_are_the_same_text(commands, theirs, ours, agree):
    server_file = password_file(commands, "theirs", theirs.encode())
    client_file = password_file(commands, "ours", ours.encode())
    _, where = commands.start_server("--password-file", server_file)
    commands.write("job.py", JOB)
    ended = commands.run("run", "--password-file", client_file, "--join", where, "--procs", "1", "job.py")
    assert ended.returncode == (0 if agree else 4), ended.stderr


def test_a_password_of_a_mebibyte_is_refused_before_anything_is_started(commands):
    path = password_file(commands, "large", b"x" * (1 << 20))
    ended = commands.run("server", "--password-file", path)
    assert ended.returncode == 2
    assert "has more than 4096 bytes" in ended.stderr
    program = """
import mmgevent as mmg
for make in (lambda p: mmg.LocalCluster(1, listen="127.0.0.1:0", password=p),
             lambda p: mmg.connect("localhost:1", password=p),
             lambda p: mmg.Node("localhost:1", password=p)):
    try:
        make("x" * (1 << 20))
    except mmg.PasswordError as error:
        print(error)
"""
    ended = commands.finish(commands.start(program=("-c", program)))
    assert ended.stdout.count("the password given has more than 4096 bytes") == 3, ended.stderr
    assert "xxxx" not in ended.stdout + ended.stderr


#: a task that looks for the password in its own environment and in those of its parents, and waits to be looked at
LOOK_AROUND = """
import os, sys, time
gate = sys.argv[1]
datasource = [(1, gate)]
def mapfn(key, gate):
    open(gate, "w").close()
    while os.path.exists(gate):
        time.sleep(0.01)
    found = [name for name, value in os.environ.items() if "pa55word" in value]
    raise RuntimeError(f"saw {found or 'nothing'}")
"""


def test_the_password_is_in_no_log_error_command_line_or_child(commands):
    """Of a server, a worker and a driver that say all they can, while a job runs and when it fails."""
    password = "pa55word-of-nobody-else"
    commands.environ["MMG_PASSWORD"] = password
    commands.write("job.py", LOOK_AROUND)
    server, where = commands.start_server("-vv")
    worker = commands.start("worker", "-vv", "--procs", "1", where)
    looking, elected = [
        commands.start("run", "-vv", *options, "job.py", commands.folder / name)
        for name, options in (
            ("gate", ["--join", where, "--procs", "1"]),
            ("other-gate", ["--listen", "127.0.0.1:0", "--procs", "1"]),
        )
    ]
    for gate in ("gate", "other-gate"):
        wait_until(lambda gate=gate: (commands.folder / gate).exists(), "a task runs")
    given = {process.pid for process in (server, worker, looking, elected)}
    seen = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environ = process.environ()
            if environ.get("MMGEVENT_TESTED_BY") != commands.environ["MMGEVENT_TESTED_BY"]:
                continue
            seen += 1
            assert password not in " ".join(process.cmdline())
            if process.pid not in given:
                assert password not in "\0".join(environ.values()), process.cmdline()
    assert seen >= 4 + 2 + 4  # the commands, engines, templates and executors
    for gate in ("gate", "other-gate"):
        (commands.folder / gate).unlink()  # the task goes on, and fails
    said = []
    for process in (looking, elected):
        ended = commands.finish(process)
        assert ended.returncode == 1, ended.stderr
        assert "saw nothing" in ended.stderr, ended.stderr
        said += [ended.stdout, ended.stderr]
    for process in (worker, server):
        process.terminate()
        said += process.communicate(timeout=WAIT_S)
    with_error = commands.run("worker", "-vv", "--once", "localhost:x")
    assert password not in "".join(said) + with_error.stderr
    assert KEY.hex() not in "".join(said)
