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
7. Parts of Parquet get one schema before `_SUCCESS` is written (see `part_schemas`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.adoption import Adoption
from mmgevent.job.outputs.contents import Contents
from mmgevent.job.outputs.destinations import Replacement, WholeFile
from mmgevent.job.outputs.folder_files import FolderFiles, LocalFiles
from mmgevent.job.outputs.folder_names import SUCCESS, is_leftover, is_part, is_record
from mmgevent.job.outputs.formats import OutputFormat
from mmgevent.job.outputs.part_list import PartList
from mmgevent.job.outputs.parts_plan import TEMPORARY_PREFIX, PartsPlan
from mmgevent.job.outputs.receipts import Receipt
from mmgevent.job.outputs.record import About
from mmgevent.job.outputs.rows import RowEncoder
from mmgevent.job.outputs.sinks import Encoder, Sink, log_warning, make_sink
from mmgevent.job.outputs.success import count_records, describe_success
from mmgevent.job.outputs.units import Units

#: Size of a part before it is compressed, bytes. Tools that read parts in parallel like such sizes.
PART_BYTES = 128 * 1024 * 1024


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
        self._warn = warn or log_warning
        self._files, self._folder = self._find()
        self._chosen = chosen
        self._encode = encode
        self._header = header
        self._part_bytes = part_bytes
        self._about = about or {}
        self._draft = draft
        self._adoption: Adoption | None = None
        self._part: Sink | None = None
        self._file: WholeFile | None = None  # that the part is written to
        self._records = 0  # of this part
        self._written_bytes = 0  # of this part, before they are compressed
        self._parts = PartList(name, chosen, self._files)
        self._part_name = ""  # of the part that is open
        #: parts that were there, and what killed runs left; None once they are removed
        self._old: list[str] | None = []
        self._is_over = self._had_success = False
        #: None if nothing is recorded
        self._units = None if fingerprint is None else Units(self._files, fingerprint)
        self._enter(overwrite, resume)

    def _find(self) -> tuple[FolderFiles, str]:
        """Return the files of the folder, and where it is."""
        folder = os.path.realpath(self._name)
        return LocalFiles(folder, self._name, self._warn), folder

    def _enter(self, overwrite: bool, resume: bool) -> None:
        """Make the folder ours, and look at what is there."""
        with self._explained():
            self._files.enter()
        try:
            with self._explained():
                contents = Contents(self._files, self._name)
                if resume:
                    self._continue(contents)
                else:
                    self._old = contents.check(overwrite)
                    self._had_success = SUCCESS in contents.names
        except BaseException:
            self._files.leave(has_parts=bool(self._parts))
            raise
        if self.is_complete:
            self._is_over = True
            self._files.leave(has_parts=bool(self._parts))

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
            self._parts.make_schemas_equal(self._write_file)
        with self._explained(SUCCESS):
            self._files.sync()
            about = None if self._units is None else self._units.about
            self._write_file(
                SUCCESS,
                lambda write: write(
                    memoryview(describe_success(self._parts.described, self._chosen, self._about, about))
                ),
            )
            self._files.sync()
            if self._is_recorded:
                self._files.remove_record()
        self._is_over = True
        self._files.leave(has_parts=bool(self._parts))

    def abort(self) -> None:
        """Drop the part that is not whole. The others stay, without `_SUCCESS`."""
        if self._is_over:
            return
        self._is_over = True
        if self._part is not None:
            self._part.abort()
        with contextlib.suppress(OSError):  # what is left of it, a later run removes
            self._end_adoption()
        self._files.leave(has_parts=bool(self._parts))
        if self._parts:
            advice = "; --resume makes the rest" if self._is_recorded else ""
            self._warn(
                f"{self._name} is not complete: it has {len(self._parts)} parts, and no {SUCCESS}{advice}"
            )

    # parts

    def _open_part(self) -> Sink:
        self._part_name = self._parts.next_name()
        with self._explained():
            file = self._open_file(self._part_name, self._prepare)
        if self._units is not None:
            self._units.begin_part()
        return make_sink(self._chosen, self._encode, file, self._header)

    def _finish_part(self) -> None:
        assert self._part is not None
        self._part.commit()
        part = self._describe_part()
        self._note_parts([part])
        if self._units is not None:
            self._units.add_part(part)
        self._part, self._records, self._written_bytes = None, 0, 0

    def _note_parts(self, parts: list[dict[str, Any]]) -> None:
        """Note that parts have their names. Raise OutputError if their types do not go with those of others."""
        with self._explained():
            self._parts.add(parts)

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

    def _write_file(self, name: str, fill: Callable[[Callable[[memoryview], None]], None]) -> int:
        """Write a whole file, in place of one that is there; return its size in bytes."""
        file = self._open_file(name)
        try:
            fill(file.write)
            file.commit()
        finally:
            file.abort()
        return file.size

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

    # parts of executors

    def plan_parts(self) -> PartsPlan | None:
        """Return what `submit` needs so that executors write parts; None if they cannot."""
        if self._is_over or self._draft is None:
            return None
        with self._explained():
            self._adoption = Adoption(
                self._files,
                self._draft._replace(
                    folder=self._address(), token=Adoption.make_token(), part_bytes=self._part_bytes
                ),
            )
        return self.plan

    @property
    def plan(self) -> PartsPlan | None:
        """Return what `plan_parts` has returned; None before it, and if executors write nothing."""
        return None if self._adoption is None else self._adoption.plan

    def _address(self) -> str:
        """Return where executors look for the folder."""
        return self._folder

    def _adopt(self, receipt: Receipt) -> None:
        assert self._adoption is not None, "nobody was asked to write parts"
        if receipt.shape is not None and isinstance(self._encode, RowEncoder):
            self._encode.check_shape(receipt.shape)

        def record(parts: list[dict[str, Any]]) -> None:
            if self._units is not None:
                self._units.add_unit(parts, receipt.partitions, receipt.of)

        with self._explained():
            self._make_room()
            self._note_parts(self._adoption.take(receipt, self._parts.next_name, record))

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
            self.is_complete = True
            self.made_records = count_records(contents.parts_of_same(self._units.about))
            for name in names:
                if is_record(name) or is_leftover(name):
                    self._files.remove(name)
            return
        record = contents.record_of_same(self._units.about)
        if record and record.units:
            self._parts.keep([part for unit in record.units for part in unit.parts])
            self._units.keep(record)  # before a part can have the name of one that is lost
            self.made = record.made
        self.made_records = count_records(self._parts.described)
        kept = self._parts.names
        gone = {name for name in names if is_part(name) or is_leftover(name)} - kept
        for name in sorted(gone):
            self._files.remove(name)
        if record is not None and not kept:
            self._files.remove_record()
        if columns := self._parts.columns:
            from mmgevent.job.outputs.parquet import ParquetRows

            assert isinstance(self._encode, ParquetRows)
            self._encode.go_on_with(columns)
        self._old = None

    def _clear(self, old: list[str]) -> None:
        """Remove the results that were there, first of all what makes them look complete."""
        if self._had_success:
            self._files.remove(SUCCESS)
            self._files.sync()
        for name in old:
            self._files.remove(name)

    @contextlib.contextmanager
    def _explained(self, file: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self._name}{file}: {error.strerror or error}") from error
