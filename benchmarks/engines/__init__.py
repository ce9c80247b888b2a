"""The engines that are compared, one short file each: `on_NAME.py`.

A file is a program, `python -m benchmarks.engines.on_NAME WORK ARGUMENT OUTPUT PROCS`, which
does the work and writes the answer, a line `key TAB value` a record in any order. What
the comparison asks of it as a module:

    TITLE                    what it is called in tables
    NEEDS = "module"         what has to be installed; left out where nothing has
    missing() -> str | None  why it cannot run here, where NEEDS does not say all of it
    CANNOT = {work: reason}  works it has no way to do
    command(request)         the command line, where it is not the above

It imports what it needs inside functions: the module is also read where that is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

DEFAULT = ("ideal", "mmgevent", "mmgevent-reducers", "multiprocessing")

#: how the values of a list stand in an answer: as mmg-run writes them
_to_json = json.JSONEncoder(ensure_ascii=False).encode


class Request(NamedTuple):
    """What an engine is asked to do."""

    work: str
    argument: str
    output: Path
    procs: int


def engine_names() -> list[str]:
    """Return the names of all engines there are, those that need nothing more first."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("on_*.py"))
    found = [stem.removeprefix("on_").replace("_", "-") for stem in stems]
    return [*DEFAULT, *(name for name in found if name not in DEFAULT)]


def load_engine(name: str) -> ModuleType:
    """Return the module of an engine; ModuleNotFoundError for a name that is none."""
    return importlib.import_module(f"benchmarks.engines.on_{name.replace('-', '_')}")


def why_missing(engine: ModuleType) -> str | None:
    """Return why an engine cannot run here; None if it can."""
    needs = getattr(engine, "NEEDS", None)
    if needs is not None and importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed"
    missing = getattr(engine, "missing", None)
    return None if missing is None else missing()


def command_of(engine: ModuleType, request: Request) -> list[str]:
    """Return the command line that does the work."""
    command = getattr(engine, "command", None)
    if command is not None:
        return command(request)
    fields = [request.work, request.argument, str(request.output), str(request.procs)]
    return [sys.executable, "-m", engine.__name__, *fields]


def read_request() -> Request:
    """Return what the command line of an engine's program asks for."""
    work, argument, output, procs = sys.argv[1:]
    return Request(work, argument, Path(output), int(procs))


def write_answer(output: Path, records: Iterable[tuple[Any, Any]]) -> None:
    """Write the answer of an engine's program."""
    with output.open("w", encoding="utf-8") as file:
        write = file.write
        for key, value in records:
            write(f"{key}\t{_to_json(value) if type(value) is list else value}\n")
