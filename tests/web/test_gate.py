"""Who may talk to the dashboard."""

import pytest

from mmgevent.web.gate import MAX_QUERY_CHARS, Gate, Refused

TOKEN = "a-token_of-letters"


def check(changes=False, query=f"token={TOKEN}", host="127.0.0.1:8080", **headers):
    environ = {"HTTP_HOST": host, "QUERY_STRING": query}
    environ.update({f"HTTP_{name.upper()}": value for name, value in headers.items()})
    return Gate(TOKEN).check(environ, changes=changes)


BEARER = f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080", "127.0.0.1", "127.9.9.9:1"]
)
def test_whoever_has_the_token_may_look_on_this_machine_or_through_ssh(host):
    assert check(host=host)["token"] == TOKEN
    assert check(host=host, query="", authorization=BEARER) == {}
    assert check(host=host, origin=f"http://{host}", sec_fetch_site="same-origin")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8080",
     "evil@127.0.0.1.example", "[::1", "0.0.0.0:8080", "127.0.0.1:8080:1", "2130706433.example"],
)  # fmt: skip
def test_other_names_of_this_page_are_refused(host):
    with pytest.raises(Refused, match="no such name"):
        check(host=host)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8080", "http://127.0.0.1:8081", ""]
)
def test_pages_of_other_sites_are_refused(origin):
    with pytest.raises(Refused, match="another site"):
        check(origin=origin)
    with pytest.raises(Refused, match="another site"):
        check(changes=True, origin=origin, authorization=BEARER)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_the_browser_says_come_from_elsewhere_are_refused(site):
    with pytest.raises(Refused, match="another site"):
        check(sec_fetch_site=site)


NAVIGATION = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


def come(path, query=f"token={TOKEN}", changes=False, **headers):
    environ = {"HTTP_HOST": "127.0.0.1:8080", "QUERY_STRING": query, "PATH_INFO": path}
    environ.update({f"HTTP_{name.upper()}": value for name, value in {**NAVIGATION, **headers}.items()})
    return Gate(TOKEN).check(environ, changes=changes)


def test_a_link_leads_to_the_page_with_the_token_and_to_nothing_else():
    assert come("/")["token"] == TOKEN  # that of the file of --open
    for refused in (
        {"path": "/", "query": ""},
        {"path": "/api/status"},
        {"path": "/", "changes": True, "authorization": BEARER},
        {"path": "/", "sec_fetch_dest": "iframe"},
        {"path": "/", "sec_fetch_mode": "no-cors"},
        {"path": "/", "origin": "null"},
    ):
        with pytest.raises(Refused):
            come(**refused)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "token=",
        "token=wrong",
        f"token={TOKEN}x",
        f"token={TOKEN[:-1]}",
        f"Token={TOKEN}",
        "token=%ff",
        "token=\udcff",
    ],
)
def test_without_the_token_nothing_is_shown(query):
    with pytest.raises(Refused, match="token"):
        check(query=query)


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, ""])
def test_a_wrong_header_is_refused_whatever_the_address_says(authorization):
    with pytest.raises(Refused, match="token"):
        check(changes=True, authorization=authorization)


def test_what_changes_something_needs_the_header_which_no_form_can_send():
    with pytest.raises(Refused, match="Bearer TOKEN"):
        check(changes=True)
    check(changes=True, query="", authorization=BEARER)


def test_long_and_crowded_queries_are_refused():
    with pytest.raises(Refused) as refused:
        check(query=f"token={TOKEN}&x={'x' * MAX_QUERY_CHARS}")
    assert refused.value.status.startswith("414")
    with pytest.raises(Refused, match="too many fields"):
        check(query="&".join(f"f{i}=1" for i in range(20)))
