"""Who may talk to the dashboard: whoever has the token, and no page of another site.

- A browser of this machine runs pages of strangers. Such a page may send requests here, under a
  name of its own that leads to loopback (DNS rebinding), or by a form. So `Host` must name loopback,
  and `Origin`, where there is one, this very site. It may lead to the page by a link, which needs
  the token, too, and tells it nothing.
- Other users of this machine can connect, too. So every request needs the token: in the address,
  or as `Authorization: Bearer TOKEN`. What changes something needs the latter, which no form can
  send.

This module is pure: a WSGI environment in, a refusal or nothing out.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

#: Longest query that is read, characters. Ours have a token and a number.
MAX_QUERY_CHARS = 1024


_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::[0-9]{1,5})?")


class Refused(Exception):
    """A request that gets no answer but this."""

    def __init__(self, status: str, text: str):
        super().__init__(text)
        #: Status line of the answer, such as "403 Forbidden".
        self.status = status
        self.text = text


class Gate:
    """The rules of one dashboard."""

    def __init__(self, token: str):
        self._token = token.encode()

    def check(self, environ: Mapping[str, Any], *, changes: bool) -> dict[str, str]:
        """Return the query of a request that may pass. `changes`: it asks for more than to look.

        Raises Refused.
        """
        host = environ.get("HTTP_HOST", "")
        if not _is_loopback(host):
            raise Refused("403 Forbidden", "this page has no such name: use the address that was printed")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin != f"http://{host}":
            raise Refused("403 Forbidden", "another site asked for this")
        is_ours = environ.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin")
        if not (is_ours or (_opens_page(environ) and not changes)):
            raise Refused("403 Forbidden", "another site asked for this")
        query = _read_query(str(environ.get("QUERY_STRING", "")))
        given = _bearer(str(environ.get("HTTP_AUTHORIZATION", "")))
        if given is None and not changes:
            given = query.get("token")
        if given is None or not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token):
            where = "as Authorization: Bearer TOKEN" if changes else "in the address that was printed"
            raise Refused("403 Forbidden", f"the token is missing or wrong: it stands {where}")
        return query


def _opens_page(environ: Mapping[str, Any]) -> bool:
    """Return whether a link leads to the page, such as that of `--open`: whoever made it has the token."""
    return (
        environ.get("PATH_INFO") == "/"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )


def _is_loopback(host: str) -> bool:
    """Return whether a Host header names loopback, with any port: ssh may carry it to another."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["six"] or match["name"]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _read_query(text: str) -> dict[str, str]:
    if len(text) > MAX_QUERY_CHARS:
        raise Refused("414 URI Too Long", f"the query has more than {MAX_QUERY_CHARS} characters")
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=8).items()}
    except ValueError:
        raise Refused("400 Bad Request", "the query has too many fields") from None


def _bearer(header: str) -> str | None:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
