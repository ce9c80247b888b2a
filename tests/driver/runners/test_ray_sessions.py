"""Sessions with a Ray cluster that stands by itself: opened, shared, ended, refused."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from tests.driver.runners.places import DEADLINE_S
from tests.driver.runners.ray_clusters import lasting_leases, standing_ray
from tests.driver.runners.test_contract import wait_until
from tests.integration.commands import ROOT
from tests.ports import reserved_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed"),
]

BEGIN = """
import os, signal, sys
import mmgevent as mmg

def outcome(where):
    try:
        with mmg.connect(where) as cluster:
            return cluster.run(mmg.Job({1: 2}, lambda key, value: [(key, value)]))
    except mmg.MmgeventError as error:
        return f"{type(error).__name__}: {error}"
"""


@pytest.fixture(scope="module")
def addresses():
    with standing_ray() as addresses:
        yield addresses


@pytest.fixture
def driver(addresses):
    """Runs a program that knows the cluster by RAY_ADDRESS, and returns what it prints."""

    def run(program, **environ):
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + program],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": addresses[0], **environ},
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_session_of_ours_is_shared_and_ends_with_the_last_cluster(driver):
    printed = driver("""
before = signal.getsignal(signal.SIGTERM)
with mmg.connect("ray://auto") as first:
    assert signal.getsignal(signal.SIGTERM) == before
    print(outcome("ray://auto"))
    print(first.run(mmg.Job({1: 3}, lambda key, value: [(key, value)])))
import ray
print(ray.is_initialized())
print(outcome("ray://auto"))
""")
    assert printed == "{1: [2]}\n{1: [3]}\nFalse\n{1: [2]}\n"


def test_a_client_server_is_found_by_host_and_port(driver, addresses):
    assert driver(f"print(outcome('ray://{addresses[1]}'))") == "{1: [2]}\n"


def test_another_version_of_ray_is_refused_with_both_named(driver):
    printed = driver(
        "import ray; ours = ray.__version__; ray.__version__ = '1.2.3'; print(ours, outcome('ray://auto'))"
    )
    ours, _, text = printed.partition(" ")
    assert text.startswith("VersionMismatchError: Ray refuses a session with this machine")
    assert ours in text
    assert "1.2.3" in text


def test_a_process_without_token_is_refused(driver, tmp_path):
    printed = driver("del os.environ['RAY_AUTH_TOKEN']; print(outcome('ray://auto'))", HOME=str(tmp_path))
    assert printed.startswith("AuthenticationError: the Ray cluster of this machine wants a token")


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (
            None,
            "UsageError: mmgevent is not installed in the Python of the workers of Ray: pip install mmgevent==",
        ),
        ("0.0.1", "VersionMismatchError: the workers of Ray have mmgevent 0.0.1, this driver has mmgevent "),
    ],
    ids=["missing", "other version"],
)
def test_workers_without_this_mmgevent_are_refused(driver, tmp_path, theirs, expected):
    if theirs is None:
        (tmp_path / "mmgevent.py").write_text("raise ModuleNotFoundError(\"No module named 'mmgevent'\")")
    else:
        box = tmp_path / "mmgevent" / "box"
        box.mkdir(parents=True)
        (box.parent / "__init__.py").touch()
        (box / "__init__.py").touch()
        (box / "guest.py").write_text(f"def versions():\n    return {{'mmgevent': {theirs!r}}}")
    printed = driver(f"""
import ray
os.chdir({str(tmp_path)!r})
sys.path[0] = {str(tmp_path)!r}  # Ray gives workers the folder of the program
ray.init("auto", runtime_env={{"env_vars": {{"PYTHONPATH": {str(tmp_path)!r}}}}}, log_to_driver=False)
print(outcome(ray))
""")
    assert printed.startswith(expected)
    if theirs is None:
        assert "runtime_env" in printed


def test_nobody_at_the_address_is_told(driver):
    with reserved_port() as port:
        printed = driver(f"print(outcome('ray://127.0.0.1:{port}'))")
    assert printed.startswith(f"ConnectError: no Ray cluster answers at ray://127.0.0.1:{port}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_mmg_run_and_the_users_code_on_ray(addresses, tmp_path, number):
    leases_before = lasting_leases()
    pids = tmp_path / "pids"
    pids.mkdir()
    job = tmp_path / "job.py"
    job.write_text(f"""
import os, time
datasource = {{i: i for i in range(4)}}
def mapfn(key, value):
    open({str(pids)!r} + f"/{{os.getpid()}}", "w").close()
    while True:
        time.sleep(1)
""")
    process = subprocess.Popen(
        [sys.executable, "-m", "mmgevent", "run", "--on", "ray://auto", str(job)],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": addresses[0]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until(lambda: list(pids.iterdir()))
        process.send_signal(number)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    assert printed == ""
    wait_until(lambda: not any(os.path.exists(f"/proc/{path.name}") for path in pids.iterdir()))
    wait_until(lambda: lasting_leases() <= leases_before)


def test_a_cluster_that_is_lost_is_one_sentence(tmp_path):
    """Whether the job's thread waits for tasks or in the datasource."""

    def start(phase, address):
        job = tmp_path / f"{phase}.py"
        job.write_text(f"""
import threading, time
def datasource():
    yield 1, 1
    if {phase == "reading"}:
        threading.Event().wait()
def mapfn(key, value):
    open({str(tmp_path / phase)!r}, "w").close()
    time.sleep(3600)
""")
        return stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "mmgevent", "run", "--on", f"ray://{address}", str(job)],
                cwd=ROOT,
                env={**os.environ, "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "2"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    phases = ("mapping", "reading")
    with contextlib.ExitStack() as stack:
        with standing_ray() as (_, address):
            drivers = [start(phase, address) for phase in phases]
            for driver in drivers:
                stack.callback(driver.kill)
            wait_until(lambda: all((tmp_path / phase).exists() for phase in phases), DEADLINE_S)
        for driver in drivers:
            _, said = driver.communicate(timeout=DEADLINE_S)
            assert driver.returncode == 1, said
            assert "mmg-run: Ray cannot run the job: " in said
            assert (
                f"{ROOT}{os.sep}mmgevent{os.sep}" not in said
            )  # a thread of Ray may print a traceback of its own
