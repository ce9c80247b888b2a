"""The suite itself: how it may be started, and what is left out of the short one."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.integration.commands import ROOT, wait_for

#: runs the rest of its command line as a shell that is not interactive runs `... &`, and nohup too
IGNORING = ["sh", "-c", "trap '' INT QUIT HUP TERM; exec \"$@\"", "sh"]

#: tests of commands, of processes of ours, and of the signals of this process: a SIGINT has to come through
INTERRUPTED = (
    "tests/cli/test_cli.py::test_signal_ends_a_command_whose_tidying_up_hangs",
    "tests/executor/test_template.py::test_an_executor_has_the_signals_of_a_fresh_python",
    "tests/integration/test_commands.py::test_signal_while_the_job_file_loads_ends_at_once",
)


def test_the_suite_passes_where_it_is_started_with_signals_ignored():
    done = subprocess.run(
        [*IGNORING, sys.executable, "-m", "pytest", "--timeout=60", *INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= len(INTERRUPTED)


def test_mmg_run_leaves_sigint_ignored_where_whoever_started_it_had_it_ignored(commands, tmp_path):
    """So does Python itself: Ctrl-C is then for what runs in the foreground. SIGTERM ends it."""
    os.mkfifo(tmp_path / "pipe")
    job = commands.write(
        "waits.py",
        "import signal, sys\n"
        "print(repr(signal.getsignal(signal.SIGINT)), file=sys.stderr, flush=True)\n"
        f"open({str(tmp_path / 'pipe')!r}).read()\n"
        "datasource = {1: 1}\n"
        "def mapfn(key, value):\n"
        "    import signal\n"
        "    yield key, signal.getsignal(signal.SIGINT) is signal.default_int_handler\n",
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = commands.start("run", "--procs", "1", job)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(process.stderr, "SIG_IGN")
    process.send_signal(signal.SIGINT)
    (tmp_path / "pipe").write_text("go on")
    ended = commands.finish(process)
    assert (ended.returncode, ended.stdout) == (0, "1\t[true]\n"), ended.stderr


@pytest.mark.parametrize("name", ["server", "worker"])
def test_those_that_stay_end_on_sigint_however_they_were_started(commands, name):
    """`mmg-worker HOST &` in a script, and `kill -INT` for a polite end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server, address = commands.start_server()
        process = server if name == "server" else commands.start("worker", "-v", address)
    finally:
        signal.signal(signal.SIGINT, before)
    if name == "worker":
        wait_for(process.stderr, "joined the server")
    process.send_signal(signal.SIGINT)
    assert commands.finish(process).returncode == 130
