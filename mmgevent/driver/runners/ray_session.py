"""Open a session with Ray: the one that runs in this program, or one of our own.

Ray has one session a process.  A session that runs already is the program's, and stays when the
cluster is closed.  A session of our own ends with the last cluster that uses it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from mmgevent.access.addresses import Address, format_address, parse_address
from mmgevent.driver.runners.elsewhere import EngineCluster
from mmgevent.driver.runners.engines import require
from mmgevent.errors import AuthenticationError, ConnectError, UsageError, VersionMismatchError

#: Port of Ray's client server, unless it is told otherwise.
CLIENT_PORT = 10001

#: Time for a client server to take a connection, seconds. `connect` gives a server of ours as long.
KNOCK_S = 10.0

_SCHEME = "ray://"

#: What to do if a cluster does not answer since the token is missing or wrong: Ray only says that
#: nobody answers.  Ray sends the token of ~/.ray by itself to clusters of this machine only.
_TOKEN_ADVICE = (
    "(If it wants a token, the default since Ray 2.59: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless "
    "~/.ray/auth_token has it.)"
)

#: Signals that Ray takes over when it is imported and when a session begins.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def open_ray(where: str | ModuleType) -> EngineCluster:
    """Return a cluster on Ray.

    `where`: "ray://auto" (the cluster of this machine, or that of RAY_ADDRESS, or the session of
    this program), "ray://HOST[:PORT]" (a client server), or the package `ray` with a session.

    Raises UsageError, ConnectError, AuthenticationError and VersionMismatchError.
    """
    address = _address_of(where) if isinstance(where, str) else None
    with _keeping_signals():
        ray = require("ray", "Ray", "ray")
        end = _sessions.enter(ray, address, may_open=isinstance(where, str))
    from mmgevent.driver.runners.ray import RayFutures

    checked: set[str] = set()
    return EngineCluster("Ray", lambda: RayFutures(ray, checked), end)


def _address_of(where: str) -> Address | None:
    """Return the address of a client server, or None for `ray://auto`.  Raises UsageError."""
    rest = where.removeprefix(_SCHEME).rstrip("/")
    if not where.startswith(_SCHEME) or not rest:
        raise UsageError(f"expected ray://auto or ray://HOST[:{CLIENT_PORT}], got {where!r}")
    if rest == "auto":
        return None
    try:
        return parse_address(rest, CLIENT_PORT)
    except UsageError as error:
        raise UsageError(
            f"expected ray://auto or ray://HOST[:{CLIENT_PORT}], got {where!r}: {error}"
        ) from error


class _Sessions:
    """The session of our own, and the clusters that use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: one object for each cluster that uses it; a new set for each session
        self._users: set[object] = set()
        self._address: Address | None = None

    def enter(self, ray: Any, address: Address | None, *, may_open: bool) -> Callable[[], None] | None:
        """Open a session, or use the one there is.  Return what ends the use, or None.

        `address`: that of a client server; None for the session there is, or the cluster of this
        machine.
        """
        with self._lock:
            if not ray.is_initialized():
                if not may_open:
                    raise UsageError(
                        "connect(ray) needs a session: call ray.init() before, or connect to 'ray://auto'"
                    )
                _init(ray, address)
                self._address, self._users = address, set()
            elif address is not None and (not self._users or address != self._address):
                raise UsageError(
                    f"this program has a Ray session already, and Ray has one a process: pass the package ray to "
                    f"connect(), or call ray.shutdown() before you connect to {_name(address)}"
                )
            elif not self._users:
                return None
            user, users = object(), self._users
            users.add(user)
            return lambda: self._leave(ray, user, users)

    def _leave(self, ray: Any, user: object, users: set[object]) -> None:
        with self._lock:
            users.discard(user)
            if not users and users is self._users:  # else the program has ended that session itself
                ray.shutdown()


_sessions = _Sessions()


def _init(ray: Any, address: Address | None) -> None:
    where = _name(address)
    if address is not None:
        _knock(address)
    refused: Any = getattr(ray.exceptions, "AuthenticationError", ())  # since Ray 2.52
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what fails is raised, too
            ray.init("auto" if address is None else where, log_to_driver=False, logging_level=logging.ERROR)
    except refused as error:
        raise AuthenticationError(
            f"the Ray cluster of {where} wants a token that this process does not have: copy its ~/.ray/auth_token "
            f"to this machine, or set RAY_AUTH_TOKEN ({_first_line(error)})"
        ) from error
    except ConnectionError as error:
        advice = (
            "start one with `ray start --head`, set RAY_ADDRESS, or call ray.init() in the program"
            if address is None
            else "is that the address of its client server?"
        )
        raise ConnectError(f"no Ray cluster answers at {where}: {advice} {_TOKEN_ADVICE}") from error
    except RuntimeError as error:  # versions are all that it checks here
        raise VersionMismatchError(
            f"Ray refuses a session with {where}: {' '.join(str(error).split())}"
        ) from error
    except ValueError as error:
        raise UsageError(f"Ray cannot open a session with {where}: {error}") from error


def _knock(address: Address) -> None:
    """Raise ConnectError if nobody listens there: Ray itself would try for half a minute."""
    try:
        socket.create_connection(address, KNOCK_S).close()
    except OSError as error:
        raise ConnectError(
            f"no Ray cluster answers at {_name(address)}: {error}; is that the address of its client server?"
        ) from error


def _name(address: Address | None) -> str:
    return "this machine" if address is None else _SCHEME + format_address(address)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Restore the handlers of signals: Ray replaces those of the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)
