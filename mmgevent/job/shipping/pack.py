"""Send the functions of a job to executors: one payload there, no copy of the program.

The user's definitions (functions and classes of `__main__`, of the job file, of
notebook cells) travel by value and live there in one fresh module of the same
name.  So they share globals and call one another as they do here, and instances
of their classes are plain pickles in both directions.  Everything else goes by
name: the standard library and what is installed (`job/shipping/installed.py`) as it is there,
other modules of the user's as source (`job/shipping/modules.py`).

This is the only module that imports dill, and it does so late.  No server runs
any of it.
"""

from __future__ import annotations

import builtins
import functools
import io
import json
import os
import pickle
import signal
import sys
import threading
import time
import typing
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmgevent import beside, real_modules
from mmgevent.errors import ShippingError
from mmgevent.job.shipping import missing, settings
from mmgevent.job.shipping.arrivals import find_lookers, install, made_by_value, show_lines
from mmgevent.job.shipping.effects import Effect, run_effects
from mmgevent.job.shipping.modules import MAIN_NAMES, JobImport, Source
from mmgevent.job.shipping.packer import EarlyNames, Packer
from mmgevent.job.shipping.refusals import OWN_MODULE
from mmgevent.job.shipping.surroundings import context, enter
from mmgevent.machine import interpreter
from mmgevent.machine.python_path import find_python
from mmgevent.machine.resources import create_nameless_file, find_scratch_folder

if TYPE_CHECKING:
    import subprocess

if typing.TYPE_CHECKING:
    from mmgevent.job.functions import Functions

__all__ = [
    "Check",
    "check",
    "context",
    "enter",
    "fingerprint",
    "import_advice",
    "import_dill",
    "load",
    "pack",
    "preload",
    "start_check",
]

_ROLES = ("mapfn", "collectfn", "collect_form", "reducefn", "reduce_form", "setupfn")

#: seconds for a payload to load in a fresh process, with all that it imports
CHECK_TIMEOUT_S = 120.0

#: characters of a checking process's last words that an error shows
_LAST_WORDS_CHARS = 2000

_CHECK_COMMAND = "import json; from mmgevent.job.shipping import pack as shipping; sys.path[:] = json.loads(sys.argv[1]); shipping._answer_check()"

#: neither dill nor the warning filters can be used by several threads at once
_packing = threading.Lock()


def pack(
    functions: Functions,
    *,
    by_value: Collection[str] = (),
    py_files: Sequence[str | os.PathLike[str]] = (),
    argv: Sequence[str] | None = None,
    stays_here: bool = False,
    on_left: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the payload that `load` turns into these functions in another process.

    `by_value` names the modules, besides `__main__`, whose definitions travel by
    value.  `py_files` are modules, package folders or zips that travel whether
    or not an import names them.  `argv` is what they see as `sys.argv`; None: that of
    this process.  Globals are captured as they are now, and so are the settings of this
    process and thread (`job/shipping/settings.py`).
    `stays_here`: all executors are on this machine, and import what cannot travel.
    `on_left` gets a sentence for each change that stays behind, as far as that can be seen: of a
    library's settings, say, at the top of the job's file.

    Raise ShippingError naming what cannot travel, which function uses it, and
    what to do.
    """
    for name in by_value:
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ShippingError(
                f"the job's module {name!r} has the name of a standard library module: rename it"
            )
    with _packing:
        found = settings.read()
        with warnings.catch_warnings():
            dill = import_dill()

            warnings.simplefilter("error", dill.PicklingWarning)
            shown = list(map(str, sys.argv if argv is None else argv))
            early: frozenset[JobImport] = frozenset()
            while True:  # each time with more of the import statements that there are
                packer = Packer(
                    frozenset(by_value) | MAIN_NAMES, _pickler_class(), early, stays_here=stays_here
                )
                for path in py_files:
                    packer.tree.add_py_file(path)
                packer.add_effects()
                try:
                    payload = packer.pack({role: getattr(functions, role) for role in _ROLES}, shown, found)
                    for sentence in (*settings.left_behind(), *packer.find_left(functions.setupfn)):
                        on_left(sentence)
                    return payload
                except EarlyNames as more:
                    early |= more.imports


def import_dill() -> Any:
    """Return dill, which looks for a folder for temporary files as it is imported, also where there is none."""
    try:
        import dill
    except FileNotFoundError:
        import tempfile

        tempfile.tempdir = find_scratch_folder()
        try:
            import dill
        finally:
            tempfile.tempdir = None
    return dill


def preload() -> None:
    """Import what `pack` will need, before the user's folder is on the import path and can hide any of it."""
    _pickler_class()


@functools.lru_cache(maxsize=1)
def _pickler_class() -> Any:
    """Return the pickler that asks a Packer how each object travels, and dill where that does not mind."""
    import_dill()
    import dill

    stock: Any = pickle

    class Dispatch(dict[type, Any]):
        """dill's table as it is at the time, less its way with dicts: comparing each with `__main__`'s."""

        def get(self, kind: type, default: Any = None) -> Any:
            return stock._Pickler.save_dict if kind is dict else dill.Pickler.dispatch.get(kind, default)

    class Pickler(dill.Pickler):  # type: ignore[misc] # dill has no types
        dispatch = Dispatch()

        def __init__(self, file: io.BytesIO, packer: Packer):
            super().__init__(file, protocol=5, recurse=False, byref=False)
            self._packer = packer

        def reducer_override(self, obj: Any) -> Any:
            return self._packer.reduce(obj)

        def save_global(self, obj: Any, name: str | None = None) -> None:
            module = stock.whichmodule(obj, name or obj.__qualname__)
            reduction = self._packer.reduce_named(obj, module)
            if reduction is not None:
                self.save_reduce(*reduction, obj=obj)
                return
            self._packer.note_module(module)
            super().save_global(obj, name)

    return Pickler


def load(
    payload: bytes | bytearray | memoryview,
    on_slow: Callable[[Effect, float], None] = lambda *_: None,
    on_failure: Callable[[list[tuple[Effect, BaseException]]], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Functions:
    """Rebuild the functions in this process, which runs one job and ends.

    The job's modules replace any of the same names, `__main__` included, and its settings those of this
    process.  `on_slow` gets each module that is imported for its effect only and takes long, with its seconds;
    `on_failure` those that cannot be imported here, and why, if there are any; `on_warning` a sentence for each
    setting that cannot be made, and each module that looks for files in a folder that is not here.  None of
    that fails anything.

    Raise ImportError for a module that is missing here, with what to do about
    it, and ShippingError for whatever else does not load, naming it.
    """
    from mmgevent.job.functions import Functions

    dill = import_dill()
    parts = pickle.loads(payload)
    sys.argv = parts["argv"]
    effects = [Effect(*fields) for fields in parts["effects"]]
    settings.apply(parts["settings"], is_loaded=False)
    sources = [Source(*fields) for fields in parts["sources"]]
    install(sources)
    for sentence in find_lookers(sources):
        on_warning(sentence)
    beside.give_shipped((fields[0] for fields in parts["sources"]), (name for name, _ in parts["modules"]))
    for path, text in parts["lines"].items():
        show_lines(path, text)
    for name, attributes in parts["modules"]:
        _make_module(name, attributes, parts["left"])
    missing.remember(parts["left"], parts["unused"])
    failed = run_effects(effects, on_slow)
    file = io.BytesIO(b"".join(chunk for _, _, chunk in parts["chunks"]))
    unpickler = dill.Unpickler(file, ignore=True)
    end = 0
    roles: Any = None
    for label, spare, chunk in parts["chunks"]:
        end += len(chunk)
        try:
            roles = unpickler.load()
        except (Exception, SystemExit) as error:  # SystemExit: of a module of the user's
            if spare is None:
                if isinstance(error, SystemExit):
                    raise
                raise _loading_error(label, error) from error
            module, name = spare
            reason = f"{name} does not load here ({type(error).__name__}: {error})"
            parts["left"].setdefault(module, {})[name] = reason
            missing.note(module, name, reason)
            file.seek(end)
    failed = run_effects([effect for effect, _ in failed], on_slow)  # some need what the job's file defines
    if failed:
        on_failure(failed)
    for problem in settings.apply(parts["settings"], is_loaded=True):
        on_warning(problem)
    return Functions(**{role: roles[role] for role in _ROLES})


def _make_module(name: str, attributes: dict[str, Any], left: dict[str, dict[str, str]]) -> None:
    """Install a fresh module whose missing attributes say why they are missing."""

    def explain_missing(attribute: str) -> Any:
        reason = missing.attribute_reason(name, attribute)
        if attribute in left.get(name, ()):
            raise ShippingError(reason)  # pickle would drop the text of an AttributeError
        raise AttributeError(
            reason or f"module {name!r} has no attribute {attribute!r} in an executor",
            name=attribute,
            obj=module,
        )

    module = ModuleType(name)
    vars(module).update(attributes, __builtins__=builtins, __getattr__=explain_missing)
    sys.modules[name] = module
    if name in MAIN_NAMES:
        sys.modules["__main__"] = module
    else:
        module.__spec__ = made_by_value(name)


def _loading_error(label: str, error: Exception) -> Exception:
    if isinstance(error, ImportError):
        return type(error)(f"{label}: {error}. {import_advice(error)}", name=error.name, path=error.path)
    text = str(error).rstrip(".")
    return ShippingError(
        f"{label} does not load in an executor: {type(error).__name__}: {text}; {OWN_MODULE}"
    )


def import_advice(error: ImportError) -> str:
    """Say what to do about a module that cannot be imported in an executor."""
    name = (error.name or "the module").partition(".")[0]
    return (
        f"Install {name} on the workers, or, if it is a module of your own, send it along: "
        f"add --py-files PATH (py_files=[PATH] in options) with the path of {name}"
    )


def fingerprint(payload: bytes | bytearray | memoryview) -> str:
    """Return the name under which workers keep a payload: its XXH3-128 in hexadecimal."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(payload)


def check(payload: bytes) -> None:
    """Load the payload once in a fresh process; raise ShippingError if it does not load there.

    Return at once if nothing in it can fail: code, plain data and names of the
    standard library.
    """
    start_check(payload).result()


def start_check(payload: bytes) -> Check:
    """Begin what `check` does, and return the handle that waits for it."""
    return Check(payload)


#: what has loaded before, in the same surroundings, needs no other trial: it takes 60 ms, and a loop may submit often
_loaded: OrderedDict[str, None] = OrderedDict()
#: of them that are remembered
MAX_LOADED = 1000


class Check:
    """One trial load of a payload, in a process of its own that sees nothing of this one's modules."""

    def __init__(self, payload: bytes):
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        self._began = time.monotonic()
        if pickle.loads(payload)["is_plain"]:
            return
        surroundings = context()
        self._mark = fingerprint(payload + json.dumps(surroundings, sort_keys=True).encode())
        if self._mark in _loaded:
            return
        import subprocess  # templates, which check nothing, start sooner without it

        flags = interpreter.arguments(interpreter.own_flags())
        with open(create_nameless_file("mmgevent-check"), "w+b") as file:
            file.write(payload)
            file.seek(0)
            self._process = subprocess.Popen(
                [
                    find_python(),
                    *flags,
                    *real_modules.arguments(_CHECK_COMMAND),
                    json.dumps(surroundings["sys_path"]),
                ],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=surroundings["environ"],
            )

    def is_over(self, timeout: float) -> bool:
        """Wait for the end of the trial for at most `timeout` seconds; say whether it has come.

        A trial that takes more than CHECK_TIMEOUT_S in all is ended, and has failed.
        """
        process = self._process
        if process is None:
            return True
        import subprocess

        try:
            answer, last_words = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            if time.monotonic() - self._began < CHECK_TIMEOUT_S:
                return False
            self._give_up(CHECK_TIMEOUT_S)
            return True
        self._process = None
        if process.returncode == 0 and answer:
            self._problem = json.loads(answer)
            if self._problem is None:
                _loaded[self._mark] = None
                if len(_loaded) > MAX_LOADED:
                    _loaded.popitem(last=False)
        else:
            end = (
                f"exit code {process.returncode}"
                if process.returncode >= 0
                else f"signal {-process.returncode}"
            )
            said = last_words.decode(errors="replace")[-_LAST_WORDS_CHARS:].strip()
            self._problem = f"loading the job's code ended a fresh process ({end}). It last said:\n{said}"
        return True

    def result(self, timeout: float = CHECK_TIMEOUT_S) -> None:
        """Wait for the trial; raise ShippingError if the payload did not load within `timeout` seconds."""
        if not self.is_over(timeout):
            self._give_up(timeout)
        if self._problem is not None:
            raise ShippingError(self._problem)

    def _give_up(self, timeout: float) -> None:
        self.cancel()
        self._problem = f"the job's code did not load in {timeout:g} s in a fresh process: does a module wait for something?"

    def cancel(self) -> None:
        """End the trial, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _answer_check() -> None:
    """Load the payload on stdin and write null or what went wrong to stdout, as JSON."""
    signal.alarm(int(CHECK_TIMEOUT_S))  # whoever would end it may be killed before
    payload = sys.stdin.buffer.read()
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # what modules print as they are imported is no answer
    problem = None
    try:
        load(payload)
    except (ShippingError, ImportError) as error:
        problem = str(error)
    with open(answers, "w") as file:
        json.dump(problem, file)
    os._exit(0)  # threads that modules started must not keep this process
