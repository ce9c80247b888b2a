"""The Python stack of an executor that runs, without ending or even pausing it.

The executor has a handler of faulthandler for a real-time signal: it writes the stacks of all
threads behind the status page, even while a C call holds the interpreter. A signal that nobody
handles would end the process. So it is sent only if the system says that it is handled: user code
may have replaced the handler, or the process may have become another program.
"""

from __future__ import annotations

import os
from time import monotonic

import gevent

from mmgevent.engine.worker.deaths import drop_our_frames
from mmgevent.engine.worker.supervisor import Supervisor
from mmgevent.errors import MmgeventError
from mmgevent.executor.status_page import STACK_AREA_BYTES, STACK_SIGNAL
from mmgevent.machine.processes import blocks_signal, handles_signal

#: Time for an executor to write its stack, seconds. It is stopped, or blocks signals, if it takes
#: longer.
WRITE_S = 5.0

#: Pause between two looks at what it has written, seconds. If nothing came in between, it is whole.
LOOK_S = 0.05

#: Room that must be left for a stack, bytes: a hundred frames in some threads.
LEAST_ROOM_BYTES = 32 * 1024


def read_stack(executor: Supervisor) -> str:
    """Return the Python stack of an executor now (blocks for up to WRITE_S).

    Raises MmgeventError if that is impossible; the message says why.
    """
    pid = executor.pid
    known = len(executor.stacks())
    if STACK_SIGNAL is None or pid is None:
        raise MmgeventError("this system cannot be asked for the stack of an executor")
    if known > STACK_AREA_BYTES - LEAST_ROOM_BYTES:
        raise MmgeventError(f"the stack of process {pid} was read too often: no room is left for another")
    if not handles_signal(pid, STACK_SIGNAL):
        raise MmgeventError(
            f"process {pid} does not handle signal {STACK_SIGNAL}, on which it would write its stack: it "
            f"has just started, or the job's code replaced the handler"
        )
    if blocks_signal(pid, STACK_SIGNAL):  # it would write its stack when nobody waits any more
        raise MmgeventError(
            f"process {pid} blocks signal {STACK_SIGNAL}, on which it would write its stack: the job's code, "
            f"or a library, blocks signals there. Python 3.14's pdb attaches without a signal"
        )
    os.kill(pid, STACK_SIGNAL)
    until_s = monotonic() + WRITE_S
    seen = known
    while monotonic() < until_s:
        gevent.sleep(LOOK_S)
        if executor.pid is None:
            raise MmgeventError(f"process {pid} ended meanwhile")
        written = executor.stacks()
        if len(written) == seen > known:
            return drop_our_frames(written[known:].decode("utf-8", "replace"))
        seen = len(written)
    why = (
        "it blocks signals"
        if blocks_signal(pid, STACK_SIGNAL)
        else "it is stopped, or in a call of the system"
    )
    raise MmgeventError(f"process {pid} wrote no stack in {WRITE_S:g} s: {why}")
