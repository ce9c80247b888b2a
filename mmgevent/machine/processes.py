"""What another process does now, as Linux tells it in /proc."""

from __future__ import annotations

import os
from typing import NamedTuple

# Positions in /proc/PID/stat, counted from the state, which follows the name (proc(5)).
_STATE, _PARENT, _USER_TICKS, _SYSTEM_TICKS = 0, 1, 11, 12


class Look(NamedTuple):
    """What a process did at one moment."""

    state: str  #: letter of proc(5), such as R, S, D, T
    cpu_s: float  #: CPU time that it has used, seconds, in steps of 10 ms


def look_at(pid: int) -> Look | None:
    """Return what a process does; None if it has ended, or if the system does not say."""
    fields = _read_stat(pid)
    if fields is None:
        return None
    ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    return Look(fields[_STATE].decode("ascii"), ticks / os.sysconf("SC_CLK_TCK"))


class Usage(NamedTuple):
    """What a process has used."""

    cpu_s: float  #: CPU time, with that of its children that have ended, seconds
    memory_bytes: int  #: memory in RAM; pages that it shares with others count, too


def usage_of(pid: int) -> Usage | None:
    """Return what a process has used; None if it has ended."""
    import psutil  # only while somebody looks

    try:
        process = psutil.Process(pid)
        return Usage(sum(process.cpu_times()[:4]), process.memory_info().rss)
    except psutil.Error:
        return None


def handles_signal(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal; False if the system does not say."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            caught = next(line for line in file if line.startswith(b"SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def blocks_signal(pid: int, number: int) -> bool:
    """Return whether all threads of a process block a signal; False if the system does not say."""
    try:
        masks = [
            _read_mask(f"/proc/{pid}/task/{thread}/status") for thread in os.listdir(f"/proc/{pid}/task")
        ]
    except (OSError, StopIteration):  # a thread has ended, or the process
        return False
    return all(mask >> (number - 1) & 1 for mask in masks)


def _read_mask(path: str) -> int:
    """Return the signals that a thread blocks, a bit each."""
    with open(path, "rb") as file:
        line = next(line for line in file if line.startswith(b"SigBlk:"))
    return int(line.split()[1], 16)


def find_parent(pid: int) -> int | None:
    """Return the parent of a process; None if it has ended, or if the system does not say."""
    fields = _read_stat(pid)
    return None if fields is None else int(fields[_PARENT])


def _read_stat(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()  # the name may contain anything, even ")"
    except OSError:
        return None
