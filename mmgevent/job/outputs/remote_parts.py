"""Parts that executors write into a folder of an object store: both sides of it.

An executor sends an object under a temporary name. The driver lets the store copy it to its name,
which appears as a whole, and removes the temporary one.
"""

from __future__ import annotations

import contextlib
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.destinations import WholeFile
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.remote_objects import SLOWEST_BYTES, RemoteFile, answered, open_store
from mmgevent.job.remote.deadlines import ANSWER_S, LISTING_S


class RemoteNames:
    """The objects of a folder, for the driver. All methods raise RemoteError, an OSError."""

    def __init__(self, system: Any, folder: str):
        self._system = system
        self._folder = folder

    def left_behind(self, plan: PartsPlan) -> list[str]:
        """Return the names of this run's temporary objects: there is no lock that keeps others away."""
        found = answered(LISTING_S, self._system, self._find)
        names = [name[len(self._folder) + 1 :] for name in found if name.startswith(f"{self._folder}/")]
        return [name for name in names if plan.is_temporary(name)]

    def create(self, name: str) -> None:
        """Make an empty object."""
        answered(ANSWER_S, self._system, self._system.pipe_file, self._path(name), b"")

    def size(self, name: str) -> int:
        """Return the size of an object, bytes."""
        self._system.invalidate_cache()
        return int(answered(ANSWER_S, self._system, self._system.info, self._path(name))["size"])

    def rename(self, old: str, new: str) -> None:
        """Give an object another name."""
        limit_s = ANSWER_S + self.size(old) / SLOWEST_BYTES
        answered(limit_s, self._system, self._system.cp_file, self._path(old), self._path(new))
        self.remove(old)

    def remove(self, name: str) -> None:
        """Remove an object."""
        answered(ANSWER_S, self._system, self._system.rm_file, self._path(name))

    def _find(self) -> list[str]:
        self._system.invalidate_cache()
        names: list[str] = self._system.find(self._folder)
        return names

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


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
