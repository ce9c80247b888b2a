"""The output of a notebook's cell that shows how far a job is: HTML that is replaced now and then."""

from __future__ import annotations

import time
from typing import Any

from mmgevent.driver.progress.html_text import job_html
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.progress.text import describe_state

#: Time between two updates, seconds. Each is a message to the browser.
UPDATE_S = 0.5


class _Shown:
    """What IPython displays."""

    def __init__(self, html: str, text: str):
        self._html = html
        self._text = text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class NotebookDisplay:
    """One output of a cell, which has a `display_id`. No widgets are needed."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._due_s = 0.0

    def update(self, name: str, progress: Progress) -> None:
        """Show how far a job is, unless it was shown just now."""
        now = time.monotonic()
        if now >= self._due_s:
            self._due_s = now + UPDATE_S
            self._show(job_html(name, progress, None, {}), f"{name}: {describe_state(progress, None)}")

    def end(self, name: str, progress: Progress, how: str, figures: dict[str, Any]) -> None:
        """Show how a job ended."""
        self._show(job_html(name, progress, how, figures), f"{name}: {describe_state(progress, how)}")

    def _show(self, html: str, text: str) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(_Shown(html, text), display_id=True)
        else:
            self._handle.update(_Shown(html, text))
