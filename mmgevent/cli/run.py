"""mmg-run: run the job of a job file and write the results to stdout or a file.

The engine process starts before the job file and its imports are loaded, so that both happen at the
same time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import format_address
from mmgevent.cli import job_records, outputs, replay, shared
from mmgevent.cli.closing import Closing
from mmgevent.cli.clusters import can_grow, is_inline, open_cluster, others_take_part
from mmgevent.cli.exits import FAULT, leave, run_command, say
from mmgevent.cli.options import Arguments, parse, refuse
from mmgevent.cli.progress import open_reporter
from mmgevent.cli.run_options import COMMAND, NAME
from mmgevent.cli.streams import Results, claim_results
from mmgevent.errors import MmgeventError
from mmgevent.shown_text import shown

if TYPE_CHECKING:
    from mmgevent.driver.base_cluster import BaseCluster
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.log.file import LogFile
    from mmgevent.driver.progress.reporters import Reporter
    from mmgevent.job.job import Job


def main() -> None:
    """Run the command mmg-run."""
    gc.disable()  # until `_load_job`: imports make hardly any garbage
    leave(run_command(NAME, run, None))


def run(argv: Sequence[str]) -> int:
    """Run one job as the command line says; return 0 if it is done, else raise."""
    arguments = parse(COMMAND, argv, os.environ)
    if arguments.report_diff:
        return job_records.print_differences(NAME, arguments.rest)
    if arguments.attach:
        from mmgevent.cli.attaching import attach_to_mine

        return attach_to_mine(NAME, arguments)
    if not arguments.rest and not arguments.replay:
        refuse(NAME, "no job file: expected mmg-run [option]... JOB.py [ARG]...")
    shared.start_logging(arguments)
    shared.say_if_slow(NAME, arguments)
    _warn_of_late_options(arguments)
    if arguments.replay:
        return replay.run_replay(NAME, arguments)
    inline = is_inline(arguments)
    if arguments.pdb and not inline:
        refuse(
            NAME,
            "--pdb needs --inline: on a cluster functions run in processes without a terminal (or --replay FILE)",
        )
    if arguments.expect_workers is not None and not can_grow(arguments):
        refuse(
            NAME,
            "--expect-workers needs --listen, --join or --elect, or --on HOST, elect:HOST,... or ssh://HOST,...: "
            "without them no worker can join",
        )
    to_try = getattr(arguments, "try")
    if to_try is not None:
        return _try(arguments, to_try)
    closing = Closing(NAME, arguments)
    results = claim_results(arguments.output)
    with job_records.kept(NAME, arguments) as job_log:
        if inline:
            return _run_inline(arguments, results, closing, job_log)
        return _run_on_cluster(arguments, results, closing, job_log)


def _run_on_cluster(arguments: Arguments, results: Results, closing: Closing, job_log: LogFile | None) -> int:
    with open_cluster(NAME, arguments) as cluster:
        job = _load_job(arguments)
        shared.show_users_logging(arguments)
        reporter = open_reporter(NAME, bool(arguments.quiet))
        with contextlib.closing(reporter), outputs.open_sink(NAME, arguments, results, job) as sink:
            if sink.is_complete:
                return 0
            if arguments.listen is not None and not arguments.quiet:
                job.check()  # before anybody starts workers for a job that cannot run
                _say_how_to_join(cluster, arguments)
            if arguments.expect_workers is not None:
                from mmgevent.cli.expected_workers import await_workers

                await_workers(NAME, cluster, job, arguments)
            handle = cluster.submit(
                job,
                on_progress=reporter.update,
                on_notice=reporter.notice,
                resume=sink.made,
                parts_plan=sink.plan_parts(),
                logs=False if arguments.no_logs else lambda line: reporter.notice(str(line)),
                job_log=job_log,
            )
            closing.watch(handle.state)
            with _watching_for_workers(handle, reporter, arguments):
                records = outputs.in_order(arguments, handle.stream_to(sink), reporter)
                outputs.write(records, sink, reporter, closing)
    return 0


def _warn_of_late_options(arguments: Arguments) -> None:
    """Warn of options of this command that stand after the job file and so go to the job."""
    known = {name for option in COMMAND.options for name in option.names}
    late = [text for text in arguments.rest[1:] if text.partition("=")[0] in known]
    if late and not arguments.quiet:
        say(
            NAME,
            f"warning: {shown(late[0])} stands after the job file and goes to the job; "
            f"put it before {shown(arguments.rest[0])}",
        )


def _say_how_to_join(cluster: BaseCluster, arguments: Arguments) -> None:
    address = cluster.address
    if address is not None:
        say(NAME, f"listening on {format_address(address)}")
        say(NAME, shared.how_to_join(address, arguments))


def _watching_for_workers(
    handle: JobHandle[Any, Any], reporter: Reporter, arguments: Arguments
) -> contextlib.AbstractContextManager[None]:
    if arguments.workers_timeout is None:
        return contextlib.nullcontext()
    from mmgevent.cli.expected_workers import watching_for_workers

    return watching_for_workers(handle, lambda: reporter.most_workers, arguments.workers_timeout)


def _load_job(arguments: Arguments) -> Job[Any, Any]:
    # Import now whatever is needed later. Once the job's folder is first on the path, a random.py
    # in it would hide the one of the standard library.
    from mmgevent.driver import handle  # noqa: F401
    from mmgevent.driver.runners import inline  # noqa: F401
    from mmgevent.job.job import Job
    from mmgevent.job.options import parse_option
    from mmgevent.job.outputs import opening  # noqa: F401
    from mmgevent.job.shipping.pack import preload

    preload()
    gc.freeze()  # what stays until the end would take 12 ms to collect; collect what the job makes
    gc.enable()
    shared.silence_warnings(arguments)
    if arguments.module:
        job = Job.from_module(arguments.rest[0], arguments.rest[1:])
    else:
        job = Job.from_file(arguments.rest[0], arguments.rest[1:])
    sys.argv = list(job.argv or ())  # as the job file left it, because its functions run here, too
    changes = {name: parse_option(name, text) for name, text in arguments.set}
    py_files = [path for paths in arguments.py_files for path in paths]
    if py_files:
        changes["py_files"] = (*changes.get("py_files", job.options.py_files), *py_files)
    if arguments.pass_env:
        changes["pass_env"] = (*changes.get("pass_env", job.options.pass_env), *arguments.pass_env)
    changes["bundles"] = replay.which_bundles(arguments, changes.get("bundles", job.options.bundles))
    changes["results"] = which_results(arguments, changes.get("results", job.options.results))
    return job.with_options(**changes)


def which_results(arguments: Arguments, of_job: str | None) -> str | None:
    """Return the option `results` of a job whose own is `of_job`.

    Results are plain data where executors take part that this command does not start.
    """
    if arguments.plain_results or arguments.trust_workers:
        return "plain" if arguments.plain_results else "trusted"
    return "plain" if of_job is None and others_take_part(arguments) else of_job


def _run_inline(arguments: Arguments, results: Results, closing: Closing, job_log: LogFile | None) -> int:
    from mmgevent.driver.runners.inline import run_inline

    try:
        job = _load_job(arguments)
        shared.show_users_logging(arguments)
        with outputs.open_sink(NAME, arguments, results, job) as sink:
            if not sink.is_complete:
                silent = open_reporter(NAME, is_quiet=True)  # the functions may use the terminal
                found = run_inline(job, sink, watch=closing.watch, job_log=job_log)
                outputs.write(outputs.in_order(arguments, found, silent), sink, silent, closing)
    except MmgeventError as error:
        if not arguments.pdb or error.exit_code == FAULT:
            raise
        from mmgevent.cli.debugging import debug  # rarely needed

        return debug(NAME, error)
    return 0


def _try(arguments: Arguments, count: int) -> int:
    """Run some items, and print what came out on stdout. Nothing is written anywhere else."""
    from mmgevent.cli.glance import write_report

    def say_unless_quiet(text: str) -> None:
        if not arguments.quiet:
            say(NAME, text)

    results = claim_results(None)
    assert results.stream is not None
    job = _load_job(arguments)
    shared.show_users_logging(arguments)
    write_report(job, count, arguments, results.stream, say_unless_quiet)
    return 0
