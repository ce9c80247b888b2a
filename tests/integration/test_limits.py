"""What is too large is named with its size and costs its own job only; what fits travels, however large the rest is."""

import os
import signal
import threading

import pytest

import mmgevent as mmg
from mmgevent.driver.input import encoding
from mmgevent.job.shipping import packer
from mmgevent.machine import environment
from mmgevent.machine.environment import find_fault, max_bytes

MIB = 1024 * 1024
KIB = 1024


def add(key, values):
    return sum(values)


def size_of(name):
    def mapfn(key, value):
        import os

        yield name, len(os.environb[name.encode()])

    return mapfn


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


@pytest.fixture
def innocent(cluster, tmp_path):
    """A job that is under way for as long as a test takes, on an engine that must not be lost.

    It has one item, and no duplicate of it, so that the other slot is free.
    """
    gate, engine = tmp_path / "gate", cluster._engine

    def wait(key, value):
        import time

        while not gate.exists():
            time.sleep(0.01)
        yield "n", 1

    notices = []
    handle = cluster.submit(mmg.Job({1: 1}, wait, add, retransmit=0), on_notice=notices.append)
    yield handle
    gate.touch()
    assert handle.result(60) == {"n": 1}
    assert cluster._engine is engine
    assert notices == []


def test_code_that_is_too_large_is_named_with_what_makes_it_so(cluster, innocent, monkeypatch):
    monkeypatch.setattr(packer, "MAX_CODE_BYTES", MIB)
    ballast = bytes(2 * MIB)
    handle = cluster.submit(mmg.Job({1: 1}, lambda key, value: [(key, len(ballast))]))
    with pytest.raises(
        mmg.ShippingError, match=r"have 2,097,\d\d\d bytes or more, 1,04\d,\d\d\d more .*setupfn.*Files"
    ):
        handle.result(60)


BALLAST = bytes(2 * MIB)


def test_a_global_that_makes_code_too_large_is_named(cluster, innocent, monkeypatch):
    job = mmg.Job({1: 1}, lambda key, value: [(key, len(BALLAST))]).with_module(__name__)
    monkeypatch.setattr(packer, "MAX_CODE_BYTES", MIB)
    with pytest.raises(mmg.ShippingError, match=r"mapfn → BALLAST \(2,097,\d\d\d\)"):
        cluster.run(job)


def test_an_item_that_is_too_large_is_named(cluster, innocent, monkeypatch):
    monkeypatch.setattr(encoding, "MAX_BATCH_BYTES", MIB)
    with pytest.raises(mmg.DatasourceError, match=r"the key 'large' has 2,097,\d\d\d bytes"):
        cluster.run(mmg.Job({"large": bytes(2 * MIB)}, size_of("HOME")))


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("x" * MIB, "'xxx.*xxx\\.\\.\\.'? has"),
        (Unspeakable(), "<Unspeakable instance"),
        ("\x1b]0;t\n", r"'\\x1b\]0;t\\n'"),
    ],
)
def test_an_item_that_is_too_large_is_named_whatever_its_key(cluster, innocent, monkeypatch, key, shown):
    monkeypatch.setattr(encoding, "MAX_BATCH_BYTES", MIB)
    with pytest.raises(mmg.DatasourceError, match=f"with the key {shown}") as caught:
        cluster.run(mmg.Job([(key, bytes(2 * MIB))], size_of("HOME")))
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("part", ["mapfn", "reducefn"])
def test_options_that_are_too_large_are_named(cluster, innocent, part):
    functions = {"mapfn": lambda key, value: [(key, value)], "reducefn": add, part: "x" * 200 * KIB}
    handle = cluster.submit(mmg.Job({1: 1}, **functions))
    with pytest.raises(
        mmg.TooLargeError, match=r"at most 65,536 can be sent; .* the name of an offered function"
    ):
        handle.result(60)


@pytest.mark.long
def test_a_function_that_captures_270_mb_costs_its_own_job_only(cluster, innocent):
    ballast = bytes(270_000_000)
    handle = cluster.submit(mmg.Job({1: 1}, lambda key, value: [(key, len(ballast))]))
    with pytest.raises(
        mmg.TooLargeError, match=r"have 270,\d+,\d+ bytes or more, .* \(268,435,456\); .*mapfn"
    ):
        handle.result(60)


def test_a_file_that_is_too_large_to_be_sent_is_named(cluster, innocent, monkeypatch, tmp_path):
    monkeypatch.setattr(encoding, "MAX_BATCH_BYTES", MIB)
    path = tmp_path / "large"
    path.write_bytes(bytes(2 * MIB))

    def source():
        for ref in mmg.Files(path, binary=True).refs():
            path.write_bytes(bytes(MIB) + b"changed" + bytes(MIB))  # so that no executor has it
            yield ref

    files = mmg.Files(path, binary=True)
    monkeypatch.setattr(files, "refs", source, raising=False)
    with pytest.raises(
        mmg.DatasourceError, match=r"large is not on a worker as it is here, and has 2,097,152 bytes"
    ):
        cluster.run(mmg.Job(files, lambda key, value: [(key, len(value))]))


@pytest.mark.parametrize("letter", ["x", "ü", "\udcff"])
def test_an_environment_larger_than_a_frame_travels(cluster, monkeypatch, letter):
    n_bytes = 100 * KIB
    for n in range(10):
        monkeypatch.setenv(f"LARGE_{n}", letter * (n_bytes // len(os.fsencode(letter))))
    assert cluster.run(mmg.Job({1: 1}, size_of("LARGE_9"))) == {"LARGE_9": [n_bytes]}


def test_a_large_environment_travels_again_after_the_engine_is_lost(monkeypatch, tmp_path):
    monkeypatch.setenv("LARGE", "x" * 100 * KIB)
    started, killed = tmp_path / "started", tmp_path / "killed"

    def look(key, value):
        import os
        import time

        started.touch()
        while not killed.exists():
            time.sleep(0.01)
        yield "LARGE", len(os.environ["LARGE"])

    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(mmg.Job({1: 1}, look))
        for _ in iter(started.exists, True):
            threading.Event().wait(0.01)
        os.kill(cluster._engine.pid, signal.SIGKILL)
        killed.touch()
        assert handle.result(60) == {"LARGE": [100 * KIB]}


def set_too_long(monkeypatch):
    monkeypatch.setenv("SMALL", "x" * 1000)
    monkeypatch.setenv("TOO_LONG", "x" * 200 * KIB)
    return "the environment variable TOO_LONG has 204,8.. bytes, and a process can be given at most"


def set_too_many(monkeypatch):
    for n in range(max_bytes() // (64 * KIB) + 1):
        monkeypatch.setenv(f"PART_{n}", "x" * 64 * KIB)
    monkeypatch.setenv("LARGEST", "x" * 65 * KIB)
    return r"the environment has [\d,]+ bytes, and a process can be given at most [\d,]+; the largest variable is LARGEST"


@pytest.mark.parametrize("make", [set_too_long, set_too_many])
def test_an_environment_that_no_process_can_be_given_is_named(cluster, innocent, monkeypatch, make):
    expected = make(monkeypatch)
    with pytest.raises(mmg.UsageError, match=f"executors cannot be given the environment .*{expected}"):
        cluster.run(mmg.Job({1: 1}, size_of("SMALL")))


@pytest.mark.parametrize("make", [set_too_long, set_too_many])
def test_an_engine_that_cannot_be_given_the_environment_says_so(monkeypatch, make):
    expected = make(monkeypatch)
    with pytest.raises(mmg.StartError, match=f"the engine process cannot be started: {expected}"):
        mmg.LocalCluster(1)


def test_a_trial_load_that_cannot_be_given_the_environment_says_so(cluster, monkeypatch):
    from mmgevent.driver.job_driver import JobDriver

    expected = set_too_long(monkeypatch)
    job = mmg.Job({1: 1}, reducefn=add)
    with pytest.raises(
        mmg.StartError, match=f"the process that tries to load the job's code cannot be started: {expected}"
    ):
        JobDriver(job, lambda lost: cluster._engine, lambda: 1, is_local=False)


def test_what_is_said_of_an_environment_is_what_the_system_does(monkeypatch):
    """At the limit a process starts, and beyond it none does."""
    import subprocess
    import sys

    def starts(environ):
        try:
            return subprocess.run([sys.executable, "-c", ""], env=environ).returncode == 0
        except OSError:
            return False

    filler = {f"PART_{n}": "x" * 1000 for n in range(10)}
    per_part = environment._STRING_BYTES + len("PART_000=") + 60_000
    full = {f"PART_{n:03}": "x" * 60_000 for n in range(max_bytes() // per_part)}
    assert find_fault(full) is None
    assert starts(full)
    over = {**full, **{f"MORE_{n:03}": "x" * 60_000 for n in range(3)}}
    assert find_fault(over) is not None
    assert not starts(over)
    if sys.platform == "linux":
        longest = environment._LINUX_STRING_PAGES * os.sysconf("SC_PAGE_SIZE") - environment._STRING_BYTES - 2
        for n_bytes, fits in ((longest, True), (longest + environment._STRING_BYTES + 2, False)):
            assert (find_fault({**filler, "A": "x" * n_bytes}) is None) is fits
            assert starts({**filler, "A": "x" * n_bytes}) is fits
