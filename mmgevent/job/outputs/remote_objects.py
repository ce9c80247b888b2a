"""Write an object of an object store.

1. What is written waits in a file without a name on this machine. A whole object is sent by one
   call, so that the store shows all of it or nothing, whatever ends this process.
2. Only stores whose objects appear as a whole are written to.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from mmgevent.errors import OutputError
from mmgevent.job.remote.deadlines import ANSWER_S, within
from mmgevent.job.remote.systems import RemoteError, check_url, explain, open_system, turn
from mmgevent.job.remote.urls import check_password, schemes_of
from mmgevent.machine.resources import find_scratch_folder

T = TypeVar("T")

#: Stores whose objects appear when they are whole. `memory` is this process alone.
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")

#: Protocols of the file system of adlfs, which replaces objects only if it is told to.
_AZURE = frozenset(("az", "abfs", "abfss"))

#: Slowest connection that is waited for, bytes a second. Readers wait for none that is slower.
SLOWEST_BYTES = 100_000

_ADVICE = "credentials come from the environment"


class RemoteFile:
    """An object that is sent when all is written."""

    is_terminal = False

    def __init__(self, name: str, system: Any, path: str, before_naming: Callable[[], None] | None = None):
        """`name`: its address. `before_naming`: called when all is written, before it is sent."""
        self.name: str | None = name
        self._system = system
        self._path = path
        self._before_naming = before_naming
        #: its bytes, once all is written
        self.size = 0
        try:
            self._file: Any = _create_temporary(tempfile.TemporaryFile)
            #: the name that it is opened by
            self._local = f"/proc/self/fd/{self._file.fileno()}"
            if not os.path.exists(self._local):
                self._file.close()
                self._file = _create_temporary(tempfile.NamedTemporaryFile)  # removed when it is closed
                self._local = self._file.name
        except OSError as error:
            raise self._local_error(error) from error

    def write(self, data: memoryview) -> None:
        assert self._file is not None, "nothing can be written after the end"
        while data:
            try:
                data = data[self._file.write(data) :]
            except OSError as error:
                raise self._local_error(error) from error

    def _local_error(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.name}: a temporary file in {find_scratch_folder()} failed "
            f"({error.strerror or error}); set TMPDIR to a folder with more room"
        )

    def commit(self) -> None:
        """Send the object; raise RemoteError."""
        if self._file is None:
            return
        self.size = self._file.tell()
        if self._before_naming is not None:
            self._before_naming()
        file, limit_s = self._file, ANSWER_S + self.size / SLOWEST_BYTES
        self._file = None

        def send() -> None:  # one that is given up has the file for as long as it runs
            try:
                self._system.put_file(self._local, self._path, **_options_of(self._system))
            finally:
                file.close()

        answered(limit_s, self._system, send)

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _create_temporary(create: Callable[..., Any]) -> Any:
    return create(prefix="mmgevent-output-", dir=find_scratch_folder(), buffering=0)


def _options_of(system: Any) -> dict[str, Any]:
    """Return what `put_file` needs to replace an object. Others than Azure's do so, and may fail with it."""
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return {"overwrite": True} if _AZURE.intersection(protocols) else {}


def open_object(url: str) -> RemoteFile:
    """Return the destination for one object. Raise OutputError if it can be known to fail."""
    system, path = open_store(url)
    folder, _, name = path.rpartition("/")
    if not name or (not folder and "memory" not in schemes_of(url)):
        raise OutputError(f"cannot write {url}: name an object in a bucket, or end it with / for parts")
    try:
        check_bucket(system, path)
    except OSError as error:
        raise OutputError(f"cannot write {url}: {error}") from error
    return RemoteFile(url, system, path)


def open_store(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it. Raise OutputError."""
    check_password(url, OutputError)
    if "::" in url or schemes_of(url)[0] not in _STORES:
        raise OutputError(
            f"cannot write {url}: results go to files here and to {', '.join(f'{each}://' for each in _STORES)}, "
            f"where an object appears as a whole"
        )
    check_url(url, OutputError)
    try:
        return within(ANSWER_S, open_system, url)
    except Exception as error:  # each file system has exceptions of its own
        raise OutputError(f"cannot write {url}: {explain(error, _ADVICE)}") from error


def check_bucket(system: Any, path: str) -> None:
    """Raise RemoteError if there is no such bucket, or no access to it."""
    bucket = path.partition("/")[0]
    if bucket:  # memory:// has none
        answered(ANSWER_S, system, system.info, bucket)


def answered(limit_s: float, system: Any, function: Callable[..., T], *args: Any) -> T:
    """Return what a call gives. Raise RemoteError for any error of the file system."""

    def call() -> T:
        with turn(system):
            return function(*args)

    try:
        return within(limit_s, call)
    except Exception as error:  # each file system has exceptions of its own
        raise RemoteError(explain(error, _ADVICE)) from error
