"""The password is found in one order, made once, and never readable by others."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from mmgevent.access.password import (
    default_path,
    find_password,
    make_password_file,
    read_password_file,
    warn_if_short,
)
from mmgevent.errors import PasswordError


@pytest.fixture
def home(tmp_path):
    return {"HOME": str(tmp_path)}


def write(path, text, mode=0o600):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_first_found_counts(tmp_path, home):
    file = write(tmp_path / "a", "of the file\n")
    other = write(tmp_path / "b", "of the variable's file\n")
    environ = {**home, "MMG_PASSWORD": "of the variable", "MMG_PASSWORD_FILE": other}
    assert find_password("given", file, environ=environ) == "given"
    assert find_password(None, file, environ=environ) == "of the file"
    assert find_password(environ=environ) == "of the variable"
    del environ["MMG_PASSWORD"]
    assert find_password(environ=environ) == "of the variable's file"
    assert not os.path.exists(default_path(environ))


def test_default_file_is_made_once_with_128_random_bits_for_its_user_only(tmp_path, home):
    password = find_password(environ=home)
    path = tmp_path / ".config" / "mmgevent" / "password"
    assert len(bytes.fromhex(password)) == 16
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert find_password(environ=home) == password
    assert os.listdir(path.parent) == ["password"]


def test_mode_does_not_depend_on_the_umask(tmp_path):
    umask = os.umask(0o277)
    try:
        os.umask(0)
        path = str(tmp_path / "new" / "password")
        make_password_file(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_two_users_get_two_passwords(tmp_path):
    one, two = (find_password(environ={"HOME": str(tmp_path / name)}) for name in "ab")
    assert one != two


def test_racing_makers_agree(tmp_path, home):
    found = []
    start = threading.Barrier(16)

    def find():
        start.wait()
        found.append(find_password(environ=home))

    threads = [threading.Thread(target=find) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_racing_processes_agree(tmp_path):
    program = "from mmgevent.access.password import find_password; print(find_password())"
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    environ.pop("MMG_PASSWORD", None)
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    found = {process.communicate()[0] for process in processes}
    assert len(found) == 1


def test_config_folder_is_respected_if_absolute(tmp_path):
    environ = {"HOME": "/home/x", "XDG_CONFIG_HOME": str(tmp_path)}
    assert default_path(environ) == str(tmp_path / "mmgevent" / "password")
    environ["XDG_CONFIG_HOME"] = "relative"
    assert default_path(environ) == "/home/x/.config/mmgevent/password"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o620, 0o777])
def test_file_that_others_may_read_or_change_is_refused(tmp_path, mode):
    path = write(tmp_path / "p", "secret", mode)
    with pytest.raises(PasswordError, match="chmod 600") as caught:
        read_password_file(path)
    assert "secret" not in str(caught.value)


def test_default_file_that_others_may_read_is_refused(home):
    find_password(environ=home)
    os.chmod(default_path(home), 0o644)
    with pytest.raises(PasswordError, match="others may read"):
        find_password(environ=home)


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("x\n", "x"),
        ("x\r\n", "x"),
        ("x", "x"),
        ("x\n\n", "x\n"),
        (" x \n", " x "),
        ("x\r", "x\r"),
        ("größer\n", "größer"),
    ],
)
def test_one_newline_at_the_end_is_not_part_of_the_password(tmp_path, text, password):
    assert read_password_file(write(tmp_path / "p", text)) == password


@pytest.mark.parametrize("text", ["", "\n", "\r\n"])
def test_empty_file_is_refused(tmp_path, text):
    with pytest.raises(PasswordError, match="is empty"):
        read_password_file(write(tmp_path / "p", text))


def test_empty_password_is_refused_wherever_it_comes_from(home):
    with pytest.raises(PasswordError, match="is empty"):
        find_password("", environ=home)
    with pytest.raises(PasswordError, match="MMG_PASSWORD is empty"):
        find_password(environ={**home, "MMG_PASSWORD": ""})


@pytest.mark.parametrize(
    ("data", "match"),
    [(b"\xff\xfe", "UTF-8"), (b"x" * 5000, "4096 bytes")],
)
def test_file_that_holds_no_password_is_refused_without_showing_it(tmp_path, data, match):
    with pytest.raises(PasswordError, match=match) as caught:
        read_password_file(write(tmp_path / "p", data))
    assert "xxx" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(PasswordError, match="cannot read"):
        read_password_file(tmp_path / "none")
    with pytest.raises(PasswordError, match="cannot read"):
        read_password_file(tmp_path)


def test_place_that_cannot_be_written_is_refused_with_what_to_do(tmp_path):
    (tmp_path / ".config").write_text("a file where a folder should be")
    with pytest.raises(PasswordError, match="MMG_PASSWORD"):
        find_password(environ={"HOME": str(tmp_path)})


def test_pipe_may_hold_the_password():
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe\n")
    os.close(writing)
    try:
        assert read_password_file(f"/dev/fd/{reading}") == "from a pipe"
    finally:
        os.close(reading)


def test_short_password_off_this_machine_is_warned_of_and_not_shown():
    warning = warn_if_short("hunter2", ["localhost", "bighost"])
    assert warning is not None
    assert "7 characters" in warning
    assert "bighost" in warning
    assert "hunter2" not in warning
    assert warn_if_short("hunter2", ["localhost", "::1"]) is None
    assert warn_if_short("x" * 12, ["bighost"]) is None
