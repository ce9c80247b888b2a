"""Write results into a folder of an object store: part files, and `_SUCCESS` once all are there.

1. `_SUCCESS` is sent last. One that was there is removed before anything is sent, old parts once
   the first new one is there.
2. There is no lock: stores have none. Nothing is recorded, and nothing is resumed.
"""

from __future__ import annotations

from collections.abc import Callable

from mmgevent.job.outputs.adoption import PartNames
from mmgevent.job.outputs.contents import check_names
from mmgevent.job.outputs.destinations import WholeFile
from mmgevent.job.outputs.folder import FolderSink
from mmgevent.job.outputs.folder_names import SUCCESS
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.receipts import Receipt
from mmgevent.job.outputs.remote_objects import RemoteFile, answered, check_bucket, open_store
from mmgevent.job.outputs.remote_parts import RemoteNames
from mmgevent.job.remote.deadlines import ANSWER_S, LISTING_S
from mmgevent.job.remote.urls import schemes_of


class RemoteFolderSink(FolderSink):
    """Takes records one by one, and sends the parts of a folder."""

    def _find(self) -> str:
        self._system, path = open_store(self._name)
        return path.rstrip("/")

    def _enter(self, overwrite: bool, resume: bool) -> None:
        assert not resume
        with self._explained():
            check_bucket(self._system, self._folder)
            found = answered(LISTING_S, self._system, self._list_objects)
        names = sorted(name[len(self._folder) :].lstrip("/") for name in found)
        self._old = check_names(self._name, [name for name in names if name], overwrite)
        self._has_success = SUCCESS in names

    def _list_objects(self) -> list[str]:
        self._system.invalidate_cache()
        names: list[str] = self._system.find(self._folder)
        return [name for name in names if name.startswith(f"{self._folder}/")]

    def _open_file(self, name: str, before_naming: Callable[[], None] | None = None) -> WholeFile:
        file = RemoteFile(f"{self._name}{name}", self._system, f"{self._folder}/{name}", before_naming)
        if before_naming is not None:
            self._file = file
        return file

    def _make_room(self) -> None:
        """Remove what makes old results look complete."""
        if self._has_success:
            self._remove(SUCCESS)
            self._has_success = False

    def plan_parts(self) -> PartsPlan | None:
        """Return what `submit` needs so that executors write parts; None if they cannot."""
        return None if "memory" in schemes_of(self._name) else super().plan_parts()

    def _place(self) -> tuple[str, PartNames]:
        return self._name, RemoteNames(self._system, self._folder)

    def _finish_part(self) -> None:
        super()._finish_part()
        self._remove_old()

    def _adopt(self, receipt: Receipt) -> None:
        super()._adopt(receipt)
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the parts that were there, now that there is a new one."""
        old, self._old = self._old or [], None
        new = {part["name"] for part in self._parts}
        for name in old:
            if name not in new:
                self._remove(name)

    def _remove(self, name: str) -> None:
        with self._explained(name):
            answered(ANSWER_S, self._system, self._system.rm_file, f"{self._folder}/{name}")

    def _sync(self) -> None:
        """An object that was sent is safe."""

    def _release(self) -> None:
        """Nothing was locked or made."""
