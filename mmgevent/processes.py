"""Start the processes that this package is made of: engines, and their templates.

Each is a fresh Python.  This module imports next to nothing, since whoever starts one has most of its
own imports before it, and they are to be at work at once: `mmg-run`, its engine, and the engine's template.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from mmgevent.errors import EngineError
from mmgevent.versions import check_gil

#: PYTHONHASHSEED of every executor: keys whose partition is their hash() must agree everywhere
EXECUTOR_HASH_SEED = "0"

#: Not `-m`: that puts the working directory first on the path, and with it whatever has the name of a module that
#: is needed.  Hardly any of what imports make is garbage, so it is not looked for until the process is ready.
#: `_exit` since a process of which nothing is left but memory need not take 10 ms to take it apart.
_PROGRAM = (
    "import gc, sys; gc.disable(); sys.path[:] = [p for p in sys.path if p]; root = {root!r}; "
    "root in sys.path or sys.path.append(root); {body}; import os; os._exit(0)"
)

_ENGINE = (
    "from mmgevent.processes import start_template; template = start_template() if '--procs' in sys.argv else None; "
    "from mmgevent.engine import main; main(template)"
)

_TEMPLATE = "from mmgevent.template import main; main()"


class EngineStart:
    """A started engine: the process, and the sockets to speak with it. Whoever started it owns them."""

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, offered_sock: socket.socket | None
    ):
        self.process = process
        self.sock = sock
        #: for the functions that the driver offers; None if it offers none
        self.offered_sock = offered_sock


class TemplateProcess:
    """A started template: the process, and the socket to speak with it. Whoever started it owns both."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket):
        self.process = process
        self.sock = sock


def start_engine(*, has_executors: bool, has_offers: bool) -> EngineStart:
    """Start an engine, which then waits for its configuration.  EngineError if it cannot be started, and
    UsageError on a build of Python without gevent.

    `has_executors`: the configuration will ask for some, so the template starts before all else.
    """
    check_gil()
    opened: list[socket.socket] = []
    try:
        for _ in range(1 + has_offers):
            opened += socket.socketpair()
        theirs = opened[1::2]
        numbers = ",".join(str(sock.fileno()) for sock in theirs)
        arguments = ["--parent", str(os.getpid()), "--fds", numbers, *["--procs"] * has_executors]
        process = _start_python(_ENGINE, arguments, theirs, _environ())
    except BaseException as error:
        for sock in opened:
            sock.close()
        if isinstance(error, OSError):
            raise EngineError(f"the engine process cannot be started: {error}") from error
        raise
    for sock in theirs:
        sock.close()
    return EngineStart(process, opened[0], opened[2] if has_offers else None)


def start_template(*, greenlets: bool = False) -> TemplateProcess:
    """Start a template as a child of this thread; it ends when the thread or the socket does.

    Needs no gevent, so an engine can start it before it loads gevent. OSError if it cannot be started.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            arguments = ["--fd", str(theirs.fileno()), *["--greenlets"] * greenlets]
            environ = {**_environ(), "PYTHONHASHSEED": EXECUTOR_HASH_SEED}
            process = _start_python(_TEMPLATE, arguments, [theirs], environ)
    except BaseException:
        ours.close()
        raise
    return TemplateProcess(process, ours)


def _start_python(
    body: str, arguments: list[str], sockets: list[socket.socket], environ: dict[str, str]
) -> subprocess.Popen[bytes]:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(root=root, body=body), *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=[sock.fileno() for sock in sockets],
        env=environ,
        start_new_session=True,  # the terminal's Ctrl-C is for the one who starts
    )


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MMG_PASSWORD"}
