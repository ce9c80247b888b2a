"""Read the hosts of `--on ssh://[USER@]HOST[:PORT],...`.

They become words of a command line of `ssh`. So only characters that mean nothing to a shell, to
`ssh` or to its configuration are accepted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mmgevent.access.addresses import MAX_HOST_CHARS, parse_port
from mmgevent.errors import UsageError

#: How these addresses begin.
SCHEME = "ssh://"

#: Most hosts of one run. Each has a process of `ssh` and a thread here.
MAX_HOSTS = 256

#: Longest user name, characters: that of Linux.
MAX_USER_CHARS = 32

EXPECTED = "expected ssh://[USER@]HOST[:PORT],... with letters, digits and . _ - in USER and HOST"

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_PYTHON = re.compile(r"(~/)?[A-Za-z0-9_./][A-Za-z0-9_./+-]*", re.ASCII)


class SshHost(NamedTuple):
    """One host, as `ssh` gets it."""

    host: str
    #: None for what the configuration of `ssh` says
    user: str | None = None
    #: None for what the configuration of `ssh` says
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


def parse_ssh_hosts(text: str) -> list[SshHost]:
    """Return the hosts of "ssh://h1,user@h2:2222,[::1]", in order, without repeats.

    Raises UsageError for anything else.
    """
    if not text.startswith(SCHEME):
        raise UsageError(f"{text!r} names no hosts; {EXPECTED}")
    parts = text.removeprefix(SCHEME).removesuffix("/").split(",")
    hosts = list(dict.fromkeys(_parse_host(part) for part in parts))
    if len(hosts) > MAX_HOSTS:
        raise UsageError(f"{len(hosts)} hosts are too many for ssh://, at most {MAX_HOSTS} are taken")
    return hosts


def check_remote_python(text: str) -> str:
    """Return the name or path of an interpreter on other hosts.

    Raises UsageError for what a shell there would change.
    """
    if not _PYTHON.fullmatch(text):
        raise UsageError(
            f"{text!r} is no interpreter: expected a name or a path such as ~/venv/bin/python, with letters, "
            "digits and . _ / + -, or uv"
        )
    return text


def _parse_host(text: str) -> SshHost:
    if not text.strip():
        raise UsageError(f"a host is empty; {EXPECTED}")
    user, at, place = text.rpartition("@")
    if at and (not _WORD.fullmatch(user) or len(user) > MAX_USER_CHARS):
        raise UsageError(f"{user!r} in {text!r} is no user name; {EXPECTED}")
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        is_host = bool(bracket) and _is_ipv6(host) and (not rest or rest.startswith(":"))
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = place.partition(":")
        is_host = bool(_WORD.fullmatch(host)) and len(host) <= MAX_HOST_CHARS
    if not is_host:
        raise UsageError(f"{place!r} in {text!r} is no host; {EXPECTED}")
    return SshHost(host, user or None, parse_port(port, EXPECTED) if colon else None)


def _is_ipv6(host: str) -> bool:
    import ipaddress  # takes 8 ms, and few need it

    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False
