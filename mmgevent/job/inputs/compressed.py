"""Compressed files: what their first bytes say they are, and whether their content is wanted.

A file is known by its content, not by its name.
"""

from __future__ import annotations

from typing import Any

from mmgevent.errors import DatasourceError
from mmgevent.job.compression_modules import how_to_get, module_of

#: Kinds of compressed files that are read.
FORMATS = ("gzip", "bz2", "xz", "zstd")

#: Kinds of files that are not read as text, with what a user can do. Their first bytes are known.
OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compressed by compress(1)",
}

#: First 6 bytes of a block of bz2, and of the end of its stream.
BZ2_BLOCK = bytes.fromhex("314159265359")
BZ2_END = bytes.fromhex("177245385090")

GZIP = b"\x1f\x8b\x08"
XZ = b"\xfd7zXZ\x00"
ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_END = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f


class DamagedError(DatasourceError):
    """A compressed file is truncated, or is not what it says it is."""


class CannotReadError(DatasourceError):
    """A file is compressed in a way that this Python cannot read."""


def find_kind(head: bytes) -> str:
    """Return which of FORMATS or OTHERS begins like this, or "" for anything else."""
    if head[:3] == GZIP or head == GZIP[:2]:
        return "gzip"
    if head[:3] == b"BZh" and head[3:4].isdigit() and head[3:4] != b"0":
        mark = head[4:10]
        if BZ2_BLOCK.startswith(mark) or BZ2_END.startswith(mark):
            return "bz2"
    if head[:6] == XZ:
        return "xz"
    if head[:4] == ZSTD or _begins_with_skippable(head):
        return "zstd"
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            return name
    return ""


def is_undecided(head: bytes) -> bool:
    """Return whether bytes after these may change what `find_kind` says of them."""
    if any(len(head) < len(magic) and magic.startswith(head) for magic in (GZIP, XZ, ZSTD, *OTHERS)):
        return True
    if len(head) < 4:
        is_bz2, is_skipped = b"BZh".startswith(head), head[0] & 0xF0 == 0x50
        return is_bz2 or (is_skipped and _SKIPPABLE_END.startswith(head[1:]))
    return is_skippable(head) or (find_kind(head) == "bz2" and len(head) < 10)


def check_compression(compression: Any) -> None:
    """Raise DatasourceError unless this is a value of the parameter `compression`."""
    if compression is not None and compression not in ("infer", "any", *FORMATS):
        raise DatasourceError(
            f"compression={compression!r} is unknown; it is 'infer', 'any', None, or one of {', '.join(FORMATS)}"
        )


def is_to_decompress(path: str, kind: str, size: int, compression: str | None, *, binary: bool) -> bool:
    """Return whether the content of a file is wanted, and not its bytes as they are.

    Raise DatasourceError for a file that is not of the kind that `compression` names, and for one
    that this Python cannot read.
    """
    if compression is None or (compression == "infer" and binary):
        return False
    if compression in FORMATS and kind != compression:
        found = f"it is {kind}" if kind else "it is empty" if not size else "its first bytes are others"
        raise DatasourceError(
            f"{path} is not {compression}, as compression={compression!r} says: {found}; leave out "
            f"compression=..., and each file is read as what it is"
        )
    if kind not in FORMATS:
        return False
    reading_module(kind, path)
    return True


def advice_for(kind: str) -> str:
    """Return what to say to a user whose text is of this kind, or ""."""
    if kind in FORMATS:
        return f"it is {kind}; leave out compression=None"
    return f"it is {kind}; unpack it first" if kind else ""


def reading_module(kind: str, path: str) -> Any:
    """Return the module that reads a kind of file. Raise CannotReadError if there is none."""
    module = module_of(kind)
    if module is None:
        raise CannotReadError(
            f"{path} is {kind}, which this Python cannot read: {how_to_get(kind)}, here and on all workers"
        )
    return module


def is_skippable(head: bytes) -> bool:
    """Return whether a frame of zstd that is to be skipped begins like this."""
    return head[:1] != b"" and head[0] & 0xF0 == 0x50 and head[1:4] == _SKIPPABLE_END


def _begins_with_skippable(head: bytes) -> bool:
    """Return whether frames of zstd that are to be skipped come first, as pzstd writes them."""
    if not is_skippable(head):
        return False
    while is_skippable(head) and len(head) >= 8:
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    return head[:4] == ZSTD


def goes_on(path: str, kind: str, end: int, again: int) -> str:
    """Return the message about a file whose data is interrupted by other bytes."""
    return (
        f"{path}: its {kind} data is damaged: at byte {end:,} come other bytes, and at byte {again:,} it goes on; "
        f"get the file again, leave it out, or set max_skipped to set it aside"
    )


def note_ignored(path: str, kind: str, n_bytes: int, end: int) -> None:
    """Log a warning about bytes after the last member."""
    from mmgevent.machine.logs import get_log

    get_log(__name__).warning(
        "ignored %d bytes at the end of %s: its %s data ends at byte %d", n_bytes, path, kind, end
    )
