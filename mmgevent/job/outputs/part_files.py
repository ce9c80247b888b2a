"""Write parts in an executor: under temporary names, which the driver alone replaces by others.

1. An executor writes only into a folder where it finds the driver's token (see `parts_plan`), in a
   file of its own user.
2. A part has no name, or a temporary one, until it is whole. A killed executor leaves at most such
   a file, and the driver removes those at the end.
3. The driver removes the token before it looks for such files. So an executor that is late, and has
   just named one, finds no token and removes it itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import Replacement, WholeFile
from mmgevent.job.outputs.formats import choose_format
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.receipts import MAX_FILES, Receipt, WrittenFile
from mmgevent.job.outputs.rows import RowEncoder
from mmgevent.job.outputs.sinks import Sink, check_libraries, make_encoder, make_sink
from mmgevent.job.remote.urls import is_remote

if TYPE_CHECKING:
    from mmgevent.job.outputs.remote_parts import RemotePlace


class _Open(NamedTuple):
    """The part that is being written."""

    sink: Sink
    file: WholeFile
    name: str


class LocalPlace:
    """A folder that this machine may see as the driver does."""

    def __init__(self, plan: PartsPlan):
        self._plan = plan

    def has_token(self) -> bool:
        """Return whether this is the driver's folder, and this process runs as the driver's user."""
        try:
            found = os.lstat(os.path.join(self._plan.folder, self._plan.token_name))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()

    def create(self, name: str) -> WholeFile:
        """Open a file. Raise OSError."""
        return Replacement(
            self._plan.name,
            os.path.join(self._plan.folder, name),
            _ignore_warning,
            is_new=True,
            temporary_prefix=self._plan.temporary_prefix,
        )

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):  # the driver removes it, too
            os.unlink(os.path.join(self._plan.folder, name))


class PartFiles:
    """The parts of one reduce task."""

    def __init__(self, plan: PartsPlan):
        self._plan = plan
        self._chosen = choose_format(None, plan.format)
        self.encode, self._header = make_encoder(self._chosen, plan.columns)
        self._place: LocalPlace | RemotePlace = _find_place(plan)
        self._open: _Open | None = None
        self._records = 0  # of the part that is open
        self._bytes = 0  # of it, before they are compressed
        self._files: list[WrittenFile] = []

    def begin(self) -> str | None:
        """Open the first part; return None, or a sentence that says why the driver has to write."""
        name = self._plan.name
        try:
            if not self._place.has_token():
                return f"{name} is not a folder of every worker: the results of the others are written here"
            check_libraries(self._chosen)
            self._open = self._next()
        except (OSError, OutputError, MemoryError) as error:
            why = getattr(error, "strerror", None) or str(error) or "no memory"
            return f"a worker sees {name} and cannot write there ({why}): its results are written here"
        return None

    def write(self, records: list[Any]) -> None:
        """Write what `encode` has made. Raise OutputError."""
        size = sum(map(len, records))
        if self._bytes + size <= self._plan.part_bytes:
            self._add(records, size)
            return
        for record in records:
            if self._records and self._bytes + len(record) > self._plan.part_bytes:
                self._finish()
                self._open = self._next()
            self._add([record], len(record))

    def end(self) -> Receipt:
        """Finish the last part; return what the driver needs. Raise OutputError."""
        self._finish()
        try:
            is_wanted = self._place.has_token()
        except OSError as error:
            raise OutputError(f"cannot write {self._plan.name}: {error.strerror or error}") from error
        if not is_wanted:
            raise OutputError(f"cannot write {self._plan.name}: the run that wanted its parts is over")
        shape = self.encode.shape if isinstance(self.encode, RowEncoder) else None
        return Receipt(tuple(self._files), shape)

    def abort(self) -> None:
        """Remove everything."""
        if self._open is not None:
            self._open.sink.abort()
            self._open = None
        for file in self._files:
            self._place.remove(file.name)
        self._files = []

    def _add(self, records: list[Any], size: int) -> None:
        assert self._open is not None
        self._open.sink.write_many(records)
        self._records += len(records)
        self._bytes += size

    def _next(self) -> _Open:
        if len(self._files) >= MAX_FILES:
            raise OutputError(
                f"cannot write {self._plan.name}: the results of one task need more than {MAX_FILES} parts; choose a "
                f"larger part size"
            )
        name = f"{self._plan.temporary_prefix}{os.urandom(8).hex()}.tmp"
        file = self._place.create(name)
        return _Open(make_sink(self._chosen, self.encode, file, self._header), file, name)

    def _finish(self) -> None:
        opened = self._open
        assert opened is not None
        opened.sink.commit()
        self._open = None
        self._files.append(WrittenFile(opened.name, self._records, opened.file.size))
        self._records = self._bytes = 0


def _find_place(plan: PartsPlan) -> LocalPlace | RemotePlace:
    if not is_remote(plan.folder):
        return LocalPlace(plan)
    from mmgevent.job.outputs.remote_parts import RemotePlace

    return RemotePlace(plan)


def _ignore_warning(text: str) -> None:
    """Nothing is replaced, so there is nothing to warn of."""
