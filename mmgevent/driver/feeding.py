"""The input side of a job in its driver: items in, encoded batches out.

A feeder reads no further than it is asked to.  For the case that the job must be submitted
again, or that files are not where executors are, it remembers little: refs of files, or, for a
datasource that is not known to give the same items again, the encoded batches in an unlinked
local file.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, chain, groupby, islice
from typing import Any, NamedTuple

from mmgevent.driver.batching import MAX_BATCH_BYTES as BATCH_BYTES
from mmgevent.driver.batching import BatchSize, Speed, next_size
from mmgevent.errors import DatasourceError, JobError, MmgeventError
from mmgevent.job.inputs.refs import Ref, Unreadable
from mmgevent.job.inputs.sources import is_in_memory, is_one_shot, is_safe_to_repeat
from mmgevent.job.inputs.walks import Repetition, Walk, note_call
from mmgevent.job.job import Job
from mmgevent.tasks.blame import blame_driver_code
from mmgevent.tasks.records import decode_items, encode_items
from mmgevent.tasks.unpicklable import RecordError
from mmgevent.wire.limits import MAX_BATCH_BYTES
from mmgevent.wire.positions import entry_of, place_of

log = logging.getLogger(__name__)

#: a slow datasource: what it gave in this time goes out, full or not
PATIENCE_S = 0.25
#: what an item without a length is taken to weigh before it is encoded, in bytes
SMALL_ITEM_BYTES = 64
#: Disk that the kept batches of one job may take, bytes. A larger copy would endanger the machine for the sake of a
#: rare loss, so such a job goes on without one.
MAX_KEPT_BYTES = 16 * 1024**3
#: Characters of a key that are shown in an error.
_KEY_CHARS = 60

Item = tuple[Any, Any, int]


class EncodedBatch(NamedTuple):
    items: int
    #: bytes the items stand for, the same measure as fills a batch: an encoded size has fixed parts, and a
    #: guess at bytes per second that included them would make batches shrink and shrink
    weight: int
    data: bytes
    #: its values are refs, each of which may stand for any number of items
    has_refs: bool = False


class Feeder:
    """Cuts a job's datasource into batches, numbered from 1 in datasource order."""

    def __init__(
        self,
        job: Job,
        clock: Callable[[], float] = time.monotonic,
        *,
        may_restart: bool = True,
        on_notice: Callable[[str], None] = log.warning,
    ):
        """Claim the datasource, and call it if it is a function.

        Without `may_restart` no batches are kept.  `on_notice` gets what the user should know.
        DatasourceError if the datasource was used up; JobError as `next_batch`.
        """
        self._job = job
        self._clock = clock
        self._on_notice = on_notice
        with _blaming_datasource():
            opened = job.open_datasource()
        self._items: Iterator[Item] = job.walk(opened)
        #: whether `next_batch` never waits for anything
        self.never_waits = is_in_memory(job.datasource)
        self._is_made = opened is not job.datasource
        self._may_read_again = is_safe_to_repeat(opened) or (self._is_made and is_one_shot(opened))
        #: what is known of walks through the same thing; None where it need not be known
        self._walk = None if self._may_read_again or is_one_shot(opened) else Walk(opened)
        self._kept: _BatchFile | None = None
        if may_restart and not self._may_read_again:
            self._kept = _BatchFile()
        #: batches that are given out before any that has yet to be read
        self._replay: Iterator[EncodedBatch] = iter(())
        self._cut: deque[EncodedBatch] = deque()
        self._held: Item | None = None  # read, and too large for the batch that was being filled
        self._refs: dict[int, list[tuple[Any, Ref]]] = {}
        self._has_content = False
        self._count = 0  # batches given out since the last restart
        self._sizes = array("Q")  # entries of each of them
        self._repetition = Repetition()
        #: bytes of an item, encoded, that its weight did not tell, on average of the last batch
        self._hidden_bytes = 0
        #: every item was given out
        self.has_ended = False

    def restart(self) -> None:
        """Begin again from the first item, for a server that has seen nothing yet.

        JobError (kind "disk") if the batches that this needs were not kept.
        """
        self._count = 0
        self._sizes = array("Q")
        self._cut.clear()
        self.has_ended = False
        if self._kept is not None:
            self._replay = self._kept.read()
            return
        if not self._may_read_again:
            raise _not_kept()
        self._repetition.restart()
        self._held = None
        self._refs.clear()
        with _blaming_datasource():
            self._items = self._job.walk(self._job.reopen_datasource())

    def next_batch(self, speed: Speed) -> tuple[int, EncodedBatch] | None:
        """Return (number, batch); None at the end of the datasource.

        JobError (kind "datasource") for an exception of the user's own iterator, DatasourceError for
        what is no item, cannot travel or is too large, and for a datasource that was used up.
        """
        batch = next(self._replay, None)
        if batch is None:
            batch = self._cut.popleft() if self._cut else self._read_batch(speed)
            if batch is None:
                self.has_ended = True
                return None
        self._count += 1
        self._sizes.append(batch.items)
        return self._count, batch

    def content_of(self, number: int) -> EncodedBatch:
        """Return a batch again, with the contents of its files; later ones will have them at once."""
        self._has_content = True
        refs = self._refs.get(number)
        if refs is None:
            raise MmgeventError(f"the server asked for the contents of batch {number}, which has no files")
        return _encode([(key, _with_content(ref)) for key, ref in refs], sum(ref.weight for _, ref in refs))

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """Yield (place, (key, value)) of the items at these ascending (batch, position), as far as they can be had.

        What can no longer be read is left out: files that have changed, and one-shot datasources of jobs that are
        over.
        """
        if self._kept is not None:
            return self._kept.read_again(places)
        if self._refs:
            return _read_refs_again(self._refs, places)
        return self._walk_again(places) if self._may_read_again else iter(())

    @property
    def reads_again_quickly(self) -> bool:
        """Return whether items are better read again at once: they are in memory, or kept while the job goes on."""
        return self._kept is not None or self.never_waits

    def _walk_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        starts = [0, *accumulate(self._sizes)]
        wanted = {starts[batch - 1] + entry_of(position): (batch, position) for batch, position in places}
        if not wanted:
            return
        with _blaming_datasource():
            items = self._job.walk(self._job.reopen_datasource())
            for index, (key, value, _) in enumerate(islice(items, max(wanted) + 1)):
                if index in wanted:
                    yield wanted[index], (key, value)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _read_batch(self, speed: Speed) -> EncodedBatch | None:
        """Read items and encode them; what does not fit one batch waits in `_cut`."""
        items, weight = self._pull(speed)
        if not items:
            return None
        refs = items if isinstance(items[0][1], Ref) else None
        if refs is not None and self._has_content:
            items = [(key, _with_content(ref)) for key, ref in items]
        batches = list(_encode_cut(items, weight))
        if refs is not None:
            starts = accumulate((batch.items for batch in batches), initial=0)
            for number, (start, batch) in enumerate(zip(starts, batches, strict=False), self._count + 1):
                self._refs[number] = refs[start : start + batch.items]
        self._hidden_bytes = (sum(len(batch.data) for batch in batches) - weight) // len(items)
        for batch in batches:
            self._keep(batch)
        self._cut.extend(batches[1:])
        return batches[0]

    def _pull(self, speed: Speed) -> tuple[list[tuple[Any, Any]], int]:
        """Read items for one batch; return them with what they weigh together."""
        size = self._next_size(speed)
        items: list[tuple[Any, Any]] = []
        total = 0
        until = self._clock() + PATIENCE_S
        is_at_end = True
        with _blaming_datasource():
            for item in self._items if self._held is None else chain([self._take_held()], self._items):
                key, value, weight = item
                weight = weight or (len(value) if type(value) in (str, bytes) else SMALL_ITEM_BYTES)
                if items and weight > BATCH_BYTES:
                    self._held, is_at_end = (
                        item,
                        False,
                    )  # it goes alone: a batch of several is far below any limit
                    break
                items.append((key, value))
                total += weight
                if size.is_reached(len(items), total) or (len(items) % 64 == 1 and self._clock() > until):
                    is_at_end = False
                    break
            self._note_items(items, is_at_end)
        return items, total

    def _next_size(self, speed: Speed) -> BatchSize:
        options = self._job.options
        if options.allocation == "oneshot":
            return BatchSize(1, 0)
        size = next_size(speed, at_least=options.greenlets)
        if self._hidden_bytes > SMALL_ITEM_BYTES:  # lists, arrays: nobody sees how large they are
            size.max_items = max(1, min(size.max_items, BATCH_BYTES // self._hidden_bytes))
        return size

    def _take_held(self) -> Item:
        assert self._held is not None
        held, self._held = self._held, None
        return held

    def _note_items(self, items: list[tuple[Any, Any]], is_at_end: bool) -> None:
        """Count what was read; DatasourceError where items must have been lost since an earlier walk."""
        walk = self._walk
        if walk is not None:
            if items and not walk.has_begun:
                walk.begin(_digest(items[0]))
            walk.count(len(items))
            if is_at_end:
                walk.end()
            return
        again = self._repetition
        again.count(len(items))
        for item in items if self._is_made else ():
            if not again.wants_digest or isinstance(item[1], Ref):  # a file may have been touched meanwhile
                break
            again.compare(_digest(item))
        if is_at_end:
            n_items = again.end()
            if self._is_made:
                before = note_call(self._job.datasource, n_items)
                if before and not n_items:
                    self._on_notice(_EMPTY_NOW.format(before))

    def _keep(self, batch: EncodedBatch) -> None:
        if self._kept is None:
            return
        if self._kept.n_bytes + len(batch.data) <= MAX_KEPT_BYTES:
            self._kept.append(batch)
            return
        self._kept.close()
        self._kept = None
        self._on_notice(
            f"the copy of the datasource would be larger than {MAX_KEPT_BYTES >> 20:,} MiB, so it is not kept: if the "
            f"server or the engine is lost, the job fails; {_NEW_EACH_TIME}"
        )


@contextmanager
def _blaming_datasource() -> Iterator[None]:
    """Make a JobError of what the user's own function or iterator raises."""
    try:
        yield
    except MmgeventError:
        raise
    except (Exception, SystemExit) as error:
        raise blame_driver_code(error, "datasource", "the datasource") from error


def _encode_cut(items: list[tuple[Any, Any]], weight: int) -> Iterator[EncodedBatch]:
    """Encode items as one batch, or as several if one would be too large; DatasourceError for one item that is."""
    data = _encode_items(items)
    if len(data) <= MAX_BATCH_BYTES or len(items) == 1:
        yield _checked(items, weight, data)
        return
    del data
    half = len(items) // 2
    half_weight = weight * half // len(items)
    yield from _encode_cut(items[:half], half_weight)
    yield from _encode_cut(items[half:], weight - half_weight)


def _encode(items: list[tuple[Any, Any]], weight: int) -> EncodedBatch:
    return _checked(items, weight, _encode_items(items))


def _checked(items: list[tuple[Any, Any]], weight: int, data: bytes) -> EncodedBatch:
    if len(data) <= MAX_BATCH_BYTES:
        return EncodedBatch(len(items), weight, data, isinstance(items[0][1], Ref))
    key, value = max(items, key=lambda item: item[1].weight if isinstance(item[1], Ref) else 0)
    if isinstance(value, Ref):
        raise _too_large_to_send(value, len(data))
    raise DatasourceError(
        f"the item of the datasource with the key {_shorten(key)} has {len(data):,} bytes when it is encoded, "
        f"{len(data) - MAX_BATCH_BYTES:,} more than an item may have ({MAX_BATCH_BYTES:,}); put it into a file and pass "
        f"Files or Lines, give its path as the item and read it in mapfn, or cut it into several items"
    )


def _encode_items(items: list[tuple[Any, Any]]) -> bytes:
    try:
        return encode_items(items)
    except RecordError as error:
        raise DatasourceError(f"an item of the datasource cannot travel: {error}") from error


def _digest(item: tuple[Any, Any]) -> int:
    """Return what tells an item from others."""
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(_encode_items([item]))


def _with_content(ref: Ref) -> Ref:
    """Return the ref with its content; DatasourceError if that is too large to be sent."""
    if ref.weight > MAX_BATCH_BYTES:
        raise _too_large_to_send(ref, ref.weight)
    return ref.with_content()


def _too_large_to_send(ref: Ref, n_bytes: int) -> DatasourceError:
    return DatasourceError(
        f"{ref.path} is not on a worker as it is here, and has {n_bytes:,} bytes, {n_bytes - MAX_BATCH_BYTES:,} more than "
        f"can be sent at once ({MAX_BATCH_BYTES:,}); put it under the same path on all workers, or use Lines, which sends "
        f"a file in pieces"
    )


def _shorten(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= _KEY_CHARS else text[: _KEY_CHARS - 3] + "..."


class _BatchFile:
    """Encoded batches in an unlinked file, in order; one thread appends, any may read."""

    def __init__(self) -> None:
        """Open the file; JobError (kind "disk") where it cannot be."""
        import tempfile

        try:
            self._file = tempfile.TemporaryFile(prefix="mmgevent-input-")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._lock = threading.Lock()  # of the file and its position
        self._rows: list[tuple[int, int, int]] = []  # items, weight, bytes
        #: of all batches in the file
        self.n_bytes = 0

    def append(self, batch: EncodedBatch) -> None:
        """Add a batch; JobError (kind "disk") where there is no room for it."""
        try:
            with self._lock:
                self._file.seek(0, 2)
                self._file.write(batch.data)
                self._file.flush()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._rows.append((batch.items, batch.weight, len(batch.data)))
        self.n_bytes += len(batch.data)

    def read(self) -> Iterator[EncodedBatch]:
        """Give what is in the file now, again."""
        at = 0
        for items, weight, n_bytes in list(self._rows):
            data = self._read(at, n_bytes)
            assert data is not None  # its reader is who closes it
            yield EncodedBatch(items, weight, data)
            at += n_bytes

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """As `Feeder.read_again`; nothing once the file is closed."""
        rows = list(self._rows)
        ends = list(accumulate(n_bytes for _, _, n_bytes in rows))
        for number, group in groupby(places, lambda place: place[0]):
            n_bytes = rows[number - 1][2]
            data = self._read(ends[number - 1] - n_bytes, n_bytes)
            if data is None:
                return
            items = decode_items(data)
            for place in group:
                yield place, items[entry_of(place[1])]

    def close(self) -> None:
        with self._lock, suppress(OSError):  # it tries once more to write what there was no room for
            self._file.close()

    def _read(self, at: int, n_bytes: int) -> bytes | None:
        """Return bytes of the file; None once it is closed."""
        with self._lock:
            if self._file.closed:
                return None
            self._file.seek(at)
            data: bytes = self._file.read(n_bytes)
        return data


def _read_refs_again(
    refs: dict[int, list[tuple[Any, Ref]]], places: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
    for entry, group in groupby(places, lambda place: (place[0], entry_of(place[1]))):
        wanted = {place_of(position): (batch, position) for batch, position in group}
        _, ref = refs[entry[0]][entry[1]]
        with suppress(MmgeventError):  # it has changed, or cannot be read: then there is nothing to give
            for place, (key, value) in enumerate(ref.units()):
                if place in wanted and not isinstance(value, Unreadable):
                    yield wanted[place], (key, value)


_EMPTY_NOW = (
    "the datasource function gave no items, and {:,} when it was called for an earlier job; if it reads on in something "
    "that is used up now, let it open that anew each time"
)
_NEW_EACH_TIME = "pass a function that returns a new iterator each time"


def _cannot_keep(error: OSError) -> JobError:
    failure = {
        "kind": "disk",
        "error": f"cannot keep a copy of the one-shot datasource: {error}",
        "advice": f"{_NEW_EACH_TIME}, or set TMPDIR to a folder that has room",
    }
    return JobError.from_failure(failure)


def _not_kept() -> JobError:
    failure = {
        "kind": "disk",
        "error": f"it cannot be submitted again, since no copy of its datasource of more than "
        f"{MAX_KEPT_BYTES >> 20:,} MiB was kept",
        "advice": _NEW_EACH_TIME,
    }
    return JobError.from_failure(failure)
