"""place_search: which addresses are left, and which error a search without a place ends with."""

import pytest

from mmgevent.engine import place_search
from mmgevent.engine.net.election import Elected, Joined, LostServerError, NoPlaceError
from mmgevent.engine.place_search import PlaceSearch
from mmgevent.errors import VersionMismatchError

A, B = ("a", 1), ("b", 2)


def search(is_first=True):
    def find(addresses):
        asked.append(list(addresses))
        return Joined(None, addresses[0])

    asked = []
    return PlaceSearch([A, B], find, is_first=is_first), asked


def test_an_address_that_refuses_is_not_asked_again():
    places, asked = search()
    places.refuse(places.next_place(), VersionMismatchError("too old"))
    assert places.next_place().address == B
    assert asked == [[A, B], [B]]


@pytest.mark.parametrize(("is_first", "error"), [(True, VersionMismatchError), (False, NoPlaceError)])
def test_refusals_everywhere_are_final_only_for_who_never_had_a_place(is_first, error):
    places, _ = search(is_first)
    for reason in (VersionMismatchError("too old"), NoPlaceError(["no room"], True)):
        places.refuse(places.next_place(), reason)
    with pytest.raises(error, match="too old; no room") as caught:
        places.next_place()
    assert type(caught.value) is error


def test_a_place_as_server_that_was_none_ends_the_search():
    places, _ = search()
    with pytest.raises(NoPlaceError, match="gone"):
        places.refuse(Elected(None, A), NoPlaceError(["gone"], False))


def test_a_server_that_is_lost_is_looked_for_again_for_a_while(monkeypatch):
    places, asked = search()
    place = places.next_place()
    assert places.is_contested(place, LostServerError("reset"))
    assert places.next_place().address == A
    monkeypatch.setattr(place_search, "CONTEST_S", 0.0)
    assert not places.is_contested(place, LostServerError("reset"))
    assert places.next_place().address == B
    assert asked == [[A, B], [A, B], [B]]
