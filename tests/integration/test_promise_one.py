"""A job gives the same inline, on this machine, and over a server of whose two workers one is killed.

Jobs are drawn by `random_jobs`; `python -m tests.integration.random_jobs SEED FOLDER` writes the one of a seed.
"""

import collections
import dataclasses
import functools
import os
import re
import select
import sys
import threading
import types
from typing import NamedTuple

import psutil
import pytest

import mmgevent as mmg
from tests.effort import some_of
from tests.integration.commands import Commands, wait_for
from tests.integration.random_jobs import HELPER, MAP_FORMS, POINT, SETTINGS, draw_job

#: jobs that `make test` draws; each takes one or two seconds of a core
SHORT = 30
#: jobs that `make test-all` draws
ALL = 300
SEEDS = [*range(SHORT), *(pytest.param(seed, marks=pytest.mark.long) for seed in some_of(range(SHORT, ALL)))]

#: seconds for a job that takes a few
PATIENCE_S = 100.0
#: lines of a server or worker that a failed test shows
SHOWN_LINES = 30

SET_ASIDE = re.compile(r"^(?:mmg-run: )?(?:WARNING:?\s*)?item set aside: (.*?): (.*)$", re.MULTILINE)
SET_ASIDE_IN_ALL = re.compile(r"(\d+) items were set aside in all")


class Outcome(NamedTuple):
    """What a user sees of a job that has ended."""

    exit_code: int
    #: of a job that succeeded: what the file of results holds
    records: list | None
    #: of a job that succeeded: how many items were set aside, and the keys of those that are named
    set_aside: tuple[int, list[str]] | None


class Peer:
    """A server or worker whose lines on stderr are read as they come."""

    def __init__(self, process, lines=()):
        self.process = process
        self.lines = collections.deque(lines, SHOWN_LINES)
        self._reader = threading.Thread(target=self.lines.extend, args=(process.stderr,))
        self._reader.start()

    def kill(self):
        self.process.kill()
        self._reader.join()
        self.process.communicate()


class ServerAndWorkers:
    """A server with two workers, one of which may be killed and is then replaced."""

    def __init__(self, commands):
        self._commands = commands
        server, self.address = commands.start_server()
        self.server = Peer(server)
        self.workers = []
        self._joining = [self._start_worker(), self._start_worker()]
        self.wait_for_workers()

    def wait_for_workers(self):
        """Wait until two workers have joined."""
        while self._joining:
            process = self._joining.pop()
            wait_for(process.stderr, "joined")
            self.workers.append(Peer(process))

    def kill_worker(self, template):
        """Kill the worker of this template process, and start another."""
        pid = psutil.Process(template).ppid()
        worker = next(worker for worker in self.workers if worker.process.pid == pid)
        worker.kill()
        self.workers.remove(worker)
        self._joining.append(self._start_worker())

    def close(self):
        for peer in (self.server, *self.workers):
            peer.kill()

    def _start_worker(self):
        return self._commands.start("worker", "--procs", "1", self.address)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    started = Commands(tmp_path_factory.mktemp("promise"))
    yield started
    started.close()
    assert not started.left_behind()


@pytest.fixture(scope="module")
def cluster(commands):
    cluster = ServerAndWorkers(commands)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_gives_the_same_wherever_it_runs(commands, cluster, monkeypatch, seed):
    drawn = draw_job(seed)
    path = drawn.write(commands.folder)
    make_classes_loadable(monkeypatch, drawn)
    cluster.wait_for_workers()
    runs = {
        way: start_run(commands, drawn, path, way, options)
        for way, options in {
            "inline": ["--inline"],
            "embedded": ["--procs", "2"],
            "joined": ["--join", cluster.address],
        }.items()
    }
    kill_who_comes_to_the_gate(cluster, *runs["joined"])
    ended = {way: commands.finish(process) for way, (process, _) in runs.items()}
    outcomes = {way: outcome_of(drawn, ended[way], folder) for way, (_, folder) in runs.items()}
    for way in ("embedded", "joined"):
        assert is_same(outcomes[way], outcomes["inline"]), describe(drawn, ended, outcomes, cluster)


@functools.cache
def texts_of_all_seeds():
    return [draw_job(seed).text for seed in range(ALL)]


def test_a_seed_gives_the_same_job_each_time():
    assert [draw_job(seed) for seed in range(SHORT)] == [draw_job(seed) for seed in range(SHORT)]


@pytest.mark.parametrize(
    "part",
    [
        *(setting.top.split("\n")[0] for setting in SETTINGS if setting.top and "SETUP" not in setting.top),
        *(f"def {name}" for name in ("setupfn", "collectfn", "reducefn", "finishfn", "datasource")),
        *(
            "Lines(",
            "Files(",
            "'greenlets': 3",
            "'retries'",
            "'max_skipped'",
            "            die()",
            "    flaky(",
            "    gate()",
        ),
        *(form.split("\n")[-1] for form in MAP_FORMS.values()),
    ],
)
def test_what_can_be_drawn_is_drawn_by_some_seed(part):
    part = part.replace("EFFECT_MODULE", "effect")
    assert sum(part in text for text in texts_of_all_seeds()) >= ALL / 100


def make_classes_loadable(monkeypatch, drawn):
    """Give this process the classes of a job and of its helper, without running the job's file."""
    for name, text in ((drawn.stem, POINT), (drawn.helper, HELPER)):
        module = types.ModuleType(name)
        module.dataclasses = dataclasses
        monkeypatch.setitem(sys.modules, name, module)
        exec(text, module.__dict__)


def start_run(commands, drawn, path, way, options):
    """Start mmg-run; return the process, and the folder of its marks and results."""
    folder = commands.folder / f"{drawn.stem}-{way}"
    folder.mkdir()
    if way == "inline":
        (folder / "inline").touch()
    if way == "joined":
        for pipe in ("said", "never"):
            os.mkfifo(folder / pipe)
        (folder / "gate").touch()
    results = folder / "results.pickle"
    return commands.start("run", *options, "-o", results, path, folder, *drawn.args), folder


def kill_who_comes_to_the_gate(cluster, process, folder):
    """Wait until a function has come to the gate of the job, and kill its worker; or until the job has ended."""
    gate = os.open(folder / "said", os.O_RDWR | os.O_NONBLOCK)  # for writing, too: so it has no end
    end = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([gate, end], [], [], PATIENCE_S)
        assert ready, "the job neither came to its gate nor ended"
        if gate in ready:
            cluster.kill_worker(int(os.read(gate, 100)))
    finally:
        os.close(gate)
        os.close(end)


def outcome_of(drawn, ended, folder):
    if ended.returncode:
        return Outcome(ended.returncode, None, None)
    records = [
        (number_of(key) if drawn.mixes_types else plain(key), plain(value))
        for key, value in mmg.load(folder / "results.pickle")
    ]
    keys = sorted(key for key, _ in SET_ASIDE.findall(ended.stderr))
    in_all = SET_ASIDE_IN_ALL.search(ended.stderr)
    count = int(in_all[1]) if in_all else len(keys)
    return Outcome(0, records if drawn.is_ordered else sorted(records), (count, [] if in_all else keys))


def is_same(outcome, inline):
    """Return whether a run ended as the inline run did, with the same items set aside.

    Of an item that killed its executor the name may be that of its key's type.
    """
    if outcome[:2] != inline[:2] or inline.set_aside is None:
        return outcome == inline
    count, names = outcome.set_aside
    named = collections.Counter(name for name in names if not name.startswith("a key of type "))
    return count == inline.set_aside[0] and not named - collections.Counter(inline.set_aside[1])


def plain(thing):
    """Return a text that differs where type or value do, and has sets in order."""
    if isinstance(thing, (list, tuple)):
        text = ", ".join(map(plain, thing))
    elif isinstance(thing, (set, frozenset)):
        text = ", ".join(sorted(map(plain, thing)))
    elif isinstance(thing, dict):
        text = ", ".join(f"{plain(key)}: {plain(value)}" for key, value in thing.items())
    else:
        text = repr(thing)
    return f"{type(thing).__name__}({text})"


def number_of(key):
    return plain(complex(key))


def describe(drawn, ended, outcomes, cluster):
    """Return what a person needs to see what is wrong."""
    parts = [f"seed {drawn.seed}; python -m tests.integration.random_jobs {drawn.seed} FOLDER writes it"]
    for way, outcome in outcomes.items():
        parts.append(f"--- {way}: {outcome}\n{ended[way].stderr}")
    for peer in (cluster.server, *cluster.workers):
        parts.append(f"--- process {peer.process.pid}:\n{''.join(peer.lines)}")
    return "\n".join([*parts, "--- job file", drawn.text])
