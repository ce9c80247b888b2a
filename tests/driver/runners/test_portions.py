"""Jobs on an engine whose first tasks give items back: everything is mapped once, in order."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import mmgevent as mmg
from mmgevent.box import guest
from mmgevent.box.reports import Report
from mmgevent.driver.input import batching
from mmgevent.driver.input.batching import BatchSize, Speed, large_first_size, next_size
from mmgevent.driver.input.encoding import EncodedBatch
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.runners import executors, map_tasks
from mmgevent.driver.runners.executors import ExecutorFutures
from mmgevent.driver.runners.map_tasks import GROUP_BYTES, MapRange, Outputs


@pytest.fixture(scope="module")
def cluster():
    with ThreadPoolExecutor(2) as executor, mmg.connect(executor) as cluster:
        yield cluster


@pytest.fixture
def tasks(monkeypatch):
    """What map tasks were asked for and told: [(batch, report)]."""
    seen = []
    map_batch = guest.map_batch

    def noted(job, code, batch):
        answer = map_batch(job, code, batch)
        seen.append((batch, answer[0]))
        return answer

    monkeypatch.setattr(executors.guest, "map_batch", noted)
    return seen


def test_items_that_are_given_back_are_mapped_once_and_stay_in_order(cluster, tasks):
    def slow(key, value):
        time.sleep(0.005)
        if value == 150:
            raise ValueError("not this one")
        yield value % 3, value

    job = mmg.Job([(number, number) for number in range(300)], slow, partitions=4, max_skipped=1)
    handle = cluster.submit(job)
    expected = {rest: [n for n in range(300) if n % 3 == rest and n != 150] for rest in range(3)}
    assert handle.result(timeout=60) == expected
    assert [key for key, _ in handle.skipped_items()] == [150]
    assert any(report.mapped_to is not None for _, report in tasks)
    assert sum(report.items for _, report in tasks) == 299
    assert len(tasks) > 3  # the rest was not one task


def test_a_few_tiny_items_are_a_task_for_each_slot(cluster, tasks):
    job = mmg.Job(
        [(number, number) for number in range(10_000)], lambda key, value: [(value % 3, 1)], sum_all
    )
    assert cluster.run(job) == {0: 3334, 1: 3333, 2: 3333}
    assert [(batch.lo, batch.hi, report.mapped_to) for batch, report in tasks] == [(0, 5000, None)] * 2


def test_what_a_task_said_that_is_done_again_with_contents_is_told(cluster, monkeypatch, tmp_path):
    """It is not told again: an executor says a notice once."""
    (tmp_path / "in.txt").write_text("a b")
    map_batch, asked = guest.map_batch, []

    def as_on_another_machine(job, code, batch):
        asked.append(batch.number)
        if len(asked) > 1:
            return map_batch(job, code, batch)
        report = Report(
            needs_content=True, notices=(("said before", None),), deaths=({"kind": "died", "task": "t"},)
        )
        return (report, *([b""] * job.groups))

    monkeypatch.setattr(executors.guest, "map_batch", as_on_another_machine)
    notices = []
    job = mmg.Job(mmg.Files(tmp_path / "in.txt"), lambda key, text: [("size", len(text))])
    handle = cluster.submit(job, on_notice=notices.append)
    assert handle.result(timeout=60) == {"size": [3]}
    assert asked == [1, 1]
    assert any("said before" in text for text in notices)
    assert [death["task"] for death in handle.deaths()] == ["t"]


def sum_all(key, values):
    return sum(values)


def test_large_output_goes_through_the_engine(cluster, tasks):
    def wide(key, value):
        yield key, bytes(map_tasks.CARRIED_BYTES)

    found = cluster.run(mmg.Job([(number, None) for number in range(20)], wide))
    assert found == {number: [bytes(map_tasks.CARRIED_BYTES)] for number in range(20)}
    assert not any(report.carried for _, report in tasks)


def test_a_driver_keeps_little_carried_output(cluster, tasks, monkeypatch):
    monkeypatch.setattr("mmgevent.driver.runners.map_tasks.MAX_CARRIED_BYTES", 0)
    found = cluster.run(
        mmg.Job([(number, 1) for number in range(20)], lambda key, value: [(0, value)], sum_all)
    )
    assert found == {0: 20}
    assert not any(report.carried for _, report in tasks)


def test_arrays_do_not_meet_in_one_first_batch(monkeypatch):
    job = mmg.Job([(number, [0.5] * 10_000) for number in range(300)], lambda key, value: [])
    feeder = Feeder(job, may_restart=False)
    _, batch = feeder.next_batch(Speed(slots=1), is_given_back=True)
    assert len(batch.data) < 2 * 1024 * 1024  # all are 27 MB


def test_a_slow_datasource_is_not_waited_for():
    def trickle():
        yield 0, 0
        time.sleep(0.1)
        yield 1, 1
        pytest.fail("it was read further")

    feeder = Feeder(mmg.Job(trickle(), lambda key, value: []), may_restart=False)
    _, batch = feeder.next_batch(Speed(slots=1), is_given_back=True)
    assert batch.items <= 2


def test_first_batches_leave_a_share_to_each_slot():
    assert large_first_size(2, 20_000).max_items == 10_000
    assert large_first_size(3, 10).max_items == 4
    assert large_first_size(3, 0).max_items == 1
    assert large_first_size(3, 10, at_least=20).max_items == 20
    assert large_first_size(1000, None).max_weight * 1000 <= 4 * 1024 * 1024


def test_a_rest_is_cut_to_size():
    task = MapRange(7, EncodedBatch(100, 6400, b"...", False), 40, 100)
    first, rest = task.cut(BatchSize(10, 1_000_000))
    assert (first.lo, first.hi, rest.lo, rest.hi) == (40, 50, 50, 100)
    first, rest = task.cut(BatchSize(10, 64))
    assert (first.lo, first.hi) == (40, 41)
    assert task.cut(BatchSize(60, 1_000_000)) == (task, None)
    assert (task.share.items, task.share.weight) == (60, 3840)


def test_little_output_makes_a_reduce_task_for_each_slot_and_empty_groups_none():
    batch = EncodedBatch(100, 6400, b"...", False)
    outputs = Outputs(4)
    outputs.add(MapRange(2, batch, 0, 100), [b"a2", b"", b"c2", b""], is_carried=True)
    outputs.add(MapRange(1, batch, 50, 100), [b"a1+", b"", b"", b""], is_carried=True)
    outputs.add(MapRange(1, batch, 0, 50), [b"a1", b"", b"c1", b""], is_carried=True)
    assert list(outputs.group(4, 2)) == [(range(0, 4, 2), [b"a1", b"c1", b"a1+", b"a2", b"c2"])]
    outputs.add(MapRange(3, batch, 0, 100), ["A3", "B3", "C3", "D3"], is_carried=False)
    large = [[b"a1", b"a1+", b"a2", "A3"], ["B3"], [b"c1", b"c2", "C3"], ["D3"]]
    assert list(outputs.group(4, 2)) == [(range(i, 4, 4), pieces) for i, pieces in enumerate(large)]
    assert outputs.tokens() == ["A3", "B3", "C3", "D3"]


def test_a_map_task_with_fewer_groups_has_each_of_its_pieces_in_several_reduce_tasks():
    batch = EncodedBatch(100, 6400, b"...", False)
    outputs = Outputs(4)
    outputs.add(MapRange(1, batch, 0, 100), ["A1", "B1"], is_carried=False)
    assert (outputs.groups, outputs.are_alike) == (2, True)
    outputs.add(MapRange(2, batch, 0, 100), ["A2", "B2", "C2", "D2"], is_carried=False)
    assert (outputs.groups, outputs.are_alike) == (4, False)
    pieces = [["A1", "A2"], ["B1", "B2"], ["A1", "C2"], ["B1", "D2"]]
    assert list(outputs.group(4, 2)) == [(range(i, 4, 4), each) for i, each in enumerate(pieces)]
    carried = Outputs(4)
    carried.add(MapRange(1, batch, 0, 100), [b"a1", b"b1"], is_carried=True)
    carried.add(MapRange(2, batch, 0, 100), [b"a2", b"b2", b"c2", b"d2"], is_carried=True)
    assert list(carried.group(4, 2)) == [
        (range(0, 4, 2), [b"a1", b"a2", b"c2"]),
        (range(1, 4, 2), [b"b1", b"b2", b"d2"]),
    ]


@pytest.mark.parametrize(
    ("groups", "expected_bytes", "found"),
    [
        (4, 4 * GROUP_BYTES, 4),
        (4, 4 * GROUP_BYTES + 1, 8),
        (8, 10**12, 32),
        (6, 10**12, 24),  # each is divided into whole ones
    ],
)
def test_groups_are_divided_until_a_worker_can_hold_one(groups, expected_bytes, found):
    outputs = Outputs(groups)
    outputs.refine(32, expected_bytes)
    assert outputs.next_groups == found


def test_a_batch_is_small_where_its_output_is_large():
    speed = Speed(items=100, weight=6400, seconds=1.0, slots=2)
    large = replace(speed, output_bytes=100 * 2**20)
    assert next_size(large).max_items == 16 < next_size(speed).max_items
    assert next_size(large).max_weight == 16 * 64
    assert next_size(replace(large, output_bytes=10**12)).max_items == 1


def test_a_shuffle_that_grows_is_divided_while_it_does(cluster, monkeypatch):
    """Tasks that mapped before had fewer groups, and no record is lost or counted twice."""
    monkeypatch.setattr(map_tasks, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(batching, "FULL_OUTPUT_BYTES", 200_000)
    job = mmg.Job(
        {i: i for i in range(400)},
        lambda key, value: [(value % 64, bytes(10_000))],
        lambda key, values: [len(value) for value in values],
        partitions=16,
    )
    seen = []
    submit = ExecutorFutures.reduce

    def reduce(self, job, code, pieces):
        seen.append((job.groups, job.reduced))
        return submit(self, job, code, pieces)

    monkeypatch.setattr(ExecutorFutures, "reduce", reduce)
    assert cluster.run(job) == {key: [10_000] * len(range(key, 400, 64)) for key in range(64)}
    assert seen == [(16, (group,)) for group in range(16)]
