"""A failure keeps a bundle, and `mmg-run --replay` makes the call again with nothing else at hand."""

import os
import pickle
import subprocess
import sys
import threading

import pytest

import mmgevent as mmg
from mmgevent.driver.failures import bundles
from mmgevent.driver.failures.set_aside import SetAside
from mmgevent.driver.handle import GRACE_S
from mmgevent.driver.input import kept_batches
from mmgevent.job.bundle import read_bundle, write_bundle
from mmgevent.tasks.given import MAX_SENT_BYTES
from mmgevent.tasks.records import decode_value
from tests.integration.failing import (
    Bomb,
    add,
    by_three,
    die_at_seven,
    fail,
    fail_always,
    fail_in_setup,
    fail_in_two_ways,
    fill_memory,
    give_large,
    hang_at_three,
    need_file,
    read_number,
)


@pytest.fixture(scope="module")
def cluster():
    with mmg.LocalCluster(2) as cluster:
        yield cluster


FAILURES = {
    "mapfn": {"mapfn": fail},
    "reducefn": {"mapfn": by_three, "reducefn": fail},
    "collectfn": {"mapfn": by_three, "collectfn": fail, "reducefn": add},
    "finishfn": {"mapfn": by_three, "finishfn": fail},
    "setupfn": {"mapfn": by_three, "setupfn": fail_in_setup},
}


def numbers(count=30):
    return [(i, i) for i in range(count)]


def error_of(cluster, job):
    with pytest.raises(mmg.JobError) as caught:
        cluster.run(job, on_notice=lambda text: None)
    return caught.value


def replay(path, *options, typed=""):
    return subprocess.run(
        [sys.executable, "-m", "mmgevent", "run", *options, "--replay", path],
        capture_output=True,
        text=True,
        timeout=100,
        input=typed,
        cwd="/",
    )


@pytest.mark.parametrize("function", FAILURES)
def test_a_call_that_failed_fails_again(cluster, tmp_path, function):
    error = error_of(cluster, mmg.Job(numbers(), bundles=tmp_path / "kept", **FAILURES[function]))
    assert error.function == function
    assert error.bundle in str(error)
    done = replay(error.bundle)
    assert done.returncode == 1
    assert "ZeroDivisionError: at " in done.stderr
    assert f"mmg-run: {function}" in done.stderr
    assert done.stdout == ""


def test_the_input_file_need_not_be_there_any_more(cluster, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i}\n" for i in range(50)) + "bad\n")

    error = error_of(cluster, mmg.Job(mmg.Lines(path), read_number, bundles=tmp_path / "kept"))
    path.unlink()
    done = replay(error.bundle, "--pdb", typed="p 'the line is', line\nq\n")
    assert "('the line is', 'bad')" in done.stdout
    assert "ValueError" in done.stderr


def test_what_ends_an_executor_ends_the_replay(cluster, tmp_path):
    error = error_of(cluster, mmg.Job(numbers(), die_at_seven, bundles=tmp_path / "kept"))
    assert error.kind == "died"
    done = replay(error.bundle)
    assert done.returncode == 77
    assert "replays mapfn at 7" in done.stderr


def test_a_call_that_hangs_is_stopped_where_it_hangs(cluster, tmp_path):
    error = error_of(cluster, mmg.Job(numbers(4), hang_at_three, task_timeout=0.1, bundles=tmp_path / "kept"))
    assert error.kind == "timeout"
    done = replay(error.bundle, "--pdb", typed="p 'it waits for', value\nq\n")
    assert "('it waits for', 3)" in done.stdout
    assert done.returncode == 1


def test_a_call_has_the_memory_that_it_had(cluster, tmp_path):
    size = 300 << 20
    job = mmg.Job([(1, size)], fill_memory, memory_limit="128MiB", bundles=tmp_path / "kept")
    done = replay(error_of(cluster, job).bundle)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr


def test_a_call_that_no_longer_fails_says_what_it_gives(cluster, tmp_path):
    error = error_of(cluster, mmg.Job([(1, str(tmp_path / "there"))], need_file, bundles=tmp_path / "kept"))
    (tmp_path / "there").touch()
    done = replay(error.bundle)
    assert done.returncode == 0
    assert "it did not fail this time, and gave 1 record" in done.stderr


def test_values_too_large_to_be_sent_are_named_by_their_key(cluster, tmp_path):
    error = error_of(
        cluster, mmg.Job([(1, MAX_SENT_BYTES)], give_large, fail_always, bundles=tmp_path / "kept")
    )
    assert "input" not in read_bundle(error.bundle).sections
    assert f"the bundle {error.bundle} has no input" in str(error)
    done = replay(error.bundle)
    assert done.returncode == 2
    assert "has no input" in done.stderr
    assert "'big'" in done.stderr


def test_the_failing_item_of_a_chain_is_kept(cluster, tmp_path):
    job = mmg.Job(numbers(3), by_three, add).then(fail)
    error = error_of(cluster, job.with_options(bundles=tmp_path / "kept"))
    assert error.stage == 2
    assert decode_value(read_bundle(error.bundle).sections["input"]) == (1, 1)


def test_items_set_aside_leave_examples_of_each_error(cluster, tmp_path):
    notices = []
    job = mmg.Job(numbers(60), fail_in_two_ways, max_skipped=0.9, bundles=tmp_path / "kept")
    cluster.submit(job, on_notice=notices.append).result(100)
    kept = [read_bundle(str(path)) for path in (tmp_path / "kept").iterdir()]
    errors = [bundle.header["failure"]["error_type"] for bundle in kept]
    assert sorted(errors) == ["KeyError", "KeyError", "ValueError", "ValueError"]
    for kind in ("KeyError", "ValueError"):
        (line,) = [text for text in notices if text.startswith(f"set aside 20 x mapfn: {kind} at")]
        assert str(tmp_path / "kept") in line


@pytest.mark.parametrize("where", ["list", "file", "iterator", "inline"])
@pytest.mark.parametrize("max_skipped", [0.01, 1])
def test_a_job_of_which_too_much_fails_leaves_its_last_item(cluster, tmp_path, where, max_skipped):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i}\n" if i % 10 else f"bad{i}\n" for i in range(100)))
    lines = path.read_text().splitlines()
    source = mmg.Lines(path) if where == "file" else list(enumerate(lines))
    job = mmg.Job(
        iter(source) if where == "iterator" else source,
        read_number,
        max_skipped=max_skipped,
        bundles=tmp_path / "kept",
    )
    run = (lambda: mmg.run(job, inline=True)) if where == "inline" else (lambda: cluster.run(job))
    with pytest.raises(mmg.TooManySkippedError) as caught:
        run()
    bundle = read_bundle(caught.value.bundle)
    assert decode_value(bundle.sections["input"])[1] in str(caught.value)
    assert replay(caught.value.bundle).returncode == 1


def test_plain_results_stay_plain_in_a_bundle(cluster, tmp_path):
    job = mmg.Job(numbers(), by_three, fail, results="plain", bundles=tmp_path / "kept")
    bundle = read_bundle(error_of(cluster, job).bundle)
    assert bundle.header["is_plain"]
    trace = tmp_path / "trace"
    bomb = pickle.dumps((1, [Bomb(str(trace))]))  # as a worker that is not trusted may have sent
    forged = write_bundle(str(tmp_path / "kept"), "forged", bundle.header, {**bundle.sections, "input": bomb})
    done = replay(forged)
    assert done.returncode == 2
    assert "is no plain data" in done.stderr
    assert not trace.exists()


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_job(cluster, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    error = error_of(cluster, mmg.Job(numbers(), fail, bundles=True))
    assert error.bundle is None
    assert "run it again" not in str(error)


def test_a_folder_that_was_asked_for_and_cannot_be_written_is_named(cluster):
    notices = []
    with pytest.raises(mmg.JobError):
        cluster.run(mmg.Job(numbers(), fail, bundles="/proc/nowhere"), on_notice=notices.append)
    assert any("no bundle of the failure could be kept in /proc/nowhere" in text for text in notices)


def test_programs_keep_none_unless_they_ask(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    error = error_of(cluster, mmg.Job(numbers(), fail))
    assert error.bundle is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_keeps_them_in_the_cache_of_its_user_unless_told_otherwise(tmp_path):
    job = tmp_path / "job.py"
    job.write_text("datasource = [(1, 1)]\ndef mapfn(k, v):\n    raise ValueError(SECRET)\nSECRET = 'x'\n")
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "UNNAMED": "not in it"}
    del environ["MMG_BUNDLES"]
    command = [sys.executable, "-m", "mmgevent", "run", "--inline", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100)
    (kept,) = (tmp_path / "cache" / "mmgevent" / "bundles").iterdir()
    assert done.returncode == 1
    assert f"mmg-run --replay {kept}" in done.stderr
    assert b"not in it" not in kept.read_bytes()
    kept.chmod(0o666)
    refused = replay(str(kept))
    assert refused.returncode == 2
    assert "others may write to the bundle" in refused.stderr
    command[-1:] = ["--bundles", "none", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100)
    assert done.returncode == 1
    assert "run it again" not in done.stderr


def test_a_file_that_is_too_large_for_a_bundle_is_not_read_again(cluster, tmp_path, monkeypatch):
    path = tmp_path / "large.txt"
    path.write_text("x" * (kept_batches.MAX_FOUND_BYTES + 1))
    error = error_of(cluster, mmg.Job(mmg.Files(path), read_number, bundles=tmp_path / "kept"))
    assert "input" not in read_bundle(error.bundle).sections
    monkeypatch.setattr(kept_batches, "MAX_FOUND_BYTES", kept_batches.MAX_FOUND_BYTES + 1)
    error = error_of(cluster, mmg.Job(mmg.Files(path), read_number, bundles=tmp_path / "kept"))
    assert (
        read_bundle(error.bundle).header["missing"].startswith("what it was called with has more than 16 MiB")
    )


def test_an_item_is_not_looked_for_without_end(cluster, tmp_path, monkeypatch):
    path = tmp_path / "lines.txt"
    path.write_text("1\n" * 50 + "bad\n")
    monkeypatch.setattr(kept_batches, "FIND_S", -1.0)
    error = error_of(cluster, mmg.Job(mmg.Lines(path), read_number, bundles=tmp_path / "kept"))
    assert "has no input" in str(error)


def test_a_slow_disk_for_bundles_leaves_no_thread_behind(cluster, tmp_path, monkeypatch, caplog):
    def write_slowly(*args):
        threading.Event().wait(2 * GRACE_S)
        return write_bundle(*args)

    monkeypatch.setattr(bundles, "write_bundle", write_slowly)
    handle = cluster.submit(mmg.Job(numbers(), fail, bundles=tmp_path / "kept"))
    assert os.path.exists(handle.exception(100).bundle)
    assert "left behind" not in caplog.text


def test_rows_that_cannot_be_read_are_no_fault_of_a_job_that_is_done(cluster, monkeypatch, tmp_path):
    def records(self):
        raise mmg.JobError("items set aside cannot be read here", {"kind": "record"})

    monkeypatch.setattr(SetAside, "records", records)
    job = mmg.Job(numbers(9), fail_in_two_ways, max_skipped=0.9, bundles=tmp_path / "kept")
    handle = cluster.submit(job, on_notice=lambda text: None)
    assert handle.result(100) == {0: [0], 3: [3], 6: [6]}
