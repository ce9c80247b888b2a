"""Run the functions that a process offers, in a thread of that process.

The process may be anything, and stays as it is. No code of a job is loaded, so no class or module
is replaced, and the garbage collector is left alone. The engine sends attempts of tasks whose
functions are all offered here or are known reducers. It does so as to an executor, with two
differences:

- Each assignment comes with a `job` that says which functions to call.
- An attempt may be revoked, since a thread cannot be killed. It ends at once if it waits for input
  or credit, and otherwise when its function returns. Then it answers "returned", so that the engine
  knows that the thread is free.

`socket` and `threading` are used as they are when a thread is started. If gevent has patched them,
the thread is a greenlet.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from mmgevent.errors import FunctionError, LinkClosed, ProtocolError, StartError
from mmgevent.executor.attempt import TaskRunner
from mmgevent.executor.channel import Channel
from mmgevent.executor.plain_rules import read_plain_rules
from mmgevent.job.functions import Functions
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.wire import failures
from mmgevent.wire.frames import CONTROL, INPUT, Lane
from mmgevent.wire.messages import control, decode_message

log = get_log(__name__)

#: Time for the thread to end once its socket is closed, seconds. A function that runs longer is
#: left alone.
END_S = 0.2

Offers = Mapping[str, Callable[..., Any]]

#: All of this process.
_open: weakref.WeakSet[OfferedFunctions] = weakref.WeakSet()
#: Guards `_open`.
_opening = threading.Lock()


class OfferedFunctions:
    """The functions that one engine of this process may have called."""

    def __init__(self, sock: socket.socket, functions: Offers):
        """Serve the engine at the other end of `sock`, which this owns from now on.

        `functions`: name -> function. Functions that this process offers twice, or to two engines,
        are still called one at a time.
        """
        self._functions = dict(functions)
        self._channel = Channel(sock)
        self._runner = TaskRunner(self._channel, None, None, tunes_gc=False)
        #: the last description, and its functions
        self._known: tuple[Any, Functions] | None = None
        self._thread = threading.Thread(target=self._run, name="mmgevent-offered", daemon=True)
        self._turn = threading.Lock()
        with _opening:
            for other in _open:
                if _identify(other._functions) == _identify(self._functions):
                    self._turn = other._turn
            _open.add(self)
        try:
            start_thread(self._thread)
        except StartError:
            self.abandon()
            raise

    def close(self) -> None:
        """Serve no more. Idempotent.

        A function that runs goes on to its end, and its result is dropped.
        """
        self._channel.shut_down()
        if threading.current_thread() is not self._thread:
            self._thread.join(END_S)

    def abandon(self) -> None:
        """Close the socket, in a child of this process, where the thread does not run."""
        _open.discard(self)  # a thread that is not here may hold its lock
        self._channel.abandon()

    def _run(self) -> None:
        try:
            self._serve()
        except LinkClosed as error:
            log.debug("functions no longer offered: %s", error)
        except Exception:
            log.exception("functions no longer offered: a fault of our own")
        finally:
            self._channel.shut_down()  # first: a child of this process may have the socket
            self._channel.abandon()

    def _serve(self) -> None:
        """Carry out frames without end.

        Raises LinkClosed at the end, ProtocolError for a fault of ours.
        """
        announced: dict[Lane, Any] = {}  # lane -> options of the attempt that is assigned next
        while True:
            frame = self._channel.next_frame()
            if frame.kind == INPUT:
                continue  # its attempt ended before it had read everything
            if frame.kind != CONTROL:
                raise ProtocolError(f"offered functions got {frame!r}")
            message = decode_message(frame.payload)
            if message["type"] == "job":
                announced[frame.lane] = message["options"]
            elif message["type"] == "assign":
                self._begin(announced.pop(frame.lane, {}), frame.lane, message)
            elif message["type"] != "revoke":  # a late one is ignored: its attempt has ended
                raise ProtocolError(f"offered functions got the message {message['type']!r}")

    def _begin(self, options: dict[str, Any], lane: Lane, message: dict[str, Any]) -> None:
        try:
            functions = self._find(options.get("offered"))
        except FunctionError as error:
            failure = failures.bound({"kind": "options", "error": str(error)})
            self._channel.send(control("failed", *lane, failure=failure))
        else:
            with self._turn:
                self._runner.retries = options.get("retries", 0)
                self._runner.max_skipped = options.get("max_skipped", 0)
                self._runner.plain = read_plain_rules(options)
                self._runner.run(functions, lane, message)

    def _find(self, described: Any) -> Functions:
        """Return the functions of this description, which is mostly the same as before."""
        if self._known is None or self._known[0] != described:
            if type(described) is not dict:
                raise FunctionError(f"no description of the functions came, but {type(described).__name__}")
            self._known = described, Functions.from_offered(described, self._functions)
        return self._known[1]


def _identify(functions: Offers) -> dict[str, tuple[int, int]]:
    """Return what distinguishes functions without a call of theirs.

    A bound method is a new object at each access, so its parts count.
    """
    return {
        name: (id(getattr(function, "__self__", None)), id(getattr(function, "__func__", function)))
        for name, function in functions.items()
    }
