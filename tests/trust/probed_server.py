"""mmg-server with a probe: whoever connects to a Unix socket is told what the server holds.

    $ python -m tests.trust.probed_server SOCKET server --listen 127.0.0.1:0 ...

The probe is a greenlet of the server's own hub, so its figures are of one moment. `ask` reads them.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import json
import os
import socket as sockets
import sys
import threading
from pathlib import Path
from typing import Any

import gevent
import gevent.threadpool
import greenlet
import psutil
from gevent import socket

from mmgevent.cli.exits import leave, run_command
from mmgevent.cli.server import NAME, run
from mmgevent.engine.server.role import ServerRole

#: Types of objects named in a thorough answer.
MOST_TYPES = 15


def find_server() -> ServerRole:
    return next(thing for thing in gc.get_objects() if type(thing) is ServerRole)


def holdings(server: ServerRole) -> dict[str, int]:
    """Return what a server that has no jobs and no peers holds none of."""
    conductor = server.conductor
    jobs = conductor.jobs
    return {
        "jobs": len(jobs),
        "attempts": len(conductor.attempts),
        "links": len(server._peers),
        "workers": sum(1 for _ in conductor.workers),
        "slots": conductor.workers.slot_count,
        "segment bytes": jobs.memory.used_bytes,
        "batch bytes": jobs.intake.held_bytes,
        "code bytes": jobs._code_intake.held_bytes,
    }


def give_back_free_memory() -> None:
    """Have the allocator of C return what it keeps for later, so that only what is in use is counted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def describe(thing: greenlet.greenlet) -> str:
    """Return where a greenlet waits, innermost function first."""
    frame, functions = thing.gr_frame, []
    while frame is not None:
        functions.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return f"{type(thing).__name__}: {' < '.join(functions)}"


def thorough() -> dict[str, Any]:
    """Return what a process has too much of when something is not let go; takes 0.1 s."""
    gc.collect()
    give_back_free_memory()
    objects = gc.get_objects()
    types = collections.Counter(type(thing).__name__ for thing in objects)
    greenlets = [thing for thing in objects if isinstance(thing, greenlet.greenlet) and not thing.dead]
    pooled = [thing for thing in greenlets if isinstance(thing, gevent.threadpool._WorkerGreenlet)]
    of_pool = {id(each) for thing in pooled for each in (thing, thing.parent)}
    greenlets = [thing for thing in greenlets if id(thing) not in of_pool]
    process = psutil.Process()
    return {
        "objects": len(objects),
        "greenlets": len(greenlets),
        "pool threads": len(pooled),  # begun one by one as they are needed, up to a bound of gevent's own
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
        "files": sum(bool(each.path) for each in process.open_files()),
        "resident MiB": round(process.memory_info().rss / 2**20, 1),
        "types": dict(types.most_common(MOST_TYPES)),
        "where greenlets wait": dict(collections.Counter(map(describe, greenlets))),
    }


def answer_all(listener: socket.socket) -> None:
    server = None
    while True:
        asker, _ = listener.accept()
        with asker:
            if server is None:
                server = find_server()
            question = asker.recv(1)
            answer: dict[str, Any] = holdings(server)
            if question == b"t":
                answer |= thorough()
            asker.sendall(json.dumps(answer).encode())


def ask(path: str | Path, *, thoroughly: bool = False) -> dict[str, Any]:
    """Return what the server at a socket holds."""
    with sockets.socket(sockets.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"t" if thoroughly else b"q")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    answer: dict[str, Any] = json.loads(data)
    return answer


def main() -> None:
    path, _, *argv = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    gevent.spawn(answer_all, listener)
    try:
        leave(run_command(NAME, run, argv))
    finally:
        os.unlink(path)


if __name__ == "__main__":
    main()
