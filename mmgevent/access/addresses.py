"""Read network addresses as people write them.

To connect: `HOST`, `HOST:PORT`, `[::1]:PORT`, or a PORT of this machine. To listen: `HOST:PORT`, or
a PORT, which means all interfaces. A number alone is always a port. No name server is asked here:
addresses are bound and connected to as written.
"""

from __future__ import annotations

from mmgevent.errors import UsageError
from mmgevent.shown_text import shown

Address = tuple[str, int]

#: Default port, that of mincemeat. Systems take ports for outgoing connections from a range above
#: it.
DEFAULT_PORT = 11235

#: Host that a PORT alone listens on: every IPv4 interface.
ALL_INTERFACES = "0.0.0.0"

#: Host that a PORT alone connects to.
THIS_MACHINE = "localhost"

MAX_PORT = 65535

#: Longest host name, characters: the limit of DNS.
MAX_HOST_CHARS = 253


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """Return (host, port) of an address to connect to. Raises UsageError for anything else."""
    expected = "expected HOST, HOST:PORT or [IPV6]:PORT"
    host, port = _split(text, expected)
    if host is None:
        host = THIS_MACHINE
    if port == 0:
        raise UsageError(f"port 0 in {_show(text)} is nothing to connect to; {expected}, with a PORT from 1")
    return host, default_port if port is None else port


def parse_addresses(text: str, default_port: int = DEFAULT_PORT) -> list[Address]:
    """Return the addresses of a list separated by commas, in order, without repeats.

    Raises UsageError as `parse_address`.
    """
    addresses = [parse_address(part, default_port) for part in text.split(",")]
    return list(dict.fromkeys(addresses))


def parse_listen(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """Return (host, port) of an address to listen on. Port 0 means any free one.

    Raises UsageError for anything else.
    """
    host, port = _split(text, "expected PORT, HOST:PORT or [IPV6]:PORT")
    return ALL_INTERFACES if host is None else host, default_port if port is None else port


def parse_port(text: str, expected: str = "expected a number", lowest: int = 1) -> int:
    """Return a port number, at least `lowest`. Raises UsageError for anything else."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text[:9]) <= MAX_PORT:
        raise UsageError(f"{_show(text)} is not a port number from {lowest} to {MAX_PORT}; {expected}")
    return int(text)


def format_address(address: Address) -> str:
    """Return an address as text that the functions above can read: HOST:PORT, IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether `host` can mean only this machine."""
    return host.lower() in ("localhost", "::1") or host.startswith("127.")


def _show(text: str) -> str:
    return shown(repr(text), max_line_chars=MAX_HOST_CHARS + 10)


def _split(text: str, expected: str) -> tuple[str | None, int | None]:
    """Return host and port, each None if it is missing. A number alone is a port."""
    text = text.strip()
    if not text:
        raise UsageError(f"an address is empty; {expected}")
    if "://" in text:
        raise UsageError(f"{_show(text)} is a URL; {expected}")
    if text.startswith("["):
        return _split_bracketed(text, expected)
    if text.count(":") > 1:
        raise UsageError(
            f"{_show(text)} could be an IPv6 address with or without a port; write [{text}]:PORT"
        )
    host, colon, port = text.partition(":")
    if not colon:
        if text.isascii() and text.isdigit():
            return None, parse_port(text, expected, lowest=0)
        return _checked_host(host, text, expected), None
    if not host:
        return None, parse_port(port, expected, lowest=0)
    return _checked_host(host, text, expected), parse_port(port, expected, lowest=0)


def _split_bracketed(text: str, expected: str) -> tuple[str, int | None]:
    host, bracket, rest = text[1:].partition("]")
    if not bracket or not _is_ipv6(host) or (rest and not rest.startswith(":")):
        raise UsageError(f"{_show(text)} is not an IPv6 address in brackets; {expected}")
    return host, parse_port(rest[1:], expected, lowest=0) if rest else None


def _is_ipv6(host: str) -> bool:
    import ipaddress  # takes 8 ms, and few need it

    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _checked_host(host: str, text: str, expected: str) -> str:
    """Return the host. Raises UsageError for what cannot be a name.

    Names may have any letters: resolvers know which exist.
    """
    if (
        host.startswith("-")
        or not host.isprintable()
        or any(c in " /@,[]'\"" for c in host)
        or len(host) > MAX_HOST_CHARS
    ):
        raise UsageError(f"{_show(text)} is not an address; {expected}")
    return host
