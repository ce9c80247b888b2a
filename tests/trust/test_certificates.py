"""Certificates of the user's own: they work, they are refused when wrong, and the password counts all the same."""

import contextlib
import datetime
import ssl
from pathlib import Path

import gevent
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import mmgevent as mmg
from mmgevent.engine.net import tls
from tests.integration.commands import Commands, wait_for
from tests.ports import free_port
from tests.trust.authority import DAY, Authority, key_pem
from tests.trust.strangers import (
    KEY,
    PASSWORD,
    Impostor,
    Server,
    client_context,
    connect_tls,
    impostor_context,
    prove,
    receive,
    wait_until,
)

JOB = """
datasource = [(1, "a b"), (2, "b")]
def mapfn(key, text):
    for word in text.split():
        yield word, 1
def reducefn(word, counts):
    return sum(counts)
"""
RESULT = ["a\t1", "b\t2"]


class Files:
    """Certificates of one authority, and of another, as options of commands."""

    def __init__(self, folder):
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        self.ours, self.theirs, self.folder = ours, theirs, folder
        self.server = self.options(ours.issue("server"), ours.ca)
        self.client = self.options(ours.issue("client"), ours.ca)

    @staticmethod
    def options(certificate, ca=None):
        cert, key = certificate
        return ["--tls-cert", cert, "--tls-key", key] + (["--tls-ca", ca] if ca else [])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def house(files):
    """A server that shows a certificate and asks for one."""
    server = Server(files.folder, *files.server)
    yield server
    server.close()


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    started.environ["MMG_PASSWORD"] = PASSWORD
    started.write("job.py", JOB)
    yield started
    started.close()


def assert_result(ended):
    assert (ended.returncode, sorted(ended.stdout.splitlines())) == (0, RESULT), ended.stderr


def test_who_has_certificate_and_password_gets_in(house, commands, files):
    worker = commands.start("worker", "--procs", "1", *files.client, house.where)
    wait_for(worker.stderr, "joined the server")
    assert_result(commands.run("run", "--join", house.where, *files.client, "job.py"))


def test_variables_stand_in_for_the_options(house, commands, files):
    names = [option.removeprefix("--").replace("-", "_").upper() for option in files.client[::2]]
    environ = {f"MMG_{name}": path for name, path in zip(names, files.client[1::2], strict=True)}
    assert_result(commands.run("run", "--join", house.where, "--procs", "1", "job.py", environ=environ))


def test_a_server_needs_no_authority_to_show_a_certificate(commands, files):
    """Its clients may check it, or leave that to the password."""
    _, where = commands.start_server(*Files.options(files.ours.issue("shown")))
    assert_result(commands.run("run", "--join", where, "--procs", "1", "--tls-ca", files.ours.ca, "job.py"))
    assert_result(commands.run("run", "--join", where, "--procs", "1", "job.py"))


def test_certificate_and_key_may_be_one_file(house, commands, files):
    cert, key = files.ours.issue("both")
    path = files.folder / "both.pem"
    path.write_bytes(Path(cert).read_bytes() + Path(key).read_bytes())
    argv = ["--tls-cert", path, "--tls-ca", files.ours.ca]
    assert_result(commands.run("run", "--join", house.where, "--procs", "1", *argv, "job.py"))


@pytest.mark.parametrize("command", ["run", "worker"])
@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_a_client_without_a_certificate_of_the_authority_is_refused(house, commands, files, command, who):
    options = [] if who == "nobody" else Files.options(files.theirs.issue(f"stranger-{command}"))
    argv = {
        "run": ["run", "--join", house.where, *options, "job.py"],
        "worker": ["worker", *options, house.where],
    }
    refusal = "the client's certificate was refused: "
    count = house.log.count(refusal)
    ended = commands.run(*argv[command])
    assert ended.returncode == 4, ended
    assert ended.stderr.startswith(f"mmg-{command}: {house.where} refused the certificate of this side")
    assert len(ended.stderr.splitlines()) == 1
    wait_until(lambda: house.log.count(refusal) == count + 1, "the server says whom it refused")


def test_everybody_who_is_refused_hears_why_and_of_no_lost_connection(house):
    """They come at once, and their hello with their certificate: a server that just closes would reset them."""

    def be_refused():
        with pytest.raises(mmg.AuthenticationError, match="refused the certificate of this side"):
            tls.connect(house.address, KEY, "worker")

    refused = [gevent.spawn(be_refused) for _ in range(100)]
    gevent.joinall(refused)
    assert [greenlet.exception for greenlet in refused if greenlet.exception] == []


def test_a_certificate_that_expired_on_the_way_is_refused_by_the_server(house, files):
    """One that the client's own check did not stop."""
    house.forget()
    context = client_context()
    context.load_cert_chain(*files.ours.issue("late", since=-2 * DAY, until=-DAY))
    with connect_tls(house.address, context) as sock:
        name = sock.getsockname()
        with contextlib.suppress(OSError):
            assert not prove(sock)
    assert "certificate was refused" in house.said_of(name)


@pytest.mark.parametrize("command", ["run", "worker"])
@pytest.mark.parametrize("shown", ["none of its own", "a stranger's", "an expired one"])
def test_a_server_without_a_certificate_of_the_authority_is_refused(commands, files, command, shown):
    certificate = {
        "none of its own": Authority(commands.folder, "mmgevent").issue("mmgevent"),
        "a stranger's": files.theirs.issue(f"server-{command}"),
        "an expired one": files.ours.issue(f"old-{command}", since=-2 * DAY, until=-DAY),
    }[shown]

    def talk(plain):
        with impostor_context(*certificate).wrap_socket(plain, server_side=True):
            raise AssertionError("the client went on")

    server = Impostor(talk)
    argv = {"run": ["run", "--join", server.where], "worker": ["worker"]}[command]
    ended = commands.run(*argv, *files.client, "job.py" if command == "run" else server.where)
    server.close()
    assert ended.returncode == 4, ended
    assert f"{server.where}: the certificate of the server was refused: " in ended.stderr
    assert ("expired" in ended.stderr) == (shown == "an expired one")
    assert len(ended.stderr.splitlines()) == 1


def test_a_throw_away_certificate_is_not_enough_for_who_asks_for_more(commands, files):
    server, where = commands.start_server()
    ended = commands.run("worker", *files.client, where)
    assert ended.returncode == 4, ended
    assert "the certificate of the server was refused" in ended.stderr
    wait_for(server.stderr, "the client refused the certificate of this server")


def test_a_certificate_does_not_replace_the_password(house, commands, files):
    environ = {"MMG_PASSWORD": "another password"}
    ended = commands.run("worker", *files.client, house.where, environ=environ)
    assert ended.returncode == 4, ended
    assert "the password was refused" in ended.stderr


def test_somebody_else_of_the_same_authority_cannot_be_in_the_middle(house, commands, files):
    """He has certificates that both sides accept, and they share the password, which he does not know."""
    certificate = files.ours.issue("middle")

    def sit_between(plain):
        context = client_context()
        context.load_cert_chain(*certificate)
        with (
            impostor_context(*certificate).wrap_socket(plain, server_side=True) as front,
            connect_tls(house.address, context) as back,
        ):
            for source, sink, n_bytes in ((front, back, 42), (back, front, 41), (front, back, 32)):
                sink.sendall(receive(source, n_bytes))
            front.sendall(receive(back, 32))

    middle = Impostor(sit_between)
    ended = commands.run("worker", *files.client, middle.where)
    middle.close()
    assert ended.returncode == 4, ended
    assert "the password was refused" in ended.stderr


def test_equals_ask_one_another(commands, files):
    where = f"127.0.0.1:{free_port()}"
    member = commands.start("worker", "--elect", "--procs", "1", *files.server, where)
    wait_for(member.stderr, "elected: this is the server")
    assert_result(commands.run("run", "--elect", where, "--procs", "1", *files.client, "job.py"))
    stranger = commands.run("worker", "--elect", "--procs", "1", where)
    assert stranger.returncode == 4, stranger
    assert "refused the certificate of this side" in stranger.stderr


def test_equals_that_would_all_refuse_one_another_are_told(commands, files):
    for argv in (["worker", "--elect", "localhost:1"], ["run", "--elect", "localhost:1", "job.py"]):
        ended = commands.run(argv[0], "--tls-ca", files.ours.ca, *argv[1:])
        assert ended.returncode == 2, ended
        assert "with --tls-ca they need --tls-cert, too" in ended.stderr


def double(key, value):
    yield key, 2 * value


def test_programs_take_certificates_as_well(files):
    server = mmg.Certificates(*files.server[1::2])
    client = mmg.Certificates(*files.client[1::2])
    with mmg.LocalCluster(1, listen="127.0.0.1:0", password=PASSWORD, certificates=server) as cluster:
        with mmg.connect(cluster.address, password=PASSWORD, certificates=client) as remote:
            assert remote.run(mmg.Job({1: 2}, double)) == {1: [4]}
        with pytest.raises(mmg.AuthenticationError, match="refused the certificate of this side"):
            mmg.connect(cluster.address, password=PASSWORD)
    with mmg.Node(f"127.0.0.1:{free_port()}", password=PASSWORD, certificates=server) as node:
        assert node.run(mmg.Job({1: 2}, double)) == {1: [4]}


# files that will not do


def wrong_files(files):
    """{what is wrong: (options, exit code, what is said)}"""
    cert, key = files.ours.issue("good")
    _, other_key = files.ours.issue("other")
    old = Files.options(files.ours.issue("old", since=-2 * DAY, until=-DAY))
    early = Files.options(files.ours.issue("early", since=DAY, until=2 * DAY))
    text = files.folder / "text"
    text.write_text("no PEM\n")
    locked = files.folder / "locked.key"
    locked.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1()), b"passphrase"))
    missing = files.folder / "missing"
    yesterday = datetime.datetime.now(datetime.UTC) - DAY
    return {
        "no certificate": (
            ["--tls-cert", missing],
            4,
            f"cannot read the certificate {missing}: No such file",
        ),
        "no key": (
            ["--tls-cert", cert, "--tls-key", missing],
            4,
            f"cannot read the key {missing}: No such file",
        ),
        "no authorities": (["--tls-ca", missing], 4, f"cannot read certificates of authorities {missing}"),
        "text": (["--tls-cert", text, "--tls-key", key], 4, f"{text} holds no certificate in PEM"),
        "text as key": (["--tls-cert", cert, "--tls-key", text], 4, f"{text} holds no private key in PEM"),
        "text as authorities": (["--tls-ca", text], 4, f"{text} holds no certificates of authorities in PEM"),
        "other key": (
            ["--tls-cert", cert, "--tls-key", other_key],
            4,
            f"the key in {other_key} is not that of",
        ),
        "key elsewhere": (["--tls-cert", cert], 4, f"{cert} holds no private key in PEM"),
        "key alone": (["--tls-key", key], 2, "is of no use without its certificate: add --tls-cert"),
        "passphrase": (["--tls-cert", cert, "--tls-key", locked], 4, "can be used without a passphrase"),
        "expired": (old, 4, f"has expired: it was valid until {yesterday:%Y-%m-%d}"),
        "not yet": (early, 4, "is not valid before"),
    }


WRONG = [
    *[
        "no certificate",
        "no key",
        "no authorities",
        "text",
        "text as key",
        "text as authorities",
        "other key",
    ],
    *["key elsewhere", "key alone", "passphrase", "expired", "not yet"],
]


@pytest.fixture(scope="module")
def wrong(files):
    found = wrong_files(files)
    assert set(found) == set(WRONG)
    return found


@pytest.mark.parametrize("what", WRONG)
def test_files_that_will_not_do_are_named_in_one_line(house, commands, wrong, what):
    options, code, said = wrong[what]
    started = {
        "mmg-server": commands.start("server", "--listen", "127.0.0.1:0", *options),
        "mmg-worker": commands.start("worker", "--procs", "1", *options, house.where),
        "mmg-run": commands.start("run", "--procs", "1", "--listen", "127.0.0.1:0", *options, "job.py"),
    }
    for name, process in started.items():
        ended = commands.finish(process)
        assert (ended.returncode, ended.stdout) == (code, ""), ended
        assert ended.stderr.startswith(f"{name}: ")
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize("command", ["worker", "run"])
def test_equals_end_as_well_when_their_files_will_not_do(commands, wrong, command):
    options, code, said = wrong["other key"]
    where = f"127.0.0.1:{free_port()}"
    argv = [where] if command == "worker" else ["job.py"]
    elect = ["--elect"] if command == "worker" else ["--elect", where]
    ended = commands.run(command, *elect, "--procs", "1", *options, *argv)
    assert ended.returncode == code, ended
    assert said in ended.stderr


def test_tls_1_2_with_a_good_certificate_is_refused(house, files):
    context = client_context()
    context.load_cert_chain(*files.ours.issue("older"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        connect_tls(house.address, context)
