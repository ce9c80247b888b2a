"""Pass what the functions of a job print on to its driver, as much as its budget allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.errors import ProtocolError
from mmgevent.tasks.counters import Totals
from mmgevent.wire.prints import (
    JOB_BURST_BYTES,
    JOB_BYTES_A_S,
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_LINES,
    Budget,
)
from mmgevent.wire.shapes import MAX_INT


class JobPrints:
    """The lines of one job on their way."""

    def __init__(
        self,
        send: Callable[..., bool],
        keep: Callable[[str, list[tuple[str, str]], int], None] = lambda worker, lines, dropped: None,
        *,
        is_silent: bool = False,
    ):
        """`send(**fields)` sends a message `printed`, unless the driver does not read.

        `keep(worker, lines, dropped)` gets what goes on, for those who look.
        """
        self._send = send
        self._keep = keep
        #: its driver wants no lines
        self.is_silent = is_silent
        #: workers send the lines of a silent job, since somebody looks
        self.is_overheard = False
        self._budget = Budget(JOB_BYTES_A_S, JOB_BURST_BYTES)
        self._dropped = 0

    def take(self, worker: str, message: dict[str, Any], now_s: float) -> None:
        """Take a message of a worker. Raises ProtocolError if it makes no sense."""
        lines, items = message["lines"], message["items"]
        if len(lines) != len(items) or len(lines) > MAX_MESSAGE_LINES:
            raise ProtocolError(f"{len(lines)} printed lines of {len(items)} items")
        size = sum(map(len, lines)) + sum(map(len, items))
        if size > MAX_MESSAGE_BYTES:  # in JSON the driver's message may be several times larger
            raise ProtocolError(f"printed lines of {size} characters, at most {MAX_MESSAGE_BYTES} may come")
        kept = [
            (line[:MAX_LINE_BYTES], item[:MAX_LINE_BYTES])
            for line, item in zip(lines, items, strict=True)
            if self._budget.spend(len(line) + len(item), now_s)
        ]
        dropped = min(message.get("dropped", 0) + len(lines) - len(kept), MAX_INT)
        self._count_dropped(dropped)
        self._keep(worker, kept, dropped)
        if kept:
            self._pass_on(worker, kept)

    def choose_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the job for a worker, which sends lines if somebody looks."""
        if self.is_overheard:
            options.pop("silent", None)
        return options

    def end(self) -> None:
        """Say what was dropped since the last line."""
        if self._dropped:
            self._pass_on("", [])

    def _pass_on(self, worker: str, kept: list[tuple[str, str]]) -> None:
        if self.is_silent:
            return
        lines, items = [line for line, _ in kept], [item for _, item in kept]
        if self._send(lines=lines, items=items, worker=worker, dropped=self._dropped or None):
            self._dropped = 0
        else:
            self._count_dropped(len(kept))

    def _count_dropped(self, count: int) -> None:
        self._dropped = min(self._dropped + count, MAX_INT)


class HostedSignals:
    """What the functions of one job count and print."""

    def __init__(
        self,
        send: Callable[..., bool],
        keep: Callable[[str, list[tuple[str, str]], int], None],
        *,
        is_silent: bool,
    ):
        """The arguments are those of `JobPrints`."""
        #: counts of committed tasks, but for those that travel with their results
        self.counters = Totals()
        #: lines on their way to the driver
        self.prints = JobPrints(send, keep, is_silent=is_silent)
