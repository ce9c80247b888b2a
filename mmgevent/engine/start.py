"""Start the processes that this package is made of: engines, and their templates.

Each is a fresh Python.  This module imports next to nothing, since whoever starts one has most of its
own imports before it, and they are to be at work at once: `mmg-run`, its engine, and the engine's template.
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

#: PYTHONHASHSEED of every executor: keys whose partition is their hash() must agree everywhere
EXECUTOR_HASH_SEED = "0"

#: Hardly any of what imports make is garbage, so it is not looked for until the process is ready.
#: `_exit` since a process of which nothing is left but memory need not take 10 ms to take it apart.
_BODY = "import gc; gc.disable(); {body}; import os; os._exit(0)"

_ENGINE = (
    "from mmgevent.engine.start import start_asked_template; template = start_asked_template(sys.argv[1:]); "
    "from mmgevent.engine.process import main; main(template)"
)

_TEMPLATE = "from mmgevent.executor.template import main; main()"


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

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, flags: Sequence[str] = ()):
        self.process = process
        self.sock = sock
        #: of its interpreter, see `interpreter.GROUPS`
        self.flags = tuple(flags)


def start_engine(
    *, has_executors: bool, has_offers: bool, listener: socket.socket | None = None
) -> EngineStart:
    """Start an engine, which then waits for its configuration.  StartError if it cannot be started, and
    UsageError on a build of Python without gevent.

    `has_executors`: the configuration will ask for some, so the template starts before all else, with the flags of
    this interpreter, since the jobs will have them. The engine itself has none of them.
    `listener`: listens where the configuration says; the engine has a copy of its own from now on.
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
    """Start the template that the arguments of an engine ask for; None if they ask for none.

    What kept it from starting is returned, since the engine cannot say so yet.
    """
    if "--procs" not in arguments:
        return None
    flags = arguments[arguments.index("--flags") + 1].split(",") if "--flags" in arguments else ()
    try:
        return start_template(flags=flags)
    except StartError as error:
        return error


def start_template(*, greenlets: bool = False, flags: Sequence[str] = ()) -> TemplateProcess:
    """Start a template as a child of this thread; it ends when the thread or the socket does.

    Its interpreter has these flags and no others.

    Needs no gevent, so an engine can start it before it loads gevent. StartError if it cannot be started.
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
        start_new_session=True,  # the terminal's Ctrl-C is for the one who starts
    )


def start_error(what: str, error: OSError) -> StartError:
    """Return the error that says why a process, such as "the engine process", cannot be started.

    Where the environment is too large it names the variable that makes it so.
    """
    from mmgevent.machine.environment import find_fault
    from mmgevent.machine.resources import shortage_error

    fault = find_fault(_environ()) if error.errno == errno.E2BIG else None
    return StartError(f"{what} cannot be started: {fault}") if fault else shortage_error(what, error)


def _environ() -> dict[str, str]:
    environ = interpreter.without_flags(os.environ)
    return {name: value for name, value in environ.items() if name != "MMG_PASSWORD"}
