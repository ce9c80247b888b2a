"""A task with a budget maps what it can in time and gives the rest back, with nothing lost or twice."""

import time
import uuid

import pytest

from mmgevent.box import guest
from mmgevent.box.box import BoxedJob
from mmgevent.box.boxes import end_job
from mmgevent.box.portions import GROWTH, count_next, map_portions
from mmgevent.box.reports import GuestBatch, Report
from mmgevent.driver.packing import pack_job
from mmgevent.job.job import Job
from mmgevent.tasks.records import decode_flush, decode_segment, encode_items

CARRIED_BYTES = 64 * 1024
COUNT = 1000


def same(key, value):
    yield key, value


def slow(key, value):
    time.sleep(0.002)
    yield key, value


def wide(key, value):
    yield key, bytes(500)


def huge(key, value):
    yield key, bytes(2 * CARRIED_BYTES)


def picky(key, value):
    if key == 500:
        raise ValueError("not this one")
    yield key, value


@pytest.fixture
def run():
    """Map a batch of COUNT items in a box of this process."""
    used = []

    def run(mapfn, budget_s=60.0, lo=0, hi=COUNT, **options):
        packed = pack_job(Job([], mapfn, **options), used.append, None, is_local=True, stays_here=True)
        job = BoxedJob(
            f"portions-{len(used)}-{uuid.uuid4().hex}",
            packed.options,
            4,
            2,
            packed.context,
            None,
            CARRIED_BYTES,
        )
        used.append(job.id)
        data = encode_items([(number, number) for number in range(COUNT)])
        return guest.map_batch(job, packed.code, GuestBatch(1, COUNT, data, False, lo, hi, budget_s))

    yield run
    for job_id in used:
        end_job(job_id)


def keys_of(pieces):
    return sorted(
        key for piece in pieces for _, segment in decode_flush(piece) for key in decode_segment(segment).keys
    )


def test_a_batch_that_fits_is_mapped_whole_and_carried(run):
    report, *pieces = run(same)
    assert (report.mapped_to, report.items, pieces) == (None, COUNT, [b"", b""])
    assert keys_of(report.carried) == list(range(COUNT))


def test_what_does_not_fit_into_the_time_is_given_back(run):
    report, *_ = run(slow, budget_s=0.2, lo=10)
    assert 10 < report.mapped_to < COUNT
    assert report.items == report.mapped_to - 10
    assert keys_of(report.carried) == list(range(10, report.mapped_to))


@pytest.mark.parametrize(
    ("times", "left_s", "count"),
    [
        ([(1, 0.003)], 0.25, 83),  # it may all be for this entry
        ([(1, 0.003), (83, 0.0031)], 0.24, GROWTH * 84),  # it was the time to begin
        ([(1, 0.002), (100, 0.2)], 0.05, 25),
        ([(1, 0.02), (10, 0.02)], 0.16, 320),  # a quarter of what they seem to take, whatever the first took
        ([(1, 0.003), (83, 0.0031)], -1.0, 0),
        ([(16, 0.0)], 0.25, GROWTH * 16),
    ],
)
def test_the_time_to_begin_is_not_taken_for_that_of_entries(times, left_s, count):
    assert count_next(times, left_s) == pytest.approx(count, abs=1)


def test_without_a_budget_everything_is_mapped(run):
    report, *_ = run(slow, budget_s=None, hi=200)
    assert (report.mapped_to, report.items) == (None, 200)


def test_what_depends_on_time_is_carried_whole(run):
    report, *pieces = run(wide)
    assert pieces == [b"", b""]
    assert 1 < report.mapped_to < COUNT
    assert sum(map(len, report.carried)) <= CARRIED_BYTES
    assert keys_of(report.carried) == list(range(report.mapped_to))


def test_a_first_item_whose_output_is_large_goes_alone_whatever_the_time(run):
    for budget_s in (60.0, 0.001):
        report, *pieces = run(huge, budget_s=budget_s)
        assert (report.mapped_to, report.carried, keys_of(pieces)) == (1, (), [0])


def test_an_item_that_is_set_aside_counts_in_its_portion(run):
    report, *_ = run(picky, max_skipped=1)
    assert (report.mapped_to, report.items) == (None, COUNT - 1)
    assert len(list(decode_segment(report.rows).keys)) == 1
    assert keys_of(report.carried) == [number for number in range(COUNT) if number != 500]


def test_a_failure_ends_the_task(run):
    report, *_ = run(picky)
    assert report.failure["key"] == "500"
    assert report.carried == ()


def test_a_portion_that_needs_content_is_given_back_if_others_were_mapped(monkeypatch):
    answers = iter([(Report(items=1, seconds=1e-3), [b"x"]), (Report(needs_content=True), [])])
    monkeypatch.setattr("mmgevent.box.portions.Trials.map", lambda self, batch: next(answers))
    job = BoxedJob("a job", {}, 4, 2, b"", None, CARRIED_BYTES)
    box = type("Box", (), {"job": job})()
    report, output = map_portions(box, GuestBatch(1, 10, b"", True, 0, 10, 60.0))
    assert (report.mapped_to, report.needs_content, output) == (1, False, [b"x"])


@pytest.mark.parametrize(
    "dropped",
    [(Report(needs_content=True), []), (Report(), [b"x" * 2 * CARRIED_BYTES])],
    ids=["content", "size"],
)
def test_a_portion_that_is_dropped_leaves_its_notices_and_deaths(monkeypatch, dropped):
    """An executor says a notice once, and one that has died was not alive: neither comes again."""
    report, output = dropped
    report = report._replace(
        notices=(("said", "once"),), deaths=({"kind": "died"},), killers=((5, {}),), items=9
    )
    answers = iter([(Report(items=1, seconds=1e-3, notices=(("first", None),)), [b"x"]), (report, output)])
    monkeypatch.setattr("mmgevent.box.portions.Trials.map", lambda self, batch: next(answers))
    job = BoxedJob("a job", {}, 4, 2, b"", None, CARRIED_BYTES)
    box = type("Box", (), {"job": job})()
    found, kept = map_portions(box, GuestBatch(1, 10, b"", True, 0, 10, 60.0))
    assert (found.mapped_to, found.items, kept) == (1, 1, [b"x"])
    assert found.notices == (("first", None), ("said", "once"))
    assert found.deaths == ({"kind": "died"},)
    assert found.killers == ()  # they are set aside where they are mapped
