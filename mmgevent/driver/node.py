"""Nodes: equal processes. One is the server; when it is lost, another becomes the server.

A `Node` is a cluster to submit jobs to, and a worker for the jobs of all nodes.  It becomes the
server if it is the first node, or the first to notice that the server died.  All of that is in its
engine.  This module is the driver's side: it resubmits unfinished jobs when the server changes, and
starts another engine if its own dies.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmgevent import errors
from mmgevent.access.addresses import THIS_MACHINE, Address, format_address, parse_address, parse_addresses
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.driver.arguments import (
    check_procs,
    check_timeout,
    check_verbose,
    check_wait,
    parse_memory,
    parse_pair,
)
from mmgevent.driver.callbacks import call_back
from mmgevent.driver.cluster import Cluster
from mmgevent.driver.engine_link import EngineProcess
from mmgevent.engine.configuration import Configuration
from mmgevent.engine.start import start_engine
from mmgevent.errors import (
    ConnectError,
    EngineError,
    MmgeventError,
    ProtocolError,
    StartError,
    UsageError,
)
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.shown_text import shown
from mmgevent.wire.frames import Frame
from mmgevent.wire.messages import MAX_OFFERS_BYTES
from mmgevent.wire.user_messages import Reassembler, tell_frames

log = get_log(__name__)

#: Times a job of a node is submitted again before it is given up.  Nodes join and leave often.
MAX_RESUBMITS = 100
#: Life of an engine that counts as short, seconds: the next one is not started at once.
SHORT_LIFE_S = 2.0
#: Pause before an engine is started after one of short life, seconds.
RESTART_PAUSE_S = 1.0

#: Largest number of drivers whose messages to this node are incomplete at one time.
MAX_TELLERS = 64

STATES = ("connecting", "worker", "server", "occupied", "closed")
PLACED = ("worker", "server")

OnState = Callable[[str, str], None]
OnTell = Callable[[int, bytes], None]


class Node(Cluster):
    """One of a cluster of equals."""

    def __init__(
        self,
        addresses: str | int | Address | Sequence[str | Address] = "localhost",
        *,
        procs: int = 1,
        password: str | None = None,
        certificates: Certificates | None = None,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout: float = 10.0,
        may_serve: bool = True,
        once: bool = False,
        segment_memory: int | str | None = None,
        verbose: int = 0,
        on_state: OnState | None = None,
        on_tell: OnTell | None = None,
    ):
        """Start the node's engine and return at once; `wait` returns when it has found its place.

        `addresses`: where the server is, "HOST[:PORT]": one or several, the same for all nodes.
        `procs`: executors of this machine; with 0 this node does no work of jobs.
        `functions`: {name: function} that jobs may name; they run in one thread of this process.
        `may_serve`: whether it may become the server.  `once`: close when the server is lost.
        `timeout`: seconds to connect to an address.
        `certificates`: what all nodes show one another, and perhaps ask for; none are needed.
        `on_state(state, reason)` is called after each change of `state`, `on_tell(0, data)` with
        bytes of a driver for this worker: both in threads of the node, so they must not block.
        """
        from mmgevent.access.password import find_password

        check_procs(procs)
        check_timeout(timeout)
        check_verbose(verbose)
        certificates = certificates or NO_CERTIFICATES
        certificates.check_for_equals()
        self._functions = _checked_functions(functions)
        if self._functions and not procs:
            raise UsageError("a node that offers functions does work: give procs=1 or more")
        self._on_state = on_state
        self._on_tell = on_tell
        self._reassembler = Reassembler(max_senders=MAX_TELLERS)
        self._changed = threading.Condition()
        self._state, self._reason = "connecting", ""
        self._address: Address | None = None
        self._closed_by: MmgeventError | None = None
        self._started_s = 0.0
        self._closing = threading.Event()
        self._restarter: threading.Thread | None = None
        configuration = Configuration(
            procs=procs,
            elect=_parse(addresses),
            may_serve=may_serve,
            once=once,
            offers=sorted(self._functions),
            password=find_password(password),
            certificates=certificates,
            memory_bytes=parse_memory(segment_memory),
            timeout=timeout,
            verbose=verbose,
        )
        super().__init__(configuration, max_resubmits=MAX_RESUBMITS)

    @property
    def state(self) -> str:
        """The node's state, one of STATES; "occupied" means that no address is usable."""
        self._check_process()
        return self._state

    @property
    def reason(self) -> str:
        """Why the node has no server; "" while it has one."""
        self._check_process()
        return self._reason

    @property
    def is_server(self) -> bool:
        """Return whether this node is the server."""
        self._check_process()
        return self._state == "server"

    @property
    def address(self) -> Address | None:
        """(host, port) of the server, as in the list of addresses; None while there is none."""
        self._check_process()
        return self._address

    def wait(self, state: str | Sequence[str] = PLACED, timeout: float | None = None) -> str:
        """Wait until the node is in this state, or one of these; return it.

        Raises TimeoutError, which names what prevents it. If the node is closed and this does not
        wait for "closed", raises the error that closed the node: AuthenticationError,
        VersionMismatchError, ConnectError or UsageError.
        """
        self._check_process()
        wanted = (state,) if isinstance(state, str) else tuple(state)
        for name in wanted:
            if name not in STATES:
                raise UsageError(f"{name!r} is no state of a node; expected {', '.join(STATES)}")
        check_wait(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._state not in wanted:
                if self._state == "closed":
                    raise self._closed_by or UsageError(f"the node is closed: {self._reason}")
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    why = f": {self._reason}" if self._reason else ""
                    raise TimeoutError(f"the node is {self._state} after {timeout:g} s{why}")
                self._changed.wait(left)
            return self._state

    def wait_ready(self) -> None:
        """Wait until some node is the server; raise the error that closed this node, if one did."""
        self.wait(PLACED)

    def tell_drivers(self, data: bytes) -> None:
        """Send bytes, 1 MiB at most, to every driver that watches the server of this node's worker.

        There is no receipt. Nothing is sent while there is no server. Raises UsageError if `data`
        cannot be sent.
        """
        self._engine.send(*tell_frames(data))

    def close(self) -> None:
        """Wait for this node's own jobs, then leave the cluster; idempotent."""
        super().close()

    def _describe(self) -> str:
        return str(self._state)

    # The node's engine.

    def _start_engine(self, configuration: Configuration) -> EngineProcess:
        self._started_s = time.monotonic()
        return EngineProcess(
            start_engine(has_executors=bool(configuration.procs), has_offers=bool(self._functions)),
            configuration,
            functions=self._functions,
            on_message=self._on_message,
            on_end=self._on_engine_end,
        )

    def _get_engine(self, lost: str | None) -> EngineProcess:
        if self._closed_by is not None:
            raise self._closed_by
        if self._state == "closed" and not self._is_closed:
            raise self._closed_error()
        return super()._get_engine(lost)

    def _on_message(self, engine: EngineProcess, frame: Frame, message: dict[str, Any]) -> None:
        """Handle a message about no job (in the engine's reading thread)."""
        if message["type"] == "tell" and not frame.task:
            self._take_tell(frame, message)
            return
        if message["type"] != "node":
            super()._on_message(engine, frame, message)
            return
        state, reason = message["state"], message["reason"]
        engine.displace(reason or "the server changed")
        address = parse_address(message["address"]) if "address" in message else None
        error = None
        if state == "closed" and "error" in message:
            error = getattr(errors, message["error"], EngineError)(reason)
        self._set(state, reason, address, error)
        if state in PLACED:
            engine.place()
        elif state == "closed":
            engine.close_node(error or self._closed_error())

    def _take_tell(self, frame: Frame, message: dict[str, Any]) -> None:
        try:
            data = self._reassembler.take(frame, message)
        except ProtocolError as error:
            log.warning("a message of a driver is dropped: %s", error)
            return
        if data is not None and self._on_tell is not None:
            call_back("on_tell of a node", self._on_tell, 0, data)

    def _on_engine_end(self, engine: EngineProcess, reason: str) -> None:
        """Start another engine, since this one died (in its reading thread)."""
        if self._is_closed or self._state == "closed":
            return
        try:
            engine.wait_ready(0)
        except (MmgeventError, TimeoutError) as error:
            failure = engine.refusal or (
                error if isinstance(error, MmgeventError) else EngineError(str(error))
            )
            if engine.refusal is not None or not engine.was_killed:
                self._set("closed", str(failure), None, failure)
                return
        if engine.refusal is not None:
            self._set("closed", str(engine.refusal), None, engine.refusal)
            return
        log.warning("the engine of this node was lost, starting another: %s", reason)
        self._set("connecting", f"its engine ended: {reason}", None, None)
        # In a thread of its own: a caller that needs an engine may hold the lock and wait for the
        # reading thread.
        self._restarter = threading.Thread(
            target=self._restart, args=(reason,), name="mmgevent-node-restart", daemon=True
        )
        try:
            start_thread(self._restarter)
        except StartError as error:
            self._restarter = None
            self._set("closed", str(error), None, error)

    def _restart(self, reason: str) -> None:
        """Start another engine, unless a job has started one."""
        if time.monotonic() - self._started_s < SHORT_LIFE_S:
            self._closing.wait(RESTART_PAUSE_S)
        try:
            super()._get_engine(reason)
        except MmgeventError as error:  # closed meanwhile, or no process can be started
            if not self._is_closed:
                self._set("closed", str(error), None, error)
        except Exception as error:  # nobody else would end the wait for a place
            log.exception("node closed by a fault of our own")
            fault = EngineError(f"internal error: {type(error).__name__}: {error}")
            self._set("closed", str(fault), None, fault)

    def _closed_error(self) -> ConnectError:
        return ConnectError(f"the node is closed: {self._reason}")

    def _end(self) -> None:
        self._closing.set()
        super()._end()
        restarter = self._restarter
        if restarter is not None and restarter is not threading.current_thread():
            restarter.join()
        self._set("closed", "closed by this side", None, self._closed_by)

    def _set(self, state: str, reason: str, address: Address | None, error: MmgeventError | None) -> None:
        with self._changed:
            if self._state == "closed":
                return
            self._state, self._reason, self._address = state, reason, address
            self._closed_by = error
            self._changed.notify_all()
        if self._on_state is not None:
            call_back("on_state of a node", self._on_state, state, reason)


def _parse(addresses: str | int | Address | Sequence[str | Address]) -> list[Address]:
    """Return the addresses, each once, in order. Raises UsageError for what is no address."""
    if isinstance(addresses, str):
        return parse_addresses(addresses)
    if isinstance(addresses, int):
        return [parse_pair((THIS_MACHINE, addresses))]
    if isinstance(addresses, tuple) and len(addresses) == 2 and type(addresses[1]) is int:
        return [_parse_one(addresses)]
    if not isinstance(addresses, Iterable):
        raise UsageError(f"addresses must be 'HOST[:PORT]', or a list of them, got {addresses!r}")
    found = [_parse_one(given) for given in addresses]
    if not found:
        raise UsageError("a node needs an address at least, such as 'localhost'")
    return list(dict.fromkeys(found))


def _parse_one(given: object) -> Address:
    if isinstance(given, str):
        return parse_address(given)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        host, port = given
        if isinstance(host, str) and type(port) is int:
            return parse_address(format_address(parse_pair((host, port))))
    raise UsageError(f"an address must be 'HOST[:PORT]' or (HOST, PORT), got {shown(repr(given))}")


def _checked_functions(functions: Mapping[str, Callable[..., Any]] | None) -> dict[str, Callable[..., Any]]:
    if not isinstance(functions or {}, Mapping):
        raise UsageError(f"functions must be {{name: function}}, got {functions!r}")
    checked = dict(functions or {})
    for name, function in checked.items():
        if not (isinstance(name, str) and re.fullmatch(r"[^\W\d]\w{0,99}", name)):
            raise UsageError(f"a function is offered under a name like 'stats', got {name!r}")
        if not callable(function):
            raise UsageError(f"what is offered as {name!r} must be callable, got {type(function).__name__}")
    n_bytes = len(json.dumps(list(checked)))
    if n_bytes > MAX_OFFERS_BYTES:
        raise UsageError(
            f"the names of {len(checked)} functions have {n_bytes} bytes, at most {MAX_OFFERS_BYTES} may be"
        )
    return checked
