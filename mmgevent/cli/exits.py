"""End a command: every way to end has its exit code and its message.

| code | meaning |
|---|---|
| 0 | done |
| 1 | the job ran and failed |
| 2 | the job or the command line is wrong; nothing ran |
| 3 | cannot connect or listen |
| 4 | password or TLS refused |
| 5 | versions do not match |
| 6 | too many items skipped |
| 7 | no workers in time |
| 70 | a fault of mmgevent's own: the only stack trace it prints |
| 129, 130, 143 | SIGHUP, SIGINT, SIGTERM |
| 141 | the reader of the results closed its end |

Exceptions of mmgevent have their code as an attribute (`errors.MmgeventError.exit_code`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from mmgevent import real_modules
from mmgevent.cli.options import HelpAsked
from mmgevent.errors import MmgeventError, OutputError, SignalReceived
from mmgevent.shown_text import MAX_LINES, shown
from mmgevent.wire.hello import check_gil

FAULT = 70
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141

#: Time to clean up after a signal, seconds. User code that hangs must not keep the process alive.
TIDY_S = 2.0

#: Whether a debugger has the terminal. A debugger may restore any signal handler that it found.
_is_debugging = False

#: What is called with the exit code when a command has said what ended it, see `at_end`.
_last_words: list[Callable[[int], int]] = []


class Terminated(SignalReceived):
    """SIGTERM or SIGHUP was received, as KeyboardInterrupt says of SIGINT."""

    def __init__(self, code: int) -> None:
        super().__init__()
        #: The exit code.
        self.code = code


class StdoutClosed(BaseException):
    """The reader of the results closed its end, so nothing more can be written."""

    def __init__(self) -> None:
        super().__init__()
        _end_soon(BROKEN_PIPE)


def at_end(act: Callable[[int], int]) -> None:
    """Call `act(exit code)` behind every other message; what it returns is the exit code."""
    _last_words.append(act)


def run_command(name: str, body: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run `body(argv)`, print on stderr what ended it, and return the exit code."""
    code = _run_body(name, body, argv)
    while _last_words:
        code = _last_words.pop()(code)
    return code


def _run_body(name: str, body: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    real_modules.protect()
    try:
        check_gil()
        _handle_signals()
        try:
            code = body(sys.argv[1:] if argv is None else argv)
        except HelpAsked as asked:
            print_out(str(asked))
            code = 0
        _flush_stdout()
        return code
    except StdoutClosed:
        _discard_stdout()
        return BROKEN_PIPE
    except MmgeventError as error:
        if error.exit_code == FAULT:
            return _report_fault(name)
        say(name, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say(name, "interrupted")
        return INTERRUPTED
    except Terminated as terminated:
        say(name, "terminated" if terminated.code == TERMINATED else "the terminal was closed")
        return terminated.code
    except SystemExit as leaving:  # a job file's own, such as that of its argument parser
        return _code_of_exit(name, leaving)
    except Exception:
        return _report_fault(name)


def print_out(text: str) -> None:
    """Print the text that a command was asked for, on stdout.

    Raises OutputError if it cannot be written, and StdoutClosed if nobody reads it.
    """
    if sys.stdout is None:
        raise OutputError("stdout is closed, so there is nowhere to print to")
    with _explaining_stdout():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def say(name: str, text: str) -> None:
    """Print one message of a command on stderr."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is closed
        sys.stderr.write(f"{name}: {shown(text, MAX_LINES)}\n")
        sys.stderr.flush()


def print_error_line(line: str) -> None:
    """Print a line on stderr as it is: it is for programs, and ASCII."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def leave(code: int) -> None:
    """End the process with `code`; after a signal without waiting for threads of the user's."""
    if code in (HUNG_UP, INTERRUPTED, TERMINATED, BROKEN_PIPE):
        os._exit(code)
    sys.exit(code)


def leave_sigint_to_debugger() -> None:
    """Let Ctrl-C interrupt a command of the debugger instead of the process."""
    global _is_debugging
    _is_debugging = True
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _handle_signals() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # otherwise it is ignored, as under nohup
        signal.signal(signal.SIGHUP, _on_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as above
        signal.signal(signal.SIGINT, _on_sigint)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):  # ignore a second signal during the clean-up
        signal.signal(each, signal.SIG_IGN)
    code = HUNG_UP if number == signal.SIGHUP else TERMINATED
    _end_soon(code)
    raise Terminated(code)


def _on_sigint(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.gettrace() is None and not _is_debugging:  # a debugger continues after Ctrl-C
        _end_soon(INTERRUPTED)
    raise KeyboardInterrupt


def _end_soon(code: int) -> None:
    """End the process with `code` unless it ends by itself within TIDY_S."""
    timer = threading.Timer(TIDY_S, os._exit, [code])
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread can be started: the process ends after its clean-up
        timer.start()


def _report_fault(name: str) -> int:
    import traceback

    say(
        name,
        f"this is a fault of mmgevent's own; please report it with these lines\n{traceback.format_exc()}",
    )
    return FAULT


def _code_of_exit(name: str, leaving: SystemExit) -> int:
    try:
        _flush_stdout()
    except OutputError as error:
        say(name, str(error))
        return error.exit_code
    except StdoutClosed:
        return BROKEN_PIPE
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    say(name, str(leaving.code))
    return 1


def _flush_stdout() -> None:
    # A job file may have closed it, or may have replaced it with anything.
    if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
        with _explaining_stdout(), contextlib.suppress(AttributeError):
            sys.stdout.flush()


@contextlib.contextmanager
def _explaining_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _discard_stdout()
        raise StdoutClosed from None
    except OSError as error:
        _discard_stdout()  # what it still holds cannot be written, at exit either
        raise OutputError(f"cannot write to stdout: {error.strerror or error}") from error
    except ValueError as error:  # the job file has closed it
        raise OutputError(f"cannot write to stdout: {error}") from error


def _discard_stdout() -> None:
    """Redirect stdout to /dev/null, so that the interpreter prints no error at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
