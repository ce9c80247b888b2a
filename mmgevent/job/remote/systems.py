"""Remote file systems: fsspec, and what its errors mean.

fsspec is imported by the first use of this module's functions, in drivers and executors. Only
remote paths get here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

from mmgevent.errors import UsageError
from mmgevent.job.remote.deadlines import TooLateError
from mmgevent.job.remote.urls import check_password, schemes_of, without_password
from mmgevent.shown_text import shown

#: {scheme: package that fsspec needs for it}
_PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}

#: Packages that the extra `remote` installs.
_IN_EXTRA = frozenset({"aiohttp"})

#: Longest text of an error of a file system in one of ours, characters.
_MAX_TEXT_CHARS = 200

#: Parts of names of exceptions that mean that credentials are missing or wrong.
_CREDENTIAL_WORDS = ("Credential", "Authentication", "Token", "Forbidden")

_ADVICE = "credentials come from the environment, and --pass-env NAME passes them to executors elsewhere"

#: Schemes of ssh servers.
_SSH_SCHEMES = frozenset({"sftp", "ssh"})

#: {(process, what an address has before its path): file system}
_systems: dict[tuple[int, str], Any] = {}

#: {a key of the above, or (process, id of a file system): held by the call that runs}
_turns: dict[tuple[int, str | int], threading.Lock] = {}


class RemoteError(OSError):
    """A remote object cannot be found, read or written. The text says why, without its path."""


def import_fsspec(url: str, kind: type[UsageError]) -> Any:
    """Return the module. Raise `kind` if it is missing."""
    try:
        import fsspec
    except ImportError as error:
        raise kind(
            f"{without_password(url)} is remote, and the package fsspec is not installed; pip install 'mmgevent[remote]'"
        ) from error
    return fsspec


def check_url(url: str, kind: type[UsageError]) -> None:
    """Raise `kind` for a password in an address, an unknown scheme, and a package that is missing."""
    check_password(url, kind)
    fsspec = import_fsspec(url, kind)
    if "::" in url and not _SSH_SCHEMES.isdisjoint(schemes_of(url)):
        raise kind(
            f"{url}: files of ssh servers are read as they are, and not through ::; copy this one first"
        )
    for scheme in schemes_of(url):
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            if package is None:
                raise kind(f"{url} needs a package that is not installed: {_text_of(error)}") from error
            what = "'mmgevent[remote]'" if package in _IN_EXTRA else package
            raise kind(
                f"{url} needs the package {package}, which is not installed; pip install {what}"
            ) from error
        except ValueError as error:
            import difflib

            known = sorted(fsspec.available_protocols())
            nearest = difflib.get_close_matches(scheme.lower(), known, n=1)
            hint = f"; did you mean {nearest[0]}://?" if nearest else ""
            raise kind(f"{url}: fsspec has no protocol {scheme!r}{hint}") from error


def open_system(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path of the address in it.

    Raises what the file system raises. It may block.
    """
    import fsspec

    first = next(part for part in url.split("::") if "://" in part)
    place = (os.getpid(), _before_path(url))
    is_ssh = first.partition("://")[0] in _SSH_SCHEMES
    system = _systems.get(place)
    if system is None or (is_ssh and _is_lost(system)):
        if is_ssh or "::" in url:
            with _turns.setdefault(place, threading.Lock()):  # many threads need one connection or archive
                system = _systems.get(place)
                if system is None or (is_ssh and _is_lost(system)):
                    system = _systems[place] = _connect(url) if is_ssh else _open_archive(url)
        else:
            system, _ = fsspec.core.url_to_fs(url)
            system = _systems.setdefault(place, system)  # another thread may have been faster
    return system, system._strip_protocol(first)


def _connect(url: str) -> Any:
    """Return the file system of an ssh server."""
    from mmgevent.job.remote.ssh_servers import SshServer

    return SshServer(**SshServer._get_kwargs_from_urls(url), skip_instance_cache=True)


def _is_lost(server: Any) -> bool:
    """Return whether the connection to an ssh server has ended."""
    transport = server.client.get_transport()
    return transport is None or not transport.is_active()


def _open_archive(url: str) -> Any:
    """Return the file system of a chain, as it is now: fsspec would keep the list of an archive for ever."""
    import fsspec

    system, _ = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return system


def forget_archives() -> None:
    """Open archives and other chains anew at their next use: they may be other files by then."""
    for place in list(_systems):
        if place[0] == os.getpid() and "::" in place[1]:
            _systems.pop(place, None)


def turn(system: Any) -> contextlib.AbstractContextManager[Any]:
    """Return what to hold during a call of a file system that serves one call at a time.

    Those with an event loop of their own serve many. A connection of paramiko or ftplib, or the file
    of an archive, mixes up the answers to two threads.
    """
    if getattr(system, "async_impl", False):
        return contextlib.nullcontext()
    return _turns.setdefault((os.getpid(), id(system)), threading.Lock())


def _before_path(url: str) -> str:
    """Return what of an address makes its file system."""
    if "::" in url:
        first, _, rest = url.partition("::")
        return f"{first.partition('://')[0]}::{rest}" if "://" in first else f"{first}::{_before_path(rest)}"
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def explain(error: BaseException, advice: str = _ADVICE) -> str:
    """Return what an error of a file system means, in one line. advice: about credentials."""
    name, text = type(error).__name__, _text_of(error)
    if isinstance(error, (RemoteError, TooLateError)):
        return text
    if isinstance(error, FileNotFoundError):
        return "it does not exist" + (f" ({text})" if "ucket" in text else "")
    if isinstance(error, PermissionError) or any(word in name for word in _CREDENTIAL_WORDS):
        return f"no access ({text or name}); {advice}"
    if isinstance(error, OSError) and error.strerror:
        return without_password(error.strerror)
    return f"{name}: {text}" if text else name


def _text_of(error: BaseException) -> str:
    return shown(without_password(" ".join(str(error).split())), max_line_chars=_MAX_TEXT_CHARS)
