"""mmg-server status, workers, jobs, cancel, drain, logs and attach: look at a server that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import THIS_MACHINE, parse_address
from mmgevent.cli import following, shared
from mmgevent.cli.exits import print_out, say
from mmgevent.cli.options import Arguments, Command, Option, options_first, parse, refuse
from mmgevent.wire.listings import (
    JOB_FIELDS,
    WORKER_FIELDS,
    clean_row,
    read_listing,
    shown_name,
)

if TYPE_CHECKING:
    from mmgevent.engine.looking import Looker

Row = dict[str, Any]

_JSON = Option(("--json",), "", "print JSON, for programs; of logs an object a line")
_STACK = Option(
    ("--stack",), "", "print the Python stack of the executor, also where a debugger could be opened"
)

#: Options of all of them.
_COMMON = (
    shared.PORT,
    shared.PASSWORD,
    shared.PASSWORD_FILE,
    shared.TLS_CERT,
    shared.TLS_KEY,
    shared.TLS_CA,
    shared.QUIET,
)
_NOTES = (
    "HOST is this machine if it is left out. The main password is needed: with a worker password nobody\n"
    "can look. exit codes: 2 wrong usage, no such job or worker; 3 nobody there; 4 wrong password;\n"
    "5 versions do not match; 130, 143 signals."
)


def _command(
    verb: str, what: str, summary: str, example: str, options: tuple[Option, ...], does: str
) -> Command:
    return Command(
        name=f"mmg-server {verb}",
        usage=(f"[option]... [HOST[:PORT]]{what}",),
        summary=summary,
        options=(*options, *_COMMON),
        examples=((f"mmg-server {verb} {example}".rstrip(), does),),
        elsewhere=shared.WORKER_PASSWORD_ELSEWHERE,
        notes=_NOTES,
    )


COMMANDS = {
    "status": _command(
        "status",
        "",
        "Show a server: its workers, its jobs, and which workers left lately.",
        "bighost",
        (_JSON,),
        "the server on bighost, port 11235",
    ),
    "workers": _command(
        "workers",
        "",
        "Show the workers of a server: slots, load, and which executor died last, and why.",
        "--json bighost",
        (_JSON,),
        "for programs",
    ),
    "jobs": _command(
        "jobs",
        "",
        "Show the jobs of a server that are not over: who submitted them, and how far they are.",
        "",
        (_JSON,),
        "the jobs of the server on this machine",
    ),
    "cancel": _command(
        "cancel",
        " JOB",
        "Cancel a job, by its id or its name. Its owner's error says who did it.",
        "bighost bighost-4711-3",
        (),
        "by the id that `mmg-server jobs` shows",
    ),
    "drain": _command(
        "drain",
        " WORKER",
        "Give a worker no more tasks, by its name or number. An mmg-worker ends, with exit code 0, when\n"
        "its tasks are done; Ctrl-C or SIGTERM then end it at once. Others stay, without tasks.",
        "bighost node7/4711",
        (),
        "before that machine is switched off",
    ),
    "logs": _command(
        "logs",
        " JOB",
        "Print what the functions of a job print and log, until it is over. Of a job that is over, print\n"
        "what the server has kept of it.",
        "bighost wordcount",
        (_JSON, following.SINCE, following.NO_FOLLOW),
        "what does this job say?",
    ),
    "attach": _command(
        "attach",
        " JOB",
        "Name the item of a job that has run longest, with its worker and process, and show where its\n"
        "executor is. The executor goes on. On the same machine, with Python 3.14 and a terminal, open\n"
        "pdb there.",
        "bighost wordcount",
        (_STACK,),
        "what does this job hang in?",
    ),
}


def look(options: Sequence[str], verb: str, *words: str) -> int:
    """Run one of COMMANDS; return the exit code. `options` stood before the verb."""
    command = COMMANDS[verb]
    arguments = parse(command, options_first(command, [*options, *words]), os.environ)
    takes_name = verb in ("cancel", "drain", "logs", "attach")
    host, name = _split_words(command, arguments.rest, takes_name=takes_name)
    if verb == "logs":
        following.check_since(arguments.since)
    address = parse_address(host, shared.default_port(arguments))
    password = shared.find_password(command.name, arguments, [])
    from mmgevent.engine.looking import looking_at
    from mmgevent.engine.net.threads import start_thread_pool

    start_thread_pool()
    with looking_at(address, password, shared.find_certificates(arguments)) as looker:
        if verb == "attach":
            from mmgevent.cli.attaching import attach

            return attach(command.name, looker, name, is_stack_wanted=bool(arguments.stack))
        if verb == "logs":
            return following.print_logs(command.name, looker, name, arguments)
        if takes_name:
            _give_order(command.name, looker, verb, name, arguments)
        else:
            _show(looker, verb, as_json=bool(arguments.json))
    return 0


def _split_words(command: Command, words: list[str], *, takes_name: bool) -> tuple[str, str]:
    """Return the host and the name of a job or worker, "" if it takes none."""
    most = 1 + takes_name
    if len(words) > most:
        refuse(
            command.name, f"unexpected argument {shown_name(repr(words[most]))}: expected {command.usage[0]}"
        )
    if takes_name and not words:
        refuse(command.name, f"nothing is named: expected {command.usage[0]}")
    name = words[-1] if takes_name else ""
    hosts = words[: len(words) - takes_name]
    return (hosts[0] if hosts else THIS_MACHINE), name


def _give_order(command: str, looker: Looker, verb: str, name: str, arguments: Arguments) -> None:
    (row,) = looker.find(verb, name)[:1] or ({},)
    if arguments.quiet:
        return
    called = shown_name(str(row.get("name", name)))
    if verb == "cancel":
        say(command, f"cancelled {shown_name(str(row.get('id', '')))} ({called})")
    elif row.get("attempts"):
        say(command, f"{called} gets no more tasks, and leaves when its {row['attempts']} are done")
    else:
        say(command, f"{called} gets no more tasks, and leaves")


def _show(looker: Looker, verb: str, *, as_json: bool) -> None:
    seen: dict[str, Any] = {}
    if verb == "status":
        seen["server"] = looker.describe_server()
    if verb != "jobs":
        seen["workers"] = read_listing(looker.ask, "list_workers", _worker_of, details=True, measure=True)
    if verb != "workers":
        seen["jobs"] = read_listing(looker.ask, "list_jobs", _job_of)
    if as_json:
        print_out(json.dumps(seen, indent=2))
        return
    from mmgevent.cli.status_tables import draw

    print_out(draw(seen))


def _worker_of(row: Row) -> Row:
    return clean_row(row, WORKER_FIELDS, "number", "name", "slots")


def _job_of(row: Row) -> Row:
    return clean_row(row, JOB_FIELDS, "number", "id", "name")
