"""What a program can do with the results of a job, beside reading them one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, Generic

from mmgevent.job.job import Job, K, V


class Readable(Generic[K, V]):
    """The results of a job, for everything that takes all of them."""

    def stream(self) -> Iterator[tuple[K, V]]:
        """Return an iterator over the records."""
        raise NotImplementedError

    def _job(self) -> Job[K, V]:
        """Return the job."""
        raise NotImplementedError

    def write(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        columns: str | Iterable[str] | None = None,
        sort: str | None = None,
        top: int | None = None,
        overwrite: bool = False,
        part_size: int | str | None = None,
    ) -> int:
        """Wait for the job, write its results to a file or folder, and return their number.

        A file replaces another one when all is written. A path that ends in / is a folder of parts,
        whose `_SUCCESS` is written last: both as `mmg-run -o` does. The results are given out by
        this, as by `stream`.

        `format`: "tsv", "jsonl", "csv", "pickle", with ".gz", ".bz2", ".xz" or ".zst" behind it to
        compress. By default the suffixes of `path` decide.
        `columns`: names for the columns of csv.
        `sort`: "key", "-key", "value", "-value", where - is for the largest first.
        `top`: how many records to keep; those of the largest values, unless `sort` is given.
        `overwrite`: replace the results in a folder; otherwise one that is not empty is refused.
        `part_size`: size of the parts of a folder before compression, such as "64MiB".

        Raises:

        - OutputError or UsageError for what is wrong with the arguments, at once; the job goes on;
        - OutputError for a record that cannot be written or ordered; the job is cancelled;
        - the errors of `result`.
        """
        from mmgevent.job.options import parse_memory
        from mmgevent.job.outputs.opening import describe_job, open_output  # rarely needed
        from mmgevent.job.outputs.order import choose_order, put_in_order

        order = choose_order(sort, top)
        output = open_output(
            path,
            format,
            columns=columns,
            overwrite=overwrite,
            part_bytes=parse_memory(part_size),
            about=describe_job(self._job(), sort, top),
        )
        count = 0
        with output as sink, closing(self.stream()) as records:  # type: ignore[type-var] # it is a generator
            ordered: Iterable[tuple[Any, Any]] = records if order is None else put_in_order(records, order)
            for key, value in ordered:
                sink.write(key, value)
                count += 1
        return count
