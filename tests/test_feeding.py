"""feeding: every item leaves in order, once; a restart gives them all again."""

import pytest

from mmgevent import Files, Job
from mmgevent.batching import Speed
from mmgevent.errors import DatasourceError, JobError
from mmgevent.feeding import Feeder
from mmgevent.records import decode_items
from mmgevent.refs import Ref

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
