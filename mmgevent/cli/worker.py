"""mmg-worker: lend the cores of this machine to a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmgevent.access.addresses import parse_addresses
from mmgevent.cli import shared
from mmgevent.cli.counts import niceness, positive_number
from mmgevent.cli.exits import leave, run_command
from mmgevent.cli.options import (
    Arguments,
    Command,
    Option,
    memory_size,
    parse,
    refuse,
    refuse_late_options,
    seconds,
)
from mmgevent.errors import UsageError
from mmgevent.machine.resources import count_default_executors

if TYPE_CHECKING:
    from mmgevent.engine.stay import WorkerSettings

NAME = "mmg-worker"


def _name(text: str) -> str:
    from mmgevent.wire.hello import MAX_NAME_CHARS, clean_name

    if not text.strip() or clean_name(text) != text:
        raise UsageError(
            f"expected 1 to {MAX_NAME_CHARS} of: ASCII letters, digits, blanks and _ . / : @ + -"
        )
    return text


def _executor_memory(text: str) -> int:
    from mmgevent.job.options import parse_option

    n_bytes: int = parse_option("memory_limit", str(memory_size(text)))
    return n_bytes


COMMAND = Command(
    name=NAME,
    usage=("[option]... HOST[:PORT][,HOST[:PORT]...]",),
    summary=(
        "Run tasks for the server at HOST: mmg-server, or mmg-run --listen. The worker runs until it is\n"
        "stopped, and connects again whenever it loses the server. Of several hosts it takes the first\n"
        "that answers."
    ),
    options=(
        shared.procs_option("executors on this machine (default: one per core of the machine or container)"),
        Option(
            ("--elect",),
            "",
            "if there is no server at HOST, and HOST is this machine, become the server as well; takes the "
            "main password",
        ),
        Option(("--once",), "", "exit with code 0 when the server says goodbye"),
        Option(
            ("--lifetime",),
            "SECONDS",
            "exit with code 0 after that time; before it take no more tasks, and return what would last longer",
            seconds,
        ),
        Option(("--idle-timeout",), "SECONDS", "exit with code 0 after that time without a task", seconds),
        Option(
            ("--grace",),
            "SECONDS",
            "time for running tasks before the end of --lifetime, and after SIGTERM (default: 2)",
            seconds,
        ),
        Option(
            ("--max-items",),
            "N",
            "replace an executor after the task in which it has run N items (default: never)",
            positive_number,
        ),
        Option(
            ("--memory-limit",),
            "SIZE",
            'memory of each executor, such as "2GiB"; the lower of this and the job\'s memory_limit counts',
            _executor_memory,
        ),
        Option(("--nice",), "N", "run executors at a lower priority, 0 to 19", niceness),
        Option(("--name",), "NAME", "name in logs and messages (default: HOST/PID)", _name),
        shared.PORT,
        shared.PASSWORD,
        shared.PASSWORD_FILE,
        shared.WORKER_PASSWORD_FILE,
        shared.TLS_CERT,
        shared.TLS_KEY,
        shared.TLS_CA,
        shared.VERBOSE,
        shared.QUIET,
    ),
    examples=(
        ("mmg-worker bighost", "all cores, for the server on bighost, port 11235"),
        ("mmg-worker --procs 4 bighost:5000", "four executors, another port"),
        ("mmg-worker --elect bighost", "the same on every machine; the one on bighost is also the server"),
        ("mmg-worker --worker-password-file FILE bighost", "with a password that only lends workers"),
        ("mmg-worker --once first,second", "two candidates; exit when the server does"),
        ("mmg-worker --lifetime 3500 --idle-timeout 300 bighost", "in a batch job of an hour"),
    ),
    notes=(
        "exit codes: 0 the server said goodbye (--once), or the end of --lifetime or --idle-timeout;\n"
        "2 usage; 4 password or certificate refused; 5 versions do not match; 70 a fault of mmgevent's\n"
        "own; 129, 130, 143 signals."
    ),
)


def main() -> None:
    """Run the command mmg-worker."""
    leave(run_command(NAME, run, None))


def run(argv: Sequence[str]) -> int:
    """Work for the servers on the command line; return the exit code."""
    arguments = parse(COMMAND, argv, os.environ)
    if not arguments.rest:
        refuse(NAME, "no server: expected mmg-worker [option]... HOST[:PORT]")
    refuse_late_options(COMMAND, arguments.rest, "HOST")
    if arguments.procs == 0:
        refuse(NAME, "--procs 0 would do no work; give 1 or more, or leave it out for all cores")
    shared.say_if_slow(NAME, arguments)
    addresses = parse_addresses(",".join(arguments.rest), shared.default_port(arguments))
    password = shared.find_password_of_worker(NAME, arguments, [host for host, _ in addresses])
    settings = _settings(arguments, password)
    from mmgevent.engine.foreground import run_member, run_worker

    verbose = -1 if arguments.quiet else arguments.verbose
    return (run_member if arguments.elect else run_worker)(addresses, settings, verbose)


def _settings(arguments: Arguments, password: str) -> WorkerSettings:
    """Return what the options say about the worker. Raise UsageError if they contradict each other."""
    from mmgevent.engine.stay import Stay, WorkerSettings
    from mmgevent.engine.worker.limits import ExecutorLimits

    lifetime_s, grace_s = arguments.lifetime, arguments.grace
    if lifetime_s is not None and grace_s is not None and grace_s >= lifetime_s:
        refuse(
            NAME,
            f"--grace {grace_s:g} leaves no time to work: it must be less than --lifetime {lifetime_s:g}",
        )
    return WorkerSettings(
        procs=arguments.procs or count_default_executors(),
        password=password,
        certificates=shared.find_certificates(arguments),
        once=bool(arguments.once),
        name=arguments.name,
        nice=arguments.nice or 0,
        limits=ExecutorLimits(arguments.memory_limit, arguments.max_items),
        stay=Stay(lifetime_s, arguments.idle_timeout, grace_s),
    )
