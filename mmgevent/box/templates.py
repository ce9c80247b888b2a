"""Start templates in a process that belongs to another engine.

A template ends with the *thread* that started it (PR_SET_PDEATHSIG), and the threads of other
engines come and go.  So one daemon thread starts all templates of this process, and lives as long
as the process does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import monotonic

from mmgevent.engine.start import TemplateProcess, start_template
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread

log = get_log(__name__)

_Answer = SimpleQueue["TemplateProcess | BaseException"]


class _Starter:
    """The thread, and what it is asked for.  It is made anew in a forked child."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[bool, Sequence[str], _Answer] | None] = SimpleQueue()
        #: action -> when it is due
        self._later: dict[Callable[[], None], float] = {}
        start_thread(threading.Thread(target=self._serve, name="mmgevent-templates", daemon=True))

    def start(self, *, greenlets: bool, flags: Sequence[str]) -> TemplateProcess:
        answer: _Answer = SimpleQueue()
        self._requests.put((greenlets, flags, answer))
        started = answer.get()
        if isinstance(started, BaseException):
            raise started
        return started

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._later.setdefault(action, monotonic() + delay_s)
        self._requests.put(None)  # it may wait for a request without end

    def _serve(self) -> None:
        while True:
            due_s = min(self._later.values(), default=None)
            try:
                request = self._requests.get(timeout=None if due_s is None else max(0.0, due_s - monotonic()))
            except Empty:
                self._call_due()
                continue
            if request is None:
                continue
            greenlets, flags, answer = request
            try:
                answer.put(start_template(greenlets=greenlets, flags=flags))
            except BaseException as error:  # raised in the thread that asked
                answer.put(error)

    def _call_due(self) -> None:
        now = monotonic()
        for action in [action for action, due_s in list(self._later.items()) if due_s <= now]:
            del self._later[action]
            try:
                action()
            except Exception:  # else no template could be started any more, and their boxes would wait
                log.exception("an action of the thread that starts templates failed: %r", action)


_starter: _Starter | None = None
_lock = threading.Lock()


def start_lasting_template(*, greenlets: bool, flags: Sequence[str]) -> TemplateProcess:
    """Start a template that ends with its socket or with this process. Raises StartError."""
    return _the_starter().start(greenlets=greenlets, flags=flags)


def call_later(delay_s: float, action: Callable[[], None]) -> None:
    """Call a function after this time. The first call for it counts. What it raises is logged."""
    _the_starter().call_later(delay_s, action)


def _the_starter() -> _Starter:
    global _starter
    with _lock:
        if _starter is None:
            _starter = _Starter()
        return _starter


def _forget() -> None:
    """In a forked child: the thread is not there."""
    global _starter, _lock
    _starter, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
