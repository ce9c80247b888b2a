"""Names, reasons and errors full of escapes and newlines: logs, terminals and errors show each in one harmless line."""

import contextlib
import re

import pytest

from mmgevent.wire.hello import PYTHON_VERSION, dill_version
from mmgevent.wire.messages import PROTOCOL, control
from tests.trust.raw_peer import RawDriver, RawWorker, running, running_server, wait_until
from tests.trust.raw_server import hostile_server
from tests.trust.test_hostile_server import EVIL, HUGE, is_harmless

#: Each line of a log begins with the time.
STAMP = re.compile(r"\d\d:\d\d:\d\d ")

MAX_LINE_CHARS = 2100

JOB = "datasource = {n: n for n in range(3)}\ndef mapfn(key, value):\n    yield key, value\n"


def check_log(said, begins=STAMP):
    """Every line is harmless, bounded, and begins as lines of ours do."""
    for line in said.splitlines():
        assert is_harmless(line), line
        assert len(line) <= MAX_LINE_CHARS
        assert begins.match(line), line


def evil_hello(role, **fields):
    about = {
        "protocol": PROTOCOL,
        "python": PYTHON_VERSION,
        "dill": dill_version(),
        "version": EVIL,
        "host": EVIL,
    }
    return control("hello", role=role, pid=1, **{**about, **fields})


def log_of(process):
    """Return what a server logged after it has said how to join it."""
    return "\n".join(
        line for line in process.said.splitlines() if not re.match(r"mmg-server:|    mmg-|with the", line)
    )


def test_a_server_logs_harmless_lines_whatever_its_peers_say(tmp_path):
    with running_server(tmp_path, "-v") as server:
        for role, fields in (("worker", {"slots": 1}), ("driver", {})):
            for python in (PYTHON_VERSION, EVIL, HUGE[:30_000]):
                with (
                    RawWorker(server.address, says_hello=False)
                    if role == "worker"
                    else RawDriver(server.address, says_hello=False) as peer
                ):
                    peer.send(evil_hello(role, python=python, **fields))
                    if python == PYTHON_VERSION:
                        peer.say("cancel", 5, reason=HUGE[:40_000])
                        peer.say("goodbye", reason=HUGE[:40_000])
                    peer.send_bytes(b"\x1b[31m\n" * 100)
                    peer.wait_closed()
        with RawDriver(server.address) as driver:
            driver.say("submit", 1, name=EVIL, options={EVIL: EVIL}, code_bytes=1, fingerprint=EVIL)
            driver.say("goodbye", reason=EVIL)
            driver.send_bytes(b"\n")
            driver.wait_closed()
        wait_until(lambda: server.said.count("x1b") >= 3, "the server logs what it was told")
        assert server.process.poll() is None
        check_log(log_of(server))


def test_a_command_shows_what_a_hostile_worker_says_in_harmless_lines(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(JOB)
    with (
        running_server(tmp_path) as server,
        RawWorker(server.address, says_hello=False) as worker,
    ):
        worker.send(evil_hello("worker", slots=1))
        with running(tmp_path, "run", "--join", server.where, "--set", "retries=0", str(path)) as command:
            assign = worker.take()
            worker.say("notice", *assign[0].lane, text=EVIL)
            failure = dict.fromkeys(
                ("error", "key", "worker", "function", "traceback", "last_words", "kind"), EVIL
            )
            worker.say("failed", *assign[0].lane, failure=failure, item=0)
            assert command.wait() == 1
        said = command.said
        assert is_harmless(said, lines=True)
        assert r"\x1b[31mred" in said
        assert "Traceback (most" not in said
        check_log(log_of(server))


@pytest.mark.long
@pytest.mark.parametrize("word", ["goodbye", "refused", "moved"])
def test_a_worker_logs_what_a_hostile_server_says_in_harmless_lines(tmp_path, word):
    fields = {
        "goodbye": {"reason": HUGE[:40_000]},
        "refused": {"code": "busy", "error": HUGE[:40_000]},
        "moved": {"address": EVIL},
    }[word]

    def greet(guest):
        guest.say(word, **fields)

    with (
        hostile_server(lambda *_: None, on_hello=greet) as server,
        running(tmp_path, "worker", "-v", "--procs", "1", server.where) as worker,
        contextlib.suppress(AssertionError),
    ):
        worker.wait_said("x1b")
    assert r"\x1b[31mred" in worker.said
    check_log(worker.said, re.compile(rf"{STAMP.pattern}|mmg-worker: "))
