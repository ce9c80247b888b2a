"""paths: no input is left out in silence; a glob gives what `glob` gives."""

import glob
import logging
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmgevent import Files, Job, Lines
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.paths import find_files
from mmgevent.job.inputs.refs import MAX_UNSIZED_BYTES, identify

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")


def count(key, value):
    yield "files", 1


def add(key, values):
    return sum(values)


@pytest.fixture
def tree(tmp_path):
    for name in ("a.txt", "b.csv", "sub/c.txt", "sub/deep/d.txt", "other/e.txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return tmp_path / "tree"


def relative(paths, folder):
    return sorted(os.path.relpath(path, folder) for path in paths)


class TestMissingInput:
    @pytest.mark.parametrize("pattern", ["", "*", "*.txt", "**", "**/*.txt", "gone.txt", "[g]one.txt"])
    @pytest.mark.parametrize("target", ["/no/such/file", "gone.txt"], ids=["dangling", "a loop"])
    @pytest.mark.parametrize("kind", [Files, Lines])
    def test_a_link_that_leads_nowhere_is_named(self, tree, pattern, target, kind):
        (tree / "gone.txt").symlink_to(target)
        with pytest.raises(DatasourceError, match=rf"gone\.txt is a link to {target}, .* mend or remove"):
            list(run_inline(Job(kind(str(tree / pattern)), count, add)))

    def test_a_link_on_the_way_that_leads_nowhere_is_named(self, tree):
        (tree / "unmounted").symlink_to("/no/such/folder")
        for pattern in ("*/*.txt", "unmounted/*.txt"):
            with pytest.raises(DatasourceError, match="unmounted is a link to /no/such/folder"):
                list(find_files((str(tree / pattern),)))

    def test_a_link_that_may_have_led_to_a_folder_is_counted(self, tree, caplog):
        (tree / "unmounted").symlink_to("/no/such/folder")
        assert relative(find_files((str(tree / "**/c.txt"),)), tree) == ["sub/c.txt"]
        assert f"links that lead nowhere, perhaps to folders (1): {tree}/unmounted" in caplog.text

    def test_a_hidden_link_that_leads_nowhere_is_left_out_as_all_that_is_hidden(self, tree, caplog):
        (tree / ".lock").symlink_to("somebody@somewhere")
        for path in (tree, tree / "*"):
            assert "a.txt" in relative(find_files((str(path),)), tree)
        assert not caplog.records

    def test_what_goes_away_between_being_found_and_being_read_is_named(self, tree):
        found = Files(tree).refs()
        next(found)
        (tree / "sub/c.txt").unlink()
        with pytest.raises(DatasourceError, match=r"cannot read .*sub/c\.txt: No such file"):
            list(found)

    def test_a_path_whose_files_all_go_away_is_named(self, tree):
        found = find_files((str(tree / "*.txt"), str(tree / "*.csv")))
        next(found)
        (tree / "b.csv").unlink()
        with pytest.raises(DatasourceError, match=r"nothing matches .*\*\.csv"):
            list(found)


class TestWhatIsNoFile:
    @pytest.mark.parametrize("pattern", ["", "*", "**", "**/*"])
    def test_pipes_and_sockets_are_counted_and_named(self, tree, pattern, caplog):
        os.mkfifo(tree / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tree / "socket"))
            assert "a.txt" in relative(find_files((str(tree / pattern),)), tree)
        assert (
            f"left out of the input: pipes, sockets or devices (2): {tree}/pipe, {tree}/socket" in caplog.text
        )

    def test_links_to_folders_in_folders_are_counted_and_named(self, tree, caplog):
        for n in range(5):
            (tree / f"link{n}").symlink_to(tree / "other")
        assert relative(find_files((str(tree),)), tree) == [
            "a.txt",
            "b.csv",
            "other/e.txt",
            "sub/c.txt",
            "sub/deep/d.txt",
        ]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "links to folders, which a glob with ** follows (5): " in record.getMessage()
        assert record.getMessage().endswith("link2 and 2 more")

    def test_a_warning_comes_once_a_walk_and_none_where_all_is_taken(self, tree, caplog):
        source = Files(tree / "sub", str(tree / "*.txt"))
        source.check()
        list(source.refs())
        assert not caplog.records


@contextmanager
def as_nobody():
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@needs_root
class TestPermissions:
    @pytest.fixture
    def place(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            place = Path(folder)
            for name in ("open/a.txt", "shut/b.txt"):
                (place / name).parent.mkdir()
                (place / name).write_text("text")
            yield place

    @pytest.mark.parametrize("mode", [0o000, 0o444, 0o111], ids=oct)
    @pytest.mark.parametrize("pattern", ["", "*/*.txt", "**/*.txt", "**", "*/b.txt", "shut", "shut/*"])
    def test_what_cannot_be_listed_or_looked_at_is_named(self, place, mode, pattern):
        os.chmod(place / "shut", mode)
        with as_nobody():
            if mode == 0o111 and pattern == "*/b.txt":  # it need not be listed
                assert relative(find_files((str(place / pattern),)), place) == ["shut/b.txt"]
            else:
                with pytest.raises(DatasourceError, match=r"cannot (read|list the folder) .*shut"):
                    list(find_files((str(place / pattern),)))

    def test_a_file_that_cannot_be_read_is_named(self, place):
        os.chmod(place / "open/a.txt", 0o200)
        with as_nobody(), pytest.raises(DatasourceError, match=r"cannot read .*a\.txt: Permission denied"):
            list(Files(place / "open").refs())


class TestGlobs:
    PATTERNS = (
        "*", "**", "*.txt", "**/*.txt", "sub/**", "sub/**/*.txt", "./**/d.txt", "./*", "sub//deep/*.txt", "sub//**", "*/*",
        "*/**", "**/**", "**/deep/**", "sub/.*", "sub/.h/*", "sub/*/", "**/", "[[]x]/*", "../*/*.txt", "*/../*.txt", "no/*",
        "no/**", "a.txt/*", "sub/*/d*/*", "?.txt", "sub/**/deep/**/d.txt", "**.txt", ".*/x", "sub/./d*/*", "[ab].*", "[!a].*",
    )  # fmt: skip

    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_a_glob_gives_the_files_that_glob_gives(self, tree, pattern, monkeypatch):
        for name in ("sub/.h/x.txt", "sub/deep/.hid", "[x]/y.txt"):
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).write_text("text")
        monkeypatch.chdir(tree)
        expected = sorted({match for match in glob.iglob(pattern, recursive=True) if os.path.isfile(match)})
        if expected:
            assert list(find_files((pattern,))) == expected
        else:
            with pytest.raises(DatasourceError, match="nothing matches"):
                list(find_files((pattern,)))

    def test_a_glob_ends_though_links_lead_back_and_gives_each_file_once_a_way(self, tree):
        (tree / "sub/up").symlink_to(tree)
        (tree / "sub/same").symlink_to(tree / "sub")
        (tree / "other/side").symlink_to(tree / "sub")
        found = relative(find_files((str(tree / "**/*.txt"),)), tree)
        assert {"a.txt", "sub/c.txt", "sub/deep/d.txt", "other/e.txt", "other/side/c.txt"} <= set(found)
        assert not [path for path in found if path.startswith(("sub/up", "sub/same"))]

    def test_a_glob_may_be_longer_than_a_name(self, tree):
        pattern = str(tree / ("[a]" + "*" * 300 + ".txt"))
        assert relative(find_files((pattern,)), tree) == ["a.txt"]


class TestSizes:
    """Files of /proc have size 0, files of /sys mostly a page."""

    def test_a_file_whose_size_is_no_size_is_read_by_the_driver(self):
        path = "/proc/self/cmdline"
        ((key, value),) = Files(path, binary=True)
        assert (key, value) == (path, Path(path).read_bytes())
        (ref,) = Files(path, binary=True).refs()
        assert ref.content == value  # so that no executor reads its own
        assert ref.with_content() is ref

    def test_lines_of_such_a_file_are_all_there(self):
        path = "/proc/self/limits"
        assert [line for _, line in Lines(path)] == Path(path).read_text().splitlines()

    def test_a_file_that_says_it_is_larger_than_it_is(self):
        path = "/sys/kernel/mm/transparent_hugepage/enabled"
        if not os.path.exists(path):
            pytest.skip("this kernel has none")
        assert os.stat(path).st_size > len(Path(path).read_text())
        assert list(Files(path)) == [(path, Path(path).read_text())]

    @pytest.mark.parametrize("name", ["kernel/pid_max", "kernel/hostname", "net/ipv4/ip_local_port_range"])
    def test_settings_of_the_kernel_are_read_whole_though_they_refuse_long_reads(self, name):
        path = f"/proc/sys/{name}"
        if not os.path.exists(path):
            pytest.skip("this kernel has none")
        assert list(Files(path)) == [(path, Path(path).read_text())]
        assert [line for _, line in Lines(path)] == Path(path).read_text().splitlines()

    def test_a_job_gets_it_too(self):
        path = f"/proc/{os.getpid()}/limits"
        counted = dict(run_inline(Job(Lines(path), count, add)))
        assert counted == {"files": len(Path(path).read_text().splitlines())}

    def test_empty_files_stay_empty(self, tmp_path):
        (tmp_path / "empty").touch()
        identity, content = identify(str(tmp_path / "empty"))
        assert (identity.size, content) == (0, None)
        assert list(Files(tmp_path)) == [(str(tmp_path / "empty"), "")]

    def test_what_has_no_end_is_refused_by_name(self):
        path = "/proc/kmsg"
        if not os.access(path, os.R_OK) or os.geteuid() != 0:
            pytest.skip("not to be read here")
        with pytest.raises(DatasourceError, match=f"cannot read {path}"):
            identify(path)

    def test_such_a_file_is_bounded(self, monkeypatch):
        monkeypatch.setattr("mmgevent.job.inputs.refs.MAX_UNSIZED_BYTES", 10)
        assert MAX_UNSIZED_BYTES == 16 * 2**20
        with pytest.raises(DatasourceError, match=r"limits has more than 10 bytes, though its size is 0"):
            identify("/proc/self/limits")
