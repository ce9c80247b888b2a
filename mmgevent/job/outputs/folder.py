"""Write results into a folder: part files of bounded size, and `_SUCCESS` once all are there.

1. A part appears under its name when it is whole, and is never changed afterwards.
2. `_SUCCESS` is written last. It says how many parts and records there are, and what made them.
   Without it the folder is not complete.
3. Results that were there are removed when the first new part is whole, and not before. `_SUCCESS`
   is removed first. Only parts, `_SUCCESS` and leftovers of this module are ever removed.
4. A lock on `.mmg-lock` keeps other runs away. It ends with its process, however that ends.
5. Parts reach the disk before `_SUCCESS` does, so that no power cut leaves `_SUCCESS` alone.
6. If it is known where partitions end, parts are cut there, and a record says which partitions they
   hold (see `record`). So another run can make the others only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.adoption import Adoption, PartNames
from mmgevent.job.outputs.contents import Contents
from mmgevent.job.outputs.destinations import Replacement, WholeFile
from mmgevent.job.outputs.folder_files import LocalNames
from mmgevent.job.outputs.folder_lock import LOCK, lock_folder, make_folder, sync_folder
from mmgevent.job.outputs.folder_names import SUCCESS, is_leftover, is_part
from mmgevent.job.outputs.formats import OutputFormat
from mmgevent.job.outputs.parts_plan import TEMPORARY_PREFIX, PartsPlan
from mmgevent.job.outputs.receipts import Receipt
from mmgevent.job.outputs.record import RECORD, About, FolderRecord
from mmgevent.job.outputs.rows import CsvEncoder
from mmgevent.job.outputs.sinks import Encoder, Sink, log_warning, make_sink
from mmgevent.job.outputs.units import Units

#: Size of a part before it is compressed, bytes. Tools that read parts in parallel like such sizes.
PART_BYTES = 128 * 1024 * 1024

#: Most parts: their numbers have five digits, and sort as their names do.
MAX_PARTS = 100_000


class FolderSink(Sink):
    """Takes records one by one, and writes them to the parts of a folder."""

    def __init__(
        self,
        name: str,
        chosen: OutputFormat,
        encode: Encoder,
        header: bytes,
        *,
        part_bytes: int = PART_BYTES,
        overwrite: bool = False,
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
        fingerprint: About | None = None,
        warn: Callable[[str], None] | None = None,
        draft: PartsPlan | None = None,
    ):
        """Make the folder if it is not there, and lock it.

        `name`: the folder as the user wrote it, with a / at its end. `about`: more for `_SUCCESS`.
        `fingerprint`: what makes the results; None if that is not known, so that nothing is
        recorded. `resume`: keep the partitions that the same job has made: see `made`. `draft`: how
        executors may write parts, see `plan_parts`; None if they may not.

        Raise OutputError for a folder that is not empty, is in use or cannot be written to, or that
        another job has made.
        """
        self._name = name
        self._folder = self._find()
        self._chosen = chosen
        self._encode = encode
        self._header = header
        self._part_bytes = part_bytes
        self._about = about or {}
        self._warn = warn or log_warning
        self._draft = draft
        self._adoption: Adoption | None = None
        self._part: Sink | None = None
        self._file: WholeFile | None = None  # that the part is written to
        self._records = 0  # of this part
        self._written_bytes = 0  # of this part, before they are compressed
        self._parts: list[dict[str, Any]] = []
        self._number = 0  # of the next part
        self._part_name = ""  # of the part that is open
        #: parts that were there, and what killed runs left; None once they are removed
        self._old: list[str] | None = []
        self._is_over = self._is_new = False
        self._lock: int | None = None
        #: None if nothing is recorded
        self._units = None if fingerprint is None else Units(self._folder, fingerprint, self._write_record)
        self._enter(overwrite, resume)

    def _find(self) -> str:
        """Return the path of the folder."""
        return os.path.realpath(self._name)

    def _enter(self, overwrite: bool, resume: bool) -> None:
        """Make the folder ours, and look at what is there."""
        with self._explained():
            self._is_new = make_folder(self._folder)
            self._lock = lock_folder(self._folder, self._name, self._warn)
        try:
            with self._explained():
                contents = Contents(self._folder, self._name)
                if resume:
                    self._continue(contents)
                else:
                    self._old = contents.check(overwrite)
        except BaseException:
            self._release()
            raise
        if self.is_complete:
            self._is_over = True
            self._release()

    @property
    def is_terminal(self) -> bool:
        """Return that results do not go to a terminal."""
        return False

    def write(self, key: Any, value: Any) -> None:
        """Write one record, or take over what a receipt names; raise OutputError as `Sink` does."""
        if type(key) is Receipt:
            self._adopt(key)
            return
        data = self._encode(key, value)
        if self._records and self._written_bytes + len(data) > self._part_bytes:
            self._finish_part()
        if self._part is None:
            self._part = self._open_part()
        self._part.write_encoded(data)
        self._records += 1
        self._written_bytes += len(data)
        if self._units is not None:
            self._units.add_bytes(len(data))

    def note_partitions(self, partitions: tuple[int, ...], of: int) -> None:
        """Note that every record of these partitions was written. End the part if that is due."""
        if self._adoption is not None:
            partitions = tuple(each for each in partitions if each not in self._adoption.partitions)
        if self._units is not None and partitions:
            self._units.add_partitions(partitions, of)
            if self._units.is_due(self._part_bytes - self._written_bytes):
                self._finish_unit()

    def note_pause(self) -> None:
        """End the part if that is due: nobody knows when the next partition comes."""
        if self._units is not None and self._units.is_between and self._units.is_old():
            self._finish_unit()

    def commit(self) -> None:
        """Finish the last part, and write `_SUCCESS`. A folder without results has one empty part."""
        if self._is_over:
            return
        if self._part is None and not self._parts:
            self._part = self._open_part()
        if self._part is not None:
            if self._units is not None and self._units.is_between:
                self._finish_unit()
            else:
                self._finish_part()
        with self._explained():
            self._end_adoption()
        with self._explained(SUCCESS):
            self._sync()
            success = self._open_file(SUCCESS)
            try:
                success.write(memoryview(self._describe()))
                success.commit()
            finally:
                success.abort()
            self._sync()
            if self._is_recorded:
                os.unlink(os.path.join(self._folder, RECORD))
        self._is_over = True
        self._release()

    def abort(self) -> None:
        """Drop the part that is not whole. The others stay, without `_SUCCESS`."""
        if self._is_over:
            return
        self._is_over = True
        if self._part is not None:
            self._part.abort()
        with contextlib.suppress(OSError):  # what is left of it, a later run removes
            self._end_adoption()
        self._release()
        if self._parts:
            advice = "; --resume makes the rest" if self._is_recorded else ""
            self._warn(
                f"{self._name} is not complete: it has {len(self._parts)} parts, and no {SUCCESS}{advice}"
            )

    # parts

    def _open_part(self) -> Sink:
        self._part_name = self._next_name()
        with self._explained():
            file = self._open_file(self._part_name, self._prepare)
        if self._units is not None:
            self._units.begin_part()
        return make_sink(self._chosen, self._encode, file, self._header)

    def _next_name(self) -> str:
        if self._number >= MAX_PARTS:
            raise OutputError(
                f"cannot write {self._name}: the results need more than {MAX_PARTS} parts; choose a larger part size"
            )
        self._number += 1
        return f"part-{self._number - 1:05}{self._chosen.suffix}"

    def _finish_part(self) -> None:
        assert self._part is not None
        self._part.commit()
        self._parts.append(self._describe_part())
        if self._units is not None:
            self._units.add_part(self._parts[-1])
        self._part, self._records, self._written_bytes = None, 0, 0

    def _finish_unit(self) -> None:
        """Finish the part: its last partition ends with it."""
        if self._part is not None and self._units is not None:  # or the partitions have no records
            self._units.end()
            self._finish_part()

    def _describe_part(self) -> dict[str, Any]:
        assert self._file is not None
        return {"name": self._part_name, "records": self._records, "bytes": self._file.size}

    def _prepare(self) -> None:
        """Do what must be on the disk before a part has its name."""
        self._make_room()
        if self._units is not None:
            self._units.record_end(self._describe_part())

    def _make_room(self) -> None:
        """Remove older results before the first part has its name."""
        if self._old is not None:
            self._clear(self._old)
            self._old = None

    @property
    def _is_recorded(self) -> bool:
        return self._units is not None and self._units.is_recorded

    def _write_record(self, record: FolderRecord) -> None:
        """Write a whole record in place of the one that is there."""
        file = self._open_file(RECORD)
        try:
            file.write(memoryview(record.encode()))
            file.commit()
        finally:
            file.abort()

    def _open_file(self, name: str, before_naming: Callable[[], None] | None = None) -> WholeFile:
        path = os.path.join(self._folder, name)
        file = Replacement(
            f"{self._name}{name}",
            path,
            self._warn,
            is_new=True,
            before_naming=before_naming,
            temporary_prefix=TEMPORARY_PREFIX,
        )
        if before_naming is not None:
            self._file = file
        return file

    def _describe(self) -> bytes:
        """Return the text of `_SUCCESS`."""
        from mmgevent.wire.hello import VERSION, describe_python  # not needed before

        told = {
            "records": _count_records(self._parts),
            "parts": sorted(self._parts, key=lambda part: part["name"]),
            "format": self._chosen.suffix[1:],
            "mmgevent": VERSION,
            "python": describe_python(),
            **self._about,
        }
        if self._units is not None:
            told["fingerprint"] = self._units.about
        return (json.dumps(told, indent=1, default=repr) + "\n").encode()

    # parts of executors

    def plan_parts(self) -> PartsPlan | None:
        """Return what `submit` needs so that executors write parts; None if they cannot."""
        if self._is_over or self._draft is None:
            return None
        folder, files = self._place()
        with self._explained():
            self._adoption = Adoption(
                files,
                self._draft._replace(folder=folder, token=Adoption.make_token(), part_bytes=self._part_bytes),
            )
        return self.plan

    @property
    def plan(self) -> PartsPlan | None:
        """Return what `plan_parts` has returned; None before it, and if executors write nothing."""
        return None if self._adoption is None else self._adoption.plan

    def _place(self) -> tuple[str, PartNames]:
        """Return where executors look for the folder, and its files."""
        return self._folder, LocalNames(self._folder)

    def _adopt(self, receipt: Receipt) -> None:
        assert self._adoption is not None, "nobody was asked to write parts"
        if receipt.shape is not None and isinstance(self._encode, CsvEncoder):
            self._encode.check_shape(receipt.shape)

        def record(parts: list[dict[str, Any]]) -> None:
            if self._units is not None:
                self._units.add_unit(parts, receipt.partitions, receipt.of)

        with self._explained():
            self._make_room()
            self._parts += self._adoption.take(receipt, self._next_name, record)

    def _end_adoption(self) -> None:
        adoption, self._adoption = self._adoption, None
        if adoption is not None:
            adoption.close()

    # the folder

    def _continue(self, contents: Contents) -> None:
        """Keep what the same job has made; remove what is not whole. Raise OutputError for another job."""
        assert self._units is not None
        names = contents.names
        if SUCCESS in names:
            self._parts = contents.parts_of_same(self._units.about)
            self.is_complete = True
            self.made_records = _count_records(self._parts)
            for name in names:
                if name == RECORD or is_leftover(name):
                    os.unlink(os.path.join(self._folder, name))
            return
        record = contents.record_of_same(self._units.about)
        if record and record.units:
            self._parts = [part for unit in record.units for part in unit.parts]
            self._units.keep(record)  # before a part can have the name of one that is lost
            self.made = record.made
        self.made_records = _count_records(self._parts)
        kept = {part["name"] for part in self._parts}
        gone = {name for name in names if is_part(name) or is_leftover(name)} - kept
        for name in [*sorted(gone), *([] if kept or record is None else [RECORD])]:
            os.unlink(os.path.join(self._folder, name))
        self._number = 1 + max((int(name[5:10]) for name in kept), default=-1)
        if kept and self._chosen.name == "parquet":
            from mmgevent.job.outputs.parquet import ParquetRows

            assert isinstance(self._encode, ParquetRows)
            self._encode.go_on_with(os.path.join(self._folder, min(kept)))
        self._old = None

    def _clear(self, old: list[str]) -> None:
        """Remove the results that were there, first of all what makes them look complete."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, SUCCESS))
            sync_folder(self._folder)
        for name in old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def _sync(self) -> None:
        """Wait until the names in the folder are safe."""
        sync_folder(self._folder)

    def _release(self) -> None:
        """Remove the lock, and a new folder in which nothing is."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, LOCK))
            os.close(lock)
        if self._is_new and not self._parts:
            with contextlib.suppress(OSError):  # others have put something there
                os.rmdir(self._folder)

    @contextlib.contextmanager
    def _explained(self, file: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self._name}{file}: {error.strerror or error}") from error


def _count_records(parts: list[dict[str, Any]]) -> int:
    return sum(part["records"] for part in parts)
