"""The disk of a server, a worker or a driver is full, read-only or gone: only the job that needs it ends."""

import contextlib
import os
import subprocess
import threading

import pytest

import mmgevent as mmg
from mmgevent.engine.worker.held import SHORT_TASK_S
from tests.trust.machines import PASSWORD, Machines, Reports, family_of, temporary_files_of, wait_until
from tests.trust.reporting import LARGE_ITEM, assert_right, reporting_job

MIB = 1024 * 1024
#: of intermediate data that the servers here hold in memory, and of disk that they have beside it
MEMORY_MIB, DISK_MIB = 8, 4

#: become a command whose temporary files are on a small disk of its own
MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


@pytest.fixture
def machines(tmp_path):
    with contextlib.closing(Machines(tmp_path)) as machines:
        yield machines


def small_disk(folder, size="4m"):
    """Return a command that becomes the one behind it, which alone sees a small disk at `folder`."""
    return ["unshare", "--mount", "sh", "-c", MOUNT, "sh", size, str(folder)]


def may_mount():
    with contextlib.suppress(FileNotFoundError):
        return not subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        ).returncode
    return False


needs_mount = pytest.mark.skipif(not may_mount(), reason="this user may not mount a disk in a namespace")


class Disk:
    """The folder for temporary files of one process, and what happens to it."""

    def __init__(self, folder):
        self.folder = folder
        self.folder.mkdir()
        self.environ = {"TMPDIR": str(folder)}
        self.prefix = ()

    def break_for(self, process):
        """Make it useless for this process, now that it runs."""

    def mend_for(self, process):
        """Make it as it was."""


class FullDisk(Disk):
    """Takes DISK_MIB; has nothing to be mended."""

    def __init__(self, folder):
        super().__init__(folder)
        self.prefix = small_disk(folder, f"{DISK_MIB}m")

    word = "No space left on device"


class ReadOnlyDisk(Disk):
    def __init__(self, folder):
        super().__init__(folder)
        self.prefix = small_disk(folder, f"{DISK_MIB * 100}m")

    word = "Read-only file system"

    def _remount(self, process, how):
        inside = ["nsenter", "--mount", "--target", str(process.pid)]
        subprocess.run([*inside, "mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def break_for(self, process):
        self._remount(process, "ro")

    def mend_for(self, process):
        self._remount(process, "rw")


class RemovedFolder(Disk):
    word = "No such file or directory"

    def break_for(self, process):
        self.folder.rmdir()

    def mend_for(self, process):
        self.folder.mkdir()


DISKS = pytest.mark.parametrize(
    "disk_class",
    [
        pytest.param(FullDisk, marks=needs_mount),
        pytest.param(ReadOnlyDisk, marks=needs_mount),
        RemovedFolder,
    ],
)


def bulky_job(n_mib, **options):
    """Return a job with so many MiB of intermediate data; its result is {0: [size, ...]} of them."""

    def mapfn(number, value):
        yield 0, os.urandom(MIB)

    def items():
        return ((number, number) for number in range(n_mib))

    return mmg.Job(items, mapfn, lambda key, values: [len(v) for v in values], name="bulky", **options)


def wide_job(n_mib, **options):
    """Return a job whose one partition has so many MiB under many keys; its result is {key: bytes}."""

    def mapfn(number, value):
        for part in range(64):
            yield number * 64 + part, os.urandom(MIB // 64)

    def items():
        return ((number, number) for number in range(n_mib))

    return mmg.Job(
        items, mapfn, lambda key, values: sum(map(len, values)), partitions=1, name="wide", **options
    )


@contextlib.contextmanager
def job_under_way(cluster, where="map 3", **options):
    """A job that is held at one of its reports, and goes on when this ends; its result is right."""

    def look(what, pid):
        # So long that no task is sent ahead, behind the one that is held.
        if what.startswith("map "):
            is_over.wait(1.5 * SHORT_TASK_S)
        return what == where and not is_over.is_set()

    def is_alone(progress):
        return (progress.phase, progress.waiting, progress.running) == ("map", 0, 1) and progress.total

    is_over = threading.Event()
    with contextlib.closing(Reports(look)) as reports:
        handle = cluster.submit(reporting_job(reports.path, retransmit=0, **options))
        wait_until(
            lambda: reports.held and is_alone(handle.progress()),
            lambda: f"all else is done: {handle.progress()}",
        )
        yield
        assert not handle.done()
        is_over.set()
        reports.let_go()
        assert_right(handle.stream())


@DISKS
def test_a_server_without_disk_ends_the_job_that_needs_it_and_no_other(machines, tmp_path, disk_class):
    disk = disk_class(tmp_path / "disk")
    server = machines.start_server("--memory", f"{MEMORY_MIB}MiB", prefix=disk.prefix, environ=disk.environ)
    machines.start_worker(server.address, 4)
    with mmg.connect(server.address, password=PASSWORD) as cluster:
        with job_under_way(cluster, large_item=None):
            disk.break_for(server)
            for _ in range(2):  # each ends for itself, and what it held is free for the next
                with pytest.raises(mmg.JobError, match=disk.word) as caught:
                    cluster.run(bulky_job(24))
                assert caught.value.kind == "disk"
                assert "TMPDIR" in str(caught.value)
                wait_until(lambda: not temporary_files_of(server.pid), "the end of a spill file")
                # Fits into the memory if all of it is free again.
                assert cluster.run(bulky_job(MEMORY_MIB - 2)) == {0: [MIB] * (MEMORY_MIB - 2)}
            disk.mend_for(server)
        # Needs both memory and disk, and finds both free.
        n_mib = MEMORY_MIB + DISK_MIB - 3
        handle = cluster.submit(bulky_job(n_mib))
        assert handle.result(60) == {0: [MIB] * n_mib}
        assert handle.stats()["spilled_bytes"] > 0
    assert "Traceback" not in server.said


def test_a_folder_that_is_removed_under_an_open_spill_file_is_not_missed(machines, tmp_path):
    disk = RemovedFolder(tmp_path / "disk")
    server = machines.start_server("--memory", "1MiB", environ=disk.environ)
    machines.start_worker(server.address, 2)
    with (
        mmg.connect(server.address, password=PASSWORD) as cluster,
        job_under_way(cluster, f"flushed {LARGE_ITEM}"),
    ):
        assert temporary_files_of(server.pid)
        disk.break_for(server)


@DISKS
def test_a_worker_without_disk_ends_the_job_that_needs_it_and_no_other(machines, tmp_path, disk_class):
    disk = disk_class(tmp_path / "disk")
    server = machines.start_server()
    worker = machines.start_worker(server.address, 4, prefix=disk.prefix, environ=disk.environ)
    with mmg.connect(server.address, password=PASSWORD) as cluster:
        with job_under_way(cluster, large_item=None):
            disk.break_for(worker)
            for _ in range(2):
                with pytest.raises(mmg.JobError, match=disk.word) as caught:
                    cluster.run(wide_job(24, memory_limit="64MiB"))
                assert caught.value.kind == "disk"
                assert str(disk.folder) in str(caught.value)
            disk.mend_for(worker)
        n_mib = 18  # its pieces do not all fit into memory, and the rest fits onto the disk
        if disk_class is not FullDisk:
            assert cluster.run(wide_job(n_mib, memory_limit="64MiB")) == dict.fromkeys(
                range(n_mib * 64), MIB // 64
            )
        assert [info.slots for info in cluster.workers()] == [4]
    assert not any(temporary_files_of(process.pid) for process in family_of(worker.pid))
    assert "Traceback" not in worker.said


#: its datasource can be read once, so the driver keeps a copy on its disk until the job is over
ONE_SHOT = """
import os, sys, tempfile
while "remove" in sys.argv and os.path.exists(tempfile.gettempdir()):
    try:
        os.rmdir(tempfile.gettempdir())
    except OSError:
        pass  # for a moment the engine, which starts, has a file there to see whether it can
datasource = ((n, os.urandom(1 << 20)) for n in range(40))
def mapfn(key, value):
    yield key % 2, len(value)
def reducefn(key, values):
    return sum(values)
"""


@pytest.mark.parametrize("disk_class", [pytest.param(FullDisk, marks=needs_mount), RemovedFolder])
def test_a_driver_without_disk_for_a_one_shot_datasource_says_so(machines, tmp_path, disk_class):
    disk = disk_class(tmp_path / "disk")
    job = machines.write("one_shot.py", ONE_SHOT)
    what = ["remove"] if disk_class is RemovedFolder else []
    command = machines.start("run", "--procs", 2, job, *what, prefix=disk.prefix, environ=disk.environ)
    code, written = command.finish()
    assert (code, written) == (1, ""), command.said
    assert disk.word in command.said
    assert "TMPDIR" in command.said
    assert "Traceback" not in command.said
