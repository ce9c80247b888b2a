"""Pack a job: its functions as bytes, its options, and the surroundings of its driver."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.errors import TooLargeError, UsageError
from mmgevent.job.job import Job
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.job.shipping.surroundings import read_surroundings
from mmgevent.machine import environment, interpreter
from mmgevent.wire.limits import MAX_CONTEXT_BYTES, MAX_OPTIONS_BYTES

if TYPE_CHECKING:
    from mmgevent.job.functions import Functions
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.tasks.plain_rules import PlainRules

#: {part of what is sent as options: what the user calls it}
_PARTS_OF_OPTIONS = {
    "needs": "the name of an offered function",
    "offered": "the name of an offered function",
    "flags": "the command line of the interpreter (-X, -W)",
}


class PackedJob(NamedTuple):
    """What a server and executors need to know of a job; the same in each submission."""

    name: str
    options: dict[str, Any]
    code: bytes
    #: what executors of this machine take over from this process, as JSON; empty if there are none
    context: bytes
    #: whether results of one reduce task belong together, whatever their partitions
    takes_whole_tasks: bool
    #: the rules for what workers send, if that must be plain data
    plain: PlainRules | None = None


def pack_job(
    job: Job[Any, Any],
    on_left: Callable[[str], None],
    plain: PlainRules | None,
    *,
    is_local: bool,
    stays_here: bool,
) -> PackedJob:
    """Return what servers and executors need of a job. `on_left` is called for what stays behind.

    `is_local`: the executors, or the first ones, run on this machine.  `stays_here`: all of them do.

    Raises ShippingError and other UsageErrors, and TooLargeError if the code cannot be sent.
    """
    functions = job.functions()
    code = pack_code(job, stays_here=stays_here, on_left=on_left)
    options = {**job.options.to_wire(), "needs": sorted(functions.offered_names)}
    if functions.setupfn is None:
        del options["setup_timeout"]
    if flags := interpreter.own_flags():
        options["flags"] = flags
    if (offered := functions.describe_offered()) is not None:
        options["offered"] = offered
    if plain is not None:
        options["plain"] = plain.to_wire()
    _check_options(options)
    # One call of an iterator-form reducefn gives results that belong together, whatever their
    # partitions.  The form of an offered reducefn is not known here.
    takes_whole_tasks = functions.reduce_form == "iterator" or isinstance(functions.reducefn, str)
    return PackedJob(job.name, options, code, _make_context() if is_local else b"", takes_whole_tasks, plain)


def with_parts(packed: PackedJob, plan: PartsPlan) -> PackedJob | None:
    """Return a job whose executors write parts; None if that makes its options too large."""
    options = {**packed.options, "write_parts": plan._asdict()}
    return packed._replace(options=options) if len(json.dumps(options)) <= MAX_OPTIONS_BYTES else None


def pack_code(
    job: Job[Any, Any],
    functions: Functions | None = None,
    *,
    stays_here: bool,
    on_left: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the payload of the functions of a job, or of `functions` in their place.

    Raises ShippingError and other UsageErrors.
    """
    return pack_functions(
        job.functions() if functions is None else functions,
        by_value=job.by_value,
        py_files=job.options.py_files,
        argv=job.argv,
        environ={name: os.environ[name] for name in job.options.pass_env if name in os.environ},
        stays_here=stays_here,
        on_left=on_left,
    )


def _check_options(options: dict[str, Any]) -> None:
    """Raise TooLargeError, naming the largest part, for options that do not fit one message."""
    sizes = {name: len(json.dumps(value)) for name, value in options.items()}
    if sum(sizes.values()) <= MAX_OPTIONS_BYTES:
        return
    largest = max(sizes, key=sizes.__getitem__)
    what = _PARTS_OF_OPTIONS.get(largest, f"option {largest}")
    raise TooLargeError(
        f"the options of the job have {sum(sizes.values()):,} bytes, at most {MAX_OPTIONS_BYTES:,} can be sent; the "
        f"largest part is {what} with {sizes[largest]:,}: make it shorter"
    )


def _make_context() -> bytes:
    """Return the surroundings of this process as JSON.

    Raises UsageError if they are too large, which names the large parts.
    """
    surroundings = read_surroundings()
    fault = environment.find_fault(surroundings["environ"])
    if fault is not None:
        raise UsageError(f"executors cannot be given the environment of this process: {fault}")
    context = json.dumps(surroundings).encode("ascii")
    if len(context) > MAX_CONTEXT_BYTES:
        sizes = {name: len(json.dumps(part)) for name, part in surroundings.items()}
        largest = max(sizes, key=sizes.__getitem__)
        raise UsageError(
            f"executors cannot be given the surroundings of this process: as JSON they have {len(context):,} bytes, at "
            f"most {MAX_CONTEXT_BYTES:,} can be sent; the largest part is {largest} with {sizes[largest]:,}"
        )
    return context
