"""Remember which names stayed behind, so that an executor can say why one is missing.

Executors run one job, so one table is enough; in other processes it is empty.
"""

from __future__ import annotations

from typing import Any

#: {module: {name: why it is not here}}.
_reasons: dict[str, dict[str, str]] = {}

#: Why the last attribute that a job's module lacks is missing. `pickle` drops the text of an
#: AttributeError.
_last: list[str] = []


def remember(left: dict[str, dict[str, str]], unused: dict[str, list[str]]) -> None:
    """Note which names stayed behind, and why, and which nothing was seen to use."""
    _reasons.clear()
    for module, names in unused.items():
        why = {name: _not_seen(module, name) for name in names}
        _reasons.setdefault(module, {}).update(why)
    for module, reasons in left.items():
        _reasons.setdefault(module, {}).update(reasons)


def _not_seen(module: str, name: str) -> str:
    return (
        f"the global {name!r} of {module} did not travel: no function of the job names it. "
        f"Name it in the function that needs it (a line `{name}` will do)"
    )


def note(module: str, name: str, reason: str) -> None:
    """Add a name that did not load."""
    _reasons.setdefault(module, {})[name] = reason


def attribute_reason(module: str, name: str) -> str | None:
    """Return why a job's module lacks an attribute, or None if it never had it.

    Remember the answer.
    """
    reason = _reasons.get(module, {}).get(name)
    _last[:] = [] if reason is None else [reason]
    return reason


def last_reason() -> str | None:
    """Return the last answer of `attribute_reason`, and forget it."""
    return _last.pop() if _last else None


def explain(error: BaseException) -> str | None:
    """Return why the name in an exception is missing, or None if the job never had it."""
    if isinstance(error, AttributeError) and error.name is None:  # pickle raised it
        return last_reason()
    if isinstance(error, (NameError, AttributeError)) and not isinstance(error, UnboundLocalError):
        reason = _find(error.name)
        return None if reason is None or reason in str(error) else reason
    if isinstance(error, KeyError) and error.args:  # globals() raised it, or any other dict
        reason = _find(error.args[0])
        return None if reason is None else f"if a global is meant: {reason}"
    return None


def _find(name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    return next((reasons[name] for reasons in _reasons.values() if name in reasons), None)
