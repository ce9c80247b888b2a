"""What to report of an executor that died under an attempt: cause, item, advice."""

from __future__ import annotations

import os
import signal
from typing import Any, Protocol

from mmgevent import real_modules
from mmgevent.engine.worker.exits import Exit
from mmgevent.engine.worker.job_limits import LimitedJob
from mmgevent.executor.status_page import Position
from mmgevent.machine.resources import find_control_groups
from mmgevent.wire import failures
from mmgevent.wire.positions import entry_of

#: Share of its memory limit at which an unexplained death counts as out of memory.
OUT_OF_MEMORY_SHARE = 0.9

#: Beginnings of faulthandler's lines for frames of this package, and of the program that a template
#: runs.
_OUR_FRAMES = (
    f'  File "{os.path.join(real_modules.ROOT, "mmgevent")}{os.sep}',
    '  File "<string>", line 1 in <module>',
)

_OOM_ADVICE = (
    "Nothing of mmgevent killed it. If the machine ran out of memory, its kernel did: "
    "the option memory_limit, or fewer slots (--procs), would say so earlier."
)

_CONTAINER_ADVICE = (
    "Executors, driver and engine share that memory with all else in the container: give it more, use fewer slots "
    "(--procs), or let the function keep less."
)

_LEFT_ADVICE = (
    "It left by os._exit(0), or it closed descriptors that are not its own, and so its link to the worker."
)


_CALL_ADVICE = "If no item is at fault: a call of fewer items (items_per_call) takes less time and memory."


class RunAttempt(Protocol):
    """What the report needs of the attempt that ran."""

    @property
    def number(self) -> int: ...

    @property
    def is_map(self) -> bool: ...

    @property
    def job(self) -> LimitedJob: ...

    @property
    def only_item(self) -> int | None:
        """The position of the only item of a map attempt, or None if it has several."""


class DeadExecutor(Protocol):
    """What the report needs of the executor. Our worker and the box (`box.boxed`) have such."""

    #: "timeout" or "memory" if it was killed for a limit of its job
    broken_limit: str | None
    #: why it was killed; None if it was not
    kill_cause: str | None
    #: processes that the kernel had killed for lack of memory when it started
    memory_kills_before: int

    def position(self) -> Position:
        """Return where it was when it died."""

    def last_words(self) -> str:
        """Return the end of what it printed."""


def judge_death(
    executor: DeadExecutor, exit_: Exit, attempt: RunAttempt, worker: str
) -> tuple[dict[str, Any], int | None, bool]:
    """Return (failure record, item, is divisible) for a death under `attempt`.

    The item is the position of the one to blame, or None if it is not known. The attempt is
    divisible if runs over some of its items may show which one that is.
    """
    position = executor.position()
    has_begun = position.attempt == attempt.number
    kind, error, advice = _find_cause(executor, exit_, attempt)
    function = "mapfn" if attempt.is_map else "reducefn"
    # If several items ran at once, the oldest one has taken too long, but any may have crashed.
    is_known = has_begun and (position.is_alone or kind == "timeout")
    item = position.item if is_known and attempt.is_map else None
    key = position.key if is_known else None
    if position.is_setup:
        function = "setupfn"
    elif not has_begun:
        error += ", while it loaded the job's functions"
    elif attempt.is_map and item is None:
        error += _describe_unknown(position, kind)
        if position.call is not None and advice is None:
            advice = _CALL_ADVICE
    is_divisible = has_begun and attempt.is_map and item is None and is_of_several(position)
    if item is None and has_begun and not is_divisible:
        item = attempt.only_item
    failure = {
        "kind": kind,
        "function": function,
        "key": key,
        "item": None if item is None else entry_of(item),
        "error": error,
        "advice": advice,
        "last_words": drop_our_frames(executor.last_words()) or None,
        "worker": worker,
        "exit": str(exit_),
        "peak_bytes": exit_.maxrss_kb * 1024 or None,
    }
    failure = {name: value for name, value in failure.items() if value is not None}
    return failures.bound(failure), item, is_divisible


def _describe_unknown(position: Position, kind: str) -> str:
    """Return where an executor was whose item is not known, as the end of a sentence."""
    if position.call is not None:
        return f": {position.call}" if kind == "timeout" else f", in {position.call}"
    return ", while it was on several items" if position.item is not None else ", between items"


def is_of_several(position: Position) -> bool:
    """Return whether the executor was on several items."""
    return position.is_of_several or (position.item is not None and not position.is_alone)


def describe_place(executor: DeadExecutor, attempt: RunAttempt, worker: str) -> str:
    """Return in words where an executor is now, as far as that is known."""
    function = "mapfn" if attempt.is_map else "reducefn"
    position = executor.position()
    key = position.key if position.attempt == attempt.number and position.is_alone else None
    return f"{function}{'' if key is None else f' at {key}'} on {worker}"


def drop_our_frames(text: str) -> str:
    """Remove the frames of this package from what faulthandler printed at a crash."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_OUR_FRAMES))


def _find_cause(executor: DeadExecutor, exit_: Exit, attempt: RunAttempt) -> tuple[str, str, str | None]:
    """Return kind, error and advice of a death."""
    job = attempt.job
    limit = job.memory_limit_bytes
    used = f"{exit_.maxrss_kb / 1024:.0f} MiB"
    if executor.broken_limit == "timeout" and executor.position().is_setup:
        return "timeout", f"it took longer than setup_timeout, {job.setup_timeout_s:g} s", None
    if executor.broken_limit == "timeout":
        return (
            "timeout",
            f"one {_unit(executor, attempt)} took longer than task_timeout, {job.task_timeout_s:g} s",
            None,
        )
    if executor.broken_limit == "memory" or (
        limit is not None
        and exit_.maxrss_kb * 1024 >= OUT_OF_MEMORY_SHARE * limit
        and executor.kill_cause is None
    ):
        return (
            "memory",
            f"out of memory: it had used {used} of memory_limit, {(limit or 0) >> 20} MiB ({exit_})",
            None,
        )
    if exit_.template is not None:
        return "died", f"the process that forks executors ended: {exit_.template}", None
    if exit_.status is None:
        return "lost", f"the executor was lost: {exit_}", None
    if executor.kill_cause is not None:
        return "died", f"the executor was killed: {executor.kill_cause}", None
    advice = None
    if os.WIFSIGNALED(exit_.status) and os.WTERMSIG(exit_.status) == signal.SIGKILL:
        groups = find_control_groups()
        container_limit = groups.limits.memory_bytes
        if (groups.count_memory_kills() or 0) > executor.memory_kills_before:
            where, advice = "this machine", _OOM_ADVICE
            if container_limit is not None:
                where, advice = (
                    f"its container (control group), {container_limit >> 20} MiB",
                    _CONTAINER_ADVICE,
                )
            error = (
                f"out of memory: the kernel killed it at the limit of {where}; it had used {used} ({exit_})"
            )
            return "memory", error, advice
        advice = f"{_OOM_ADVICE} It had used {used}."
        if container_limit is not None:
            advice += f" Its container (control group) may have {container_limit >> 20} MiB in all."
    elif exit_.status == 0:
        advice = _LEFT_ADVICE
    return "died", f"the executor died: {exit_}", advice


def _unit(executor: DeadExecutor, attempt: RunAttempt) -> str:
    if not attempt.is_map:
        return "key"
    return "item" if executor.position().call is None else "call"
