"""Who has only the worker password lends a worker, and does nothing else: with raw peers, thieves and real commands."""

import contextlib
import hashlib
import re
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.access.handshake import (
    CLIENT_HELLO_BYTES,
    LENDER_REFUSAL,
    PROOF_BYTES,
    SERVER_HELLO_BYTES,
    ClientHandshake,
    LenderHandshake,
    ServerHandshake,
    derive_key,
)
from mmgevent.access.worker_key import SIGNATURE_BYTES, server_key
from mmgevent.wire.frames import BATCH, CODE, CONTROL, Frame
from mmgevent.wire.messages import control, decode_message
from tests.integration.commands import Commands, wait_for
from tests.oracle import plain_mapreduce
from tests.trust.authority import Authority
from tests.trust.raw_peer import (
    PASSWORD,
    RawPeer,
    RawWorker,
    connected,
    hello_of,
    running_server,
    running_worker,
    wait_until,
)
from tests.trust.strangers import Impostor, connect_tls, impostor_context, read_to_end, receive, relay_to

KEY = derive_key(PASSWORD)
WORKER_KEY = server_key(KEY).worker_key
ITEMS = [(n, n * n) for n in range(40)]


def spread(key, value):
    for digit in str(value):
        yield digit, value


def add(key, values):
    return sum(values)


EXPECTED = plain_mapreduce(ITEMS, spread, add)


class RawLender(RawWorker):
    """One connection of a worker that has proved the worker password, and says what it likes."""

    def _prove(self):
        digest = hashlib.sha256(self.sock.getpeercert(True)).digest()
        assert carry(self.sock, LenderHandshake(WORKER_KEY, digest))


def carry(sock, machine):
    """Carry the client's side of a handshake over a TLS socket; return whether it is done."""
    said = machine.start()
    while said or machine.needed:
        if said:
            sock.sendall(said)
        if not (data := sock.recv(machine.needed)):
            return False
        said = machine.feed(data)
    return machine.done


def prove_as_lender(address):
    with connect_tls(address) as sock:
        return carry(sock, LenderHandshake(WORKER_KEY, hashlib.sha256(sock.getpeercert(True)).digest()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server, a real worker that has the worker password only, and a driver that watches: for all tests."""
    folder = tmp_path_factory.mktemp("place")
    path = folder / "worker-password"
    path.write_text(WORKER_KEY.encode())
    path.chmod(0o600)
    with (
        running_server(folder) as server,
        running_worker(folder, server, "--worker-password-file", str(path)) as worker,
        connected(server) as cluster,
    ):
        told = []
        cluster.watch(
            lambda worker: None, lambda number, reason: None, lambda number, data: told.append(data)
        )
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster, told=told, path=path)
        assert told == []
        assert server.process.poll() is None
        assert worker.process.poll() is None
        assert "fault of our own" not in server.said
        assert "Traceback" not in server.said + worker.said


def assert_it_works(place):
    job = mmg.Job(datasource=ITEMS, mapfn=spread, reducefn=add)
    assert place.cluster.run(job) == EXPECTED


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    started.close()


@pytest.fixture(scope="module")
def his_certificate(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("his"), "his").issue("mmgevent")


# what a lender may do


def test_a_lender_works(place):
    assert_it_works(place)


SUBMIT = {"name": "mine", "options": {}, "code_bytes": 1, "fingerprint": "f"}
NOT_FOR_LENDERS = {
    "submit": control("submit", 1, **SUBMIT),
    "batch": control("batch", 1, 1, items=1, weight=1, size=1),
    "input_end": control("input_end", 1, batches=1),
    "cancel": control("cancel", 1, reason="no more"),
    "list_workers": control("list_workers"),
    "list_jobs": control("list_jobs"),
    "ask": control("ask", what="cancel", name="x"),
    "a looker's hello": hello_of("looker"),
    "watch": control("watch"),
    "dismiss": control("dismiss", 0, 1, reason="away with it"),
    "tell a worker": control("tell", 0, 1, data="eA=="),
    "tell drivers": control("tell", data="eA=="),
    "moved": control("moved", address="elsewhere:1"),
    "a second hello": hello_of("worker", slots=1),
    "a driver's hello": hello_of("driver"),
    "code": Frame(CODE, b"x", 1),
    "a batch's bytes": Frame(BATCH, b"x", 1, 1),
}


@pytest.mark.parametrize("frame", NOT_FOR_LENDERS.values(), ids=NOT_FOR_LENDERS)
def test_a_lender_who_does_anything_else_loses_its_link_and_learns_nothing(place, frame):
    workers = place.cluster.workers()
    with RawLender(place.server.address) as lender:
        lender.wait_for("hello")
        lender.send(frame)
        heard = []
        while (answer := lender.next_frame()) is not None:
            heard.append(decode_message(answer.payload)["type"] if answer.kind == CONTROL else answer.kind)
    assert set(heard) <= {"goodbye"}
    wait_until(lambda: place.cluster.workers() == workers, "only the raw lender is gone")
    assert place.told == []


def test_a_lender_cannot_begin_as_a_driver_or_offer_functions(place):
    for hello in (hello_of("driver"), hello_of("worker", slots=1, offers=["f"]), control("watch")):
        with RawLender(place.server.address, says_hello=False) as lender:
            lender.send(hello)
            lender.wait_closed()
    assert_it_works(place)


def test_a_worker_with_the_main_password_may_still_offer_functions(place):
    with RawPeer(place.server.address, "worker", says_hello=False) as worker:
        worker.send(hello_of("worker", slots=1, offers=["f"]))
        worker.wait_for("hello")


# who has stolen the worker password


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_a_thief_who_names_another_role_is_refused(place, role):
    """The server believes proofs, not roles."""
    with connect_tls(place.server.address) as sock:
        name = sock.getsockname()
        digest = hashlib.sha256(sock.getpeercert(True)).digest()
        assert not carry(sock, ClientHandshake(WORKER_KEY.secret, digest, role))
    where = re.escape("{}:{}".format(*name))
    wait_until(
        lambda: re.search(
            rf"connection refused: {where}: a {role} came with another password", place.server.said
        )
    )
    assert_it_works(place)


class ThiefsServer(ServerHandshake):
    """Takes every lender, and answers with a signature that it makes as well as it can."""

    def _on_lender_proof(self, message):
        self._transcript += message
        self.done = True
        return server_key(WORKER_KEY.secret).sign(self._statement(b"mmgevent/2 server to lender"))


def test_a_thief_who_plays_the_server_is_refused_by_a_lender(place, commands, his_certificate):
    heard = []

    def play_the_server(plain):
        with impostor_context(*his_certificate).wrap_socket(plain, server_side=True) as sock:
            der = ssl.PEM_cert_to_DER_cert(Path(his_certificate[0]).read_text())
            machine = ThiefsServer(bytes(32), hashlib.sha256(der).digest())
            said = b""
            while machine.needed:
                data = receive(sock, machine.needed)
                said += data
                sock.sendall(machine.feed(data))
            heard.append(said + read_to_end(sock))

    thief = Impostor(play_the_server)
    ended = commands.run("worker", "--procs", "1", "--worker-password-file", place.path, thief.where)
    thief.close()
    assert ended.returncode == 4, ended.stderr
    assert "did not prove that it knows the main password" in ended.stderr
    assert [len(said) for said in heard] == [CLIENT_HELLO_BYTES + PROOF_BYTES]


def test_a_man_in_the_middle_of_lender_and_server_is_refused_by_both(place, commands, his_certificate):
    """He passes on both proofs: the server's is over the server's certificate, the lender's over his."""
    refused = []

    def sit_between(plain):
        with (
            impostor_context(*his_certificate).wrap_socket(plain, server_side=True) as front,
            connect_tls(place.server.address) as back,
        ):
            back.sendall(receive(front, CLIENT_HELLO_BYTES))
            front.sendall(receive(back, SERVER_HELLO_BYTES))
            back.sendall(receive(front, PROOF_BYTES))
            refused.append(read_to_end(back))
            front.sendall(refused[0])
            read_to_end(front)

    middle = Impostor(sit_between)
    ended = commands.run("worker", "--procs", "1", "--worker-password-file", place.path, middle.where)
    middle.close()
    assert ended.returncode == 4, ended.stderr
    assert "the worker password was refused" in ended.stderr
    assert refused == [LENDER_REFUSAL]


def test_a_thief_who_lends_cannot_pass_the_servers_signature_on_to_another_lender(place, his_certificate):
    """He is a lender of the true server, and at the same time the server of another lender."""
    with connect_tls(place.server.address) as true:
        digest = hashlib.sha256(true.getpeercert(True)).digest()
        victim, thief = LenderHandshake(WORKER_KEY, b"h" * 32), LenderHandshake(WORKER_KEY, digest)
        thief._nonce = victim._nonce
        victim.start()
        true.sendall(thief.start())
        hello = receive(true, SERVER_HELLO_BYTES)
        victim.feed(hello)
        true.sendall(thief.feed(hello))
        signature = receive(true, SIGNATURE_BYTES)
    thief.feed(signature)
    assert thief.done
    victim.feed(signature)
    assert not victim.done
    assert "did not prove" in str(victim.error)


def test_a_recorded_lender_opens_nothing_whole_or_cut(place):
    said = []

    def keep(upwards, data):
        if upwards:
            said.append(data)
        return data

    relay = Impostor(relay_to(place.server.address, keep))
    assert prove_as_lender(relay.address)
    relay.close()
    recording = b"".join(said)
    workers = place.cluster.workers()
    for length in (len(recording), *range(1, len(recording), len(recording) // 8)):
        with socket.create_connection(place.server.address, 60) as sock:
            with contextlib.suppress(OSError):  # it may be closed already
                sock.sendall(recording[:length])
                sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
    assert place.cluster.workers() == workers


def test_a_lenders_wrong_proof_is_answered_and_named(place):
    other = server_key(derive_key("a former password")).worker_key
    with connect_tls(place.server.address) as sock:
        machine = LenderHandshake(other, hashlib.sha256(sock.getpeercert(True)).digest())
        assert not carry(sock, machine)
    assert "the worker password was refused; it belongs to one main password" in str(machine.error)
    wait_until(lambda: "a worker came with another worker password" in place.server.said)


# a cluster of equals


def test_a_lender_in_a_cluster_of_equals_joins_and_never_listens(commands, place):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = f"127.0.0.1:{port}"
    options = ["--procs", "1", "--elect", where]
    lender = commands.start("worker", "--worker-password-file", place.path, *options)
    wait_for(lender.stderr, "joins servers and never becomes one")
    wait_for(lender.stderr, "cannot connect to " + re.escape(where))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    equal = commands.start("worker", *options, environ={"MMG_PASSWORD": PASSWORD})
    wait_for(equal.stderr, "elected: this is the server")
    wait_for(lender.stderr, "joined the server at " + re.escape(where))
    equal.kill()
    wait_for(lender.stderr, "cannot connect to " + re.escape(where))  # nor as its successor
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    "make",
    [
        lambda password: mmg.Node("localhost:1", password=password),
        lambda password: mmg.connect("localhost:1", password=password),
        lambda password: mmg.LocalCluster(1, listen="127.0.0.1:0", password=password),
    ],
    ids=["node", "connect", "listen"],
)
def test_programs_need_the_main_password(make):
    with pytest.raises(mmg.PasswordError, match="submitting jobs and serving take the main password"):
        make(WORKER_KEY.encode())


# commands


def test_the_worker_password_is_as_easy_as_the_password(commands):
    """One command prints it, the file is found like the password's, and mmg-run says what it lacks."""
    printed = commands.run("server", "worker-password").stdout
    assert printed == commands.run("server", "worker-password").stdout
    _, where = commands.start_server()
    desktop = commands.folder / "desktop"
    config = desktop / ".config" / "mmgevent"
    config.mkdir(parents=True)
    (config / "worker-password").write_text(printed)
    (config / "worker-password").chmod(0o600)
    there = {"HOME": str(desktop)}
    worker = commands.start("worker", "-vv", "--procs", "1", where, environ=there)
    wait_for(worker.stderr, "joined the server")
    commands.write(
        "job.py", "datasource = {1: 2}\ndef mapfn(k, v): yield k, v\ndef reducefn(k, vs): return sum(vs)\n"
    )
    refused = commands.run("run", "--join", where, "job.py", environ=there)
    assert refused.returncode == 2
    assert "submitting jobs and serving take the main password" in refused.stderr
    assert not (config / "password").exists()
    ended = commands.run("run", "--join", where, "job.py")
    assert (ended.returncode, ended.stdout) == (0, "1\t2\n"), ended.stderr
    worker.terminate()
    assert printed.strip() not in "".join(worker.communicate(timeout=60))


def test_children_of_a_lender_do_not_find_the_worker_password(commands, place):
    program = (
        "import os, mmgevent.engine.start as start\n"
        "environ = start._environ()\n"
        "print(sorted(name for name in environ if 'PASSWORD' in name))\n"
    )
    environ = {"MMG_WORKER_PASSWORD": WORKER_KEY.encode(), "MMG_PASSWORD": "x"}
    ended = commands.finish(commands.start(program=("-c", program), environ=environ))
    assert ended.stdout == "[]\n", ended.stderr


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["run", "--worker-password-file", "FILE", "job.py"], "it is for mmg-worker; submitting jobs"),
        (["run", "--join", "localhost:1", "--password-file", "FILE", "job.py"], "is a worker password"),
        (["run", "--elect", "localhost:1", "--password-file", "FILE", "job.py"], "is a worker password"),
        (["server", "--worker-password-file", "FILE"], "it is for mmg-worker; submitting jobs and serving"),
        (["server", "--password-file", "FILE"], "is a worker password"),
        (["server", "worker-password", "FILE", "more"], "one FILE may follow `worker-password`"),
        (["server", "worker-password", "FILE", "-q"], "options stand before it"),
        (
            ["worker", "--password-file", "FILE", "localhost:1"],
            "give it to mmg-worker, with --worker-password-file",
        ),
        (
            ["worker", "-p", "x", "--worker-password-file", "FILE", "localhost:1"],
            "a worker needs one password",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_that_is_given_the_wrong_kind_says_which_it_wants(commands, place, argv, told):
    ended = commands.run(*(place.path if word == "FILE" else word for word in argv))
    assert ended.returncode == 2
    assert told in ended.stderr
    assert WORKER_KEY.encode() not in ended.stderr
