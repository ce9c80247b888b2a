"""What this machine has that we may use, and how this process uses it: cores, memory, descriptors."""

from __future__ import annotations

import gc
import os
import resource

#: how long a wait of a thread goes on without a look. The system may hand a signal to a thread that cannot act on it,
#: and Python does not wake its main thread for it: Ctrl-C would wait for whatever the main thread waits for
SIGNAL_LOOK_S = 0.25
#: of an engine, as `gc.set_threshold` takes them
GC_THRESHOLDS = (20_000, 50, 50)


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory_bytes() -> int:
    """Return the bytes of RAM."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def collect_garbage_rarely() -> None:
    """Look for cycles rarely in this process, an engine, from now on.

    At Python's usual thresholds that is a twentieth of what it does when tasks are short: it remembers some
    objects for each task, and they are looked at again and again.
    """
    gc.set_threshold(*GC_THRESHOLDS)


def raise_descriptor_limit() -> None:
    """Use as many descriptors as the system allows: a link is one, an executor four."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
