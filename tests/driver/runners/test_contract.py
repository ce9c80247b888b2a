"""The contract of runners: the same job gives the same on every engine, whatever goes wrong in it."""

import array
import bz2
import contextlib
import datetime
import decimal
import enum
import gzip
import json
import logging
import lzma
import os
import random
import re
import signal
import sqlite3
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import reducers
from mmgevent.job.bundle import read_bundle
from mmgevent.job.outputs.contents import find_made
from mmgevent.job.outputs.opening import open_output
from mmgevent.job.outputs.receipts import Receipt
from mmgevent.tasks.part_writer import MIN_OWN_BYTES
from mmgevent.tasks.records import decode_value
from tests.driver.runners.places import DEADLINE_S, wait_until
from tests.job.remote.web_server import running_web_server
from tests.oracle import plain_mapreduce


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def numbers(count):
    return {i: i for i in range(count)}


def by_three(key, value):
    yield value % 3, value


def one_block(key, value):
    return mmg.Block([value % 3], [value])


def blocks_of_numbers(key, value):
    numbers = array.array("q", range(2000))
    yield mmg.Block(numbers, array.array("q", [value]) * 2000)
    yield 5, value
    yield mmg.Block(array.array("d", [0.5, 5.0]), numbers[1:3])
    if value % 10 == 3:
        raise ValueError("not this one")


def add(key, values):
    return sum(values)


def add_all(groups):
    for key, values in groups:
        yield key, sum(values)


def double(key, value):
    return value * 2


def double_all(records):
    for key, value in records:
        yield key, value * 2


EXPECTED = plain_mapreduce(numbers(100).items(), by_three, add)

FORMS = {
    "functions": ({"mapfn": by_three, "reducefn": add}, EXPECTED),
    "iterator": ({"mapfn": by_three, "reducefn": add_all}, EXPECTED),
    "collect": ({"mapfn": by_three, "collectfn": add, "reducefn": add}, EXPECTED),
    "finish": (
        {"mapfn": by_three, "reducefn": add, "finishfn": double},
        {k: 2 * v for k, v in EXPECTED.items()},
    ),
    "finish iterator": (
        {"mapfn": by_three, "reducefn": add, "finishfn": double_all},
        {k: 2 * v for k, v in EXPECTED.items()},
    ),
    "known reducer": ({"mapfn": by_three, "reducefn": reducers.sum_values}, EXPECTED),
    "counted": ({"mapfn": by_three, "reducefn": reducers.count_values}, {0: 34, 1: 33, 2: 33}),
    "blocks": ({"mapfn": one_block, "reducefn": add}, EXPECTED),
    "no mapfn": ({"reducefn": add}, numbers(100)),
    "no reducefn": ({"mapfn": by_three}, plain_mapreduce(numbers(100).items(), by_three)),
}


@pytest.mark.parametrize("reducefn", [reducers.sum_values, reducers.count_values, add])
def test_blocks_give_what_their_pairs_give(cluster, reducefn):
    job = mmg.Job(numbers(20), blocks_of_numbers, reducefn, max_skipped=2)
    good = [(key, value) for key, value in numbers(20).items() if value % 10 != 3]

    def pairs(key, value):
        for record in blocks_of_numbers(key, value):
            yield from record.pairs() if isinstance(record, mmg.Block) else [record]

    expected = plain_mapreduce(good, pairs, reducefn)
    assert cluster.run(job) == expected
    assert {type(key) for key in expected} == {int, float}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_function(cluster, form):
    functions, expected = FORMS[form]
    assert cluster.run(mmg.Job(numbers(100), **functions)) == expected


def by_parity(key, total):
    yield total % 2, (key, total)


def refuses_ones(key, total):
    if key == 1:
        raise ValueError("no ones")
    yield key, total


def test_a_chain_maps_the_results_of_each_stage_in_the_next(cluster):
    job = mmg.Job(numbers(100), by_three, add, partitions=4)
    job = job.then(by_parity, partitions=2).then(lambda parity, pairs: sorted(pairs), add)
    assert job.name == "by_three"
    expected = plain_mapreduce(EXPECTED.items(), by_parity)
    expected = plain_mapreduce(expected.items(), lambda parity, pairs: sorted(pairs), add)
    assert cluster.run(job) == expected
    assert cluster.run(mmg.Job([], by_three, add).then(by_parity)) == {}


def test_a_chain_says_which_stage_failed_and_counts_what_each_sets_aside(cluster):
    seen = []
    first = mmg.Job(numbers(100), by_three, add)
    handle = cluster.submit(first.then(refuses_ones, add, max_skipped=1), on_progress=seen.append)
    assert handle.result() == {0: EXPECTED[0], 2: EXPECTED[2]}
    assert [(each["stage"], each["item_key"]) for each in handle.skipped()] == [(2, 1)]
    assert list(handle.skipped_items()) == [(1, EXPECTED[1])]
    stats = handle.stats()
    assert [stage["skipped"] for stage in stats["stages"]] == [0, 1]
    assert [stage["items"] for stage in stats["stages"]] == [100, 2]
    assert (stats["items"], stats["mapped_records"], stats["keys"], stats["skipped"]) == (100, 102, 2, 1)
    assert {each.stages for each in seen} <= {2}
    assert handle.progress().stage == 2
    with pytest.raises(
        mmg.JobError, match=r"stage 2 of 2: mapfn at 1(.|\n)*stage 1 for the key 1$"
    ) as failed:
        cluster.run(first.then(refuses_ones, add))
    assert (failed.value.stage, failed.value.key) == (2, "1")
    with pytest.raises(mmg.JobError, match=r"^stage 1 of 2: reducefn at 0(.|\n)*ZeroDivisionError"):
        cluster.run(mmg.Job(numbers(3), by_three, lambda key, values: 1 // key).then(by_parity))


def test_a_job_log_counts_every_item_once(cluster, tmp_path):
    path = tmp_path / "job.jsonl"

    def refuses_5(key, value):
        if value == 5:
            raise ValueError("no fives")
        yield value % 3, value

    assert cluster.run(mmg.Job(numbers(100), refuses_5, add, max_skipped=1), job_log=path)
    events = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert (events[0]["event"], events[0]["name"]) == ("job", "refuses_5")
    done = [event for event in events if event["event"] == "task" and event["outcome"] == "done"]
    assert sum(event["items"] for event in done if event["phase"] == "map") == 99
    assert sum(event["records"] for event in done if event["phase"] == "reduce") == 3
    assert all(event["worker"] for event in done)
    items = [(event["outcome"], event["key"]) for event in events if event["event"] == "item"]
    assert items == [("skipped", "5")]
    assert (events[-1]["event"], events[-1]["outcome"]) == ("end", "done")
    assert events[-1]["totals"]["skipped"] == 1


def test_values_come_in_datasource_order(cluster):
    job = mmg.Job([(i, i) for i in range(3000)], by_three, partitions=4)
    assert cluster.run(job) == plain_mapreduce([(i, i) for i in range(3000)], by_three)


def test_values_are_sorted_before_they_are_reduced(cluster):
    items = [(i, (i * 7919 % 3000, i)) for i in range(3000)]

    def by_rest(key, value):
        yield value[1] % 3, value

    def as_they_come(key, values):
        return [value[0] for value in values]

    job = mmg.Job(items, by_rest, as_they_come, sort_values=lambda value: -value[0], partitions=4)
    results = cluster.run(job)
    assert {k: sorted(values, reverse=True) for k, values in results.items()} == results
    assert sorted(value for values in results.values() for value in values) == list(range(3000))
    mixed = mmg.Job([(0, (1, 0)), (1, ("x", 0))], by_rest, as_they_come, sort_values=True)
    with pytest.raises(
        mmg.JobError, match=r"cannot be sorted: an? (int|str) and an? (int|str) have no order"
    ):
        cluster.run(mixed)


def test_files_lines_and_iterables_are_read(cluster, tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for number, path in enumerate(paths):
        path.write_text("".join(f"{number} {i}\n" for i in range(50)))
    whole = mmg.Job(mmg.Files(tmp_path / "*.txt"), lambda path, text: [(Path(path).name, len(text))], add)
    assert cluster.run(whole) == {path.name: path.stat().st_size for path in paths}
    lines = mmg.Job(mmg.Lines(paths), lambda place, line: [(line.split()[0], 1)], add)
    assert cluster.run(lines) == {"0": 50, "1": 50}
    assert cluster.run(mmg.Job(iter(numbers(9).items()), by_three, add)) == {0: 9, 1: 12, 2: 15}
    assert cluster.run(mmg.Job([], by_three, add)) == {}


def test_records_of_files_are_read_and_broken_ones_set_aside(cluster, tmp_path):
    rows, objects, packed = (tmp_path / name for name in ("a.csv", "a.jsonl", "a.bin"))
    rows.write_text("region,note\n" + 'north,"a ""note""\nof two lines"\n' * 30 + "broken\n")
    objects.write_text('{"n": 1}\n' * 40 + "{broken\n")
    packed.write_bytes(b"abcd" * 50 + b"ab")
    sources = mmg.Csv(rows) + mmg.JsonLines(objects)
    sources += mmg.Bytes(packed, record_bytes=4) + mmg.Bytes(packed, delimiter=b"bc")
    handle = cluster.submit(mmg.Job(sources, lambda place, record: [(str(record), 1)], add, max_skipped=3))
    assert handle.result() == {
        str({"region": "north", "note": 'a "note"\nof two lines'}): 30,
        str({"n": 1}): 40,
        str(b"abcd"): 50,
        str(b"a"): 1,
        str(b"da"): 49,
        str(b"dab"): 1,
    }
    broken = {(str(rows), rows.stat().st_size - 7), (str(objects), 360), (str(packed), 200)}
    assert {failure["item_key"] for failure in handle.skipped()} == broken


def test_parquet_is_read_and_a_broken_row_group_set_aside(cluster, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"n": list(range(100)), "kind": [f"kind {i % 3}" for i in range(100)]})
    good, bad = str(tmp_path / "good.parquet"), str(tmp_path / "bad.parquet")
    for path in (good, bad):
        parquet.write_table(table, path, row_group_size=20, use_dictionary=False, write_page_checksum=True)
    chunk = parquet.read_metadata(bad).row_group(3).column(0)
    with open(bad, "r+b") as file:
        file.seek(chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    handle = cluster.submit(
        mmg.Job(
            mmg.Parquet(good, bad) + mmg.Parquet(good, columns=["n"], as_="arrow"),
            lambda place, item: (
                [("row", item["n"])] if isinstance(item, dict) else [("table", sum(item["n"].to_pylist()))]
            ),
            add,
            max_skipped=1,
        )
    )
    total = sum(range(100))
    assert handle.result() == {"row": 2 * total - sum(range(60, 80)), "table": total}
    assert [failure["key"] for failure in handle.skipped()] == [repr((bad, 60))]


def test_rows_of_a_database_are_read_and_a_broken_range_set_aside(cluster, tmp_path):
    path = str(tmp_path / "numbers.db")
    with contextlib.closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE numbers (id INTEGER, n)")
        made.executemany("INSERT INTO numbers VALUES (?, ?)", [(i, i) for i in range(100)] + [(None, 7)])
    made.close()
    overflow = "abs(CASE id WHEN 45 THEN -1 - 9223372036854775807 ELSE n END) AS n"
    queries = [
        mmg.Query(lambda: sqlite3.connect(path), f"SELECT id, {what} FROM numbers", key="id", ranges=10)
        for what in ("n", overflow)
    ]

    def by_rest(key, row):
        return [("none" if key is None else key % 3, row["n"])]

    handle = cluster.submit(mmg.Job(queries[0] + queries[1], by_rest, add, max_skipped=1))
    rests = [2 * sum(range(i, 100, 3)) - sum(j for j in range(40, 50) if j % 3 == i) for i in range(3)]
    assert handle.result() == {0: rests[0], 1: rests[1], 2: rests[2], "none": 14}
    (failure,) = handle.skipped()
    assert failure["key"] == repr("id >= 40 and id < 50")
    assert "OperationalError" in failure["error"]
    with pytest.raises(mmg.JobError, match=r"id >= 40 and id < 50 cannot be read: OperationalError: "):
        cluster.run(mmg.Job(queries[1], by_rest, add))

    def takes(key, row):
        n = row.pop("n")
        if n == 33:
            raise ValueError("33")
        return [(0, 1)]

    handle = cluster.submit(mmg.Job(queries[0], takes, add, retries=1, max_skipped=1))
    assert handle.result() == {0: 100}
    assert list(handle.skipped_items()) == [(33, {"id": 33, "n": 33})]
    with contextlib.closing(sqlite3.connect(path)) as changed, changed:
        changed.execute("DELETE FROM numbers WHERE id > 3")
    changed.close()
    assert cluster.run(mmg.Job(queries[0], by_rest, add)) == {0: 3, 1: 1, 2: 2, "none": 7}


def test_compressed_files_and_streams_are_read(cluster, tmp_path):
    """Those of one member, those that are cut, and what the driver alone can read."""
    text = "".join(f"{i % 7} {i}\n" for i in range(2000)).encode()
    for name, packed in {
        "a.gz": gzip.compress(text),
        "b": bz2.compress(text),
        "c.xz": lzma.compress(text),
    }.items():
        (tmp_path / name).write_bytes(packed)
    (tmp_path / "cut").write_bytes(
        bz2.compress(random.Random(1).randbytes(3_000_000).replace(b"\n", b" ") + b"\n" + text)
    )
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    files = mmg.Lines(tmp_path, errors="replace")
    job = mmg.Job(files + mmg.Lines(f"/dev/fd/{read}"), lambda place, line: [(line[:1], 1)], add)
    counted = cluster.run(job)
    os.close(read)
    assert {key: counted[str(key)] for key in range(7)} == {
        key: 5 * len(range(key, 2000, 7)) for key in range(7)
    }


def test_lists_of_paths_remote_objects_and_what_only_the_driver_has_are_read(cluster, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("listed\n" * 20)
    (tmp_path / "list").write_text(f"{tmp_path}/a.txt\n\n{tmp_path}/b.txt\n")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/contract/c.txt", b"memory\n" * 30)
    try:
        with running_web_server() as server:
            server.files["d.txt"] = b"web\n" * 40
            url = f"{server.url}/ranges/d.txt"
            source = mmg.Lines.listed(tmp_path / "list") + mmg.Lines(url, "memory://contract/c.txt")
            job = mmg.Job(source, lambda place, line: [((line, place[0]), 1)], add)
            handle = cluster.submit(job, on_notice=lambda text: None)
            assert handle.result() == {
                ("listed", f"{tmp_path}/a.txt"): 20,
                ("listed", f"{tmp_path}/b.txt"): 20,
                ("memory", "memory://contract/c.txt"): 30,
                ("web", url): 40,
            }
            gone = f"{server.url}/ranges/gone.txt"
            with pytest.raises(mmg.DatasourceError, match=re.escape(gone)):
                cluster.run(mmg.Job(mmg.Lines(gone), lambda place, line: [(line, 1)], add))
    finally:
        memory.rm("/contract", recursive=True)


def test_keys_of_every_kind(cluster):
    keys = [
        None, True, 2, -(2**70), 2.5, 3 + 4j, "a", "\udc80", b"b", ("t", 1), frozenset({1, 2}), Colour.RED,
        decimal.Decimal("1.5"), datetime.date(2026, 1, 1), uuid.UUID(int=7), Path("x"), (), ("n", (None, b""))
    ]  # fmt: skip
    job = mmg.Job([(i, i % len(keys)) for i in range(4 * len(keys))], lambda i, at: [(keys[at], i)], add)
    expected = plain_mapreduce(
        [(i, i % len(keys)) for i in range(4 * len(keys))], lambda i, at: [(keys[at], i)], add
    )
    assert cluster.run(job) == expected


def test_a_job_has_its_setup_and_its_arguments(cluster):
    state = []

    def setup():
        state.append("ready")

    job = mmg.Job(numbers(5), lambda k, v: [(len(state), v)], add, setupfn=setup)
    assert cluster.run(job) == {1: 10}


def test_results_are_streamed_and_progress_is_told(cluster):
    seen = []
    handle = cluster.submit(mmg.Job(numbers(100), by_three, add), on_progress=seen.append)
    assert dict(handle.stream()) == EXPECTED
    assert handle.done()
    assert handle.progress().phase == "done"
    assert handle.stats()["records"] == 3
    assert {"map", "reduce"} >= {progress.phase for progress in seen} - {"starting", "plan"}


def test_results_of_a_partition_that_are_more_than_is_fetched_at_once(cluster):
    def large(key, value):
        yield value, bytes([value]) * (40 if value == 7 else 1) * 2**20

    job = mmg.Job(numbers(9), large, lambda key, values: values[0], partitions=1)
    found = {key: (len(value), set(value)) for key, value in cluster.submit(job).stream()}
    assert found == {key: ((40 if key == 7 else 1) * 2**20, {key}) for key in range(9)}


def test_functions_count_what_counts_and_once(cluster, tmp_path):
    tried = tmp_path / "tried"

    def odd(key, value):
        mmg.counter("begun").add()
        if value % 2 == 0:
            mmg.counter("even").add(value)
        if value == 7:
            raise ValueError("never")
        if value == 8 and not tried.exists():
            tried.touch()
            raise ValueError("once")
        yield value % 3, value

    def add_counted(key, values):
        mmg.counter("keys").add()
        return sum(values)

    handle = cluster.submit(mmg.Job(numbers(100), odd, add_counted, retries=1, max_skipped=1))
    assert handle.result() == {**EXPECTED, 1: EXPECTED[1] - 7}
    counted = {"begun": 99, "even": sum(range(0, 100, 2)), "keys": 3}
    assert handle.counters() == handle.stats()["counters"] == counted
    assert list(handle.counters()) == sorted(counted)

    plain = cluster.submit(mmg.Job(numbers(3), by_three, add))
    plain.result()
    assert plain.counters() == plain.stats().get("counters", {}) == {}

    chain = mmg.Job(numbers(100), odd, add_counted, max_skipped=1).then(odd, add_counted, max_skipped=1)
    handle = cluster.submit(chain)
    handle.result()
    assert handle.counters()["begun"] == 99 + 3


def test_what_functions_print_and_log_is_told_with_worker_and_item(executors):
    def say(key, value):
        if value == 3:
            print("three\x1b[31m")  # noqa: T201
            print("to stderr", file=sys.stderr)  # noqa: T201
            logging.getLogger("of.job").warning("careful")
        yield value % 3, value

    seen = []
    handle = executors.submit(mmg.Job(numbers(5), say, add), logs=seen.append)
    handle.result()
    assert handle.logs() == seen
    assert [line.text for line in seen][:2] == ["three\\x1b[31m", "to stderr"]
    assert seen[2].text.endswith("careful")  # pytest's own handlers decide how, and with what before it
    assert len(seen) == 3
    assert {line.item for line in seen} == {"3"}
    assert all(str(line) == f"{line.worker} at 3: {line.text}" and line.worker for line in seen)
    silent = executors.submit(mmg.Job(numbers(5), by_three, add), logs=seen.append)
    silent.result()
    assert (silent.logs(), len(seen)) == ([], 3)


def test_counters_that_cannot_count_are_refused_by_name(cluster):
    def too_many(key, value):
        mmg.counter(f"key {key}").add()
        yield key, value

    def finish(key, value):
        mmg.counter("finished").add()

    job = mmg.Job(numbers(3), by_three, add, setupfn=lambda: mmg.counter("set up").add())
    with pytest.raises(mmg.JobError, match="the counter 'set up' cannot count in setupfn: it runs once in"):
        cluster.run(job)
    with pytest.raises(
        mmg.JobError, match="the counter 'finished' cannot count in finishfn: it runs in your"
    ):
        cluster.run(mmg.Job(numbers(3), by_three, add, finishfn=finish))
    with pytest.raises(mmg.JobError, match="more than 100 counters"):
        cluster.run(mmg.Job(numbers(101), too_many))
    with pytest.raises(mmg.JobError, match="the counter 'n' counts whole numbers, not float"):
        cluster.run(mmg.Job(numbers(3), lambda k, v: mmg.counter("n").add(0.5)))


def refuses_seven(key, value):
    if key == 7:
        raise ValueError("not seven")
    yield value % 3, value


def test_the_figures_of_a_job_are_those_of_its_input_and_results(cluster, tmp_path):
    began, gate = tmp_path / "began", tmp_path / "open"

    def refuses_seven_late(key, value):
        began.touch()
        while not gate.exists():
            time.sleep(0.01)
        yield from refuses_seven(key, value)

    handle = cluster.submit(mmg.Job(numbers(100), refuses_seven_late, add, max_skipped=1, retries=2))
    try:
        assert handle.progress().total == 100
        wait_until(began.exists)
        progress = handle.progress()
        assert (progress.total, progress.phase in ("starting", "map")) == (100, True)
    finally:
        gate.touch()
    assert handle.result() == {**EXPECTED, 1: EXPECTED[1] - 7}
    stats = handle.stats()
    expected = {
        "items": 99,
        "mapped_records": 99,
        "keys": 3,
        "records": 3,
        "skipped": 1,
        "retries": 2,
        "deaths": 0,
    }
    assert {name: stats[name] for name in expected} == expected
    assert 0 < stats["shuffled_bytes"] < 100_000
    assert 0 < stats["cpu_seconds"] < 60
    assert stats["slot_seconds"] >= 0
    assert stats["seconds"] > 0
    assert "input_bytes" not in stats  # numbers have no bytes that mean something
    if "peak_bytes" in stats:  # not inline: much else is in this process
        assert 4 * 1024**2 < stats["peak_bytes"] < 8 * 1024**3
    assert repr(handle).endswith(" done, 1 skipped>")
    assert "<progress" in handle._repr_html_()


def test_the_bytes_of_files_are_figures_and_progress(cluster, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\nthree\n")
    handle = cluster.submit(mmg.Job(mmg.Lines(path), lambda key, line: [(len(line), 1)], add))
    assert handle.progress().total_bytes == 14
    assert handle.result() == {3: 2, 5: 1}
    stats = handle.stats()
    assert (stats["items"], stats["input_bytes"], stats["keys"]) == (3, 14, 2)


def test_results_are_written_in_order(cluster, tmp_path):
    handle = cluster.submit(mmg.Job(numbers(100), by_three, add))
    assert handle.write(tmp_path / "out.csv.gz", columns="rest,total", sort="-value", top=2) == 2
    with gzip.open(tmp_path / "out.csv.gz", "rt") as file:
        assert file.read() == "rest,total\n0,1683\n2,1650\n"


def test_results_are_written_into_parts(cluster, tmp_path):
    handle = cluster.submit(mmg.Job(numbers(100), by_three, add))
    assert handle.write(f"{tmp_path}/out/", "jsonl", sort="key", part_size=1) == 3
    names = [f"part-{i:05}.jsonl" for i in range(3)]
    assert sorted(os.listdir(tmp_path / "out")) == ["_SUCCESS", *names]
    parts = [json.loads((tmp_path / "out" / name).read_text()) for name in names]
    assert dict(parts) == EXPECTED
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["records"] == 3


def test_results_are_written_in_every_format_and_made_into_tables(cluster, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    handle = cluster.submit(mmg.Job(numbers(100), by_three, add))
    assert handle.result() == EXPECTED
    suffixes = ("tsv", "jsonl", "csv", "pickle", "parquet", "tsv.xz", "pickle.gz")
    assert [handle.write(tmp_path / f"out.{suffix}") for suffix in suffixes] == [3] * len(suffixes)
    lines = (tmp_path / "out.tsv").read_text()
    assert dict(map(json.loads, line.split("\t")) for line in lines.splitlines()) == EXPECTED
    assert lzma.decompress((tmp_path / "out.tsv.xz").read_bytes()).decode() == lines
    assert dict(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())) == EXPECTED
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert {int(key): int(value) for key, value in (row.split(",") for row in rows)} == EXPECTED
    for name in ("out.pickle", "out.pickle.gz"):
        assert dict(mmg.load(tmp_path / name)) == EXPECTED
    read_parquet = pytest.importorskip("pyarrow.parquet").read_table
    for table in (read_parquet(tmp_path / "out.parquet"), handle.to_arrow()):
        assert dict(zip(*table.to_pydict().values(), strict=True)) == EXPECTED


def test_a_job_goes_on_where_an_earlier_run_ended_or_is_refused_by_name(place, tmp_path, monkeypatch):
    monkeypatch.setattr("mmgevent.job.outputs.units.MIN_AGE_S", 0.0)
    monkeypatch.setattr("mmgevent.job.outputs.units.AGE_SHARE", 0.0)
    out, calls = tmp_path / "out", tmp_path / "calls"
    calls.mkdir()

    def by_rest(key, value):
        yield value % 16, value

    def add_and_note(key, values):
        mark = calls / "failed"
        if key == 13 and not mark.exists():
            mark.touch()
            while has_executors and find_made(out) is None:  # others go on until some of it counts
                time.sleep(0.01)
            raise ValueError("in the middle")
        (calls / str(key)).touch()
        return sum(values)

    def made_keys():
        return [line.split("\t")[0] for path in out.glob("part-*") for line in path.read_text().splitlines()]

    has_executors = place.has_executors
    job = mmg.Job(numbers(160), by_rest, add_and_note, partitions=8)
    if not place.resumes:
        sink = open_output(f"{out}/", job=job, part_bytes=1)
        sink.write(0, sum(range(0, 160, 16)))
        sink.note_partitions((0,), 8)
        sink.abort()
        with pytest.raises(mmg.UsageError, match="nothing to resume; leave --resume away"):
            place.cluster.submit(job, resume=f"{out}/")
        return
    with pytest.raises(mmg.JobError, match="in the middle"):
        place.cluster.submit(job).write(f"{out}/", part_size=1)
    before = made_keys()
    assert before or not has_executors
    for path in calls.iterdir():
        if path.name != "failed":
            path.unlink()
    assert place.cluster.submit(job, resume=f"{out}/").write(f"{out}/", resume=True, part_size=1) == 16
    assert sorted(made_keys()) == sorted(map(str, range(16)))
    assert not set(before) & {path.name for path in calls.iterdir()}


def test_variables_are_passed_where_the_environment_is_not(cluster, monkeypatch):
    name = "MMG_TOKEN_OF_CONTRACT"  # variables of such names stay behind by themselves
    monkeypatch.setenv(name, "passed")

    def read(key, value):
        yield key, os.environ.get(name)

    def only(key, values):
        return set(values)

    job = mmg.Job(dict.fromkeys(range(20)), lambda key, value: [(0, os.environ.get(name))], only)
    if type(cluster).__name__ != "InlineCluster":
        assert cluster.run(job) == {0: {None}}
    assert cluster.run(job.with_options(pass_env=name)) == {0: {"passed"}}


def poison(key, value):
    if value in (7, 50):
        raise ValueError(f"{value} is poison")
    yield value % 3, value


def good(*bad):
    items = {k: v for k, v in numbers(100).items() if v not in bad}
    return plain_mapreduce(items.items(), by_three, add)


def long_text(key, values):
    return "x" * MIN_OWN_BYTES


@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.long)])
def test_executors_write_parts_themselves_where_the_engine_allows_that(cluster, tmp_path, stages):
    job = mmg.Job(numbers(4), by_three, long_text, partitions=1)
    if stages == 2:
        job = mmg.Job(numbers(4), by_three, add).then(None, long_text, partitions=1)
    came = []
    with open_output(f"{tmp_path}/out/", job=job) as sink:
        handle = cluster.submit(job, parts_plan=sink.plan_parts())
        writes = handle._runner.parts_plan is not None
        for key, value in handle.stream_to(sink):
            came.append(type(key))
            sink.write(key, value)
    assert came == ([Receipt] if writes else [int] * 3)
    told = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == ["_SUCCESS", *(part["name"] for part in told["parts"])]
    lines = "".join((tmp_path / "out" / part["name"]).read_text() for part in told["parts"]).splitlines()
    assert sorted(lines) == [f"{key}\t{long_text(key, [])}" for key in range(3)]
    assert told["records"] == 3


def number_and_text(key, values):
    return [1, None, 2.5][key], "x" * MIN_OWN_BYTES


def test_parts_of_parquet_have_one_schema_whoever_writes_them(cluster, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    job = mmg.Job(numbers(4), by_three, number_and_text, partitions=4)
    options = {"columns": "rest,number,text", "part_size": MIN_OWN_BYTES}
    assert cluster.write(job, f"{tmp_path}/out/", "parquet", **options) == 3
    told = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == ["_SUCCESS", *(part["name"] for part in told["parts"])]
    tables = [parquet.read_table(tmp_path / "out" / part["name"]) for part in told["parts"]]
    assert len(tables) == 3
    assert {str(table.schema.field("number").type) for table in tables} == {"double"}
    rows = sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["rest"])
    assert [row["number"] for row in rows] == [1.0, None, 2.5]


def test_poison_items_are_set_aside_and_named(cluster):
    notices = []
    handle = cluster.submit(
        mmg.Job(numbers(100), poison, add, max_skipped=2, retries=1), on_notice=notices.append
    )
    assert handle.result() == good(7, 50)
    assert sorted(handle.skipped_items()) == [(7, 7), (50, 50)]
    assert sorted(failure["item_key"] for failure in handle.skipped()) == [7, 50]
    assert {failure["error_text"] for failure in handle.skipped()} == {"7 is poison", "50 is poison"}
    assert sum("item set aside" in text for text in notices) == 2


def poison_in_calls(keys, values):
    for value in values:
        yield value % 3, value
        if value in (7, 50):
            raise ValueError(f"{value} is poison")
    yield "calls", len(keys)


def test_a_call_of_many_items_that_fails_is_halved_and_what_it_gave_before_is_dropped(cluster):
    job = mmg.Job(numbers(100), poison_in_calls, add, items_per_call=16, max_skipped=2, retries=1)
    handle = cluster.submit(job, on_notice=lambda text: None)
    assert handle.result() == {**good(7, 50), "calls": 98}  # every item in one call that counts
    assert sorted(handle.skipped_items()) == [(7, 7), (50, 50)]
    with pytest.raises(mmg.JobError, match="7 is poison") as caught:
        cluster.run(mmg.Job(numbers(20), poison_in_calls, add, items_per_call=64))
    assert (caught.value.key, caught.value.function) == ("7", "mapfn")


def test_a_poison_item_ends_a_job_that_may_skip_none_and_is_named(cluster):
    with pytest.raises(mmg.JobError, match=r"7 is poison") as caught:
        cluster.run(mmg.Job(numbers(20), poison, add))
    assert caught.value.key == "7"
    assert caught.value.function == "mapfn"


@pytest.mark.parametrize("max_skipped", [1, 0.01])
def test_too_many_poison_items_end_the_job(cluster, max_skipped):
    with pytest.raises(mmg.TooManySkippedError, match="more"):
        cluster.run(mmg.Job(numbers(100), poison, add, max_skipped=max_skipped))


def test_a_share_of_items_may_fail(cluster):
    assert cluster.run(mmg.Job(numbers(100), poison, add, max_skipped=0.02)) == good(7, 50)


def test_what_fails_once_is_tried_again(cluster, tmp_path):
    marks = str(tmp_path)

    def fails_once(key, value):
        mark = os.path.join(marks, str(value))
        if value in (3, 4) and not os.path.exists(mark):
            open(mark, "w").close()
            raise ValueError("once")
        yield value % 3, value

    def add_once(key, values):
        mark = os.path.join(marks, f"reduce-{key}")
        if key == 1 and not os.path.exists(mark):
            open(mark, "w").close()
            raise ValueError("once")
        return sum(values)

    assert cluster.run(mmg.Job(numbers(100), fails_once, add_once, retries=1)) == EXPECTED


def fail_on_four(key, value):
    if value == 4:
        raise ZeroDivisionError(value)
    yield value % 3, value


def fail_on_one(key, values):
    if key == 1:
        raise ZeroDivisionError(key)
    return sum(values)


@pytest.mark.parametrize(
    ("functions", "function", "called_with"),
    [
        ((fail_on_four, add), "mapfn", (4, 4)),
        ((by_three, fail_on_one), "reducefn", (1, [1, 4, 7])),
    ],
)
def test_a_failure_keeps_a_bundle_of_what_the_function_was_called_with(
    cluster, tmp_path, functions, function, called_with
):
    items = ((i, i) for i in range(10))  # nobody can read them again
    with pytest.raises(mmg.JobError) as caught:
        cluster.run(mmg.Job(items, *functions, bundles=tmp_path / "kept"))
    bundle = read_bundle(caught.value.bundle)
    assert f"mmg-run --replay {bundle.path}" in str(caught.value)
    assert (bundle.header["failure"]["function"], bundle.header["missing"]) == (function, None)
    assert decode_value(bundle.sections["input"]) == called_with
    assert caught.value.evidence is None


def test_an_exception_in_reduce_names_the_key(cluster):
    def fails(key, values):
        if key == 2:
            raise ValueError("two is poison")
        return sum(values)

    with pytest.raises(mmg.JobError, match="two is poison") as caught:
        cluster.run(mmg.Job(numbers(20), by_three, fails, max_skipped=5))
    assert caught.value.key == "2"
    assert caught.value.function == "reducefn"


def deadly(key, value):
    if value == 13:
        sys.stdout.write("goodbye from 13\n")
        os.kill(os.getpid(), signal.SIGKILL)
    yield value % 3, value


def test_an_item_that_kills_its_executor_is_set_aside_and_its_last_words_are_told(executors):
    handle = executors.submit(mmg.Job(numbers(100), deadly, add, max_skipped=1), on_notice=lambda text: None)
    assert handle.result() == good(13)
    assert list(handle.skipped_items()) == [(13, 13)]
    deaths = handle.deaths()
    assert [death["outcome"] for death in deaths] == ["retried", "retried", "set aside"]
    assert {death["key"] for death in deaths} == {"13"}
    assert {death["exit"] for death in deaths} == {"signal 9 (SIGKILL)"}
    assert "goodbye from 13" in deaths[0]["last_words"]


def test_an_item_that_kills_its_executor_ends_a_job_that_may_skip_none(executors):
    with pytest.raises(mmg.JobError, match="the executor died") as caught:
        executors.run(mmg.Job(numbers(30), deadly, add), on_notice=lambda text: None)
    assert caught.value.key == "13"


class Bomb:
    """A value that kills whoever pickles it, which happens for many items together."""

    def __reduce__(self):
        os._exit(3)


def test_a_death_between_items_is_found_by_halving(executors):
    def armed(key, value):
        yield value % 3, Bomb() if value == 13 else value

    handle = executors.submit(mmg.Job(numbers(40), armed, add, max_skipped=1), on_notice=lambda text: None)
    expected = plain_mapreduce(((i, i) for i in range(40) if i != 13), by_three, add)
    assert handle.result() == expected
    assert list(handle.skipped_items()) == [(13, 13)]


def test_items_that_end_a_call_of_many_are_found_by_halving(executors):
    def mapfn(keys, values):
        for value in values:
            yield value % 3, value
            if value == 2:
                os._exit(3)
            while value == 9:
                pass

    job = mmg.Job(numbers(12), mapfn, add, items_per_call=4, max_skipped=2, task_timeout=0.2)
    handle = executors.submit(job, on_notice=lambda text: None)
    expected = plain_mapreduce(((i, i) for i in range(12) if i not in (2, 9)), by_three, add)
    assert handle.result() == expected
    assert sorted(handle.skipped_items()) == [(2, 2), (9, 9)]
    assert {death["kind"] for death in handle.deaths()} == {"died", "timeout"}


def test_a_death_in_reduce_ends_the_job_and_names_the_key(executors):
    def dies(key, values):
        if key == 2:
            os._exit(5)
        return sum(values)

    with pytest.raises(mmg.JobError, match="exit code 5") as caught:
        executors.run(mmg.Job(numbers(20), by_three, dies), on_notice=lambda text: None)
    assert caught.value.key == "2"


def test_an_item_over_its_time_is_killed_and_set_aside(executors):
    def slow(key, value):
        if value == 13:
            while True:
                pass
        yield value % 3, value

    job = mmg.Job(numbers(30), slow, add, task_timeout=0.2, max_skipped=1)
    handle = executors.submit(job, on_notice=lambda text: None)
    expected = plain_mapreduce(((i, i) for i in range(30) if i != 13), by_three, add)
    assert handle.result() == expected
    assert {death["kind"] for death in handle.deaths()} == {"timeout"}


def test_an_item_over_the_memory_limit_is_set_aside(executors):
    def hungry(key, value):
        data = bytearray(2**30 if value == 13 else 1)
        yield value % 3, value + len(data) * 0

    job = mmg.Job(numbers(30), hungry, add, memory_limit="256MiB", max_skipped=1)
    handle = executors.submit(job, on_notice=lambda text: None)
    expected = plain_mapreduce(((i, i) for i in range(30) if i != 13), by_three, add)
    assert handle.result() == expected
    assert list(handle.skipped_items()) == [(13, 13)]


def test_greenlets_wait_together(executors):
    waiting = []

    def waits(key, value):
        waiting.append(value)
        time.sleep(0.2)
        yield "together", len(waiting)
        waiting.remove(value)

    job = mmg.Job(numbers(100), waits, reducers.max_value, greenlets=100)
    assert executors.run(job)["together"] > 1  # one after another, each would see itself alone


def test_a_setup_that_fails_ends_the_job(executors):
    def setup():
        raise RuntimeError("no model here")

    with pytest.raises(mmg.JobError, match="no model here") as caught:
        executors.run(mmg.Job(numbers(5), by_three, add, setupfn=setup))
    assert caught.value.function == "setupfn"


def test_user_code_finds_a_main_of_its_own_and_the_hash_seed_of_all(executors):
    def look(key, value):

        yield "main", sys.modules["__main__"].__name__
        yield "seed", hash("mmgevent")
        yield "gevent", "gevent" in sys.modules

    found = executors.run(mmg.Job(numbers(20), look, lambda key, values: set(values)))
    assert {name: len(values) for name, values in found.items()} == {"main": 1, "seed": 1, "gevent": 1}
    assert found["gevent"] == {False}


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_what_ends_the_process_that_forks_executors_once_costs_time_only(executors, tmp_path, phase):
    mark = str(tmp_path / "done")

    def end_template():
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(100)

    def mapper(key, value):
        if phase == "map" and value == 7:
            end_template()
        yield value % 3, value

    def reducer(key, values):
        if phase == "reduce" and key == 1:
            end_template()
        return sum(values)

    handle = executors.submit(mmg.Job(numbers(100), mapper, reducer), on_notice=lambda text: None)
    assert handle.result() == EXPECTED
    # "retried", "cut" into parts, or "waits" for a slot: each is only a matter of time.
    assert not {death["outcome"] for death in handle.deaths()} & {"failed", "set aside"}


def test_a_job_that_ends_it_again_and_again_fails_by_name_whatever_may_be_skipped(executors):
    def hostile(key, value):
        if value == 7:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(100)
        yield value % 3, value

    handle = executors.submit(mmg.Job(numbers(20), hostile, add, max_skipped=5), on_notice=lambda text: None)
    with pytest.raises(
        mmg.JobError, match=r"ended the process that forks executors 3 times; .*SIGKILL"
    ) as caught:
        handle.result()
    assert caught.value.kind == "died"
    assert executors.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_cancelling_stops_the_users_code(executors, tmp_path, phase):
    pids = str(tmp_path)

    def hang():
        with open(os.path.join(pids, str(os.getpid())), "w"):
            pass
        while True:
            time.sleep(1)

    def map_hangs(key, value):
        if phase == "map":
            hang()
        yield value, value

    def reduce_hangs(key, values):
        hang()

    handle = executors.submit(mmg.Job(numbers(4), map_hangs, reduce_hangs))
    wait_until(lambda: os.listdir(pids))
    handle.cancel()
    with pytest.raises(mmg.JobCancelled):
        handle.result(timeout=DEADLINE_S)
    assert handle.progress().phase == "cancelled"
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in os.listdir(pids)))
    assert executors.run(mmg.Job(numbers(100), by_three, add)) == EXPECTED  # the next job finds all in order


def test_a_job_that_fails_while_its_datasource_waits_ends_at_once(place, executors, caplog):
    if not place.maps_early:
        pytest.skip("the whole datasource is read before the first item is mapped")
    may_go, callers = threading.Event(), []

    def items():
        yield from numbers(5).items()
        may_go.wait()

    def fails(key, value):
        raise ValueError(f"{key} is poison")

    handle = executors.submit(
        mmg.Job(items(), fails, add, max_skipped=2),
        on_notice=lambda text: callers.append(threading.current_thread()),
    )
    try:
        with pytest.raises(mmg.TooManySkippedError, match="is poison"):
            handle.result(timeout=DEADLINE_S)
        assert not may_go.is_set()
        assert "is left behind: it waits in" in caplog.text
        assert "test_contract.py" in caplog.text
    finally:
        may_go.set()
    handle._thread.join(30)
    assert not handle._thread.is_alive()
    assert set(callers) <= {handle._thread}  # callbacks are called in that one
