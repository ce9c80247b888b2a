"""A client that only looks at a server: one connection, one question at a time.

Its hello has the role `looker`, so its Python may be another than that of the server. It proves the
main password, as drivers do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent

from mmgevent.access.addresses import Address, format_address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.access.handshake import derive_key
from mmgevent.engine.net import tls
from mmgevent.engine.net.receiving import receive_frame
from mmgevent.errors import (
    ConnectError,
    ProtocolError,
    SignalReceived,
    UsageError,
    VersionMismatchError,
)
from mmgevent.shown_text import shown
from mmgevent.wire.frames import CONTROL
from mmgevent.wire.hello import hello, user_name
from mmgevent.wire.listings import (
    ANSWERS,
    ENDED_FIELDS,
    FOLLOWED,
    LEFT_FIELDS,
    MAX_LEFT,
    MAX_PAGE_EVENTS,
    MAX_SAMPLES,
    SERVER_FIELDS,
    check_answer,
    clean_row,
    is_fit,
    rows_in,
)
from mmgevent.wire.messages import control, decode_message

#: Time to connect, and for each answer, seconds. A server waits 10 s for a stack.
PATIENCE_S = 20.0

#: What to do where nobody listens.
_NO_SERVER = (
    "no server runs there: give mmg-run --listen PORT to look at its job, and of the hosts of --elect "
    "name the one that was elected"
)


@contextlib.contextmanager
def looking_at(
    address: Address, password: str, certificates: Certificates = NO_CERTIFICATES
) -> Iterator[Looker]:
    """Connect to a server, to look at it.

    Raises ConnectError, AuthenticationError, PasswordError, VersionMismatchError.
    """
    _leave_signals_to_main()
    try:
        sock = tls.connect(address, derive_key(password), "driver", certificates=certificates)
    except ConnectError as error:
        if not isinstance(error.__cause__, ConnectionRefusedError):
            raise
        raise ConnectError(f"{error}; {_NO_SERVER}") from error
    with contextlib.closing(sock):
        looker = Looker(sock, format_address(address))
        looker.greet()
        yield looker


def _leave_signals_to_main() -> None:
    """Let gevent print nothing of what a signal handler raises.

    It raises that in the main greenlet, which says what ended the command.
    """
    hub = gevent.get_hub()
    hub.NOT_ERROR = (gevent.GreenletExit, SystemExit, KeyboardInterrupt, SignalReceived)


class Events(NamedTuple):
    """What happened in a job since the last time, as far as one answer has it."""

    rows: list[dict[str, Any]]
    next: int  #: what to ask with next, as `after`
    lost: int  #: events between the last time and these that the server has forgotten
    has_more: bool  #: there are more now
    is_over: bool  #: the job is over; without `has_more`, nothing more will come
    found: dict[str, Any]  #: the rows and what else the server says, as it came


class Looker:
    """One connection to a server."""

    def __init__(self, sock: Any, where: str):
        self._sock = sock
        self._where = where

    def greet(self) -> None:
        """Say hello, and wait for the server's (blocks)."""
        self._talk(self._send_hello, frozenset({"hello"}))

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        """Send a question of `wire.listings` and return the answer (blocks).

        Raises ConnectError or ProtocolError if none comes.
        """
        frame = control(question, **fields)
        answer = self._talk(lambda: self._sock.sendall(frame.encode()), ANSWERS)
        check_answer(answer)
        return answer

    def find(self, what: str, name: str = "", **fields: Any) -> list[dict[str, Any]]:
        """Have the server do or find one thing; return the rows of its answer (blocks).

        Raises UsageError with the server's words if it cannot.
        """
        answer = self.ask("ask", what=what, name=name, **fields)
        if "error" in answer:
            raise UsageError(shown(answer["error"]))
        return rows_in(answer)

    def follow(self, what: str, job: str, after: int = 0) -> Events:
        """Return what came after event `after` of what happened in a job (blocks).

        `what` is a word of FOLLOWED, `job` an id or a name. The server answers at most twice a
        second, but for the rest of what does not fit one answer.

        Raises UsageError with the server's words if it does not know that job.
        """
        fields, required = FOLLOWED[what]
        answer = self.ask("ask", what=what, name=job, after=after or None)
        if "error" in answer:
            raise UsageError(shown(answer["error"]))
        given = rows_in(answer)
        if len(given) > MAX_PAGE_EVENTS:
            raise ProtocolError(f"{self._where} lists more than {MAX_PAGE_EVENTS} events at once")
        rows = [clean_row(row, fields, *required) for row in given]
        return Events(
            rows,
            answer.get("next", after),
            answer.get("lost", 0),
            has_more=answer.get("more", False) and bool(rows),
            is_over=answer.get("over", False),
            found=answer.get("found", {}),
        )

    def ended(self) -> list[dict[str, Any]]:
        """Return the jobs that are over and that the server remembers, the last one first (blocks)."""
        rows = self.find("ended")[:MAX_PAGE_EVENTS]
        return [clean_row(row, ENDED_FIELDS, "number", "id", "name", "outcome") for row in rows]

    def busy_lately(self) -> list[tuple[float, int, int]]:
        """Return (time, busy slots, slots) of the last minutes, while there were jobs (blocks)."""
        row = next(iter(self.find("busy")), {})
        columns = [row.get(name) for name in ("at", "busy", "slots")]
        if not all(type(column) is list for column in columns):
            return []
        points = list(zip(*columns, strict=False))[-MAX_SAMPLES:]
        return [point for point in points if all(is_fit(value, (int, float)) for value in point)]

    def describe_server(self) -> dict[str, Any]:
        """Return the row of the server, made fit to be shown, with who left lately as `left` (blocks)."""
        rows = self.find("server")
        if not rows:
            raise ProtocolError(f"{self._where} says nothing of itself")
        left = rows[0].get("left")
        row = clean_row(rows[0], SERVER_FIELDS)
        row["left"] = [
            clean_row(each, LEFT_FIELDS, *LEFT_FIELDS)
            for each in (left[:MAX_LEFT] if type(left) is list else [])
            if type(each) is dict
        ]
        return row

    def _send_hello(self) -> None:
        with contextlib.suppress(*tls.LOST):  # the server's reason may still be unread
            self._sock.sendall(hello("looker", dill="none", user=user_name()).encode())

    def _talk(self, send: Callable[[], object], awaited: frozenset[str]) -> dict[str, Any]:
        """Send something, and return the first message of one of these types."""
        late = ConnectError(f"{self._where} does not answer: nothing in {PATIENCE_S:g} s")
        try:
            with gevent.Timeout(PATIENCE_S, late):
                send()
                while True:
                    frame = receive_frame(self._sock)
                    message = decode_message(frame.payload) if frame.kind == CONTROL else {"type": ""}
                    if message["type"] in awaited:
                        return message
                    self._check_end(message)
        except EOFError:
            raise ConnectError(f"{self._where} closed the connection") from None
        except OSError as error:
            raise ConnectError(f"lost {self._where}: {error.strerror or error}") from error
        except ProtocolError as error:
            raise ProtocolError(f"{self._where}: {error}") from error
        except ConnectError:
            self._sock.close()  # an answer that is late would be taken for that of the next question
            raise

    def _check_end(self, message: dict[str, Any]) -> None:
        """Raise the server's reason if it ends the conversation."""
        if message["type"] == "refused":
            refusal = VersionMismatchError if message["code"] == "version" else ConnectError
            raise refusal(f"{self._where}: {shown(message['error'])}")
        if message["type"] == "goodbye":
            raise ConnectError(f"{self._where} said goodbye: {shown(message['reason'])}")
