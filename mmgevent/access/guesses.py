"""Limit the rate of password guesses by address.

Each proof is a debt of the address that it came from, and PAUSE_S pays one off. A right proof is
forgiven. A proof is checked only when at most FREE_GUESSES debts of its address are left. So
parallel guesses are no faster than guesses in sequence. A proof that would wait longer than
MAX_WAIT_S is not checked at all. So the right password still works from that address: it waits in
line with the guesses, and at most MAX_WAIT_S after they have ended. Peers that never send a proof
have no debts.

Guesses from thousands of addresses are not limited: only a long password protects against those. No
I/O and no clock.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from mmgevent.errors import ConnectError

#: Time that pays off one guess, seconds: two guesses a second for each address.
PAUSE_S = 0.5

#: Guesses that need not wait. People mistype, and a machine may start several workers with an old
#: password.
FREE_GUESSES = 8

#: Longest wait of a proof, seconds: half of the time for a handshake.
MAX_WAIT_S = 5.0

#: Most addresses with debts. Beyond that, the one that was quiet for longest is forgotten.
MAX_ADDRESSES = 4096

#: Bits of an IPv6 address that name a network. One machine may have all addresses of it.
NETWORK_BITS = 64


class Guesses:
    """Debts of addresses."""

    def __init__(self) -> None:
        #: address -> when its debts will be paid off, the one that was quiet for longest first
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def admit(self, host: str, now: float) -> float:
        """Return how many seconds a proof from this address must wait.

        Raises ConnectError if it must not be checked at all.
        """
        network = _network(host)
        free_at = max(now, self._free_at.get(network, now)) + PAUSE_S
        wait_s = max(0.0, free_at - now - FREE_GUESSES * PAUSE_S)
        if wait_s > MAX_WAIT_S:
            raise ConnectError(
                "too many wrong passwords came from that address; it may try again in a moment"
            )
        self._free_at[network] = free_at
        self._free_at.move_to_end(network)
        if len(self._free_at) > MAX_ADDRESSES:
            self._free_at.popitem(last=False)
        return wait_s

    def forgive(self, host: str, now: float) -> None:
        """Cancel the debt of a proof that was admitted: it was right."""
        network = _network(host)
        free_at = self._free_at.get(network, now) - PAUSE_S
        if free_at > now:
            self._free_at[network] = free_at
        else:
            self._free_at.pop(network, None)

    def __len__(self) -> int:
        """Return how many addresses have debts."""
        return len(self._free_at)


def _network(host: str) -> str:
    """Return the addresses that one machine may have: an IPv4 address, or an IPv6 network."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address), NETWORK_BITS), strict=False))
