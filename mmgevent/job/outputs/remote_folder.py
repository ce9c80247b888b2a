"""Write results into a folder of an object store: part files, and `_SUCCESS` once all are there.

1. `_SUCCESS` is sent last. One that was there is removed before anything is sent, old parts once
   the first new one is there.
2. There is no lock: stores have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.job.outputs.destinations import WholeFile
from mmgevent.job.outputs.folder import FolderSink
from mmgevent.job.outputs.folder_files import FolderFiles
from mmgevent.job.outputs.folder_names import SUCCESS, is_record
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.remote_objects import RemoteFile, open_store
from mmgevent.job.outputs.remote_parts import FolderObjects
from mmgevent.job.remote.urls import schemes_of


class RemoteFolderSink(FolderSink):
    """Takes records one by one, and sends the parts of a folder."""

    def _find(self) -> tuple[FolderFiles, str]:
        self._system, path = open_store(self._name)
        folder = path.rstrip("/")
        return FolderObjects(self._system, folder), folder

    def _open_file(self, name: str, before_naming: Callable[[], None] | None = None) -> WholeFile:
        file = RemoteFile(f"{self._name}{name}", self._system, f"{self._folder}/{name}", before_naming)
        if before_naming is not None:
            self._file = file
        return file

    def _make_room(self) -> None:
        """Remove what makes old results look complete, and the record of them: a new one has its name."""
        if self._had_success:
            self._files.remove(SUCCESS)
            self._had_success = False
        for name in [each for each in self._old or () if is_record(each)]:
            self._files.remove(name)
        if self._old is not None:
            self._old = [each for each in self._old if not is_record(each)]

    def plan_parts(self) -> PartsPlan | None:
        """Return what `submit` needs so that executors write parts; None if they cannot."""
        return None if "memory" in schemes_of(self._name) else super().plan_parts()

    def _address(self) -> str:
        return self._name

    def _note_parts(self, parts: list[dict[str, Any]]) -> None:
        super()._note_parts(parts)
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the parts that were there, now that there is a new one."""
        old, self._old = self._old or [], None
        new = self._parts.names
        for name in old:
            if name not in new:
                with self._explained(name):
                    self._files.remove(name)
