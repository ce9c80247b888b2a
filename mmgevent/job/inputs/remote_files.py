"""Remote files of a source: found and looked at by the driver, many at one time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.compressed import find_kind
from mmgevent.job.inputs.lists import PathList
from mmgevent.job.inputs.refs import HEAD_BYTES, Identity
from mmgevent.job.inputs.window import UNKNOWN_BYTES
from mmgevent.job.remote.deadlines import map_ahead
from mmgevent.job.remote.objects import RemoteLook, RemoteObject, cannot_read, find_objects, look_at
from mmgevent.job.remote.systems import check_url, forget_archives
from mmgevent.job.remote.web import hash_of

#: Size from which a file is worth a warning if it cannot be cut, bytes: that of a split.
LARGE_BYTES = 4 * 1024 * 1024

#: Most names in that warning.
_SHOWN_NAMES = 3


class RemoteFiles:
    """What is known of the remote paths of a source."""

    def __init__(self, path_list: PathList | None):
        """path_list: where the paths come from, which are then names of objects, and nothing else."""
        forget_archives()
        self._list = path_list
        self._found: dict[str, list[RemoteObject]] = {}
        self._whole: list[str] = []

    def check(self, paths: list[str]) -> Iterator[str]:
        """Find the objects, and yield their addresses. Raise DatasourceError as `find_objects` does."""
        if self._list is None:
            for path in paths:
                self._found[path] = find_objects(path)
                yield from (found.url for found in self._found[path])
            return
        for path in paths:
            check_url(path, DatasourceError)
        for found, look in map_ahead(
            partial(look_at, head_bytes=0), [RemoteObject(path, {}) for path in paths]
        ):
            self._result(found, look)
            yield found.url

    def look(self, path: str, *, needs_kind: bool) -> Iterator[tuple[Identity, int, bool]]:
        """Yield (identity, bytes of its start, whether it can be read only as a whole) of each object.

        Raise DatasourceError for one that cannot be read.
        """
        if self._list is not None:
            check_url(path, DatasourceError)
            objects = [RemoteObject(path, {})]
        else:
            objects = self._found.pop(path, []) or find_objects(path)
        head_bytes = HEAD_BYTES if needs_kind else 0
        for found, call in map_ahead(partial(look_at, head_bytes=head_bytes), objects):
            look = self._result(found, call)
            size = UNKNOWN_BYTES if look.size is None else look.size
            kind = find_kind(look.head) if needs_kind else ""
            if not look.has_ranges and size > LARGE_BYTES:
                self._whole.append(found.url)
            yield (
                Identity(found.url, size, 0, hash_of(look.version), kind),
                len(look.head),
                not look.has_ranges,
            )

    def warn(self) -> None:
        """Log a warning about large files that one executor each has to read."""
        if not self._whole:
            return
        from mmgevent.machine.logs import get_log

        names = self._whole
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        get_log(__name__).warning(
            "remote files without ranges or a length, so one executor reads each of them (%d): %s%s",
            len(names),
            ", ".join(names[:_SHOWN_NAMES]),
            more,
        )

    def _result(self, found: RemoteObject, call: object) -> RemoteLook:
        try:
            look: RemoteLook = call()  # type: ignore[operator]
            return look
        except Exception as error:  # each file system has exceptions of its own
            place = self._list.places.get(found.url, "") if self._list is not None else ""
            raise cannot_read(found.url, error, place and f"{place}: ") from error
