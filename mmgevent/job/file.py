"""Load a job file: run it once as a module, and check what it binds.

The module is named by the file's stem and registered under that name, so that its functions and
classes travel by value and its instances are plain pickles. Whatever is wrong with the file is a
JobFileError, which shows the user's own lines and none of ours.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import keyword
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mmgevent import beside
from mmgevent.errors import JobFileError, OptionError, UsageError
from mmgevent.job.options import JobOptions
from mmgevent.machine import working_directory
from mmgevent.shown_text import shown

FUNCTION_NAMES = ("mapfn", "collectfn", "reducefn", "finishfn", "setupfn")
NAMES = ("datasource", *FUNCTION_NAMES, "sort_values", "options", "steps")

#: Modules that our own processes import. A job file must not hide one.
OWN_MODULES = frozenset(
    {"mmgevent", "gevent", "greenlet", "dill", "xxhash", "cryptography", "psutil", "rich"}
)

OPTION_NAMES = frozenset(field.name for field in fields(JobOptions))

#: Endings that people give to the name of a function.
_FUNCTION_ENDING = re.compile(r"(function|func|fun|fn)$")


class JobFile:
    """A job file that was loaded: its module, and what it binds for a job."""

    def __init__(self, path: str, module_name: str, module: types.ModuleType, argv: list[str]):
        """Raise JobFileError for a function whose name is nearly one of a job's."""
        self.path = path
        #: under which the module is registered; with its package, if it has one
        self.module_name = module_name
        #: `sys.argv` as the file left it
        self.argv = argv
        #: what the file binds as `job`, or None
        self.job = getattr(module, "job", None)
        self._module = module
        self._bound = {name: getattr(module, name) for name in NAMES if hasattr(module, name)}
        _check_public_names(path, module_name, module)

    @property
    def job_name(self) -> str:
        """Return what the job is called if it does not choose a name."""
        return self.module_name.rpartition(".")[2]

    def check_job_alone(self) -> None:
        """Raise JobFileError if the file binds parts of a job beside `job`."""
        if self._bound:
            raise JobFileError(
                f"job file {shown(self.path)} binds both job and {', '.join(self._bound)}; "
                f"pass them to Job(...), or leave job out"
            )

    def read_stages(self) -> list[dict[str, Any]]:
        """Return what the file binds: the arguments of `Job`, and of `then` for each further stage.

        Raise JobFileError if anything is missing or wrong.
        """
        if "steps" in self._bound:
            return self._read_steps()
        functions = {name: self._bound.get(name) for name in FUNCTION_NAMES}
        if functions["mapfn"] is None and functions["reducefn"] is None:
            kind = type(self.job).__name__
            hint = "" if self.job is None else f" (its job is of type {kind}, not mmgevent.Job)"
            raise JobFileError(
                f"job file {shown(self.path)} binds neither mapfn nor reducefn, nor job{hint}; "
                f"{_nearest_function(self._module)}define def mapfn(key, value): ..."
            )
        values = {**functions, "sort_values": self._bound.get("sort_values")}
        return [{"datasource": self._read_datasource(), **values, **self._read_options()}]

    def _read_steps(self) -> list[dict[str, Any]]:
        from mmgevent.job.chain import read_steps

        beside = [name for name in (*FUNCTION_NAMES, "sort_values") if name in self._bound]
        if beside:
            raise JobFileError(
                f"job file {shown(self.path)} binds both steps and {', '.join(beside)}; put the functions into the steps: "
                f'steps = [{{"mapfn": ..., "reducefn": ...}}, ...]'
            )
        options = self._read_options()
        try:
            first, *others = read_steps(self._bound["steps"], options)
        except UsageError as error:
            raise JobFileError(f"job file {shown(self.path)}: {error}") from None
        return [{"datasource": self._read_datasource(), **first}, *others]

    def _read_datasource(self) -> Any:
        if "datasource" not in self._bound:
            near = [name for name in vars(self._module) if _is_near(name, "datasource")]
            advice = f"did you mean it by {near[0]}? If not, bind" if near else "bind"
            raise JobFileError(
                f"job file {shown(self.path)} binds no datasource; {advice} (key, value) pairs, a mapping, or "
                f"datasource = Files(sys.argv[1:])"
            )
        return self._bound["datasource"]

    def _read_options(self) -> dict[str, Any]:
        options = self._bound.get("options", {})
        if "options" not in self._bound:
            _check_near_options(self.path, self._module)
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise JobFileError(
                f'job file {shown(self.path)}: options must be a dict such as {{"retries": 2}}; got {options!r:.60}'
            )
        clashes = [name for name in NAMES if name in options]
        if clashes:
            raise JobFileError(
                f"job file {shown(self.path)}: {clashes[0]} is not an option; bind it in the file itself"
            )
        named = {"name": self.job_name, **options}
        try:
            JobOptions.of(named)
        except OptionError as error:
            raise JobFileError(f"job file {shown(self.path)}: options: {error}") from None
        return named


def load_file(path: str, args: Sequence[str]) -> JobFile:
    """Load the job file at `path`; `Job.from_file` says how."""
    _check_path(path)
    name = _check_stem(path)
    return JobFile(path, name, *_load_module(path, name, args))


def load_module(name: str, args: Sequence[str]) -> JobFile:
    """Load a module in a package as a job file, by its dotted name; `Job.from_module` says how."""
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise JobFileError(
            f"{name!r} is not the name of a module, such as package.job; a path goes without -m"
        )
    folder = working_directory.find()
    if folder:
        beside.give_from_folders([folder])
        if folder not in sys.path[:1]:
            sys.path.insert(0, folder)
    path = _find_module(name)
    if "." not in name:
        _check_stem(path)
    return JobFile(path, name, *_load_module(path, name, args))


def _find_module(name: str) -> str:
    """Return the path of the source of a module. Its package is imported."""
    looked = f"looked in {working_directory.describe()} and on the import path"
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise JobFileError(f"there is no module {error.name} ({looked})") from None
    except Exception as error:  # the package, which is imported, may raise anything
        package = name.rpartition(".")[0]
        report = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
        raise JobFileError(f"package {package} failed while it was imported:\n{report}") from None
    if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
        raise JobFileError(f"there is no module {name} ({looked})")
    if spec.submodule_search_locations is not None:
        raise JobFileError(
            f"{name} is a package; name the module in it that holds the job, such as {name}.job"
        )
    path = spec.origin or ""
    if not path.endswith(".py") or not os.path.isfile(path):
        raise JobFileError(f"module {name} ({shown(path)}) has no source file; a job needs one")
    return path


def _check_path(path: str) -> None:
    """Refuse what is no file of Python source, by its name."""
    has_suffix = path.endswith(".py")
    if os.path.isdir(path):
        raise JobFileError(f"job file {shown(path)} is a folder; name a .py file in it")
    if not has_suffix and os.path.isfile(f"{path}.py"):
        raise JobFileError(f"job file {shown(path)} does not end in .py; did you mean {shown(path)}.py?")
    if not os.path.exists(path):
        raise JobFileError(
            f"job file {shown(path)} does not exist (looked in {working_directory.describe()})"
        )
    if not has_suffix:
        raise JobFileError(
            f"job file {shown(path)} does not end in .py; a job file is a Python module: rename it"
        )
    if not os.path.isfile(path):
        raise JobFileError(f"job file {shown(path)} is not a file")


def _check_stem(path: str) -> str:
    stem = os.path.splitext(os.path.basename(path))[0]
    if not stem.isidentifier() or keyword.iskeyword(stem):
        raise JobFileError(
            f"job file {shown(path)}: its functions live in a module named {stem!r}, which is not a name "
            f"Python allows; rename the file with letters, digits and _ only"
        )
    if stem in sys.stdlib_module_names or stem in sys.builtin_module_names or stem in OWN_MODULES:
        kind = "one of mmgevent's own modules" if stem in OWN_MODULES else "a module of the standard library"
        raise JobFileError(f"job file {shown(path)} has the name of {kind}; rename it, say my_{stem}.py")
    loaded = sys.modules.get(stem)
    if loaded is not None and not _is_job_module(loaded, path):
        raise JobFileError(
            f"job file {shown(path)} has the name of a module that is already imported "
            f"({getattr(loaded, '__file__', None) or 'built in'}); rename it"
        )
    return stem


def _is_job_module(module: types.ModuleType, path: str) -> bool:
    """Return whether `module` came from this file, or from another job file of the same name."""
    file = getattr(module, "__file__", None)
    if hasattr(module, "__mmgevent_job_file__"):
        return True
    return file is not None and os.path.realpath(file) == os.path.realpath(path)


def _load_module(path: str, stem: str, args: Sequence[str]) -> tuple[types.ModuleType, list[str]]:
    """Run the file as a module of this name.

    Return the module, and `sys.argv` as the file left it.
    """
    location = os.path.abspath(path)
    code = _compile(path, location)
    loader = importlib.machinery.SourceFileLoader(stem, location)
    spec = importlib.util.spec_from_file_location(stem, location, loader=loader)
    assert spec is not None, "a loader was given"
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__mmgevent_job_file__"] = location
    package = stem.rpartition(".")[0]
    # The folder of a symbolic link is that of its target, as for Python. A module of a package was
    # found on the import path.
    folder = working_directory.find() if package else os.path.dirname(os.path.realpath(location))
    beside.give_from_folders([folder] if folder else [])
    added = folder != "" and (not sys.path or sys.path[0] != folder)
    if added:
        sys.path.insert(0, folder)
    previous, argv = sys.modules.get(stem), sys.argv
    sys.modules[stem] = module
    sys.argv = [path, *args]
    try:
        exec(code, module.__dict__)
        if package:
            setattr(sys.modules[package], stem.rpartition(".")[2], module)
        if not OPTION_NAMES.isdisjoint(vars(module)):
            from mmgevent.job.stray_options import warn_of_stray_options

            warn_of_stray_options(path, code, module, OPTION_NAMES)
        return module, list(sys.argv)
    except BaseException as error:
        if previous is None:
            sys.modules.pop(stem, None)
        else:
            sys.modules[stem] = previous
        if added and folder in sys.path:
            sys.path.remove(folder)
        if not isinstance(error, Exception):
            raise  # SystemExit of a job file's own argument parser, Ctrl-C
        raise _load_failure(path, location, error) from None
    finally:
        sys.argv = argv


def _compile(path: str, location: str) -> types.CodeType:
    try:
        with open(location, "rb") as file:
            source = file.read()
    except OSError as error:
        raise JobFileError(f"cannot read job file {shown(path)}: {error.strerror or error}") from error
    try:
        code = compile(source, location, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise JobFileError(_describe_syntax_error(path, error)) from None
    except ValueError as error:  # null bytes, before Python 3.12
        raise JobFileError(f"job file {shown(path)}: {error}") from None
    # Tracebacks show the lines that were loaded, even after an edit.
    lines = importlib.util.decode_source(source).splitlines(keepends=True)
    linecache.cache[location] = (len(source), None, lines, location)
    return code


def _describe_syntax_error(path: str, error: SyntaxError) -> str:
    line = f", line {error.lineno}" if error.lineno else ""
    lines = [f"job file {shown(path)}{line}: {type(error).__name__}: {error.msg}"]
    if error.text:
        text = error.text.rstrip("\n")
        code = text.lstrip()
        lines.append(f"    {code}")
        column = (error.offset or 0) - 1 - (len(text) - len(code))
        if 0 <= column <= len(code):
            lines.append("    " + " " * column + "^")
    return "\n".join(lines)


def _load_failure(path: str, location: str, error: Exception) -> JobFileError:
    """Describe an exception of the job file, from its own first line on."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename != location:
        tb = tb.tb_next
    if isinstance(error, UsageError):
        line = f", line {tb.tb_lineno}" if tb is not None else ""
        return JobFileError(f"job file {shown(path)}{line}: {error}")
    report = "".join(traceback.format_exception(type(error), error, tb)).rstrip()
    return JobFileError(f"job file {shown(path)} failed while it was loaded:\n{report}")


def _check_public_names(path: str, stem: str, module: types.ModuleType) -> None:
    """Refuse a function whose name is nearly one of a job's.

    A function that is imported under its own name is no typing error.
    """
    for name, value in vars(module).items():
        if name.startswith("_") or name in FUNCTION_NAMES or not callable(value):
            continue
        nearest = _meant_function(name)
        home = getattr(value, "__module__", stem)
        if nearest is None or (home != stem and getattr(value, "__name__", None) == name):
            continue
        raise JobFileError(
            f"job file {shown(path)} binds {name}, which is none of {', '.join(FUNCTION_NAMES)}; "
            f"did you mean {nearest}? (a function of your own: call it _{name})"
        )


def _meant_function(name: str) -> str | None:
    """Return the function of a job that `name` probably means, or None.

    Every name that ends in fn means one, and so do map_func, reduceFunction and the like.
    """
    plain = _FUNCTION_ENDING.sub("fn", name.lower().replace("_", ""))
    if not plain.endswith("fn"):
        return None
    import difflib

    cutoff = 0.0 if name.endswith("fn") else 0.8
    return next(iter(difflib.get_close_matches(plain, FUNCTION_NAMES, n=1, cutoff=cutoff)), None)


def _nearest_function(module: types.ModuleType) -> str:
    """Return a question about a function of the file that may be meant, or ""."""
    import difflib

    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__ and callable(value):
            nearest = difflib.get_close_matches(name.lower(), ("mapfn", "reducefn", "mapper", "reducer"), n=1)
            if nearest:
                role = "mapfn" if nearest[0].startswith("map") else "reducefn"
                return f"did you mean {role} by {name}? If not, "
    return ""


def _check_near_options(path: str, module: types.ModuleType) -> None:
    """Refuse a dict of options under a name that is nearly right."""
    for name, value in vars(module).items():
        is_options = isinstance(value, dict) and value and set(value) <= OPTION_NAMES
        if is_options and _is_near(name, "options"):
            raise JobFileError(
                f"job file {shown(path)} binds {name}, a dict of options; did you mean options? "
                f"(a dict of your own: call it _{name})"
            )


def _is_near(name: str, right: str) -> bool:
    import difflib

    plain = name.lower().replace("_", "")
    return not name.startswith("_") and bool(difflib.get_close_matches(plain, (right,), cutoff=0.8))
