"""How a job is shown to a person: its name, what goes in, and its stages. Nothing of it is run."""

from __future__ import annotations

from html import escape
from typing import Any

from mmgevent.job.inputs.source import FileSource, Source, parts_of
from mmgevent.shown_text import MAX_NAME_CHARS, shown

#: Collections whose length is said: asking for it runs nothing of the user's.
_COLLECTIONS = (list, tuple, dict, set, frozenset, range)


def describe_job(name: str, datasource: Any, stages: int) -> str:
    """Return a line such as "wordcount: Files of 3 paths, 2 stages"."""
    return f"{_shorten(name)}: {_describe_input(datasource, stages)}"


def job_html(name: str, datasource: Any, stages: int) -> str:
    """Return the same as HTML, for notebooks."""
    text = _describe_input(datasource, stages)
    return f"<div><b>{escape(_shorten(name))}</b> <span>{escape(text)}</span></div>"


def _shorten(text: str) -> str:
    return shown(text, max_line_chars=MAX_NAME_CHARS)


def _describe_input(source: Any, stages: int) -> str:
    if type(source) in _COLLECTIONS:
        text = f"{type(source).__name__} of {len(source):,} item{'s' * (len(source) != 1)}"
    elif isinstance(source, Source):
        text = " + ".join(map(_describe_source, parts_of(source)))
    else:
        text = _shorten(getattr(source, "__name__", None) or type(source).__name__)
    return text if stages == 1 else f"{text}, {stages} stages"


def _describe_source(source: Source) -> str:
    """Return the kind of a source. Its paths may be addresses with passwords in them."""
    kind = type(source).__name__
    if not isinstance(source, FileSource) or source._list is not None:
        return kind
    return f"{kind} of {len(source.paths):,} path{'s' * (len(source.paths) != 1)}"
