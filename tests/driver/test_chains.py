"""Chains of stages: where the results of a stage are, and what happens if something is lost or stopped."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import reducers
from mmgevent.driver import stage_results
from mmgevent.driver.engine_link import EngineProcess
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.progress.text import describe
from mmgevent.driver.runners.chained import ChainRunner
from mmgevent.driver.runners.inline import InlineRunner
from mmgevent.driver.stage_results import StageResults
from mmgevent.driver.submission import Submission
from mmgevent.driver.trying.glance import take_glance
from mmgevent.errors import JobCancelled, JobError, OptionError
from mmgevent.job.outputs.opening import open_output
from mmgevent.wire.frames import CONTROL
from mmgevent.wire.messages import decode_message
from tests.waiting import wait_until

ITEMS = {n: n for n in range(50)}


def spread(key, value):
    yield value % 10, value


def add(key, values):
    return sum(values)


def by_digit(key, total):
    yield total % 3, key


#: the sum for the digit n is 5 * n + 100
EXPECTED = {rest: sorted(n for n in range(10) if (5 * n + 100) % 3 == rest) for rest in range(3)}


def result_of(job, cluster):
    return {key: sorted(values) for key, values in cluster.run(job).items()}


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2, segment_memory="1MiB") as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path):
    """Where functions that are held back look; they go on at the latest when the test has ended."""
    yield tmp_path
    (tmp_path / "go").touch()


def held_back(folder):
    """Return a mapfn that says in the folder that it has begun, and goes on when it may."""

    def wait_and_map(key, total):
        (folder / f"begun-{os.getpid()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        yield total % 3, key

    return wait_and_map


def wait_begun(folder):
    wait_until(lambda: list(folder.glob("begun-*")))


class TestStageResults:
    def test_they_come_back_in_order_each_time_from_memory_and_from_a_file(self, monkeypatch):
        records = [(n, "x" * (n % 700)) for n in range(5000)]
        for memory_bytes in (10**9, 1000):
            monkeypatch.setattr(stage_results, "MEMORY_BYTES", memory_bytes)
            monkeypatch.setattr(stage_results, "CHUNK_BYTES", 50_000)
            results = StageResults()
            results.add_all(iter(records))
            assert (list(results), list(results), results.count) == (records, records, 5000)
            results.close()
            results.close()
            assert list(results) == []

    def test_a_record_that_cannot_be_encoded_is_named(self):
        results = StageResults()
        with pytest.raises(JobError, match=r"a result cannot go to the next stage(.|\n)*'bad'"):
            results.add_all([("bad", threading.Lock())])
        results.close()

    def test_a_full_disk_ends_the_job_with_what_to_do(self):
        results = StageResults()
        results._file = open("/dev/full", "w+b", buffering=0)  # noqa: SIM115 - closed with the results
        with pytest.raises(JobError, match=r"cannot keep the results(.|\n)*TMPDIR") as failed:
            results.add_all((n, n) for n in range(1000))
        assert failed.value.kind == "disk"
        results.close()


def test_results_of_a_stage_stay_on_the_server_and_spill_there(cluster, monkeypatch):
    received = []

    def count(submission, frame):
        received.append(len(frame.payload))
        take(submission, frame)

    take = Submission._on_result_data
    monkeypatch.setattr(Submission, "_on_result_data", count)

    def fatten(key, value):
        yield from ((10 * value + i, "x" * 10_000) for i in range(10))

    job = mmg.Job(ITEMS, fatten, reducers.first_value).then(
        lambda key, text: [(key % 2, len(text))], reducers.sum_values
    )
    handle = cluster.submit(job)
    assert handle.result() == {0: 2_500_000, 1: 2_500_000}
    first, second = handle.stats()["stages"]
    assert (first["records"], second["records"]) == (500, 2)
    assert first["spilled_bytes"] > 1_000_000
    assert sum(received) < 10_000


def test_without_reducefn_with_iterator_forms_and_plain_results_a_stage_is_what_a_job_is(cluster):
    def all_sums(groups):
        for key, values in groups:
            yield key, sum(values)
            yield key, len(values)

    job = mmg.Job(ITEMS, spread, name="plain", results="plain").then(
        lambda key, values: [(key % 2, each) for each in values], all_sums
    )
    job = job.then(reducefn=lambda key, values: sorted(values), finishfn=lambda key, values: values[0])
    assert cluster.run(job) == mmg.run(job, inline=True) == {0: 25, 1: 25}
    strange = mmg.Job(ITEMS, spread, lambda key, values: threading.get_ident, results="plain").then(by_digit)
    with pytest.raises(JobError, match=r"^stage 1 of 2: reducefn"):
        cluster.run(strange)


def test_the_whole_chain_is_submitted_again_when_the_engine_is_lost(cluster, folder):
    notices = []
    job = mmg.Job(iter(ITEMS.items()), spread, add).then(held_back(folder), reducers.list_values)
    handle = cluster.submit(job, on_notice=notices.append)
    wait_begun(folder)
    os.kill(cluster._engine.pid, signal.SIGKILL)
    (folder / "go").touch()
    assert {key: sorted(values) for key, values in handle.result().items()} == EXPECTED
    assert [text for text in notices if "resubmitted" in text] == notices
    assert len(notices) == 1


def test_a_notice_that_raises_between_stages_leaves_no_results_on_the_server(cluster, monkeypatch):
    sent = []
    send = EngineProcess.send

    def note(engine, *frames):
        for frame in frames:
            if frame.kind == CONTROL:
                sent.append((frame.job, decode_message(frame.payload)))
        send(engine, *frames)

    def refuse_the_sum(text):
        if "in all" in text:
            raise ZeroDivisionError

    monkeypatch.setattr(EngineProcess, "send", note)
    first = mmg.Job(ITEMS, lambda key, value: [1 / 0], add, max_skipped=50)
    with pytest.raises(ZeroDivisionError):
        cluster.submit(first.then(by_digit), on_notice=refuse_the_sum).result()
    (submitted,) = [job for job, message in sent if message["type"] == "submit"]
    assert submitted in [job for job, message in sent if message["type"] == "cancel"]


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.long), 3])
def test_a_chain_whose_results_were_given_out_in_part_fails_when_its_engine_is_lost(cluster, folder, stages):
    def wait_and_add(key, values):
        if key:
            (folder / f"begun-{os.getpid()}").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return sum(values)

    job = mmg.Job(ITEMS, spread, add)
    if stages == 3:
        job = job.then(lambda key, total: [(key, total)], add)
    job = job.then(lambda key, total: [(min(key, 1), total)], wait_and_add)
    handle = cluster.submit(job, on_notice=print)
    stream = handle.stream()
    assert next(stream) == (0, 100)
    os.kill(cluster._engine.pid, signal.SIGKILL)
    (folder / "go").touch()
    with pytest.raises(JobError, match="results of the last stage were given out already") as failed:
        list(stream)
    assert (failed.value.kind, str(failed.value).count("\n")) == ("lost", 0)


def test_a_chain_is_cancelled_in_any_stage_and_nothing_of_it_stays(cluster, folder):
    job = mmg.Job(ITEMS, spread, add).then(held_back(folder)).then(by_digit)
    handle = cluster.submit(job, on_notice=print)
    wait_begun(folder)
    handle.cancel()
    with pytest.raises(JobCancelled, match=r"^job spread was cancelled$"):
        handle.result()
    assert handle.progress().phase == "cancelled"
    assert result_of(mmg.Job(ITEMS, spread, add).then(by_digit), cluster) == EXPECTED


def test_an_item_that_kills_executors_and_too_many_that_fail_are_those_of_their_stage(cluster):
    def die_of_three(key, total):
        if key == 3:
            os._exit(9)
        yield key, total

    first = mmg.Job(ITEMS, spread, add)
    handle = cluster.submit(first.then(die_of_three, max_skipped=1), on_notice=lambda text: None)
    assert set(handle.result()) == set(range(10)) - {3}
    (skipped,) = handle.skipped()
    assert (skipped["stage"], skipped["kind"], skipped["key"]) == (2, "died", "3")
    assert {death["item"] is not None for death in handle.deaths()} == {True}
    with pytest.raises(mmg.TooManySkippedError, match=r"^stage 2 of 2: (.|\n)*max_skipped=0.1") as failed:
        cluster.run(first.then(lambda key, total: [1 / 0], max_skipped=0.1))
    assert failed.value.stage == 2


def test_no_part_of_a_chain_runs_if_a_stage_cannot(cluster, tmp_path):
    def note(key, value):
        (tmp_path / "ran").touch()
        yield key, value

    unsendable = (n for n in [])
    with pytest.raises(mmg.ShippingError, match=r"^stage 2 of 2: "):
        cluster.submit(mmg.Job(ITEMS, note).then(lambda key, values: [(key, unsendable)]))
    with pytest.raises(OptionError, match=r"^stage 2 of 2: "):
        cluster.submit(mmg.Job(ITEMS, note).then("offered", memory_limit="1GiB"))
    assert not (tmp_path / "ran").exists()
    assert not list(Path(tmp_path).iterdir())


class Unloadable:
    """Loads nowhere but where it was made."""

    def __reduce__(self):
        return int, ("no number",)


def test_no_part_of_a_chain_runs_if_the_code_of_a_later_stage_does_not_load(cluster, tmp_path):
    def note(key, value):
        (tmp_path / "ran").touch()
        yield key, value

    unloadable = Unloadable()
    job = mmg.Job(ITEMS, note, add).then(by_digit).then(lambda key, values: [(key, unloadable)])
    with ThreadPoolExecutor(2) as executor, mmg.connect(executor) as threads:
        for place in (cluster, threads):
            with pytest.raises(mmg.ShippingError, match=r"^stage 3 of 3: "):
                place.run(job)
    assert not (tmp_path / "ran").exists()


def test_the_progress_line_names_the_stage():
    progress = Progress("map", 3, workers=1, slots=2, stage=2, stages=3)
    assert describe(progress, None) == "stage 2 of 3: map 3 items, 1 worker with 2 slots"
    assert describe(Progress(stage=2, stages=3), None) == "stage 2 of 3: starting: waiting for workers"
    assert describe(Progress("map", 3, workers=1, slots=2), None).startswith("map 3 items")


def test_what_a_chain_cannot_do_is_refused_by_name(tmp_path):
    job = mmg.Job(ITEMS, spread, add).then(by_digit)
    with pytest.raises(mmg.UsageError, match="a job of several stages"):
        take_glance(job, 3, print)
    with pytest.raises(mmg.OutputError, match="it is a job of several stages"):
        open_output(f"{tmp_path}/out/", resume=True, job=job)
    with pytest.raises(mmg.UsageError, match="has 2 stages, and such a job cannot continue"):
        ChainRunner(job, InlineRunner).leave_out(None)


def test_a_stage_has_its_values_sorted_and_its_items_in_calls_of_many():
    def many(keys, totals):
        for key, total in zip(keys, totals, strict=True):
            yield total % 3, key

    job = mmg.Job(ITEMS, spread, add).then(
        many, lambda key, values: list(values), sort_values=True, items_per_call=4
    )
    assert mmg.run(job, inline=True) == EXPECTED
