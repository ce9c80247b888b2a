"""What is in a folder before a run writes into it, and whether it may."""

from __future__ import annotations

import json
import os
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.folder_files import FolderFiles, LocalFiles
from mmgevent.job.outputs.folder_lock import LOCK
from mmgevent.job.outputs.folder_names import SUCCESS, is_leftover, is_ours, is_part, is_record
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.record import (
    RECORD,
    About,
    FolderRecord,
    Made,
    are_there,
    find_difference,
    is_about,
    is_part_entry,
)
from mmgevent.job.outputs.sinks import log_warning
from mmgevent.job.remote.urls import is_remote, without_password

_OVERWRITE = "--overwrite, overwrite=True"


def check_names(name: str, names: list[str], overwrite: bool) -> list[str]:
    """Return what to remove: parts, and what killed runs left.

    Raise OutputError if something is there that may not be removed.
    """
    found = [each for each in names if each != LOCK and not is_record(each) and not is_leftover(each)]
    if found and not overwrite:
        advice = " or finish what an earlier run began: --resume;" if RECORD in names else ""
        raise OutputError(
            f"cannot write {name}: the folder is not empty ({short(found[0])}); name another,{advice} or "
            f"overwrite the results in it: {_OVERWRITE}"
        )
    return [each for each in names if is_ours(each) and each not in (LOCK, SUCCESS)]


class Contents:
    """What is in a folder."""

    def __init__(self, files: FolderFiles, name: str):
        """`name`: the folder as the user wrote it. Raise OutputError if a folder has a name of ours."""
        self._files = files
        self._name = name
        entries = files.entries()
        for each in sorted(entries):
            if is_ours(each) and entries[each].is_folder:
                raise OutputError(f"cannot write {name}: {each} in it is a folder; remove it first")
        self._sizes = {each: entry.size for each, entry in entries.items()}
        #: all of them, in order
        self.names = sorted(entries)

    def check(self, overwrite: bool) -> list[str]:
        """See `check_names`."""
        return check_names(self._name, self.names, overwrite)

    def parts_of_same(self, about: About) -> list[dict[str, Any]]:
        """Return the parts of a complete folder. Raise OutputError unless this job has made them."""
        try:
            told = json.loads(self._files.read(SUCCESS))
            before, parts = told["fingerprint"], told["parts"]
        except (ValueError, KeyError, TypeError):
            before = parts = None
        if not is_about(before) or type(parts) is not list or not all(map(is_part_entry, parts)):
            raise self._refusal(f"its {SUCCESS} does not say what made it")
        self._check_same(before, about)
        if not are_there(self._sizes, parts):
            raise self._refusal(f"its {SUCCESS} names a part that is lost or has changed")
        return parts

    def record_of_same(self, about: About) -> FolderRecord | None:
        """Return what is recorded of parts that are there. Raise OutputError if another job made them."""
        record = self._files.read_record() if RECORD in self.names else None
        if record is not None:
            self._check_same(record.about, about)
            return record.without_lost(self._sizes)
        if any(map(is_part, self.names)):
            raise self._refusal("its parts have no record of what made them")
        return None

    def made(self) -> Made | None:
        """Return which partitions are there, whatever has made them; None if that is not recorded."""
        record = self._files.read_record() if RECORD in self.names else None
        kept = None if record is None else record.without_lost(self._sizes)
        return kept.made if kept and kept.units else None

    def _check_same(self, before: About, now: About) -> None:
        difference = find_difference(before, now)
        if difference is not None:
            raise self._refusal(f"another job made what is there: {difference}")

    def _refusal(self, why: str) -> OutputError:
        return OutputError(
            f"cannot resume {self._name}: {why}; name another folder, or begin anew: {_OVERWRITE}"
        )


def find_made(folder: str | os.PathLike[str]) -> Made | None:
    """Return which partitions are in a folder, None if that is not recorded. Raise OutputError."""
    name = os.fspath(folder)
    try:
        files = _files_of(name)
        return None if files is None else Contents(files, name).made()
    except OSError as error:
        raise OutputError(f"cannot read {without_password(name)}: {error.strerror or error}") from error


def _files_of(name: str) -> FolderFiles | None:
    """Return the files of a folder, None if it is not there."""
    if is_remote(name):
        from mmgevent.job.outputs.remote_objects import open_store
        from mmgevent.job.outputs.remote_parts import FolderObjects

        system, path = open_store(name)
        return FolderObjects(system, path.rstrip("/"))
    return LocalFiles(name, name, log_warning) if os.path.isdir(name) else None
