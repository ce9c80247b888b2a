"""Where results go: descriptors, pipes and devices are streams, files are replaced and keep what they had."""

import fcntl
import os
import pwd
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mmgevent.errors import OutputError
from mmgevent.job.outputs import destinations
from mmgevent.job.outputs.descriptors import descriptor_of
from mmgevent.job.outputs.sinks import open_sink
from mmgevent.machine.leftovers import FILE_LEFT_S

ROOT = Path(__file__).parents[3]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def write_results(path, warn=pytest.fail):
    with open_sink(path, "tsv", warn=warn) as sink:
        sink.write("key", 1)


def call_as_nobody(body, *argv):
    """Run a program as a user who may do nothing special, and perhaps cannot read Python's own files."""
    program = f"""
import grp, os, pwd, sys
from mmgevent.errors import OutputError
from mmgevent.job.outputs.sinks import open_sink
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
{textwrap.dedent(body)}
"""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def shared():
    """A folder that anybody can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(params=["unnamed", "named"])
def either_way(request, monkeypatch):
    """Both kinds of new file: without a name until the end, and with a temporary one."""
    if request.param == "named":
        monkeypatch.setattr(destinations, "_create_unnamed", lambda folder, mode: None)
    return request.param


# descriptors


@pytest.mark.parametrize(
    "path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "//dev//fd/../fd/1"]
)
def test_names_of_stdout_are_known(path, tmp_path):
    assert descriptor_of(path) == 1
    link = tmp_path / "link"
    link.symlink_to(path)
    assert descriptor_of(str(link)) == 1


def test_other_paths_are_no_descriptors(tmp_path):
    (tmp_path / "1").touch()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (
        tmp_path / "1",
        loop,
        "/dev/null",
        "/dev/fd",
        f"/proc/{os.getppid()}/fd/1",
        "/proc/1/fd/1",
        "",
    ):
        assert descriptor_of(str(path)) is None, path


def test_an_inherited_descriptor_is_appended_to_and_stays_open(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    with open(log, "ab") as file:
        os.set_inheritable(file.fileno(), True)
        write_results(f"/dev/fd/{file.fileno()}")
        file.write(b"after\n")
    assert log.read_text() == "before\nkey\t1\nafter\n"


def test_a_descriptor_that_is_our_own_closed_or_for_reading_is_refused(tmp_path):
    with open(tmp_path / "file", "wb") as file, pytest.raises(OutputError, match="is not open; add"):
        write_results(f"/dev/fd/{file.fileno()}")
    with pytest.raises(OutputError, match="descriptor 999 is not open"):
        write_results("/dev/fd/999")
    with open(tmp_path / "file", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        with pytest.raises(OutputError, match="for reading only"):
            write_results(f"/dev/fd/{file.fileno()}")


def test_a_pipe_that_does_not_block_gets_everything():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    got = bytearray()

    def read():
        while data := os.read(read_end, 65536):
            got.extend(data)

    reader = threading.Thread(target=read)
    with open(write_end, "wb", buffering=0) as out, open_sink(None, "tsv", out) as sink:
        reader.start()
        for i in range(100_000):
            sink.write(i, i)
    reader.join()
    os.close(read_end)
    assert got.count(b"\n") == 100_000


def test_a_pipe_whose_reader_leaves_is_a_broken_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = open_sink(pipe)
    os.close(reader)
    sink.write(1, 2)
    with pytest.raises(BrokenPipeError):
        sink.commit()
    sink.abort()
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_pickles_do_not_go_to_a_terminal_by_its_path():
    master, slave = os.openpty()
    try:
        with pytest.raises(OutputError, match="terminal"):
            open_sink(os.ttyname(slave), "pickle")
    finally:
        os.close(master)
        os.close(slave)


# files that are replaced


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o4750, 0o200])
def test_a_file_keeps_its_mode(mode, tmp_path, either_way):
    path = tmp_path / "out"
    path.touch()
    path.chmod(mode)
    write_results(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "key\t1\n"
    assert os.listdir(tmp_path) == ["out"]


def test_the_mode_is_the_one_at_the_end(tmp_path, either_way):
    path = tmp_path / "out"
    path.touch()
    with open_sink(path) as sink:
        sink.write(1, 2)
        path.chmod(0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_results_on_their_way_are_no_more_open_than_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr(destinations, "_create_unnamed", lambda folder, mode: None)
    path = tmp_path / "out"
    path.touch()
    path.chmod(0o600)
    with open_sink(path):
        (other,) = {*tmp_path.iterdir()} - {path}
        assert stat.S_IMODE(other.stat().st_mode) == 0o600


def test_links_are_followed_to_the_file_whose_mode_is_kept(tmp_path, either_way):
    (tmp_path / "folder").mkdir()
    real = tmp_path / "folder" / "real"
    real.touch()
    real.chmod(0o600)
    (tmp_path / "second").symlink_to("folder/real")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    write_results(tmp_path / "first")
    assert os.readlink(tmp_path / "second") == "folder/real"
    assert (tmp_path / "first").is_symlink()
    assert real.read_text() == "key\t1\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_links_in_a_circle_are_refused(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match="Too many levels"):
        write_results(loop)
    assert loop.is_symlink()


@needs_root
def test_a_file_keeps_its_owner_and_group(tmp_path, either_way):
    path = tmp_path / "out"
    path.touch()
    os.chown(path, NOBODY, 12345)
    path.chmod(0o640)
    write_results(path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, 12345, 0o640)


@needs_root
def test_an_owner_that_cannot_be_kept_is_said_once_and_nobody_gets_more(shared):
    shared.chmod(0o777)
    path = shared / "out"
    path.touch()
    os.chown(path, 12345, 12346)
    path.chmod(0o2662)
    program = """
        with open_sink(sys.argv[1], warn=print) as sink:
            sink.write("key", 1)
        """
    ended = call_as_nobody(program, path)
    assert ended.returncode == 0, ended
    (warning,) = ended.stdout.splitlines()
    nobody = pwd.getpwuid(NOBODY).pw_name
    assert "its group, gid 12346, could not be kept" in warning
    assert f"its owner, uid 12345, could not be kept: it now belongs to {nobody}" in warning
    status = path.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o622)
    assert path.read_text() == "key\t1\n"


def test_other_names_of_a_file_are_warned_of(tmp_path, either_way):
    path = tmp_path / "out"
    path.write_text("before")
    os.link(path, tmp_path / "other")
    warnings = []
    write_results(path, warnings.append)
    assert (tmp_path / "other").read_text() == "before"
    assert path.read_text() == "key\t1\n"
    assert warnings == [f"{path} was replaced, but its other names (hard links) keep the old contents"]


def test_attributes_of_users_are_kept(tmp_path, either_way):
    path = tmp_path / "out"
    path.touch()
    try:
        os.setxattr(path, "user.origin", b"somewhere")
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    write_results(path)
    assert os.getxattr(path, "user.origin") == b"somewhere"


def make_acl(*entries):
    """Return an ACL as the kernel has it: version, then (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_an_acl_is_kept_and_that_of_the_folder_is_not_put_in_its_place(tmp_path, either_way):
    nobody, mine, group, mask, others = 0xFFFFFFFF, 0x01, 0x04, 0x10, 0x20
    acl = make_acl(
        (mine, 6, nobody), (0x02, 6, 12345), (group, 0, nobody), (mask, 6, nobody), (others, 0, nobody)
    )
    (tmp_path / "with").touch()
    (tmp_path / "without").touch()
    (tmp_path / "without").chmod(0o600)
    try:
        os.setxattr(tmp_path / "with", "system.posix_acl_access", acl)
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    for name in ("with", "without"):
        write_results(tmp_path / name)
    assert os.getxattr(tmp_path / "with", "system.posix_acl_access") == acl
    assert os.listxattr(tmp_path / "without") == []
    assert stat.S_IMODE((tmp_path / "without").stat().st_mode) == 0o600


# files that cannot be replaced are found before the job runs


REFUSED = """
    try:
        open_sink(sys.argv[1])
    except OutputError as error:
        print(error)
    """


@needs_root
def test_a_file_in_a_folder_that_cannot_be_written_is_refused_by_name(shared):
    path = shared / "out"
    path.write_text("before")
    path.chmod(0o666)
    ended = call_as_nobody(REFUSED, path)
    assert f"its folder {shared} cannot be written to" in ended.stdout
    assert "> PATH instead of -o PATH" in ended.stdout
    assert path.read_text() == "before"


@needs_root
def test_a_file_that_only_its_owner_may_replace_is_refused_by_name(shared):
    shared.chmod(0o1777)
    path = shared / "out"
    path.touch()
    path.chmod(0o666)
    assert "only owners may replace files" in call_as_nobody(REFUSED, path).stdout
    assert os.listdir(shared) == ["out"]


@needs_root
def test_a_file_that_is_a_mount_point_is_refused_by_name(shared):
    path = shared / "its name"
    for each in (path, shared / "outside"):
        each.touch()
    mount = f"mount --bind '{shared}/outside' '{path}'"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "sh", "-c", mount]).returncode:
        pytest.skip("nothing can be mounted here")
    program = "from mmgevent.job.outputs.sinks import open_sink; import sys; open_sink(sys.argv[1])"
    command = f"{mount} && exec '{sys.executable}' -c '{program}' '{path}'"
    ended = subprocess.run(["unshare", "-m", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "it is a mount point" in ended.stderr


def test_an_empty_path_is_refused():
    with pytest.raises(OutputError, match="the output path is empty"):
        open_sink("")


# ends


def test_whole_results_are_not_thrown_away_when_they_cannot_get_their_name(tmp_path, either_way):
    path = tmp_path / "out"
    sink = open_sink(path)
    sink.write("key", 1)
    path.mkdir()
    with pytest.raises(OutputError, match="the results are whole in ") as caught:
        sink.commit()
    sink.abort()
    left = str(caught.value).rpartition(" ")[2]
    assert Path(left).read_text() == "key\t1\n"


def test_names_that_are_taken_are_left_alone(tmp_path, either_way, monkeypatch):
    taken = tmp_path / ".mmg-taken.tmp"
    taken.write_text("somebody else's")
    free = str(tmp_path / ".mmg-free.tmp")
    monkeypatch.setattr(destinations, "_free_names", lambda folder, prefix: [str(taken), free])
    write_results(tmp_path / "out")
    assert taken.read_text() == "somebody else's"
    assert sorted(os.listdir(tmp_path)) == [".mmg-taken.tmp", "out"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs files without a name")
def test_not_even_sigkill_leaves_a_temporary_file(tmp_path):
    program = f"""
        import os, signal
        from mmgevent.job.outputs.sinks import open_sink
        with open_sink({str(tmp_path / "out")!r}) as sink:
            for i in range(100_000):
                sink.write(i, i)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


#: Replaces a file, and is killed before the new one has its name.
KILLED = """
import os, signal, sys
from mmgevent.job.outputs import destinations
from mmgevent.job.outputs.sinks import open_sink
if sys.argv[2] == "named":
    destinations._create_unnamed = lambda folder, mode: None
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
with open_sink(sys.argv[1]) as sink:
    sink.write("key", 1)
"""


def make_old(path):
    os.utime(path, (time.time() - 2 * FILE_LEFT_S,) * 2)


def test_what_a_killed_run_left_the_next_one_removes_and_nothing_else(tmp_path, either_way):
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "out"), either_way]
    assert subprocess.run(arguments, cwd=ROOT).returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    write_results(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([left, "out"])  # another machine may write it now
    make_old(tmp_path / left)
    with open_sink(tmp_path / "other") as sink:  # its own file looks as old if it has a name
        for name in os.listdir(tmp_path):
            make_old(tmp_path / name)
        write_results(tmp_path / "out")
        sink.write("key", 1)
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_whole_results_that_have_no_name_are_no_leftover(tmp_path, either_way):
    sink = open_sink(tmp_path / "out")
    sink.write("key", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="the results are whole in ") as caught:
        sink.commit()
    sink.abort()
    left = str(caught.value).rpartition(" ")[2]
    make_old(left)
    write_results(tmp_path / "other")
    assert Path(left).read_text() == "key\t1\n"
