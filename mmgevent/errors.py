"""Every exception of mmgevent, under one root; the class says whose fault it was.

`exit_code` is the exit code of a command that ends with that exception. A message says what was
expected, what was found instead, and what to do.
"""

from __future__ import annotations

from typing import Any

from mmgevent.shown_text import MAX_LINES, MAX_NAME_CHARS, shown

#: Longest key in the text of an error, characters. `tasks.blame` cuts keys at 200, and names files.
MAX_KEY_CHARS = 1000

#: Most lines of a traceback, and of what an executor last printed: together they fit an error.
MAX_TRACEBACK_LINES = 300
MAX_LAST_LINES = 90


class MmgeventError(Exception):
    """Root of every exception that mmgevent raises on purpose.

    Its text holds no control characters, wherever parts of it are from. Newlines and tabs stay in
    the errors that may have several lines.
    """

    exit_code = 70
    #: Most lines of the text. With 1, the newline of a file's name is shown as an escape.
    max_lines = MAX_LINES
    #: The stage of a chain that it is about, from 1. None: it is about no single one.
    stage: int | None = None
    #: Path of the file that runs the failed call again (`mmg-run --replay`), or None.
    bundle: str | None = None

    def __init__(self, *args: Any):
        super().__init__(*(shown(arg, self.max_lines) if isinstance(arg, str) else arg for arg in args))

    def name_bundle(self, path: str, missing: str | None = None) -> None:
        """Let the text say how to run again what failed. `missing`: why that cannot be done."""
        self.bundle = path
        first, *others = self.args or ("failed",)
        said = how_to_replay(path) if missing is None else f"the bundle {shown(path)} has no input: {missing}"
        self.args = (f"{first}\n{said}", *others)

    def name_stage(self, number: int, count: int) -> None:
        """Let the text name a stage of the job. In a job of one stage, and again, nothing changes."""
        if self.stage is None and count > 1:
            self.stage = number
            first, *others = self.args or ("failed",)
            self.args = (f"stage {number} of {count}: {first}", *others)


class SignalReceived(BaseException):
    """A signal was received that ends the process, as KeyboardInterrupt says of SIGINT."""


class UsageError(MmgeventError):
    """Something that the caller wrote is wrong, and nothing has run yet."""

    exit_code = 2


class JobFileError(UsageError):
    """A job file cannot be loaded, or does not bind the names that it must bind."""


class FunctionError(UsageError):
    """A function of a job cannot be called as mmgevent calls it."""


class OptionError(UsageError):
    """An option is unknown or its value is out of range."""

    max_lines = 1


class DatasourceError(UsageError):
    """A datasource cannot be read, or an earlier job used it up."""

    max_lines = 1


class ShippingError(UsageError):
    """Something that a job needs cannot be sent to an executor; the message names it."""


class TooLargeError(ShippingError):
    """The code of a job is larger than can be sent; the message names its largest parts."""


class OutputError(UsageError):
    """Results cannot be written to that path, or in that format."""

    max_lines = 1


class ForkedError(UsageError):
    """A cluster, node or handle was used in a child of the process that made it."""


class PasswordError(UsageError):
    """The password cannot be used: it is empty, or in a file that others may read."""

    max_lines = 1


class JobError(MmgeventError):
    """The job ran and failed.

    Each attribute is None if it is not known.
    """

    exit_code = 1

    #: One word for what went wrong: "exception", "died", "timeout", "memory", "key", "record",
    #: "input", "import", "shipping", "disk", "lost", "datasource", "finish", "output".
    kind: str | None
    #: Name of the function of the job that failed, such as "mapfn".
    function: str | None
    #: repr() of the key of the item or group, shortened.
    key: str | None
    #: The executor's traceback, with the user's frames only.
    traceback: str | None
    #: "host/pid" of the worker.
    worker: str | None
    #: What a bundle is made of, until the driver has kept one: the failure record, and what the
    #: function was called with.
    evidence: tuple[dict[str, Any], tuple[Any, Any] | None] | None

    def __init__(self, message: str, failure: dict[str, Any] | None = None):
        super().__init__(message)
        failure = failure or {}
        self.evidence = (failure, None)
        self.kind = _shown_if_known(failure.get("kind"))
        self.function = _shown_if_known(failure.get("function"))
        self.key = _shown_if_known(failure.get("key"))
        self.traceback = _shown_if_known(failure.get("traceback"), MAX_LINES)
        self.worker = _shown_if_known(failure.get("worker"))

    @classmethod
    def from_failure(cls, failure: dict[str, Any]) -> JobError:
        """Build the error from the failure record of a message.

        `failure` has the keys named above and "error" (one line: type and text of the exception, or
        what happened). It may have "advice" (what to do).
        """
        return cls(describe_failure(failure), failure)


class TooManySkippedError(JobError):
    """More items failed than `max_skipped` allows."""

    exit_code = 6


class BrokenPromiseError(MmgeventError, AssertionError):
    """A function of a job that was checked depends on what it must not depend on."""

    exit_code = 1

    def __init__(self, message: str, promise: str, function: str | None, key: str | None):
        super().__init__(message)
        #: "pickling", "state", "order", "combiner", or "results" for those of the whole job
        self.promise = promise
        #: name of the function, or None if it is the datasource or not known
        self.function = function
        #: repr() of the key of the item or group, shortened
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.promise, self.function, self.key)


class DuplicateKeyError(JobError):
    """Two result records have one key, so a dict would lose one of them."""


class NoTerminalError(MmgeventError):
    """A function tried to read stdin or start a debugger in an executor, which has no terminal."""

    exit_code = 1


class JobCancelled(MmgeventError):
    """The job was cancelled before it ended."""

    exit_code = 1


class ConnectError(MmgeventError):
    """No server answered, or the engine could not be reached."""

    exit_code = 3
    max_lines = 1


class NoHostLeftError(ConnectError):
    """Every host of `ssh://` has failed: the text has a line for each."""

    max_lines = MAX_LINES


class ListenError(MmgeventError):
    """The server cannot listen on the address."""

    exit_code = 3
    max_lines = 1


class AuthenticationError(MmgeventError):
    """The other side refused the password or the certificate."""

    exit_code = 4
    max_lines = 1


class NotAServerError(AuthenticationError):
    """The program at the address is no mmgevent server."""


class VersionMismatchError(MmgeventError):
    """The two sides run versions that cannot work together."""

    exit_code = 5


class NoWorkersError(MmgeventError):
    """No worker joined in the time allowed."""

    exit_code = 7
    max_lines = 1


class ProtocolError(MmgeventError):
    """The peer broke the protocol; its connection is closed."""

    exit_code = 3
    max_lines = 1


class LinkClosed(MmgeventError):
    """Either side closed the link before the operation was complete."""

    exit_code = 3


class SchedulerError(MmgeventError):
    """The scheduler's table does not allow this event: the caller has a fault."""


class StoreError(MmgeventError):
    """Segments cannot be kept: the disk is full or the spill file no longer exists."""


class EngineError(MmgeventError):
    """An engine process ended, or answered as it never should."""

    exit_code = 3


class StartError(EngineError):
    """No process or thread can be started: the machine allows no more, or no Python is found."""

    exit_code = 2


def describe_failure(failure: dict[str, Any]) -> str:
    """Describe a failure in a few lines: function, item, worker, cause, advice."""
    unnamed = "the input" if failure.get("kind") == "input" else "the job"
    where = shown(failure.get("function") or unnamed, max_line_chars=MAX_NAME_CHARS)
    if failure.get("key") is not None:
        where += f" at {shown(failure['key'], max_line_chars=MAX_KEY_CHARS)}"
    if failure.get("worker"):
        where += f" on {shown(failure['worker'], max_line_chars=MAX_NAME_CHARS)}"
    lines = [f"{where}: {shown(failure.get('error') or failure.get('kind') or 'failed')}"]
    if failure.get("traceback"):
        lines.append(shown(failure["traceback"], MAX_TRACEBACK_LINES).rstrip())
    if failure.get("last_words"):
        lines.append("it last printed:\n" + shown(failure["last_words"], MAX_LAST_LINES).rstrip())
    if failure.get("advice"):
        lines.append(shown(failure["advice"]))
    return "\n".join(lines)


def how_to_replay(path: str) -> str:
    """Return the line that names a bundle."""
    import shlex  # only failures need it

    return f"run it again: mmg-run --replay {shown(shlex.quote(path))} (with --pdb it stops where it failed)"


def _shown_if_known(text: Any, max_lines: int = 1) -> Any:
    return None if text is None else shown(text, max_lines)
