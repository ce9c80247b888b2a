"""Results as Parquet: what is read is what was written, or an error names the record."""

import datetime
import decimal
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent.errors import OutputError
from mmgevent.job.outputs import parquet, units
from mmgevent.job.outputs.formats import choose_format
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.tables import TableMaker
from mmgevent.reducers import sum_values
from tests.effort import share_of
from tests.file_sizes import file_size_limit

pq = pytest.importorskip("pyarrow.parquet", reason="this pyarrow has no Parquet")
pyarrow = pytest.importorskip("pyarrow")

#: Writes so many records into a file or parts, a row group each; prints a line for each.
WRITER = """
import sys
from mmgevent.job.outputs import parquet
from mmgevent.job.outputs.opening import open_output
parquet.ROW_GROUP_ROWS = 2
options = {"part_bytes": 100, "overwrite": True} if sys.argv[1].endswith("/") else {}
with open_output(sys.argv[1], "parquet", **options) as sink:
    for i in range(int(sys.argv[2])):
        sink.write(i, sys.argv[3])
        print(i, flush=True)
"""

RECORDS = 60

NOON = datetime.datetime(2020, 1, 2, 12, 30, 1, 5)
AWARE = NOON.replace(tzinfo=datetime.UTC)


def write(path, records, **options):
    with open_output(path, **options) as sink:
        for key, value in records:
            sink.write(key, value)
    return path


def values_of(path):
    return pq.read_table(path).column("value").to_pylist()


def numbered(values):
    return [(f"key {i}", value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -(2**63), 2**63 - 1], "int64"),
        ([1.5, 2, None, float("inf"), 2**53], "double"),
        ([2, 1.5], "double"),
        (["a", "", "grüße", "\t\n\0", None], "string"),
        ([b"a", b"\xff", None], "binary"),
        ([True, None, False], "bool"),
        ([None, None], "null"),
        ([NOON, None], "timestamp[us]"),
        ([AWARE], "timestamp[us, tz=UTC]"),
        ([NOON.date()], "date32[day]"),
        ([NOON.time()], "time64[us]"),
        ([datetime.timedelta(1, 2, 3)], "duration[us]"),
        ([decimal.Decimal("1.50"), 3, decimal.Decimal("123456.7")], "decimal128(38, 2)"),
        ([[1], [], None, [2, None]], "list<element: int64>"),
        ([["a"], ["b", "c"]], "list<element: string>"),
        ([[1], [1.5]], "list<element: double>"),
        ([[[]], [[NOON]]], "list<element: list<element: timestamp[us]>>"),
        ([{"a": 1, "b": ["x"]}, None], "struct<a: int64, b: list<element: string>>"),
    ],
    ids=str,
)
def test_what_is_read_is_what_was_written(values, kind, tmp_path):
    path = write(tmp_path / "out.parquet", numbered(values))
    assert values_of(path) == values
    assert str(pq.read_schema(path).field("value").type) == kind
    rows = [row for _, row in mmg.Parquet(path)]
    assert rows == [{"key": key, "value": value} for key, value in numbered(values)]


def test_sets_are_lists_in_order_and_dicts_may_lack_keys(tmp_path):
    path = write(tmp_path / "out.parquet", numbered([{"b", "a"}, frozenset({"d", "c"}), ["x"]]))
    assert values_of(path) == [["a", "b"], ["c", "d"], ["x"]]
    path = write(tmp_path / "out.parquet", numbered([{"a": 1}, {"b": 2}]))
    assert values_of(path) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_sets_within_values_have_one_order(tmp_path):
    sets = {frozenset({i, 9 - i}) for i in range(5)}
    write(tmp_path / "out.parquet", numbered([{"sets": sets}]))
    assert values_of(tmp_path / "out.parquet") == [{"sets": sorted(map(sorted, sets))}]


def test_a_time_with_a_zone_is_refused_since_columns_lose_it(tmp_path):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    with pytest.raises(OutputError, match="time zone"):
        write(tmp_path / "out.parquet", numbered([[datetime.time(12, tzinfo=zone)]]))


def test_seconds_of_numpy_fit_a_file_that_has_them_as_milliseconds(tmp_path):
    numpy = pytest.importorskip("numpy", reason="its times are what is tested")
    moments = [numpy.datetime64("2026-01-02T03:04:05", "s"), None]
    path = f"{tmp_path}/out/"
    write(path, [*numbered(moments), *numbered(moments)], format="parquet", part_bytes=1)
    assert values_of(path) == [datetime.datetime(2026, 1, 2, 3, 4, 5), None] * 2


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class Hostile:
    def __getattr__(self, name):
        raise RuntimeError("no attributes")

    def __repr__(self):
        raise RuntimeError("no repr")


#: values before it, a value that does not go with them, what the message says of it
MISFITS = [
    ([1], 1.5, "double and does not go with .* the type is int64"),
    ([1], True, "bool and does not"),
    ([1.5], True, "bool and does not"),
    ([1.5], 2**53 + 1, "cannot be double"),
    ([1], 2**63, "cannot be int64"),
    ([1], "1", "string and does not"),
    (["a"], b"a", "binary and does not"),
    ([b"a"], "a", "string and does not"),
    (["a"], "\udc80", "cannot be string"),
    ([NOON], AWARE, "tz=UTC. and does not"),
    ([NOON], NOON.date(), "date32.* and does not"),
    ([NOON.date()], NOON, "timestamp.* and does not"),
    ([NOON], 5, "int64 and does not"),
    ([[1]], [1.5], "double> and does not"),
    ([[1]], 1, "int64 and does not"),
    ([["a"]], [b"a"], "binary> and does not"),
    ([["a"]], ["a", b"a"], "has both string and binary in it"),
    ([{"a": 1}], {"a": 1, "b": 2}, "b: int64> and does not"),
    ([{"a": 1}], {1: 1}, "is a dict with the key 1; only str keys"),
    ([decimal.Decimal("1.5")], decimal.Decimal("1.25"), r"decimal128\(38, 2\) and does not"),
    ([None], 1, "int64 and does not go with .*, where there is only None"),
    ([1], 1j, "is a complex, no type of a column"),
    ([1], object(), "is a object, no type"),
    ([1], Hostile(), "is a Hostile, no type"),
]


@pytest.mark.parametrize(("before", "value", "said"), MISFITS, ids=[said for _, _, said in MISFITS])
def test_a_record_that_does_not_fit_the_first_ones_is_named(before, value, said, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", len(before))  # they make the schema
    path = tmp_path / "out.parquet"
    path.write_bytes(b"old")
    with pytest.raises(
        OutputError, match=f"column 'value': the record of 'key {len(before)}' has (?s:.*){said}"
    ):
        write(path, numbered([*before, value]))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.parquet"]


#: What pyarrow would change without a word: in one table, first ones as in the middle.
LOSSES = [
    ["a", b"b"],
    [b"b", "a"],
    [NOON.date(), NOON],
    [NOON, AWARE],
    [AWARE, NOON],
    [NOON, 5],
    [1.5, True],
    [["a"], [b"b"]],
]


@pytest.mark.parametrize("values", LOSSES, ids=str)
def test_values_of_one_row_group_are_not_made_alike(values, tmp_path):
    with pytest.raises(OutputError, match="the record of 'key 1' has"):
        write(tmp_path / "out.parquet", numbered(values))
    with pytest.raises(OutputError, match="the record of 'key 1' has"):
        TableMaker("pyarrow", None).make(numbered(values))


def test_lists_within_lists_have_a_limit(tmp_path):
    endless: list[object] = []
    endless.append(endless)
    for value in (nested(100_000), endless, {"a": endless}):
        with pytest.raises(OutputError, match="the record of 'key 1' has too many lists within lists"):
            write(tmp_path / "out.parquet", numbered([[], value]))
        with pytest.raises(OutputError, match=r"the record of 'key 1' has .* too many lists within lists"):
            TableMaker("pyarrow", None).make(numbered([[], value]))
    assert os.listdir(tmp_path) == []


def test_dicts_without_keys_are_refused_by_column(tmp_path):
    with pytest.raises(OutputError, match="Parquet has no type for the column 'value', which is struct<>"):
        write(tmp_path / "out.parquet", numbered([{}]))
    assert os.listdir(tmp_path) == []


def test_tuples_are_columns_and_columns_have_names(tmp_path):
    path = write(tmp_path / "out.pq", [(("a", 1), 2.5), (("b", 2), 3.5)])
    assert pq.read_table(path).to_pydict() == {"key_0": ["a", "b"], "key_1": [1, 2], "value": [2.5, 3.5]}
    path = write(tmp_path / "out.pq", [("a", 1)], columns="word,count")
    assert pq.read_table(path).to_pylist() == [{"word": "a", "count": 1}]
    with pytest.raises(OutputError, match=r"the record of 'a' has 2 columns .* names for 3: 'x,y,z'"):
        write(path, [("a", 1)], columns="x,y,z")


@pytest.mark.parametrize(("columns", "names"), [(None, ["key", "value"]), ("a,b,c", ["a", "b", "c"])])
def test_no_results_are_a_table_without_rows(columns, names, tmp_path):
    for path in (tmp_path / "out.parquet", f"{tmp_path}/folder/"):
        write(path, [], columns=columns, format="parquet")
        table = pq.read_table(path)
        assert (table.column_names, table.num_rows) == (names, 0)
    assert os.listdir(tmp_path / "folder") in (
        ["part-00000.parquet", "_SUCCESS"],
        ["_SUCCESS", "part-00000.parquet"],
    )


def test_row_groups_are_bounded_by_rows_and_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 1000)
    path = write(tmp_path / "out.parquet", numbered(["x"] * 25 + ["x" * 400] * 6))
    told = pq.read_metadata(path)
    sizes = [told.row_group(i).num_rows for i in range(told.num_row_groups)]
    assert sizes == [10, 10, 8, 3]
    assert told.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(
    ("path", "format"),
    [("x.parquet.gz", None), ("x.gz", "parquet"), (None, "parquet.zst"), ("x.pq.XZ", None)],
)
def test_it_is_not_compressed_once_more(path, format):
    with pytest.raises(OutputError, match=r"Parquet is not compressed once more as (gz|zst|xz): .*zstd"):
        choose_format(path, format)


def test_a_missing_library_is_one_sentence_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for path in (tmp_path / "out.parquet", f"{tmp_path}/out/"):
        with pytest.raises(
            OutputError, match=r"needs the package pyarrow.*pip install 'mmgevent\[parquet\]'"
        ):
            open_output(path, "parquet")
    assert os.listdir(tmp_path) == []


def test_it_goes_to_pipes_and_not_to_terminals_and_no_other_format_loads_the_library(tmp_path):
    master, slave = pty.openpty()
    refused = pytest.raises(OutputError, match="format parquet is not for terminals")
    with os.fdopen(slave, "w") as terminal, os.fdopen(master), refused:
        open_output(None, "parquet", terminal)
    program = (
        "import sys; from mmgevent.job.outputs.sinks import open_sink\n"
        "with open_sink('/dev/null', 'csv') as sink: sink.write('a', 1)\n"
        "assert 'pyarrow' not in sys.modules, 'only parquet needs it, and it takes 0.3 s'\n"
        "with open_sink(None, 'parquet') as sink: sink.write('a', 1)"
    )
    data = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout
    assert pq.read_table(pyarrow.BufferReader(data)).to_pylist() == [{"key": "a", "value": 1}]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    draw = random.Random(1)
    with file_size_limit(20_000), pytest.raises(OutputError, match=r"cannot write .*out\.parquet: "):
        write(tmp_path / "out.parquet", [(i, draw.randbytes(100)) for i in range(1000)])
    assert os.listdir(tmp_path) == []


# -- folders


def test_parts_of_a_folder_have_one_schema(tmp_path):
    path = f"{tmp_path}/out/"
    write(path, numbered(range(20)), format="parquet", part_bytes=100)
    told = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (told["records"], told["format"], len(told["parts"])) == (20, "parquet", 5)
    assert {part["name"]: part["bytes"] for part in told["parts"]} == {
        name: os.path.getsize(path + name) for name in os.listdir(path) if name.endswith(".parquet")
    }
    assert values_of(path) == list(range(20))


#: values of parts, one each, and what the type of all is
WIDENED = [
    ([1, 1.5, None, 2**53], "double"),
    ([None, 1, None], "int64"),
    ([None, None, "a"], "string"),
    ([[], [1], None, [1.5, None], [2]], "list<element: double>"),
    ([{"a": 1}, {"b": [1]}, None, {"a": 1.5, "b": None}], "struct<a: double, b: list<element: int64>>"),
    ([[{"a": None}], [{"a": 1}, None], None, []], "list<element: struct<a: int64>>"),
    ([decimal.Decimal("1.5"), 3, decimal.Decimal("1.25")], "decimal128(38, 2)"),
    ([AWARE, AWARE.astimezone(datetime.timezone(datetime.timedelta(hours=2)))], "timestamp[us, tz=UTC]"),
]


@pytest.mark.parametrize(("values", "kind"), WIDENED, ids=[kind for _, kind in WIDENED])
@pytest.mark.parametrize("is_turned", [False, True])
def test_parts_whose_types_differ_get_the_one_that_holds_all(values, kind, is_turned, tmp_path):
    path, values = f"{tmp_path}/out/", values[::-1] if is_turned else values
    write(path, [(i % 3, value) for i, value in enumerate(values)], format="parquet", part_bytes=1)
    told = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert len(told["parts"]) == len(values)
    schemas = [pq.read_schema(path + part["name"]) for part in told["parts"]]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    if not is_turned:
        assert str(schemas[0].field("value").type) == kind
    filled = [{"a": None, "b": None} | value if type(value) is dict else value for value in values]
    assert values_of(path) == (filled if kind.startswith("struct") else values)
    assert [os.path.getsize(path + part["name"]) for part in told["parts"]] == [
        part["bytes"] for part in told["parts"]
    ]
    assert sorted(os.listdir(path)) == ["_SUCCESS", *(part["name"] for part in told["parts"])]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [1, "x"],
            r"holds both int64 and string, .* 'value' has them: the row \(0, 1\) of .*part-00000.* \(1, 'x'\) of",
        ),
        ([[1], [["x"]]], r"holds both list<element: int64> and list<element: list<element: string>>"),
        ([2**53 + 1, 1.5], r"the row \(0, 9007199254740993\) of .*part-00000.parquet cannot be double"),
        ([None, 1, "x"], r"the row \(1, 1\) of .*part-00001.* the row \(2, 'x'\) of .*part-00002"),
    ],
)
def test_parts_whose_types_do_not_go_together_are_named_by_their_rows(values, said, tmp_path):
    path = f"{tmp_path}/out/"
    with pytest.raises(OutputError, match=said) as caught:
        write(path, list(enumerate(values)), format="parquet", part_bytes=1, warn=lambda text: None)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(f"{path}_SUCCESS")


JOB = mmg.Job({i: i for i in range(40)}, sum_values, sum_values, partitions=8)


def test_a_resumed_folder_has_the_types_of_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(units, "AGE_SHARE", 0.0)
    path = f"{tmp_path}/out/"
    options = {"format": "parquet", "job": JOB, "warn": lambda text: None}
    sink = open_output(path, **options)
    sink.write("a", 1.5)
    sink.note_partitions((0,), 8)
    sink.write("half of a partition", 1.5)
    sink.abort()
    with open_output(path, resume=True, **options) as sink:
        assert sink.made_records == 1
        sink.write("b", 2)
        sink.note_partitions((1, 2, 3, 4, 5, 6, 7), 8)
    table = pq.read_table(path)
    assert table.to_pylist() == [{"key": "a", "value": 1.5}, {"key": "b", "value": 2.0}]
    assert {
        str(pq.read_schema(path + name).field("value").type) for name in os.listdir(path) if "part" in name
    } == {"double"}
    with pytest.raises(OutputError, match="another job made what is there"):
        open_output(path, resume=True, columns="a,b", **options)


def test_a_resumed_folder_names_what_does_not_go_with_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(units, "AGE_SHARE", 0.0)
    path = f"{tmp_path}/out/"
    options = {"format": "parquet", "job": JOB, "warn": lambda text: None}
    sink = open_output(path, **options)
    sink.write("a", 1.5)
    sink.note_partitions((0,), 8)
    sink.abort()
    sink = open_output(path, resume=True, **options)
    sink.write("b", "text")
    with pytest.raises(OutputError, match=r"both double and string, .* the row \('b', 'text'\) of"):
        sink.note_partitions((1,), 8)
    sink.abort()


def kill_after(path, value, lines):
    """Kill a writer that has written so many records, and perhaps more."""
    arguments = [sys.executable, "-c", WRITER, str(path), str(RECORDS), value]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()


@pytest.mark.parametrize("count", [1, pytest.param(8, marks=pytest.mark.long)])
def test_a_writer_that_is_killed_leaves_nothing_that_looks_complete(count, tmp_path):
    draw = random.Random(count)
    file, folder = tmp_path / "out.parquet", f"{tmp_path}/out/"
    write(file, [(0, "first")])
    write(folder, [(0, "first")], format="parquet")
    for turn in range(max(1, share_of(count))):
        kill_after(file, f"kill {turn}", draw.randint(1, RECORDS))
        assert values_of(file) in (["first"], *([f"kill {i}"] * RECORDS for i in range(turn + 1)))
        kill_after(folder, f"kill {turn}", draw.randint(1, RECORDS))
        values = [
            value
            for name in sorted(os.listdir(folder))
            if name.startswith("part-")
            for value in values_of(folder + name)
        ]
        if os.path.exists(f"{folder}_SUCCESS"):
            assert len(values) == json.loads((tmp_path / "out" / "_SUCCESS").read_text())["records"]
    assert set(os.listdir(tmp_path)) == {"out.parquet", "out"}


def test_the_command_writes_it_names_what_misfits_and_refuses_suffixes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(
        "datasource = {i: i for i in range(9)}\n"
        "def mapfn(key, value):\n"
        "    yield f'word {key}', value\n"
        "def reducefn(key, values):\n"
        "    return sum(values)\n"
        "def finishfn(key, value):\n"
        "    return 'text' if value == 7 and later else value\n"
        "later = __import__('os').environ.get('LATER')\n"
    )

    def run(*options, environ=None):
        command = [sys.executable, "-m", "mmgevent", "run", "--inline", *options, "job.py"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environ or {})})

    done = run("-o", "out.parquet", "--sort", "-value", "--columns", "word,n")
    assert done.returncode == 0, done.stderr
    rows = [{"word": f"word {i}", "n": i} for i in range(8, -1, -1)]
    assert pq.read_table("out.parquet").to_pylist() == rows
    failed = run("-o", "out.parquet", environ={"LATER": "1"})
    assert failed.returncode == 1
    assert "the record of 'word 7' has 'text' there, which is string" in failed.stderr
    assert pq.read_table("out.parquet").to_pylist() == rows
    refused = run("-o", "out.parquet.gz")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


#: Writes what is missing, partitions of other types each, and dies at a given call; prints how many there were.
RESUMER = """
import os, sys
from mmgevent.job.outputs import units
from mmgevent.job.outputs.opening import open_output
from tests.job.outputs.test_parquet import JOB
units.MIN_AGE_S = units.AGE_SHARE = 0.0
calls, own = 0, {name: getattr(os, name) for name in ("replace", "unlink", "link")}

def counted(name):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == kill_at:
            os._exit(9)
        return own[name](*arguments, **options)
    return call

for name in own:
    setattr(os, name, counted(name))

def write(path):
    with open_output(path, "parquet", resume=True, job=JOB) as sink:
        done = sink.made.partitions if sink.made else ()
        for partition, value in enumerate([1, None, 1.5, 2]):
            if partition not in done and not sink.is_complete:
                sink.write(partition, value)
                sink.note_partitions((partition,), 8)

folder, kill_at = sys.argv[1], 0
write(f"{folder}/whole/")
count = calls
for at in range(1, count + 1):
    process = os.fork()
    if not process:
        calls, kill_at = 0, at
        write(f"{folder}/{at}/")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
print(count)
"""


def test_a_kill_while_parts_are_written_anew_loses_nothing(tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", RESUMER, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kill_at in range(1, int(done.stdout) + 1):
        path = f"{tmp_path}/{kill_at}/"
        if os.path.exists(f"{path}_SUCCESS"):
            assert values_of(path) == [1.0, None, 1.5, 2.0]
        with open_output(path, "parquet", resume=True, job=JOB) as sink:
            done = sink.made.partitions if sink.made else ()
            for partition, value in enumerate([1, None, 1.5, 2]):
                if partition not in done and not sink.is_complete:
                    sink.write(partition, value)
                    sink.note_partitions((partition,), 8)
        assert sorted(values_of(path), key=str) == [1.0, 1.5, 2.0, None], kill_at
        told = json.loads((tmp_path / str(kill_at) / "_SUCCESS").read_text())
        assert sorted(os.listdir(path)) == ["_SUCCESS", *(part["name"] for part in told["parts"])]
        types = {str(pq.read_schema(path + part["name"]).field("value").type) for part in told["parts"]}
        assert types == {"double"}


@pytest.mark.parametrize("damage", ["footer", "rows"])
def test_a_part_of_an_earlier_run_that_is_damaged_is_named(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "MIN_AGE_S", 0.0)
    monkeypatch.setattr(units, "AGE_SHARE", 0.0)
    path = f"{tmp_path}/out/"
    options = {"format": "parquet", "job": JOB, "warn": lambda text: None}
    sink = open_output(path, **options)
    sink.write("a", 1)
    sink.note_partitions((0,), 8)
    sink.abort()
    part = Path(path) / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    at = len(data) - 12 if damage == "footer" else 4
    data[at : at + 8] = b"\xff" * 8
    part.write_bytes(data)

    def go_on():
        with open_output(path, resume=True, **options) as sink:
            sink.write("b", 1.5)  # so the first part is to be written anew
            sink.note_partitions((1, 2, 3, 4, 5, 6, 7), 8)

    with pytest.raises(OutputError, match=r"part-00000\.parquet is damaged: .*; begin anew") as caught:
        go_on()
    assert "\n" not in str(caught.value)
    assert not os.path.exists(f"{path}_SUCCESS")
