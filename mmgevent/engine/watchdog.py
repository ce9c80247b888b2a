"""End the process when its hub has been blocked for too long.

A server that hangs keeps its address, so no other process can become the server until it dies. A
native thread looks once a second whether the hub has run. It counts its own rounds instead of the
time: a process that was stopped for an hour, and goes on, was not blocked.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import gevent

from mmgevent.engine.greenlets import end_process, spawn
from mmgevent.machine.resources import start_thread

#: Rounds, of a second each, in which the hub may be blocked.
BLOCKED_ROUNDS = 30

#: Time between two signs of life of the hub, seconds. It is less than a round.
BEAT_S = 0.5

#: Exit code of a process that was blocked: EX_SOFTWARE, as for other faults of our own.
EXIT_CODE = 70

#: Processes whose hub is watched. A fork has a new id, and none of its parent's threads.
_watched: set[int] = set()


def start_watchdog() -> None:
    """Watch this thread's hub until the process ends. Only the first call in a process counts.

    Raises StartError if there can be no thread.
    """
    if os.getpid() in _watched:
        return
    _watched.add(os.getpid())
    beats = [0]

    def beat() -> None:
        while True:
            beats[0] += 1
            gevent.sleep(BEAT_S)

    spawn(end_process, beat)
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
