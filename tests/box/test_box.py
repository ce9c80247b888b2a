"""Boxes against hostile functions and hosts that end: real templates and executors in this process."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import mmgevent as mmg
from mmgevent.box import boxes, frames_link, template_link
from mmgevent.box.box import BoxedJob
from mmgevent.box.boxed import BoxedExecutor
from mmgevent.box.boxes import Boxes
from mmgevent.box.reports import GuestBatch
from mmgevent.box.spares import end_spares
from mmgevent.box.trials import Trials
from mmgevent.driver.packing import pack_job
from mmgevent.engine.worker.ring import LAST_WORDS_BYTES, Ring
from mmgevent.errors import JobCancelled
from mmgevent.tasks.records import encode_items
from mmgevent.wire.frames import OUTPUT, Frame
from tests.box.conftest import children
from tests.driver.runners.test_contract import EXPECTED, add, by_three, numbers
from tests.waiting import wait_until

WAIT_S = 60.0


def be_silent(text):
    pass


def test_what_prints_faster_than_the_host_reads_does_not_keep_it_from_all_else():
    executor = BoxedExecutor.__new__(BoxedExecutor)
    executor._ring, executor._printed = Ring(), os.open("/dev/zero", os.O_RDONLY)  # never empty
    assert executor.last_words().endswith("\0" * LAST_WORDS_BYTES)
    executor._close_printed()


def test_what_a_dead_executor_left_is_read_whole_even_in_parts(monkeypatch):
    monkeypatch.setattr(frames_link, "READ_BYTES", 100)
    ours, theirs = socket.socketpair()
    frames = [Frame(OUTPUT, bytes(250), 1, 1, 1), Frame(OUTPUT, b"last", 1, 1, 1)]
    with theirs:
        theirs.sendall(b"".join(part for frame in frames for part in (frame.encode_header(), frame.payload)))
    link = frames_link.FramesLink(ours)
    assert [bytes(frame.payload) for frame in link.receive_rest()] == [bytes(250), b"last"]
    link.close()


def test_a_template_that_is_stopped_is_replaced(cluster, tmp_path, monkeypatch):
    """Its executor has died, and it would never say so; a child keeps the executor's link open."""
    monkeypatch.setattr(template_link, "PING_S", 0.05)
    mark = str(tmp_path / "done")

    def stop_once(key, value):
        if value == 7 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getppid(), signal.SIGSTOP)
            if not os.fork():
                os.setsid()
                time.sleep(20)
            os._exit(1)
        yield value % 3, value

    handle = cluster.submit(mmg.Job(numbers(100), stop_once, add), on_notice=be_silent)
    assert handle.result(WAIT_S) == EXPECTED
    assert [death["outcome"] for death in handle.deaths()] == ["retried"]
    assert "stopped" in handle.deaths()[0]["error"]


def test_an_executor_that_outlives_its_template_is_killed(cluster, tmp_path):
    pids = tmp_path / "pids"

    def outlive(key, value):
        import ctypes

        if not pids.exists():
            pids.write_text(str(os.getpid()))
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: none
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
        yield value % 3, value

    handle = cluster.submit(mmg.Job(numbers(100), outlive, add), on_notice=be_silent)
    assert handle.result(WAIT_S) == EXPECTED
    wait_until(lambda: not psutil.pid_exists(int(pids.read_text())))


class Host:
    """Boxes of this process, and a job for them."""

    def __init__(self, mapfn, **options):
        job = mmg.Job(numbers(30), mapfn, partitions=1, **options)
        packed = pack_job(job, be_silent, None, is_local=True, stays_here=True)
        self.boxes = Boxes()
        self.code = packed.code
        self.job = BoxedJob("a job", packed.options, 1, 1, packed.context)
        self.batch = GuestBatch(0, 30, encode_items(list(numbers(30).items())), False)

    def map(self):
        return self.boxes.use(self.job, self.code, lambda box: Trials(box).map(self.batch)[0])


def templates(before):
    """Return the children of this process that have come: its executors are children of those."""
    return [process for process in psutil.Process().children() if process not in before]


def test_a_template_that_dies_between_two_tasks_is_replaced_and_no_death():
    before = children()
    host = Host(by_three)
    for _ in range(5):
        report = host.map()
        assert (report.items, report.deaths, report.failure) == (30, (), None)
        (template,) = templates(before)
        template.kill()
        psutil.wait_procs([template], WAIT_S)
    host.boxes.end_job("a job")


def test_a_job_that_ends_while_its_box_is_put_back_leaves_no_box(monkeypatch):
    """The end comes between the last question whether the job is over, and the lock."""
    before = children()
    host = Host(by_three)
    host.map()
    is_over = host.boxes.is_over

    def end_after_question(job):
        answer = is_over(job)
        if host.boxes._busy or answer:
            return answer
        host.boxes.end_job(job.id)
        return answer

    (template,) = templates(before)
    box = host.boxes._take(host.job, host.code)
    monkeypatch.setattr(host.boxes, "is_over", end_after_question)
    monkeypatch.setattr(host.boxes, "_take", lambda job, code: box)
    assert host.map().items == 30
    end_spares()  # among them the template of the box, unless the box is still there
    assert not template.is_running()
    with pytest.raises(JobCancelled):
        Boxes._take(host.boxes, host.job, host.code)


def test_a_box_that_cannot_be_closed_keeps_no_other_from_its_end(monkeypatch, caplog):
    """Neither where a job ends, nor in the thread that ends idle boxes."""
    monkeypatch.setattr(boxes, "IDLE_S", 0.0)
    monkeypatch.setattr(boxes, "LEASE_LOOK_S", 0.01)
    closed = []

    class Stubborn:
        def __init__(self, name, job_id):
            self.name, self.job = name, BoxedJob(job_id, {}, 4, 2)

        def close(self):
            closed.append(self.name)
            raise OSError("it cannot be closed")

    host = Boxes()
    host._idle = {"a job": [(Stubborn(name, "a job"), 0.0) for name in "ab"]}
    host.end_job("a job")
    assert closed == ["a", "b"]
    for name in "cd":  # one keeper each, which begins when the one before has ended
        assert host._put_back(Stubborn(name, "another job"))
        wait_until(lambda: host._keeper is None and not host._idle)
    wait_until(lambda: closed == ["a", "b", "c", "d"])
    wait_until(lambda: [record.exc_info[0] for record in caplog.records] == [OSError] * 4)


HOST = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import mmgevent as mmg

def mapfn(key, value):
    import os, subprocess, time
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    with open(value + ".new", "w") as file:
        file.write(f"{os.getpid()} {os.getppid()} {child.pid}")
    os.rename(value + ".new", value)
    time.sleep(1000)

if __name__ == "__main__":
    with mmg.connect(ThreadPoolExecutor(1)) as cluster:
        cluster.run(mmg.Job({1: sys.argv[1]}, mapfn))
"""


def test_all_processes_of_a_box_end_when_their_host_is_killed(tmp_path):
    pids = tmp_path / "pids"
    program = tmp_path / "host.py"
    program.write_text(HOST)
    with subprocess.Popen([sys.executable, str(program), str(pids)]) as host:
        wait_until(pids.exists, WAIT_S)
        found = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
        host.kill()
    _, left = psutil.wait_procs(found, timeout=WAIT_S)
    assert not left
