"""WHERE a job runs, as `mmg-run --on` and `connect` take it.

| WHERE | |
|---|---|
| `inline` | in this process |
| `local`, `local:N` | on this machine, with one executor per core, or N |
| `HOST[:PORT]` | on the workers of an mmg-server |
| `elect:HOST[:PORT],...` | on the workers of the server that is elected |
| `ssh://HOST,...` | on workers that are started there over ssh |
| `SCHEME://...`, `spark-local:N` | on another engine, see `runners.engines` |

The words `inline` and `local` win over hosts of that name.
"""

from __future__ import annotations

from typing import NamedTuple

from mmgevent.access.addresses import parse_address
from mmgevent.errors import UsageError
from mmgevent.wire.limits import MAX_SLOTS

#: Schemes that need no slashes.  They win over hosts of that name.
SCHEME_WORDS = ("spark-local",)

#: What a WHERE may be, for messages; another engine is named by its entry point.
LIST = (
    "inline, local, local:N, HOST[:PORT], elect:HOST[:PORT],..., dask://HOST:8786, ray://auto, ray://HOST:10001, "
    "spark://HOST:7077, spark-local:N, sc://HOST or ssh://HOST,..."
)


class Where(NamedTuple):
    """A WHERE, taken apart."""

    #: "inline", "local", "join", "elect" or "engine"
    kind: str
    #: N of `local`, the address, the addresses, or the scheme of the engine; else ""
    rest: str = ""


def parse_where(text: str) -> Where:
    """Take a WHERE apart.  Addresses are checked by who uses them.

    Raises UsageError, with the list of what it may be.
    """
    word = text.strip()
    if word in ("inline", "local"):
        return Where(word)
    head, _, rest = word.partition(":")
    if head == "local":
        is_number = rest.isascii() and rest.isdigit() and len(rest) <= len(str(MAX_SLOTS))
        if not is_number or not 1 <= int(rest) <= MAX_SLOTS:
            raise _none(f"expected local:N with N executors, from 1 to {MAX_SLOTS}, got {text!r}")
        return Where("local", rest)
    if head == "inline":
        raise _none(f"inline takes nothing behind it, got {text!r}")
    if head == "elect":
        if not rest.strip():
            raise _none("expected elect:HOST[:PORT],...")
        return Where("elect", rest)
    if rest.startswith("//") or head in SCHEME_WORDS:
        return Where("engine", head)
    try:
        parse_address(word)
    except UsageError as error:
        raise _none(str(error)) from error
    return Where("join", word)


def unknown_engine(scheme: str, known: list[str]) -> UsageError:
    """Return the error for a scheme that no engine has."""
    return _none(f"no engine has the scheme {scheme!r} (there are {', '.join(known) or 'none'})")


def _none(problem: str) -> UsageError:
    return UsageError(f"{problem}; WHERE is one of {LIST}")
