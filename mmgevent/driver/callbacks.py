"""Calls of a program's own functions, in threads of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mmgevent.machine.logs import get_log

log = get_log(__name__)


def call_back(what: str, function: Callable[..., object], *args: Any) -> None:
    """Call a function of the program's. Whatever it raises is logged, and nothing else happens.

    That includes `sys.exit`, which would end no more than the thread, and so hang whoever waits for
    it. The main thread is the program's own: Ctrl-C and `sys.exit` pass there.
    """
    try:
        function(*args)
    except BaseException as error:
        if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
            raise
        log.exception("%s failed: %r", what, function)
