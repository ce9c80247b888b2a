"""The benchmarks run, at tiny size, and what they compare gives right answers."""

import collections
import fcntl
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import engines, maps, micro, works
from benchmarks.simulation import World, figures_of
from benchmarks.tables import format_table
from mmgevent.job.job import Job

ROOT = Path(__file__).resolve().parents[1]


def run_module(*arguments):
    """Run `python -m ARGUMENT...` to its end; its output, with nothing of it left running."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "one.txt").write_text("to be or not to be\n" * 40)
    (folder / "two.txt").write_text("That is THE question, isn't it?\n" * 40)
    return folder


@pytest.fixture
def made_corpora():
    """Folders below benchmarks/.corpus that the test made, removed at its end."""
    folder = ROOT / "benchmarks" / ".corpus"

    def list_folders():
        return set(folder.iterdir()) if folder.is_dir() else set()

    lock = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a test of another process must not remove what this one made
    before = list_folders()
    yield
    for made in list_folders() - before:
        for path in made.iterdir():
            path.unlink()
        made.rmdir()
    os.close(lock)


def answer_of(engine, work, argument, output):
    module = engines.load_engine(engine)
    command = engines.command_of(module, engines.Request(work, str(argument), output, 2))
    run_module(*command[2:])
    return dict(line.split("\t") for line in output.read_text().splitlines())


def test_the_program_by_hand_counts_as_plain_python_does(texts, tmp_path):
    words = collections.Counter(
        word for path in texts.iterdir() for word in re.findall(r"[a-z']+", path.read_text().lower())
    )
    answer = answer_of("ideal", "wordcount", texts, tmp_path / "answer")
    assert answer == {word: str(count) for word, count in words.items()}


def test_the_program_by_hand_makes_the_index_that_plain_python_does(texts, tmp_path):
    files = {path: set(re.findall(r"[a-z']+", path.read_text().lower())) for path in sorted(texts.iterdir())}
    words = set.union(*files.values())
    answer = answer_of("ideal", "index", texts, tmp_path / "answer")
    assert answer == {
        word: json.dumps([str(path) for path, found in files.items() if word in found]) for word in words
    }


def test_engines_are_compared_side_by_side(texts, tmp_path, made_corpora):
    said = run_module(
        "benchmarks.corpus", "--engines", "mmgevent,mmgevent-reducers,multiprocessing,mincemeat",
        "--corpus", texts, "--size", "10KB", "--items", 50, "--waits", 4, "--rounds", 1,
        "--save", tmp_path / "saved",
    )  # fmt: skip
    data = json.loads((tmp_path / "saved" / "corpus.json").read_text())
    assert "left out: mincemeat:" in said
    assert [row["error"] for row in data["rows"]] == [None] * 14
    assert {row["work"]["name"] for row in data["rows"]} == set(works.WORKS)
    assert all(
        run["left_behind"] == 0 and run["peak_pss_bytes"] for row in data["rows"] for run in row["runs"]
    )
    assert "ratio to ideal" in (tmp_path / "saved" / "corpus.md").read_text()


def test_a_wrong_answer_and_a_failure_are_said_and_counted(monkeypatch, tmp_path):
    from benchmarks import corpus

    wrong = corpus.Entry("multiprocessing", engines.load_engine("multiprocessing"))
    monkeypatch.setattr(corpus.measure, "become_subreaper", lambda: None)
    command = "import sys; open(sys.argv[1], 'w').write('humpty\\t4\\n')"
    monkeypatch.setattr(
        wrong.module,
        "command",
        lambda request: [sys.executable, "-c", command, str(request.output)],
        raising=False,
    )
    work = works.plan_work("start", works.Sizes(1, 1, 1, None))
    rows = corpus.compare(work, [wrong], rounds=2, procs=1, timeout_s=60)
    assert [row.error for row in rows] == ["gives another answer than the program by hand"]
    monkeypatch.setattr(
        wrong.module, "command", lambda request: [sys.executable, "-c", "raise SystemExit('broken')"]
    )
    rows = corpus.compare(work, [wrong], rounds=1, procs=1, timeout_s=60)
    assert rows[0].error == "ended with exit code 1: broken"
    monkeypatch.setattr(
        wrong.module, "command", lambda request: [sys.executable, "-c", "import time; time.sleep(100)"]
    )
    rows = corpus.compare(work, [wrong], rounds=1, procs=1, timeout_s=2)
    assert "took longer than 2 s" in rows[0].error


@pytest.mark.parametrize("name", engines.engine_names())
def test_every_engine_says_what_it_is_without_being_installed(name):
    module = engines.load_engine(name)
    assert module.TITLE
    assert set(getattr(module, "CANNOT", {})) <= set(works.WORKS)
    reason = engines.why_missing(module)
    assert reason is None or "install" in reason or "import" in reason


def test_job_files_have_the_map_functions_of_the_other_engines():
    pairs = {
        "wordcount": maps.count_words, "wordcount_reducer": maps.count_words, "index": maps.index_words,
        "tiny": maps.square, "start": maps.count_line, "sum": maps.spread, "sum_reducer": maps.spread,
        "wait": maps.wait,
    }  # fmt: skip
    for name, function in pairs.items():
        job = Job.from_file(ROOT / "benchmarks" / "jobs" / f"{name}.py", ["1"])
        assert inspect.getsource(job.mapfn).partition("(")[2] == inspect.getsource(function).partition("(")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["connections", "--workers", "8", "--hold", "0.1", "--rounds", "1", "--items", "10"],
        ["joins", "--workers", "8", "--rounds", "1"],
        ["election", "--nodes", "3", "--kills", "1"],
        ["items", "--items", "30", "--rounds", "1"],
        ["overhead", "--items", "4", "--rounds", "1"],
        ["latency", "--jobs", "2"],
        ["growth", "--size", "20KB", "--times", "1,2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_grows_is_measured(arguments, tmp_path, made_corpora):
    run_module("benchmarks.scale", "--save", tmp_path, *arguments)
    figures = json.loads((tmp_path / f"scale-{arguments[0]}.json").read_text())["figures"]
    assert figures
    assert figures.get("passed", True)


def test_the_simulation_commits_every_task_once():
    world = World(workers=20, tasks=1_000, seed=1)
    world.run()
    figures = figures_of(world, 1.0, 1.0)
    assert world.committed == 1_000
    assert not world.seconds
    assert not world.worker_of
    assert figures["makespan_s"] >= figures["ideal_s"]
    work = world.work
    assert abs(work.useful_s - work.tasks_s) / work.tasks_s < 0.2  # equal but for stragglers


def test_the_simulation_loses_and_duplicates_work():
    world = World(workers=50, tasks=5_000, seed=2)
    world.run()
    assert world.work.lost_s > 0
    assert world.work.duplicated_s > 0
    still = World(workers=50, tasks=5_000, seed=2, churn=False, retransmit=0.0)
    still.run()
    assert still.work.lost_s == still.work.duplicated_s == 0


def test_the_smallest_parts_are_timed():
    folder = Path(micro.__file__).parent
    said = run_module(
        "pytest", folder, "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--benchmark-disable",
        "-k", "few or int or handshake or 10",
    )  # fmt: skip
    assert " passed" in said


def test_tables_stand_in_columns():
    assert format_table(["a", "bcd"], [["efgh", "i"]]) == [
        "| a    | bcd |",
        "|------|-----|",
        "| efgh | i   |",
    ]


def test_blocks_of_arrays_hold_the_records_of_a_plain_loop(tmp_path):
    pytest.importorskip("numpy")
    sums = collections.Counter()
    for low, end in works.blocks_of("5000"):
        pairs = list(maps.spread(low, end))
        assert [column.tolist() for column in maps.spread_arrays(low, end)] == [
            list(column) for column in zip(*pairs, strict=True)
        ]
        for key, value in pairs:
            sums[key] += value
    answer = answer_of("ideal", "blocks", 5000, tmp_path / "answer")
    assert answer == {str(key): str(value) for key, value in sums.items()}
