"""The templates of one engine: one for each kind of executors.

A template is started when it is needed, and again when it has died. A kind is monkey-patched or
not, and has certain interpreter flags. A job that may have ended a template has one of its own, so
that it hurts no other job. Each link has a new worker; all workers of an engine use the same
templates.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import gevent

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.engine.start import TemplateProcess, start_template
from mmgevent.engine.worker.forker import Forker
from mmgevent.errors import EngineError

#: Templates without executors that are kept besides the first one. Each takes 12 MiB of memory, and
#: the next job of its kind begins 0.15 s sooner.
MAX_IDLE_TEMPLATES = 2

#: Largest niceness, see setpriority(2).
MAX_NICE = 19


class Kind(NamedTuple):
    """What the executors of a template have in common."""

    greenlets: bool  #: whether they are monkey-patched, to run items in greenlets
    flags: tuple[str, ...]  #: interpreter flags, see `interpreter.GROUPS`
    owner: object = None  #: the only job that uses it; None if any may


class Forkers:
    """The forkers of one engine. Each is started when it is needed, and again when it has died."""

    def __init__(self, template: TemplateProcess | None = None, nice: int = 0):
        """`template`: one without greenlets that was started already, owned from now on.

        `nice`: added to the niceness of this process, for templates; executors inherit it.
        """
        self._nice = nice
        #: kind -> its forker, the longest unused first
        self._forkers: dict[Kind, Forker] = {}
        self._first = Kind(False, template.flags if template is not None else ())
        self._ending: set[gevent.Greenlet] = set()
        self._is_closed = False
        if template is not None:
            self._forkers[self._first] = Forker(self._lower_priority(template))

    def get(self, greenlets: bool = False, flags: Sequence[str] = (), owner: object = None) -> Forker:
        """Return a live forker of executors with these interpreter flags, started now if need be.

        `greenlets`: the executors run items in greenlets. `owner`: a job that has a template of its
        own, since one ended while it ran. Call `fork` at once: a forker without executors may be
        ended when another one is started.

        Raises EngineError after `close`, and StartError if it cannot be started.
        """
        if self._is_closed:
            raise EngineError("the engine is closing: it starts no more executors")
        kind = Kind(greenlets, tuple(flags), owner)
        forker = self._forkers.get(kind)
        if forker is None or not forker.is_alive:
            self._end_idle()
            forker = Forker(self._lower_priority(start_template(greenlets=greenlets, flags=kind.flags)))
        self._forkers.pop(kind, None)
        self._forkers[kind] = forker  # last, since it was used last
        return forker

    def close(self) -> None:
        """End all templates with their executors. Idempotent."""
        self._is_closed = True
        while self._forkers:
            _, forker = self._forkers.popitem()
            forker.close()
        gevent.joinall(list(self._ending))

    def _lower_priority(self, template: TemplateProcess) -> TemplateProcess:
        if self._nice:
            nice = min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, 0) + self._nice)
            with contextlib.suppress(ProcessLookupError):  # it has died: the reader of its socket sees that
                os.setpriority(os.PRIO_PROCESS, template.process.pid, nice)
        return template

    def _end_idle(self) -> None:
        """End the longest unused templates without executors, to make room for one more."""
        idle = [kind for kind, forker in self._forkers.items() if forker.is_idle and kind != self._first]
        for kind in idle[: max(0, len(idle) - MAX_IDLE_TEMPLATES + 1)]:
            self._end(kind)

    def release(self, owner: object) -> None:
        """End the templates that only this job used."""
        for kind in [kind for kind in self._forkers if kind.owner is owner]:
            self._end(kind)

    def _end(self, kind: Kind) -> None:
        greenlet = spawn(end_process, self._forkers.pop(kind).close)
        self._ending.add(greenlet)
        greenlet.link(self._ending.discard)
