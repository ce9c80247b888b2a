"""Settings in a file: `mmgevent.toml`, or `[tool.mmgevent]` of a pyproject.toml.

They are defaults of options: the command line wins, then variables, then the file. A key is the
name of an option without dashes in front. Keys at the top are for every command that has the
option; the tables `run`, `worker` and `server` are for one command, and win.

The file is searched from the current folder upwards. The search ends with the first file that has
settings, or at the end of a project (a folder with `.git`), or at the home folder. A file of
another user is passed over: his settings could send a job to him. MMG_SETTINGS names a file
instead, or none if it is empty.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any, NoReturn

from mmgevent.cli.option_names import OPTION_NAMES
from mmgevent.errors import UsageError
from mmgevent.shown_text import shown

#: Variable that names the file.
VARIABLE = "MMG_SETTINGS"

FILE_NAME, PROJECT_NAME = "mmgevent.toml", "pyproject.toml"

#: Largest file of settings, bytes. A larger one is something else.
MAX_BYTES = 1024 * 1024

#: Folders in which a file is searched, at most.
MAX_FOLDERS = 100

#: Options with a path, which a file gives relative to its own folder.
_PATHS = frozenset({"password_file", "worker_password_file", "tls_cert", "tls_key", "tls_ca", "output"})

_TABLES = {name.removeprefix("mmg-"): name for name in OPTION_NAMES}


class FileSetting:
    """One setting: its texts, as a command line would have them, and where it stands."""

    __slots__ = ("texts", "where")

    def __init__(self, texts: list[str], where: str):
        self.texts = texts
        self.where = where


def find_settings(command: str, environ: Mapping[str, str]) -> dict[str, FileSetting]:
    """Return {option: setting} for a command, such as "mmg-run"; {} if there is no file.

    Raises UsageError for a file that is wrong; it says what and where.
    """
    found = _find_file(environ)
    return {} if found is None else _read(found, command)


def _find_file(environ: Mapping[str, str]) -> str | None:
    if VARIABLE in environ:
        return environ[VARIABLE] or None
    if "HOME" not in environ:  # no environment of a user
        return None
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        return None
    home = os.path.realpath(environ["HOME"])
    for _ in range(MAX_FOLDERS):
        for name in (FILE_NAME, PROJECT_NAME):
            path = os.path.join(folder, name)
            if _is_ours(path) and (name == FILE_NAME or _has_table(path)):
                return path
        parent = os.path.dirname(folder)
        if folder in (home, parent) or os.path.exists(os.path.join(folder, ".git")):
            return None
        folder = parent
    return None


def _is_ours(path: str) -> bool:
    """Return whether there is a file, of this user or of root."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid in (os.geteuid(), 0)


def _has_table(path: str) -> bool:
    """Return whether a pyproject.toml may have settings of ours, without parsing it."""
    try:
        with open(path, "rb") as file:
            return b"mmgevent" in file.read(MAX_BYTES) and _table_of(path) is not None
    except OSError:
        return False


def _table_of(path: str) -> dict[str, Any] | None:
    """Return the table of settings in a file, or None if it is a pyproject.toml without one."""
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{shown(path)} has more than {MAX_BYTES} bytes: is it a file of settings?")
        table = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the settings {shown(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the settings {shown(path)} are not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if os.path.basename(path) == PROJECT_NAME:
            return None  # its own tools say what is wrong with it
        raise UsageError(f"the settings {shown(path)} are no TOML: {error}") from None
    if os.path.basename(path) == PROJECT_NAME:
        tools = table.get("tool")
        ours = tools.get("mmgevent") if type(tools) is dict else None
        if ours is not None and type(ours) is not dict:
            raise UsageError(f"tool.mmgevent in {shown(path)} must be a table")
        return ours
    return table


def _read(path: str, command: str) -> dict[str, FileSetting]:
    table = _table_of(path)
    if table is None:
        return {}
    everywhere = frozenset().union(*OPTION_NAMES.values())
    settings: dict[str, FileSetting] = {}
    own: dict[str, FileSetting] = {}
    for key, value in table.items():
        if type(value) is dict:
            name = _TABLES.get(key) or _refuse(path, key, _TABLES, "a table for no command")
            read = {_name_of(path, k, OPTION_NAMES[name], f"{key}."): (k, v) for k, v in value.items()}
            made = {option: _setting(path, f"{key}.{k}", option, v) for option, (k, v) in read.items()}
            if name == command:
                own = made
        else:
            option = _name_of(path, key, everywhere, "")
            settings[option] = _setting(path, key, option, value)
    known = OPTION_NAMES.get(command, frozenset())
    return {option: s for option, s in {**settings, **own}.items() if option in known}


def _name_of(path: str, key: str, names: frozenset[str], table: str) -> str:
    option = key.replace("-", "_")
    return option if option in names else _refuse(path, key, names, "no option", table)


def _refuse(path: str, key: str, names: Any, what: str, table: str = "") -> NoReturn:
    import difflib

    nearest = difflib.get_close_matches(key.replace("-", "_"), names, n=1, cutoff=0.6)
    hint = f"; did you mean {table}{nearest[0].replace('_', '-')}?" if nearest else ""
    raise UsageError(f"{table}{shown(key)} in {shown(path)} is {what}{hint}")


def _setting(path: str, key: str, option: str, value: Any) -> FileSetting:
    """Return a setting of a value in the file. Raises UsageError for a value of no use."""
    if option == "password":
        _check_private(path, key)
    values = value if type(value) is list else [value]
    texts = []
    for each in values:
        if type(each) is bool:
            texts.append("1" if each else "0")
        elif type(each) in (str, int, float):
            texts.append(_resolved(path, option, str(each)))
        else:
            raise UsageError(f"{key} in {shown(path)}: expected a text, a number, true or false")
    return FileSetting(texts, f"{key} in {path}")


def _check_private(path: str, key: str) -> None:
    """Raise UsageError if others can read the file."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise UsageError(
            f"{shown(key)} in {shown(path)}: others may read this file (mode {mode:04o}); run chmod 600, or "
            f"write password-file = PATH instead"
        )


def _resolved(path: str, option: str, text: str) -> str:
    """Return a value; a path in it is relative to the folder of the file."""
    if option not in _PATHS or text == "-" or "://" in text:
        return text
    return os.path.join(os.path.dirname(os.path.abspath(path)), os.path.expanduser(text))
