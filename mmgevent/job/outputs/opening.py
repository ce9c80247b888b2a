"""Open what results are written to: a stream, a file, or a folder of parts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from mmgevent.errors import OutputError
from mmgevent.job.job import Job
from mmgevent.job.outputs.formats import choose_format
from mmgevent.job.outputs.sinks import Sink, make_encoder, open_sink


def open_output(
    path: str | os.PathLike[str] | None,
    format: str | None = None,
    stream: BinaryIO | Any = None,
    *,
    columns: str | Iterable[str] | None = None,
    overwrite: bool = False,
    part_bytes: int | None = None,
    about: dict[str, Any] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Sink:
    """Return the sink for a path; one that ends in / is a folder of parts.

    `overwrite`: replace the results in the folder. `part_bytes`: size of its parts. `about`: what
    its `_SUCCESS` says beside counts and versions. See `open_sink` for the rest.

    Raise OutputError for whatever is wrong.
    """
    name = None if path is None else os.fspath(path)
    if name is None or stream is not None or not name.endswith(os.sep):
        if overwrite or part_bytes is not None:
            raise OutputError(
                f"{'overwriting' if overwrite else 'the size of parts'} is for folders, whose path ends in /: "
                f"-o FOLDER/; a file is replaced in any case"
            )
        return open_sink(name, format, stream, columns=columns, warn=warn)
    from mmgevent.job.outputs.folder import PART_BYTES, FolderSink  # rarely needed

    chosen = choose_format(None, format)
    encode, header = make_encoder(chosen, columns)
    return FolderSink(
        name, chosen, encode, header,
        part_bytes=part_bytes or PART_BYTES, overwrite=overwrite, about=about, warn=warn,
    )  # fmt: skip


def describe_job(job: Job[Any, Any], sort: str | None, top: int | None) -> dict[str, Any]:
    """Return what `_SUCCESS` says of a job."""
    about: dict[str, Any] = {"job": job.name, "options": _options_of(job), "sort": sort, "top": top}
    if job.previous is not None:
        about["stages"] = [_options_of(stage) for stage in job.stages]
    return about


def _options_of(job: Job[Any, Any]) -> dict[str, Any]:
    return {field.name: getattr(job.options, field.name) for field in dataclasses.fields(job.options)}
