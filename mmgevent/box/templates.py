"""Start templates in a process that belongs to another engine.

A template ends with the *thread* that started it (PR_SET_PDEATHSIG), and the threads of other
engines come and go.  So one daemon thread starts all templates of this process, and lives as long
as the process does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from mmgevent.engine.start import TemplateProcess, start_template
from mmgevent.machine.resources import start_thread

_Answer = SimpleQueue["TemplateProcess | BaseException"]


class _Starter:
    """The thread, and what it is asked for.  It is made anew in a forked child."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[bool, Sequence[str], _Answer]] = SimpleQueue()
        start_thread(threading.Thread(target=self._serve, name="mmgevent-templates", daemon=True))

    def start(self, *, greenlets: bool, flags: Sequence[str]) -> TemplateProcess:
        answer: _Answer = SimpleQueue()
        self._requests.put((greenlets, flags, answer))
        started = answer.get()
        if isinstance(started, BaseException):
            raise started
        return started

    def _serve(self) -> None:
        while True:
            greenlets, flags, answer = self._requests.get()
            try:
                answer.put(start_template(greenlets=greenlets, flags=flags))
            except BaseException as error:  # raised in the thread that asked
                answer.put(error)


_starter: _Starter | None = None
_lock = threading.Lock()


def start_lasting_template(*, greenlets: bool, flags: Sequence[str]) -> TemplateProcess:
    """Start a template that ends with its socket or with this process. Raises StartError."""
    global _starter
    with _lock:
        if _starter is None:
            _starter = _Starter()
        starter = _starter
    return starter.start(greenlets=greenlets, flags=flags)


def _forget() -> None:
    """In a forked child: the thread is not there."""
    global _starter, _lock
    _starter, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
