"""What a program does with all results of a job, inline: files, and later tables and asyncio."""

import json
import os

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
