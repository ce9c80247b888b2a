import collections
import decimal
import io
import json
import os
import pickle
import stat
import subprocess
import sys

import pytest

from mmgevent.errors import DatasourceError, OutputError
from mmgevent.job.outputs.formats import load
from mmgevent.job.outputs.sinks import open_sink


def text_of(format, *records):
    out = io.BytesIO()
    with open_sink(None, format, out) as sink:
        for key, value in records:
            sink.write(key, value)
    return out.getvalue().decode("utf-8")


Point = collections.namedtuple("Point", "x y")


class TestTsv:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("word", "word"),
            ("grüße", "grüße"),
            ("a\tb\nc\rd\\e", r"a\tb\nc\rd\\e"),
            ("\udc80", r"\udc80"),
            (1, "1"),
            (1.5, "1.5"),
            (True, "true"),
            (None, "null"),
            ([1, "a\tü"], r'[1, "a\tü"]'),
            ((1, (2,)), "[1, [2]]"),
            (Point(1, 2), "[1, 2]"),
            ({10, 9}, "[9, 10]"),
            ({(10, 1), (9, 1)}, "[[9, 1], [10, 1]]"),
            (frozenset({"b", 1}), '["b", 1]'),
            ({frozenset({2, 1}), frozenset({3})}, "[[1, 2], [3]]"),
            ({"k": {1}}, '{"k": [1]}'),
            (["\udc80"], r'["\udc80"]'),
            (float("nan"), "nan"),
            ([float("inf")], "[inf]"),
            (b"x\n", r"b'x\\n'"),
            ({1: 2}, "{1: 2}"),
            (decimal.Decimal("1.5"), "Decimal('1.5')"),
        ],
    )
    def test_a_str_stands_as_it_is_and_the_rest_as_json_or_repr(self, value, text):
        assert text_of("tsv", ("key", value), (value, 1)) == f"key\t{text}\n{text}\t1\n"

    def test_a_repr_cannot_break_the_line(self):
        class Odd:
            def __repr__(self):
                return "odd\tand\nbroken"

        assert text_of("tsv", (Odd(), 1)) == "odd\\tand\\nbroken\t1\n"

    def test_a_value_within_itself_is_no_crash(self):
        value = []
        value.append(value)
        assert text_of("tsv", ("k", value)) == "k\t[[...]]\n"

    def test_it_is_utf8_whatever_the_locale(self):
        code = "from mmgevent.job.outputs.sinks import open_sink\nwith open_sink() as s: s.write('gr\\xfc\\xdfe', '\\udcff')"
        result = subprocess.run(
            [sys.executable, "-X", "utf8=0", "-c", code],
            env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=True,
        )
        assert result.stdout == "grüße\t\\udcff\n".encode()


class TestJsonl:
    @pytest.mark.parametrize(
        ("value", "read"),
        [
            ("a\tü", "a\tü"),
            ("\udc80", "\udc80"),
            ((1, 2), [1, 2]),
            ({2, 1}, [1, 2]),
            ({"a": None}, {"a": None}),
        ],
    )
    def test_each_line_is_key_and_value(self, value, read):
        (line,) = text_of("jsonl", (value, value)).splitlines()
        assert json.loads(line) == [read, read]

    def test_a_set_whose_elements_cannot_be_compared_fails_with_the_key(self):
        """A worker with plain results may send one, and so may a function."""
        with pytest.raises(OutputError, match="record of 'the key'"):
            text_of("jsonl", ("the key", {decimal.Decimal("NaN"), decimal.Decimal(1)}))

    @pytest.mark.parametrize("value", [b"x", {1: 2}, [float("nan")], {"a": {None: 1}}, object(), 1j])
    def test_what_json_cannot_say_fails_with_the_key(self, value):
        with pytest.raises(OutputError, match=r"record of 'the key'.*JSON has no"):
            text_of("jsonl", ("the key", value))


#: what numpy evaluates, and what is written for it as tsv and as jsonl
NUMBERS_OF_NUMPY = [
    ("int64(3)", "3"),
    ("uint64(2**63)", "9223372036854775808"),
    ("int8(-1)", "-1"),
    ("float64(1.5)", "1.5"),
    ("float32(0.5)", "0.5"),
    ("float16(0.25)", "0.25"),
    ("longdouble(0.5)", "0.5"),
    ("bool_(True)", "true"),
    ("array(5)", "5"),
    ("array([[1, 2], [3, 4]])", "[[1, 2], [3, 4]]"),
    ("array([1.5, 2], dtype='g')", "[1.5, 2.0]"),
    ("array([1, None, 'x'], dtype=object)", '[1, null, "x"]'),
    ("array([(1, 2.0)], dtype='i4,f8')[0]", "[1, 2.0]"),
    ("array(['2020', 'NaT'], dtype='M8[D]')", '["2020-01-01", "NaT"]'),
    ("ma.array([1, 2], mask=[0, 1])", "[1, null]"),
    ("ma.masked", "null"),
]


class TestNumpy:
    """Scalars of numpy are written as what they stand for, wherever they are in a record."""

    @pytest.fixture
    def numpy(self):
        return pytest.importorskip("numpy")

    @pytest.mark.parametrize(("value", "text"), NUMBERS_OF_NUMPY)
    def test_a_number_is_a_number(self, value, text, numpy):
        value = eval(value, vars(numpy).copy())
        assert text_of("tsv", ("k", value)) == f"k\t{text}\n"
        assert text_of("jsonl", ("k", value)) == f'["k", {text}]\n'
        assert text_of("jsonl", ("k", {"in": [(value,)]})) == f'["k", {{"in": [[{text}]]}}]\n'

    def test_keys_are_written_as_values_are(self, numpy):
        key = (numpy.int64(1), numpy.str_("a\tb"))
        assert text_of("tsv", (key, 1), (numpy.int64(2), 1)) == '[1, "a\\tb"]\t1\n2\t1\n'
        assert text_of("jsonl", (key, 1)) == '[[1, "a\\tb"], 1]\n'

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("str_('a\\tb')", r"a\tb"),
            ("datetime64('2020-01-31T12:00')", "2020-01-31T12:00"),
            ("datetime64('NaT', 's')", "NaT"),
            ("timedelta64(3, 's')", "3 seconds"),
            ("array(datetime64('2020'))", "2020"),
        ],
    )
    def test_text_and_times_stand_as_they_are(self, value, text, numpy):
        value = eval(value, vars(numpy).copy())
        assert text_of("tsv", ("k", value), (value, 1)) == f"k\t{text}\n{text}\t1\n"
        assert json.loads(text_of("jsonl", ("k", value)))[1] == text.replace("\\t", "\t")

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("float32('nan')", "nan"),
            ("float64('-inf')", "-inf"),
            ("complex64(1j)", "1j"),
            ("bytes_(b'x')", "b'x'"),
            ("array([b'x'])", "[b'x']"),
            ("longdouble('1e4000')", "inf"),
        ],
    )
    def test_what_json_cannot_say_is_written_as_the_same_of_python(self, value, text, numpy):
        value = eval(value, vars(numpy).copy())
        assert text_of("tsv", ("k", value)) == f"k\t{text}\n"
        with pytest.raises(OutputError, match=r"record of 'k': JSON has no"):
            text_of("jsonl", ("k", value))

    def test_a_repr_says_nothing_of_numpy_at_any_depth(self, numpy):
        value = {numpy.int64(1): [numpy.float32("nan"), (numpy.bool_(False), {numpy.int8(3)})]}
        assert text_of("tsv", ("k", value)) == "k\t{1: [nan, (False, {3})]}\n"

    def test_a_long_array_is_written_whole(self, numpy):
        text = text_of("tsv", ("k", numpy.arange(5000)))
        assert json.loads(text.partition("\t")[2]) == list(range(5000))

    def test_a_value_within_itself_is_no_crash(self, numpy):
        value = [numpy.int64(1)]
        value.append(value)
        assert text_of("tsv", ("k", value)).endswith(", [...]]\n")


class TestPickle:
    def test_a_stream_of_records_loads_again(self, tmp_path):
        records = [(1, {2}), (("a", b"b"), None), ("x", Point(1, 2))]
        with open_sink(tmp_path / "out.pkl") as sink:
            for record in records:
                sink.write(*record)
        assert list(load(tmp_path / "out.pkl")) == records

    def test_an_empty_stream_is_no_records(self, tmp_path):
        with open_sink(tmp_path / "out.pickle"):
            pass
        assert list(load(tmp_path / "out.pickle")) == []

    @pytest.mark.parametrize("data", [pickle.dumps((1, "long enough"))[:-3], b"text\n", pickle.dumps([1])])
    def test_damage_is_an_error(self, data, tmp_path):
        path = tmp_path / "out.pkl"
        path.write_bytes(pickle.dumps((0, 0)) + data)
        records = load(path)
        assert next(records) == (0, 0)
        with pytest.raises(DatasourceError, match=r"out\.pkl"):
            next(records)

    def test_what_does_not_pickle_fails_with_the_key(self):
        with pytest.raises(OutputError, match="record of 'the key'"):
            text_of("pickle", ("the key", lambda: 1))


def fail_after_a_record(sink, error):
    sink.write(1, 2)
    raise error


class TestFiles:
    def test_a_file_appears_only_when_all_is_written(self, tmp_path):
        path = tmp_path / "out.tsv"
        with open_sink(path) as sink:
            for i in range(100_000):
                sink.write(i, "x")
            assert not path.exists()
        assert path.read_text().count("\n") == 100_000
        assert os.listdir(tmp_path) == ["out.tsv"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_a_failure_leaves_nothing_and_keeps_what_was_there(self, error, tmp_path):
        path = tmp_path / "out.tsv"
        path.write_text("before")
        with pytest.raises(error), open_sink(path) as sink:
            fail_after_a_record(sink, error)
        assert path.read_text() == "before"
        assert os.listdir(tmp_path) == ["out.tsv"]

    def test_permissions_are_those_of_any_new_file(self, tmp_path):
        before = os.umask(0o027)
        try:
            with open_sink(tmp_path / "out"):
                pass
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / "out").st_mode) == 0o640

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "link.tsv").symlink_to("real.tsv")
        with open_sink(tmp_path / "link.tsv") as sink:
            sink.write(1, 2)
        assert (tmp_path / "link.tsv").is_symlink()
        assert (tmp_path / "real.tsv").read_text() == "1\t2\n"

    def test_a_device_or_pipe_is_written_not_replaced(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with open_sink(pipe) as sink:
                sink.write(1, 2)
            assert os.read(reader, 100) == b"1\t2\n"
        finally:
            os.close(reader)
        assert stat.S_ISFIFO(os.stat(pipe).st_mode)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
    def test_a_full_disk_is_an_output_error(self):
        with pytest.raises(OutputError, match="/dev/full: No space left"), open_sink("/dev/full") as sink:
            sink.write(1, 2)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("o.tsv", "1\t2\n"), ("o.TXT", "1\t2\n"), ("o", "1\t2\n"), ("o.ndjson", "[1, 2]\n")],
    )
    def test_the_suffix_decides_the_format(self, name, text, tmp_path):
        with open_sink(tmp_path / name) as sink:
            sink.write(1, 2)
        assert (tmp_path / name).read_text() == text

    def test_a_given_format_decides_over_the_suffix(self, tmp_path):
        with open_sink(tmp_path / "out.csv", "jsonl") as sink:
            sink.write(1, 2)
        assert (tmp_path / "out.csv").read_text() == "[1, 2]\n"

    @pytest.mark.parametrize("name", ["out.csv", "nowhere/out.tsv", ".", "folder", "new/"])
    def test_a_path_that_cannot_be_is_refused_up_front(self, name, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(OutputError):
            open_sink(f"{tmp_path}/{name}")
        assert os.listdir(tmp_path) == ["folder"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_refused_up_front(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            open_sink(tmp_path / "out.tsv")

    def test_an_unknown_format_is_refused(self):
        with pytest.raises(OutputError, match="tsv, jsonl, pickle"):
            open_sink(None, "xml")


class TestStreams:
    def test_a_stream_stays_open(self):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        out.write("before\n")
        with open_sink(None, None, out) as sink:
            sink.write("ü", 1)
        assert out.buffer.getvalue().decode() == "before\nü\t1\n"

    def test_a_reader_that_went_away_is_a_broken_pipe(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with open(write_end, "wb", buffering=0) as out:
            sink = open_sink(None, "tsv", out)
            sink.write(1, 2)
            with pytest.raises(BrokenPipeError):
                sink.commit()

    def test_a_raw_stream_that_takes_only_part_gets_the_rest(self):
        class Narrow(io.RawIOBase):
            taken = b""

            def writable(self):
                return True

            def write(self, data):
                self.taken += bytes(data[:3])
                return min(3, len(data))

        out = Narrow()
        with open_sink(None, "tsv", out) as sink:
            sink.write("longer than three", 1)
        assert out.taken == b"longer than three\t1\n"

    def test_pickles_do_not_go_to_a_terminal(self):
        master, slave = os.openpty()
        try:
            with os.fdopen(slave, "w") as terminal, pytest.raises(OutputError, match="terminal"):
                open_sink(None, "pickle", terminal)
        finally:
            os.close(master)


@pytest.mark.parametrize("format", ["tsv", "jsonl"])
def test_results_drive_no_terminal_and_are_whole_anywhere_else(format):
    evil = "\x1b]0;title\x07\x9b31m\u202e grüße \U0001f600" + "x" * 3000
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", buffering=0) as shown:
        with open_sink(None, format, terminal) as sink:
            sink.write(evil, (evil, 1))
            sink.write("end", 0)
        seen = b""
        while b"end" not in seen:
            seen += shown.read(65536)
    text = seen.decode().replace("\r\n", "\n")
    assert text.replace("\t", "").replace("\n", "").isprintable()
    assert r"\x9b31m\u202e grüße " in text
    assert text.count("x" * 3000) == 2
    assert "\x9b31m\u202e grüße \U0001f600" in text_of(format, (evil, 1))
