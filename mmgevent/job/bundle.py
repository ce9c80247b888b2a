"""Bundles: files that hold one failed call, so that it can be made again without a cluster.

A bundle is code and data, and whoever opens it runs it. So `read_bundle` refuses a file that
another user owns or may write. It checks lengths and checksums, and unpickles nothing. The format:

    8 bytes     MAGIC
    u32         length of the header, bytes
    header      one JSON object: FORMAT, what failed, versions, options, surroundings; and
                "sections": [[name, length, XXH64], ...]
    sections    bytes: "code" is the payload of `shipping.pack`, "input" a pickle of the key and
                the values, or of the item; it is missing if it was too large or is not known

A folder keeps the last KEPT bundles. A file appears when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from xxhash import xxh64_hexdigest

from mmgevent.errors import UsageError
from mmgevent.machine import leftovers

MAGIC = b"MMGBNDL\n"

#: Version of the header and of the sections.
FORMAT = 1

#: Bundles in one folder. They are enough for the failures of a day's work.
KEPT = 20

#: Ending of the names of bundles.
SUFFIX = ".mmgbundle"

#: The names of bundles that are being written.
_HIDDEN = re.compile(r"\.\d{8}-\d{6}-.*" + re.escape(SUFFIX), re.ASCII)

#: Largest header, bytes. A failure record has 256 KiB; import paths and arguments are short.
MAX_HEADER_BYTES = 8 * 1024 * 1024

#: Largest bundle, bytes. Code has 256 MiB at most, the input 16 MiB.
MAX_BUNDLE_BYTES = 512 * 1024 * 1024

#: Longest part of the name of a bundle, characters: file names have at most 255 bytes.
_MAX_NAME_CHARS = 60

_LENGTH = struct.Struct("<I")


class Bundle(NamedTuple):
    """A bundle that was read: nothing in it was unpickled."""

    path: str
    header: dict[str, Any]
    sections: dict[str, bytes]


def default_folder() -> str | None:
    """Return the folder of bundles in the user's cache, or None if the user has no folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(cache):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        cache = os.path.join(home, ".cache")
    return os.path.join(cache, "mmgevent", "bundles")


def write_bundle(folder: str, name: str, header: dict[str, Any], sections: dict[str, bytes]) -> str:
    """Write a bundle that only this user can read, and return its path.

    The folder is made if it is missing, and the oldest bundles beyond KEPT are removed from it.
    Raises OSError if the file cannot be written, and PermissionError for a folder that others may
    write.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    place = os.stat(folder)
    if place.st_uid not in (0, os.geteuid()) or _others_may_write(place):
        raise PermissionError(f"others may write to the folder {folder}")
    table = [[part, len(data), xxh64_hexdigest(data)] for part, data in sections.items()]
    head = json.dumps({**header, "format": FORMAT, "sections": table}).encode("ascii")
    if len(head) > MAX_HEADER_BYTES:
        raise OSError(f"the header would have {len(head):,} bytes")
    moment = time.strftime("%Y%m%d-%H%M%S")
    safe = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:_MAX_NAME_CHARS].strip("-.")
    path = os.path.join(os.path.abspath(folder), f"{moment}-{safe}-{secrets.token_hex(3)}{SUFFIX}")
    hidden = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(hidden, flags, 0o600), "wb") as file:
            leftovers.hold(file.fileno())
            for data in (MAGIC, _LENGTH.pack(len(head)), head, *sections.values()):
                file.write(data)
        os.rename(hidden, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(hidden)
        raise
    _remove_old(os.path.dirname(path), keep=path)
    leftovers.remove_files(os.path.dirname(path), _HIDDEN)
    return path


def read_bundle(path: str) -> Bundle:
    """Read a bundle and check it.

    Raises UsageError for a file that is no whole bundle, that cannot be read, or that is not only
    this user's.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the bundle {path} cannot be opened: {reason}") from error
    try:
        _check_owner(path, os.fstat(fd))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the bundle {path} cannot be read: {error.strerror or error}") from error
    finally:
        os.close(fd)
    header, at = _read_header(path, data)
    sections: dict[str, bytes] = {}
    for name, size, digest in _read_table(path, header):
        part = data[at : at + size]
        at += size
        if len(part) != size or xxh64_hexdigest(part) != digest:
            raise _damaged(path, f"its section {name!r} is not whole")
        sections[name] = part
    if at != len(data):
        raise _damaged(path, "bytes follow its last section")
    return Bundle(path, header, sections)


def read_headers(folder: str) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield (path, when it was written, header) of the bundles in a folder that are this user's alone.

    Files that are none, or are damaged, are left out.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(each.name for each in entries if each.name.endswith(SUFFIX))
    except OSError:
        return
    for name in names[-2 * KEPT :]:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError, UsageError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                _check_owner(path, status)
                data = file.read(len(MAGIC) + _LENGTH.size + MAX_HEADER_BYTES)
            yield path, status.st_mtime, _read_header(path, data)[0]


def _check_owner(path: str, status: os.stat_result) -> None:
    """Raise UsageError unless a file is this user's alone: a bundle is code that is run."""
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is no file: expected a bundle, as an error of mmg-run names it")
    if status.st_uid != os.geteuid():
        raise UsageError(
            f"the bundle {path} belongs to another user, and replaying it would run that user's code: "
            f"copy it to a file of your own if you trust it"
        )
    if _others_may_write(status):
        raise UsageError(
            f"others may write to the bundle {path}, and replaying it would run their code: if you trust it, "
            f"run chmod 600 on it"
        )


def _others_may_write(status: os.stat_result) -> bool:
    return bool(status.st_mode & 0o022)


def _read_header(path: str, data: bytes) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + _LENGTH.size
    if not data.startswith(MAGIC) or len(data) < start or len(data) > MAX_BUNDLE_BYTES:
        raise UsageError(f"{path} is no bundle: expected a file that an error of mmg-run names")
    (length,) = _LENGTH.unpack_from(data, len(MAGIC))
    if length > MAX_HEADER_BYTES or start + length > len(data):
        raise _damaged(path, "its header is not whole")
    try:
        header = json.loads(data[start : start + length])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no object")
    if header.get("format") != FORMAT:
        raise UsageError(
            f"the bundle {path} has format {header.get('format')!r}, and this mmgevent reads {FORMAT}: "
            f"replay it with the mmgevent that wrote it"
        )
    return header, start + length


def _read_table(path: str, header: dict[str, Any]) -> list[tuple[str, int, str]]:
    table = header.get("sections")
    if not isinstance(table, list):
        raise _damaged(path, "its table of sections is wrong")
    for row in table:
        if not (isinstance(row, list) and [type(field) for field in row] == [str, int, str] and row[1] >= 0):
            raise _damaged(path, "its table of sections is wrong")
    return [(name, size, digest) for name, size, digest in table]


def _damaged(path: str, what: str) -> UsageError:
    return UsageError(f"the bundle {path} is damaged: {what}; let the job fail again to get another")


def _remove_old(folder: str, keep: str) -> None:
    """Remove the oldest bundles beyond KEPT. Another run may remove some at the same time."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith(".") and entry.path != keep:
                with contextlib.suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    found.sort()
    for _, path in found[: max(0, len(found) + 1 - KEPT)]:
        with contextlib.suppress(OSError):
            os.unlink(path)
