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
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import Replacement, WholeFile
from mmgevent.job.outputs.folder_lock import LOCK, lock_folder, make_folder, sync_folder
from mmgevent.job.outputs.formats import OutputFormat, short
from mmgevent.job.outputs.record import (
    RECORD,
    About,
    FolderRecord,
    are_there,
    find_difference,
    is_about,
    read_record,
)
from mmgevent.job.outputs.sinks import Encoder, Sink, log_warning, make_sink
from mmgevent.job.outputs.units import Units

SUCCESS = "_SUCCESS"

#: Size of a part before it is compressed, bytes. Tools that read parts in parallel like such sizes.
PART_BYTES = 128 * 1024 * 1024

#: Most parts: their numbers have five digits, and sort as their names do.
MAX_PARTS = 100_000

_OVERWRITE = "--overwrite, overwrite=True"

#: Names of files that a run leaves or may have left.
_PART = re.compile(r"part-\d{5}\.(tsv|jsonl|csv|pkl|parquet)(\.(gz|bz2|xz|zst))?", re.ASCII)
#: Of temporary files of folders alone. A run that writes a single file into the folder has others.
_TEMPORARY_PREFIX = ".mmg-part-"
_LEFTOVER = re.compile(r"\.mmg-part-[0-9a-f]{16}\.tmp", re.ASCII)


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
    ):
        """Make the folder if it is not there, and lock it.

        `name`: the folder as the user wrote it, with a / at its end. `about`: more for `_SUCCESS`.
        `fingerprint`: what makes the results; None if that is not known, so that nothing is
        recorded. `resume`: keep the partitions that the same job has made: see `made`.

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
        self._part: Sink | None = None
        self._file: WholeFile | None = None  # that the part is written to
        self._records = 0  # of this part
        self._written_bytes = 0  # of this part, before they are compressed
        self._parts: list[dict[str, Any]] = []
        self._number = 0  # of the next part
        self._old: list[str] = []  # parts that were there, and what killed runs left
        self._has_cleared = False
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
                names = self._list_contents()
                if resume:
                    self._continue(names)
                else:
                    self._check_contents(names, overwrite)
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
        """Write one record; raise OutputError as `Sink` does."""
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
        if self._units is not None:
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
        self._release()
        if self._parts:
            advice = "; --resume makes the rest" if self._is_recorded else ""
            self._warn(
                f"{self._name} is not complete: it has {len(self._parts)} parts, and no {SUCCESS}{advice}"
            )

    # parts

    def _open_part(self) -> Sink:
        if self._number >= MAX_PARTS:
            raise OutputError(
                f"cannot write {self._name}: the results need more than {MAX_PARTS} parts; choose a larger part size"
            )
        with self._explained():
            file = self._open_file(self._part_name(), self._prepare)
        if self._units is not None:
            self._units.begin_part()
        return make_sink(self._chosen, self._encode, file, self._header)

    def _part_name(self) -> str:
        return f"part-{self._number:05}{self._chosen.suffix}"

    def _finish_part(self) -> None:
        assert self._part is not None
        self._part.commit()
        self._parts.append(self._describe_part())
        if self._units is not None:
            self._units.add_part(self._parts[-1])
        self._number += 1
        self._part, self._records, self._written_bytes = None, 0, 0

    def _finish_unit(self) -> None:
        """Finish the part: its last partition ends with it."""
        if self._part is not None and self._units is not None:  # or the partitions have no records
            self._units.end()
            self._finish_part()

    def _describe_part(self) -> dict[str, Any]:
        assert self._file is not None
        return {"name": self._part_name(), "records": self._records, "bytes": self._file.size}

    def _prepare(self) -> None:
        """Do what must be on the disk before a part has its name."""
        if not self._has_cleared:
            self._clear()
            self._has_cleared = True
        if self._units is not None:
            self._units.record_end(self._describe_part())

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
            temporary_prefix=_TEMPORARY_PREFIX,
        )
        if before_naming is not None:
            self._file = file
        return file

    def _describe(self) -> bytes:
        """Return the text of `_SUCCESS`."""
        from mmgevent.wire.hello import VERSION, describe_python  # not needed before

        told = {
            "records": _count_records(self._parts),
            "parts": self._parts,
            "format": self._chosen.suffix[1:],
            "mmgevent": VERSION,
            "python": describe_python(),
            **self._about,
        }
        if self._units is not None:
            told["fingerprint"] = self._units.about
        return (json.dumps(told, indent=1, default=repr) + "\n").encode()

    # the folder

    def _list_contents(self) -> list[str]:
        """Return all names. Raise OutputError if a folder has one of ours."""
        with os.scandir(self._folder) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        for name in sorted(names):
            if _is_ours(name) and names[name]:
                raise OutputError(f"cannot write {self._name}: {name} in it is a folder; remove it first")
        return sorted(names)

    def _check_contents(self, names: list[str], overwrite: bool) -> None:
        """Raise OutputError if something is there that may not be removed."""
        found = [name for name in names if name not in (LOCK, RECORD) and not _LEFTOVER.fullmatch(name)]
        if found and not overwrite:
            advice = " or finish what an earlier run began: --resume;" if RECORD in names else ""
            raise OutputError(
                f"cannot write {self._name}: the folder is not empty ({short(found[0])}); name another,{advice} or "
                f"overwrite the results in it: {_OVERWRITE}"
            )
        self._old = [name for name in names if _is_ours(name) and name not in (LOCK, SUCCESS)]

    def _continue(self, names: list[str]) -> None:
        """Keep what the same job has made; remove what is not whole. Raise OutputError for another job."""
        if SUCCESS in names:
            self._check_complete()
            self.is_complete = True
            self.made_records = _count_records(self._parts)
            for name in names:
                if name == RECORD or _LEFTOVER.fullmatch(name):
                    os.unlink(os.path.join(self._folder, name))
            return
        assert self._units is not None
        record = read_record(self._folder) if RECORD in names else None
        if record is None and any(map(_PART.fullmatch, names)):
            raise self._refusal("its parts have no record of what made them")
        if record is not None:
            self._check_same(record.about)
            record = record.without_lost(self._folder)
        if record and record.units:
            self._parts = [part for unit in record.units for part in unit.parts]
            self._units.keep(record)  # before a part can have the name of one that is lost
            self.made = record.made
        self.made_records = _count_records(self._parts)
        kept = {part["name"] for part in self._parts}
        gone = {name for name in names if _PART.fullmatch(name) or _LEFTOVER.fullmatch(name)} - kept
        for name in [*sorted(gone), *([] if kept or record is None else [RECORD])]:
            os.unlink(os.path.join(self._folder, name))
        self._number = 1 + max((int(name[5:10]) for name in kept), default=-1)
        if kept and self._chosen.name == "parquet":
            from mmgevent.job.outputs.parquet import ParquetRows

            assert isinstance(self._encode, ParquetRows)
            self._encode.go_on_with(os.path.join(self._folder, min(kept)))
        self._has_cleared = True

    def _check_complete(self) -> None:
        """Raise OutputError unless the folder is complete, and this job has made it."""
        with open(os.path.join(self._folder, SUCCESS), "rb") as file:
            try:
                told = json.load(file)
                about, self._parts = told["fingerprint"], told["parts"]
            except (ValueError, KeyError, TypeError):
                about = None
        if not is_about(about):
            raise self._refusal(f"its {SUCCESS} does not say what made it")
        self._check_same(about)
        if not are_there(self._folder, self._parts):
            raise self._refusal(f"its {SUCCESS} names a part that is lost or has changed")

    def _check_same(self, before: About) -> None:
        assert self._units is not None
        difference = find_difference(before, self._units.about)
        if difference is not None:
            raise self._refusal(f"another job made what is there: {difference}")

    def _refusal(self, why: str) -> OutputError:
        return OutputError(
            f"cannot resume {self._name}: {why}; name another folder, or begin anew: {_OVERWRITE}"
        )

    def _clear(self) -> None:
        """Remove the results that were there, first of all what makes them look complete."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, SUCCESS))
            sync_folder(self._folder)
        for name in self._old:
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


def _is_ours(name: str) -> bool:
    return name in (SUCCESS, LOCK, RECORD) or bool(_PART.fullmatch(name) or _LEFTOVER.fullmatch(name))
