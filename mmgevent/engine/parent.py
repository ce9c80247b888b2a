"""Notice the end of the process that started an engine.

Mostly its socket ends first. But a child of that process may still have the socket open.
"""

from __future__ import annotations

import os
from typing import Any

import gevent

from mmgevent.machine.resources import open_process

#: Time between two looks at whether the driver still runs, seconds, on systems that do not report
#: its end. Mostly the end of its socket is seen first.
PARENT_LOOK_S = 0.5


def watch_parent(parent: int, ended: Any) -> None:
    """Set `ended` when the parent ends, even if another process has its socket open."""
    # False if it has ended, or if the program in MMG_PYTHON is our parent.
    is_child = os.getppid() == parent
    try:
        fd = open_process(parent)
    except ProcessLookupError:
        ended.set()
        return
    if fd is None:
        while not _has_ended(parent, is_child):
            gevent.sleep(PARENT_LOOK_S)
    elif not _has_ended(parent, is_child):
        hub = gevent.get_hub()
        hub.wait(hub.loop.io(fd, 1))
    ended.set()


def _has_ended(parent: int, is_child: bool) -> bool:
    if is_child:
        return os.getppid() != parent
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it has become another user's
        pass
    return False
