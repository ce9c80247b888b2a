"""mmg-worker: lend the cores of this machine to a server."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmgevent.access.addresses import parse_addresses
from mmgevent.cli import shared
from mmgevent.cli.exits import leave, run_command
from mmgevent.cli.options import Command, Option, parse, refuse, refuse_late_options
from mmgevent.machine.resources import count_default_executors

NAME = "mmg-worker"

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
    ),
    notes=(
        "exit codes: 0 the server said goodbye (--once); 2 usage; 4 password or certificate refused;\n"
        "5 versions do not match; 70 a fault of mmgevent's own; 129, 130, 143 signals."
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
    from mmgevent.engine.foreground import run_member, run_worker

    return (run_member if arguments.elect else run_worker)(
        addresses,
        procs=arguments.procs or count_default_executors(),
        password=password,
        certificates=shared.find_certificates(arguments),
        once=bool(arguments.once),
        verbose=-1 if arguments.quiet else arguments.verbose,
    )
