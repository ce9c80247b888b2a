"""How notebooks show jobs, handles and clusters: a line of HTML with a bar. No script, no style sheet."""

from __future__ import annotations

from html import escape
from typing import Any

from mmgevent.driver.progress.closing_line import describe_end
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.progress.text import describe_state, describe_time, describe_workers
from mmgevent.shown_text import MAX_NAME_CHARS, shown


def job_html(name: str, progress: Progress, final: str | None, figures: dict[str, Any]) -> str:
    """Return a job that runs, or has ended as `final` says, as HTML."""
    facts = [describe_state(progress, final)]
    if final is None and progress.workers:
        facts.append(describe_workers(progress))
    if final is None and progress.seconds_left is not None:
        facts.append(f"{describe_time(progress.seconds_left)} left")
    if final is not None and "seconds" in figures:
        facts = [describe_end(f"{final} in", figures["seconds"], figures)]
    fraction = 1.0 if final == "done" else progress.fraction
    value = "" if fraction is None and final is None else f' value="{fraction or 0.0:.3f}"'
    return line_html(name, ", ".join(facts), f'<progress max="1"{value}></progress> ')


def line_html(name: str, text: str, before: str = "") -> str:
    """Return a name and what is said of it as HTML. `before` is HTML; the others are not."""
    shown_name = escape(shown(name, max_line_chars=MAX_NAME_CHARS))
    return f"<div><b>{shown_name}</b> {before}<span>{escape(text)}</span></div>"
