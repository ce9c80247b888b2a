"""The input side of a job in its driver: items in, encoded batches out.

A feeder reads no further than it is asked to.  What it has to remember for the case that
the job must be handed in again, or that files turn out not to be where executors are, is
little: refs of sources, or, for a datasource that can be walked only once, the encoded
batches in an unlinked local file.
"""

from __future__ import annotations

import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, groupby, islice
from typing import Any, NamedTuple

from mmgevent.batching import Speed, next_size
from mmgevent.errors import DatasourceError, JobError, MmgeventError
from mmgevent.job import Job
from mmgevent.positions import entry_of, place_of
from mmgevent.records import RecordError, decode_items, encode_items
from mmgevent.refs import Ref, Unreadable
from mmgevent.sources import is_at_hand, is_one_shot
from mmgevent.tasks.blame import blame_driver_code

#: a slow datasource: what it gave in this time goes out, full or not
PATIENCE_S = 0.25
#: what an item without a length is taken to weigh before it is encoded, in bytes
SMALL_ITEM_BYTES = 64


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

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic):
        """Claim the datasource, and call it if it is a function.

        DatasourceError if it was used up; JobError as `next_batch`.
        """
        self._job = job
        self._clock = clock
        self._items: Iterator[tuple[Any, Any, int]]
        with _blaming_datasource():
            self._items = job.items()
        #: whether `next_batch` never waits for anything
        self.never_waits = is_at_hand(job.datasource)
        self._kept: _BatchFile | None = None
        if is_one_shot(job.datasource):
            self._kept = _BatchFile()
        self._replay: Iterator[EncodedBatch] = iter(())
        self._refs: dict[int, list[tuple[Any, Ref]]] = {}
        self._has_content = False
        self._count = 0  # batches given out since the last restart
        self._sizes = array("Q")  # entries of each of them
        #: every item was given out
        self.has_ended = False

    def restart(self) -> None:
        """Begin again from the first item, for a server that has seen nothing yet."""
        if self._kept is None:
            with _blaming_datasource():
                self._items = self._job.walk()
        else:
            self._replay = self._kept.read()
        self._count = 0
        self._sizes = array("Q")
        self._refs.clear()
        self.has_ended = False

    def next_batch(self, speed: Speed) -> tuple[int, EncodedBatch] | None:
        """Return (number, batch); None at the end of the datasource.

        JobError (kind "datasource") for an exception of the user's own iterator, DatasourceError for
        what is no item or cannot travel.
        """
        batch = next(self._replay, None)
        if batch is None:
            items, weight = self._pull(speed)
            if not items:
                self.has_ended = True
                return None
            batch = self._encode(items, weight)
            if self._kept is not None:
                self._kept.append(batch)
        self._count += 1
        self._sizes.append(batch.items)
        return self._count, batch

    def content_of(self, number: int) -> EncodedBatch:
        """Return a batch again, with the contents of its files; later ones will have them at once."""
        self._has_content = True
        refs = self._refs.get(number)
        if refs is None:
            raise MmgeventError(f"the server asked for the contents of batch {number}, which has no files")
        items = [(key, ref.with_content()) for key, ref in refs]
        return EncodedBatch(len(items), sum(ref.weight for _, ref in refs), _encode_items(items), True)

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """Yield (place, (key, value)) of the items at these ascending (batch, position), as far as they can be had.

        What can no longer be read is left out: files that have changed, and one-shot datasources of jobs that are
        over.
        """
        if self._kept is not None:
            return self._kept.read_again(places)
        if self._refs:
            return _read_refs_again(self._refs, places)
        return self._walk_again(places)

    @property
    def keeps_batches(self) -> bool:
        """Whether items can be read again only as long as the job goes on."""
        return self._kept is not None

    def _walk_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        from mmgevent.sources import iterate

        starts = [0, *accumulate(self._sizes)]
        wanted = {starts[batch - 1] + entry_of(position): (batch, position) for batch, position in places}
        if not wanted:
            return
        with _blaming_datasource():
            for index, (key, value, _) in enumerate(islice(iterate(self._job.datasource), max(wanted) + 1)):
                if index in wanted:
                    yield wanted[index], (key, value)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _pull(self, speed: Speed) -> tuple[list[tuple[Any, Any]], int]:
        """Read items for one batch; return them with what they weigh together."""
        options = self._job.options
        size = next_size(speed, at_least=options.greenlets)
        if options.allocation == "oneshot":
            size.max_items, size.max_weight = 1, 0
        items: list[tuple[Any, Any]] = []
        total = 0
        until = self._clock() + PATIENCE_S
        with _blaming_datasource():
            for key, value, weight in self._items:
                items.append((key, value))
                total += weight or (len(value) if type(value) in (str, bytes) else SMALL_ITEM_BYTES)
                if size.is_reached(len(items), total) or (len(items) % 64 == 1 and self._clock() > until):
                    break
        return items, total

    def _encode(self, items: list[tuple[Any, Any]], weight: int) -> EncodedBatch:
        has_refs = isinstance(items[0][1], Ref)
        if has_refs:
            self._refs[self._count + 1] = items
            if self._has_content:
                items = [(key, ref.with_content()) for key, ref in items]
        return EncodedBatch(len(items), weight, _encode_items(items), has_refs)


@contextmanager
def _blaming_datasource() -> Iterator[None]:
    """Make a JobError of what the user's own function or iterator raises."""
    try:
        yield
    except MmgeventError:
        raise
    except (Exception, SystemExit) as error:
        raise blame_driver_code(error, "datasource", "the datasource") from error


def _encode_items(items: list[tuple[Any, Any]]) -> bytes:
    try:
        return encode_items(items)
    except RecordError as error:
        raise DatasourceError(f"an item of the datasource cannot travel: {error}") from error


class _BatchFile:
    """Encoded batches in an unlinked file, in order."""

    def __init__(self) -> None:
        """Open the file; JobError (kind "disk") where it cannot be."""
        try:
            self._file = tempfile.TemporaryFile(prefix="mmgevent-input-")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._rows: list[tuple[int, int, int]] = []  # items, weight, bytes

    def append(self, batch: EncodedBatch) -> None:
        """Add a batch; JobError (kind "disk") where there is no room for it."""
        try:
            self._file.seek(0, 2)
            self._file.write(batch.data)
            self._file.flush()
        except OSError as error:
            raise _cannot_keep(error) from error
        self._rows.append((batch.items, batch.weight, len(batch.data)))

    def read(self) -> Iterator[EncodedBatch]:
        """Give what is in the file now, again."""
        at = 0
        for items, weight, n_bytes in list(self._rows):
            self._file.seek(at)
            at += n_bytes
            yield EncodedBatch(items, weight, self._file.read(n_bytes))

    def read_again(self, places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[Any, Any]]]:
        """As `Feeder.read_again`; nothing once the file is closed."""
        at = 0
        for number, (_, _, n_bytes) in enumerate(list(self._rows), 1):
            entries = [position for batch, position in places if batch == number]
            if entries and not self._file.closed:
                self._file.seek(at)
                items = decode_items(self._file.read(n_bytes))
                for position in entries:
                    yield (number, position), items[entry_of(position)]
            at += n_bytes

    def close(self) -> None:
        with suppress(OSError):  # it tries once more to write what there was no room for
            self._file.close()


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


def _cannot_keep(error: OSError) -> JobError:
    failure = {
        "kind": "disk",
        "error": f"cannot keep a copy of the one-shot datasource: {error}",
        "advice": "pass a function that returns a new iterator each time, or set TMPDIR to a folder that has room",
    }
    return JobError.from_failure(failure)
