"""A worker password is told from a main password, found in one order, and written once."""

import os
import pathlib
import stat

import pytest

from mmgevent.access.password import default_path, find_password, read_password_file
from mmgevent.access.worker_key import WorkerKey
from mmgevent.access.worker_password import (
    find_password_of_worker,
    make_worker_password,
    read_worker_password_file,
    write_worker_password_file,
)
from mmgevent.errors import PasswordError, UsageError

MAIN = "a main password of the tests"
WORKER, OTHER = make_worker_password(MAIN), make_worker_password("another")


@pytest.fixture
def home(tmp_path):
    return {"HOME": str(tmp_path)}


def write(path, text, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def config(home):
    """Return the folder of this user's password files."""
    return pathlib.Path(default_path(home)).parent


def test_the_text_is_one_word_that_holds_the_key():
    assert len(WORKER.split()) == 1
    assert WORKER.startswith("mmgevent-worker-1-")
    assert WORKER == make_worker_password(MAIN) != OTHER
    key = WorkerKey.decode(WORKER)
    assert key.encode() == WORKER
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)


def test_the_key_is_derived_once_for_all_texts_of_one_password():
    assert make_worker_password("e\u0301") == make_worker_password("é")


@pytest.mark.parametrize("at", range(len("mmgevent-worker-1-"), len(WORKER)))
def test_a_lost_or_changed_character_is_noticed(at):
    other = "A" if WORKER[at] != "A" else "B"
    for damaged in (WORKER[:at] + WORKER[at + 1 :], WORKER[:at] + other + WORKER[at + 1 :], WORKER[:at]):
        with pytest.raises(PasswordError, match="damaged") as caught:
            WorkerKey.decode(damaged)
        assert WORKER[18:30] not in str(caught.value)


def test_a_worker_password_in_the_other_alphabet_of_base64_is_none():
    text = WorkerKey(b"\xff" * 32, b"\xff" * 32).encode()
    assert "_" in text
    with pytest.raises(PasswordError, match="damaged"):
        WorkerKey.decode(text.replace("_", "/"))


@pytest.mark.parametrize("tail", ["\n", "=", "é", " ", "A", "AAAA", "\0"])
def test_more_than_a_worker_password_is_none(tail):
    with pytest.raises(PasswordError, match="damaged"):
        WorkerKey.decode(WORKER + tail)


def test_a_worker_password_of_another_version_says_what_to_do():
    with pytest.raises(PasswordError, match="version 1: install the same mmgevent"):
        WorkerKey.decode(WORKER.replace("-1-", "-2-", 1))


def test_a_worker_password_is_never_taken_for_a_main_one(tmp_path, home):
    file = write(tmp_path / "w", WORKER + "\n")
    told = "--worker-password-file; submitting jobs and serving take the main password"
    for find in (
        lambda: find_password(WORKER, environ=home),
        lambda: find_password(None, file, environ=home),
        lambda: find_password(environ={**home, "MMG_PASSWORD": WORKER}),
        lambda: find_password(environ={**home, "MMG_PASSWORD_FILE": file}),
        lambda: find_password_of_worker(WORKER, environ=home),
        lambda: find_password_of_worker(None, file, environ=home),
        lambda: read_password_file(file),
    ):
        with pytest.raises(PasswordError, match=told) as caught:
            find()
        assert WORKER not in str(caught.value)
    assert not os.path.exists(default_path(home))


@pytest.mark.parametrize("text", [MAIN, "", "mmgevent-worker", "mmgevent-worker-1-x"])
def test_a_main_password_is_never_taken_for_a_worker_password(tmp_path, home, text):
    file = write(tmp_path / "p", text + "\n")
    for find in (
        lambda: find_password_of_worker(worker_password_file=file, environ=home),
        lambda: find_password_of_worker(environ={**home, "MMG_WORKER_PASSWORD": text}),
        lambda: find_password_of_worker(environ={**home, "MMG_WORKER_PASSWORD_FILE": file}),
    ):
        with pytest.raises(PasswordError, match="mmg-server worker-password") as caught:
            find()
        assert MAIN not in str(caught.value)


def test_first_found_counts(tmp_path, home):
    file = write(tmp_path / "w", f"{OTHER}\r\n")
    assert find_password_of_worker(worker_password_file=file, environ={**home, "MMG_PASSWORD": MAIN}) == OTHER
    assert find_password_of_worker(MAIN, environ={**home, "MMG_WORKER_PASSWORD": WORKER}) == MAIN
    assert find_password_of_worker(environ={**home, "MMG_WORKER_PASSWORD": f" {WORKER}\n"}) == WORKER
    assert find_password_of_worker(environ={**home, "MMG_WORKER_PASSWORD_FILE": file}) == OTHER
    environ = {**home, "MMG_WORKER_PASSWORD_FILE": file, "MMG_WORKER_PASSWORD": WORKER}
    assert find_password_of_worker(environ=environ) == WORKER
    assert not os.path.exists(default_path(home))


def test_files_of_this_user_are_found_the_worker_password_first_unless_it_may_have_to_serve(home):
    made = find_password_of_worker(environ=home)  # as without worker passwords: all of a user agree
    assert made == find_password(environ=home)
    write(config(home) / "worker-password", WORKER)
    assert find_password_of_worker(environ=home) == WORKER
    assert find_password_of_worker(prefers_main=True, environ=home) == made
    os.unlink(default_path(home))
    assert find_password_of_worker(prefers_main=True, environ=home) == WORKER
    assert not os.path.exists(default_path(home))


def test_both_kinds_are_too_many(tmp_path, home):
    file = write(tmp_path / "w", WORKER)
    for given in ({"password": MAIN}, {"password_file": file}):
        with pytest.raises(UsageError, match="needs one password"):
            find_password_of_worker(worker_password_file=file, environ=home, **given)
    for main in ("MMG_PASSWORD", "MMG_PASSWORD_FILE"):
        for worker in ("MMG_WORKER_PASSWORD", "MMG_WORKER_PASSWORD_FILE"):
            with pytest.raises(UsageError, match=f"unset {main} or {worker}"):
                find_password_of_worker(environ={**home, main: "x", worker: "y"})


def test_no_main_password_is_made_where_only_a_worker_password_is(tmp_path, home):
    told = "only a worker password"
    for name in ("MMG_WORKER_PASSWORD", "MMG_WORKER_PASSWORD_FILE"):
        with pytest.raises(PasswordError, match=f"{told} .{name}"):
            find_password(environ={**home, name: "x"})
    write(config(home) / "worker-password", WORKER)
    with pytest.raises(PasswordError, match=told):
        find_password(environ=home)
    assert os.listdir(config(home)) == ["worker-password"]


def test_a_file_is_written_for_this_user_only_and_again_with_no_effect(tmp_path):
    path = str(tmp_path / "new" / "w")
    umask = os.umask(0)
    try:
        for _ in range(2):
            write_worker_password_file(path, WORKER)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert read_worker_password_file(path) == WORKER
    assert os.listdir(tmp_path / "new") == ["w"]


def test_a_file_with_something_else_is_never_overwritten(tmp_path):
    for text in (OTHER, MAIN, "", "x" * 5000):
        path = write(tmp_path / "f", text)
        with pytest.raises(PasswordError):
            write_worker_password_file(path, WORKER)
        assert (tmp_path / "f").read_text() == text
    with pytest.raises(PasswordError, match="others may read"):
        write_worker_password_file(write(tmp_path / "g", WORKER, 0o644), WORKER)
    with pytest.raises(PasswordError, match="cannot write"):
        write_worker_password_file(str(tmp_path / "f" / "x"), WORKER)
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    with pytest.raises(PasswordError, match="others may read or change the worker password file"):
        read_worker_password_file(write(tmp_path / "w", WORKER, mode))
