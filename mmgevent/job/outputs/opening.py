"""Open what results are written to: a stream, a file, or a folder of parts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from mmgevent.errors import OutputError, UsageError
from mmgevent.job.job import Job
from mmgevent.job.outputs.formats import BINARY_FORMATS, OutputFormat, choose_format
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.record import About
from mmgevent.job.outputs.sinks import Sink, check_libraries, make_encoder, open_sink
from mmgevent.job.remote.urls import is_remote, schemes_of, without_password


def open_output(
    path: str | os.PathLike[str] | None,
    format: str | None = None,
    stream: BinaryIO | Any = None,
    *,
    columns: str | Iterable[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    part_bytes: int | None = None,
    job: Job[Any, Any] | None = None,
    sort: str | None = None,
    top: int | None = None,
    about: dict[str, Any] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Sink:
    """Return the sink for a path; one that ends in / is a folder of parts.

    `overwrite`: replace the results in the folder. `resume`: keep what the same job has made there.
    `part_bytes`: size of its parts. `job`, `sort` and `top`: what is written, and in which order.
    `about`: what its `_SUCCESS` says beside counts and versions. See `open_sink` for the rest.

    Raise OutputError for whatever is wrong.
    """
    name = _checked_name(path)
    if name is None or stream is not None or not name.endswith(os.sep):
        if overwrite or resume or part_bytes is not None:
            what = "overwriting" if overwrite else "resuming" if resume else "the size of parts"
            raise OutputError(
                f"{what} is for folders, whose path ends in /: -o FOLDER/; a file is replaced in any case"
            )
        return open_sink(name, format, stream, columns=columns, warn=warn)
    from mmgevent.job.outputs.folder import PART_BYTES, FolderSink  # rarely needed

    make, is_lasting = FolderSink, True
    if is_remote(name):
        from mmgevent.job.outputs.remote_folder import RemoteFolderSink

        make, is_lasting = RemoteFolderSink, "memory" not in schemes_of(name)
        if resume and not is_lasting:
            raise OutputError(
                f"cannot resume {without_password(name)}: it ends with this process; begin anew: --overwrite, "
                f"overwrite=True"
            )
    if overwrite and resume:
        raise OutputError("--resume keeps the parts that are there, and --overwrite does not: leave one away")
    chosen = choose_format(None, format)
    if columns is not None:
        columns = tuple(columns.split(",") if isinstance(columns, str) else columns)  # it may be an iterator
    check_libraries(chosen)
    encode, header = make_encoder(chosen, columns)
    if job is not None:
        about = {**(about or {}), **describe_job(job, sort, top)}
    is_ordered = (sort, top) != (None, None)
    return make(
        name, chosen, encode, header,
        part_bytes=part_bytes or PART_BYTES, overwrite=overwrite, resume=resume, about=about, warn=warn,
        draft=None if job is None or is_ordered else _draft_plan(name, job, chosen, columns),
        fingerprint=_fingerprint(name, job, chosen, columns, is_ordered=is_ordered, needed=resume) if is_lasting else None,
    )  # fmt: skip


def _checked_name(path: str | os.PathLike[str] | None) -> str | None:
    name = None if path is None else os.fsdecode(path)
    if name is not None and "\0" in name:
        raise OutputError(f"cannot write {name!r}: no path has a NUL character in it")
    return name


def _draft_plan(
    name: str, job: Job[Any, Any], chosen: OutputFormat, columns: tuple[str, ...] | None
) -> PartsPlan | None:
    """Return how executors may write parts of the results, or None if they may not.

    Not with a finishfn, which runs in the driver. Not pickles of workers that are not trusted: whoever
    loads them runs what is in them. Nor their Parquet, which pyarrow reads in the driver.
    """
    is_unsafe = chosen.name in BINARY_FORMATS and job.options.results == "plain"
    if job.finishfn is not None or is_unsafe:
        return None
    return PartsPlan("", name, "", chosen.text, None if columns is None else list(columns), 0)


def _fingerprint(
    name: str,
    job: Job[Any, Any] | None,
    chosen: OutputFormat,
    columns: str | Iterable[str] | None,
    *,
    is_ordered: bool,
    needed: bool,
) -> About | None:
    """Return what a run must share with an earlier one to continue it, None if no run can.

    `needed`: raise UsageError instead of None, in one sentence.
    """
    from mmgevent.job.fingerprint import make_fingerprint

    try:
        if job is None:
            raise OutputError("it is not known which job the results are of")
        if job.previous is not None:
            raise OutputError("it is a job of several stages, which begins anew with its first one")
        if is_ordered:
            raise OutputError("results in order are written at the end, so no part of them is there before")
        if needed:
            job.check()
        if job.finish_form == "iterator":
            raise OutputError("finishfn is called once, with all results")
        names = ""
        if columns is not None:
            from mmgevent.job.outputs.rows import check_columns  # rarely needed

            names = ",".join(check_columns(columns))
        return make_fingerprint(
            job,
            is_cheap=not needed,
            folder=None if is_remote(name) else os.path.realpath(name),
            format=chosen.suffix[1:],
            columns=names,
        )
    except OutputError as error:
        if needed:
            raise OutputError(
                f"cannot resume {name}: {error}; leave --resume away, and begin anew with --overwrite"
            ) from error
    except UsageError:  # raised when the job is submitted
        if needed:
            raise
    return None


def describe_job(job: Job[Any, Any], sort: str | None, top: int | None) -> dict[str, Any]:
    """Return what `_SUCCESS` says of a job."""
    about: dict[str, Any] = {"job": job.name, "options": _options_of(job), "sort": sort, "top": top}
    if job.previous is not None:
        about["stages"] = [_options_of(stage) for stage in job.stages]
    return about


def _options_of(job: Job[Any, Any]) -> dict[str, Any]:
    return {field.name: getattr(job.options, field.name) for field in dataclasses.fields(job.options)}
