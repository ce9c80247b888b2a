"""kept_results: results of one job become batches of another, and are freed as they are mapped."""

from types import SimpleNamespace

import pytest

from mmgevent.engine.server import kept_results
from mmgevent.engine.server.intake import Intake
from mmgevent.engine.server.kept_results import KeptResults
from mmgevent.engine.server.spill import Memory
from mmgevent.engine.server.store import JobStore
from mmgevent.errors import MmgeventError, ProtocolError, StoreError
from mmgevent.tasks.records import decode_results, encode_flush, encode_segment

RECORDS = [(n, "x" * n) for n in range(60)]


class Link:
    """Where grants would go: nobody sends batches here."""


def keep(store, tasks):
    """Keep the records of each task, a flush for each ten."""
    kept = KeptResults(store)
    for task, records in enumerate(tasks, 1):
        flushes = b""
        for at in range(0, len(records), 10):
            keys, values = zip(*records[at : at + 10], strict=True)
            flushes += encode_flush({task: encode_segment(list(keys), list(values))})
        if flushes and not store.stage(task, flushes):
            while store.write_pending():
                pass
        kept.add(task, store.commit_reduce(task))
    kept.is_whole = True
    return kept


@pytest.fixture(params=[0, 10**9], ids=["spilled", "in memory"])
def place(request):
    memory = Memory(request.param)
    place = SimpleNamespace(memory=memory, store=JobStore(memory), released=[])
    yield place
    place.store.close()
    assert memory.used_bytes == 0


def take(place, kept, slots=1):
    return kept.take(Link(), 1, Intake(10**9), slots, lambda: place.released.append(1))


def read(batch):
    return decode_results(b"".join(batch.read()))


def test_every_result_is_in_one_batch_in_the_order_of_tasks_and_no_more_are_given_than_allowed(place):
    kept = keep(place.store, [RECORDS[:25], [], RECORDS[25:]])
    assert (kept.records, kept.is_free) == (60, True)
    taken = take(place, kept)
    assert not kept.is_free
    assert (list(taken.next_batches()), taken.ends_now()) == ([], False)
    found = []
    for allowed in range(1, 10):
        taken.allowed = allowed
        for number, batch in taken.next_batches():
            assert number == allowed
            assert batch.items == len(read(batch))
            found += read(batch)
    assert found == RECORDS
    assert (taken.batch_count, taken.ends_now(), taken.ends_now()) == (6, True, False)


def test_outputs_are_freed_with_their_last_batch_and_all_of_them_at_the_end(place):
    kept = keep(place.store, [RECORDS[:20], RECORDS[20:40], RECORDS[40:]])
    taken = take(place, kept)
    taken.allowed = 100
    given = list(taken.next_batches())
    batches = dict(given)
    whole = place.memory.used_bytes
    for number in (1, 2, 4):
        taken.release(number)
    if place.store.spilled_bytes:
        assert whole == 0
    else:
        assert 0 < place.memory.used_bytes < whole
    with_freed = batches[1]
    assert list(with_freed.read()) == []  # an attempt that was too slow reads nothing of others
    assert read(batches[3]) == RECORDS[20:30]
    taken.close()
    assert place.released == [1]


def test_a_batch_that_is_needed_and_no_longer_there_is_an_error(place):
    kept = keep(place.store, [RECORDS])
    taken = take(place, kept)
    taken.allowed = 1
    ((_, batch),) = taken.next_batches()
    place.store.close()
    with pytest.raises(StoreError, match="freed"):
        list(batch.read())


def test_no_results_are_an_input_that_ends_at_once(place):
    taken = take(place, keep(place.store, []))
    assert taken.ends_now()
    taken.close()


def test_batches_hold_more_results_if_there_are_few_slots_and_less_than_a_segment_never(place, monkeypatch):
    kept = keep(place.store, [RECORDS])
    monkeypatch.setattr(kept_results, "BATCHES_PER_SLOT", 2)
    taken = take(place, kept)
    taken.allowed = 100
    assert [batch.items for _, batch in taken.next_batches()] == [30, 30]


def test_a_batch_of_the_driver_is_refused_and_so_is_a_result_larger_than_an_item_may_be(place, monkeypatch):
    taken = take(place, keep(place.store, [RECORDS]))
    with pytest.raises(ProtocolError, match="the results of another"):
        taken.announce(1, {"items": 1, "size": 1})
    monkeypatch.setattr(kept_results, "MAX_BATCH_BYTES", 100)
    taken.allowed = 1
    with pytest.raises(MmgeventError, match="let it be several"):
        list(taken.next_batches())


def test_counts_that_no_bytes_can_hold_are_seen():
    store = JobStore(Memory(10**9))
    store.stage(1, encode_flush({0: encode_segment([1], [2])}))
    assert store.has_possible_counts(1)
    assert store.has_possible_counts(7)
    store._staged[1].flushes.records[0] = 10**6
    assert not store.has_possible_counts(1)
    store.close()
