import datetime
import decimal
import os
import pickle
import sys

import pytest

import mmgevent as mmg
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import parquet
from mmgevent.job.inputs.refs import ContentNeeded, Unreadable

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="this pyarrow has no Parquet")

UTC = datetime.UTC


def rows_of(count):
    return [
        {"id": i, "name": f"name {i % 7}" if i % 5 else None, "price": i / 4, "tags": [i, i + 1]}
        for i in range(count)
    ]


def write(path, rows, **options):
    pq.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return str(path)


def units(source, *, travels=False):
    for ref in source.refs():
        yield from (pickle.loads(pickle.dumps(ref.with_content())) if travels else ref).units()


def spoil(path, group, column=0):
    """Overwrite the data of one column of a row group."""
    chunk = pq.read_metadata(path).row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)


def count_groups(path, row):
    yield row["id"] // 10, 1


@pytest.mark.parametrize("travels", [False, True])
def test_each_row_comes_once_with_its_number_in_the_file(tmp_path, travels):
    rows = rows_of(95)
    one = write(tmp_path / "one.parquet", rows, row_group_size=10)
    two = write(tmp_path / "two.parquet", rows[:3], compression="none")
    expected = [
        ((path, i), row) for path, count in ((one, 95), (two, 3)) for i, row in enumerate(rows[:count])
    ]
    assert list(units(mmg.Parquet(tmp_path), travels=travels)) == expected
    few = mmg.Parquet(one, columns=["price", "id"])
    assert list(units(few, travels=travels)) == [
        ((one, i), {"price": row["price"], "id": row["id"]}) for i, row in enumerate(rows)
    ]
    assert list(next(iter(few))[1]) == ["price", "id"]


@pytest.mark.parametrize("travels", [False, True])
def test_tables_hold_a_row_group_or_a_part_of_one(tmp_path, travels, monkeypatch):
    path = write(tmp_path / "t.parquet", rows_of(95), row_group_size=40)
    tables = list(units(mmg.Parquet(path, columns=["id"], as_="arrow"), travels=travels))
    assert [(key, table.num_rows) for key, table in tables] == [
        ((path, 0), 40),
        ((path, 40), 40),
        ((path, 80), 15),
    ]
    monkeypatch.setattr(parquet, "MAX_TABLE_ROWS", 16)
    tables = list(units(mmg.Parquet(path, columns=["id"], as_="arrow"), travels=travels))
    assert [table.num_rows for _, table in tables] == [16, 16, 8, 16, 16, 8, 15]
    assert pyarrow.concat_tables([table for _, table in tables]).column("id").to_pylist() == list(range(95))
    assert [key[1] for key, _ in tables] == [0, 16, 32, 40, 56, 72, 80]


@pytest.mark.parametrize("as_", ["rows", "arrow"])
def test_any_range_of_units_is_that_of_all_units(tmp_path, as_, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_TABLE_ROWS", 4)
    monkeypatch.setattr(parquet, "MAX_ROWS", 5)
    path = write(tmp_path / "t.parquet", rows_of(23))
    (ref,) = mmg.Parquet(path, as_=as_).refs()
    every = list(ref.units())
    assert ref.unit_count == len(every) == {"rows": 23, "arrow": 6}[as_]
    for low in range(len(every) + 1):
        for high in range(low, len(every) + 1):
            assert list(ref.units_between(low, high)) == every[low:high]
    for low in (0, 7, 22):
        parts = list(ref.tables(low, 23, 6))
        assert [row for part in parts for row in part[1].to_pylist()] == rows_of(23)[low:]
        assert [first for first, _ in parts] == list(range(low, 23, 6))


def test_values_are_those_of_python_whether_or_not_pandas_is_there(tmp_path):
    moment = datetime.datetime(2026, 3, 31, 12, 30, 15, 123456)
    columns = {
        "ns": pyarrow.array([moment], pyarrow.timestamp("ns")),
        "zone": pyarrow.array([moment.replace(tzinfo=UTC)], pyarrow.timestamp("ns", "UTC")),
        "span": pyarrow.array([datetime.timedelta(seconds=1.5)], pyarrow.duration("ns")),
        "nested": pyarrow.array(
            [[{"at": moment}]], pyarrow.list_(pyarrow.struct([("at", pyarrow.timestamp("ns"))]))
        ),
        "money": pyarrow.array([decimal.Decimal("1.50")]),
        "day": pyarrow.array([moment.date()]),
        "raw": pyarrow.array([b"\0\xff"]),
        "word": pyarrow.array(["a"]).dictionary_encode(),
    }
    pq.write_table(pyarrow.table(columns), path := str(tmp_path / "t.parquet"))
    ((_, row),) = mmg.Parquet(path)
    assert row == {
        "ns": moment,
        "zone": moment.replace(tzinfo=UTC),
        "span": datetime.timedelta(seconds=1.5),
        "nested": [{"at": moment}],
        "money": decimal.Decimal("1.50"),
        "day": moment.date(),
        "raw": b"\0\xff",
        "word": "a",
    }
    assert type(row["ns"]) is type(row["nested"][0]["at"]) is datetime.datetime


def test_a_row_with_a_value_that_python_does_not_have_fails_alone(tmp_path):
    at = pyarrow.array([1000, 2000, 2001, 3000], pyarrow.timestamp("ns"))
    pq.write_table(pyarrow.table({"n": [0, 1, 2, 3], "at": at}), path := str(tmp_path / "t.parquet"))
    found = [value for _, value in units(mmg.Parquet(path))]
    assert [type(value) is Unreadable for value in found] == [False, False, True, False]
    assert f"{path}: row 2 has a value in the column 'at'" in str(found[2].error)
    assert found[3] == {"n": 3, "at": datetime.datetime(1970, 1, 1, 0, 0, 0, 3)}


def test_files_of_writers_in_folders_are_no_input_unless_they_are_named(tmp_path):
    good = write(tmp_path / "part-0.parquet", rows_of(3))
    (tmp_path / "_SUCCESS").write_text("{}")
    (tmp_path / "_delta_log").mkdir()
    write(tmp_path / "_delta_log" / "x.parquet", rows_of(2))
    named = write(tmp_path / "_named.parquet", rows_of(1))
    (tmp_path / "_data").mkdir()
    inside = write(tmp_path / "_data" / "y.parquet", rows_of(1))

    def paths(*given):
        return [key[0] for key, _ in mmg.Parquet(*given)]

    assert paths(tmp_path) == paths(f"{tmp_path}/**") == paths(f"{tmp_path}/*") == [good] * 3
    assert paths(named) == [named]
    assert paths(tmp_path / "_data") == [inside]
    both = [tmp_path, f"{tmp_path}/_data/"]
    assert sorted(paths(tmp_path, named)) == [named, *[good] * 3]
    assert sorted(paths(*both)) == sorted(paths(*reversed(both))) == [inside, *[good] * 3]
    (tmp_path / "list").write_text(f"{good}\n{named}\n")
    assert len(list(mmg.Parquet.listed(tmp_path / "list", columns=["id"]))) == 4
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").write_text("")
    with pytest.raises(DatasourceError, match="begin with _"):
        list(mmg.Parquet(tmp_path / "empty").refs())


def test_a_remote_folder_that_begins_with_an_underscore_is_read_if_it_is_named(tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    content = tmp_path / "x"
    write(content, rows_of(1))
    names = ("new/a.parquet", "_new/b.parquet", "newer/_d/c.parquet", "new/_e/d.parquet")
    memory.pipe({f"/marks/{name}": content.read_bytes() for name in names})

    def paths(*given):
        found = [key[0] for key, _ in mmg.Parquet(*(f"memory://marks/{name}" for name in given))]
        return [path.removeprefix("memory://marks/") for path in found]

    assert paths("new", "_new") == paths("new", "_new/") == ["new/a.parquet", "_new/b.parquet"]
    assert paths("new", "newer/_d") == ["new/a.parquet", "newer/_d/c.parquet"]
    assert paths("*/*", "_new/*") == ["_new/b.parquet", "new/a.parquet"]
    assert paths("*/*") == paths("") == ["new/a.parquet"]
    memory.rm("/marks", recursive=True)


def wrong_sources(folder):
    good = write(folder / "good.parquet", rows_of(20), row_group_size=10)
    data = (folder / "good.parquet").read_bytes()
    for name, content in {
        "text.parquet": b"id,name\n",
        "empty.parquet": b"",
        "short.parquet": data[: len(data) // 2],
        "footer.parquet": data[:-40] + b"\xff" * 32 + data[-8:],
        "packed.parquet": b"\x1f\x8b\x08" + b"\0" * 20,
    }.items():
        (folder / name).write_bytes(content)
    return {
        "it begins with b'id,n'": mmg.Parquet(folder / "text.parquet"),
        "it is empty": mmg.Parquet(folder / "empty.parquet"),
        "is cut off": mmg.Parquet(folder / "short.parquet"),
        "its footer cannot be read": mmg.Parquet(folder / "footer.parquet"),
        "it is gzip": mmg.Parquet(folder / "packed.parquet"),
        "no column 'nope'; it has 'id', 'name', 'price', 'tags'": mmg.Parquet(good, columns=["id", "nope"]),
        "it is a list of names": mmg.Parquet(good, columns="id"),
        "names a column twice": mmg.Parquet(good, columns=["id", "id"]),
        "'rows', 'arrow'": mmg.Parquet(good, as_="pandas"),
        "does not exist": mmg.Parquet(folder / "missing.parquet"),
        "is a stream": mmg.Parquet("-"),
    }


def test_what_is_wrong_is_told_before_the_job_runs(tmp_path):
    for words, source in wrong_sources(tmp_path).items():
        with pytest.raises(DatasourceError) as caught:
            source.check()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_pyarrow_is_told_before_the_job_runs(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", rows_of(3))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DatasourceError, match=r"mmgevent\[parquet\]"):
        mmg.Parquet(path).check()


def test_two_columns_of_one_name_are_refused_as_rows_only(tmp_path):
    table = pyarrow.table([[1], [2], [3]], names=["a", "a", "b"])
    pq.write_table(table, path := str(tmp_path / "t.parquet"))
    with pytest.raises(DatasourceError, match="two columns with the name 'a'"):
        mmg.Parquet(path).check()
    assert [row for _, row in mmg.Parquet(path, columns=["b"])] == [{"b": 3}]
    assert [table.num_columns for _, table in mmg.Parquet(path, as_="arrow")] == [3]


def test_names_with_dots_are_columns_of_their_own(tmp_path):
    rows = [{"a": {"b": 1, "c": 2}, "a.b": 3, "d": 4}]
    path = write(tmp_path / "t.parquet", rows)
    for columns in (["a"], ["a.b"], ["d", "a"], ["a.b", "a"]):
        assert [row for _, row in mmg.Parquet(path, columns=columns)] == [
            {name: rows[0][name] for name in columns}
        ]


def test_what_cannot_be_read_is_set_aside_and_all_other_row_groups_count(tmp_path):
    path = write(
        tmp_path / "a.parquet", rows_of(50), row_group_size=10, write_page_checksum=True, use_dictionary=False
    )
    spoil(path, 3)
    (tmp_path / "b.parquet").write_bytes(b"no")
    other = write(tmp_path / "c.parquet", [{"number": 1}])
    source = mmg.Parquet(tmp_path, columns=["id"])
    job = mmg.Job(source, count_groups, lambda key, values: sum(values), max_skipped=3)
    with mmg.connect("inline") as inline:
        handle = inline.submit(job)
        assert handle.result() == {0: 10, 1: 10, 2: 10, 4: 10}
    failures = {failure["key"]: str(failure) for failure in handle.skipped()}
    assert set(failures) == {repr((path, 30)), repr((str(tmp_path / "b.parquet"), 0)), repr((other, 0))}
    assert f"{path}: row group 3 cannot be read" in failures[repr((path, 30))]
    assert "has no column 'id'" in failures[repr((other, 0))].replace("\\", "")
    with pytest.raises(mmg.JobError, match="row group 3"):
        mmg.run(mmg.Job(mmg.Parquet(path), count_groups), inline=True)


def test_a_file_that_was_changed_is_asked_for_and_not_mixed(tmp_path):
    path = write(tmp_path / "t.parquet", rows_of(20), row_group_size=10)
    first, second = mmg.Parquet(path).refs()
    write(tmp_path / "t.parquet", rows_of(21), row_group_size=10)
    with pytest.raises(ContentNeeded):
        list(first.units())
    with pytest.raises(DatasourceError, match="changed or went away"):
        second.with_content()
    os.unlink(path)
    with pytest.raises(ContentNeeded):
        list(second.units())


def test_what_was_sent_of_a_file_is_that_of_its_row_group(tmp_path):
    wide = [{f"c{i}": os.urandom(200).hex() for i in range(10)} for _ in range(200)]
    path = write(tmp_path / "t.parquet", wide, row_group_size=20, use_dictionary=False)
    ref = list(mmg.Parquet(path, columns=["c3"]).refs())[4].with_content()
    os.unlink(path)
    assert [row for _, row in ref.units()] == [{"c3": row["c3"]} for row in wide[80:100]]
    assert sum(len(data) for _, data in ref.content) < 100_000


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    count = 300_000
    table = pyarrow.table({"n": range(count), "text": [f"{i:040}" for i in range(count)]})
    pq.write_table(table, path := str(tmp_path / "t.parquet"), row_group_size=count, compression="none")
    total = table.nbytes
    del table
    for as_ in ("rows", "arrow"):
        before = pyarrow.total_allocated_bytes()
        (ref,) = mmg.Parquet(path, as_=as_).refs()
        most = 0
        for number, _ in enumerate(ref.units()):
            if as_ == "arrow" or number % 8192 == 0:
                most = max(most, pyarrow.total_allocated_bytes() - before)
        assert most < total * 0.9


def test_a_call_of_many_items_gets_one_table_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_TABLE_ROWS", 10)
    path = write(tmp_path / "t.parquet", rows_of(45))

    def add_up(keys, table):
        yield (len(keys), table.num_rows), sum(table["id"].to_pylist())

    job = mmg.Job(mmg.Parquet(path, as_="arrow"), add_up, items_per_call=2)
    expected = {(2, 20): [sum(range(20)), sum(range(20, 40))], (1, 5): [sum(range(40, 45))]}
    assert mmg.run(job, inline=True) == expected
