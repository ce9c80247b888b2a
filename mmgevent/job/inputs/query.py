"""Query: one item for each row that a statement gives, of any database with a DB-API 2 module.

The driver finds the smallest and the largest key, and cuts the rows between them into ranges.
An executor opens a connection for each range, and closes it at its end. The function that opens it
travels with the functions of the job; a ref knows it by a token.
"""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any
from weakref import WeakValueDictionary

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.databases import (
    PARAMSTYLES,
    Parameters,
    Span,
    Statement,
    find_paramstyle,
    open_connection,
)
from mmgevent.job.inputs.refs import Ref
from mmgevent.job.inputs.source import Source

#: Ranges of a query. They keep some ten executors evenly busy, and a database that has no index on
#: the key reads all rows for each of them.
RANGES = 64
#: Most ranges of a query.
MAX_RANGES = 100_000

#: What a range counts as when batches are filled, bytes: as much as a split of a file.
_WEIGHT = 4 * 1024**2

#: A name as all databases understand it, or one in the quotes of some.
_NAME = re.compile(r'[^\W\d]\w*|"[^"]+"|`[^`]+`|\[[^\]]+\]')


class Connector:
    """A function that opens connections, which the refs of this process find by its token."""

    def __init__(self, token: str, connect: Callable[[], Any]):
        self.token = token
        self.connect = connect
        _connectors[next(_numbers)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return Connector, (self.token, self.connect)


#: {number: connector}, the newest last; the functions of a job, or a source, hold them. Copies of one
#: have its token, and may be dropped before it.
_connectors: WeakValueDictionary[int, Connector] = WeakValueDictionary()
_numbers = count()


def _find_connector(token: str) -> Connector | None:
    """Return the newest connector with a token."""
    found = [connector for connector in _connectors.values() if connector.token == token]
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class QueryRef(Ref):
    """A range of keys: items `(key, {column: value})`."""

    #: what the connector is registered as
    token: str
    statement: Statement
    span: Span
    #: None in a process that does not have the functions of the job
    connector: Connector | None

    @classmethod
    def of(cls, token: str, statement: Statement, span: Span) -> QueryRef:
        shown = statement.shown()
        return cls(shown, shown, 0, 0, 0, "", "", "", token, statement, span, _find_connector(token))

    def __reduce__(self) -> tuple[Any, ...]:
        return QueryRef.of, (self.token, self.statement, self.span)

    @property
    def key(self) -> str:
        return self.span.describe(self.statement.key)

    @property
    def weight(self) -> int:
        return _WEIGHT

    @property
    def unit_count(self) -> int:
        """Return 1: a range is not cut by numbers of rows, since rows of one key have no order."""
        return 1

    def units_between(self, low: int, high: int) -> Iterator[tuple[Any, Any]]:
        return self.units() if high > low else iter(())

    def units(self) -> Iterator[tuple[Any, Any]]:
        assert self.connector is not None  # it came with the functions
        with open_connection(self.connector.connect, f"{self.path}: {self.key}") as connection:
            yield from self.statement.rows(connection, self.span)

    def with_content(self) -> QueryRef:
        return self


class Query(Source):
    """One item `(key, {column: value})` for each row that a statement of SQL gives.

    `connect` is a function without arguments that returns a new connection of a DB-API 2 module, as
    `lambda: sqlite3.connect(path)`. It travels like the functions of the job. It is called here, to
    find the columns and the smallest and largest key, and in executors, once for each range.

    `key` names a column of integers, with an index at best: the rows are cut by it into so many
    `ranges` of equal width. Rows without a key (NULL) are a range of their own. `parameters` are
    those of the statement, a sequence or a mapping. `paramstyle` is that of the connection's module
    unless it is given.

    A range that cannot be read is a failed item, which `max_skipped` sets aside. DatasourceError
    names statement, range and what the database says. Each range is read by a statement of its own:
    rows that change meanwhile may be seen as they were or as they are.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        sql: str,
        *,
        key: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        paramstyle: str | None = None,
        ranges: int = RANGES,
    ) -> None:
        self.connect = connect
        self.sql = sql
        self.key = key
        self.parameters = parameters
        self.paramstyle = paramstyle
        self.ranges = ranges
        self._connector = Connector(uuid.uuid4().hex, connect)

    def connectors(self) -> list[Connector]:
        return [self._connector]

    def refs(self) -> Iterator[QueryRef]:
        statement = self._statement()
        with open_connection(self.connect, statement.shown()) as connection:
            statement = self._with_style(statement, connection)
            low = statement.bound(connection, "MIN")
            high = None if low is None else statement.bound(connection, "MAX")
        for span in cut_spans(low, high, self.ranges):
            yield QueryRef.of(self._connector.token, statement, span)

    def check(self) -> None:
        self._check_arguments()
        statement = self._statement()
        with open_connection(self.connect, statement.shown()) as connection:
            statement.find_key(self._with_style(statement, connection).columns(connection))

    def is_safe_to_repeat(self) -> bool:
        return type(self) is Query  # subclasses may give other items

    def _check_arguments(self) -> None:
        _check_connect(self.connect)
        if not isinstance(self.sql, str) or not self.sql.strip():
            raise DatasourceError(f"sql={self.sql!r}: it is a statement that gives rows: 'SELECT ...'")
        if not isinstance(self.key, str) or not _NAME.fullmatch(self.key):
            raise DatasourceError(
                f"key={self.key!r}: it is the name of a column of integers; quote one with other characters than letters, "
                f"digits and _ as the database does: key='\"the id\"'"
            )
        parameters = self.parameters
        if isinstance(parameters, (str, bytes)) or not isinstance(
            parameters, (Sequence, Mapping, type(None))
        ):
            raise DatasourceError(
                f"parameters is a {type(parameters).__name__}; it is a sequence or a mapping, as the statement names them"
            )
        if self.paramstyle not in (None, *PARAMSTYLES):
            raise DatasourceError(
                f"paramstyle={self.paramstyle!r}: it is one of {', '.join(map(repr, PARAMSTYLES))}"
            )
        ranges: Any = self.ranges
        if type(ranges) is not int or not 1 <= ranges <= MAX_RANGES:
            raise DatasourceError(f"ranges={ranges!r}: it is a number from 1 to {MAX_RANGES:,}")

    def _statement(self) -> Statement:
        parameters: Parameters = None
        if isinstance(self.parameters, Mapping):
            parameters = dict(self.parameters)
        elif self.parameters is not None:
            parameters = tuple(self.parameters)
        return Statement(self.sql, self.key, parameters, self.paramstyle)

    def _with_style(self, statement: Statement, connection: Any) -> Statement:
        if statement.paramstyle is not None:
            return statement
        style = find_paramstyle(connection)
        if style is None:
            raise DatasourceError(
                f"{statement.shown()}: the module of a {type(connection).__name__}, {type(connection).__module__}, does not "
                f"say how it takes parameters; pass paramstyle=, one of {', '.join(map(repr, PARAMSTYLES))}"
            )
        return replace(statement, paramstyle=style)

    def __repr__(self) -> str:
        return f"Query({self.sql!r}, key={self.key!r})"


def cut_spans(low: int | None, high: int | None, most: int) -> Iterator[Span]:
    """Yield spans of about equal width that cover all keys from `low` to `high`, then that of no key."""
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)  # rows may change between the two statements
        n_spans = min(most, high - low + 1)
        starts = [low + (high - low + 1) * number // n_spans for number in range(n_spans)]
        for start, end in pairwise(starts):
            yield Span(start, end)
        yield Span(starts[-1], high, is_last=True)
    yield Span()


def _check_connect(connect: Any) -> None:
    if not callable(connect):
        raise DatasourceError(
            f"connect is a {type(connect).__name__}; pass a function that opens a connection, since none can be sent "
            f"to executors: lambda: sqlite3.connect(path)"
        )
    try:
        inspect.signature(connect).bind()
    except ValueError:
        return  # no signature can be read: the call will tell
    except TypeError as error:
        raise DatasourceError(
            f"connect is called without arguments: {error}; pass lambda: connect(...)"
        ) from error
