"""Death records: what the server sends a driver when an executor or worker of its job died.

A death record is the failure record of the death, with the task that ran and with the outcome: what
is done about it. Only the server knows the outcome, from the commands with which the scheduler
answers the death. `wire.deaths` lists the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmgevent.engine.scheduler import commands
from mmgevent.engine.server.attempts import HostedAttempt
from mmgevent.engine.server.workers import Workers

#: Fields of a worker's failure record that go to the driver. With what is added they fit a frame.
_STRINGS = ("kind", "function", "key", "error", "advice", "last_words", "worker", "exit")
_NUMBERS = ("item", "peak_bytes")

#: Attempts of a lost worker that a record names. More would not fit a line.
MAX_NAMED = 8


def record_death(
    failure: Mapping[str, Any],
    attempts: Iterable[HostedAttempt],
    made: Iterable[commands.Command],
    workers: Workers,
) -> dict[str, Any]:
    """Return the record of a death under these attempts of one job.

    `made`: the commands with which the scheduler answered the death.
    """
    attempts = list(attempts)
    record = {name: failure[name] for name in _STRINGS if type(failure.get(name)) is str}
    record.update({name: failure[name] for name in _NUMBERS if type(failure.get(name)) is int})
    named = [describe_task(attempt) for attempt in attempts[:MAX_NAMED]]
    if len(attempts) > MAX_NAMED:
        named.append(f"{len(attempts) - MAX_NAMED} more")
    record["task"] = "; ".join(named)
    record["outcome"], worker = _find_outcome(attempts, made)
    if workers.get(worker) is not None:
        record["retried_on"] = workers.name_of(worker)
    return record


def describe_task(attempt: HostedAttempt) -> str:
    """Return the name of an attempt's task in words that a user knows."""
    if not attempt.is_map:
        return f"reduce task {attempt.task}"
    if attempt.hi - attempt.lo == 1:
        return f"item {attempt.lo} of batch {attempt.batch}"
    return f"items {attempt.lo} to {attempt.hi - 1} of batch {attempt.batch}"


def _find_outcome(attempts: list[HostedAttempt], made: Iterable[commands.Command]) -> tuple[str, int]:
    """Return (outcome, worker): what is done about a death.

    The outcome is a word of `wire.deaths.OUTCOMES`. The worker is the one that has the first of the
    tasks now, or 0 if there is none.
    """
    job = attempts[0].job.number
    ranges = {attempt.task: (attempt.hi - attempt.lo, attempt.part) for attempt in attempts}
    outcome, worker = "waits", 0
    for command in made:
        if command.job != job:
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
