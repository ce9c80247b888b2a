"""Parts that executors write into a folder of an object store: both sides of it.

An executor sends an object under a temporary name. The driver lets the store copy it to its name,
which appears as a whole, and removes the temporary one.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import WholeFile
from mmgevent.job.outputs.folder_files import Entry
from mmgevent.job.outputs.folder_names import UNIT_PREFIX, is_record
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.record import RECORD, FolderRecord, Unit, encode_unit, read_lines
from mmgevent.job.outputs.remote_objects import SLOWEST_BYTES, RemoteFile, answered, check_bucket, open_store
from mmgevent.job.remote.deadlines import ANSWER_S, LISTING_S


class FolderObjects:
    """The objects of a folder, for the driver. All methods raise RemoteError, an OSError.

    The head of a record is an object, and so is each of its units: nothing can be added to an object.
    A unit is named after its last part.
    """

    def __init__(self, system: Any, folder: str):
        self._system = system
        self._folder = folder

    def enter(self) -> None:
        """Raise RemoteError if there is no such bucket. Nothing is locked."""
        check_bucket(self._system, self._folder)

    def leave(self, *, has_parts: bool) -> None:
        """Do nothing: nothing was locked or made."""

    def sync(self) -> None:
        """Do nothing: an object that was sent is safe."""

    def entries(self) -> dict[str, Entry]:
        """Return the objects of the folder and of those in it: `sub/object`."""
        return {name: Entry(size) for name, size in answered(LISTING_S, self._system, self._find).items()}

    def left_behind(self, plan: PartsPlan) -> list[str]:
        """Return the names of this run's temporary objects: there is no lock that keeps others away."""
        return [name for name in self.entries() if plan.is_temporary(name)]

    def create(self, name: str) -> None:
        """Make an empty object."""
        self._put(name, b"")

    def size(self, name: str) -> int:
        """Return the size of an object, bytes."""
        self._system.invalidate_cache()
        return int(answered(ANSWER_S, self._system, self._system.info, self._path(name))["size"])

    def read(self, name: str) -> bytes:
        """Return what is in an object."""
        data: bytes = answered(ANSWER_S, self._system, self._system.cat_file, self._path(name))
        return data

    def open_part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Return an object as a file, which fetches what pyarrow reads of it."""

        def fetch(start: int, end: int) -> bytes:
            limit_s = ANSWER_S + (end - start) / SLOWEST_BYTES
            data: bytes = answered(limit_s, self._system, self._system.cat_file, self._path(name), start, end)
            return data

        return ObjectReader(self.size(name), fetch)

    def rename(self, old: str, new: str) -> None:
        """Give an object another name."""
        limit_s = ANSWER_S + self.size(old) / SLOWEST_BYTES
        answered(limit_s, self._system, self._system.cp_file, self._path(old), self._path(new))
        self.remove(old)

    def remove(self, name: str) -> None:
        """Remove an object."""
        answered(ANSWER_S, self._system, self._system.rm_file, self._path(name))

    def read_record(self) -> FolderRecord | None:
        """Return the record, None if there is none that can be understood."""
        units = self._units()
        if RECORD not in self.entries():
            return None
        found = answered(LISTING_S, self._system, self._cat, [RECORD, *units])
        return read_lines([found[name] for name in (RECORD, *units)])

    def write_record(self, record: FolderRecord) -> None:
        """Write the head of a record if it is new, and remove the units that are not in it."""
        kept = {_unit_name(unit) for unit in record.units}
        self._remove_all([name for name in self._units() if name not in kept])
        if not kept:
            self._put(RECORD, record.encode())

    def add_unit(self, unit: Unit) -> None:
        """Add a unit to the record that is there."""
        self._put(_unit_name(unit), encode_unit(unit))

    def remove_record(self) -> None:
        """Remove the record: its head last, so that units are never without it."""
        self._remove_all(self._units())
        self.remove(RECORD)

    def _units(self) -> list[str]:
        return sorted(name for name in self.entries() if is_record(name) and name != RECORD)

    def _put(self, name: str, data: bytes) -> None:
        answered(ANSWER_S, self._system, self._system.pipe_file, self._path(name), data)

    def _cat(self, names: list[str]) -> dict[str, bytes]:
        found = self._system.cat([self._path(name) for name in names])
        return dict(zip(names, found.values(), strict=True))

    def _remove_all(self, names: list[str]) -> None:
        if names:  # at once: there may be thousands
            answered(LISTING_S, self._system, self._system.rm, [self._path(name) for name in names])

    def _find(self) -> dict[str, int]:
        self._system.invalidate_cache()
        found: dict[str, Any] = self._system.find(self._folder, detail=True)
        start = f"{self._folder}/"
        return {
            path[len(start) :]: int(details.get("size") or 0)
            for path, details in found.items()
            if path.startswith(start) and path != start
        }

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


class ObjectReader(io.RawIOBase):
    """An object of which only what is read travels."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]):
        """`fetch` returns the bytes from one position up to another one."""
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        data = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _unit_name(unit: Unit) -> str:
    return f"{UNIT_PREFIX}{unit.parts[-1]['name']}"


class RemotePlace:
    """A folder that an executor may see as the driver does."""

    def __init__(self, plan: PartsPlan):
        self._plan = plan
        self._system: Any = None
        self._folder = ""

    def has_token(self) -> bool:
        """Return whether the driver's token is there. Raise OSError, and OutputError for no package."""
        if self._system is None:
            self._system, path = open_store(self._plan.folder)
            self._folder = path.rstrip("/")
        self._system.invalidate_cache()
        return bool(answered(ANSWER_S, self._system, self._system.exists, self._path(self._plan.token_name)))

    def create(self, name: str) -> WholeFile:
        """Open a file that is sent when it is whole. Raise OutputError."""
        return RemoteFile(self._plan.name, self._system, self._path(name))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(OSError, OutputError):  # the driver removes it, too
            answered(ANSWER_S, self._system, self._system.rm_file, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
