"""Find the password of a worker, main or worker password, and write worker passwords to files.

A worker password lets its holder lend workers, and nothing else (`worker_key`). It belongs to one
main password and is computed from it, so there is nothing to create or to keep on the server.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mmgevent.access import password as passwords
from mmgevent.access.password import (
    FILE_VARIABLE,
    VARIABLE,
    WORKER_FILE_VARIABLE,
    WORKER_VARIABLE,
    is_worker_password,
)
from mmgevent.access.worker_key import WorkerKey
from mmgevent.errors import PasswordError, UsageError


def make_worker_password(password: str) -> str:
    """Return the worker password of a main password: always the same.

    Raises PasswordError as `derive_key`.
    """
    from mmgevent.access.handshake import derive_key
    from mmgevent.access.worker_key import server_key

    return server_key(derive_key(password)).worker_key.encode()


def find_password_of_worker(
    password: str | None = None,
    password_file: str | os.PathLike[str] | None = None,
    worker_password_file: str | os.PathLike[str] | None = None,
    *,
    prefers_main: bool = False,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Return what a worker is to prove: a main password or a worker password.

    The order is: what is given, the variables, the files of this user. Of these files that of the
    worker password comes first, or last with `prefers_main`.

    Raises UsageError if both kinds are given, or both are in variables. Raises PasswordError as
    `find_password`, and for a worker password that is none.
    """
    environ = os.environ if environ is None else environ
    is_main_given = password is not None or password_file is not None
    if worker_password_file is not None:
        if is_main_given:
            raise UsageError(
                "a worker needs one password: give the main password or --worker-password-file, not both"
            )
        return read_worker_password_file(worker_password_file)
    mains = _set_names(environ, VARIABLE, FILE_VARIABLE)
    workers = _set_names(environ, WORKER_VARIABLE, WORKER_FILE_VARIABLE)
    if not is_main_given and mains and workers:
        raise UsageError(f"a worker needs one password: unset {mains[0]} or {workers[0]}")
    if is_main_given or mains:
        return passwords.find_password(password, password_file, environ=environ)
    if WORKER_VARIABLE in workers:
        return _checked(environ[WORKER_VARIABLE], WORKER_VARIABLE)
    if workers:
        return read_worker_password_file(environ[WORKER_FILE_VARIABLE])
    path = passwords.default_path(environ, passwords.WORKER_FILE)
    if not os.path.lexists(path) or (prefers_main and os.path.lexists(passwords.default_path(environ))):
        return passwords.find_password(environ=environ)
    return read_worker_password_file(path)


def read_worker_password_file(path: str | os.PathLike[str]) -> str:
    """Return the worker password in a file.

    Raises PasswordError for a file that others may read, cannot be read, or holds something else.
    """
    what = f"the worker password file {os.fspath(path)}"
    return _checked(passwords.read_private_line(path, what), what)


def write_worker_password_file(path: str, worker_password: str) -> None:
    """Write a file that only this user can read. One that holds the same already is right.

    Raises PasswordError for a file that holds something else, and if it cannot be written.
    """
    what = f"the worker password file {path}"
    try:
        passwords.write_private_file(path, worker_password)
    except OSError as error:
        raise PasswordError(
            f"cannot write {what}: {error.strerror or error}; without a file name the command prints it"
        ) from error
    if passwords.read_private_line(path, what) != worker_password:
        raise PasswordError(f"{path} exists and holds something else; remove it, or name another file")


def _set_names(environ: Mapping[str, str], variable: str, file_variable: str) -> list[str]:
    """Return which of these is set. An empty password is a mistake, an empty file name is none."""
    return [
        name
        for name, is_set in ((variable, variable in environ), (file_variable, environ.get(file_variable)))
        if is_set
    ]


def _checked(text: str, where: str) -> str:
    """Return the worker password without blanks around it. Raise PasswordError if it is none."""
    text = text.strip()
    if not is_worker_password(text):
        raise PasswordError(
            f"{where} holds no worker password; the main password is for --password-file, and "
            "`mmg-server worker-password` prints the worker password of it"
        )
    try:
        WorkerKey.decode(text)
    except PasswordError as error:
        raise PasswordError(f"{where}: {error}") from None
    return text
