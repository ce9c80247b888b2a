"""Remote paths: what they look like. Nothing here imports fsspec."""

from __future__ import annotations

import re

from mmgevent.errors import UsageError

#: A scheme of two characters or more, which a path begins with. In a chain, such as
#: `simplecache::s3://...`, the first may have no `//`.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:://|::(?=.*://))", re.DOTALL)

#: User and password of an address. Both may have an @: the last one before the path ends them.
_PASSWORD = re.compile(r"(?<=://)([^/:]*):([^/]*)@")


def is_remote(path: str) -> bool:
    """Return whether fsspec opens a path. A local file of such a name is `./http://...`."""
    return ":" in path and _REMOTE.match(path) is not None


def schemes_of(url: str) -> list[str]:
    """Return the schemes of a chain, the outermost first."""
    return [part.partition("://")[0] for part in url.split("::") if "://" in part or part.isalnum()]


def without_password(text: str) -> str:
    """Return a text in which no address has a password."""
    return _PASSWORD.sub(r"\1:***@", text)


def check_password(url: str, kind: type[UsageError]) -> None:
    """Raise `kind` if an address has a password: paths travel, and are shown."""
    if _PASSWORD.search(url):
        scheme = schemes_of(url[: _PASSWORD.search(url).start()] + "x")[-1]  # type: ignore[union-attr]
        variable = f"FSSPEC_{scheme.upper()}_PASSWORD"
        raise kind(
            f"{without_password(url)} has a password in it, which would be shown and sent with each item; put it into the "
            f"environment variable {variable}, leave it out of the path, and pass the variable to executors: "
            f"--pass-env {variable}"
        )
