"""mmg-dashboard: a page on this machine that shows how a server stands."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

from mmgevent.access.addresses import THIS_MACHINE, parse_address, parse_port
from mmgevent.access.password import read_private_line
from mmgevent.cli import shared
from mmgevent.cli.exits import leave, print_out, run_command, say
from mmgevent.cli.options import Command, Option, options_first, parse, refuse
from mmgevent.errors import PasswordError

NAME = "mmg-dashboard"

#: Shortest token, characters: nobody guesses 64 random bits.
MIN_TOKEN_CHARS = 16

#: Longest token, characters.
MAX_TOKEN_CHARS = 200

COMMAND = Command(
    name=NAME,
    usage=("[option]... [HOST[:PORT]]",),
    summary=(
        "Show in a browser how the server at HOST stands: its jobs, its workers, what died. HOST is this\n"
        "machine if it is left out. The page is served on this machine only, at the address that is\n"
        "printed; whoever has that address may look, and cancel jobs."
    ),
    options=(
        Option(
            ("--page-port",),
            "PORT",
            "port of the page on this machine (default: one that is free, another each time)",
            parse_port,
        ),
        Option(
            ("--token-file",),
            "PATH",
            "read the token of the page's address from a file that only you can read, such as for the scrapes "
            "of Prometheus (default: another one each time)",
        ),
        Option(("--open",), "", "open the page in a browser; no other user of this machine sees its token"),
        *shared.CONNECTION,
        shared.VERBOSE,
        shared.QUIET,
    ),
    examples=(
        ("mmg-dashboard", "the server on this machine, such as that of mmg-run --listen"),
        ("mmg-dashboard bighost", "a server elsewhere, with the same password"),
        ("mmg-dashboard --page-port 8080", "for ssh -L 8080:127.0.0.1:8080 from a machine with a browser"),
    ),
    elsewhere=shared.WORKER_PASSWORD_ELSEWHERE,
    notes=(
        "Paths beside the page, all with ?token=... or Authorization: Bearer: /api/status, /api/jobs,\n"
        "/api/job?id=JOB, /api/ended, /api/workers (JSON), /health, and /metrics for Prometheus\n"
        "(pip install 'mmgevent[metrics]').\n"
        "\n"
        "exit codes: 2 wrong usage; 3 nobody there, or the port is taken; 4 wrong password; 5 versions do\n"
        "not match; 130, 143 signals."
    ),
)


def main() -> None:
    """Run the command mmg-dashboard."""
    leave(run_command(NAME, run, None))


def run(argv: Sequence[str]) -> int:
    """Serve the page until a signal; return the exit code."""
    arguments = parse(COMMAND, options_first(COMMAND, argv), os.environ)
    if len(arguments.rest) > 1:
        refuse(NAME, f"unexpected argument {arguments.rest[1]!r}: expected one HOST[:PORT]")
    address = parse_address(
        arguments.rest[0] if arguments.rest else THIS_MACHINE, shared.default_port(arguments)
    )
    token = None
    if arguments.token_file is not None:
        token = _read_token(arguments.token_file)
    password = shared.find_password(NAME, arguments, [])
    shared.start_logging(arguments)
    from mmgevent.web.dashboard import run_dashboard

    with contextlib.ExitStack() as files:

        def on_ready(url: str) -> None:
            print_out(url)
            if not arguments.quiet:
                say(
                    NAME,
                    "open this address in a browser of this machine; Ctrl-C ends the page, not the server",
                )
            if arguments.open:
                _open(url, files)

        run_dashboard(
            address,
            password,
            shared.find_certificates(arguments),
            port=arguments.page_port or 0,
            token=token,
            on_ready=on_ready,
        )
    return 0


def _open(url: str, files: contextlib.ExitStack) -> None:
    """Open the page in a browser, by a file that leads to it, so that nobody else sees the token."""
    from mmgevent.cli.opening import open_in_browser, redirect_file

    try:
        is_open = open_in_browser(files.enter_context(redirect_file(url)))
    except OSError as error:
        say(NAME, f"the page cannot be opened in a browser: {error}; open the address yourself")
        return
    if not is_open:
        say(NAME, "no browser was found here: open the address yourself")


def _read_token(path: str) -> str:
    token = read_private_line(path, f"the token file {path}")
    if not re.fullmatch(f"[A-Za-z0-9_-]{{{MIN_TOKEN_CHARS},{MAX_TOKEN_CHARS}}}", token):
        raise PasswordError(
            f"expected {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} letters, digits, - or _ in {path}, on one line; "
            f"got {len(token)} characters: make one with `openssl rand -hex 24`"
        )
    return token
