"""What is in a folder before a run writes into it, and whether it may."""

from __future__ import annotations

import json
import os
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.folder_lock import LOCK
from mmgevent.job.outputs.folder_names import SUCCESS, is_leftover, is_ours, is_part
from mmgevent.job.outputs.formats import short
from mmgevent.job.outputs.record import (
    RECORD,
    About,
    FolderRecord,
    are_there,
    find_difference,
    is_about,
    read_record,
)

_OVERWRITE = "--overwrite, overwrite=True"


def check_names(name: str, names: list[str], overwrite: bool) -> list[str]:
    """Return what to remove: parts, and what killed runs left.

    Raise OutputError if something is there that may not be removed.
    """
    found = [each for each in names if each not in (LOCK, RECORD) and not is_leftover(each)]
    if found and not overwrite:
        advice = " or finish what an earlier run began: --resume;" if RECORD in names else ""
        raise OutputError(
            f"cannot write {name}: the folder is not empty ({short(found[0])}); name another,{advice} or "
            f"overwrite the results in it: {_OVERWRITE}"
        )
    return [each for each in names if is_ours(each) and each not in (LOCK, SUCCESS)]


class Contents:
    """The names in a folder of this machine."""

    def __init__(self, folder: str, name: str):
        """`name`: the folder as the user wrote it. Raise OutputError if a folder has a name of ours."""
        self._folder = folder
        self._name = name
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        for each in sorted(names):
            if is_ours(each) and names[each]:
                raise OutputError(f"cannot write {name}: {each} in it is a folder; remove it first")
        #: all of them, in order
        self.names = sorted(names)

    def check(self, overwrite: bool) -> list[str]:
        """See `check_names`."""
        return check_names(self._name, self.names, overwrite)

    def parts_of_same(self, about: About) -> list[dict[str, Any]]:
        """Return the parts of a complete folder. Raise OutputError unless this job has made them."""
        with open(os.path.join(self._folder, SUCCESS), "rb") as file:
            try:
                told = json.load(file)
                before, parts = told["fingerprint"], told["parts"]
            except (ValueError, KeyError, TypeError):
                before = None
        if not is_about(before):
            raise self._refusal(f"its {SUCCESS} does not say what made it")
        self._check_same(before, about)
        if not are_there(self._folder, parts):
            raise self._refusal(f"its {SUCCESS} names a part that is lost or has changed")
        return parts  # type: ignore[no-any-return]

    def record_of_same(self, about: About) -> FolderRecord | None:
        """Return what is recorded of parts that are there. Raise OutputError if another job made them."""
        record = read_record(self._folder) if RECORD in self.names else None
        if record is not None:
            self._check_same(record.about, about)
            return record.without_lost(self._folder)
        if any(map(is_part, self.names)):
            raise self._refusal("its parts have no record of what made them")
        return None

    def _check_same(self, before: About, now: About) -> None:
        difference = find_difference(before, now)
        if difference is not None:
            raise self._refusal(f"another job made what is there: {difference}")

    def _refusal(self, why: str) -> OutputError:
        return OutputError(
            f"cannot resume {self._name}: {why}; name another folder, or begin anew: {_OVERWRITE}"
        )
