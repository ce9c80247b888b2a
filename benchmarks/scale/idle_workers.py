"""Play many idle workers in one process: `python -m benchmarks.scale.idle_workers PORT COUNT [AT_ONCE]`.

Each is a link over TLS of its own, made and kept by the code that real workers use (`mmgevent.engine.net`), which answers
heartbeats; there are no executors. What it is told on stdin, and says on stdout:

    (nothing)   "joined COUNT SECONDS" once the server has greeted every one
    leave       they say that they are leaving, so that they get no tasks; "left"
    report      "alive COUNT": links that are open
    end         closes all and ends
"""

from __future__ import annotations

import os
import sys
import time

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.pool import Pool

from mmgevent.access.handshake import derive_key
from mmgevent.engine.net import tls
from mmgevent.engine.net.socket_link import SocketLink
from mmgevent.machine.resources import raise_descriptor_limit
from mmgevent.wire.frames import CONTROL, Frame
from mmgevent.wire.hello import dill_version, hello
from mmgevent.wire.messages import control, decode_message

HOST = "127.0.0.1"
AT_ONCE = 16
JOIN_S = 60.0


class IdleWorker:
    """A worker that does nothing but be there."""

    def __init__(self, number: int):
        self.number = number
        self.greeted = Event()
        self.link: SocketLink | None = None

    def join(self, port: int, key: bytes) -> None:
        """Connect, prove the password, say hello, and wait for the server's."""
        sock = tls.connect((HOST, port), key, "worker", JOIN_S)
        self.link = SocketLink(sock, f"idle {self.number}")
        self.link.start(self._on_frame, self._on_close)
        self.link.send(
            hello(
                "worker",
                dill=dill_version(),
                slots=1,
                offers=[],
                name=f"idle/{os.getpid()}/{self.number}",
            )
        )
        if not self.greeted.wait(JOIN_S):
            raise TimeoutError(f"idle worker {self.number} was not greeted in {JOIN_S:g} s")

    @property
    def is_alive(self) -> bool:
        return self.link is not None and not self.link.is_closed

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == CONTROL and decode_message(frame.payload)["type"] == "hello":
            self.greeted.set()

    def _on_close(self, reason: str) -> None:
        print(f"idle worker {self.number} was cut off: {reason}", file=sys.stderr, flush=True)


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    at_once = int(sys.argv[3]) if len(sys.argv) > 3 else AT_ONCE
    raise_descriptor_limit()
    key = derive_key(os.environ["MMG_PASSWORD"])
    workers = [IdleWorker(number) for number in range(count)]
    pool = Pool(at_once)
    started_s = time.perf_counter()
    joins = [pool.spawn(worker.join, port, key) for worker in workers]  # waits while the pool is full
    gevent.joinall(joins, raise_error=True)
    print(f"joined {count} {time.perf_counter() - started_s:.6f}", flush=True)
    for line in FileObject(sys.stdin.fileno(), "r", close=False):
        if line.strip() == "leave":
            for worker in workers:
                if worker.link is not None:
                    worker.link.send(control("leaving"))
            print("left", flush=True)
        elif line.strip() == "report":
            print(f"alive {sum(worker.is_alive for worker in workers)}", flush=True)
        elif line.strip() == "end":
            break
    os._exit(0)  # the system closes ten thousand sockets faster than we do


if __name__ == "__main__":
    main()
