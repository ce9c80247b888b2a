"""The output side of mmg-run: its options, and what writes the results."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mmgevent.cli.counts import positive_number
from mmgevent.cli.exits import StdoutClosed, say
from mmgevent.cli.options import Arguments, Option, memory_size
from mmgevent.cli.streams import Results
from mmgevent.errors import JobError, OutputError
from mmgevent.shown_text import shown

if TYPE_CHECKING:
    from mmgevent.cli.closing import Closing
    from mmgevent.driver.progress.reporters import Reporter
    from mmgevent.job.job import Job
    from mmgevent.job.outputs.sinks import Sink


def _order(text: str) -> str:
    from mmgevent.job.outputs.order import check_order  # rarely needed

    return check_order(text)


OUTPUT = Option(
    ("-o", "--output"),
    "PATH",
    "write results to a file, which appears only if the job succeeds; a FIFO, a device or /dev/fd/N "
    "receives results one by one; - is stdout, the default; FOLDER/, with the / at its end, receives part "
    "files, and _SUCCESS when the job has succeeded; either may be in a bucket: s3://bucket/FOLDER/",
)
FORMAT = Option(
    ("--format",),
    "F",
    "tsv, jsonl, csv or pickle, and .gz, .bz2, .xz or .zst after it to compress, as in tsv.gz; or parquet, "
    "which needs mmgevent[parquet] (default: by the suffixes of PATH, else tsv)",
)
COLUMNS = Option(
    ("--columns",),
    "NAME[,NAME...]",
    "names of the columns of csv, for its first line, and of parquet; a tuple is as many columns as it is long",
)
SORT = Option(
    ("--sort",),
    "ORDER",
    "sort the results by key, -key, value or -value, where - is for the largest first",
    _order,
)
TOP = Option(
    ("--top",),
    "N",
    "keep the first N results of that order only, without --sort those of the largest values",
    positive_number,
)
OVERWRITE = Option(
    ("--overwrite",),
    "",
    "with -o FOLDER/: replace the results that are in the folder; other files in it stay",
)
RESUME = Option(
    ("--resume",),
    "",
    "with -o FOLDER/: go on where an earlier run of the same job ended, whatever ended it; parts that it "
    "finished stay, and the rest is made",
)
PART_SIZE = Option(
    ("--part-size",),
    "SIZE",
    'with -o FOLDER/: size of a part before compression, such as "64MiB" (default: 128MiB)',
    memory_size,
)
#: In the order of the help.
OPTIONS = (OUTPUT, FORMAT, COLUMNS, SORT, TOP, OVERWRITE, RESUME, PART_SIZE)


def open_sink(command: str, arguments: Arguments, results: Results, job: Job[Any, Any]) -> Sink:
    """Open what the results are written to. Raise OutputError for a path or format that is wrong."""
    from mmgevent.job.outputs.opening import open_output

    sink = open_output(
        results.current_path(),
        arguments.format,
        results.stream,
        columns=arguments.columns,
        overwrite=bool(arguments.overwrite),
        resume=bool(arguments.resume),
        part_bytes=arguments.part_size,
        job=job,
        sort=arguments.sort,
        top=arguments.top,
        warn=functools.partial(_warn, command, arguments),
    )
    if not arguments.quiet:
        _say_what_is_there(command, results, sink)
    return sink


def _say_what_is_there(command: str, results: Results, sink: Sink) -> None:
    path, made = results.current_path(), sink.made
    if sink.is_complete:
        say(command, f"{shown(str(path))} is complete: nothing is left to do")
    elif made is not None:
        say(
            command,
            f"{shown(str(path))} has {len(made.partitions)} of at most {made.of} partitions: the rest is made",
        )


def in_order(
    arguments: Arguments, records: Iterable[tuple[Any, Any]], reporter: Reporter
) -> Iterable[tuple[Any, Any]]:
    """Return the records in the order that the options ask for."""
    if arguments.sort is None and arguments.top is None:
        return records
    from mmgevent.job.outputs.order import choose_order, put_in_order

    order = choose_order(arguments.sort, arguments.top)
    assert order is not None
    return _with_output_errors(put_in_order(_noting(records, reporter, "sorting"), order))


def write(records: Iterable[tuple[Any, Any]], sink: Sink, reporter: Reporter, closing: Closing) -> None:
    """Write the records and make the output final. Raise StdoutClosed if its reader closed it."""
    if sink.plan is not None:
        from mmgevent.job.outputs.receipts import count_records  # others need not import it
    count = 0
    for key, value in records:
        if not count:
            reporter.note_output("writing")
            if sink.is_terminal:
                reporter.close()  # otherwise results would be written into the block
        with _translated_errors():
            sink.write(key, value)
        count += 1 if sink.plan is None else count_records(key)
        closing.written = reporter.results = count
    reporter.note_output("finishing")
    with _translated_errors():
        sink.commit()
    closing.written += sink.made_records


def _noting(records: Iterable[tuple[Any, Any]], reporter: Reporter, what: str) -> Iterator[tuple[Any, Any]]:
    """Yield the records, and let the reporter know how many there were."""
    reporter.note_output(what)
    for number, record in enumerate(records, 1):
        reporter.results = number
        yield record


def _warn(command: str, arguments: Arguments, text: str) -> None:
    if not arguments.quiet:
        say(command, f"warning: {shown(text)}")


def _with_output_errors(records: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    try:
        yield from records
    except OutputError as error:
        raise _job_error(error) from error


def _job_error(error: OutputError) -> JobError:
    """Return the error of a job that ran: it is no longer a usage error."""
    return JobError(str(error), {"kind": "output"})


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise StdoutClosed from None
    except OSError as error:
        raise JobError(f"cannot write the results: {error.strerror or error}", {"kind": "output"}) from error
    except OutputError as error:
        raise _job_error(error) from error
