"""What a program does with all results of a job, inline: files, and later tables and asyncio."""

import asyncio
import collections
import concurrent.futures
import json
import os
import sys
import threading

import pytest

import mmgevent as mmg
from mmgevent.driver.runners.inline_cluster import InlineCluster


@pytest.fixture
def cluster():
    with InlineCluster() as cluster:
        yield cluster


def words(key, value):
    yield value, 1


def count(key, values):
    return sum(values)


TEXT = dict(enumerate(["to", "be", "or", "not", "to", "be", "that", "is", "to", "say"]))
COUNTS = {"to": 3, "be": 2, "or": 1, "not": 1, "that": 1, "is": 1, "say": 1}


def submit(cluster, **options):
    return cluster.submit(mmg.Job(TEXT, words, count, **options))


class TestWrite:
    def test_results_are_written_in_order(self, cluster, tmp_path):
        path = tmp_path / "out.tsv"
        assert submit(cluster).write(path, sort="key") == len(COUNTS)
        assert path.read_text() == "".join(f"{word}\t{COUNTS[word]}\n" for word in sorted(COUNTS))

    def test_the_best_are_kept(self, cluster, tmp_path):
        assert submit(cluster).write(tmp_path / "out", "csv", columns=["word", "count"], top=3) == 3
        assert (tmp_path / "out").read_text() == "word,count\nto,3\nbe,2\nis,1\n"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"format": "xml"}, {"columns": ["a"]}, {"sort": "size"}, {"top": 0}, {"top": "3"},
            {"overwrite": True}, {"part_size": 5}, {"path": "out/", "part_size": "many"},
            {"path": "no/folder/out.tsv"}, {"path": ""}, {"path": "."},
        ],
    )  # fmt: skip
    def test_wrong_arguments_are_refused_at_once_and_the_job_goes_on(
        self, cluster, tmp_path, monkeypatch, wrong
    ):
        monkeypatch.chdir(tmp_path)
        handle = submit(cluster)
        with pytest.raises(mmg.UsageError):
            handle.write(**{"path": "out.tsv", **wrong})
        assert handle.result() == COUNTS
        assert os.listdir(tmp_path) == []

    def test_a_record_that_does_not_fit_ends_the_job_and_leaves_the_old_file(self, cluster, tmp_path):
        (tmp_path / "out.csv").write_text("before")
        handle = submit(cluster, finishfn=lambda key, value: (1, 2) if key == "or" else value)
        with pytest.raises(mmg.OutputError, match="the record of 'or' has 3 columns"):
            handle.write(tmp_path / "out.csv", columns="word,count")
        assert (tmp_path / "out.csv").read_text() == "before"
        assert handle.exception(10) is None or isinstance(handle.exception(), mmg.JobCancelled)

    def test_a_job_that_fails_leaves_no_file(self, cluster, tmp_path):
        handle = submit(cluster, finishfn=lambda key, value: 1 / 0)
        with pytest.raises(mmg.JobError, match="ZeroDivisionError"):
            handle.write(tmp_path / "out.tsv")
        assert os.listdir(tmp_path) == []

    def test_success_says_what_made_the_parts(self, cluster, tmp_path):
        assert submit(cluster, retries=3, name="words").write(f"{tmp_path}/", top=2) == 2
        told = json.loads((tmp_path / "_SUCCESS").read_text())
        assert (told["job"], told["options"]["retries"], told["top"]) == ("words", 3, 2)
        with pytest.raises(mmg.OutputError, match="not empty"):
            submit(cluster).write(f"{tmp_path}/")
        assert submit(cluster).write(f"{tmp_path}/", overwrite=True) == len(COUNTS)

    def test_results_are_given_out_once(self, cluster, tmp_path):
        handle = submit(cluster)
        handle.write(tmp_path / "out.tsv")
        with pytest.raises(mmg.UsageError, match="given out already"):
            handle.write(tmp_path / "again.tsv")
        assert os.listdir(tmp_path) == ["out.tsv"]

    def test_a_stream_that_begins_while_result_waits_has_all_records(self, cluster):
        waits, goes_on = threading.Event(), threading.Event()

        def source():
            assert goes_on.wait(60)
            yield from TEXT.items()

        handle = cluster.submit(mmg.Job(source, words, count))
        check = handle._check_not_streamed
        handle._check_not_streamed = lambda: (check(), waits.set())
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                result = pool.submit(handle.result)
                assert waits.wait(60)
                records = handle.stream()
                with pytest.raises(mmg.UsageError, match="read them from the stream"):
                    result.result(30)  # while the job still waits
            finally:
                goes_on.set()
            assert dict(records) == COUNTS

    def test_a_result_that_is_made_while_they_are_about_to_be_written_is_written(self, cluster, tmp_path):
        handle = submit(cluster)
        begin = handle._begin_stream

        def begin_late(*args, **kwargs):
            assert handle.result() == COUNTS
            begin(*args, **kwargs)

        handle._begin_stream = begin_late
        assert handle.write(tmp_path / "out.tsv") == len(COUNTS)

    def test_after_result_they_can_be_written_again_and_again(self, cluster, tmp_path):
        handle = submit(cluster)
        assert handle.result() == COUNTS
        for name in ("a.tsv", "b.tsv"):
            assert handle.write(tmp_path / name, sort="key") == len(COUNTS)
        assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
        assert handle.result() == COUNTS


Sum = collections.namedtuple("Sum", "count length")


def sums(key, values):
    return Sum(len(values), len(key) * len(values))


def to_rows(library, table):
    if library == "pandas":
        return list(table.columns), [tuple(row) for row in table.itertuples(index=False)]
    if library == "polars":
        return table.columns, table.rows()
    return table.column_names, [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("library", "method"), [("pandas", "to_pandas"), ("polars", "to_polars"), ("pyarrow", "to_arrow")]
)
class TestTables:
    def test_tuples_are_columns(self, cluster, library, method):
        pytest.importorskip(library, reason="a table of that library needs it")
        handle = cluster.submit(mmg.Job(TEXT, words, sums))
        names, rows = to_rows(library, getattr(handle, method)())
        assert names == ["key", "value_count", "value_length"]
        assert sorted(rows) == sorted((word, n, len(word) * n) for word, n in COUNTS.items())
        names, rows = to_rows(library, getattr(submit(cluster), method)("word,n"))
        assert (names, dict(rows)) == (["word", "n"], COUNTS)
        names, rows = to_rows(library, getattr(cluster.submit(mmg.Job([], words, count)), method)())
        assert (names, rows) == (["key", "value"], [])

    def test_a_record_that_does_not_fit_is_named(self, cluster, library, method):
        pytest.importorskip(library, reason="a table of that library needs it")
        with pytest.raises(mmg.OutputError, match="there are names for 3"):
            getattr(submit(cluster), method)(["a", "b", "c"])
        if library != "pandas":  # which has a type for any object
            handle = submit(cluster, finishfn=lambda key, value: "one" if key == "or" else value)
            with pytest.raises(mmg.OutputError, match="has no type for the column 'value': the record of '"):
                getattr(handle, method)()

    def test_a_parquet_file_has_the_columns_of_the_table(self, cluster, library, method, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs it")
        pytest.importorskip(library, reason="a table of that library needs it")
        assert submit(cluster).write(tmp_path / "out", "parquet", columns="word,n", sort="key") == len(COUNTS)
        table = parquet.read_table(tmp_path / "out")
        names, rows = to_rows(library, getattr(submit(cluster), method)("word,n"))
        assert (names, sorted(rows)) == (
            table.column_names,
            [tuple(row.values()) for row in table.to_pylist()],
        )

    def test_wrong_names_are_refused_at_once(self, cluster, library, method):
        pytest.importorskip(library, reason="a table of that library needs it")
        handle = submit(cluster)
        with pytest.raises(mmg.OutputError, match="two columns have the name 'a'"):
            getattr(handle, method)("a,a")
        assert handle.result() == COUNTS

    def test_a_missing_library_is_one_sentence_and_the_results_stay(
        self, cluster, library, method, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, library, None)
        handle = submit(cluster)
        with pytest.raises(mmg.OutputError, match=f"needs the package {library}, .*: pip install {library}"):
            getattr(handle, method)()
        assert handle.result() == COUNTS


class TestAsyncio:
    def test_await_is_result(self, cluster):
        async def main():
            handle = submit(cluster)
            return await handle, await handle, handle.result()

        assert asyncio.run(main()) == (COUNTS, COUNTS, COUNTS)

    def test_errors_are_raised_where_they_are_awaited(self, cluster):
        async def main(reads):
            handle = submit(cluster, finishfn=lambda key, value: 1 / 0)
            with pytest.raises(mmg.JobError, match="ZeroDivisionError"):
                await reads(handle)
            streamed = submit(cluster)
            streamed.stream()
            with pytest.raises(mmg.UsageError, match="streamed"):
                await streamed

        async def wait(handle):
            return await handle

        async def read(handle):
            return [record async for record in handle]

        asyncio.run(main(wait))
        asyncio.run(main(read))

    def test_the_loop_goes_on_while_jobs_run(self, cluster):
        """Each job waits for something that only the loop can do, and there are more of them than threads."""
        count_jobs = 40

        async def main():
            gate = threading.Event()

            def wait(records):
                assert gate.wait(30)
                yield from records

            handles = [submit(cluster, finishfn=wait) for _ in range(count_jobs)]

            async def read(handle):
                return {key: value async for key, value in handle}

            reading = [asyncio.ensure_future(read(handle)) for handle in handles[::2]]
            waiting = [asyncio.ensure_future(awaited(handle)) for handle in handles[1::2]]
            asyncio.get_running_loop().call_later(0, gate.set)
            return await asyncio.gather(*reading, *waiting)

        async def awaited(handle):
            return await handle

        assert asyncio.run(main()) == [COUNTS] * count_jobs

    def test_a_cancelled_wait_leaves_the_job_and_a_cancelled_loop_ends_it(self, cluster):
        async def main(reads, *, goes_on):
            gate, started = threading.Event(), asyncio.Event()
            loop = asyncio.get_running_loop()

            def block(records):
                yield from records
                loop.call_soon_threadsafe(started.set)
                gate.wait(30)

            handle = submit(cluster, finishfn=block)
            task = asyncio.ensure_future(reads(handle))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if goes_on:
                gate.set()
            error = await asyncio.to_thread(handle.exception, 30)
            gate.set()
            assert isinstance(error, mmg.JobCancelled) != goes_on
            return handle

        async def wait(handle):
            return await handle

        async def read(handle):
            return [record async for record in handle]

        assert asyncio.run(main(wait, goes_on=True)).result() == COUNTS
        asyncio.run(main(read, goes_on=False))

    def test_a_loop_that_is_left_cancels_the_job(self, cluster):
        async def main():
            gate = threading.Event()

            def some(records):
                for _ in range(3000):  # several chunks
                    yield "a", 1
                gate.wait(30)

            handle = submit(cluster, finishfn=some)
            records = aiter(handle)
            assert await anext(records) == ("a", 1)
            await records.aclose()
            error = await asyncio.to_thread(handle.exception, 30)
            gate.set()
            return error

        assert isinstance(asyncio.run(main()), mmg.JobCancelled)

    def test_a_loop_that_is_closed_meanwhile_harms_nobody(self, cluster):
        gate = threading.Event()

        def block(records):
            gate.wait(30)
            yield from records

        handle = submit(cluster, finishfn=block)

        async def main():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handle, 0.01)

        asyncio.run(main())
        gate.set()
        assert handle.result() == COUNTS
