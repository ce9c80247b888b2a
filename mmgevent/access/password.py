"""Find the password that the processes of one cluster share, or make it.

These are tried in order: the password given, the file named, `MMG_PASSWORD`, the file in
`MMG_PASSWORD_FILE`, the file of this user. The first command that needs a password makes the last
one, of 128 random bits. So all processes of one user on one machine, or in one home directory,
agree without any action. A worker may have a worker password instead: see `worker_password`.

No message contains a password. A file that others may read is refused: its content is no secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from mmgevent.access.addresses import is_loopback
from mmgevent.errors import PasswordError

VARIABLE = "MMG_PASSWORD"
FILE_VARIABLE = "MMG_PASSWORD_FILE"
WORKER_VARIABLE = "MMG_WORKER_PASSWORD"
WORKER_FILE_VARIABLE = "MMG_WORKER_PASSWORD_FILE"

#: How the text of a worker password of any version begins (`worker_key`). No main password may.
WORKER_PREFIX = "mmgevent-worker-"

#: Name of this user's worker password file, beside the password file.
WORKER_FILE = "worker-password"

#: Length that protects a password, characters. Shorter ones can be found by trying, at 50 ms a try.
SHORT_CHARS = 12

#: Longest password, bytes. A longer file is some other file.
MAX_BYTES = 4096

#: Random bytes of a password that is made here: 128 bits.
RANDOM_BYTES = 16


def find_password(
    password: str | None = None,
    password_file: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Return the password: the one given, or that of a file, the environment or this user's file.

    This user's file is made if there is none.

    Raises PasswordError for an empty password, for a file that others may read, and for a file that
    cannot be read or made. Raises it for a worker password, and if this user has only such a one.
    """
    environ = os.environ if environ is None else environ
    if password is not None:
        return _checked(password, "the password given")
    if password_file is not None:
        return read_password_file(password_file)
    if VARIABLE in environ:
        return _checked(environ[VARIABLE], VARIABLE)
    if environ.get(FILE_VARIABLE):
        return read_password_file(environ[FILE_VARIABLE])
    path = default_path(environ)
    if not os.path.lexists(path):
        _refuse_if_lender(environ)
        make_password_file(path)
    return read_password_file(path)


def default_path(environ: Mapping[str, str] | None = None, name: str = "password") -> str:
    """Return the path of this user's password file, whether it exists or not."""
    environ = os.environ if environ is None else environ
    folder = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # the XDG specification says to ignore a relative one
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            raise PasswordError(f"no home directory to keep a password in; set {VARIABLE}")
        folder = os.path.join(home, ".config")
    return os.path.join(folder, "mmgevent", name)


def read_password_file(path: str | os.PathLike[str]) -> str:
    """Return the content of the file, without one newline at its end.

    Raises PasswordError as `find_password`.
    """
    what = f"the password file {os.fspath(path)}"
    return _checked(read_private_line(path, what), what)


def read_private_line(path: str | os.PathLike[str], what: str) -> str:
    """Return the content of a file that others may not read, without one newline at its end.

    `what` names it in messages. Raises PasswordError for a file that others may read, that cannot
    be read, or that is no text of at most MAX_BYTES.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # the open file, whatever has its name
            if stat.S_IMODE(mode) & 0o077:
                raise PasswordError(
                    f"others may read or change {what} (mode {stat.S_IMODE(mode):04o}); "
                    f"run chmod 600 {name}, and change the password if someone may have read it"
                )
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PasswordError(f"cannot read {what}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise PasswordError(f"{what} has more than {MAX_BYTES} bytes; is it the right one?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise PasswordError(f"{what} is not UTF-8 text; is it the right one?") from None
    newline = "\r\n" if text.endswith("\r\n") else "\n"
    return text.removesuffix(newline)


def is_worker_password(text: str) -> bool:
    """Return whether the text is, or was meant to be, a worker password."""
    return text.startswith(WORKER_PREFIX)


def make_password_file(path: str) -> None:
    """Make the file, with a new password, unless it exists. The first of several processes decides.

    Raises PasswordError if it cannot be made.
    """
    try:
        write_private_file(path, os.urandom(RANDOM_BYTES).hex())
    except OSError as error:
        raise PasswordError(
            f"cannot make the password file {path}: {error.strerror or error}; "
            f"set {VARIABLE}, or pass --password-file"
        ) from error


def write_private_file(path: str, line: str) -> None:
    """Make a file of this line that only this user can read, whole or not at all.

    An existing one stays as it is. Raises OSError if it cannot be made.
    """
    folder = os.path.dirname(path)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    if folder:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    _write_private(temporary, line)
    try:
        os.link(temporary, path)  # unlike rename, it never replaces another file
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def warn_if_short(password: str, hosts: list[str]) -> str | None:
    """Return a warning if a password is short and one of the hosts is not this machine."""
    far = [host for host in hosts if not is_loopback(host)]
    if not far or len(password) >= SHORT_CHARS:
        return None
    return (
        f"the password has {len(password)} characters, and {far[0]} is within reach of other machines: "
        f"take one of {SHORT_CHARS} or more, or none, to use the random one of this user"
    )


def _write_private(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask is
        os.write(fd, line.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def _checked(password: str, where: str) -> str:
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise PasswordError(f"{where} has more than {MAX_BYTES} bytes; is it the right one?")
    if not password:
        raise PasswordError(f"{where} is empty; give one, or leave it out to use the one of this user")
    if is_worker_password(password):
        raise PasswordError(
            f"{where} is a worker password, which can only lend workers: give it to mmg-worker, with "
            "--worker-password-file; submitting jobs and serving take the main password"
        )
    return password


def _refuse_if_lender(environ: Mapping[str, str]) -> None:
    """Raise PasswordError if this user has a worker password.

    Otherwise a new main password would be made here, which no server knows.
    """
    path = default_path(environ, WORKER_FILE)
    names = [name for name in (WORKER_VARIABLE, WORKER_FILE_VARIABLE) if name in environ]
    if names or os.path.lexists(path):
        raise PasswordError(
            f"here is only a worker password ({names[0] if names else path}), which can only lend workers: "
            f"submitting jobs and serving take the main password; copy it to {default_path(environ)}, "
            "or pass --password-file"
        )
