"""mmg-server: schedule jobs and keep their intermediate data, for workers and drivers elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmgevent.access import password as passwords
from mmgevent.access.addresses import ALL_INTERFACES, Address, parse_listen
from mmgevent.cli import shared
from mmgevent.cli.exits import leave, print_out, run_command, say
from mmgevent.cli.options import Arguments, Command, Option, parse, refuse, refuse_late_options
from mmgevent.errors import UsageError
from mmgevent.wire.listings import shown_name

NAME = "mmg-server"


COMMAND = Command(
    name=NAME,
    usage=(
        "[option]...",
        "[option]... password",
        "[option]... worker-password [FILE]",
        "status|workers|jobs [option]... [HOST[:PORT]]",
        "cancel|attach|logs [option]... [HOST[:PORT]] JOB",
        "drain [option]... [HOST[:PORT]] WORKER",
    ),
    summary=(
        "Run the server that mmg-workers join and that mmg-run --join submits jobs to. It runs no user\n"
        "code. `mmg-server password` prints the password that all of them share, and creates it if there\n"
        "is none. `mmg-server worker-password` prints one for mmg-worker, with which nobody can submit.\n"
        "`mmg-server status` and its like show a server that runs; see `mmg-server status --help`."
    ),
    options=(
        Option(
            ("--listen",),
            "[HOST:]PORT",
            "address to listen on (default: the port on all interfaces)",
        ),
        shared.MEMORY,
        *shared.CONNECTION,
        Option(("--log-format",), "F", "text (the default) or json: one object a line"),
        shared.VERBOSE,
        shared.QUIET,
    ),
    examples=(
        ("mmg-server", "listen on port 11235 of all interfaces"),
        ("mmg-server --listen 127.0.0.1:11235", "for this machine only"),
        ("mmg-server --memory 8GiB", "keep more intermediate data in memory"),
        ("mmg-server password", "print the password"),
        ("mmg-server worker-password FILE", "write a file for workers, to copy to their machines"),
        ("mmg-server status bighost", "show the workers and jobs of a server"),
    ),
    elsewhere={
        **shared.WORKER_PASSWORD_ELSEWHERE,
        "--json": "it is for `mmg-server status`, `workers` and `jobs`, and stands behind that word",
    },
    notes=(
        "exit codes: 2 wrong usage or password file; 3 cannot listen; 4 wrong certificates; 70 a fault\n"
        "of mmgevent's own; 129, 130, 143 signals."
    ),
)


#: What may stand after the options.
_PASSWORDS = ("password", "worker-password")
LOOKS = ("status", "workers", "jobs", "cancel", "drain", "logs", "attach")
VERBS = (*_PASSWORDS, *LOOKS)


def main() -> None:
    """Run the command mmg-server."""
    leave(run_command(NAME, run, None))


def run(argv: Sequence[str]) -> int:
    """Serve until stopped, or print a password; return the exit code."""
    arguments = parse(COMMAND, argv, os.environ)
    if arguments.rest and arguments.rest[0] in LOOKS:
        from mmgevent.cli.looks import look

        return look(argv[: len(argv) - len(arguments.rest)], *arguments.rest)
    if arguments.rest:
        return _give_password(arguments, *arguments.rest)
    if arguments.log_format not in (None, "text", "json"):
        raise UsageError(f"--log-format {shown_name(repr(arguments.log_format))}: expected text or json")
    shared.say_if_slow(NAME, arguments)
    port = shared.default_port(arguments)
    host, port = (ALL_INTERFACES, port) if arguments.listen is None else parse_listen(arguments.listen, port)
    password = shared.find_password(NAME, arguments, [host])

    def on_listening(address: Address) -> None:
        if not arguments.quiet and arguments.log_format != "json":  # every line is JSON then
            say(NAME, shared.how_to_join(address, arguments))

    from mmgevent.engine.foreground import run_server

    return run_server(
        host,
        port,
        password=password,
        certificates=shared.find_certificates(arguments),
        segment_memory=arguments.memory,
        on_listening=on_listening,
        verbose=-1 if arguments.quiet else max(arguments.verbose, 1),  # 1 logs the address
        log_format=arguments.log_format,
    )


def _give_password(arguments: Arguments, kind: str, *more: str) -> int:
    """Print the password, or print or write the worker password."""
    if kind not in _PASSWORDS:
        refuse(NAME, f"unexpected argument {kind!r}; only {_listed(*VERBS)} may stand there")
    refuse_late_options(COMMAND, arguments.rest, kind)
    allowed = 1 if kind == "worker-password" else 0
    if len(more) > allowed:
        last = "one FILE" if allowed else "nothing"
        refuse(NAME, f"unexpected argument {more[allowed]!r}; {last} may follow `{kind}`")
    password = passwords.find_password(arguments.password, arguments.password_file)
    if kind == "worker-password":
        from mmgevent.access import worker_password

        password = worker_password.make_worker_password(password)
        if more:
            worker_password.write_worker_password_file(more[0], password)
            if not arguments.quiet:
                say(NAME, f"wrote {more[0]}; workers take it with --worker-password-file")
            return 0
    print_out(password)
    return 0


def _listed(*words: str) -> str:
    return f"{', '.join(f'`{word}`' for word in words[:-1])} or `{words[-1]}`"
