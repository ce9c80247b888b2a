"""What a reduce task says of the parts that it has written itself, in the place of its results.

A receipt travels and is committed as results are, so a task that is lost, or runs twice, counts
once. It is JSON, so nothing of a worker runs where it is read.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from xxhash import xxh3_64_digest

#: What a receipt begins with. Segments of records begin with something else.
MAGIC = b"MMGW"
_CHECKSUM_BYTES = 8

#: Most files in a receipt. With parts of the usual size they hold 1.2 TiB.
MAX_FILES = 10_000


class ReceiptError(Exception):
    """Bytes are no receipt."""


class WrittenFile(NamedTuple):
    """A whole part under its temporary name."""

    name: str
    records: int
    #: its size, bytes
    size: int


class RowShape(NamedTuple):
    """What all rows of an output have in common."""

    width: int
    #: the key of the first record, as an error shows it
    first: str


class Receipt(NamedTuple):
    """The parts that hold all results of some partitions."""

    files: tuple[WrittenFile, ...]
    #: None if the format has no columns
    shape: RowShape | None = None
    #: those whose results are in the files; the driver fills them in
    partitions: tuple[int, ...] = ()
    #: number of all partitions of the job
    of: int = 0

    @property
    def records(self) -> int:
        """Return how many records the files have."""
        return sum(file.records for file in self.files)

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        body = json.dumps([self.files, self.shape]).encode()
        return MAGIC + xxh3_64_digest(body) + body


def count_records(key: Any) -> int:
    """Return how many records the key of a record stands for: those of a receipt, or one."""
    return key.records if type(key) is Receipt else 1


def is_receipt(data: Any) -> bool:
    """Return whether bytes that came as results are a receipt."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def decode_receipt(data: Any) -> Receipt:
    """Return the receipt, without partitions. Raise ReceiptError for what no executor sends."""
    raw = bytes(data)
    body = raw[len(MAGIC) + _CHECKSUM_BYTES :]
    if xxh3_64_digest(body) != raw[len(MAGIC) : len(MAGIC) + _CHECKSUM_BYTES]:
        raise ReceiptError("it does not match its checksum")
    try:
        files, shape = json.loads(body)
        receipt = Receipt(
            tuple(WrittenFile(*file) for file in files), None if shape is None else RowShape(*shape)
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise ReceiptError("it is no list of files") from error
    if not 0 < len(receipt.files) <= MAX_FILES or not all(map(_is_file, receipt.files)):
        raise ReceiptError("it names no files, too many, or wrong ones")
    if receipt.shape is not None and not (
        _is_count(receipt.shape.width) and type(receipt.shape.first) is str
    ):
        raise ReceiptError("the shape of its rows is wrong")
    return receipt


def _is_file(file: WrittenFile) -> bool:
    return type(file.name) is str and _is_count(file.records) and _is_count(file.size)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
