"""End the process when its hub has been blocked for too long.

A server that hangs keeps its address, so nobody else can become the server; only its
death frees it.  A native thread counts, once a second, whether the hub came round
meanwhile.  It counts its own rounds, not the clock: a process that was stopped for an
hour and goes on has not been blocked.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import gevent

from mmgevent.machine.resources import start_thread

BLOCKED_ROUNDS = 30  #: seconds, while the machine lets the thread run
EXIT_CODE = 70


_watched: set[int] = set()  # ids of processes: a fork has no threads of its parent's


def start_watchdog() -> None:
    """Watch this thread's hub until the process ends; the first call of a process counts."""
    if os.getpid() in _watched:
        return
    _watched.add(os.getpid())
    beats = [0]

    def beat() -> None:
        while True:
            beats[0] += 1
            gevent.sleep(0.5)

    gevent.spawn(beat)
    start_thread(threading.Thread(target=_watch, args=(beats,), name="mmgevent-watchdog", daemon=True))


def _watch(beats: list[int]) -> None:
    seen, rounds = -1, 0
    while rounds < BLOCKED_ROUNDS:
        time.sleep(1.0)
        rounds = rounds + 1 if beats[0] == seen else 0
        seen = beats[0]
    sys.stderr.write(f"mmgevent: the engine has been blocked for {BLOCKED_ROUNDS} s and ends\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)
