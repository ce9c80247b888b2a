"""A cluster that misbehaving jobs run on, and what must hold after each of them."""

import os
import time
import uuid

import psutil

import mmgevent as mmg

#: for what must happen at once, on a machine however busy
PATIENCE_S = 60.0
_MARK = "MMGEVENT_TESTED_BY"
NEXT_ITEMS = [(n, n) for n in range(20)]


def wait_until(condition, timeout_s=PATIENCE_S):
    """Look until it holds, and return what it gave: what other processes do has no event here."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.005)
    return found


class Watched:
    """A LocalCluster whose processes, and whatever comes of them, can be found."""

    def __init__(self, procs=2, **kwargs):
        before = os.environ.get(_MARK)
        self._mark = os.environ[_MARK] = uuid.uuid4().hex
        try:
            self.cluster = mmg.LocalCluster(procs, **kwargs)
        finally:
            del os.environ[_MARK]
            if before is not None:
                os.environ[_MARK] = before
        self.engine = psutil.Process(self.cluster._engine.pid)
        self.wait_for_workers(1)

    def wait_for_workers(self, count):
        """Wait until so many are there, which must all be there after each job."""
        self._workers = wait_until(lambda: len(found := self.cluster.workers()) == count and found)

    def submit(self, *args, **options):
        """Submit a job of these; its notices are in `handle.notices`."""
        notices = []
        handle = self.cluster.submit(mmg.Job(*args, **options), on_notice=notices.append)
        handle.notices = notices
        return handle

    def left(self):
        """Processes of the cluster besides engine and templates."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get(_MARK) == self._mark
                    and process != self.engine
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.name() != "mmg-template"
                ):
                    found.append(process)
            except psutil.Error:
                continue  # it ended just now, or is another user's
        return found

    def check(self):
        """Server and worker live, nothing is left of the job before, and the next one is right."""
        assert self.cluster._engine.pid == self.engine.pid
        assert self.engine.is_running()
        assert self.cluster.workers() == self._workers
        wait_until(lambda: not self.left())
        handle = self.submit(NEXT_ITEMS, lambda k, v: [(k % 3, v)], lambda k, values: sum(values))
        assert handle.result(PATIENCE_S) == {r: sum(range(r, 20, 3)) for r in range(3)}
        assert handle.deaths() == []
        assert handle.notices == []

    def close(self):
        self.cluster.close()
        wait_until(lambda: not self.left())
