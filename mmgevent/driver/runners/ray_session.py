"""Open a session with Ray: the one that runs in this program, or one of our own.

Ray has one session a process.  A session that runs already is the program's, and stays when the
cluster is closed.  A session of our own ends with the last cluster that uses it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from mmgevent.access.addresses import format_address, parse_address
from mmgevent.driver.runners.elsewhere import EngineCluster
from mmgevent.driver.runners.engines import require
from mmgevent.errors import AuthenticationError, ConnectError, UsageError, VersionMismatchError

#: Port of Ray's client server, unless it is told otherwise.
CLIENT_PORT = 10001

_SCHEME = "ray://"

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
        end = _sessions.enter(ray, address)
    from mmgevent.driver.runners.ray import RayFutures

    checked: set[str] = set()
    return EngineCluster("Ray", lambda: RayFutures(ray, checked), end)


def _address_of(where: str) -> str:
    """Return "auto", or the address of a client server.  Raises UsageError."""
    rest = where.removeprefix(_SCHEME)
    if rest == where or not rest:
        raise UsageError(f"expected ray://auto or ray://HOST[:{CLIENT_PORT}], got {where!r}")
    if rest == "auto":
        return rest
    return _SCHEME + format_address(parse_address(rest, CLIENT_PORT))


class _Sessions:
    """The session of our own, and how many clusters use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._address: str | None = None

    def enter(self, ray: Any, address: str | None) -> Any:
        """Open a session, or use the one there is.  Return what ends the use, or None.

        `address`: None for the session there is.
        """
        with self._lock:
            if not ray.is_initialized():
                if address is None:
                    raise UsageError(
                        "connect(ray) needs a session: call ray.init() before, or connect to 'ray://auto'"
                    )
                _init(ray, address)
                self._address, self._count = address, 0
            elif address in (None, "auto") and self._address is None:
                return None
            elif address not in (None, "auto", self._address):
                raise UsageError(
                    f"this program has a Ray session already, and Ray has one a process: pass the package ray to "
                    f"connect(), or call ray.shutdown() before you connect to {address}"
                )
            self._count += 1
            return lambda: self._leave(ray)

    def _leave(self, ray: Any) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._address = None
                ray.shutdown()


_sessions = _Sessions()


def _init(ray: Any, address: str) -> None:
    where = "this machine" if address == "auto" else address
    refused: Any = getattr(ray.exceptions, "AuthenticationError", ())  # since Ray 2.52
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what fails is raised, too
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except refused as error:
        raise AuthenticationError(
            f"the Ray cluster of {where} refused the token of this process: copy ~/.ray/auth_token of the cluster "
            f"to this machine, or set RAY_AUTH_TOKEN ({_first_line(error)})"
        ) from error
    except ConnectionError as error:
        advice = (
            "start one with `ray start --head`, set RAY_ADDRESS, or call ray.init() in the program"
            if address == "auto"
            else "is that the address of its client server?"
        )
        raise ConnectError(f"no Ray cluster answers at {where}: {advice}") from error
    except RuntimeError as error:  # versions are all that it checks here
        raise VersionMismatchError(f"Ray refuses a session with {where}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise UsageError(f"Ray cannot open a session with {where}: {error}") from error


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
