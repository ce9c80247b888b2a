"""Whether the terms of a job fit together: what its driver's `submit` says of it.

The server checks them once, before anything of the job is kept.  Whatever is wrong rejects that job
by name; the link of its driver stays, which other jobs share.  Nothing that passes can make a
worker break off: a worker that gets an assignment which it cannot do fails that attempt.
"""

from __future__ import annotations

import json
from typing import Any

from mmgevent.engine.scheduler.rules import JobRules
from mmgevent.errors import MmgeventError, OptionError
from mmgevent.job.options import JobOptions
from mmgevent.job.outputs import parts_plan
from mmgevent.machine.interpreter import GROUPS, are_flags
from mmgevent.wire.failures import shorten
from mmgevent.wire.limits import (
    MAX_CODE_BYTES,
    MAX_CONTEXT_BYTES,
    MAX_OPTIONS_BYTES,
    MAX_PARTITIONS,
    check_limit,
)
from mmgevent.wire.partition_sets import is_partition_set

#: Name of a job in its `submit`, characters: the stem of the longest file name, and more.
MAX_NAME_CHARS = 300

#: Fingerprint of a job's code, characters. Ours has 16.
MAX_FINGERPRINT_CHARS = 128

#: Names of functions that one job needs. A job has a mapfn, a collectfn and a reducefn.
MAX_NEEDS = 16

#: Value of an option in the error about it, bytes.
_MAX_SHOWN_BYTES = 200

#: What precedes the name of a known reducer. The name of an offered function has no dot.
_KNOWN_PREFIX = "reducers."

_ROLES = ("mapfn", "collectfn", "reducefn")
_PHASES = (["map"], ["reduce"], ["map", "reduce"])


def check_terms(submit: dict[str, Any]) -> JobRules:
    """Return what the scheduler needs of a `submit` message.

    Raises MmgeventError that names what is too large, OptionError that names the option at fault.
    """
    for what, text, most in (
        ("name", submit["name"], MAX_NAME_CHARS),
        ("fingerprint", submit["fingerprint"], MAX_FINGERPRINT_CHARS),
    ):
        if len(text) > most:
            raise MmgeventError(f"the job's {what} has {len(text)} characters; at most {most} are accepted")
    options = submit["options"]
    n_bytes = sum(len(json.dumps(value)) for value in options.values())
    if n_bytes > MAX_OPTIONS_BYTES:
        raise OptionError(f"the job's options have {n_bytes} bytes; at most {MAX_OPTIONS_BYTES} are accepted")
    check_limit("code", submit["code_bytes"], MAX_CODE_BYTES)
    check_limit("surroundings", submit.get("context_bytes", 0), MAX_CONTEXT_BYTES)
    _check_skip(submit.get("skip", ()), options.get("partitions"))
    return read_rules(options)


def read_rules(options: dict[str, Any]) -> JobRules:
    """Return what the server needs of a job's options.

    Raises OptionError if an option makes no sense, or if two exclude each other.
    """
    wire = dict(options)
    needs = wire.pop("needs", [])
    offered, flags, plain, unwanted, logs, silent, parts = (
        wire.pop(name, None)
        for name in ("offered", "flags", "plain", "unwanted", "logs", "silent", "write_parts")
    )
    if not (isinstance(needs, list) and len(needs) <= MAX_NEEDS and all(map(_is_name, needs))):
        raise _wrong("needs", f"a list of at most {MAX_NEEDS} names of functions", needs)
    if flags is not None and not are_flags(flags):
        words = ", ".join(map(" or ".join, GROUPS))
        raise _wrong("flags", f"a list of at most one of each of {words}, in that order", flags)
    if plain is not None and type(plain) is not dict:  # the workers check what is in it
        raise _wrong("plain", "an object, or null", plain)
    if unwanted is not None and not is_partition_set(unwanted):
        raise _wrong("unwanted", "a set of partitions in hexadecimal, or null", unwanted)
    if parts is not None and (expected := parts_plan.find_fault(parts)) is not None:
        raise _wrong("write_parts", f"{expected}, or null", parts)
    if logs not in (None, True):
        raise _wrong("logs", "true, or null", logs)
    if silent not in (None, True):
        raise _wrong("silent", "true, or null", silent)
    for name in ("py_files", "pass_env"):
        if name in wire:
            raise OptionError(f"option {name} stays with the driver")
    checked = JobOptions.from_wire(wire)
    if offered is not None:
        _check_offered(offered, needs, checked)
    return JobRules(
        retries=checked.retries,
        retransmit=checked.retransmit,
        allocation=checked.allocation,
        max_skipped=checked.max_skipped,
        items_per_call=checked.items_per_call or 1,
        needs=frozenset(needs),
    )


def _check_offered(offered: Any, needs: list[str], options: JobOptions) -> None:
    """Check that only workers which offer what the job calls can get it."""
    if type(offered) is not dict or not offered.keys() <= {"phases", *_ROLES}:
        raise _wrong("offered", f"an object of phases, {', '.join(_ROLES)}", offered)
    if offered.get("phases") not in _PHASES:
        raise _wrong("offered.phases", "a list of map, reduce or both", offered.get("phases"))
    names = []
    for role in _ROLES:
        value = offered.get(role)
        if value is not None and not _is_name(value):
            raise _wrong(f"offered.{role}", "the name of a function, or null", value)
        if value is not None and not value.startswith(_KNOWN_PREFIX):
            names.append(value)
    missing = [name for name in names if name not in needs]
    if missing or not names:
        what = f"{missing[0]!r}, which is not among its needs" if missing else "no function by name"
        raise OptionError(
            f"option offered calls {what}; a job needs what it calls, or workers get it that do not offer it"
        )
    options.check_for_offered(names[0])


def _check_skip(skip: Any, partitions: Any) -> None:
    """Check the partitions that an earlier server delivered: that server chose their number."""
    if not skip:
        return
    if partitions is None:
        raise OptionError("partitions are to be skipped, but option partitions does not say of how many")
    if len(skip) > MAX_PARTITIONS or max(skip) >= MAX_PARTITIONS:
        raise OptionError(f"a job has at most {MAX_PARTITIONS} partitions to skip, numbered from 0")


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_NAME_CHARS


def _wrong(name: str, expected: str, value: Any) -> OptionError:
    return OptionError(f"option {name} must be {expected}; got {shorten(ascii(value), _MAX_SHOWN_BYTES)}")
