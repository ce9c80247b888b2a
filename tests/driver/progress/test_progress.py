"""How far a job is: what is known of its input, in words, in lines, and in a block on a terminal."""

import io
import itertools
import sys
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.input.total import InputTotal
from mmgevent.driver.job_state import JobState
from mmgevent.driver.progress import live_block, reporters, showing
from mmgevent.driver.progress.closing_line import describe_end
from mmgevent.driver.progress.progress import PhaseClock, Progress, complete
from mmgevent.driver.progress.server_figures import read_progress, read_stats
from mmgevent.driver.progress.text import describe, describe_size, describe_state, describe_time
from mmgevent.driver.runners.inline_cluster import InlineCluster
from tests.waiting import wait_until


def pairs(key, value):
    yield key, value


# In words


def test_progress_is_one_line_of_facts():
    mapping = Progress(phase="map", done=3, total=8, running=2, workers=1, slots=2, bytes=40_000_000)
    assert describe(mapping, 0.001) == "map 3/8 items, 40.0 MB, 1 worker with 2 slots"
    assert describe(mapping, 4.0) == "map 3/8 items, 40.0 MB, 1 worker with 2 slots, 10.0 MB/s"
    reducing = Progress(phase="reduce", done=3, workers=2, slots=4)
    assert describe(reducing, 9.0) == "reduce 3 tasks, 2 workers with 4 slots"
    assert describe(Progress(phase="map"), None) == "map: waiting for workers"


def test_progress_has_no_word_on_what_is_not_known_and_one_on_what_is():
    mapping = Progress("map", 3000, 8000, workers=1, slots=2, busy=2, retries=1, skipped=2, deaths=3)
    assert describe(mapping, 2.0) == (
        "map 3,000/8,000 items, 1 worker with 2 slots, 2 busy, 1,500.0 items/s, 1 retry, 2 skipped, 3 deaths"
    )
    late = Progress("map", 3, workers=1, slots=1, bytes=10**6, total_bytes=4 * 10**6, seconds_left=185.4)
    assert describe(late, 0.5) == "map 3 items, 1.0 of 4.0 MB, 1 worker with 1 slot, 3 min 5 s left"
    planned = Progress("plan", 8, 8, workers=1, slots=1, spilled_bytes=12_345_678)
    assert describe(planned, 0.5) == "plan 8/8 items, 1 worker with 1 slot, 12.3 MB spilled"


def test_a_state_is_said_in_few_words():
    assert describe_state(Progress(), None) == "starting"
    assert describe_state(Progress("map", 3, 8, workers=1, fraction=0.375), None) == "map 37 %, 3/8 items"
    assert describe_state(Progress("map", skipped=2), "failed") == "failed, 2 skipped"


def test_sizes_and_times_have_units():
    assert list(map(describe_size, (0, 999, 1000, 12_345_678, 10**19))) == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "12.3 MB",
        "10,000.0 PB",
    ]
    assert list(map(describe_time, (0.2, 99, 100, 3600 * 30 + 61))) == [
        "0 s",
        "99 s",
        "1 min 40 s",
        "30 h 1 min",
    ]


def test_the_closing_line_leaves_out_what_is_not_known():
    assert describe_end("failed after", 1.25, {}) == "failed after 1.2 s"
    figures = {"items": 1, "mapped_records": 2, "keys": 2, "shuffled_bytes": 1500, "skipped": 0, "deaths": 0}
    figures |= {"retries": 0, "cpu_seconds": 1.0, "slot_seconds": 4.0, "counters": {"bad\nlines": 3}}
    assert describe_end("done in", 130, figures, results=2, place="x.tsv") == (
        "done in 2 min 10 s: 1 item, 2 records, 2 keys, 1.5 kB shuffled, 2 results in x.tsv, "
        "25 % of the cores in tasks, bad\\nlines 3"
    )


# What is known of the input


class Broken(dict):
    def __len__(self):
        raise ValueError("nobody counts this")


def test_the_length_of_a_collection_is_known_at_once():
    for opened, count in (({1: 2}, 1), ([1, 2], 2), (range(9), 9), (iter([1]), None), (Broken(), None)):
        assert InputTotal(opened).items == count
    assert InputTotal([1, 2], is_oneshot=True).items is None
    assert InputTotal([1]).n_bytes is None


def test_the_sizes_of_files_are_known_at_once_and_of_folders_once_somebody_asks(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
    files = InputTotal(mmg.Files(tmp_path / "a", tmp_path / "b"))
    assert (files.items, files.n_bytes) == (2, 200)
    lines = InputTotal(mmg.Lines(tmp_path / "a") + mmg.Bytes(tmp_path / "b", record_bytes=10))
    assert (lines.items, lines.n_bytes) == (None, 200)
    folder = InputTotal(mmg.Files(tmp_path))
    assert (folder.items, folder.n_bytes) == (None, None)
    folder.look()
    folder.look()
    wait_until(lambda: folder.n_bytes)
    assert (folder.items, folder.n_bytes) == (3, 300)


def test_the_rows_of_parquet_are_known_once_somebody_asks(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"n": range(1000)}), tmp_path / "a.parquet", row_group_size=300)
    source = mmg.Parquet(tmp_path / "a.parquet")
    total = InputTotal(source)
    total.look()
    wait_until(lambda: total.items)
    assert (total.items, total.n_bytes) == (1000, sum(ref.weight for ref in source.refs()))


def test_a_source_of_the_users_own_and_what_cannot_be_read_have_no_total(tmp_path):
    class Half(mmg.Files):
        def refs(self):
            return itertools.islice(super().refs(), 1)

    (tmp_path / "a").write_bytes(b"x")
    for source in (Half(tmp_path / "a"), mmg.Files(tmp_path / "none")):
        total = InputTotal(source)
        assert total.n_bytes is None
        total.look()
        assert total.n_bytes is None


def test_the_feeder_knows_all_bytes_at_the_end(tmp_path):
    (tmp_path / "a").write_bytes(b"x\n" * 50)
    feeder = Feeder(mmg.Job(mmg.Lines(tmp_path / "a"), pairs))
    with open(tmp_path / "a", "ab") as file:  # it grows before it is looked at
        file.write(b"y\n" * 50)
    assert feeder.total.n_bytes == 100
    from mmgevent.driver.input.batching import Speed

    while feeder.next_batch(Speed(0, 0, 0.0, 1)) is not None:
        pass
    assert feeder.total.n_bytes == 200
    feeder.close()


def test_progress_knows_the_total_before_the_server_does():
    state = JobState("job", None, None, None)
    state.input_total = InputTotal(range(8))
    assert state.look().total == 8
    state.report(Progress("map", 2, workers=1, slots=1, bytes=999))
    assert (state.progress.total, state.progress.fraction, state.progress.bytes) == (8, 0.25, 0)
    state.report(Progress("map", 9, workers=1, slots=1))  # the collection has grown
    assert (state.progress.total, state.progress.fraction) == (None, None)


def test_time_left_is_that_of_the_speed_so_far(monkeypatch):
    clock, now = PhaseClock(), [100.0]
    monkeypatch.setattr("mmgevent.driver.progress.progress.monotonic", lambda: now[0])
    for second, done, left in ((0, 0, None), (0.5, 10, None), (2, 20, 8.0), (5, 50, 5.0)):
        now[0] = 100.0 + second
        told = complete(Progress("map", done, 100, workers=1, slots=1), None, clock, 0)
        assert told.seconds_left == left
    told = complete(Progress("reduce", 1, 4, workers=1, slots=1), None, clock, 0)
    assert (told.fraction, told.seconds_left) == (0.25, None)


# What a server says


def test_entries_of_sources_are_no_items_and_figures_are_numbers(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    message = {"phase": "map", "done": 1, "total": 2, "waiting": 0, "running": 1, "workers": 1, "slots": 2}
    message |= {"bytes": 60, "items": 41}
    told = read_progress(message, 1, InputTotal(mmg.Lines(tmp_path / "a")))
    assert (told.done, told.total, told.items, told.bytes, told.fraction) == (42, None, 41, 60, 0.5)
    told = read_progress(message, 0, InputTotal(range(2)))
    assert (told.done, told.total) == (1, 2)
    odd = {
        "seconds": 1.5,
        "records": 2,
        "keys": "many",
        "x": [1],
        "inf": float("inf"),
        "counters": {"a": 1, "b": "c"},
    }
    assert read_stats(odd) == {"seconds": 1.5, "records": 2, "counters": {"a": 1}}


# Lines and the block


def test_plain_progress_comes_first_after_5_s_then_every_10(monkeypatch, capsys):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reporters.time, "monotonic", lambda: clock.now)
    reporter = reporters.PlainReporter("mmg-test")
    reporter.ticks = False  # this thread alone looks
    told = []
    for second in range(40):
        clock.now = 100.0 + second
        reporter.update(Progress(phase="map", done=second, workers=1, slots=1))
        if capsys.readouterr().err:
            told.append(second)
    assert told == [5, 15, 25, 35]
    reporter.notice("a worker left")
    assert capsys.readouterr().err == "mmg-test: a worker left\n"
    clock.now, reporter.results = 150.0, 1234
    reporter.note_output("sorting")
    assert "sorting results, 1,234 so far" in capsys.readouterr().err
    reporter.close()
    clock.now = 200.0
    reporter.update(Progress(phase="map", done=1, workers=7, slots=1))
    assert capsys.readouterr().err == ""
    assert reporter.most_workers == 7


def test_a_line_comes_even_if_nothing_changes(monkeypatch):
    class Noting(reporters.PlainReporter):
        def _show(self):
            shown.append(self._describe())

    shown = []
    monkeypatch.setattr(reporters, "TICK_S", 0.01)
    reporter = Noting("mmg-test")
    reporter.update(Progress(phase="map", done=1, workers=1, slots=1))
    wait_until(lambda: len(shown) > 2)
    reporter.close()
    reporter._ticker.join()


def draw(reporter, width):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(live_block._Drawn(reporter.rows(), reporter.facts()))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_block_fits_every_width(width):
    reporter = live_block.BlockReporter("mmg-test")
    reporter.ticks = False
    told = Progress("map", 1500, 2000, workers=1, slots=4, busy=4, deaths=1, skipped=3, fraction=0.75)
    reporter.update(told)
    lines = draw(reporter, width)
    assert max(map(len, lines)) < width
    assert lines[0].startswith("map")
    assert "75 %" in lines[0]
    assert ("1,500/2,000 items" in lines[0]) == (width >= 40)
    assert ("\u2501" in lines[0]) == (width >= 40)
    below = " ".join(lines[1:]).replace("  ", " ")
    for fact in ("1 worker with 4 slots, 4 busy", "3 skipped", "1 death", "gone"):
        assert fact in below


def test_the_block_has_a_bar_a_phase_and_stays_while_results_are_written():
    reporter = live_block.BlockReporter("mmg-test")
    reporter.ticks = False
    reporter.update(Progress("map", 5, 8, workers=1, slots=1, fraction=0.625, stage=2, stages=3))
    assert [line.split()[0] for line in draw(reporter, 80)[:-1]] == ["map"]
    reporter.update(Progress("reduce", 3, 4, workers=1, slots=1, fraction=0.75, items=8, stage=2, stages=3))
    lines = draw(reporter, 80)
    assert [line.split()[0] for line in lines[:-1]] == ["map", "reduce"]
    assert lines[0].endswith("100 % 8 items")
    assert lines[1].endswith("75 % 3/4 tasks")
    assert lines[2].startswith("stage 2 of 3, ")
    reporter.results = 70
    for what, row in (("sorting", "sort"), ("writing", "write"), ("finishing", "finish")):
        reporter.note_output(what)
        assert draw(reporter, 80)[2].split()[0] == row
        assert draw(reporter, 80)[2].endswith(" 70 results")
    assert draw(reporter, 80)[1].endswith("100 % 4 tasks")  # the last one, which nobody reports


def test_a_terminal_shows_one_block_that_goes_away(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(reporters, "BLOCK_AFTER_S", 0.0)
    reporter, other = showing.open_reporter("mmg-test"), showing.open_reporter("other")
    assert isinstance(reporter, live_block.BlockReporter)
    reporter.ticks = other.ticks = False
    reporter.update(Progress(phase="map", done=1, total=4, workers=1, slots=2, bytes=1_000_000))
    other.update(Progress(phase="map", done=3, total=4, workers=1, slots=2))
    assert other._live is None  # two blocks would overwrite each other
    reporter.notice("a [worker] left")
    reporter.close()
    reporter.close()
    reporter.update(Progress(phase="map", done=2, total=4, workers=1, slots=2))
    other.update(Progress(phase="map", done=4, total=4, workers=1, slots=2))
    assert other._live is not None
    other.close()
    message = capsys.readouterr().err
    assert "1/4 items, 1.0 MB" in message
    assert "mmg-test: a [worker] left" in message
    assert "2/4" not in message
    assert message.endswith("\x1b[2K")


# Programs and notebooks


def test_a_program_shows_progress_and_how_the_job_ended(capsys):
    seen = []
    with InlineCluster() as cluster:
        job = mmg.Job([(1, 2)], pairs, name="mine")
        assert cluster.run(job, progress=True) == {1: [2]}
        assert capsys.readouterr().err.startswith("mine: done in ")
        handle = cluster.submit(job, progress=True, on_progress=seen.append)
        assert handle.result() == {1: [2]}
        handle.join()
        assert capsys.readouterr().err.startswith("mine: done in ")
        assert seen
        with pytest.raises(mmg.JobError):
            cluster.run(mmg.Job([(1, 2)], lambda key, value: 1 / 0, name="bad"), progress=True)
        assert capsys.readouterr().err.startswith("bad: failed after ")
        with pytest.raises(mmg.UsageError, match="progress is True"):
            cluster.run(job, progress=3)
        assert repr(cluster) == "<InlineCluster on inline>"
        assert "InlineCluster" in cluster._repr_html_()
    assert repr(cluster) == "<InlineCluster closed>"


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch):
    shown = []

    class Handle:
        def update(self, thing):
            shown.append(thing)

    def display(thing, *, display_id):
        assert display_id is True
        shown.append(thing)
        return Handle()

    module = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=1), display=SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    monkeypatch.setattr("mmgevent.driver.progress.notebook.UPDATE_S", 0.0)
    with InlineCluster() as cluster:
        cluster.run(mmg.Job([(1, 2)], pairs, name="<i>mine"), progress=True)
    assert len(shown) > 1
    assert shown[-1]._repr_html_().startswith('<div><b>&lt;i&gt;mine</b> <progress max="1" value="1.000">')
    assert repr(shown[-1]) == "<i>mine: done"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert showing._find_display() is None  # a terminal


def test_jobs_say_what_goes_in_and_no_address():
    job = mmg.Job({1: 2}, pairs, name="<mine>")
    assert repr(job) == "<Job <mine>: dict of 1 item>"
    assert repr(job.then(pairs)) == "<Job <mine>: dict of 1 item, 2 stages>"
    assert job._repr_html_() == "<div><b>&lt;mine&gt;</b> <span>dict of 1 item</span></div>"
    source = mmg.Files("https://me:secret@host/x", "y") + mmg.Lines("z")
    assert repr(mmg.Job(source, pairs, name="files")) == "<Job files: Files of 2 paths + Lines of 1 path>"
    assert repr(mmg.Job(list, pairs, name="made")) == "<Job made: list>"
