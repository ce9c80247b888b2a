"""The process of an engine: how it starts."""

import os
import socket
import subprocess
import sys

from mmgevent.engine.configuration import Configuration
from mmgevent.wire.frames import CONTROL, Frame

#: an engine that says how it stands with garbage instead of speaking with its driver
PROGRAM = """
import gc
gc.disable()  # as all engines start
from mmgevent.engine import process as engine
def say(self, sock):
    print(gc.isenabled(), gc.get_freeze_count() > 10_000, flush=True)
    self.ended.set()
engine.Engine.serve_driver = say
engine.main(None)
"""


def test_an_engine_that_is_ready_collects_garbage_but_not_what_it_imported():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(Frame(CONTROL, Configuration(procs=0).encode()).encode())
        command = [sys.executable, "-c", PROGRAM, "--parent", str(os.getpid()), "--fds", str(theirs.fileno())]
        ended = subprocess.run(
            command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True, timeout=60, check=True
        )
    assert ended.stdout == "True True\n"


def test_a_configuration_arrives_as_it_was_sent():
    sent = Configuration(
        procs=2,
        listen=("::1", 5000),
        elect=[("a", 1), ("b", 2)],
        offers=["square"],
        password="secret",
        memory_bytes=1 << 40,
        verbose=2,
    )
    assert Configuration.decode(sent.encode()) == sent
    assert "secret" not in repr(sent)
