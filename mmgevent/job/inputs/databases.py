"""Speak to a database by any DB-API 2 connection: one statement about rows, its bounds, its rows.

Nothing here knows of jobs. Whatever a driver's module raises becomes one DatasourceError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mmgevent.errors import DatasourceError

#: Ways in which a module wants parameters, as PEP 249 names them.
PARAMSTYLES = ("qmark", "numeric", "named", "format", "pyformat")

#: Rows that are fetched at once. More are not faster, and rows may be large.
FETCHED_ROWS = 256

#: Characters of an error of a database, and of a statement, that are shown. Some have many lines.
_SHOWN_CHARS = 200
_SHOWN_SQL_CHARS = 60

#: What the statement of the user is called in ours.
_ALIAS = "mmg_rows"

Parameters = tuple[Any, ...] | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Span:
    """A range of keys: from `low` on, and before `high`. All None: the rows without a key."""

    low: int | None = None
    high: int | None = None
    #: whether `high` belongs to it
    is_last: bool = False

    def describe(self, key: str) -> str:
        if self.low is None:
            return f"{key} IS NULL"
        return f"{key} >= {self.low} and {key} {'<=' if self.is_last else '<'} {self.high}"


@dataclass(frozen=True, slots=True)
class Statement:
    """The statement of the user, which gives rows, as part of ours."""

    sql: str
    #: name of the column, as it is written in a statement
    key: str
    parameters: Parameters
    #: one of PARAMSTYLES, or None while it is not known
    paramstyle: str | None

    def shown(self) -> str:
        """Return the statement, in short."""
        return f"Query({shorten(' '.join(self.sql.split()), _SHOWN_SQL_CHARS)!r})"

    def columns(self, connection: Any) -> tuple[str, ...]:
        """Return the names of the columns, without reading rows. Raise DatasourceError if two are the same."""
        with explained(f"{self.shown()} cannot be read", "correct the statement, or try it without a job"):
            cursor = self._execute(connection, "*", f"{self.key} IS NULL AND 1 = 0")
            names = _names_of(cursor)
            cursor.close()
        self._check_names(names)
        return names

    def bound(self, connection: Any, function: str) -> int | None:
        """Return the key that `function` finds, MIN or MAX; None if no row has a key.

        Raise DatasourceError if it is no integer.
        """
        with explained(f"{self.shown()}: {function}({self.key}) cannot be read", "try it without a job"):
            cursor = self._execute(connection, f"{function}({self.key}) AS mmg_key")
            (value,) = _values(cursor.fetchone(), _names_of(cursor))
            cursor.close()
        if value is None:
            return None
        number = _as_integer(value)
        if number is None:
            raise DatasourceError(
                f"{self.shown()}: key={self.key!r} has the {type(value).__name__} {shorten(repr(value), _SHOWN_SQL_CHARS)}, "
                f"and a query is cut by integers; name a column of integers, or number the rows by columns that are "
                f"unique together, since each range numbers them anew: SELECT ROW_NUMBER() OVER (ORDER BY {self.key}, ...) AS "
                f"number, ..."
            )
        return number

    def rows(self, connection: Any, span: Span) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (key, {column: value}) of each row of a span, by ascending keys."""
        low, high = "low", "high"
        condition = f"{self.key} IS NULL"
        bounds: dict[str, int] = {}
        if span.low is not None and span.high is not None:
            marks = self._marks((low, high))
            condition = f"{self.key} >= {marks[0]} AND {self.key} {'<=' if span.is_last else '<'} {marks[1]} ORDER BY {self.key}"
            bounds = {low: span.low, high: span.high}
        what = f"{self.shown()}: {span.describe(self.key)} cannot be read"
        advice = "submit again, or set max_skipped to set the range aside"
        with explained(what, advice):
            cursor = self._execute(connection, "*", condition, bounds)
            names = _names_of(cursor)
            at = names.index(self.find_key(names))
        while True:
            with explained(what, advice):
                fetched = cursor.fetchmany(FETCHED_ROWS)
                rows = [_values(row, names) for row in fetched]
            if not rows:
                return
            for row in rows:
                yield row[at], dict(zip(names, row, strict=True))

    def find_key(self, names: Iterable[str]) -> str:
        """Return the name of the key among the columns. Databases differ in what they make of capitals."""
        wanted = self.key.strip('"`[]')
        names = tuple(names)
        alike = [name for name in names if name.casefold() == wanted.casefold()]
        if wanted in names:
            return wanted
        if len(alike) == 1:
            return alike[0]
        raise DatasourceError(
            f"{self.shown()} has no column {self.key!r}; it has {', '.join(map(repr, names))}"
        )

    def _check_names(self, names: tuple[str, ...]) -> None:
        for number, name in enumerate(names):
            plain, colon, count = name.rpartition(":")  # SQLite calls the second "id" "id:1"
            first = plain if colon and count.isdigit() else name
            if first in names[:number]:
                raise DatasourceError(
                    f"{self.shown()} has two columns {first!r}, and a row has each name once; name them in the statement: "
                    f"SELECT a.{first} AS first_{first}, ..."
                )

    def _execute(
        self, connection: Any, what: str, condition: str = "", bounds: Mapping[str, int] | None = None
    ) -> Any:
        """Return a cursor that has executed a statement about the rows."""
        sql = self.sql.strip().rstrip(";")
        if bounds and not self.parameters and self.paramstyle in ("format", "pyformat"):
            sql = sql.replace("%", "%%")  # without parameters % is a character, and with our two it is not
        # a comment may end the statement; not all databases know AS here
        statement = f"SELECT {what} FROM (\n{sql}\n) {_ALIAS}" + (condition and f" WHERE {condition}")
        cursor = connection.cursor()
        parameters = self._with_bounds(bounds or {})
        if parameters:
            cursor.execute(statement, parameters)
        else:
            cursor.execute(statement)
        return cursor

    def _has_names(self) -> bool:
        if self.parameters:
            return isinstance(self.parameters, Mapping)
        return self.paramstyle in ("named", "pyformat")

    def _marks(self, names: tuple[str, ...]) -> list[str]:
        """Return what stands for our own parameters in a statement, behind those of the user."""
        is_percent = self.paramstyle in ("format", "pyformat")
        if self._has_names():
            return [f"%(mmg_{name})s" if is_percent else f":mmg_{name}" for name in names]
        if self.paramstyle in ("numeric", "named"):
            first = len(self.parameters or ()) + 1
            return [f":{number}" for number in range(first, first + len(names))]
        return ["%s" if is_percent else "?"] * len(names)

    def _with_bounds(self, bounds: Mapping[str, int]) -> Any:
        if self._has_names():
            named = {f"mmg_{name}": value for name, value in bounds.items()}
            return {**dict(self.parameters or {}), **named}
        return (*(self.parameters or ()), *bounds.values())


@contextmanager
def open_connection(connect: Callable[[], Any], what: str) -> Iterator[Any]:
    """Give a connection, and close it at the end. Raise DatasourceError if there is none."""
    with explained(f"{what} has no connection", "connect() is called in executors, too"):
        connection = connect()
    if not callable(getattr(connection, "cursor", None)):
        raise DatasourceError(
            f"{what}: connect() returned a {type(connection).__name__}; it returns a new connection of a DB-API 2 "
            f"module, such as sqlite3.connect(path)"
        )
    try:
        yield connection
    except BaseException:
        with suppress(Exception):  # what was raised before says more
            connection.close()
        raise
    with explained(f"{what}: its connection cannot be closed", "submit again"):
        connection.close()


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn whatever a database raises into one sentence."""
    try:
        yield
    except (DatasourceError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise DatasourceError(f"{what}: {type(error).__name__}: {first_line(error)}; {advice}") from error


def find_paramstyle(connection: Any) -> str | None:
    """Return the paramstyle of the module that a connection is of, or None if it does not say."""
    for kind in type(connection).__mro__:
        name = kind.__module__
        while name:
            style = getattr(sys.modules.get(name), "paramstyle", None)
            if style in PARAMSTYLES:
                return str(style)
            name = name.rpartition(".")[0]
    return None


def first_line(error: BaseException) -> str:
    """Return what an error says, in short."""
    return shorten(str(error).strip().partition("\n")[0] or "no text", _SHOWN_CHARS)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _names_of(cursor: Any) -> tuple[str, ...]:
    return tuple(str(column[0]) for column in cursor.description)


def _values(row: Any, names: tuple[str, ...]) -> list[Any]:
    """Return the values of a row, whatever the connection makes of rows: tuples, dicts, `sqlite3.Row`."""
    return [row[name] for name in names] if isinstance(row, Mapping) else list(row)


def _as_integer(value: Any) -> int | None:
    """Return a key as an int, or None if it is none. Some databases give a Decimal."""
    if isinstance(value, (bool, float, str, bytes)):
        return None
    try:
        number = int(value)
        return number if number == value else None
    except (TypeError, ValueError, OverflowError):
        return None
