"""How a job is shown to a person: its name, what goes in, and its stages. Nothing of it is run."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from mmgevent.job.inputs.source import FileSource, Source, parts_of
from mmgevent.shown_text import MAX_NAME_CHARS, shown

if TYPE_CHECKING:
    from mmgevent.job.job import Job

#: Collections whose length is said: asking for it runs nothing of the user's.
_COLLECTIONS = (list, tuple, dict, set, frozenset, range)


def describe_job(job: Job[Any, Any]) -> str:
    """Return a line such as "wordcount: Files of 3 paths, 2 stages"."""
    return f"{_name(job)}: {_describe_input(job)}"


def job_html(job: Job[Any, Any]) -> str:
    """Return the same as HTML, for notebooks."""
    return f"<div><b>{escape(_name(job))}</b> <span>{escape(_describe_input(job))}</span></div>"


def _name(job: Job[Any, Any]) -> str:
    return shown(job.name, max_line_chars=MAX_NAME_CHARS)


def _describe_input(job: Job[Any, Any]) -> str:
    stages = job.stages
    source = stages[0].datasource
    if type(source) in _COLLECTIONS:
        text = f"{type(source).__name__} of {len(source):,} items"
    elif isinstance(source, Source):
        text = " + ".join(map(_describe_source, parts_of(source)))
    else:
        text = shown(
            getattr(source, "__name__", None) or type(source).__name__, max_line_chars=MAX_NAME_CHARS
        )
    return text if len(stages) == 1 else f"{text}, {len(stages)} stages"


def _describe_source(source: Source) -> str:
    """Return the kind of a source. Its paths may be addresses with passwords in them."""
    kind = type(source).__name__
    if not isinstance(source, FileSource) or source._list is not None:
        return kind
    return f"{kind} of {len(source.paths):,} path{'s' * (len(source.paths) != 1)}"
