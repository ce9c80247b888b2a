"""Functions that do what they should not: their job ends as told, and nobody else is hurt.

After each, on the same cluster: server and worker live, nothing of the job is left, the next job is right.
"""

import os
import resource
import sys
import time

import pytest

import mmgevent as mmg
from tests.trust import misdeeds
from tests.trust.misdeeds import ITEMS, add, at_bad
from tests.trust.watch import PATIENCE_S, Watched, wait_until

RIGHT = {r: sum(range(r, 10, 3)) for r in range(3)}


@pytest.fixture(scope="module")
def watched():
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture(autouse=True)
def unhurt(watched):
    yield
    watched.check()


def run(watched, deed, **options):
    return watched.submit(ITEMS, at_bad(deed), add, **options).result(PATIENCE_S)


def fail(watched, deed, **options):
    """Run a job that must fail; the JobError."""
    with pytest.raises(mmg.JobError) as caught:
        run(watched, deed, **options)
    return caught.value


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (misdeeds.divide, "ZeroDivisionError"),
        (misdeeds.raise_no_pickle, "NoPickle"),
        (misdeeds.raise_no_str, "NoStr: <its str() fails>"),
        (misdeeds.raise_str_exits, "StrExits: <its str() fails>"),
        (misdeeds.raise_huge, "ValueError: xxx"),
        (misdeeds.raise_chain, "ValueError: two"),
        (misdeeds.sys_exit, "SystemExit: 3"),
        (misdeeds.press_ctrl_c, "KeyboardInterrupt"),
        (misdeeds.generator_exit, "GeneratorExit"),
        (misdeeds.stop_iteration, "generator raised StopIteration"),
        (misdeeds.recurse, "RecursionError"),
    ],
)
def test_whatever_is_raised_fails_the_job_by_name(watched, deed, said):
    error = fail(watched, deed)
    assert (error.kind, error.function, error.key) == ("exception", "mapfn", "5")
    assert said in str(error)
    assert len(str(error)) < 100_000


def test_an_exception_that_cannot_even_be_looked_at_fails_the_job(watched):
    assert "no attributes for you" in str(fail(watched, misdeeds.raise_not_even_arguments))


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (misdeeds.os_exit, "exit code 7"),
        (misdeeds.os_exit_0, "exit code 0"),
        (misdeeds.kill_itself, "signal 9 (SIGKILL)"),
        (misdeeds.abort, "signal 6 (SIGABRT)"),
        (misdeeds.die_of_a_real_time_signal, "signal 40 (SIGRTMIN+6)"),
        (misdeeds.segfault, "signal 11 (SIGSEGV)"),
        (misdeeds.let_the_alarm_ring, "signal 14 (SIGALRM)"),
        (misdeeds.close_all_descriptors, "it closed descriptors that are not its own"),
        (misdeeds.die_after_leaving_a_daemon, "exit code 5"),
    ],
)
def test_whatever_kills_the_executor_fails_the_job_by_name(watched, deed, said):
    error = fail(watched, deed)
    assert (error.kind, error.function, error.key) == ("died", "mapfn", "5")
    assert said in str(error)


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (misdeeds.kill_the_parent, "signal 9 (SIGKILL)"),
        (misdeeds.outlive_the_parent, "signal 9 (SIGKILL)"),
        pytest.param(misdeeds.terminate_the_parent, "exit code 0", marks=pytest.mark.long),
        pytest.param(misdeeds.kill_the_group_of_the_parent, "signal 9 (SIGKILL)", marks=pytest.mark.long),
        pytest.param(misdeeds.let_the_parent_die_of_a_real_time_signal, "signal 40", marks=pytest.mark.long),
    ],
)
def test_a_job_that_ends_its_template_three_times_fails_by_name_and_the_job_beside_it_is_right(
    watched, deed, said, tmp_path
):
    waits = tmp_path / "waits"
    waits.touch()

    def innocent(key, value):
        while key == 0 and os.path.exists(waits):
            time.sleep(0.01)
        yield key % 3, value

    beside = watched.submit(ITEMS, innocent, add)
    error = fail(watched, deed)
    waits.unlink()
    assert error.kind == "died"
    assert "tasks of this job ended the process that forks executors 3 times" in str(error)
    assert said in str(error)
    assert beside.result(PATIENCE_S) == RIGHT
    assert beside.deaths() == []


@pytest.mark.long
@pytest.mark.parametrize("deed", [misdeeds.stop_the_parent, misdeeds.trace_the_parent])
def test_a_template_that_is_stopped_is_noticed_and_replaced(watched, deed, tmp_path):
    done = tmp_path / "done"

    def stop_once(value):
        if not done.exists():
            done.touch()
            deed(value)

    handle = watched.submit(ITEMS, at_bad(stop_once), add)
    assert handle.result(PATIENCE_S) == RIGHT
    (death,) = handle.deaths()
    assert "it did not answer: it was stopped" in death["error"]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
@pytest.mark.parametrize(
    "deed", [misdeeds.give_the_parent_no_descriptors, misdeeds.give_the_parent_no_memory]
)
def test_a_template_whose_limits_were_lowered_is_replaced(watched, deed, tmp_path):
    done = tmp_path / "done"

    def lower_once(value):
        if not done.exists():
            done.touch()
            deed(value)

    assert watched.submit(ITEMS, at_bad(lower_once), add).result(PATIENCE_S) == RIGHT


@pytest.mark.parametrize("deed", [misdeeds.patch_builtins, misdeeds.patch_socket, misdeeds.patch_pickle])
def test_patching_what_the_executor_needs_ends_its_own_job_only(watched, deed):
    def mapfn(key, value):
        for number, each in misdeeds.at_bad(deed)(key, value):
            yield number, complex(each)  # which has to be pickled

    with pytest.raises(mmg.JobError) as caught:
        watched.submit(ITEMS, mapfn, add).result(PATIENCE_S)
    assert caught.value.kind in ("died", "exception", "record")


@pytest.mark.parametrize(
    "deed",
    [
        misdeeds.loop_in_python,
        misdeeds.loop_in_c,
        misdeeds.loop_in_regex,
        misdeeds.loop_deaf_to_everything,
        misdeeds.stop_itself,
        misdeeds.wait_for_a_lock,
    ],
)
def test_whatever_never_ends_is_ended_by_task_timeout_and_by_cancel(watched, deed):
    error = fail(watched, deed, task_timeout=1.0)
    assert (error.kind, error.function, error.key) == ("timeout", "mapfn", "5")
    handle = watched.submit(ITEMS, at_bad(deed), add)
    wait_until(lambda: handle.progress().running)
    handle.cancel()
    with pytest.raises(mmg.JobCancelled):
        handle.result(PATIENCE_S)


@pytest.mark.parametrize("deed", [misdeeds.ask_for_10_gib, misdeeds.hoard, misdeeds.grow_to_10_gib_unseen])
def test_10_gib_end_at_the_memory_limit(watched, deed):
    error = fail(watched, deed, memory_limit="256MiB")
    assert (error.kind, error.key) == ("memory", "5")


@pytest.mark.parametrize(
    "deed",
    [
        misdeeds.close_the_usual_descriptors,
        misdeeds.use_up_descriptors,
        misdeeds.forbid_descriptors,
        misdeeds.chdir,
        misdeeds.remove_the_working_directory,
        misdeeds.handle_signals,
        misdeeds.raise_from_a_handler,
        misdeeds.patch_time_and_os,
        misdeeds.empty_sys_modules,
        misdeeds.leave_threads,
        misdeeds.leave_busy_threads,
        misdeeds.leave_children,
        misdeeds.leave_a_session,
        misdeeds.leave_a_daemon,
        misdeeds.return_from_a_fork,
        misdeeds.write_garbage,
    ],
)
def test_what_concerns_the_function_alone_fails_nothing_and_leaves_nothing(watched, deed):
    assert run(watched, deed) == RIGHT


def test_a_gib_of_output_is_read_and_not_kept(watched):
    before = watched.engine.memory_info().rss
    _reset_peak(watched.engine.pid)
    assert run(watched, misdeeds.write_a_gib) == RIGHT
    assert _peak(watched.engine.pid) - before < 64 << 20


def _reset_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def _peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def test_a_generator_that_raises_after_a_flush_and_succeeds_on_retry_is_counted_once(watched, tmp_path):
    failed = tmp_path / "failed"

    def flaky(key, value):
        for n in range(30_000):
            yield f"{n:0200d}", 1
        if key == 1 and not failed.exists():
            failed.touch()
            raise OSError("the first time")

    # of 96 MiB an executor flushes at 24: more than once before it raises
    job = [(n, n) for n in range(3)], flaky, add
    result = watched.submit(*job, retries=1, memory_limit="96MiB").result(PATIENCE_S)
    assert failed.exists()
    assert len(result) == 30_000
    assert set(result.values()) == {3}


def test_two_jobs_at_once_have_functions_and_modules_of_one_name(watched, tmp_path, monkeypatch):
    """And neither sees what the other does to its globals. The first item of each waits for the other job."""
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    monkeypatch.setattr(sys, "path", sys.path[:])
    handles = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "samename_lib.py").write_text(f"SEEN = []\nNUMBER = {number}\n")
        (folder / "samename.py").write_text(
            f"""
import os, time
import samename_lib
datasource = [(n, n) for n in range(4)]
COUNT = 0
def mapfn(key, value):
    global COUNT
    COUNT += 1
    samename_lib.SEEN.append({number})
    open(os.path.join({str(arrived)!r}, f"{number}-{{key}}"), "w").close()
    while key == 0 and len({{name[0] for name in os.listdir({str(arrived)!r})}}) < 2:
        time.sleep(0.01)
    yield samename_lib.NUMBER, set(samename_lib.SEEN) == {{{number}}} and COUNT == len(samename_lib.SEEN)
def reducefn(key, values):
    return all(values)
"""
        )
        handles.append(watched.cluster.submit(mmg.Job.from_file(folder / "samename.py")))
        del sys.modules["samename_lib"]  # or this process would not look at the other one
    assert [handle.result(PATIENCE_S) for handle in handles] == [{1: True}, {2: True}]


def test_an_empty_datasource_and_a_reducefn_that_returns_none_are_fine(watched):
    assert watched.submit([], at_bad(misdeeds.divide), add).result(PATIENCE_S) == {}
    job = ITEMS, lambda k, v: [(k % 3, v)], lambda k, values: None
    assert watched.submit(*job).result(PATIENCE_S) == {0: None, 1: None, 2: None}


def test_a_datasource_that_raises_at_item_1000_fails_its_job(watched):
    def items():
        for n in range(2000):
            if n == 1000:
                raise ConnectionError("the cursor is gone")
            yield n, n

    with pytest.raises(mmg.JobError, match="the cursor is gone") as caught:
        watched.submit(items, lambda k, v: [(k % 3, v)], add).result(PATIENCE_S)
    assert caught.value.kind == "datasource"


def test_a_fork_that_returns_marks_nothing_and_is_blamed_for_nothing(watched):
    """What goes on with the other items in the child does so unseen: the page is the parent's."""

    def fork_then_hang(key, value):
        import os

        if key == 250:  # in a batch of several by now
            parent = os.getpid()
            os.fork()
            if os.getpid() != parent:
                return  # on to the items behind, in the child
            while True:
                time.sleep(1)
        yield key % 3, value

    items = [(n, n) for n in range(300)]
    handle = watched.submit(items, fork_then_hang, add, task_timeout=1.0)
    with pytest.raises(mmg.JobError):
        handle.result(PATIENCE_S)
    assert [(death["kind"], death.get("key")) for death in handle.deaths()] == [("timeout", "250")] * 3
