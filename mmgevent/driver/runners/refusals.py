"""What other engines cannot do, and what prevents a job from running there: one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmgevent.box.guest import versions
from mmgevent.errors import UsageError, VersionMismatchError
from mmgevent.job.job import Job


def refuse_elsewhere(job: Job[Any, Any], engine: str) -> None:
    """Raise UsageError for a job that only our own engine can run."""
    offered = job.functions().offered_names
    if offered:
        raise UsageError(
            f"the function {min(offered)!r} is given by name and offered by nodes, which {engine} does not have; "
            f"pass the function itself, or run the job on an mmg-server"
        )
    if job.options.allocation == "oneshot":
        raise UsageError(
            f'allocation="oneshot" gives each worker one item, and {engine} does not say which workers there are; '
            f"run the job on an mmg-server"
        )


def check_versions(theirs: Mapping[str, str], engine: str) -> None:
    """Raise VersionMismatchError unless `box.guest.versions()` of a worker is the same as here."""
    for what, ours in versions().items():
        if theirs.get(what) != ours:
            raise VersionMismatchError(
                f"the workers of {engine} have {what} {theirs.get(what)}, this driver has {what} {ours}: "
                f"install the same version on both sides"
            )


def missing_error(engine: str, advice: str = "") -> UsageError:
    """Return the error for workers that cannot import mmgevent.

    `advice`: another way to install it, which this engine has.
    """
    return UsageError(
        f"mmgevent is not installed in the Python of the workers of {engine}: "
        f"pip install mmgevent=={versions()['mmgevent']} there" + (f", {advice}" if advice else "")
    )
