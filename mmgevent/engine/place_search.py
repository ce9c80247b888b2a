"""One search for a place in a cluster of equals: what was tried, and what its end means."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mmgevent.access.addresses import Address
from mmgevent.engine.net.election import CONTEST_S, Elected, Joined, LostServerError, NoPlaceError
from mmgevent.errors import AuthenticationError, MmgeventError, VersionMismatchError

Find = Callable[[Sequence[Address]], Joined | Elected]


class PlaceSearch:
    """What was tried since the last place was lost."""

    def __init__(self, addresses: Sequence[Address], find: Find, *, is_first: bool):
        """`find(addresses)` finds a place, as `election.bind_or_connect`.

        `is_first`: there never was a place, so that a refusal may be final.
        """
        self._addresses = addresses
        self._find = find
        self._is_first = is_first
        #: address -> why this member had no place there
        self._refusals: dict[Address, MmgeventError] = {}
        #: address -> when it was tried first
        self._tried: dict[Address, float] = {}

    def next_place(self) -> Joined | Elected:
        """Return a place at an address that has not refused this member (blocks).

        Raises NoPlaceError, AuthenticationError or VersionMismatchError if there is none.
        """
        left = [address for address in self._addresses if address not in self._refusals]
        try:
            if not left:
                raise NoPlaceError([], True)
            place = self._find(left)
        except (NoPlaceError, AuthenticationError, VersionMismatchError) as error:
            raise self._judge(error) from error
        self._tried.setdefault(place.address, time.monotonic())
        return place

    def refuse(self, place: Joined | Elected, error: MmgeventError) -> None:
        """Note that a place was none. Raises the error again if this member was elected there."""
        if isinstance(place, Elected):
            raise error
        self._refusals[place.address] = error

    def is_contested(self, place: Joined | Elected, error: LostServerError) -> bool:
        """Return whether to try an address again whose server was lost before its hello.

        A chance reset must not make a second server. So the address counts as refused only after
        CONTEST_S.
        """
        if time.monotonic() - self._tried[place.address] < CONTEST_S:
            return True
        self._refusals[place.address] = error
        return False

    def _judge(self, error: MmgeventError) -> MmgeventError:
        """Return the error of a search in which no place was found.

        Only a first one may be final.
        """
        every = (*self._refusals.values(), error)
        reasons = [str(reason) for reason in every if str(reason)]
        if not self._is_first:
            is_occupied = bool(self._refusals) or getattr(error, "is_occupied", True)
            return NoPlaceError(reasons, is_occupied)
        if not self._refusals:
            return error
        if any(isinstance(reason, VersionMismatchError) for reason in every):
            return VersionMismatchError("; ".join(reasons))
        return NoPlaceError(reasons, True)
