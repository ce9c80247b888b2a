"""What mmg-run keeps of a job beside its results: --job-log, --report, and what -v says at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmgevent.cli.closing import ON_STDERR
from mmgevent.cli.exits import print_out, say
from mmgevent.cli.options import Arguments, Option, refuse
from mmgevent.errors import OutputError
from mmgevent.shown_text import shown

if TYPE_CHECKING:
    from mmgevent.driver.log.file import LogFile
    from mmgevent.report.digest import Digest

#: Items and keys that -v names.
NAMED = 5

JOB_LOG = Option(
    ("--job-log",),
    "FILE.jsonl",
    "write what happens to the job, a line of JSON an event: tasks, slow and failed items, deaths, phases",
)
REPORT = Option(
    ("--report",),
    "FILE.html",
    "write a report of the job, also if it fails: slots over time, skew, slowest items, deaths, options; one file, "
    "no scripts",
)
REPORT_DIFF = Option(
    ("--report-diff",),
    "",
    "run nothing: compare two reports, mmg-run --report-diff A.html B.html, and print what differs",
    excludes="where",
)
OPTIONS = (JOB_LOG, REPORT, REPORT_DIFF)


@contextlib.contextmanager
def kept(command: str, arguments: Arguments) -> Iterator[LogFile | None]:
    """Give the log of the job that is about to run, or None; write the report and more at the end.

    Raises OutputError for paths that cannot be written.
    """
    is_verbose = bool(arguments.verbose) and not arguments.quiet
    _check_paths(arguments)
    report = None if arguments.report is None else os.path.realpath(arguments.report)
    if arguments.job_log is None and report is None and not is_verbose:
        yield None
        return
    from mmgevent.driver.log.file import LogFile
    from mmgevent.report.digest import Digest

    digest = Digest()
    needs_digest = report is not None or is_verbose
    path = None if arguments.job_log is None else os.path.abspath(arguments.job_log)
    log_file = LogFile(path, digest.add if needs_digest else None)
    try:
        yield log_file
    finally:
        log_file.close()
        if digest.head:
            if report is not None:
                _write_report(command, arguments, report, digest)
            if is_verbose:
                _say_largest(command, digest)


def print_differences(command: str, paths: list[str]) -> int:
    """Print what differs between two reports, and return 0. Raises UsageError for what is no report."""
    if len(paths) != 2:
        refuse(command, f"--report-diff compares two reports: expected A.html B.html, got {len(paths)} paths")
    from mmgevent.report.differences import compare
    from mmgevent.report.embedded import read_data

    print_out(compare(*map(read_data, paths)))
    return 0


def _check_paths(arguments: Arguments) -> None:
    """Raise OutputError if a path cannot be written, or two are the same."""
    given = [("--job-log", arguments.job_log), ("--report", arguments.report), ("-o", arguments.output)]
    if arguments.summary != ON_STDERR:
        given.append(("--summary", arguments.summary))
    seen: dict[str, str] = {}
    for option, path in given:
        if path is None:
            continue
        try:
            real = os.path.realpath(path)
        except FileNotFoundError:  # the working directory is gone
            if option == "-o":
                continue  # whoever opens it knows more
            raise OutputError(
                f"{option} {shown(path)} cannot be written: the working directory is gone; give an absolute path"
            ) from None
        if real in seen and not real.startswith("/dev/"):
            raise OutputError(f"{option} and {seen[real]} are the same file, {shown(path)}: give two")
        seen[real] = option
    if arguments.report is None:
        return
    folder = os.path.dirname(os.path.realpath(arguments.report))
    why = None
    if os.path.isdir(arguments.report):
        why = "it is a folder"
    elif os.path.exists(arguments.report) and not os.path.isfile(arguments.report):
        why = "it is no file"  # a device or a pipe, which the report would replace
    elif not os.path.isdir(folder):
        why = "its folder is not there"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = "its folder may not be written"
    if why is not None:
        raise OutputError(
            f"the report {shown(arguments.report)} cannot be written ({why}): give another path"
        )


def _write_report(command: str, arguments: Arguments, path: str, digest: Digest) -> None:
    """Write the report. The results matter more: what prevents it is said, and nothing else happens."""
    from mmgevent.report.page import make_page

    made = f"{path}.{os.getpid()}.tmp"
    try:
        with open(made, "x", encoding="utf-8") as file:  # a link that somebody made there is not followed
            file.write(make_page(digest.data()))
        os.replace(made, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(made)
        say(command, f"the report {path} cannot be written: {error.strerror or error}")
        return
    if not arguments.quiet:
        say(command, f"report: {path}")


def _say_largest(command: str, digest: Digest) -> None:
    slowest, largest = digest.slowest()[:NAMED], digest.largest()[:NAMED]
    lines = []
    if slowest:
        lines.append("slowest items:")
        lines += [f"  {each['seconds']:8.3f} s  {shown(each['key'])} ({each['phase']})" for each in slowest]
    if largest:
        lines.append("keys with the most values:")
        lines += [f"  {each['values']:>10,}  {shown(each['key'])}" for each in largest]
    if lines:
        say(command, "\n".join(lines))
