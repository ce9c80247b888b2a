"""store: output is staged, committed or discarded whole, within one bound, and read back in order."""

import os
import random
import threading

import gevent
import pytest

from mmgevent.engine.net.threads import run_in_thread
from mmgevent.engine.server.spill import BLOCK_BYTES, Memory
from mmgevent.engine.server.store import JobStore
from mmgevent.errors import ProtocolError, StoreError
from mmgevent.tasks.scratch import PieceFile
from tests.flushes import flush


def stage_all(store, attempt, data, chunk_bytes=BLOCK_BYTES):
    for at in range(0, len(data), chunk_bytes):
        if not store.stage(attempt, data[at : at + chunk_bytes]):
            while store.write_pending():
                pass


def read(store, partition):
    return b"".join(store.read_partition(partition))


@pytest.fixture(params=[0, 1000, 10**9], ids=["all spilled", "part spilled", "all in memory"])
def store(request):
    store = JobStore(Memory(request.param))
    yield store
    store.close()
    assert store._memory.used_bytes == 0
    assert store._spill is None


def test_partitions_come_back_in_task_and_flush_order(store):
    stage_all(store, 1, flush({0: b"c", 3: b"x"}) + flush({0: b"d"}), chunk_bytes=7)
    stage_all(store, 2, flush({0: b"a" * 700}) + flush({0: b"b", 9: b"y" * 900}), chunk_bytes=100)
    store.commit_map(1, batch=2, lo=0)
    store.commit_map(2, batch=1, lo=5)
    assert read(store, 0) == b"a" * 700 + b"bcd"
    assert read(store, 9) == b"y" * 900
    assert read(store, 1) == b""
    assert store.partition_sizes() == {0: 703, 3: 1, 9: 900}


def test_random_outputs_come_back_as_they_went_in(store):
    rng = random.Random(5)
    expected = {}
    for batch in range(1, 20):
        flushes = [
            {p: rng.randbytes(rng.randrange(2000)) for p in rng.sample(range(32), rng.randrange(8))}
            for _ in range(rng.randrange(4))
        ]
        for parts in flushes:
            for partition, data in parts.items():
                expected[partition] = expected.get(partition, b"") + data
        stage_all(store, batch, b"".join(map(flush, flushes)), chunk_bytes=rng.randrange(1, 3000))
        store.commit_map(batch, batch, 0)
    assert {p: read(store, p) for p in expected} == expected


def test_discarded_output_leaves_nothing(store):
    stage_all(store, 1, flush({0: b"lost" * 500}), chunk_bytes=99)
    stage_all(store, 2, flush({0: b"kept"}))
    store.discard(1)
    store.discard(1)
    store.discard(77)
    store.commit_map(2, 1, 0)
    assert read(store, 0) == b"kept"
    assert store.staged_bytes(1) == 0


def test_freed_blocks_are_used_again():
    store = JobStore(Memory(0))
    chunk = flush({0: b"z" * (BLOCK_BYTES - 100)})
    for attempt in range(1, 30):
        stage_all(store, attempt, chunk)
        store.discard(attempt)
    assert store._spill._block_count == 1
    store.close()


def test_a_chunk_discarded_before_it_was_written_is_not_written():
    store = JobStore(Memory(0))
    assert not store.stage(1, flush({0: b"x"}))
    store.discard(1)
    assert store.write_pending() is None
    store.close()


def test_a_chunk_that_waits_needs_no_disk_once_others_gave_memory_back(tmp_path):
    memory = Memory(1000)
    hog, other = (JobStore(memory, folder=str(tmp_path / "gone")) for _ in range(2))
    assert hog.stage(1, flush({0: b"x" * 900}))
    assert not other.stage(1, flush({0: b"y" * 900}))
    hog.close()
    assert other.write_pending() == (1, other.staged_bytes(1))
    other.commit_map(1, 1, 0)
    assert read(other, 0) == b"y" * 900
    other.close()
    assert memory.used_bytes == 0


def test_a_discard_or_close_while_a_write_is_under_way_leaks_nothing():
    interrupted = []

    def run(function, *args):
        function(*args)
        for interrupt in interrupted:
            interrupt()

    store = JobStore(Memory(0), run=run)
    store.stage(1, flush({0: b"x"}))
    interrupted.append(lambda: store.discard(1))
    assert store.write_pending() is not None
    assert store._spill.allocated_bytes == 0
    store.stage(2, flush({0: b"x"}))
    interrupted[:] = [store.close]
    spill = store._spill
    assert store.write_pending() is not None
    assert spill._file.closed


def test_a_write_whose_greenlet_was_killed_goes_to_no_other_file(monkeypatch, tmp_path):
    """The thread writes on: closed under it, the descriptor's number would be that of the next file that is opened."""
    begun, go_on, pwrite = threading.Event(), threading.Event(), os.pwrite

    def write_late(fd, data, at):
        begun.set()
        go_on.wait(20)
        return pwrite(fd, data, at)

    store = JobStore(Memory(0), run=run_in_thread)
    store.stage(1, flush({0: b"x"}))
    assert store.write_pending()
    monkeypatch.setattr(os, "pwrite", write_late)
    store.stage(2, flush({0: b"y"}))
    writer = gevent.spawn(store.write_pending)
    while not begun.is_set():
        gevent.sleep(0.001)
    spill = store._spill
    writer.kill()
    store.close()
    other = tmp_path / "other"
    with other.open("wb"):
        go_on.set()
        with gevent.Timeout(20):
            while not spill._file.closed:
                gevent.sleep(0.001)
    assert other.read_bytes() == b""
    with pytest.raises(StoreError, match="closed"):
        spill.read(0, 0, 1)


def test_results_are_read_partition_by_partition(store):
    stage_all(store, 4, flush({1: b"one", 2: b"two"}) + flush({2: b"too"}))
    output = store.commit_reduce(4)
    assert [b"".join(store.read_output(output, p)) for p in (1, 2, 3)] == [b"one", b"twotoo", b""]
    store.free(output)


def test_an_attempt_without_output_commits_as_empty(store):
    store.commit_map(1, 1, 0)
    assert store.partition_sizes() == {}


@pytest.mark.parametrize("cut", [1, 7, 20, 30])
def test_output_that_ends_inside_a_flush_is_refused(store, cut):
    whole = flush({0: b"abc", 1: b"def"})
    stage_all(store, 1, whole[:cut])
    with pytest.raises(ProtocolError):
        store.commit_map(1, 1, 0)


def test_a_spill_folder_that_is_not_there_is_said(tmp_path):
    store = JobStore(Memory(0), folder=str(tmp_path / "gone"))
    store.stage(1, flush({0: b"x"}))
    with pytest.raises(StoreError, match="gone"):
        store.write_pending()
    store.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said():
    store = JobStore(Memory(0))
    store.stage(1, flush({0: b"x"}))
    store.write_pending()
    with open("/dev/full", "wb", buffering=0) as full:
        saved, store._spill._file = store._spill._file, full
        store.stage(1, flush({0: b"y"}))
        with pytest.raises(StoreError, match="No space"):
            store.write_pending()
        store._spill._file = saved
    store.close()


def test_a_segment_longer_than_one_read_of_the_system_comes_back_whole(monkeypatch):
    pieces = PieceFile(None, 4, 1)
    whole, pread = bytes(range(256)) * 20, os.pread
    pieces.append(1, b"before")
    pieces.append(2, whole)
    # The system's own bound is 2 GiB - 4 KiB.
    monkeypatch.setattr(os, "pread", lambda fd, n_bytes, at: pread(fd, min(n_bytes, 1000), at))
    assert [list(pieces.segments(piece)) for piece in (1, 2)] == [[b"before"], [whole]]
    pieces.close()


def test_tiny_chunks_take_little_memory_and_few_blocks(store):
    data = flush({0: b"x" * 20_000, 1: b"y"})
    stage_all(store, 1, data, chunk_bytes=1)
    output = store.commit_map(1, 1, 0)
    assert len(output._chunks) <= 2 + len(data) / 1000 or store._memory.limit_bytes <= 1000
    assert (read(store, 0), read(store, 1)) == (b"x" * 20_000, b"y")


def test_tiny_chunks_that_wait_for_the_disk_are_written_together():
    store, data = JobStore(Memory(0)), flush({0: b"x" * 3000})
    for at in range(len(data)):
        assert not store.stage(1, data[at : at + 1])
    assert store.write_pending() == (1, len(data))
    assert store.write_pending() is None
    store.commit_map(1, 1, 0)
    assert read(store, 0) == b"x" * 3000
    store.close()


def test_a_chunk_that_is_being_written_gets_no_more_bytes():
    data, calls = flush({0: b"xyz"}), []

    def run(function, *args):
        if not calls:
            calls.append(store.stage(1, data[5:]))
        return function(*args)

    store = JobStore(Memory(0), run=run)
    store.stage(1, data[:5])
    assert [store.write_pending() for _ in range(3)] == [(1, 5), (1, len(data) - 5), None]
    store.commit_map(1, 1, 0)
    assert read(store, 0) == b"xyz"
    store.close()


def test_the_index_of_many_segments_is_made_where_blocking_is_allowed(monkeypatch):
    monkeypatch.setattr("mmgevent.engine.server.store.MAX_BLOCKING_ROWS", 3)
    ran = []
    store = JobStore(Memory(10**9), run=lambda function, *args: ran.append(function) or function(*args))
    stage_all(store, 1, flush(dict.fromkeys(range(4), b"x")))
    store.commit_map(1, 1, 0)
    assert read(store, 3) == b"x"
    assert len(ran) == 1
    store.close()


def test_empty_chunks_leave_nothing():
    store = JobStore(Memory(0))
    assert store.stage(1, b"")
    assert store._staged == {}
    store.close()


def test_sizes_are_those_of_what_is_committed(store):
    stage_all(store, 1, flush({0: b"abc"}))
    stage_all(store, 2, flush({0: b"d", 7: b"ef"}))
    assert store.partition_sizes() == {}
    store.commit_map(1, 1, 0)
    store.commit_map(2, 2, 0)
    assert store.partition_sizes() == {0: 4, 7: 2}
    store.free_committed()
    assert store.partition_sizes() == {}
