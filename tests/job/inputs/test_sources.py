import collections
import itertools
import os
import pickle
from pathlib import Path

import pytest

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import lines, sources
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.inputs.refs import HEAD_BYTES, ContentNeeded, DecodeError
from mmgevent.job.inputs.sources import claim, is_one_shot, iterate


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(source, folder):
    return [os.path.relpath(ref.path, folder) for ref in source.refs()]


@pytest.fixture
def books(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.md", ".hidden", ".git/x.txt"):
        write(tmp_path / name, name.encode())
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


class TestPaths:
    def test_a_folder_stands_for_all_its_files_sorted(self, books):
        assert names(Files(books), books) == ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.md"]

    def test_a_glob_stands_for_the_files_it_matches(self, books):
        assert names(Files(str(books / "*")), books) == ["a.txt", "b.txt"]
        assert names(Files(str(books / "**" / "*.txt")), books) == ["a.txt", "b.txt", "sub/c.txt"]

    def test_paths_come_as_str_pathlike_or_lists(self, books):
        source = Files([str(books / "b.txt"), books / "a.txt"], (books / "sub",))
        assert names(source, books) == ["b.txt", "a.txt", "sub/c.txt", "sub/deep/d.md"]

    def test_a_name_with_brackets_that_exists_is_no_glob(self, tmp_path):
        path = write(tmp_path / "a[1].txt", b"x")
        assert list(Files(path)) == [(str(path), "x")]

    def test_nothing_touches_the_disk_before_it_is_walked(self, tmp_path):
        source = Files(tmp_path / "later.txt") + Lines(tmp_path / "*.log")
        write(tmp_path / "later.txt", b"x")
        write(tmp_path / "a.log", b"y\n")
        source.check()
        assert len(list(source.refs())) == 2

    @pytest.mark.parametrize("source", [Files([]), Files(), Lines([]), Files("x.txt") + Lines()])
    def test_no_input_files_is_an_error(self, source, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "x.txt", b"")
        with pytest.raises(DatasourceError, match="no input files"):
            source.check()
        with pytest.raises(DatasourceError, match="no input files"):
            list(source.refs())

    @pytest.mark.parametrize("name", ["missing.txt", "*.csv", "empty", "dangling"])
    def test_a_path_without_files_is_an_error_that_names_it(self, name, tmp_path):
        write(tmp_path / "empty" / ".hidden", b"")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        path = str(tmp_path / name)
        with pytest.raises(DatasourceError) as caught:
            Files(path).check()
        assert path in str(caught.value)

    @pytest.mark.parametrize("path", [b"x", None, 3, "", ["a", [4]]])
    def test_what_is_no_path_is_refused_at_once(self, path):
        with pytest.raises(DatasourceError, match="a path is"):
            Files(path)


class TestFiles:
    @pytest.mark.parametrize(
        "data", [b"", b"a\r\nb\rc\n\r\n\r", "grüße\u2028x\x85y".encode(), b"\xef\xbb\xbfbom"]
    )
    def test_text_is_what_open_reads(self, data, tmp_path):
        path = write(tmp_path / "f", data)
        assert list(Files(path)) == [(str(path), path.read_text(encoding="utf-8"))]

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig", "cp1252", "utf-32-le"])
    def test_text_is_what_open_reads_in_any_encoding(self, encoding, tmp_path):
        path = write(tmp_path / "f", "äöü\r\nß\n".encode(encoding))
        expected = path.read_text(encoding=encoding)
        assert list(Files(path, encoding=encoding)) == [(str(path), expected)]

    def test_binary_gives_the_bytes(self, tmp_path):
        path = write(tmp_path / "f", b"\xff\r\n")
        assert list(Files(path, binary=True)) == [(str(path), b"\xff\r\n")]

    def test_an_undecodable_file_says_where_and_what_to_do(self, tmp_path):
        path = write(tmp_path / "f", b"abc\xff")
        with pytest.raises(DecodeError) as caught:
            list(Files(path))
        for part in (str(path), "byte 3", 'errors="replace"', "encoding="):
            assert part in str(caught.value)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(copy, ValueError)
        assert str(copy) == str(caught.value)
        assert list(Files(path, errors="replace")) == [(str(path), "abc\ufffd")]

    @pytest.mark.parametrize("options", [{"encoding": "utf-9"}, {"errors": "ignroe"}, {"encoding": "hex"}])
    def test_an_unknown_codec_is_found_before_the_job_runs(self, options, tmp_path):
        with pytest.raises(DatasourceError, match="encoding="):
            Files(write(tmp_path / "f", b"x"), **options).check()

    def test_weight_is_bytes(self, tmp_path):
        (ref,) = Files(write(tmp_path / "f", b"x" * 100)).refs()
        assert ref.weight == 100


class TestRefs:
    def make(self, tmp_path, data=b"hello\nworld\n", kind=Files):
        path = write(tmp_path / "f", data)
        (ref,) = kind(path).refs()
        return path, ref

    def test_refs_pickle_small(self, tmp_path):
        _, ref = self.make(tmp_path)
        copy = pickle.loads(pickle.dumps(ref))
        assert copy == ref
        assert len(pickle.dumps(ref)) < 200 + 2 * len(str(tmp_path))

    def test_another_time_is_the_same_file(self, tmp_path):
        path, ref = self.make(tmp_path)
        os.utime(path, (1, 1))
        assert list(ref.items()) == [(str(path), "hello\nworld\n")]
        assert ref.with_content().content == b"hello\nworld\n"

    @pytest.mark.parametrize("kind", [Files, Lines])
    @pytest.mark.parametrize("data", [None, b"hellO\nworld\n", b"hello\nworld\n!", b""])
    def test_another_file_needs_contents(self, kind, data, tmp_path):
        path, ref = self.make(tmp_path, kind=kind)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ContentNeeded, match=str(path)):
            list(ref.items())

    @pytest.mark.parametrize("kind", [Files, Lines])
    def test_contents_travel_with_the_ref(self, kind, tmp_path):
        path, ref = self.make(tmp_path, kind=kind)
        expected = list(ref.items())
        loaded = pickle.loads(pickle.dumps(ref.with_content()))
        path.unlink()
        assert list(loaded.items()) == expected
        assert loaded.with_content() is loaded

    @pytest.mark.parametrize("kind", [Files, Lines])
    def test_a_file_that_grows_is_read_as_far_as_it_went(self, kind, tmp_path):
        path, ref = self.make(tmp_path, b"one\ntw", kind=kind)
        expected = list(ref.items())
        with open(path, "ab") as file:
            file.write(b"o\nthree\n")
        assert list(ref.with_content().items()) == expected

    @pytest.mark.parametrize("kind", [Files, Lines])
    @pytest.mark.parametrize(
        "data", [None, b"x", b"y" * (2 * HEAD_BYTES), b"x" * HEAD_BYTES + b"y" * HEAD_BYTES]
    )
    def test_a_file_that_changes_otherwise_ends_the_job(self, kind, data, tmp_path):
        path, ref = self.make(tmp_path, b"x" * (2 * HEAD_BYTES), kind=kind)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
            os.utime(path, (1, 1))
        with pytest.raises(DatasourceError, match="changed or went away"):
            ref.with_content()

    def test_a_changed_working_directory_does_no_harm(self, tmp_path, monkeypatch):
        write(tmp_path / "f", b"x")
        monkeypatch.chdir(tmp_path)
        (ref,) = Files("f").refs()
        monkeypatch.chdir("/")
        assert list(ref.items()) == [("f", "x")]


class TestLines:
    def test_keys_are_path_and_byte_offset(self, tmp_path):
        path = str(write(tmp_path / "f", "ä\r\n\nlast\r\r\nopen".encode()))
        assert list(Lines(path)) == [
            ((path, 0), "ä"),
            ((path, 4), ""),
            ((path, 5), "last\r"),
            ((path, 12), "open"),
        ]

    def test_an_empty_file_has_no_lines(self, tmp_path):
        assert list(Lines(write(tmp_path / "f", b""))) == []

    @pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n\n"])
    @pytest.mark.parametrize("last", [b"ascii", b"\xc3\xa4\xc3\xb6"])
    def test_every_line_belongs_to_one_split_wherever_they_are_cut(self, ending, last, tmp_path, monkeypatch):
        texts = [b"", b"a", b"bb", b"", b"a long line, longer than splits", b"c", last]
        data = b"\n".join(texts) + ending
        path = str(write(tmp_path / "f", data))
        whole = list(Lines(path))
        assert [text.encode() for _, text in whole] == [line.rstrip(b"\r") for line in data.splitlines()]
        assert [offset for (_, offset), _ in whole][:3] == [0, 1, 3]
        for split_bytes in range(1, len(data) + 1):
            monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", split_bytes)
            refs = list(Lines(path).refs())
            assert sum(ref.weight for ref in refs) == len(data)
            assert [item for ref in refs for item in ref.items()] == whole
            assert [item for ref in refs for item in ref.with_content().items()] == whole

    def test_a_split_carries_only_its_own_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", 1000)
        path = write(tmp_path / "f", b"twelve bytes\n" * 1000)
        refs = [ref.with_content() for ref in Lines(path).refs()]
        assert len(refs) == 13
        assert all(len(ref.content) < 1100 for ref in refs)
        assert b"".join(ref.content for ref in refs) == path.read_bytes()

    def test_a_byte_order_mark_is_no_text_where_the_encoding_says_so(self, tmp_path):
        path = str(write(tmp_path / "f", b"\xef\xbb\xbfa\nb\n"))
        assert list(Lines(path, encoding="utf-8-sig")) == [((path, 0), "a"), ((path, 5), "b")]

    def test_an_encoding_with_other_line_ends_is_refused(self, tmp_path):
        with pytest.raises(DatasourceError, match="utf-16"):
            Lines(write(tmp_path / "f", b""), encoding="utf-16").check()

    def test_an_undecodable_line_says_where_it_is(self, tmp_path):
        path = write(tmp_path / "f", b"fine\nab\xff\n")
        with pytest.raises(DecodeError, match="byte 7"):
            list(Lines(path))


class TestIterate:
    @pytest.mark.parametrize(
        "datasource",
        [
            {"a": 1, "b": 2},
            collections.UserDict(a=1, b=2),
            [("a", 1), ["b", 2]],
            {"a": 1, "b": 2}.items(),
            iter([("a", 1), ("b", 2)]),
            lambda: {"a": 1, "b": 2},
            lambda: iter([("a", 1), ("b", 2)]),
            lambda *args, n=3: [("a", 1), ("b", 2)],
        ],
    )
    def test_mappings_iterables_and_functions_give_items(self, datasource):
        assert list(iterate(datasource)) == [("a", 1, 0), ("b", 2, 0)]

    def test_items_come_lazily(self):
        fetched = []

        class Table:
            def keys(self):
                return itertools.count()

            def __getitem__(self, key):
                fetched.append(key)
                return key

        items = iterate(Table())
        assert fetched == []
        assert list(itertools.islice(items, 2)) == [(0, 0, 0), (1, 1, 0)]
        assert fetched == [0, 1]

    def test_sources_give_refs_with_their_weight(self, tmp_path):
        path = str(write(tmp_path / "f", b"a\nb\n"))
        (one, two) = iterate(lambda: Files(path) + Lines(path))
        assert (one[0], one[2], two[0], two[2]) == (path, 4, (path, 0), 4)
        assert list(one[1].items()) == [(path, "a\nb\n")]

    @pytest.mark.parametrize("datasource", ["x.txt", b"x", None, 3, Path("x"), object()])
    def test_what_is_no_datasource_is_refused_with_what_to_pass(self, datasource):
        with pytest.raises(DatasourceError, match="pass"):
            iterate(datasource)
        with pytest.raises(DatasourceError, match="pass"):
            sources.check_datasource(datasource)

    def test_a_path_is_no_datasource_but_files_of_it_are(self):
        with pytest.raises(DatasourceError, match=r"Files\('x.txt'\)"):
            iterate("x.txt")

    @pytest.mark.parametrize("item", ["ab", ("a",), (1, 2, 3), 7, {"a": 1, "b": 2}])
    def test_an_item_that_is_no_pair_is_named(self, item):
        items = iterate([("fine", 1), item])
        assert next(items) == ("fine", 1, 0)
        with pytest.raises(DatasourceError, match=r"item 1 of the datasource is the .* enumerate"):
            next(items)

    def test_a_function_with_parameters_is_refused(self):
        with pytest.raises(DatasourceError, match="requires folder"):
            sources.check_datasource(lambda folder: {})

    def test_a_function_that_returns_nothing_is_refused(self):
        with pytest.raises(DatasourceError, match="returned None"):
            iterate(lambda: None)

    def test_exceptions_of_the_users_own_iterator_pass_unchanged(self):
        def broken():
            yield 1, 2
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            list(iterate(broken))


class TestOneShot:
    @pytest.mark.parametrize(
        ("datasource", "one_shot"),
        [
            (((i, i) for i in range(2)), True),
            (zip([1], [2], strict=True), True),
            (enumerate("ab"), True),
            ([(1, 2)], False),
            ({1: 2}, False),
            ({1: 2}.items(), False),
            (Files("x"), False),
            (lambda: iter([]), False),
        ],
    )
    def test_iterators_are_one_shot(self, datasource, one_shot):
        assert is_one_shot(datasource) is one_shot

    def test_a_generator_is_claimed_once_whoever_claims_it(self):
        generator = ((i, i) for i in range(2))
        claim(generator)
        with pytest.raises(DatasourceError, match="pass a function"):
            claim(generator)
        claim([(1, 2)])
        claim([(1, 2)])
