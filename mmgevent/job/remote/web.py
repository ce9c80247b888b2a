"""Objects of web servers, read in ranges if the server allows that.

Any answer may say that the object is another one by now, so each is compared. A server that ignores
ranges answers with the whole object: only its start is read then.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import xxhash

from mmgevent.job.inputs.window import Changed
from mmgevent.job.remote.deadlines import ANSWER_S
from mmgevent.job.remote.systems import RemoteError

#: Headers that distinguish versions of an object, the best first.
_VERSION_HEADERS = ("ETag", "Content-MD5", "Last-Modified")

#: Status codes of HTTP.
_OK, _PARTIAL, _NO_SUCH_RANGE = 200, 206, 416

#: The first byte of an answer that is a part.
_RANGE_START = re.compile(r"bytes\s+(\d+)-", re.IGNORECASE)

#: What the status codes mean that have more to say than their name.
_MEANINGS = {
    401: "no access: the server asks for a user and a password (401)",
    403: "no access: the server forbids it (403)",
    404: "it does not exist (404)",
    410: "it does not exist (410)",
}


class Answer(NamedTuple):
    """What a server says of an object."""

    #: bytes of the object, or None if the server does not say
    size: int | None
    version: str
    #: whether the server gives ranges
    has_ranges: bool
    data: bytes


def ask(system: Any, url: str, start: int, n_bytes: int) -> Answer:
    """Return up to `n_bytes` from an offset; the start of the object if there are no ranges.

    Raise RemoteError, and what aiohttp raises.
    """
    from fsspec.asyn import sync

    answer: Answer = sync(system.loop, _ask, system, url, start, n_bytes)
    return answer


def read_range(system: Any, url: str, start: int, n_bytes: int, size: int, version: int) -> bytes:
    """Return these bytes of an object. Raise Changed if it is another one, and as `ask` does."""
    answer = ask(system, url, start, n_bytes)
    check_version(answer.size, answer.version, size, version)
    if not answer.has_ranges or len(answer.data) < n_bytes:
        raise Changed(f"its server gave {len(answer.data)} bytes of {n_bytes}")
    return answer.data


def open_stream(system: Any, url: str) -> Any:
    """Return a file that gives all bytes of an object, from its start."""
    from aiohttp import ClientTimeout

    headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    # The user's functions run between two reads, so only each read has a deadline.
    options = {
        "timeout": ClientTimeout(total=None, sock_connect=ANSWER_S, sock_read=ANSWER_S),
        **system.kwargs,
    }
    options["headers"] = headers
    return system.open(url, block_size=0, size=1, **options)  # a size, or it asks for one again


def hash_of(version: str) -> int:
    """Return what refs have of a version."""
    return xxhash.xxh3_64_intdigest(version.encode())


def check_version(size: int | None, version: str, old_size: int, old_hash: int) -> None:
    """Raise Changed unless size and version are what they were."""
    if size is not None and size != old_size:
        raise Changed(f"it had {old_size} bytes and now has {size}")
    if hash_of(version) != old_hash:
        raise Changed("it was written to")


async def _ask(system: Any, url: str, start: int, n_bytes: int) -> Answer:
    session = await system.set_session()
    options = dict(system.kwargs)
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
    if n_bytes:
        headers["Range"] = f"bytes={start}-{start + n_bytes - 1}"
    async with session.get(system.encode_url(url), headers=headers, **options) as response:
        told, status = response.headers, response.status
        version = next((told[name] for name in _VERSION_HEADERS if told.get(name)), "")
        content_range = told.get("Content-Range", "")
        stated = content_range.rpartition("/")[2]
        if status == _NO_SUCH_RANGE:  # it has no byte at all
            return Answer(int(stated) if stated.isdecimal() else 0, version, True, b"")
        if status not in (_OK, _PARTIAL):
            raise RemoteError(_MEANINGS.get(status, f"the server says {status} {response.reason}"))
        first = _RANGE_START.match(content_range)
        if status == _PARTIAL and first and int(first[1]) != start:
            raise RemoteError(f"the server gave bytes from {first[1]}, and was asked for those from {start}")
        data = await _read(response.content, n_bytes)
        is_encoded = told.get("Content-Encoding", "identity") not in ("", "identity")
        if status == _PARTIAL and first and stated.isdecimal() and not is_encoded:
            return Answer(int(stated), version, True, data)
        length = told.get("Content-Length", "")
        size = int(length) if status == _OK and length.isdecimal() and not is_encoded else None
        return Answer(size, version, False, data)


async def _read(content: Any, n_bytes: int) -> bytes:
    parts: list[bytes] = []
    while n_bytes and (part := await content.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)
