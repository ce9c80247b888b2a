"""The worker command of mincemeat.py: `python -m mmgevent.mincemeat -p PASSWORD [-P PORT] [HOST]`.

It works for the Server at HOST until the Server ends.  The Server sends the functions.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from mmgevent.access.addresses import DEFAULT_PORT
from mmgevent.cli.exits import leave, run_command
from mmgevent.errors import ConnectError, PasswordError
from mmgevent.mincemeat.client import Client
from mmgevent.wire.hello import VERSION

NAME = "mmgevent.mincemeat"


def main(argv: Sequence[str] | None = None) -> None:
    """Be the command."""
    leave(run_command(NAME, run, argv))


def run(argv: Sequence[str]) -> int:
    """Work until the Server ends; return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.loud or arguments.verbose:
        logging.basicConfig(level=logging.DEBUG if arguments.loud else logging.INFO)
    if not arguments.password:
        raise PasswordError("no password was given: add the Server's, -p PASSWORD")
    client = Client()
    client.conn(arguments.host, arguments.port, arguments.password)
    if not client.authenticated():
        raise client.error or ConnectError(f"{client.name()}: no answer")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description="Work for a mincemeat Server until it ends.",
        epilog="mmg-worker does the same, uses all cores, and stays when the Server ends.",
    )
    parser.add_argument(
        "-p", "--password", default="", help="the password; other users of this machine can see it"
    )
    parser.add_argument("-P", "--port", type=int, default=DEFAULT_PORT, help="default %(default)s")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    parser.add_argument("-V", "--loud", action="store_true", help="log everything")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("host", nargs="?", default="", help="where the Server is (default: this machine)")
    return parser


if __name__ == "__main__":
    main()
