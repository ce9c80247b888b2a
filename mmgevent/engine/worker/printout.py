"""The pipe into which one executor prints: read it without end, keep the end of it, pass lines on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from time import monotonic

from gevent import Greenlet, sleep
from gevent import os as gevent_os

from mmgevent.engine.greenlets import OnFault, spawn
from mmgevent.engine.worker.printed import PrintedLines, PrintReader
from mmgevent.engine.worker.ring import LAST_WORDS_BYTES, RING_BYTES, Ring
from mmgevent.shown_text import shown

#: Gets what executors print, as `Printed`, at level INFO: mmg-worker -v shows it.
log_printed = logging.getLogger("mmgevent.printed")

#: Time in which printed lines are gathered for one message, seconds. Nobody notices it.
GATHER_S = 0.1

#: Size of one read, bytes.
_READ_BYTES = 64 * 1024

#: Most reads in a row: the processes that have the pipe may go on writing.
_MAX_READS = RING_BYTES // _READ_BYTES + 1


class Printed:
    """Lines that an executor printed, for the log. They are made fit only if they are shown."""

    def __init__(self, executor: str, lines: PrintedLines):
        self._executor = executor
        self._lines = lines

    def __str__(self) -> str:
        texts = [f"{self._executor} printed: {shown(line)}" for line in self._lines.lines]
        if self._lines.dropped:
            texts.insert(0, f"{self._executor} printed {self._lines.dropped} lines that were dropped")
        return "\n".join(texts)


class Printout:
    """What one executor prints."""

    def __init__(
        self,
        fd: int,
        token: bytes,
        executor: str,
        on_lines: Callable[[PrintedLines], bool],
        on_fault: OnFault,
    ):
        """`fd`: the end to read, which this owns. `token`: see `executor.prints`.

        `on_lines` must not block. It returns whether it could send the lines.
        """
        os.set_blocking(fd, False)
        self._fd = fd
        self._executor = executor
        self._on_lines = on_lines
        self._on_fault = on_fault
        self._ring = Ring()
        self._reader = PrintReader(token)
        #: sends what is gathered, soon; None if nothing is
        self._sender: Greenlet | None = None
        self._greenlet = spawn(on_fault, self._drain)

    def last_words(self) -> str:
        """Return the end of what was printed."""
        return self._ring.tail(LAST_WORDS_BYTES, self._reader.strip)

    def end_task(self, *, has_more: bool) -> None:
        """Pass on what a task has printed, before its outcome. `has_more`: some is in the pipe."""
        if has_more:
            self._read()
        self._reader.end_line(monotonic())
        self._send()

    def close(self) -> None:
        """Read what is left in the pipe, which other processes may have open, and close it."""
        self._greenlet.kill()
        try:
            self.end_task(has_more=True)
        finally:
            if self._sender is not None:
                self._sender.kill(block=False)
            os.close(self._fd)

    def _drain(self) -> None:
        """Read without end: a full pipe would stop the executor."""
        while data := gevent_os.nb_read(self._fd, _READ_BYTES):
            self._take(data)
            sleep(0)  # let others run: nb_read waits only if there is nothing to read

    def _read(self) -> None:
        try:
            for _ in range(_MAX_READS):
                data = os.read(self._fd, _READ_BYTES)
                if not data:
                    return
                self._take(data)
        except BlockingIOError:
            return  # the pipe is empty

    def _take(self, data: bytes) -> None:
        self._ring.add(data)
        self._reader.feed(data, monotonic())
        if self._reader and self._sender is None:
            self._sender = spawn(self._on_fault, self._send_gathered, delay_s=GATHER_S)

    def _send_gathered(self) -> None:
        self._sender = None
        self._send()

    def _send(self) -> None:
        while self._reader:
            lines = self._reader.take()
            log_printed.info("%s", Printed(self._executor, lines))
            if not self._on_lines(lines):
                self._reader.drop(lines)
                return
