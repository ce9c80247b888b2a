"""Make the failed call of a bundle again, in this process, with neither cluster nor input file.

The functions are rebuilt as in an executor: their modules, settings and `sys.argv` replace those of
this process, which runs one bundle and ends. The call passes the same code as in a task, so that it
fails as it did there.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mmgevent.errors import JobError, UsageError, VersionMismatchError
from mmgevent.job.arguments import calls_showing
from mmgevent.job.bundle import Bundle
from mmgevent.job.functions import Functions
from mmgevent.job.shipping.load import load_functions
from mmgevent.machine import interpreter
from mmgevent.machine.resources import find_scratch_folder, limit_memory
from mmgevent.tasks.blame import TaskFailure, blame_exception
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.records import decode_value, encode_segment
from mmgevent.tasks.returned import pairs_of
from mmgevent.tasks.run import run_map, run_reduce
from mmgevent.tasks.unpicklable import NotPlainError
from mmgevent.wire.hello import PYTHON_VERSION, VERSION, dill_version

#: Number of partitions for the records of one item. Nobody sees which one a record is in.
PARTITIONS = 32

#: Records that the call may hold before they are written out, bytes: as in an inline run.
RECORD_BYTES = 256 * 1024 * 1024


class Replay:
    """One bundle that is replayed."""

    def __init__(self, bundle: Bundle):
        """Check that the bundle fits this process. Nothing of it runs.

        Raises VersionMismatchError, and UsageError for a bundle that does not say what to call.
        """
        header = self._header = bundle.header
        failure, options = header.get("failure"), header.get("options")
        if not isinstance(failure, dict) or not isinstance(options, dict) or "code" not in bundle.sections:
            raise UsageError(f"the bundle {bundle.path} does not say what to call: let the job fail again")
        self._sections = bundle.sections
        self._path = bundle.path
        self._options = options
        #: the record of the failure that made the bundle
        self.failure: dict[str, Any] = failure
        #: name of the function that is called
        self.function = str(failure.get("function"))
        #: what differs from then and may matter, one sentence each
        self.warnings: list[str] = []
        self._check_versions()
        if self.function not in _CALLS:
            raise UsageError(
                f"the bundle {bundle.path} is of {self.function!r}, which cannot be called again"
            )
        if "input" not in bundle.sections and self.function != "setupfn":
            raise UsageError(
                f"the bundle {bundle.path} has no input: {header.get('missing')}; its key is "
                f"{failure.get('key')}. Run the job with mmg-run --inline --pdb to stop where it fails"
            )

    def describe(self) -> str:
        """Return what is replayed, in one line."""
        failure = self.failure
        key = "" if failure.get("key") is None else f" at {failure['key']}"
        worker = "" if not failure.get("worker") else f" on {failure['worker']}"
        return f"replays {self.function}{key} of job {self._header.get('job')}, which failed{worker}: {failure.get('error')}"

    def run(self) -> list[tuple[Any, Any]]:
        """Make the call again; return the records of a call that does not fail.

        Raises JobError as the job did, with the user's exception as its cause, and UsageError if
        the functions or the input do not load.
        """
        functions = self._load()
        self._set_limits()
        try:
            if functions.setupfn is not None and self.function != "finishfn":
                self._set_up(functions.setupfn)
            if self.function == "setupfn":
                return []
            return _CALLS[self.function](self, functions, *self._read_input())
        except TaskFailure as failure:
            ended = JobError.from_failure(failure.failure)
            ended.evidence = None
            raise ended from failure.__cause__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # if `_set_limits` has set it

    # What is loaded.

    def _check_versions(self) -> None:
        """Raise VersionMismatchError if the code cannot be loaded here."""
        versions = self._header.get("versions")
        versions = versions if isinstance(versions, dict) else {}
        for name, here in (("python", PYTHON_VERSION), ("dill", dill_version())):
            what = "Python" if name == "python" else name
            if versions.get(name) != here:
                raise VersionMismatchError(
                    f"the bundle {self._path} was made with {what} {versions.get(name)}, this is {what} {here}: "
                    f"replay it with {what} {versions.get(name)}"
                )
        if versions.get("mmgevent") != VERSION:
            self.warnings.append(
                f"the bundle was made with mmgevent {versions.get('mmgevent')}, this is {VERSION}"
            )
        flags = interpreter.own_flags()
        if self._header.get("flags") != flags:
            self.warnings.append(
                f"the job ran with Python's flags {self._header.get('flags')}, this process has {flags}"
            )

    def _load(self) -> Functions:
        surroundings = self._header.get("surroundings")
        if isinstance(surroundings, dict):
            self._enter(surroundings)
        try:
            return load_functions(self._sections["code"], on_warning=self.warnings.append)
        except (Exception, SystemExit) as error:
            raise UsageError(f"the code of the bundle {self._path} does not load here: {error}") from error

    def _enter(self, surroundings: dict[str, Any]) -> None:
        """Take over the import path and the working directory of the job, as far as they exist."""
        paths = surroundings.get("sys_path")
        if isinstance(paths, list):
            theirs = [path for path in paths if isinstance(path, str)]
            sys.path[:] = [*theirs, *(path for path in sys.path if path not in theirs)]
            importlib.invalidate_caches()
        cwd = surroundings.get("cwd")
        if isinstance(cwd, str):
            try:
                os.chdir(cwd)
            except OSError as error:
                self.warnings.append(f"the job's folder {cwd} cannot be entered: {error.strerror}")

    def _read_input(self) -> tuple[Any, Any]:
        """Return (key, value) or (key, values). Raises UsageError if they do not load."""
        plain = None
        if self._header.get("is_plain"):
            from mmgevent.tasks.plain_rules import PlainRules

            plain = PlainRules.from_wire(self._options["plain"])
        try:
            key, value = decode_value(self._sections["input"], plain)
        except NotPlainError as error:
            raise UsageError(f"the input of the bundle {self._path} is no plain data: it {error}") from error
        except Exception as error:  # whatever unpickling raises
            raise UsageError(f"the input of the bundle {self._path} does not load here: {error!r}") from error
        return key, value

    # What is called.

    def _set_limits(self) -> None:
        """Limit memory as the job did, and the time of a call that took too long."""
        limit_bytes, limit_s = self._options.get("memory_limit"), self._options.get("task_timeout")
        if isinstance(limit_bytes, int):
            limit_memory(limit_bytes)
        if self.failure.get("kind") == "timeout" and isinstance(limit_s, (int, float)) and limit_s > 0:
            signal.signal(signal.SIGALRM, _end_call)
            signal.setitimer(signal.ITIMER_REAL, limit_s)

    def _set_up(self, setupfn: Callable[[], Any]) -> None:
        try:
            setupfn()
        except (Exception, SystemExit) as error:
            raise blame_exception(error, "setupfn") from error

    def _map(self, functions: Functions, key: Any, value: Any) -> list[tuple[Any, Any]]:
        flushes: list[bytes] = []
        size = self._options.get("items_per_call")
        run_map(
            functions,
            [(key, value)],
            partitions=self._options.get("partitions") or PARTITIONS,
            memory_bytes=RECORD_BYTES,
            emit=flushes.append,
            mark=_mark_nothing,
            calls=None if size is None else CallRules(size, _mark_nothing),
        )
        return list(_records_of(flushes))

    def _reduce(self, functions: Functions, key: Any, values: Any) -> list[tuple[Any, Any]]:
        flushes: list[bytes] = []
        segment = encode_segment([key], [list(values)], grouped=True)
        run_reduce(
            functions,
            [(0, len(segment), [segment])],
            partitions=self._options.get("partitions") or PARTITIONS,
            memory_bytes=RECORD_BYTES,
            emit=flushes.append,
            mark=_mark_nothing,
            scratch_dir=find_scratch_folder(),
        )
        return list(_records_of(flushes))

    def _collect(self, functions: Functions, key: Any, values: Any) -> list[tuple[Any, Any]]:
        collectfn: Any = functions.collectfn
        try:
            if functions.collect_form == "iterator":
                return list(pairs_of(collectfn(iter([(key, values)])), "collectfn"))
            return [(key, collectfn(key, values))]
        except (Exception, SystemExit) as error:
            raise blame_exception(error, "collectfn", key) from error

    def _finish(self, functions: Functions, key: Any, value: Any) -> list[tuple[Any, Any]]:
        finishfn: Any = functions.mapfn  # a bundle of finishfn has it there
        try:
            return [(key, calls_showing(None, finishfn)(key, value))]
        except (Exception, SystemExit) as error:
            raise blame_exception(error, "finishfn", key) from error


#: {function: what makes its call}
_CALLS: dict[str, Callable[..., list[tuple[Any, Any]]]] = {
    "mapfn": Replay._map,
    "reducefn": Replay._reduce,
    "collectfn": Replay._collect,
    "finishfn": Replay._finish,
    "setupfn": Replay._map,  # never called: setupfn comes first
}


def _end_call(number: int, frame: object) -> None:
    raise TimeoutError("it still runs after task_timeout: this is where it is")


def _records_of(flushes: list[bytes]) -> Iterator[tuple[Any, Any]]:
    from mmgevent.driver.runners.decoding import decode_flushes

    for flush in flushes:
        yield from decode_flushes(flush, None)


def _mark_nothing(index: int, key: Any) -> None:
    pass
