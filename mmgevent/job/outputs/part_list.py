"""The parts of a folder: their names, what is known of them, and one schema for those of Parquet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.folder_files import FolderFiles
from mmgevent.job.outputs.formats import OutputFormat

if TYPE_CHECKING:
    from mmgevent.job.outputs.part_schemas import PartSchemas

#: Most parts: their numbers have five digits, and sort as their names do.
MAX_PARTS = 100_000

#: Writes a whole file under a name, in place of one that is there, and returns its size in bytes. It
#: calls a function with what takes the bytes.
WriteFile = Callable[[str, Callable[[Callable[[memoryview], None]], None]], int]


class PartList:
    """The parts of one folder that have their names."""

    def __init__(self, folder: str, chosen: OutputFormat, files: FolderFiles):
        """`folder`: as the user wrote it."""
        self._folder = folder
        self._suffix = chosen.suffix
        self._number = 0  # of the next part
        #: what `_SUCCESS` says of each: name, records, bytes
        self.described: list[dict[str, Any]] = []
        self._schemas: PartSchemas | None = None
        if chosen.name == "parquet":
            from mmgevent.job.outputs.part_schemas import PartSchemas  # others need no pyarrow

            self._schemas = PartSchemas(folder, files.open_part)

    def __len__(self) -> int:
        return len(self.described)

    @property
    def names(self) -> set[str]:
        """Return the names of all parts."""
        return {part["name"] for part in self.described}

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of Parquet; none for other formats, and without parts."""
        return () if self._schemas is None else self._schemas.names

    def next_name(self) -> str:
        """Return the name of the next part. Raise OutputError if there are too many."""
        if self._number >= MAX_PARTS:
            raise OutputError(
                f"cannot write {self._folder}: the results need more than {MAX_PARTS} parts; choose a larger part size"
            )
        self._number += 1
        return f"part-{self._number - 1:05}{self._suffix}"

    def keep(self, parts: list[dict[str, Any]]) -> None:
        """Go on behind the parts of an earlier run. Raise as `add` does."""
        self.add(parts)
        self._number = 1 + max((int(name[5:10]) for name in self.names), default=-1)

    def add(self, parts: list[dict[str, Any]]) -> None:
        """Note parts that have their names.

        Raise OSError, and OutputError if their types do not go with those of others.
        """
        self.described += parts
        if self._schemas is not None:
            for part in parts:
                self._schemas.add(part["name"])

    def make_schemas_equal(self, write_file: WriteFile) -> None:
        """Write parts anew whose types are narrower than those of others. Raise as `add` does."""
        if self._schemas is None:
            return
        described = {part["name"]: part for part in self.described}
        for name in self._schemas.narrower():
            described[name]["bytes"] = write_file(name, partial(self._schemas.write_anew, name))
