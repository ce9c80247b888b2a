"""What the stages of a chain may say, and how a job file lists them.

A chain is a Job whose `previous` is the Job of the stages before its own. Most options are a
stage's. Some are those of the whole job: they are given once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmgevent.errors import JobFileError, OptionError, UsageError
from mmgevent.job.options import JobOptions, check_name
from mmgevent.shown_text import shown

#: Most stages of one job. Each holds its packed functions, and a process that tries to load them.
MAX_STAGES = 100

#: Options that every stage has from the job, and no stage alone.
WHOLE_JOB = ("name", "results", "plain_classes", "py_files")

#: What a step of a job file may hold, beside its options.
STEP_FUNCTIONS = ("mapfn", "collectfn", "reducefn", "setupfn", "finishfn", "sort_values")

_FINISH_LAST = "finishfn runs at the end of the whole job, so it is an argument of the last stage"


def options_after(earlier: JobOptions, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a stage that follows others.

    Raise OptionError for one that is unknown, or that no stage behind the first may have.
    """
    for name in options:
        check_name(name)
        if name in WHOLE_JOB:
            raise OptionError(
                f"option {name} is of the whole job, not of one stage: give it to Job(..., {name}=...)"
            )
    check_follows(options.get("allocation"))
    return {name: getattr(earlier, name) for name in WHOLE_JOB} | dict(options)


def check_follows(allocation: str | None) -> None:
    """Raise OptionError if a stage with this allocation cannot follow another."""
    if allocation == "oneshot":
        raise OptionError(
            'allocation="oneshot" gives each worker one item and drops the others; it cannot be the '
            "option of a stage that gets the results of another"
        )


def check_stage_count(count: int) -> None:
    """Raise UsageError if a job would have too many stages."""
    if count > MAX_STAGES:
        raise UsageError(
            f"a job has at most {MAX_STAGES} stages, and this would be one more; run a job of each "
            f"round, with the results of the last one as its datasource"
        )


def check_no_finish(finishfn: Any) -> None:
    """Raise UsageError if a stage that others follow has a finishfn."""
    if finishfn is not None:
        raise UsageError(f"{_FINISH_LAST}: give it to the last then(..., finishfn=...)")


def read_steps(steps: Any, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of `Job` and `then` for the steps of a job file, without a datasource.

    A step is a dict of functions, and of `options` for this step alone. `options` are those of the
    file: each holds for every step that has no other.

    Raise UsageError for what is no list of such dicts.
    """
    if not isinstance(steps, (list, tuple)) or not steps:
        raise UsageError(
            f'steps must be a list of dicts such as [{{"mapfn": f, "reducefn": g}}, ...]; got {_show(steps)}'
        )
    arguments = []
    for number, step in enumerate(steps, 1):
        try:
            arguments.append(_read_step(step, options, is_first=number == 1, is_last=number == len(steps)))
        except UsageError as error:
            raise UsageError(f"step {number}: {error}") from None
    return arguments


def add_stages(job: Any, stages: Iterable[dict[str, Any]], path: str) -> Any:
    """Return the job of a job file with its further stages, of which `read_stages` gave the arguments.

    Raise JobFileError for one that cannot follow.
    """
    for number, stage in enumerate(stages, 2):
        try:
            job = job.then(**stage)
        except UsageError as error:
            raise JobFileError(f"job file {shown(path)}: step {number}: {error}") from None
    return job


def _read_step(step: Any, options: Mapping[str, Any], *, is_first: bool, is_last: bool) -> dict[str, Any]:
    if not isinstance(step, Mapping):
        raise UsageError(f'expected a dict such as {{"mapfn": f, "reducefn": g}}; got {_show(step)}')
    known = (*STEP_FUNCTIONS, "options")
    for name in step:
        if name not in known:
            raise UsageError(_unknown_name(name, known))
    own = step.get("options", {})
    if not isinstance(own, Mapping) or not all(isinstance(name, str) for name in own):
        raise UsageError(f'options must be a dict such as {{"retries": 2}}; got {_show(own)}')
    for name in own:
        check_name(name)
        if name in WHOLE_JOB:
            raise OptionError(f"option {name} is of the whole job: put it into the options of the file")
    if not is_last and step.get("finishfn") is not None:
        raise UsageError(f"{_FINISH_LAST}: put it into the last step")
    given = {name: value for name, value in options.items() if is_first or name not in WHOLE_JOB}
    return {name: step.get(name) for name in STEP_FUNCTIONS} | given | dict(own)


def _unknown_name(name: Any, known: Iterable[str]) -> str:
    import difflib

    if name == "datasource":
        return (
            "the first step reads the datasource of the file, and the others read what the one before gives"
        )
    if name in JobOptions.__dataclass_fields__:
        return f'{name} is an option: write "options": {{"{name}": ...}}'
    nearest = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"it may hold {', '.join(known)}"
    return f"unknown name {_show(name)}; {hint}"


def _show(value: Any) -> str:
    return shown(repr(value), max_line_chars=60)
