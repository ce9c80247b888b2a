"""Open the cluster that the options of mmg-run name: local, a server, a node, another engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmgevent.access.addresses import parse_address, parse_addresses, parse_listen
from mmgevent.cli import shared
from mmgevent.cli.options import Arguments, refuse
from mmgevent.driver.where import Where, parse_where
from mmgevent.errors import ConnectError
from mmgevent.machine.resources import count_default_executors

if TYPE_CHECKING:
    from mmgevent.driver.base_cluster import BaseCluster


#: Options that protect links between processes of mmgevent.
_SECRETS = ("password", "password_file", "tls_cert", "tls_key", "tls_ca")


def open_cluster(command: str, arguments: Arguments) -> BaseCluster:
    """Start the engine and return without waiting for it: it comes up while the job file is loaded.

    Raises UsageError for options that do not go together, ConnectError if no server answers.
    """
    port = shared.default_port(arguments)
    if arguments.join is not None:
        return _join(command, arguments, arguments.join, port)
    if arguments.elect is not None:
        return _elect(command, arguments, arguments.elect, port)
    where = Where("local") if arguments.on is None else parse_where(arguments.on)
    if arguments.remote_python is not None and where != ("engine", "ssh"):
        refuse(command, "--remote-python is for --on ssh://HOST,...")
    if where == ("engine", "ssh"):
        return _open_ssh(command, arguments, arguments.on)
    if where.kind == "engine":
        return _open_elsewhere(command, arguments, where)
    if where.kind == "join":
        return _join(command, arguments, where.rest, port)
    if where.kind == "elect":
        return _elect(command, arguments, where.rest, port)
    return _open_here(command, arguments, where, port)


def is_inline(arguments: Arguments) -> bool:
    """Return whether the job runs in this process. Raises UsageError for a WHERE that is none."""
    return bool(arguments.inline) or (arguments.on is not None and parse_where(arguments.on).kind == "inline")


def can_grow(arguments: Arguments) -> bool:
    """Return whether workers may join the cluster that the options name."""
    if arguments.on is not None:
        where = parse_where(arguments.on)
        return where.kind in ("join", "elect") or where == ("engine", "ssh")
    return any(option is not None for option in (arguments.listen, arguments.join, arguments.elect))


def others_take_part(arguments: Arguments) -> bool:
    """Return whether executors may take part that are not this command's own children."""
    if arguments.on is not None:
        return parse_where(arguments.on).kind not in ("inline", "local")
    return any(option is not None for option in (arguments.listen, arguments.join, arguments.elect))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _open_ssh(command: str, arguments: Arguments, where: str) -> BaseCluster:
    """Start workers over ssh; say on stderr what fails on which host."""
    for name in _SECRETS:
        if getattr(arguments, name) is not None:
            refuse(
                command, f"{_option(name)} has no use with --on ssh://, which makes a password for each run"
            )
    if arguments.procs == 0:
        refuse(command, "--procs 0 would do no work on the hosts; give 1 or more, or leave it out")
    from mmgevent.access.ssh_hosts import parse_ssh_hosts
    from mmgevent.cli.exits import say
    from mmgevent.driver.runners.ssh_cluster import SshCluster

    return SshCluster(
        parse_ssh_hosts(where.strip()),
        remote_python=arguments.remote_python,
        remote_procs=arguments.procs or 0,
        segment_memory=arguments.memory,
        verbose=arguments.verbose,
        on_failure=None if arguments.quiet else lambda text: say(command, text),
    )


def _open_elsewhere(command: str, arguments: Arguments, where: Where) -> BaseCluster:
    for name in ("procs", "memory", "workers_timeout", "port"):
        if name in arguments.given:
            refuse(
                command,
                f"{_option(name)} is for an engine of mmgevent, and --on {arguments.on} is another one",
            )
    for name in _SECRETS:
        if name in arguments.given:
            refuse(
                command,
                f"{_option(name)} is for links between processes of mmgevent, and --on {arguments.on} has none: "
                f"what protects that engine is set there, or in a client of it that a program gives to mmgevent.connect()",
            )
    from mmgevent.driver.connecting import open_engine

    return open_engine(where.rest, arguments.on)


def _join(command: str, arguments: Arguments, address: str, port: int) -> BaseCluster:
    if arguments.memory is not None:
        refuse(command, "--memory is for the server, which is elsewhere: give it to mmg-server")
    at = parse_address(address, port)
    password = shared.find_password(command, arguments, [at[0]])
    from mmgevent.driver.cluster import connect_to_server

    try:
        return connect_to_server(
            at,
            password=password,
            certificates=shared.find_certificates(arguments),
            procs=arguments.procs or 0,
            verbose=arguments.verbose,
        )
    except ConnectError as error:
        if not isinstance(error.__cause__, ConnectionRefusedError):
            raise
        raise ConnectError(
            f"{error}; start mmg-server there (or mmg-run --listen), or give another address"
        ) from error


def _elect(command: str, arguments: Arguments, candidates: str, port: int) -> BaseCluster:
    addresses = parse_addresses(candidates, port)
    password = shared.find_password(command, arguments, [host for host, _ in addresses])
    from mmgevent.driver.node import Node

    procs = count_default_executors() if arguments.procs is None else arguments.procs
    return Node(
        addresses,
        procs=procs,
        password=password,
        certificates=shared.find_certificates(arguments),
        segment_memory=arguments.memory,
        verbose=arguments.verbose,
    )


def _open_here(command: str, arguments: Arguments, where: Where, port: int) -> BaseCluster:
    procs = arguments.procs
    if where.rest:
        if procs is not None:
            refuse(command, f"--on {arguments.on} says how many executors there are: leave out --procs")
        procs = int(where.rest)
    listen = None if arguments.listen is None else parse_listen(arguments.listen, port)
    if procs == 0 and listen is None:
        refuse(
            command,
            "--procs 0 leaves nobody to run the job; add --listen [HOST:]PORT, --join HOST or --elect HOST",
        )
    password = None if listen is None else shared.find_password(command, arguments, [listen[0]])
    from mmgevent.driver.local_cluster import LocalCluster

    return LocalCluster(
        procs,
        listen=listen,
        password=password,
        certificates=None if listen is None else shared.find_certificates(arguments),
        segment_memory=arguments.memory,
        verbose=arguments.verbose,
    )
