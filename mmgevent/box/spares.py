"""Templates that outlive their job: a box that ends leaves its template for the next box.

A template loads nothing of the user's, so the executors that it forks for the next job are as
pristine as those of the first.  A fork takes 2 ms, a new template 0.1 s and more.

- At most MAX_SPARES wait in a process, each for SPARE_S.  They end with the process.
- A template is used again only if it answers: user code can stop or end its parent.  One whose
  resource limits were changed ends by itself.
- Executors inherit from this process through their template: environment, working directory, limits,
  cores, and all else in `Inherited`.  If that has changed since the template started, another one is
  started.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from mmgevent.box.template_link import TemplateLink
from mmgevent.box.templates import call_later, start_lasting_template
from mmgevent.machine.inherited import Inherited

#: Most templates that wait.  Each has about 12 MiB.  A process with more slots starts the rest anew.
MAX_SPARES = 8

#: Time for which a template waits for another box, seconds.
SPARE_S = 30.0

#: Time for a template to answer before and after it waits, seconds.  It answers in 1 ms, on a busy
#: machine later.  A new one takes 0.1 s, which is what this may cost.
ANSWER_S = 1.0


class Origin(NamedTuple):
    """What a template was started with."""

    greenlets: bool
    flags: tuple[str, ...]
    inherited: Inherited


class LastingTemplate(NamedTuple):
    """A template, for one box at a time."""

    origin: Origin
    link: TemplateLink


class Spares:
    """The templates that wait in this process.  Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: templates, and since when each waits
        self._waiting: list[tuple[LastingTemplate, float]] = []

    def take(self, *, greenlets: bool, flags: Sequence[str]) -> LastingTemplate:
        """Return a template that waits, or start one. Raises StartError."""
        inherited = Inherited.of_now()
        origin = Origin(greenlets, tuple(flags), inherited)
        while (spare := self._pop(origin)) is not None:
            if spare.link.answers(ANSWER_S):
                return spare
            spare.link.close()
        started = start_lasting_template(greenlets=greenlets, flags=flags)
        inherited.pass_on(started.process.pid)
        return LastingTemplate(origin, TemplateLink(started))

    def leave(self, template: LastingTemplate) -> None:
        """Keep a template whose executors were killed, or end it."""
        if not template.link.answers(ANSWER_S):
            template.link.close()
            return
        with self._lock:
            self._waiting.append((template, monotonic()))
            surplus = [self._waiting.pop(0)[0]] if len(self._waiting) > MAX_SPARES else []
        for spare in surplus:
            spare.link.close()
        call_later(SPARE_S, self._end_old)

    def end_all(self) -> None:
        """End all templates that wait."""
        self._end_since(monotonic())

    def abandon(self) -> None:
        """In a forked child: close the sockets of templates, which stay the parent's."""
        for spare, _ in self._waiting:
            spare.link.abandon()

    def _pop(self, origin: Origin) -> LastingTemplate | None:
        """Take the youngest that waits and is of this origin."""
        with self._lock:
            for index in range(len(self._waiting) - 1, -1, -1):
                if self._waiting[index][0].origin == origin:
                    return self._waiting.pop(index)[0]
        return None

    def _end_old(self) -> None:
        self._end_since(monotonic() - SPARE_S)
        with self._lock:
            oldest_s = self._waiting[0][1] if self._waiting else None
        if oldest_s is not None:
            call_later(oldest_s + SPARE_S - monotonic(), self._end_old)

    def _end_since(self, until_s: float) -> None:
        """End those that have waited since then or longer."""
        with self._lock:
            old = [spare for spare, since_s in self._waiting if since_s <= until_s]
            self._waiting = [pair for pair in self._waiting if pair[1] > until_s]
        for spare in old:
            spare.link.close()


#: The templates that wait in this process.
spares = Spares()


def _start_anew() -> None:
    global spares
    parents, spares = spares, Spares()
    parents.abandon()


os.register_at_fork(after_in_child=_start_anew)


def take_template(*, greenlets: bool, flags: Sequence[str]) -> LastingTemplate:
    """Return a template that waits in this process, or start one. Raises StartError."""
    return spares.take(greenlets=greenlets, flags=flags)


def leave_template(template: LastingTemplate) -> None:
    """Keep a template for the next box, or end it."""
    spares.leave(template)


def end_spares() -> None:
    """End all templates that wait in this process."""
    spares.end_all()
