"""Death certificates: what the driver of a job is told of an executor or a worker that died under it.

A certificate is the failure record of the death, with the task that ran and with what was done about it, which only
the server knows: it is read off the commands that the scheduler answers the death with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mmgevent.engine.scheduler import commands
from mmgevent.wire.failures import shorten

if TYPE_CHECKING:
    from mmgevent.engine.server.hosted import Attempt
    from mmgevent.engine.server.peers import WorkerPeer

#: of a worker's failure record what goes on to the driver; with what is added it fits one message
_STRINGS = ("kind", "function", "key", "error", "advice", "last_words", "worker", "exit")
_NUMBERS = ("item", "peak_bytes")
#: attempts of a lost worker that are named
MAX_NAMED = 8


def certify(
    failure: Mapping[str, Any],
    attempts: Iterable[Attempt],
    made: Iterable[commands.Command],
    workers: Mapping[int, WorkerPeer],
) -> dict[str, Any]:
    """Return the certificate of a death under these attempts of one job; `made` is what the scheduler answered."""
    attempts = list(attempts)
    certificate = {name: failure[name] for name in _STRINGS if type(failure.get(name)) is str}
    certificate.update({name: failure[name] for name in _NUMBERS if type(failure.get(name)) is int})
    named = [describe_task(attempt) for attempt in attempts[:MAX_NAMED]]
    if len(attempts) > MAX_NAMED:
        named.append(f"{len(attempts) - MAX_NAMED} more")
    certificate["task"] = "; ".join(named)
    certificate["outcome"], worker = _find_outcome(attempts, made)
    if worker in workers:
        certificate["retried_on"] = shorten(workers[worker].link.name)
    return certificate


def describe_task(attempt: Attempt) -> str:
    """Name the task of an attempt as a user may know it."""
    if not attempt.is_map:
        return f"reduce task {attempt.task}"
    if attempt.hi - attempt.lo == 1:
        return f"item {attempt.lo} of batch {attempt.batch}"
    return f"items {attempt.lo} to {attempt.hi - 1} of batch {attempt.batch}"


def _find_outcome(attempts: list[Attempt], made: Iterable[commands.Command]) -> tuple[str, int]:
    """One of the words of `deaths.OUTCOMES`, and the number of the worker that has the first of the tasks now, or 0."""
    job = attempts[0].job.number
    ranges = {attempt.task: (attempt.hi - attempt.lo, attempt.part) for attempt in attempts}
    outcome, worker = "waits", 0
    for command in made:
        if getattr(command, "job", None) != job:
            continue
        if isinstance(command, commands.FailJob):
            return "failed", 0
        if isinstance(command, commands.ItemSkipped):
            return "set aside", 0
        if isinstance(command, commands.Assign) and command.task in ranges and not worker:
            worker = command.worker
            has_same = (command.hi - command.lo, command.part) == ranges[command.task]
            outcome = "retried" if has_same else "cut"
    return outcome, worker
