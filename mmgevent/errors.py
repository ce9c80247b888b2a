"""Every exception of mmgevent, under one root; whose fault it was is its class.

`exit_code` is what the commands end with when that exception reaches them.
A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from typing import Any


class MmgeventError(Exception):
    """Root of every exception that mmgevent raises on purpose."""

    exit_code = 70


class SignalReceived(BaseException):
    """A signal came that ends the process, as KeyboardInterrupt is for SIGINT."""


class UsageError(MmgeventError):
    """Something the caller wrote is wrong, and nothing has run yet."""

    exit_code = 2


class JobFileError(UsageError):
    """A job file cannot be loaded, or does not bind what it must."""


class FunctionError(UsageError):
    """A job function has a shape mmgevent cannot call."""


class OptionError(UsageError):
    """An option is unknown or its value is out of range."""


class DatasourceError(UsageError):
    """A datasource cannot be read, or was already used up."""


class ShippingError(UsageError):
    """Something a job needs cannot travel to an executor; the message names it."""


class TooLargeError(ShippingError):
    """What a job needs has more bytes than can be sent; the message names the largest parts."""


class OutputError(UsageError):
    """Results cannot be written where, or as, they were asked to be."""


class ForkedError(UsageError):
    """A cluster, node or handle was used in a child of the process that made it."""


class PasswordError(UsageError):
    """No usable password: empty, or in a file that others may read."""


class JobError(MmgeventError):
    """The job ran and failed.

    The attributes tell the truth as far as it is known; each may be None.
    """

    exit_code = 1

    #: one word for what went wrong: "exception", "died", "timeout", "memory",
    #: "key", "record", "input", "import", "shipping", "disk", "lost", "datasource", "finish", "output"
    kind: str | None
    #: which of the job's functions it was ("mapfn", ...)
    function: str | None
    #: repr of the key of the item or group at hand, shortened
    key: str | None
    #: the executor's traceback, the user's frames only
    traceback: str | None
    #: "host/pid" of the worker
    worker: str | None

    def __init__(self, message: str, failure: dict[str, Any] | None = None):
        super().__init__(message)
        failure = failure or {}
        self.kind = failure.get("kind")
        self.function = failure.get("function")
        self.key = failure.get("key")
        self.traceback = failure.get("traceback")
        self.worker = failure.get("worker")

    @classmethod
    def from_failure(cls, failure: dict[str, Any]) -> JobError:
        """Build the error from the failure record that travelled on the wire.

        `failure` has the keys named above plus "error" (one line: type and text
        of the exception, or what happened) and perhaps "advice" (what to do).
        """
        return cls(describe_failure(failure), failure)


class TooManySkippedError(JobError):
    """More items had to be set aside than `max_skipped` allows."""

    exit_code = 6


class DuplicateKeyError(JobError):
    """Two result records have one key, so a dict would lose one of them."""


class NoTerminalError(MmgeventError):
    """A function wanted to read stdin, or to stop in a debugger, in an executor, which has no terminal."""

    exit_code = 1


class JobCancelled(MmgeventError):
    """The job was cancelled before it ended."""

    exit_code = 1


class ConnectError(MmgeventError):
    """No server answered, or the engine could not be reached."""

    exit_code = 3


class ListenError(MmgeventError):
    """The address cannot be listened on."""

    exit_code = 3


class AuthenticationError(MmgeventError):
    """The password or TLS was refused."""

    exit_code = 4


class NotAServerError(AuthenticationError):
    """Something answers at the address, but it is no mmgevent server."""


class VersionMismatchError(MmgeventError):
    """The two sides run versions that cannot work together."""

    exit_code = 5


class NoWorkersError(MmgeventError):
    """No worker came in the time allowed."""

    exit_code = 7


class ProtocolError(MmgeventError):
    """What the peer sent breaks the protocol; its connection is closed."""


class LinkClosed(MmgeventError):
    """The link ended, by either side, before the operation was complete."""

    exit_code = 3


class SchedulerError(MmgeventError):
    """An event the scheduler's table does not allow: a fault of the caller."""


class StoreError(MmgeventError):
    """Segments cannot be kept: the disk is full or the spill file is gone."""


class EngineError(MmgeventError):
    """An engine process ended or answered in a way it never should."""


class StartError(EngineError):
    """A process or thread of our own cannot be started: this machine allows no more, or has no Python to start."""

    exit_code = 2


def describe_failure(failure: dict[str, Any]) -> str:
    """Say in a few lines what happened to a job: function, item, worker, cause, advice."""
    where = failure.get("function") or ("the input" if failure.get("kind") == "input" else "the job")
    if failure.get("key") is not None:
        where += f" at {failure['key']}"
    if failure.get("worker"):
        where += f" on {failure['worker']}"
    lines = [f"{where}: {failure.get('error') or failure.get('kind') or 'failed'}"]
    if failure.get("traceback"):
        lines.append(failure["traceback"].rstrip())
    if failure.get("last_words"):
        lines.append("it last printed:\n" + failure["last_words"].rstrip())
    if failure.get("advice"):
        lines.append(failure["advice"])
    return "\n".join(lines)
