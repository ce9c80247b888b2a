"""Rows of databases: cuts, parameters, what is broken."""

import contextlib
import copy
import pickle
import re
import sqlite3
import sys
import types

import pytest

import mmgevent as mmg
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import OutputError
from mmgevent.job.fingerprint import make_fingerprint
from mmgevent.job.inputs.databases import FETCHED_ROWS, Span
from mmgevent.job.inputs.query import cut_spans
from mmgevent.tasks.items import TaskItems
from mmgevent.tasks.originals import Originals

#: a row for each key but every seventh, which is missing, and rows without a key
KEYS = [key for key in range(-50, 1000) if key % 7]
SQL = "SELECT id, kind, total FROM sales"


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "sales.db")
    with contextlib.closing(sqlite3.connect(path)) as made, made:
        made.execute('CREATE TABLE sales (id, kind TEXT, total REAL, "the id")')
        rows = [(key, f"{key % 3}%", key / 2, key) for key in KEYS] + [(None, "no key", 0.5, None)] * 3
        made.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)
    made.close()
    return path


@pytest.fixture
def query(path):
    def make(sql=SQL, key="id", connect=lambda: sqlite3.connect(path), **options):
        return mmg.Query(connect, sql, key=key, **options)

    return make


class Counted(sqlite3.Connection):
    """A connection that knows how many of its kind are open, and how many rows are fetched at once."""

    opened = 0
    most_fetched = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        type(self).opened += 1

    def close(self):
        type(self).opened -= 1
        super().close()

    def cursor(self):
        return super().cursor(CountedCursor)


class CountedCursor(sqlite3.Cursor):
    def fetchmany(self, size):
        Counted.most_fetched = max(Counted.most_fetched, size)
        return super().fetchmany(size)

    def fetchall(self):
        raise AssertionError("all rows at once")


def test_spans_cover_all_keys_once_and_the_rows_without_one():
    for low, high, count in [(0, 0, 64), (-3, 3, 2), (0, 9, 64), (-(2**63), 2**63 - 1, 7), (5, 1000, 64)]:
        *spans, without = cut_spans(low, high, count)
        assert without == Span()
        assert (spans[0].low, spans[-1].high, spans[-1].is_last) == (low, high, True)
        assert [span.high for span in spans[:-1]] == [span.low for span in spans[1:]]
        widths = {span.high - span.low + span.is_last for span in spans}
        assert max(widths) - min(widths) <= 1
        assert len(spans) == min(count, high - low + 1)
    assert list(cut_spans(None, None, 64)) == [Span()]
    assert list(cut_spans(9, 5, 2)) == list(cut_spans(5, 9, 2)), "rows changed between MIN and MAX"


def test_a_copy_of_a_query_does_not_take_its_connection_along(query):
    original = query()
    expected = list(original)
    refs = list(original.refs())
    for other in (copy.deepcopy(original), copy.copy(original)):
        assert list(other) == expected
    del other
    assert list(original) == expected
    assert [row for ref in refs for row in pickle.loads(pickle.dumps(ref)).units()] == expected


@pytest.mark.parametrize("ranges", [1, 2, 64, 5000])
def test_each_row_is_read_once(query, ranges):
    items = list(query(ranges=ranges))
    assert [key for key, _ in items] == [*KEYS, None, None, None]
    assert items[0] == (-50, {"id": -50, "kind": "1%", "total": -25.0})
    assert items[-1] == (None, {"id": None, "kind": "no key", "total": 0.5})


def test_keys_between_integers_are_read_too(query, path):
    with contextlib.closing(sqlite3.connect(path)) as made, made:
        made.execute("INSERT INTO sales (id) VALUES (3.5), (998.5)")
    made.close()
    assert {3.5, 998.5} < {key for key, _ in query(ranges=1000)}


@pytest.mark.parametrize(
    "sql",
    [
        SQL + ";",
        SQL + " ORDER BY total DESC -- the largest first",
        "WITH s AS (" + SQL + ") SELECT * FROM s",
        "SELECT id, kind, sum(total) AS total FROM sales GROUP BY 1, 2 HAVING id IS NOT NULL",
    ],
)
def test_statements_of_every_form_are_cut(query, sql):
    assert {key for key, _ in query(sql)} - {None} == set(KEYS)


def test_rows_may_be_anything_that_a_connection_makes_of_them(path):
    def as_dict(cursor, row):
        return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}

    def connect(factory):
        connection = sqlite3.connect(path)
        connection.row_factory = factory
        return connection

    expected = list(mmg.Query(lambda: connect(None), SQL, key="ID"))
    for factory in (sqlite3.Row, as_dict):
        assert list(mmg.Query(lambda factory=factory: connect(factory), SQL, key="ID")) == expected
    quoted = mmg.Query(lambda: connect(None), 'SELECT "the id" FROM sales', key='"the id"')
    assert next(iter(quoted)) == (-50, {"the id": -50})


def test_a_connection_of_rows_that_are_read_again_is_closed_with_the_task(query, path):
    def connect():
        return sqlite3.connect(path, factory=Counted)

    def spoil(key, row):
        row.clear()
        yield key, 1
        if key == -50:
            Counted.of_tasks.append(Counted.opened)
            raise ValueError(key)

    Counted.of_tasks = []
    job = mmg.Job(query(connect=connect, ranges=1), spoil, max_skipped=1, retries=1)
    assert -50 not in dict(run_inline(job))
    assert Counted.of_tasks == [1, 2]  # the range's own, and that of the row that is read again
    assert Counted.opened == 0
    entries = [(ref.key, ref) for ref in query(connect=connect, ranges=1).refs()]
    originals = Originals(lambda: entries, 0)
    assert originals.item(0, -50, {})[0] == -50
    assert Counted.opened == 1
    originals.close()
    assert Counted.opened == 0


def test_rows_of_a_range_stay_together_however_often_it_is_cut(query):
    """Rows of one key have no order: two halves by numbers of rows could have one twice, and another never."""
    for depth in (0, 1, 3):
        given = []
        for number in range(2**depth):
            entries = [(ref.key, ref) for ref in list(query(ranges=64).refs())[:1]]
            items = TaskItems(entries, first_entry=0, skip=(), part=(number, depth), mark=lambda *_: None)
            keys = [key for _, key, _ in items]
            given += [keys] if keys else []
        assert given == [[key for key in KEYS if key < -34]]


def test_connections_are_closed_and_few_rows_are_in_memory(query, path):
    def connect():
        return sqlite3.connect(path, factory=Counted)

    read = query(connect=connect, ranges=3)
    read.check()
    assert (len(list(read)), Counted.opened) == (len(KEYS) + 3, 0)
    assert 0 < Counted.most_fetched <= FETCHED_ROWS
    units = next(iter(read.refs())).units()
    assert (next(units)[0], Counted.opened) == (-50, 1)
    units.close()
    assert Counted.opened == 0
    with pytest.raises(mmg.DatasourceError):
        query("SELECT * FROM nowhere", connect=connect).check()
    with pytest.raises(mmg.DatasourceError):
        list(
            query(
                "SELECT id, abs(CASE id WHEN 400 THEN -1 - 9223372036854775807 END) AS a FROM sales",
                connect=connect,
            )
        )
    assert Counted.opened == 0


# Paramstyles. A thin adapter over sqlite3 takes parameters in one style alone, and translates.


def translate(style, sql, parameters):
    """Return what sqlite3 understands. Refuse what a module of this style would."""
    if style in ("format", "pyformat"):
        is_named = isinstance(parameters, dict)
        assert not (style == "format" and is_named)
        found = re.sub(
            r"%\((\w+)\)s|%s|%%", lambda m: f":{m[1]}" if m[1] else "%" if m[0] == "%%" else "?", sql
        )
        rest = re.sub(r"%\(\w+\)s|%s|%%", "", sql)
        assert "%" not in rest, f"not a format: {sql}"
        return found, parameters
    if style == "numeric":
        assert not isinstance(parameters, dict)
        numbers = re.findall(r":(\d+)", sql)
        return re.sub(r":\d+", "?", sql), [parameters[int(number) - 1] for number in numbers]
    assert isinstance(parameters, dict) == (style == "named")
    return sql, parameters


class StyledCursor:
    def __init__(self, style, cursor):
        self.style = style
        self.cursor = cursor

    def execute(self, sql, parameters=None):
        if parameters is None:
            self.cursor.execute(sql)
        else:
            self.cursor.execute(*translate(self.style, sql, parameters))

    def __getattr__(self, name):
        return getattr(self.cursor, name)


def styled(style, path):
    """Return a connection of a module that has this paramstyle."""

    class Connection:
        def __init__(self):
            self.real = sqlite3.connect(path)

        def cursor(self):
            return StyledCursor(style, self.real.cursor())

        def close(self):
            self.real.close()

    module = sys.modules.setdefault(f"styled_{style}", types.ModuleType(f"styled_{style}"))
    module.paramstyle = style
    Connection.__module__ = f"styled_{style}.connections"
    return Connection()


@pytest.mark.parametrize(
    ("style", "condition", "parameters"),
    [
        ("qmark", "id > ? AND kind <> ?", (10, "0%")),
        ("numeric", "id > :1 AND kind <> :2", [10, "0%"]),
        ("named", "id > :low AND kind <> :kind", {"low": 10, "kind": "0%"}),
        ("format", "id > %s AND kind <> %s AND kind LIKE '%%'", (10, "0%")),
        ("pyformat", "id > %(low)s AND kind <> %(kind)s AND kind LIKE '%%'", {"low": 10, "kind": "0%"}),
        ("pyformat", "id > %s AND kind <> %s", (10, "0%")),
    ],
)
def test_bounds_are_bound_in_the_style_of_the_module(path, style, condition, parameters):
    read = mmg.Query(lambda: styled(style, path), f"{SQL} WHERE {condition}", key="id", parameters=parameters)
    read.check()
    assert [key for key, _ in read] == [key for key in KEYS if key > 10 and key % 3]


@pytest.mark.parametrize("style", ["qmark", "numeric", "named", "format", "pyformat"])
def test_percent_signs_are_characters_where_no_parameters_are_given(path, style):
    read = mmg.Query(lambda: styled(style, path), f"{SQL} WHERE kind LIKE '1%'", key="id")
    read.check()
    assert [key for key, _ in read] == [key for key in KEYS if key % 3 == 1]


def test_sqlite_takes_parameters_by_name_too(query):
    read = query(SQL + " WHERE id > :low", parameters={"low": 990})
    assert [key for key, _ in read] == [key for key in KEYS if key > 990]


def test_a_module_that_says_nothing_needs_a_paramstyle(path):
    def connect():
        connection = styled("qmark", path)
        type(connection).__module__ = "silent"
        return connection

    with pytest.raises(mmg.DatasourceError, match=r"pass paramstyle=, one of 'qmark', 'numeric'"):
        mmg.Query(connect, SQL, key="id").check()
    assert len(list(mmg.Query(connect, SQL, key="id", paramstyle="qmark"))) == len(KEYS) + 3


# What is wrong before the job runs.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sql": ""}, r"sql='': it is a statement"),
        (
            {"sql": "SELECT * FROM nowhere"},
            r"Query\('SELECT \* FROM nowhere'\) cannot be read: OperationalError: .*nowhere",
        ),
        ({"sql": "DELETE FROM sales"}, r"cannot be read: OperationalError"),
        ({"key": "number"}, r"cannot be read: OperationalError: .*number"),
        ({"key": '"number"'}, r"has no column '\"number\"'; it has 'id', 'kind', 'total'|OperationalError: "),
        ({"key": "id; --"}, r"key='id; --': it is the name of a column"),
        ({"key": None}, r"key=None: it is the name"),
        ({"sql": "SELECT id, kind, total AS kind FROM sales"}, r"two columns 'kind'.*AS first_kind"),
        ({"sql": "SELECT * FROM sales a JOIN sales b USING (kind)"}, r"two columns 'id'"),
        ({"parameters": "x"}, r"parameters is a str; it is a sequence or a mapping"),
        ({"parameters": {1}}, r"parameters is a set"),
        ({"parameters": (1,)}, r"cannot be read: ProgrammingError"),
        ({"paramstyle": "percent"}, r"paramstyle='percent': it is one of 'qmark'"),
        ({"ranges": 0}, r"ranges=0: it is a number from 1 to 100,000"),
        ({"connect": None}, r"connect is a NoneType; pass a function"),
        ({"connect": lambda path: None}, r"called without arguments.*pass lambda"),
        ({"connect": lambda: None}, r"connect\(\) returned a NoneType; it returns a new connection"),
        ({"connect": lambda: sqlite3.connect("/nowhere/at/all")}, r"has no connection: OperationalError: "),
        ({"connect": lambda: sys.exit("closed")}, r"has no connection: SystemExit: closed"),
    ],
)
def test_what_is_wrong_is_told_before_the_job_runs(query, options, message):
    job = mmg.Job(query(**options), lambda key, row: [])
    with pytest.raises(mmg.DatasourceError, match=message) as failed:
        job.check()
    assert "\n" not in str(failed.value)


def test_keys_that_are_no_integers_are_refused(query):
    for key, kind in (("kind", "str"), ("total", "float")):
        with pytest.raises(mmg.DatasourceError, match=rf"key='{key}' has the {kind} .*unique.*ROW_NUMBER"):
            list(query(key=key))
    numbered = "SELECT ROW_NUMBER() OVER (ORDER BY kind) AS number, kind FROM sales"
    assert [key for key, _ in query(numbered, key="number")] == [*range(1, len(KEYS) + 4)]
    assert list(query(SQL + " WHERE id > 5000")) == []


def test_a_query_that_a_function_makes_is_refused(query):
    with pytest.raises(mmg.DatasourceError, match="make the Query the datasource itself"):
        list(run_inline(mmg.Job(lambda: query(), lambda key, row: [])))


def test_functions_that_nodes_offer_are_refused(query):
    with pytest.raises(mmg.FunctionError, match=r"'stats' is offered by nodes.*connect of a Query"):
        mmg.Job(query(), "stats").check()


def test_it_has_no_fingerprint(query):
    job = mmg.Job(query(), lambda key, row: [])
    with pytest.raises(OutputError, match=r"Query\(.*does not say what it depends on"):
        make_fingerprint(job)
