"""Take over the parts that executors have written into a folder, in the driver.

1. A file of an executor has its temporary name until the results of its task were committed and
   have arrived here as a receipt. The driver alone gives it the name of a part. So no part appears
   twice or half, however often the task ran.
2. At the end the token is removed first, then what is left of tasks that did not count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.outputs.folder_files import FolderFiles
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.receipts import Receipt


class Adoption:
    """What the executors of one run write."""

    def __init__(self, files: FolderFiles, plan: PartsPlan):
        """Put the token into the folder. Raise OSError."""
        self.plan = plan
        #: partitions whose results are in parts that were taken over
        self.partitions: set[int] = set()
        self._files = files
        files.create(plan.token_name)

    @staticmethod
    def make_token() -> str:
        """Return a token that nobody can know."""
        return os.urandom(8).hex()

    def take(
        self,
        receipt: Receipt,
        next_name: Callable[[], str],
        before_last: Callable[[list[dict[str, Any]]], None],
    ) -> list[dict[str, Any]]:
        """Give the files of a receipt their names; return what `_SUCCESS` says of them.

        `before_last`: called with that before the last one has its name. Raise OSError, and
        OutputError for a file that is not as its executor left it.
        """
        for file in receipt.files:
            self._check(file.name, file.size)
        parts: list[dict[str, Any]] = [
            {"name": next_name(), "records": file.records, "bytes": file.size} for file in receipt.files
        ]
        for file, part in zip(receipt.files, parts, strict=True):
            if part is parts[-1]:
                before_last(parts)
            self._files.rename(file.name, part["name"])
        self.partitions.update(receipt.partitions)
        return parts

    def close(self) -> None:
        """Remove the token, and what counts no more. Raise OSError."""
        self._files.remove(self.plan.token_name)
        for name in self._files.left_behind(self.plan):
            self._files.remove(name)

    def _check(self, name: str, size: int) -> None:
        try:
            found = self._files.size(name)
        except OSError as error:
            raise OutputError(
                f"cannot write {self.plan.name}: a part that a worker has written, {name}, is lost "
                f"({error.strerror or error}); run the job again"
            ) from error
        if found != size:
            raise OutputError(
                f"cannot write {self.plan.name}: a part that a worker has written, {name}, has {found:,} bytes and not "
                f"{size:,}; run the job again"
            )
