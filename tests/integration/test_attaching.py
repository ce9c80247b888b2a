"""mmg-server attach where pdb attaches to other processes: Python 3.14 and later, at a terminal."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.integration.commands import Commands
from tests.trust.raw_peer import PASSWORD, connected, running, running_server, wait_until

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="pdb attaches with Python 3.14 and later")

HANGS = """
import os, sys, time
datasource = [("stuck", sys.argv[1])]
def mapfn(key, path):
    here = "I am here"
    while not os.path.exists(path):
        time.sleep(0.01)
    yield key, 1
"""


def attached(commands, where, typed):
    """Attach at a terminal, type lines once pdb asks for them, and return what it shows."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mmgevent", "server", "attach", where, "hangs"]
    process = subprocess.Popen(
        command,
        cwd=commands.folder,
        env={**commands.environ, "TERM": "dumb", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # all its processes have closed the terminal
            break
        seen += data
        if typed and seen.rstrip().endswith(b"(Pdb)"):
            os.write(ours, f"{typed.pop(0)}\n".encode())
            seen += b"\n"
    os.close(ours)
    assert process.wait(60) == 0
    return seen.decode()


@pytest.mark.parametrize("is_forbidden", [False, True])
def test_pdb_opens_in_the_function_or_says_why_not_and_the_job_goes_on(tmp_path, is_forbidden):
    commands = Commands(tmp_path)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    with pytest.MonkeyPatch.context() as patch:
        if is_forbidden:
            patch.setenv("PYTHON_DISABLE_REMOTE_DEBUG", "1")
        with (
            running_server(tmp_path) as server,
            running(tmp_path, "worker", "--procs", "1", server.where),
            connected(server) as cluster,
        ):
            go = tmp_path / "go"
            run = commands.start("run", "--join", server.where, commands.write("hangs.py", HANGS), go)
            wait_until(lambda: any(job.running for job in cluster.jobs()), "the item")
            seen = attached(commands, server.where, ["p here", "quit"])
            assert "mapfn at 'stuck'" in seen
            if is_forbidden:
                assert re.search("[Cc]annot attach", seen)  # pdb of 3.15 says it itself
                assert "pdb did not attach: here is the stack" in seen
                assert re.search(r'File ".*hangs\.py", line \d+ in mapfn', seen)
                assert "Traceback" not in seen
            else:
                assert "'I am here'" in seen
            go.touch()
            assert run.wait(60) == 0
    commands.close()
