"""Sources: items that stay where they are until an executor reads them.

A source touches the disk when it is checked or walked, never when it is made.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.refs import Ref


class Source:
    """Items that stay where they are until an executor reads them.

    `a + b` gives the items of `a`, then those of `b`. Iteration yields the loaded `(key, value)`
    items, as mapfn sees them.
    """

    def refs(self) -> Iterator[Ref]:
        """Yield a ref for each file or split, in order.

        Raise DatasourceError for one that cannot be read.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise DatasourceError for whatever can be found wrong without reading contents."""
        raise NotImplementedError

    def is_safe_to_repeat(self) -> bool:
        """Return whether each walk surely gives the same items."""
        return False

    def __add__(self, other: Any) -> Source:
        if not isinstance(other, Source):
            return NotImplemented
        return _Sum(_parts(self) + _parts(other))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for ref in self.refs():
            yield from ref.items()


class _Sum(Source):
    """The items of several sources, one after another."""

    def __init__(self, parts: tuple[Source, ...]) -> None:
        self.parts = parts

    def refs(self) -> Iterator[Ref]:
        for part in self.parts:
            yield from part.refs()

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def is_safe_to_repeat(self) -> bool:
        return all(part.is_safe_to_repeat() for part in self.parts)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(source: Source) -> tuple[Source, ...]:
    return source.parts if isinstance(source, _Sum) else (source,)


def check_codec(encoding: str, errors: str) -> None:
    """Raise DatasourceError unless bytes can be decoded like this."""
    try:
        codec = codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise DatasourceError(f"encoding={encoding!r}, errors={errors!r}: {error}") from error
    if not codec._is_text_encoding:
        raise DatasourceError(
            f"encoding={encoding!r} does not make text of bytes; use binary=True and codecs.decode"
        )
