"""feeding: every item leaves in order, once; a restart gives them all again."""

import os
import tempfile
import threading

import pytest

from mmgevent import Files, Job, Lines, run
from mmgevent.driver.input import encoding, kept_batches
from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.feeding import Feeder
from mmgevent.errors import DatasourceError, JobCancelled, JobError
from mmgevent.job.inputs.refs import Ref
from mmgevent.tasks.records import decode_items
from mmgevent.wire.positions import position_of
from tests.descriptors import count_same

FAST = Speed(items=1000, weight=0, seconds=0.1, slots=1)


def mapfn(key, value):
    yield key, value


def drain(feeder, speed=FAST):
    batches = {}
    while (numbered := feeder.next_batch(speed)) is not None:
        batches[numbered[0]] = numbered[1]
    return batches


def items_of(batches):
    return [item for number in sorted(batches) for item in decode_items(batches[number].data)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: {n: n * n for n in range(5000)},
        lambda: [(n, n * n) for n in range(5000)],
        lambda: lambda: ((n, n * n) for n in range(5000)),
        lambda: ((n, n * n) for n in range(5000)),
    ],
    ids=["mapping", "list", "function", "one-shot iterator"],
)
def test_all_items_leave_in_order_and_again_after_a_restart(make):
    feeder = Feeder(Job(make(), mapfn))
    first = drain(feeder)
    assert sorted(first) == list(range(1, len(first) + 1))
    assert len(first) >= 2
    assert items_of(first) == [(n, n * n) for n in range(5000)]
    assert sum(batch.items for batch in first.values()) == 5000
    feeder.restart()
    assert items_of(drain(feeder)) == [(n, n * n) for n in range(5000)]
    feeder.close()


def test_a_restart_in_the_middle_of_a_one_shot_iterator_loses_nothing():
    feeder = Feeder(Job(((n, n) for n in range(3000)), mapfn))
    feeder.next_batch(FAST)
    feeder.next_batch(FAST)
    feeder.restart()
    assert items_of(drain(feeder)) == [(n, n) for n in range(3000)]
    feeder.close()


def test_nothing_is_read_ahead():
    read = []

    def source():
        for n in range(10**9):
            read.append(n)
            yield n, n

    feeder = Feeder(Job(source, mapfn))
    assert read == []
    feeder.next_batch(Speed())
    assert read == [0]


def test_a_slow_datasource_is_not_waited_for_to_fill_a_batch():
    now = [0.0]

    def source():
        for n in range(100):
            now[0] += 0.2
            yield n, n

    feeder = Feeder(Job(source, mapfn), clock=lambda: now[0])
    assert feeder.next_batch(FAST)[1].items < 100


def test_oneshot_batches_hold_one_item():
    feeder = Feeder(Job([(n, n) for n in range(10)], mapfn, allocation="oneshot"))
    assert all(batch.items == 1 for batch in drain(feeder).values())


def test_an_exception_of_the_datasource_is_a_job_error_with_its_traceback():
    def source():
        yield 1, 1
        raise ValueError("no more today")

    feeder = Feeder(Job(source, mapfn))
    with pytest.raises(JobError, match="no more today") as caught:
        drain(feeder)
    assert caught.value.kind == "datasource"
    assert "in source" in caught.value.traceback


def test_an_item_that_cannot_travel_is_named():
    feeder = Feeder(Job([("good", 1), ("bad", open)], mapfn))
    assert drain(feeder)  # builtins travel by name
    feeder = Feeder(Job([("bad", (n for n in ()))], mapfn))
    with pytest.raises(DatasourceError, match="bad"):
        drain(feeder)


def test_files_leave_as_refs_until_their_contents_are_asked_for(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"text {n}")
    feeder = Feeder(Job(Files(tmp_path), mapfn))
    number, batch = feeder.next_batch(Speed())
    ((_, ref),) = decode_items(batch.data)
    assert isinstance(ref, Ref)
    assert ref.content is None
    assert batch.weight == 6
    again = feeder.content_of(number)
    assert decode_items(again.data)[0][1].content == b"text 0"
    _, later = feeder.next_batch(Speed())
    assert decode_items(later.data)[0][1].content == b"text 1"


def test_batches_of_equal_items_settle_at_the_time_they_aim_at():
    feeder = Feeder(Job(((n, n) for n in range(100_000)), mapfn), clock=lambda: 0.0)
    speed = Speed(slots=2)
    while speed.seconds < 100:
        _, batch = feeder.next_batch(speed)
        speed.items += batch.items
        speed.weight += batch.weight
        speed.seconds += 0.01 * batch.items
    assert batch.items == 200
    feeder.close()


MIB = 1024 * 1024


class Opaque:
    """A value whose size nobody can see before it is encoded."""

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes

    def __reduce__(self):
        return (bytes, (bytes(self.n_bytes),))


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(encoding, "MAX_BATCH_BYTES", MIB)


def test_an_item_that_is_too_large_is_named_with_its_size_before_anything_is_sent(small_limit):
    feeder = Feeder(Job([("small", b"1"), ("large", bytes(MIB + 100))], mapfn))
    with pytest.raises(
        DatasourceError, match=r"the key 'large' has 1,048,\d\d\d bytes .*\(1,048,576\); .* Files"
    ):
        drain(feeder)


def test_items_that_are_too_large_together_go_in_several_batches(small_limit):
    items = [(n, Opaque(300_000)) for n in range(20)]
    feeder = Feeder(Job(items, mapfn))
    batches = drain(feeder, Speed(items=10_000, weight=0, seconds=1.0, slots=1))
    assert all(len(batch.data) <= MIB for batch in batches.values())
    assert [key for key, _ in items_of(batches)] == list(range(20))


def test_a_restart_between_the_parts_of_a_batch_that_was_cut_loses_nothing(small_limit):
    feeder = Feeder(Job(((n, Opaque(300_000)) for n in range(20)), mapfn))
    feeder.next_batch(Speed(items=10_000, weight=0, seconds=1.0, slots=1))
    feeder.restart()
    assert [key for key, _ in items_of(drain(feeder))] == list(range(20))
    feeder.close()


def test_batches_of_large_items_without_a_length_aim_at_16_mib_once_one_is_known():
    feeder = Feeder(Job(((n, Opaque(4 * MIB)) for n in range(9)), mapfn))
    assert feeder.next_batch(Speed())[1].items == 1
    assert feeder.next_batch(Speed(items=10_000, weight=0, seconds=1.0, slots=1))[1].items <= 4
    feeder.close()


def test_a_large_item_goes_alone():
    feeder = Feeder(Job([(1, b"small"), (2, bytes(17 * MIB)), (3, b"small"), (4, b"small")], mapfn))
    batches = drain(feeder, Speed(items=10_000, weight=0, seconds=1.0, slots=1))
    assert [batch.items for batch in batches.values()] == [1, 1, 2]
    assert [key for key, _ in items_of(batches)] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [Files, Lines])
def test_a_file_that_is_too_large_to_be_sent_is_named_with_its_size(small_limit, tmp_path, kind):
    (tmp_path / "large.txt").write_bytes(bytes(MIB + 1))
    feeder = Feeder(Job(kind(tmp_path), mapfn))
    number, _ = feeder.next_batch(Speed())
    with pytest.raises(
        DatasourceError, match=r"large\.txt .* has 1,048,\d\d\d bytes, .* same path on all workers"
    ):
        feeder.content_of(number)


def test_beyond_a_bound_nothing_is_kept_and_a_restart_says_why_it_cannot_be(monkeypatch):
    monkeypatch.setattr(kept_batches, "MAX_KEPT_BYTES", 4 * MIB)
    notices = []
    feeder = Feeder(Job(((n, bytes(MIB)) for n in range(8)), mapfn), on_notice=notices.append)
    batches = drain(feeder)
    assert [key for key, _ in items_of(batches)] == list(range(8))
    (notice,) = notices
    assert "larger than 4 MiB" in notice
    assert "pass a function" in notice
    with pytest.raises(JobError, match=r"cannot be submitted again.* 4 MiB .*\n.*pass a function") as caught:
        feeder.restart()
    assert caught.value.kind == "disk"


def test_nothing_is_kept_where_nothing_can_be_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(JobError, match="cannot keep a copy"):
        Feeder(Job(iter([(1, 1)]), mapfn))
    feeder = Feeder(Job(iter([(1, 1)]), mapfn), may_restart=False)
    assert items_of(drain(feeder)) == [(1, 1)]


class TheirFiles(Files):
    """Somebody else's source: nobody knows whether it gives the same again."""

    def refs(self):
        yield from super().refs()


def test_the_contents_of_kept_refs_are_found_after_a_restart(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    feeder = Feeder(Job(TheirFiles(tmp_path), mapfn))
    number, _ = feeder.next_batch(Speed())
    feeder.restart()
    assert feeder.next_batch(Speed())[0] == number
    assert decode_items(feeder.content_of(number).data)[0][1].content == b"text"
    feeder.close()


def test_batches_are_read_again_by_any_thread_while_more_are_kept():
    n_items, stop = 3000, threading.Event()
    feeder = Feeder(Job(((n, f"{n:05}" * 100) for n in range(n_items)), mapfn))
    given: dict[int, int] = {}
    faults: list[object] = []

    def read():
        while not stop.is_set():
            places = [(number, position_of(0)) for number in sorted(given)]
            try:
                for (number, _), (key, value) in feeder.read_again(places):
                    if key != given[number] or value != f"{key:05}" * 100:
                        faults.append((number, key))
            except Exception as error:
                faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    at = 0
    slow = Speed(items=10, weight=0, seconds=0.1, slots=1)
    while (numbered := feeder.next_batch(slow)) is not None:
        number, batch = numbered
        given[number] = at
        at += batch.items
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    feeder.restart()
    assert [key for key, _ in items_of(drain(feeder))] == list(range(n_items))
    feeder.close()
    assert list(feeder.read_again([(1, 0)])) == []


class TestEnds:
    """What a generator of the user's has opened is closed at the end of the job, by its own thread."""

    @pytest.fixture
    def ends(self):
        return []

    @staticmethod
    def source(ends, wait=None, begun=None, fails=False):
        try:
            for number in range(10_000):
                if number == 1 and wait is not None:
                    begun.set()
                    wait.wait(60)
                yield number, number
        finally:
            ends.append(threading.current_thread().name)
            if fails:
                raise ValueError("no end")

    @pytest.mark.parametrize("how", ["a function", "a generator", "an iterator without weak references"])
    def test_a_walk_that_was_left_is_ended(self, how, ends):
        kept = self.source(ends)
        make = {
            "a function": lambda: self.source(ends),
            "a generator": kept,
            "an iterator without weak references": lambda: zip(self.source(ends), range(10_000), strict=True),
        }[how]
        job = Job(make, mapfn)
        feeder = Feeder(job)
        assert feeder.next_batch(FAST) is not None
        assert not ends
        feeder.close()
        feeder.close()
        assert ends == [threading.current_thread().name]
        with pytest.raises(JobCancelled):
            feeder.next_batch(FAST)
        kept.close()

    def test_a_restart_ends_the_walk_before(self, ends):
        feeder = Feeder(Job(lambda: self.source(ends), mapfn))
        feeder.next_batch(FAST)
        feeder.restart()
        assert len(ends) == 1
        assert len(items_of(drain(feeder))) == 10_000
        feeder.close()
        assert len(ends) == 2

    def test_it_is_not_closed_while_it_runs_and_nobody_waits_for_it(self, ends):
        wait, begun = threading.Event(), threading.Event()
        feeder = Feeder(Job(lambda: self.source(ends, wait, begun), mapfn))
        raised = []

        def read():
            try:
                feeder.next_batch(FAST)
            except JobCancelled as error:
                raised.append(error)
            feeder.close()

        reader = threading.Thread(target=read, name="reader")
        reader.start()
        try:
            assert begun.wait(60)
            feeder.stop()
            feeder.close()
            assert not ends
        finally:
            wait.set()
            reader.join()
        assert ends == ["reader"]
        assert len(raised) == 1

    def test_an_exception_at_the_end_is_said_and_harms_nothing(self, ends, caplog):
        feeder = Feeder(Job(lambda: self.source(ends, fails=True), mapfn, name="one"))
        feeder.next_batch(FAST)
        feeder.close()
        assert ends
        [record] = caplog.records
        assert record.getMessage() == "the datasource of job one raised ValueError when it was closed: no end"

    def test_a_fifo_is_closed(self, tmp_path):
        path = tmp_path / "fifo"
        os.mkfifo(path)
        writer = os.open(path, os.O_RDWR)
        try:
            os.write(writer, b"a\n")
            feeder = Feeder(Job(Lines(path), mapfn))
            assert feeder.next_batch(FAST) is not None
            assert count_same(writer) == 2
            feeder.close()
            assert count_same(writer) == 1
        finally:
            os.close(writer)

    def test_a_failed_job_ends_its_datasource(self, ends):
        with pytest.raises(JobError):
            run(Job(lambda: self.source(ends), lambda key, value: 1 / 0), inline=True)
        assert len(ends) == 1
