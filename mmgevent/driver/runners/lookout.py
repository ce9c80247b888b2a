"""Look for reports of map tasks while the job's thread reads the datasource, which may wait for long.

Without it a job that has failed would go on until the datasource gives the next item.  One thread
at a time has the turn: the job's thread, or this one while the other is in the datasource.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self, TypeVar

from mmgevent.driver.runners.runner import LOOK_S
from mmgevent.errors import StartError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread

log = get_log(__name__)

T = TypeVar("T")


class Lookout:
    """Calls `look` every LOOK_S while the job's thread is in `call`.  A context of that thread.

    Its own thread starts with the first `call`.
    """

    def __init__(self, look: Callable[[], None], on_error: Callable[[Exception], None]):
        """`on_error(error)` is called in the other thread, with what `look()` has raised. It is the last call."""
        self._look = look
        self._on_error = on_error
        self._turn = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._turn.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def call(self, read: Callable[[], T]) -> T:
        """Return `read()`, and look meanwhile.  Raises what `look()` has raised, once `read` has returned."""
        self._start()
        self._turn.release()
        try:
            found = read()
        finally:
            self._turn.acquire()
        if self._error is not None:
            raise self._error
        return found

    def _start(self) -> None:
        if self._thread is not None:
            return
        name = f"{threading.current_thread().name}-lookout"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            start_thread(self._thread)
        except StartError as error:  # then the job's thread finds out at the next item
            log.debug("%s: %s", name, error)

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_S):
            if not self._turn.acquire(blocking=False):
                continue  # the job's thread takes reports itself
            try:
                self._look()
            except Exception as error:  # raised in the job's thread, too
                self._error = error
                break
            finally:
                self._turn.release()
        if self._error is not None:
            self._on_error(self._error)
