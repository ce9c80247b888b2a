"""Whether a template that does not answer is stopped, hangs, or only waits for its turn.

A loaded machine may keep a healthy template from answering for any time. So silence alone proves
nothing, and the job that uses the template must not suffer for it. Each look at a silent template
asks the system what it does. These looks count:

- It is stopped, by a signal or by a tracer (T, t).
- It sleeps (S), though a request lies before it. A template that waits for the CPU does not sleep.
- It runs, and has used much more CPU time than an answer takes.

A template that waits for the CPU (R) or for a disk (D) is left alone. Where the system tells
nothing (no /proc), only time is left. Then more looks are needed, and no job is blamed.
"""

from __future__ import annotations

from typing import NamedTuple

from mmgevent.machine.processes import Look

#: Looks that count before a template is killed. Looks are counted, not time: an engine that was
#: stopped itself does not blame its template.
MAX_UNANSWERED = 3

#: The same for a template that has never answered, since it may load its modules from a slow disk,
#: and where the system does not tell what it does.
MAX_UNANSWERED_BLIND = 12

#: CPU time between two looks, seconds, that no answer takes. One takes 1 ms, and a fork 2 ms.
BUSY_S = 1.0


class Finding(NamedTuple):
    """Why the engine replaces a template."""

    cause: str
    is_fact: bool  #: whether the system said so; else no job is blamed


class Silence:
    """Counts the looks at one template since its last answer."""

    def __init__(self) -> None:
        self._count = 0
        self._last: Look | None = None

    def end(self) -> None:
        """Note that the template answered, or that it was asked nothing."""
        self._count = 0

    def note(self, look: Look | None, *, has_answered: bool) -> Finding | None:
        """Note what a silent template does. Return the finding if that was seen too often.

        `look`: None if the system does not say. `has_answered`: whether it ever did.
        """
        before, self._last = self._last, look
        cause = _find_cause(before, look)
        if cause is None:
            return None
        self._count += 1
        most = MAX_UNANSWERED if has_answered and look is not None else MAX_UNANSWERED_BLIND
        if self._count < most:
            return None
        return Finding(f"it did not answer: {cause} at {self._count} looks", look is not None)


def _find_cause(before: Look | None, look: Look | None) -> str | None:
    """Return in words why a silent template will not answer; None if it may only need its turn."""
    if look is None:
        return "nobody knows why"
    if look.state in "Tt":
        return "it was stopped (SIGSTOP, or a debugger)"
    if look.state == "S":
        return "it waited for something else"
    if look.state == "R" and before is not None and look.cpu_s - before.cpu_s >= BUSY_S:
        return "it was busy with something else"
    return None
