"""The command mmg-run: its name, its table of options, and the texts of its help."""

from __future__ import annotations

from mmgevent.cli import job_records, outputs, replay, shared
from mmgevent.cli.closing import SUMMARY
from mmgevent.cli.counts import positive_number
from mmgevent.cli.options import Command, Option, seconds
from mmgevent.errors import UsageError

NAME = "mmg-run"


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError("expected OPTION=VALUE, such as retries=2")
    return name.strip(), value


def _paths(text: str) -> list[str]:
    return [path for path in text.split(",") if path]


def _items_to_try(text: str) -> int:
    from mmgevent.cli.glance import item_count  # rarely needed

    return item_count(text)


def _interpreter(text: str) -> str:
    from mmgevent.access.ssh_hosts import check_remote_python

    return check_remote_python(text)


COMMAND = Command(
    name=NAME,
    usage=("[option]... JOB.py [ARG]...", "[option]... -m PACKAGE.JOB [ARG]..."),
    summary=(
        "Run the MapReduce job of JOB.py on the cores of this machine and of every machine that joins.\n"
        "JOB.py is a Python module. It binds datasource, mapfn and reducefn, and if needed collectfn,\n"
        "finishfn, setupfn (called once in each executor, before the others) and options. All of them\n"
        "see [JOB.py, ARG...] as sys.argv. Options stand before JOB.py; arguments after it are the job's."
    ),
    options=(
        shared.procs_option(
            "executors on this machine (default: one per core of the machine or container; 0 with --join); of each "
            "host with --on ssh://"
        ),
        Option(
            ("--on",),
            "WHERE",
            "run the job there: inline, local, local:N, HOST[:PORT] (an mmg-server), elect:HOST,..., ssh://HOST,... "
            "(workers are started there) or another engine, such as dask://HOST:8786",
            excludes="where",
        ),
        Option(
            ("--remote-python",),
            "PYTHON",
            "interpreter on the hosts of --on ssh://, by name or path, or uv (default: python3.X as here)",
            _interpreter,
        ),
        Option(
            ("--listen",),
            "[HOST:]PORT",
            "let mmg-workers join here; PORT alone listens on all interfaces",
            excludes="where",
        ),
        Option(
            ("--join",),
            "HOST[:PORT]",
            "submit the job to the server at HOST (mmg-server, or mmg-run --listen)",
            excludes="where",
        ),
        Option(
            ("--elect",),
            "HOST[:PORT][,...]",
            "submit the job to the server at HOST, or become that server; list all candidates, in one order",
            excludes="where",
        ),
        Option(
            ("--inline",),
            "",
            "run everything in this process, one item at a time: for debuggers and print()",
            excludes="where",
        ),
        Option(
            ("--try",),
            "N",
            "run N items of the input in this process, through all functions, and say what came out and what the "
            "whole job will take; nothing is written",
            _items_to_try,
            excludes="where",
        ),
        Option(
            ("--pdb",),
            "",
            "with --inline and --replay: when the job fails, stop in pdb where your code raised the exception",
        ),
        *replay.OPTIONS,
        Option(
            ("--attach",),
            "",
            "run nothing: name the item that has run longest of the job that runs from this machine, and where it "
            "is, as mmg-server attach does; mmg-run --attach [[HOST[:PORT]] JOB] names another",
            excludes="where",
        ),
        *outputs.OPTIONS,
        SUMMARY,
        *job_records.OPTIONS,
        Option(
            ("-m", "--module"),
            "",
            "JOB.py is the name of a module, such as package.job, as for python -m, and not a path",
        ),
        Option(
            ("--set",),
            "OPTION=VALUE",
            "set an option of the job: retries, task_timeout, setup_timeout, memory_limit, max_skipped, "
            "partitions, greenlets, items_per_call, arrays, allocation, retransmit, results, "
            "plain_classes, pass_env, name; may be repeated",
            _assignment,
            repeats=True,
        ),
        Option(
            ("--py-files",),
            "PATH[,PATH...]",
            "modules (.py) or package folders that workers elsewhere need; may be repeated",
            _paths,
            repeats=True,
        ),
        Option(
            ("--pass-env",),
            "NAME",
            "pass the environment variable NAME of this process to the executors of this job, wherever they are, such "
            "as AWS_SECRET_ACCESS_KEY; may be repeated",
            repeats=True,
        ),
        Option(
            ("--plain-results",),
            "",
            "accept only plain data from workers, which cannot run code here; the default with --listen, --join, "
            "--elect, and --on anywhere but inline and local. On Dask, Ray, Spark and the like that keeps nobody "
            "out: their own clients run what their workers send",
            excludes="trust",
        ),
        Option(
            ("--trust-workers",),
            "",
            "accept any objects from workers, wherever they run: whoever runs a worker can then run code here",
            excludes="trust",
        ),
        Option(
            ("--workers-timeout",),
            "SECONDS",
            "end with exit code 7 if no worker joins in that time (default: wait)",
            seconds,
        ),
        Option(
            ("--expect-workers",),
            "N",
            "submit the job once N workers have joined, with --listen, --join or --elect, and with --on HOST, "
            "elect:HOST,... and ssh://HOST,...; the executors of this machine are one of them; --workers-timeout "
            "limits the wait",
            positive_number,
        ),
        Option(("--no-logs",), "", "do not show what functions print and log on executors"),
        shared.MEMORY,
        *shared.CONNECTION,
        shared.VERBOSE,
        shared.QUIET,
    ),
    examples=(
        ("mmg-run wordcount.py books/*.txt", "all cores of this machine, results on stdout"),
        (
            "mmg-run -o counts.jsonl wordcount.py books/*.txt",
            "results to a file, in the format that its suffix names",
        ),
        ("mmg-run --try 20 wordcount.py books/*.txt", "20 items here, and a forecast for all"),
        ("mmg-run --inline wordcount.py one.txt", "in this process, for breakpoint() and print()"),
        ("mmg-run --inline --pdb wordcount.py one.txt", "the same, and stop in pdb where it fails"),
        ("mmg-run --listen 11235 wordcount.py books/*.txt", "other machines may help: mmg-worker THISHOST"),
        ("mmg-run --join bighost wordcount.py books/*.txt", "on the workers of a running mmg-server"),
        (
            "mmg-run --elect bighost wordcount.py books/*.txt",
            "on the workers of the server that is elected",
        ),
    ),
    elsewhere=shared.WORKER_PASSWORD_ELSEWHERE,
    notes=(
        "exit codes: 0 done; 1 the job failed; 2 the job or the command line is wrong, nothing ran;\n"
        "3 cannot connect or listen, or the engine was lost; 4 password or certificate refused; 5\n"
        "versions do not match; 6 too many items skipped; 7 no workers in time; 70 a fault of mmgevent's\n"
        "own; 129, 130, 143 signals; 141 the reader of the results closed its end."
    ),
)
