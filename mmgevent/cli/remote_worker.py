"""python -m mmgevent.cli.remote_worker: the worker that `--on ssh://HOST` starts on HOST.

It reads one line of JSON from standard input: `{"port": ..., "password": ..., "procs": ...,
"verbose": ...}`. So no password stands on a command line, where other users would see it. The server is at that port of
this machine, to where `ssh` carries it. The end of standard input ends the worker: then the
connection, or the program that started it, has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

from mmgevent.cli.exits import leave, run_command
from mmgevent.errors import UsageError
from mmgevent.machine.resources import count_default_executors, start_thread

NAME = "mmg-worker"

#: Longest first line, bytes.
MAX_ORDER_BYTES = 64 * 1024

#: Where `ssh` listens for this worker.
HERE = "127.0.0.1"


def main() -> None:
    """Run the worker."""
    leave(run_command(NAME, run, []))


def run(argv: Sequence[str]) -> int:
    """Work for the server at the port that the first line names; return the exit code."""
    port, password, procs, verbose = _read_order()
    start_thread(threading.Thread(target=_leave_at_end_of_input, name="mmgevent-stdin", daemon=True))
    from mmgevent.engine.foreground import run_worker
    from mmgevent.engine.stay import WorkerSettings

    settings = WorkerSettings(procs=procs or count_default_executors(), password=password, once=True)
    return run_worker([(HERE, port)], settings, verbose)


def _read_order() -> tuple[int, str, int, int]:
    """Return port, password, executors (0 for one a core) and how much to log."""
    line = sys.stdin.buffer.readline(MAX_ORDER_BYTES)
    try:
        order = json.loads(line)
        return int(order["port"]), str(order["password"]), int(order["procs"]), int(order["verbose"])
    except (ValueError, TypeError, KeyError):
        raise UsageError(
            "this is started by mmg-run --on ssh://HOST; for yourself start mmg-worker"
        ) from None


def _leave_at_end_of_input() -> None:
    """End the worker as Ctrl-C does: nobody waits for what it runs."""
    while os.read(0, MAX_ORDER_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
