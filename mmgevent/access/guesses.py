"""Slow down those who guess passwords, and as good as nobody else.

Each proof is a debt of the address that it came from, of which PAUSE_S pays off one; a right
one is forgiven. A proof is not looked at, and so not answered, before all but FREE_GUESSES of
its address are paid off: guesses made side by side come no faster than one by one. One that
would wait longer than MAX_WAIT_S is not looked at at all. So the right password gets in from
that address, too, within that time once guessing is over, and meanwhile as one of a queue.
Whoever does not get as far as a proof owes nothing and holds up nobody.

Who has thousands of addresses is not held up either; that is what long passwords are for.
No I/O and no clock.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from mmgevent.errors import ConnectError

PAUSE_S = 0.5  #: an address may go on guessing twice a second
FREE_GUESSES = 8  #: people mistype, and a machine may start several workers with an old password
MAX_WAIT_S = 5.0  #: half of what the handshake may take in all
MAX_ADDRESSES = 4096  #: in debt; beyond it the one longest quiet is forgotten
NETWORK_BITS = 64  #: of an IPv6 address: one machine has all the rest


class Guesses:
    """Debts of addresses."""

    def __init__(self) -> None:
        #: address -> when its debt will be paid off, longest quiet first
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def admit(self, host: str, now: float) -> float:
        """Return how many seconds a proof from this address waits; ConnectError if it is not to be looked at."""
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
        """Take back a proof that was admitted: it was right."""
        network = _network(host)
        free_at = self._free_at.get(network, now) - PAUSE_S
        if free_at > now:
            self._free_at[network] = free_at
        else:
            self._free_at.pop(network, None)

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._free_at)


def _network(host: str) -> str:
    """Return what one machine may have of addresses: an IPv4 address, or a network of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address), NETWORK_BITS), strict=False))
