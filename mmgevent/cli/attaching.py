"""mmg-server attach, mmg-run --attach: find the item of a job that has run longest, and show where it is.

The executor goes on. With Python 3.14 and later, on the machine of the executor, pdb can attach to
it, if the system allows to trace it; otherwise its stack is printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from mmgevent.access.addresses import THIS_MACHINE, parse_address
from mmgevent.cli import shared
from mmgevent.cli.exits import print_out, say
from mmgevent.cli.options import Arguments, refuse
from mmgevent.errors import UsageError
from mmgevent.shown_text import MAX_LINES, shown
from mmgevent.wire.hello import PYTHON_VERSION
from mmgevent.wire.listings import JOB_FIELDS, PLACE_FIELDS, clean_row, read_listing

if TYPE_CHECKING:
    from mmgevent.engine.looking import Looker

#: First Python whose pdb attaches to another process.
_FIRST_PDB = (3, 14)

#: What opens pdb: `python -m pdb -p PID`, without the traceback of what prevents it.
_PDB = """
import pdb, sys
sys.argv[0:1] = ["pdb", "-p"]
try:
    pdb.main()
except KeyboardInterrupt:
    sys.exit(1)
except (RuntimeError, OSError) as error:
    sys.exit(f"pdb cannot attach: {error}")
"""

_WAITS = "pdb opens as soon as the function is in Python, not in a C call; Ctrl-C shows the stack instead"

#: Jobs that an error names.
MAX_NAMED = 5

#: Where Linux says who may trace whom: 0 means all processes of the same user.
_TRACING = "/proc/sys/kernel/yama/ptrace_scope"


def attach_to_mine(command: str, arguments: Arguments) -> int:
    """Attach to a job as `mmg-run --attach [[HOST[:PORT]] [JOB]]` says; return the exit code.

    Without JOB: the only job that runs from this machine. Raises UsageError if there are several.
    """
    if len(arguments.rest) > 2:
        refuse(command, f"--attach takes [HOST[:PORT]] JOB: got {len(arguments.rest)} words")
    host = arguments.rest[0] if len(arguments.rest) == 2 else THIS_MACHINE
    address = parse_address(host, shared.default_port(arguments))
    password = shared.find_password(command, arguments, [])
    from mmgevent.engine.looking import looking_at
    from mmgevent.engine.net.threads import start_thread_pool

    start_thread_pool()
    with looking_at(address, password, shared.find_certificates(arguments)) as looker:
        job = arguments.rest[-1] if arguments.rest else _find_mine(looker)
        return attach(command, looker, job, is_stack_wanted=False)


def _find_mine(looker: Looker) -> str:
    """Return the id of the only job that runs from this machine."""

    def describe(row: dict[str, Any]) -> dict[str, Any]:
        return clean_row(row, JOB_FIELDS, "number", "id", "name")

    jobs = [
        row
        for row in read_listing(looker.ask, "list_jobs", describe)
        if row.get("host") == os.uname().nodename
    ]
    if not jobs:
        raise UsageError("no job runs from this machine: name one, as `mmg-server jobs` shows it")
    if len(jobs) > 1:
        named = ", ".join(f"{row['id']} ({row['name']})" for row in jobs[:MAX_NAMED])
        raise UsageError(f"{len(jobs)} jobs run from this machine, such as {named}: name one")
    return str(jobs[0]["id"])


def attach(command: str, looker: Looker, job: str, *, is_stack_wanted: bool) -> int:
    """Show what a job hangs in; return the exit code. `is_stack_wanted`: open no debugger."""
    found = [clean_row(row, PLACE_FIELDS, "running_s", "pid", "number") for row in looker.find("where", job)]
    if not found:
        print_out(f"no item of {shown(job)} runs in an executor now")
        return 0
    longest = found[0]
    print_out(_describe(longest) + ("" if len(found) == 1 else f"\n{len(found) - 1} more run, for less time"))
    if not is_stack_wanted:
        obstacle = _find_obstacle(longest)
        if obstacle is None:
            say(command, _WAITS)
            if _debug(longest["pid"]):
                return 0
        say(command, obstacle or "pdb did not attach: here is the stack")
    rows = looker.find("stack", str(longest["number"]), pid=longest["pid"])
    stack = rows[0].get("stack") if rows else None
    if type(stack) is not str:
        raise UsageError("the worker gave no stack: it may have another version of mmgevent")
    print_out(shown(stack, MAX_LINES).rstrip())
    return 0


def _describe(row: dict[str, Any]) -> str:
    return (
        f"{row.get('where', 'an item')} has run for {row['running_s']:.1f} s, in process {row['pid']} "
        f"(slot {row.get('slot', '?')} of {row.get('worker', '?')}, on {row.get('host', '?')})"
    )


def _find_obstacle(row: dict[str, Any]) -> str | None:
    """Return why pdb cannot attach to an executor from here, or None if it may."""
    first = ".".join(map(str, _FIRST_PDB))
    if sys.version_info < _FIRST_PDB:
        return f"pdb attaches with Python {first} and later, and this is {PYTHON_VERSION}: here is the stack"
    if row.get("python") != PYTHON_VERSION:
        return f"the executor has Python {row.get('python')}, and this is {PYTHON_VERSION}: here is the stack"
    if row.get("host") != os.uname().nodename:
        return f"the executor is on {row.get('host')}, where pdb could attach to it: here is the stack"
    if not _is_executor(row["pid"]):
        return f"process {row['pid']} is no executor of this machine's that can be seen: here is the stack"
    if sys.stdin is None or not sys.stdin.isatty():
        return "pdb needs a terminal: here is the stack"
    if os.geteuid() and _reads(_TRACING) not in ("", "0"):
        return f"this system forbids to trace other processes ({_TRACING}): here is the stack"
    return None


def _is_executor(pid: int) -> bool:
    """Return whether a process is one of ours. A worker says which, and it may be another's."""
    return "mmgevent.executor.template" in _reads(f"/proc/{pid}/cmdline")


def _reads(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _debug(pid: int) -> bool:
    """Open pdb in a process, until the user leaves it. Return whether it could attach.

    Ctrl-C is for pdb: it stops the function, or ends the wait for it.
    """
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # SIG_IGN would be inherited
    try:
        return subprocess.run([sys.executable, "-c", _PDB, str(pid)], check=False).returncode == 0
    finally:
        signal.signal(signal.SIGINT, before)
