"""Remote objects: which ones a path stands for, and what distinguishes each from others."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.errors import DatasourceError
from mmgevent.job.remote import web
from mmgevent.job.remote.deadlines import LISTING_S, within
from mmgevent.job.remote.systems import check_url, explain, open_system, turn
from mmgevent.job.remote.urls import is_remote

#: What distinguishes versions of an object, by file system; the best first. The size counts, too.
_TAG_KEYS = ("ETag", "etag", "e_tag", "version_id", "md5Hash", "md5", "content_md5", "CRC")
_TIME_KEYS = (
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "modified",
    "modificationTime",  # webhdfs
    "modify",  # ftp
    "created",
)

_GLOB_CHARACTERS = "*?["
#: Of addresses of web servers: a question mark begins a query there.
_WEB_GLOB_CHARACTERS = "*["


class RemoteLook(NamedTuple):
    """What a file system says of an object."""

    #: bytes, or None if it does not say
    size: int | None
    version: str
    #: whether any part can be read without what comes before
    has_ranges: bool
    #: its first bytes, if they were asked for
    head: bytes


class RemoteObject(NamedTuple):
    """An object that a path stands for."""

    url: str
    #: what the list of its folder says of it; empty if it was not listed
    info: dict[str, Any]


def find_objects(url: str) -> list[RemoteObject]:
    """Return the objects that a remote path stands for, sorted.

    Raise DatasourceError if there is none, and for whatever keeps one from being found.
    """
    check_url(url, DatasourceError)
    try:
        found = within(LISTING_S, _find, url)
    except DatasourceError:
        raise
    except Exception as error:  # each file system has exceptions of its own
        raise cannot_read(url, error) from error
    if not found:
        raise DatasourceError(f"no input files: nothing is in or matches {url}")
    return found


def look_at(found: RemoteObject, head_bytes: int) -> RemoteLook:
    """Return what the file system says of an object. It may block; it raises what that raises."""
    system, path = open_system(found.url)
    if is_web(system):
        answer = web.ask(system, path, 0, max(1, head_bytes))
        return RemoteLook(answer.size, answer.version, answer.has_ranges, answer.data)
    with turn(system):
        return _look_at(system, path, found.info, head_bytes)


def _look_at(system: Any, path: str, info: dict[str, Any], head_bytes: int) -> RemoteLook:
    if not any(info.get(key) for key in _TAG_KEYS):  # lists and looks may give other times
        info = system.info(path)
    size: int | None = info.get("size")
    has_ranges = size is not None and not _is_archive(system)
    head = b""
    if head_bytes and size != 0:
        if has_ranges and size is not None:
            head = system.cat_file(path, start=0, end=min(size, head_bytes))
        else:
            with system.open(path, "rb") as file:
                head = file.read(head_bytes)
    return RemoteLook(size, version_of(info), has_ranges, head)


def version_of(info: dict[str, Any]) -> str:
    """Return what distinguishes this version of an object from others; "" if nothing does."""
    for key in _TAG_KEYS + _TIME_KEYS:
        if info.get(key) is not None:
            tag = str(info[key]).strip('"')  # some lists quote an ETag where looks do not
            return f"{key} {tag}"
    return ""


def is_web(system: Any) -> bool:
    """Return whether a file system is that of web servers, and not a copy of it on the disk."""
    return "http" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def cannot_read(url: str, error: BaseException, place: str = "") -> DatasourceError:
    """Return the error for an object that cannot be read. place: where its name stands, and a colon."""
    return DatasourceError(f"{place}cannot read {url}: {explain(error)}")


def _is_archive(system: Any) -> bool:
    """Return whether members are read from their start: zip, tar, and compressed files as systems."""
    from fsspec.archive import AbstractArchiveFileSystem

    return isinstance(system, AbstractArchiveFileSystem)


def _find(url: str) -> list[RemoteObject]:
    system, path = open_system(url)
    system.invalidate_cache()
    if is_web(system):
        return _find_on_web(system, url, path)
    with turn(system):
        return _find_in(system, url, path)


def _find_in(system: Any, url: str, path: str) -> list[RemoteObject]:
    info: dict[str, Any] = {}
    if path.strip("/"):
        try:
            info = system.info(path)
        except FileNotFoundError:
            if not any(c in path for c in _GLOB_CHARACTERS):
                raise
            return _matching(system, url, path)
    if info.get("type", "directory") != "directory":
        return [RemoteObject(url, info)]
    return _named(system, url, system.find(path, detail=True), path)


def _find_on_web(system: Any, url: str, path: str) -> list[RemoteObject]:
    if any(c in path for c in _WEB_GLOB_CHARACTERS):
        try:
            web.ask(system, path, 0, 1)
        except OSError:  # no object has this very name
            start = min(path.index(c) for c in _WEB_GLOB_CHARACTERS if c in path)
            root = path[:start].rpartition("/")[0] + "/"
            web.ask(system, root, 0, 1)  # a folder that is not there is an error, and not empty
            return _matching(system, url, path)
    elif path.endswith("/"):
        web.ask(system, path, 0, 1)
        return _named(system, url, {name: {"type": "file"} for name in system.find(path)}, path)
    else:
        web.ask(system, path, 0, 1)
    return [RemoteObject(url, {})]


def _matching(system: Any, url: str, path: str) -> list[RemoteObject]:
    """Return the objects that a glob stands for. Hidden ones count if it names any."""
    start = min(path.index(c) for c in _GLOB_CHARACTERS if c in path)
    folder = None if "/." in f"/{path}" else path[:start].rpartition("/")[0]
    return _named(system, url, system.glob(path, detail=True), folder)


def _named(system: Any, url: str, names: dict[str, dict[str, Any]], folder: str | None) -> list[RemoteObject]:
    """Return the objects among names of a file system, without hidden ones below the folder.

    folder: "" is all of an archive; None keeps hidden ones.
    """
    found = []
    for name, info in names.items():
        below = name[len(folder) :] if folder is not None and name.startswith(folder) else ""
        is_hidden = any(part.startswith(".") for part in below.split("/"))
        is_sorting = is_web(system) and "?" in name  # a link of a page that lists the folder by size, say
        if info.get("type") == "directory" or name.endswith("/") or is_hidden or is_sorting:
            continue
        found.append(RemoteObject(_url_of(system, url, name), {} if is_web(system) else info))
    return sorted(found, key=lambda each: each.url)


def _url_of(system: Any, url: str, name: str) -> str:
    """Return the address of a name of a file system, as `url` is written."""
    first, chain, rest = url.partition("::")
    if "://" not in first:  # such as simplecache::
        return f"{first}::{_url_of(system, rest, name)}"
    if is_remote(name):
        return name + chain + rest
    scheme, _, place = first.partition("://")
    own = type(system)._strip_protocol(first)
    # What stands between scheme and path, such as the host of sftp, is no part of names.
    end = len(place) - len(own) if place.endswith(own) else 0
    if own[:1] == "/" and not end and place[:1] != "/":  # memory://folder
        name = name.lstrip("/")
    return f"{scheme}://{place[:end]}{name}{chain}{rest}"
