"""Open the cluster that the options of mmg-run name: a local one, a server elsewhere, or a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmgevent.access.addresses import parse_address, parse_addresses, parse_listen
from mmgevent.cli import shared
from mmgevent.cli.options import Arguments, refuse
from mmgevent.errors import ConnectError
from mmgevent.machine.resources import count_default_executors

if TYPE_CHECKING:
    from mmgevent.driver.cluster import Cluster


def open_cluster(command: str, arguments: Arguments) -> Cluster:
    """Start the engine and return without waiting for it: it comes up while the job file is loaded.

    Raises UsageError for options that do not go together, ConnectError if no server answers.
    """
    port = shared.default_port(arguments)
    if arguments.join is not None:
        return _join(command, arguments, port)
    if arguments.elect is not None:
        return _elect(command, arguments, port)
    return _open_here(command, arguments, port)


def _join(command: str, arguments: Arguments, port: int) -> Cluster:
    if arguments.memory is not None:
        refuse(command, "--memory is for the server, which is elsewhere: give it to mmg-server")
    address = parse_address(arguments.join, port)
    password = shared.find_password(command, arguments, [address[0]])
    from mmgevent.driver.cluster import connect

    try:
        return connect(
            address,
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


def _elect(command: str, arguments: Arguments, port: int) -> Cluster:
    addresses = parse_addresses(arguments.elect, port)
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


def _open_here(command: str, arguments: Arguments, port: int) -> Cluster:
    listen = None if arguments.listen is None else parse_listen(arguments.listen, port)
    if arguments.procs == 0 and listen is None:
        refuse(
            command,
            "--procs 0 leaves nobody to run the job; add --listen [HOST:]PORT, --join HOST or --elect HOST",
        )
    password = None if listen is None else shared.find_password(command, arguments, [listen[0]])
    from mmgevent.driver.local_cluster import LocalCluster

    return LocalCluster(
        arguments.procs,
        listen=listen,
        password=password,
        certificates=None if listen is None else shared.find_certificates(arguments),
        segment_memory=arguments.memory,
        verbose=arguments.verbose,
    )
