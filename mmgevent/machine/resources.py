"""What this machine has that we may use, and how this process uses it: cores, memory, descriptors."""

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

#: how long a wait of a thread goes on without a look. The system may hand a signal to a thread that cannot act on it,
#: and Python does not wake its main thread for it: Ctrl-C would wait for whatever the main thread waits for
SIGNAL_LOOK_S = 0.25
#: of an engine, as `gc.set_threshold` takes them
GC_THRESHOLDS = (20_000, 50, 50)


#: Memory that the machine is taken to have where the system does not tell, bytes.
UNKNOWN_MEMORY_BYTES = 1024 * 1024 * 1024
#: Memory for each executor that nobody asked for by number, bytes: one has 20 MiB of its own before it does
#: anything, and needs some for records.  So a container of little memory on a host of many cores gets few of them.
MIN_EXECUTOR_BYTES = 96 * 1024 * 1024
#: Memory for all other processes of ours there, bytes: driver, engine and template have 110 MiB together.
OTHERS_BYTES = 128 * 1024 * 1024
#: Descriptors that a process may have where the system does not say: the default of most.
USUAL_DESCRIPTORS = 1024
#: What old kernels and sandboxes answer to calls that they do not have, or do not allow.
FORBIDDEN = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
#: What Linux has of memory that looks like a folder, and the first folder that everybody tries.
SHARED_MEMORY_FOLDER, FIRST_SCRATCH_FOLDER = "/dev/shm", "/tmp"


def count_cores() -> int:
    """Return how many cores this process may use, at least 1.

    Those of its affinity, and no more than the quota of its control groups: a part of a core counts as one, since
    an executor too few leaves it idle, while one too many waits a little.
    """
    quota = find_control_groups().limits.cores
    cores = _count_affinity()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def count_default_executors() -> int:
    """Return how many executors this machine gets where nobody says: one a core, if there is memory for so many."""
    return max(1, min(count_cores(), (total_memory_bytes() - OTHERS_BYTES) // MIN_EXECUTOR_BYTES))


def total_memory_bytes() -> int:
    """Return the bytes of RAM that this process and all others of its control groups may have."""
    memory = UNKNOWN_MEMORY_BYTES
    with contextlib.suppress(OSError, ValueError):
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        if pages > 0 and page_bytes > 0:
            memory = pages * page_bytes
    limit = find_control_groups().limits.memory_bytes
    return memory if limit is None else min(memory, limit)


def process_memory_bytes() -> int | None:
    """Return the bytes that `ulimit -v` or `-d` allows this process; None if they do not limit it."""
    limits = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            soft, _ = resource.getrlimit(getattr(resource, name))
            limits += [soft] if soft != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where it must be looked at now and then.

    That is so on kernels before 5.3, in sandboxes that forbid the call, and where no descriptor is left.
    ProcessLookupError if there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


def create_nameless_file(name: str) -> int:
    """Return the descriptor of a new file that has no name, in memory where the system offers that; OSError."""
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
    """Return the folder for files that have no name; where none can be written to, one that says so when it is used.

    That is Python's own choice (TMPDIR, /tmp, ...), else memory that looks like a folder: a container may be read-only.
    """
    import tempfile

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return SHARED_MEMORY_FOLDER if os.access(SHARED_MEMORY_FOLDER, os.W_OK) else FIRST_SCRATCH_FOLDER


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; StartError where this machine allows no more."""
    try:
        thread.start()
    except RuntimeError as error:
        raise shortage_error("a thread", error) from error


def shortage_error(what: str, error: Exception) -> StartError:
    """Return the error that says why a process or thread, such as "the engine process", cannot be started."""
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
    """Return the control groups of this process; found once, and known to its forks."""
    from mmgevent.machine.cgroups import ControlGroups

    return ControlGroups()


def _count_affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux; or a sandbox forbids the call
        return os.cpu_count() or 1


def collect_garbage_rarely() -> None:
    """Look for cycles rarely in this process, an engine, from now on.

    At Python's usual thresholds that is a twentieth of what it does when tasks are short: it remembers some
    objects for each task, and they are looked at again and again.
    """
    gc.set_threshold(*GC_THRESHOLDS)


def descriptor_limit() -> int:
    """Return how many descriptors this process may have; what every system allows where it does not say."""
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a sandbox forbids the question
        return USUAL_DESCRIPTORS
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Use as many descriptors as the system allows: a link is one, an executor four."""
    with contextlib.suppress(OSError, ValueError):  # a sandbox forbids it, or the kernel has a lower bound
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
