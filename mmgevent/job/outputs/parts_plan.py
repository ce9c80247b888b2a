"""What a driver tells executors that may write parts of a folder themselves.

Whether an executor sees the driver's folder is found out, not believed: the driver puts a file with
a random name there (the *token*). An executor that finds it, and whose user it belongs to, writes
into that folder. Others send their results.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

#: What temporary files of folders begin with. A run that writes a single file into the folder has others.
TEMPORARY_PREFIX = ".mmg-part-"
#: What the file begins with by which executors find out that they see the driver's folder.
TOKEN_PREFIX = ".mmg-run-"

#: Largest plan that is sent, bytes. Thousands of names of columns would be larger: the driver writes then.
MAX_PLAN_BYTES = 16 * 1024

_TOKEN = re.compile(r"[0-9a-f]{16}", re.ASCII)


class PartsPlan(NamedTuple):
    """Where and how executors write parts."""

    #: its absolute path, or its address
    folder: str
    #: the folder as the user wrote it
    name: str
    #: 64 random bits in hexadecimal
    token: str
    #: as `--format` has it: "jsonl.gz"
    format: str
    columns: list[str] | None
    #: size of a part before it is compressed
    part_bytes: int

    @property
    def token_name(self) -> str:
        """Return the name of the file by which executors find out that they see the folder."""
        return f"{TOKEN_PREFIX}{self.token}"

    @property
    def temporary_prefix(self) -> str:
        """Return what the names of files begin with that this run's executors write."""
        return f"{TEMPORARY_PREFIX}{self.token}-"

    def is_temporary(self, name: str) -> bool:
        """Return whether a name is that of a file which an executor of this run has written."""
        return (
            re.fullmatch(re.escape(self.temporary_prefix) + r"[0-9a-f]{16}\.tmp", name, re.ASCII) is not None
        )


def find_fault(value: Any) -> str | None:
    """Return what was expected if a plan that a peer sent (see `PartsPlan._asdict`) is none, else None."""
    if type(value) is not dict or set(value) != set(PartsPlan._fields):
        return f"an object of {', '.join(PartsPlan._fields)}"
    for field in ("folder", "name", "token", "format"):
        if type(value[field]) is not str or not value[field]:
            return f"an object whose {field} is text"
    if not _TOKEN.fullmatch(value["token"]):
        return "an object whose token is 16 hexadecimal digits"
    columns = value["columns"]
    if columns is not None and not (
        type(columns) is list and all(type(name) is str and name for name in columns)
    ):
        return "an object whose columns are a list of names, or null"
    if type(value["part_bytes"]) is not int or value["part_bytes"] < 1:
        return "an object whose part_bytes is a number above 0"
    return None
