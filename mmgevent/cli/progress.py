"""How far a job is, on stderr: a block on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmgevent.driver.progress.reporters import Reporter


def open_reporter(command: str, is_quiet: bool) -> Reporter:
    """Return a reporter for stderr; one that shows nothing if `is_quiet`."""
    from mmgevent.driver.progress import reporters, showing  # the engine has started by now

    return reporters.Reporter(command) if is_quiet else showing.open_reporter(command)
