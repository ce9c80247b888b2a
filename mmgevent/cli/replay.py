"""mmg-run --replay FILE: make a failed call again, in this process."""

from __future__ import annotations

import gc
from typing import Any

from mmgevent.cli.exits import FAULT, say
from mmgevent.cli.options import Arguments, Option, refuse
from mmgevent.errors import MmgeventError

#: Records that the command shows of a call that does not fail.
SHOWN_RECORDS = 20


OPTIONS = (
    Option(
        ("--replay",),
        "FILE",
        "make a failed call again, in this process, without JOB.py, cluster or input: FILE is a bundle that an error "
        "names; open only your own",
        excludes="where",
    ),
    Option(
        ("--bundles",),
        "FOLDER",
        "folder for bundles, which hold the code and the item of a failure for --replay; none: keep no bundles "
        "(default: mmgevent/bundles in your cache folder; the last 20 stay)",
    ),
)


def which_bundles(arguments: Arguments, of_job: Any) -> Any:
    """Return the option `bundles` of a job whose own is `of_job`: this command keeps them by default."""
    if arguments.bundles is None:
        return of_job or True
    return None if arguments.bundles == "none" else arguments.bundles


def _refuse_others(name: str, arguments: Arguments) -> None:
    """Refuse what a replay has no use for."""
    if arguments.rest:
        refuse(name, "--replay needs no job file: the bundle holds the functions, the item and the arguments")
    for option in ("output", "set", "py_files", "pass_env"):
        if getattr(arguments, option):
            refuse(
                name,
                f"--{option.replace('_', '-')} cannot go with --replay, which runs what the bundle holds",
            )


def run_replay(name: str, arguments: Arguments) -> int:
    """Replay a bundle; return 0 if the call does not fail this time, else raise, or stop in pdb."""
    _refuse_others(name, arguments)
    try:
        return _replay(name, arguments)
    except MmgeventError as error:
        if not arguments.pdb or error.exit_code == FAULT:
            raise
        from mmgevent.cli.debugging import debug  # rarely needed

        return debug(name, error)


def _replay(name: str, arguments: Arguments) -> int:
    from mmgevent.driver.failures.replay import Replay
    from mmgevent.job.bundle import read_bundle
    from mmgevent.job.shipping.pack import preload
    from mmgevent.tasks.blame import short_repr

    preload()
    gc.enable()
    replay = Replay(read_bundle(arguments.replay))
    if not arguments.quiet:
        say(name, replay.describe())
    try:
        records = replay.run()
    finally:
        for text in replay.warnings:
            say(name, f"warning: {text}")
    if not arguments.quiet:
        say(name, f"it did not fail this time, and gave {len(records):,} record{'s' * (len(records) != 1)}")
        for key, value in records[:SHOWN_RECORDS]:
            say(name, f"  {short_repr(key)}: {short_repr(value)}")
        if len(records) > SHOWN_RECORDS:
            say(name, f"  and {len(records) - SHOWN_RECORDS:,} more")
    return 0
