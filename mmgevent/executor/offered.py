"""Run the functions that a process offers, in a thread of that process.

The process may be anything, and stays what it is: nothing of a job's code is loaded here, so no class
or module of it is replaced, and the garbage collector is left alone.  Its engine sends attempts of tasks
of which every function is offered here or known by heart, as to an executor, but for two things: each
assignment comes with a `job` that says what to call, and since a thread cannot be killed, an attempt
may be revoked.  One that waits for input or credit then gives up at once, one that is in a function
when that returns; both answer "returned", so that the engine knows that the thread is free.

The module uses `socket` and `threading` as they are when a thread is started: where gevent has patched
them, the thread is a greenlet and the socket gives way to others.
"""

from __future__ import annotations

import logging
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from mmgevent.errors import FunctionError, LinkClosed, ProtocolError, StartError
from mmgevent.executor.attempt import Runner
from mmgevent.executor.channel import Channel
from mmgevent.job.functions import Functions
from mmgevent.machine.resources import start_thread
from mmgevent.wire import failures
from mmgevent.wire.frames import CONTROL, INPUT, Lane
from mmgevent.wire.messages import control, decode_message

log = logging.getLogger(__name__)

#: for the thread to end once its socket is closed; a function that runs longer is left to itself
END_S = 0.2

Offers = Mapping[str, Callable[..., Any]]

_open: weakref.WeakSet[OfferedFunctions] = weakref.WeakSet()
_opening = threading.Lock()  # of _open


class OfferedFunctions:
    """The functions that one engine of this process may have called."""

    def __init__(self, sock: socket.socket, functions: Offers):
        """Begin to serve the engine at the other end of `sock`, which this owns from now on.

        `functions`: by name. Who offers the same ones twice in a process, or for another engine while one still
        runs for the last, has them called one at a time all the same.
        """
        self._functions = dict(functions)
        self._channel = Channel(sock)
        self._runner = Runner(self._channel, None, None, tunes_gc=False)
        self._known: tuple[Any, Functions] | None = None  # what was asked for last, and what it is
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
        """Serve no more. A function that runs goes on to its end, and its result is dropped. Idempotent."""
        self._channel.shut_down()
        if threading.current_thread() is not self._thread:
            self._thread.join(END_S)

    def abandon(self) -> None:
        """Close the socket: in a child of this process, where the thread does not run."""
        _open.discard(self)  # its lock may be held by nobody, for ever
        self._channel.abandon()

    def _run(self) -> None:
        try:
            self._serve()
        except LinkClosed as error:
            log.debug("functions no longer offered: %s", error)
        except Exception:
            log.exception("functions no longer offered: a fault of our own")
        finally:
            self._channel.shut_down()  # first: a child of this process may hold the socket open
            self._channel.abandon()

    def _serve(self) -> None:
        """Carry out frames for ever; LinkClosed ends it, ProtocolError is a fault of ours."""
        announced: dict[Lane, Any] = {}  # options of attempts that are about to be assigned
        while True:
            frame = self._channel.next_frame()
            if frame.kind == INPUT:
                continue  # of an attempt that ended before it had read everything
            if frame.kind != CONTROL:
                raise ProtocolError(f"offered functions got {frame!r}")
            message = decode_message(frame.payload)
            if message["type"] == "job":
                announced[frame.lane] = message["options"]
            elif message["type"] == "assign":
                self._begin(announced.pop(frame.lane, {}), frame.lane, message)
            elif message["type"] != "revoke":  # those that come here are late: the attempt has ended
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
                self._runner.run(functions, lane, message)

    def _find(self, described: Any) -> Functions:
        """Return what is called for this description, which mostly is the one before."""
        if self._known is None or self._known[0] != described:
            if type(described) is not dict:
                raise FunctionError(f"no description of the functions came, but {type(described).__name__}")
            self._known = described, Functions.from_offered(described, self._functions)
        return self._known[1]


def _identify(functions: Offers) -> dict[str, tuple[int, int]]:
    """Return what tells functions apart without asking them; a bound method is another object at each look."""
    return {
        name: (id(getattr(function, "__self__", None)), id(getattr(function, "__func__", function)))
        for name, function in functions.items()
    }
