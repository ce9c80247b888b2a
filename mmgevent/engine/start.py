"""Start engines and templates, each a fresh Python.

This module imports little. `mmg-run` uses it before most of its own imports, and so does its
engine. So `mmg-run`, the engine and the template import at the same time.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Sequence

from mmgevent import real_modules
from mmgevent.errors import StartError
from mmgevent.machine import interpreter
from mmgevent.machine.python_path import find_python
from mmgevent.wire.hello import check_gil

#: PYTHONHASHSEED of every executor. Some keys have their hash() as partition, which must agree
#: everywhere.
EXECUTOR_HASH_SEED = "0"

#: Program of every process. Imports make hardly any garbage, so the collector waits until the
#: process is ready. `_exit` saves the 10 ms in which an interpreter frees its memory.
_BODY = "import gc; gc.disable(); {body}; import os; os._exit(0)"

_ENGINE = (
    "from mmgevent.engine.start import start_asked_template; template = start_asked_template(sys.argv[1:]); "
    "from mmgevent.engine.process import main; main(template)"
)

#: Variables that no child gets: only this process needs the passwords.
_PASSWORDS = ("MMG_PASSWORD", "MMG_WORKER_PASSWORD")

_TEMPLATE = "from mmgevent.executor.template import main; main()"


class EngineStart:
    """A started engine: its process, and the sockets to it. The caller owns them."""

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, offered_sock: socket.socket | None
    ):
        self.process = process
        self.sock = sock
        #: socket for the functions that the driver offers; None if it offers none
        self.offered_sock = offered_sock


class TemplateProcess:
    """A started template: its process, and the socket to it. The caller owns both."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, flags: Sequence[str] = ()):
        self.process = process
        self.sock = sock
        #: interpreter flags, see `interpreter.GROUPS`
        self.flags = tuple(flags)


def start_engine(
    *, has_executors: bool, has_offers: bool, listener: socket.socket | None = None
) -> EngineStart:
    """Start an engine, which then waits for its configuration.

    `has_executors`: the engine will have executors. So it starts a template first of all, with the
    flags of this interpreter, since jobs have those. The engine itself has no flags.

    `listener`: listens at the address in the configuration. The engine gets a copy of its own.

    Raises StartError if it cannot be started, and UsageError on a build of Python without gevent.
    """
    check_gil()
    opened: list[socket.socket] = []
    try:
        for _ in range(1 + has_offers):
            opened += socket.socketpair()
        theirs = opened[1::2]
        numbers = ",".join(str(sock.fileno()) for sock in theirs)
        arguments = ["--parent", str(os.getpid()), "--fds", numbers, *["--procs"] * has_executors]
        if flags := interpreter.own_flags():
            arguments += ["--flags", ",".join(flags)]
        given = list(theirs)
        if listener is not None:
            arguments += ["--listener", str(listener.fileno())]
            given.append(listener)
        process = _start_python(_ENGINE, arguments, given, _environ())
    except BaseException as error:
        for sock in opened:
            sock.close()
        if isinstance(error, OSError):
            raise start_error("the engine process", error) from error
        raise
    for sock in theirs:
        sock.close()
    return EngineStart(process, opened[0], opened[2] if has_offers else None)


def start_asked_template(arguments: Sequence[str]) -> TemplateProcess | StartError | None:
    """Start the template that an engine needs by its arguments. Return None if it needs none.

    Returns the error if it cannot be started, since the engine cannot report it yet.
    """
    if "--procs" not in arguments:
        return None
    flags = arguments[arguments.index("--flags") + 1].split(",") if "--flags" in arguments else ()
    try:
        return start_template(flags=flags)
    except StartError as error:
        return error


def start_template(*, greenlets: bool = False, flags: Sequence[str] = ()) -> TemplateProcess:
    """Start a template as a child of this thread. It ends when the thread or the socket does.

    Its interpreter has these flags and no others. An engine can start it before it imports gevent.

    Raises StartError if it cannot be started.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise _template_error(error) from error
    try:
        with theirs:
            arguments = ["--fd", str(theirs.fileno()), *["--greenlets"] * greenlets]
            environ = {**_environ(), "PYTHONHASHSEED": EXECUTOR_HASH_SEED}
            process = _start_python(_TEMPLATE, arguments, [theirs], environ, flags)
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise _template_error(error) from error
        raise
    return TemplateProcess(process, ours, flags)


def _template_error(error: OSError) -> StartError:
    return start_error("the template process, which starts executors,", error)


def _start_python(
    body: str,
    arguments: list[str],
    sockets: list[socket.socket],
    environ: dict[str, str],
    flags: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            find_python(),
            *interpreter.arguments(flags),
            *real_modules.arguments(_BODY.format(body=body)),
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        pass_fds=[sock.fileno() for sock in sockets],
        env=environ,
        start_new_session=True,  # Ctrl-C in the terminal is for whoever starts this
    )


def start_error(what: str, error: OSError) -> StartError:
    """Return the error for a process, such as "the engine process", that cannot be started.

    It names the largest variable if the environment is too large.
    """
    from mmgevent.machine.environment import find_fault
    from mmgevent.machine.resources import shortage_error

    fault = find_fault(_environ()) if error.errno == errno.E2BIG else None
    return StartError(f"{what} cannot be started: {fault}") if fault else shortage_error(what, error)


def _environ() -> dict[str, str]:
    environ = interpreter.without_flags(os.environ)
    return {name: value for name, value in environ.items() if name not in _PASSWORDS}
