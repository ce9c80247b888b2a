"""What every runner on another engine does before and after its tasks.

It packs the functions, claims the datasource, has a process try to load the code, and keeps the
books.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmgevent.driver.failures.set_aside import Found, Place
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.packing import pack_job
from mmgevent.driver.progress.progress import Progress
from mmgevent.driver.runners.accounts import Accounts
from mmgevent.driver.runners.refusals import refuse_elsewhere
from mmgevent.driver.runners.runner import LOOK_S, Record, Runner
from mmgevent.engine.start import start_error
from mmgevent.job.job import Job
from mmgevent.job.shipping.trial import Trial


class BoxedRunner(Runner):
    """One job whose tasks run in boxes of another engine's workers."""

    def __init__(
        self,
        job: Job[Any, Any],
        engine: str,
        *,
        is_local: bool,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        """`engine`: its name in messages.  `is_local`: whether all tasks run on this machine.

        Raises UsageError if something is wrong with the job.
        """
        super().__init__(job, on_progress, on_notice)
        self._feeder: Feeder | None = None
        self._check: Trial | None = None
        left: list[str] = []
        refuse_elsewhere(job, engine)
        self._packed = pack_job(job, left.append, self.plain, is_local=is_local, stays_here=is_local)
        for text in left:
            self.state.notice(text)
        self._feeder = Feeder(job, may_restart=False, on_notice=self.state.notice)
        self.state.input_total = self._feeder.total
        self._accounts = Accounts(self.state, job.options, self._feeder)
        try:
            self._check = Trial(self._packed.code)
        except OSError as error:
            raise start_error("the process that tries to load the job's code", error) from error

    def cancel(self) -> None:
        """Make `records` raise JobCancelled soon. Extend this. Idempotent."""
        super().cancel()
        assert self._feeder is not None
        self._feeder.stop()

    def close(self) -> None:
        """Release what belongs to a job that is over or never ran. Extend this. Idempotent."""
        if self._feeder is not None:
            self._feeder.close()
        if self._check is not None:
            self._check.cancel()

    def pack_code(self) -> bytes:
        """Return the payload that executors got."""
        return self._packed.code

    def find_item(self, batch: int, position: int) -> Record | None:
        """Return an item of the datasource if it can be read again at once, or None."""
        assert self._feeder is not None
        return self._feeder.find_item(batch, position)

    def read_again(self, places: list[Place]) -> Found:
        """Read items of the datasource again."""
        assert self._feeder is not None
        return self._feeder.read_again(places)

    def wait_for_check(self) -> None:
        """Wait until the code has loaded in a process of its own. See `Runner.wait_for_check`."""
        check = self._check
        if check is None:
            return
        while not check.is_over(LOOK_S):
            self.state.check_cancelled()
        self._check = None
        check.result()

    def _tell(self, phase: str, done: int, total: int | None, running: int, slots: int) -> None:
        self.state.report(
            Progress(
                phase=phase,
                done=done,
                total=total,
                waiting=max(0, running - slots),
                running=min(running, slots),
                workers=1,
                slots=slots,
                bytes=self._accounts.mapped_bytes,
                skipped=self.state.set_aside.count,
                items=self._accounts.items - self.state.set_aside.count,
                busy=min(running, slots),
                retries=self._accounts.retries,
                peak_bytes=self._accounts.peak_bytes or None,
            )
        )
