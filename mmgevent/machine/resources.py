"""Find what this machine lets a process use: cores, memory, descriptors, threads, scratch files."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import math
import os
import resource
import sys
from typing import TYPE_CHECKING

from mmgevent.errors import StartError

if TYPE_CHECKING:
    import threading

    from mmgevent.machine.cgroups import ControlGroups

#: Longest wait of the main thread without a look for signals, seconds. The system may deliver a
#: signal to another thread. Python does not wake the main thread then, and Ctrl-C would have to
#: wait.
SIGNAL_LOOK_S = 0.25
#: Thresholds of the garbage collector in an engine, as `gc.set_threshold` takes them.
ENGINE_GC_THRESHOLDS = (20_000, 50, 50)


#: Memory of a machine that does not say how much it has, bytes.
UNKNOWN_MEMORY_BYTES = 1024 * 1024 * 1024
#: Memory for each executor if the user gives no number of them, bytes. One has 20 MiB before it
#: does anything, and needs some for records. So a small container on a host of many cores gets few.
MIN_EXECUTOR_BYTES = 96 * 1024 * 1024
#: Memory for all our other processes on the machine, bytes. Driver, engine and template have 110
#: MiB.
OTHERS_BYTES = 128 * 1024 * 1024
#: Limit on descriptors if the system does not say. It is the default of most systems.
USUAL_DESCRIPTORS = 1024
#: Error numbers of old kernels and sandboxes for calls that they do not have or allow.
FORBIDDEN = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
#: Linux's folder in memory, and the usual folder for temporary files.
SHARED_MEMORY_FOLDER, FIRST_SCRATCH_FOLDER = "/dev/shm", "/tmp"


def count_cores() -> int:
    """Return how many cores this process may use, at least 1.

    That is the number in its affinity, but at most the quota of its control groups, rounded up.
    With one executor too few a part of a core is idle; one too many only waits a little.
    """
    quota = find_control_groups().limits.cores
    cores = _count_affinity()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def count_default_executors() -> int:
    """Return the default number of executors: one for each core, if memory allows."""
    return max(1, min(count_cores(), (total_memory_bytes() - OTHERS_BYTES) // MIN_EXECUTOR_BYTES))


def total_memory_bytes() -> int:
    """Return the memory that this process and all others in its control groups may have, bytes."""
    memory = UNKNOWN_MEMORY_BYTES
    with contextlib.suppress(OSError, ValueError):
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        if pages > 0 and page_bytes > 0:
            memory = pages * page_bytes
    limit = find_control_groups().limits.memory_bytes
    return memory if limit is None else min(memory, limit)


def limit_memory(limit_bytes: int) -> None:
    """Let this process get MemoryError above so many bytes, where that can be had."""
    with contextlib.suppress(OSError):  # a sandbox forbids it; the worker watches
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def process_memory_bytes() -> int | None:
    """Return the memory that `ulimit -v` and `-d` allow, bytes, or None without a limit."""
    limits = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            soft, _ = resource.getrlimit(getattr(resource, name))
            limits += [soft] if soft != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, or None.

    That is so on kernels before 5.3, in sandboxes that forbid the call, and if no descriptor is
    left. The caller must then look at the process from time to time. Raise ProcessLookupError if
    there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


def create_nameless_file(name: str) -> int:
    """Return the descriptor of a new file without a name, in memory if possible. Raise OSError."""
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create(name, os.MFD_CLOEXEC)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
    import tempfile

    fd, path = tempfile.mkstemp(prefix=f"{name}-", dir=find_scratch_folder())
    os.unlink(path)
    return fd


def find_scratch_folder() -> str:
    """Return the folder for files without a name: Python's choice, or else one in memory.

    A container may be read-only. If no folder can be written to, the one returned raises when it is
    used.
    """
    import tempfile

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return SHARED_MEMORY_FOLDER if os.access(SHARED_MEMORY_FOLDER, os.W_OK) else FIRST_SCRATCH_FOLDER


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raise StartError if this machine allows no more."""
    try:
        thread.start()
    except RuntimeError as error:
        raise shortage_error("a thread", error) from error


def shortage_error(what: str, error: Exception) -> StartError:
    """Return the error that says why `what`, such as "the engine process", cannot be started."""
    text = f"{what} cannot be started: {getattr(error, 'strerror', None) or error}"
    if getattr(error, "filename", None):
        text += f": {error.filename}"  # type: ignore[attr-defined]
    if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.EAGAIN:
        limits = []
        with contextlib.suppress(OSError, ValueError, AttributeError):
            soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
            limits += [f"ulimit -u is {soft}"] if soft != resource.RLIM_INFINITY else []
        most = find_control_groups().find_process_limit()
        limits += [f"pids.max of its container is {most}"] if most is not None else []
        where = f" ({', '.join(limits)})" if limits else ""
        text += f"; this user or container may have no more processes and threads{where}: allow more of them"
    return StartError(text)


@functools.cache
def find_control_groups() -> ControlGroups:
    """Return the control groups of this process. They are searched once, and forks know them."""
    from mmgevent.machine.cgroups import ControlGroups

    return ControlGroups()


def _count_affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux; or a sandbox forbids the call
        return os.cpu_count() or 1


def collect_garbage_rarely() -> None:
    """Run the cyclic garbage collector rarely in this process, an engine, from now on.

    An engine keeps some objects for each task, and every collection looks at all of them. With
    Python's usual thresholds, and short tasks, that takes a twentieth of its time.
    """
    gc.set_threshold(*ENGINE_GC_THRESHOLDS)


def descriptor_limit() -> int:
    """Return how many descriptors this process may have; USUAL_DESCRIPTORS if unknown."""
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a sandbox forbids the question
        return USUAL_DESCRIPTORS
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as the system does.

    A link needs one, an executor four.
    """
    with contextlib.suppress(OSError, ValueError):  # a sandbox forbids it, or the kernel has a lower bound
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
