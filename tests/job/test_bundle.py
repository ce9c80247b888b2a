"""Bundles as files: whole or refused by name, of this user alone, and never more than a few."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmgevent.errors import UsageError
from mmgevent.job import bundle as bundles
from mmgevent.job.bundle import KEPT, MAGIC, default_folder, read_bundle, write_bundle
from mmgevent.machine.leftovers import FILE_LEFT_S

SECTIONS = {"code": b"code" * 100, "input": b"input"}


@pytest.fixture
def path(tmp_path):
    return write_bundle(str(tmp_path / "kept"), "words-mapfn", {"job": "words"}, SECTIONS)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_what_was_written_is_read(path):
    bundle = read_bundle(path)
    assert bundle.header["job"] == "words"
    assert bundle.sections == SECTIONS


def test_only_this_user_can_read_it(path):
    assert mode_of(path) == 0o600
    assert mode_of(os.path.dirname(path)) == 0o700
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]  # nothing half written


def test_a_folder_keeps_the_last_ones(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    paths = [write_bundle(str(tmp_path), f"job{i}", {}, {"code": b""}) for i in range(KEPT + 3)]
    assert len([name for name in os.listdir(tmp_path) if name.endswith(bundles.SUFFIX)]) == KEPT
    assert os.path.exists(paths[-1])
    assert (tmp_path / "notes.txt").exists()


def test_a_name_of_any_text_is_a_file_in_the_folder(tmp_path):
    path = write_bundle(str(tmp_path), "../a/b\n\x1b" + "x" * 500, {}, {"code": b""})
    assert os.path.dirname(path) == str(tmp_path)
    assert os.path.basename(path).isprintable()


def test_what_a_killed_run_has_half_written_the_next_one_removes(tmp_path):
    program = (
        "import os, sys; from mmgevent.job import bundle\n"
        "os.rename = lambda *paths: os.kill(os.getpid(), 9)\n"
        "bundle.write_bundle(sys.argv[1], 'job', {}, {'code': b''})"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    (hidden,) = os.listdir(tmp_path)
    (tmp_path / ".notes.mmgbundle").write_text("mine")
    path = write_bundle(str(tmp_path), "job", {}, SECTIONS)
    assert (tmp_path / hidden).exists()  # it may belong to a machine whose locks are not seen here
    for name in (hidden, ".notes.mmgbundle"):
        os.utime(tmp_path / name, (time.time() - 2 * FILE_LEFT_S,) * 2)
    other = write_bundle(str(tmp_path), "job", {}, SECTIONS)
    assert {*os.listdir(tmp_path)} == {os.path.basename(path), os.path.basename(other), ".notes.mmgbundle"}


def test_a_folder_that_others_may_write_gets_none(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        write_bundle(str(shared), "job", {}, {"code": b""})
    assert os.listdir(shared) == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path, mode):
    os.chmod(path, mode)
    with pytest.raises(UsageError, match="others may write to the bundle"):
        read_bundle(path)


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        read_bundle(path)


def test_every_cut_and_every_wrong_byte_is_refused_by_name(path, tmp_path):
    whole = Path(path).read_bytes()
    other = tmp_path / "other"
    other.touch(0o600)
    for cut in [*range(40), *range(40, len(whole), 17)]:
        other.write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"is damaged|is no bundle"):
            read_bundle(str(other))
    for data in (whole + b"x", whole[:-1] + b"x", whole.replace(b'"sections"', b'"section "')):
        other.write_bytes(data)
        with pytest.raises(UsageError, match="is damaged"):
            read_bundle(str(other))


@pytest.mark.parametrize(
    "table", [None, 5, [None], [["code"]], [["code", -1, "x"]], [["code", "1", "x"]], [[1, 2, 3]]]
)
def test_a_wrong_table_is_refused(tmp_path, table):
    path = tmp_path / "wrong"
    path.touch(0o600)
    head = json.dumps({"format": bundles.FORMAT, "sections": table}).encode()
    path.write_bytes(MAGIC + len(head).to_bytes(4, "little") + head)
    with pytest.raises(UsageError, match="its table of sections is wrong"):
        read_bundle(str(path))


def test_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "FORMAT", 2)
    path = write_bundle(str(tmp_path), "job", {}, {"code": b""})
    monkeypatch.undo()
    with pytest.raises(UsageError, match="has format 2, and this mmgevent reads 1"):
        read_bundle(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(UsageError, match="is no file"):
            read_bundle(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be opened"):
        read_bundle(str(tmp_path / "missing"))


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_reading_unpickles_nothing(tmp_path):
    trace = tmp_path / "trace"
    data = pickle.dumps(Bomb(str(trace)))
    read_bundle(write_bundle(str(tmp_path / "kept"), "job", {}, {"code": data, "input": data}))
    assert not trace.exists()


def test_the_default_folder_is_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_folder() == "/cache/mmgevent/bundles"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # such values are invalid and ignored
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == "/home/me/.cache/mmgevent/bundles"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert default_folder() is None
