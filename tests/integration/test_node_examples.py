"""The examples of nodes, as processes: elections, kills, prompts, terminals and HTTP."""

import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import psutil
import pytest

from benchmarks.make_corpus import make_corpus
from tests.integration.commands import ROOT, read_tsv
from tests.ports import free_port

EXAMPLES = ROOT / "examples"

#: for something to happen in other processes of a busy machine; reached only when something is broken
LATE_S = 60.0
#: between two looks
LOOK_S = 0.02

#: makes the terminal that is its stdin the one whose Ctrl-C it gets, and becomes another program
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def wait_until(is_so, what):
    until = time.monotonic() + LATE_S
    while not (found := is_so()):
        assert time.monotonic() < until, f"did not happen: {what() if callable(what) else what}"
        time.sleep(LOOK_S)
    return found


class Example:
    """A running example, and all it has said so far."""

    def __init__(self, environ, name, *argv):
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *map(str, argv)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            env=environ,
            text=True,
            encoding="utf-8",
        )
        self.out, self.err = [], []
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,))
            for lines, stream in ((self.out, self.process.stdout), (self.err, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def say(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def wait_for(self, pattern, lines=None):
        """Wait for a line on stdout, or among `lines`; return the match."""
        lines = self.out if lines is None else lines
        found = wait_until(
            lambda: [match for line in list(lines) if (match := re.search(pattern, line))],
            lambda: f"{pattern!r}; it said {self.out} {self.err}",
        )
        return found[0]

    def wait_for_executor(self):
        """Wait until a process runs its functions."""
        me = psutil.Process(self.process.pid)
        wait_until(
            lambda: "mmg-executor" in [name_of(child) for child in me.children(recursive=True)],
            "an executor at work",
        )

    def end(self, number=None):
        """Send a signal, or close stdin; return the exit code once it has ended."""
        if number is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(number)
        self.process.wait(LATE_S)
        self.close()
        return self.process.returncode

    def close(self):
        """Kill it if it runs; idempotent."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(LATE_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


def name_of(process):
    with contextlib.suppress(psutil.Error):
        return process.name()


@pytest.fixture
def start(commands):
    """Start examples, or what the keyword `cls` says, with a home of their own; end them with the test."""
    with contextlib.ExitStack() as started:

        def start(name, *argv, cls=Example, environ=None):
            example = cls({**commands.environ, **(environ or {})}, name, *argv)
            started.callback(example.close)
            return example

        yield start


@pytest.fixture
def corpus(tmp_path):
    return sorted(make_corpus(3_000_000, 6, seed=3, folder=tmp_path).iterdir())


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def count_words(paths):
    texts = (path.read_text(encoding="utf-8").lower() for path in paths)
    return collections.Counter(word for text in texts for word in re.findall(r"[a-z']+", text))


def find_top(counts, n):
    """Return n (word, count), highest counts first; of equal counts the later words."""
    return sorted(counts.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:n]


# election


def test_election_elects_another_when_the_server_is_killed(commands, start, address):
    second = f"127.0.0.1:{free_port()}"
    nodes = [start("election.py", f"{address},{second}") for _ in range(3)]

    def places(running):
        return sorted(node.out[-1].split()[1] if node.out else "" for node in running)

    def is_settled(running):
        return places(running) == ["server"] + ["worker"] * (len(running) - 1)

    wait_until(lambda: is_settled(nodes), lambda: [node.out for node in nodes])
    [server] = [node for node in nodes if "server at" in node.out[-1]]
    assert server.out[-1] == f"{server.process.pid} server at {address}\n"
    server.end(signal.SIGKILL)
    nodes.remove(server)
    for node in nodes:
        node.wait_for("connecting: ")
    wait_until(lambda: is_settled(nodes), lambda: [node.out for node in nodes])
    for node in nodes:  # all before any ends: the others notice the end of the server
        assert node.out[-1].endswith(f"{address}\n")
    for node in nodes:
        assert node.end(signal.SIGINT) == 130
        assert node.err == []
    assert commands.left_behind() == []


def test_election_says_what_is_wrong_with_a_password(commands, start, address):
    first = start("election.py", address)
    first.wait_for("server at")
    other = start("election.py", address, environ={"MMG_PASSWORD": "not that of the others"})
    wait_until(lambda: other.process.poll() is not None, "its end")
    assert other.end() == 1
    assert re.search("election.py: .*password", other.err[-1])
    assert first.end(signal.SIGINT) == 130


# masterless


def test_masterless_processes_count_for_one_another(commands, start, address, corpus):
    parts = [corpus[:1], corpus[1:3], corpus[3:]]
    running = [start("masterless.py", "-a", address, "-n", 10**6, *part) for part in parts]
    for example, part in zip(running, parts, strict=True):
        assert example.end() == 0, example.err
        counts = read_tsv("".join(example.out))
        assert counts == count_words(part)
        assert list(counts.items()) == find_top(counts, len(counts))
    assert commands.left_behind() == []


def test_masterless_goes_on_when_the_server_leaves_first(commands, start, address, corpus):
    first = start("masterless.py", "-a", address, "-n", 5, *corpus[:3])
    first.wait_for("server", first.err)
    first.process.send_signal(signal.SIGSTOP)  # not its engine, which is the server
    second = start("masterless.py", "-a", address, "-n", 5, *corpus)
    second.wait_for("worker", second.err)
    second.process.send_signal(signal.SIGSTOP)  # so that it is not done before the first has left
    assert first.end(signal.SIGCONT) == 0
    assert second.end(signal.SIGCONT) == 0
    second.wait_for(r"^\d+ server$", second.err)
    for example, paths in ((first, corpus[:3]), (second, corpus)):
        assert list(read_tsv("".join(example.out)).items()) == find_top(count_words(paths), 5)
    assert commands.left_behind() == []


# daemon


def test_daemon_reads_on_while_jobs_run_and_waits_for_them_at_the_end(commands, start, address):
    daemon = start("daemon.py", address)
    daemon.say("100000\nmany\n10\n")
    daemon.wait_for("expected a number, got 'many'", daemon.err)
    daemon.wait_for("below 10: 4 primes")  # its answer comes while the input is open
    daemon.say("0\n1000\n2000\n")
    assert daemon.end() == 0
    primes = {0: 0, 10: 4, 1000: 168, 2000: 303, 100000: 9592}
    assert sorted(daemon.out) == sorted(f"below {limit}: {n} primes\n" for limit, n in primes.items())
    assert commands.left_behind() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_daemon_cancels_its_jobs_and_ends_at_a_signal(commands, start, address, number, code):
    daemon = start("daemon.py", address)
    daemon.say("1000000000\n")
    daemon.wait_for_executor()
    assert daemon.end(number) == code
    assert "cancelled" in "".join(daemon.out)
    assert "Traceback" not in "".join(daemon.err)
    assert commands.left_behind() == []


# repl


def test_repl_answers_lines_of_a_pipe_and_survives_what_fails(commands, start, address, corpus):
    worker = commands.start("worker", "--elect", "--procs", 1, address)
    repl = start("repl.py", address)
    pattern = corpus[0].parent / "*"
    wait_until(lambda: len(ask_for_workers(repl)) == 2, lambda: (repl.out, repl.err))
    for line, complaint in (("/no/such/file", "no input files: /no/such/file"), ("'open", "No closing quot")):
        repl.say(f"{line}\n")
        repl.wait_for(complaint, repl.err)
    repl.say(f"'{pattern}'\n")
    assert repl.end() == 0
    top = [f"{count}  {word}\n" for word, count in find_top(count_words(corpus), 10)]
    assert repl.out[-10:] == top
    assert re.fullmatch(r"\S+/\d+  Linux-\S+  load \d+\.\d  python \d+\.\d+\.\d+\n", repl.out[0])
    worker.terminate()
    worker.wait(LATE_S)
    assert commands.left_behind() == []


def ask_for_workers(repl):
    """Return the names of all that have answered so far."""
    before = len(repl.out)
    repl.say("\n")
    wait_until(lambda: len(repl.out) > before, lambda: (repl.out, repl.err))
    return {line.split()[0] for line in list(repl.out)}


class Terminal:
    """An example at a terminal: what is typed, and what is seen."""

    def __init__(self, environ, name, *argv):
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, EXAMPLES / name, *map(str, argv)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env={**environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""
        self._from = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def type(self, keys):
        os.write(self._ours, keys.encode())

    def wait_for(self, text):
        """Wait until the text is seen, after what was waited for before."""
        wait_until(lambda: self.seen.find(text, self._from) >= 0, lambda: f"{text!r} in {self.seen!r}")
        self._from = self.seen.find(text, self._from) + len(text)

    def wait_for_end(self):
        """Return the exit code."""
        self.process.wait(LATE_S)
        return self.process.returncode

    def close(self):
        """Kill it if it runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join(LATE_S)
        os.close(self._ours)

    def _read(self):
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self._ours, 65536):
                self.seen += data.decode()


PROMPT = "words of> "


def test_repl_at_a_terminal_has_a_history_and_ends_at_ctrl_d(commands, start, address):
    history = commands.folder / "history"
    few = commands.write("few.txt", "a rose is a rose is a rose")
    for keys in (f"{few}\r", "\x10\r"):  # the second time Ctrl-P: the line of the last run
        terminal = start("repl.py", address, "--history", history, cls=Terminal)
        terminal.wait_for(PROMPT)
        terminal.type(keys)
        terminal.wait_for("3  rose\r\n3  a\r\n2  is\r\n")
        terminal.wait_for(PROMPT)
        terminal.type("\r")
        terminal.wait_for("  python ")
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0, terminal.seen
        assert "Traceback" not in terminal.seen
    assert history.read_text().splitlines() == [few]  # readline leaves out what repeats the line before
    assert commands.left_behind() == []


def test_ctrl_c_cancels_a_job_of_the_repl_and_at_the_prompt_ends_it(commands, start, address):
    many = commands.write("many.txt", "the " * 6_000_000)
    terminal = start("repl.py", address, "--history", commands.folder / "history", cls=Terminal)
    terminal.wait_for(PROMPT)
    terminal.type(f"{many}\r")
    me = psutil.Process(terminal.process.pid)
    wait_until(
        lambda: "mmg-executor" in [name_of(child) for child in me.children(recursive=True)],
        lambda: f"an executor at work; seen was {terminal.seen!r}",
    )
    terminal.type("\x03")
    terminal.wait_for("cancelled")
    terminal.wait_for(PROMPT)
    terminal.type("\x03")
    assert terminal.wait_for_end() == 0, terminal.seen
    assert "Traceback" not in terminal.seen
    assert commands.left_behind() == []


# webfarm

PROCESSES = 3


class Farm(Example):
    """A web farm and its only client."""

    def __init__(self, environ, name, *argv):
        super().__init__(environ, name, *argv)
        self.url = self.wait_for("http://.*:[0-9]+")[0]

    def get(self, path):
        """Return the answer to a request; None if there is none, or 503: come again."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=LATE_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:
                    return None
                return {**json.load(error), "status": error.code}
        except (OSError, ValueError):  # the process that would have answered was killed
            return None

    def wait_for_workers(self, gone=None):
        """Wait until all processes are asked by a request; return their engines' pids."""

        def all_pids():
            stats = self.get("/stats") or {"workers": []}
            pids = {int(name.rpartition("/")[2]) for name in stats["workers"]}
            return pids if len(pids) == PROCESSES and gone not in pids else None

        return wait_until(all_pids, lambda: (self.get("/stats"), self.err))

    def wait_for_count(self, word, count):
        answer = wait_until(lambda: self.get(f"/count?word={word}"), lambda: self.err)
        assert answer == {"word": word, "count": count, "by": answer["by"]}
        assert sum(answer["by"].values()) == count
        return answer

    def find_elected(self, address):
        """Return the engine that listens, as a process."""
        port = int(address.rpartition(":")[2])

        def listening():
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    for connection in child.net_connections("tcp"):
                        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                            return child

        return wait_until(listening, "a server")


def farm_options(address):
    return ("--port", 0, "--elect", address, "-n", PROCESSES)


@pytest.mark.parametrize("victim", ["its engine", "the whole process"])
def test_webfarm_answers_again_after_the_elected_process_is_killed(commands, start, address, corpus, victim):
    word, count = find_top(count_words(corpus), 1)[0]
    farm = start("webfarm.py", *farm_options(address), *corpus, cls=Farm)
    engines = farm.wait_for_workers()
    children = {process.pid for process in psutil.Process(farm.process.pid).children()}
    assert engines == {engine.pid for pid in children for engine in psutil.Process(pid).children()}
    farm.wait_for_count(word, count)
    elected = farm.find_elected(address)
    assert elected.pid in engines
    (elected if victim == "its engine" else elected.parent()).kill()
    farm.wait_for_count(word, count)
    assert len(farm.wait_for_workers(gone=elected.pid) - engines) == 1
    farm.wait_for_count(word, count)
    assert farm.find_elected(address).pid != elected.pid
    if victim == "its engine":  # the process itself has lived on
        assert children == {process.pid for process in psutil.Process(farm.process.pid).children()}
    assert farm.end(signal.SIGTERM) == 143
    assert "Traceback" not in "".join(farm.err), farm.err
    assert commands.left_behind() == []


def test_webfarm_leaves_nothing_behind_when_its_first_process_is_killed(commands, start, address):
    farm = start("webfarm.py", *farm_options(address), cls=Farm)
    farm.wait_for_workers()
    assert farm.get("/nothing") == {"error": "expected /count or /stats", "status": 404}
    assert farm.get("/count") == {"error": "expected /count?word=WORD", "status": 400}
    assert farm.end(signal.SIGKILL) == -signal.SIGKILL
    assert commands.left_behind() == []


def test_the_application_of_webfarm_serves_under_a_server_that_forks_after_importing_it(
    commands, start, address
):
    text = commands.write("few.txt", "a rose is a rose is a rose")
    host = commands.write(
        "host.py",
        """
import os, signal, sys, wsgiref.simple_server
import webfarm

server = wsgiref.simple_server.make_server("127.0.0.1", 0, webfarm.application)
children = [os.fork()]
if children[0]:
    children.append(os.fork())
if 0 in children:
    server.serve_forever()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    signal.pause()
finally:
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
""",
    )
    environ = {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(EXAMPLES))),
        "MMG_ELECT": address,
        "WEBFARM_FILES": text,
    }
    farm = start(host, cls=Farm, environ=environ)
    asked = set()
    wait_until(
        lambda: asked.add((farm.get("/stats") or {}).get("asked")) or len(asked - {None}) == 2,
        lambda: (asked, farm.err),
    )
    farm.wait_for_count("rose", 3)
    assert len(farm.get("/stats")["workers"]) == 2
    assert farm.end(signal.SIGTERM) == 0
    assert commands.left_behind() == []
