"""Options that several commands have, and their meaning: port, password, certificates, logging."""

from __future__ import annotations

import os
import socket

from mmgevent.access import password as passwords
from mmgevent.access.addresses import DEFAULT_PORT, Address, format_address, is_loopback, parse_port
from mmgevent.access.certificates import Certificates
from mmgevent.cli.exits import say
from mmgevent.cli.options import COMMAND_LINE, Arguments, Option, memory_size, slot_count

PORT = Option(("-P", "--port"), "PORT", f"port of addresses without one (default {DEFAULT_PORT})", parse_port)
PASSWORD = Option(
    ("-p", "--password"),
    "PASSWORD",
    "the password; other users of this machine can see it on the command line",
    reads_variable=False,
)
PASSWORD_FILE = Option(
    ("--password-file",),
    "PATH",
    "read the password from a file that only you can read; without both options: MMG_PASSWORD, "
    "then ~/.config/mmgevent/password, which is created if there is none",
    reads_variable=False,
)
WORKER_PASSWORD_FILE = Option(
    ("--worker-password-file",),
    "PATH",
    "read a worker password (`mmg-server worker-password`), which is enough to work and good for nothing "
    "else; or MMG_WORKER_PASSWORD, or ~/.config/mmgevent/worker-password",
    reads_variable=False,
)
#: Why commands other than mmg-worker have no such option.
WORKER_PASSWORD_ELSEWHERE = {
    "--worker-password-file": "it is for mmg-worker; submitting jobs and serving take the main password, "
    "--password-file"
}
TLS_CERT = Option(
    ("--tls-cert",),
    "PATH",
    "certificate (PEM) to show to the other side; without it a server makes one, and the password proves it",
)
TLS_KEY = Option(("--tls-key",), "PATH", "its private key, if that is in another file")
TLS_CA = Option(
    ("--tls-ca",),
    "PATH",
    "accept only peers with the password and a certificate of these authorities (PEM)",
)
#: Options of every command that connects, or listens, with the main password.
CONNECTION = (PORT, PASSWORD, PASSWORD_FILE, TLS_CERT, TLS_KEY, TLS_CA)
MEMORY = Option(
    ("--memory",),
    "SIZE",
    'memory for intermediate data, such as "2GiB"; more goes to disk (default: an eighth of all memory)',
    memory_size,
)
VERBOSE = Option(("-v", "--verbose"), "", "log more; twice: everything")
QUIET = Option(("-q", "--quiet"), "", "print errors only")


def procs_option(help: str) -> Option:
    """Return the option --procs of a command, with its help there."""
    return Option(("--procs",), "N", help, slot_count)


def default_port(arguments: Arguments) -> int:
    """Return the port of addresses without one."""
    return DEFAULT_PORT if arguments.port is None else arguments.port


def find_password(command: str, arguments: Arguments, hosts: list[str]) -> str:
    """Return the password that the command line and the environment give; print warnings on stderr.

    `hosts` are the hosts that it will protect. Raises PasswordError if the password cannot be used.
    """
    password = passwords.find_password(arguments.password, arguments.password_file)
    _warn_of_password(command, arguments, password, hosts)
    return password


def find_password_of_worker(command: str, arguments: Arguments, hosts: list[str]) -> str:
    """Return the main password or the worker password that a worker is to prove.

    Otherwise as `find_password`.
    """
    from mmgevent.access.worker_password import find_password_of_worker

    password = find_password_of_worker(
        arguments.password,
        arguments.password_file,
        arguments.worker_password_file,
        prefers_main=bool(arguments.elect),
    )
    if not passwords.is_worker_password(password):
        _warn_of_password(command, arguments, password, hosts)
    return password


def _warn_of_password(command: str, arguments: Arguments, password: str, hosts: list[str]) -> None:
    is_in_file = getattr(arguments, "given", {}).get("password", COMMAND_LINE) != COMMAND_LINE
    if arguments.password is not None and not is_in_file and not arguments.quiet:
        say(
            command,
            "warning: everybody on this machine can see the password after -p; use --password-file instead",
        )
    warning = passwords.warn_if_short(password, hosts)
    if warning and not arguments.quiet:
        say(command, f"warning: {warning}")


def find_certificates(arguments: Arguments) -> Certificates:
    """Return the certificates that the options name. Raise UsageError for a key without one."""
    return Certificates(arguments.tls_cert, arguments.tls_key, arguments.tls_ca)


def how_to_join(address: Address, arguments: Arguments) -> str:
    """Return lines on how workers elsewhere join a server at `address`, without the password."""
    host, port = address
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
        host = "THISHOST" if is_loopback(host) else host  # on another machine that name means itself
        is_alone = False
    else:
        is_alone = is_loopback(host)
    where = "on this machine, which alone reaches it" if is_alone else "on each machine that is to help"
    lines = [f"{where}, run", f"    mmg-worker {format_address((host, port))}"]
    if arguments.tls_ca is not None:
        lines.append("with a certificate of the authority: --tls-cert, --tls-key and --tls-ca")
    is_given = arguments.password is not None or arguments.password_file is not None
    if is_given or any(os.environ.get(name) for name in (passwords.VARIABLE, passwords.FILE_VARIABLE)):
        lines.append("with the same password as here, or what `mmg-server worker-password` makes of it")
    elif is_alone:
        lines.append(f"as this user, whose password it finds in {passwords.default_path()}")
    else:
        import shlex

        copy = "umask 077; mkdir -p ~/.config/mmgevent; cat > ~/.config/mmgevent/"
        path = shlex.quote(passwords.default_path())
        lines.append("once it has the password of this one:")
        lines.append(f"    ssh MACHINE '{copy}password' < {path}")
        lines.append("or the worker password, with which it can work and not submit jobs:")
        lines.append(f"    mmg-server worker-password | ssh MACHINE '{copy}worker-password'")
    return "\n".join(lines)


def say_if_slow(command: str, arguments: Arguments) -> None:
    """With -v, print why the C core is not in use, if it is not."""
    if not arguments.verbose or arguments.quiet:
        return
    from mmgevent.wire.hello import missing_core

    why = missing_core()
    if why:
        say(command, f"the C core is not in use here, which makes inner loops slower: {why}")


def start_logging(arguments: Arguments) -> None:
    """Send log messages of mmgevent to stderr as -v asks; without -v, logging is not even imported.

    The job file decides about all other loggers: its `logging.basicConfig` works as in a script.
    """
    if not arguments.verbose:
        return
    import logging

    level = logging.DEBUG if arguments.verbose > 1 else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("mmgevent")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def silence_warnings(arguments: Arguments) -> None:
    """With -q let mmgevent log errors only.

    Call it after the engine was started, which need not wait for the import of logging.
    """
    if not arguments.quiet or arguments.verbose:
        return
    import logging

    logging.getLogger("mmgevent").setLevel(logging.ERROR)


def show_users_logging(arguments: Arguments) -> None:
    """Show what the job logs: with -v at level INFO, with -vv everything.

    The format is the job's own, if it has one. Call this after the job file is loaded. If the file
    has set another level than the default, that level stays.
    """
    if not arguments.verbose:
        return
    import logging

    logging.basicConfig()  # does nothing if the file has set up handlers
    if logging.root.level == logging.WARNING:
        logging.root.setLevel(logging.DEBUG if arguments.verbose > 1 else logging.INFO)
