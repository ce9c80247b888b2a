"""The fingerprint of a job: what its results depend on, in comparable texts.

Two runs of the same job with the same inputs have the same fingerprint, also under other hash
seeds. Options that change when and where something runs, not what comes of it, do not count: a job
that ran out of memory or time may be resumed with more.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from mmgevent.errors import OutputError
from mmgevent.job.digest import Digests
from mmgevent.job.functions import FUNCTION_FIELDS
from mmgevent.job.inputs.source import FileSource, Source, parts_of
from mmgevent.job.inputs.walks import is_repeatable
from mmgevent.job.job import Job
from mmgevent.job.outputs.record import HASHED, ORDER, About
from mmgevent.job.remote.urls import is_remote
from mmgevent.job.shipping import settings
from mmgevent.wire.hello import PYTHON_VERSION, VERSION

#: Most input files that have a line of their own. Of more, only the first that differs could be
#: named, and the record would be long.
MAX_LISTED = 100

#: Most input files, and most work for digests, of a fingerprint that nobody has asked for: about
#: 0.05 s each. The work is in bytes; each object counts as `digest.OBJECT_BYTES`.
MAX_CHEAP_FILES = 5_000
MAX_CHEAP_BYTES = 32 * 1024 * 1024

#: Options that do not change results.
_NOT_COMPARED = frozenset(
    (
        "retries",
        "task_timeout",
        "setup_timeout",
        "memory_limit",
        "greenlets",
        "retransmit",
        "py_files",
        "results",
        "plain_classes",
        "name",
    )
)

#: Settings that travel and change results. Others, such as variables, may name the run.
_SETTINGS = (
    "the time zone",
    "the locale",
    "the encoding of text",
    "the context of decimal",
    "the umask",
    "csv.field_size_limit",
    "csv dialects",
    "calendar.setfirstweekday",
    "namespaces of xml.etree.ElementTree",
    "error state and print options of numpy",
)

#: Types of option values that a message can show.
_SHOWN = (int, float, str, bool, type(None))


def make_fingerprint(
    job: Job[Any, Any], *, is_cheap: bool = False, folder: str | None = None, **output: str
) -> About:
    """Return the fingerprint of a job. `output`: what its output depends on besides.

    `is_cheap`: raise OutputError if it would take noticeable time. `folder`: where the results are
    written; nothing in it counts. Calls nothing of the user's. Looks at the input files. Raise
    OutputError for a job that has none, in one sentence, and other UsageErrors for what is wrong with
    the job.
    """
    functions = job.functions()
    if functions.offered_names:
        raise OutputError(
            f"the code of the function {min(functions.offered_names)!r}, which workers offer, is not known here"
        )
    if job.previous is not None:
        raise OutputError("a job of several stages makes the earlier ones anew in each run")
    if job.options.allocation == "oneshot":
        raise OutputError('with allocation="oneshot" each run maps other items')
    about = {"Python": PYTHON_VERSION, "mmgevent": VERSION, **output}
    digests = Digests(job.by_value, MAX_CHEAP_BYTES if is_cheap else None, folder)
    for field in dataclasses.fields(job.options):
        value = getattr(job.options, field.name)
        if field.name in _NOT_COMPARED:
            continue
        if isinstance(value, _SHOWN):
            about[f"option {field.name}"] = repr(value)
        else:
            digests.add(f"option {field.name}", value)
    if job.argv is not None:
        about["arguments of the job"] = repr(list(job.argv[1:]))
    for path in job.options.py_files:
        digests.tree.add_py_file(path)
    for role in FUNCTION_FIELDS:
        if (function := getattr(functions, role)) is not None:
            digests.add(role, function)
    for role in ("finishfn", "sort_values"):
        if (function := getattr(job, role)) is not None:
            digests.add(role, function)
    _add_source(digests, job.datasource)
    files = _list_files(job.datasource, MAX_CHEAP_FILES if is_cheap else None)
    found = settings.read()
    for name in _SETTINGS:
        if name in found:
            digests.add(name, found[name])
    digests.add_effects()
    digests.add_modules()
    return {**about, **{label: HASHED + text for label, text in {**digests.about, **files}.items()}}


def _add_source(digests: Digests, datasource: Any) -> None:
    """Add what is known of a datasource but for its files. Raise OutputError if it has no fingerprint."""
    if isinstance(datasource, Source):
        for part in parts_of(datasource):
            if streams := part.streams():
                raise OutputError(
                    f"the input {streams[0]} can be read only once; save it to a file, and name that"
                )
            if not isinstance(part, FileSource):
                raise OutputError(f"the datasource {part!r} does not say what it depends on")
            known = {name: value for name, value in vars(part).items() if name not in ("paths", "_list")}
            digests.add("the datasource", (type(part), known))
        return
    if not is_repeatable(datasource):
        what = "a function" if callable(datasource) else f"a {type(datasource).__name__}"
        raise OutputError(
            f"the datasource is {what}, whose items nobody can compare with those of an earlier run; pass Files, Lines "
            f"or the like, a list or a dict"
        )
    if isinstance(datasource, (range, set, frozenset)):  # the order of a set is another in each run
        digests.add("the datasource", datasource)
    else:
        is_dict = isinstance(datasource, dict)
        items: Iterable[Any] = datasource.items() if is_dict else datasource
        digests.add_items("the datasource", "dict" if is_dict else "list", items)


def _list_files(datasource: Any, most: int | None) -> dict[str, str]:
    """Return size and time of each file, or one digest of many; and how they are read, in order.

    Raise OutputError if there are more than `most`.
    """
    if not isinstance(datasource, Source):
        return {}
    files: dict[str, str] = {}
    order: list[list[str]] = []
    for part in parts_of(datasource):
        assert isinstance(part, FileSource)
        for path in filter(is_remote, part.paths):  # before anything is listed
            raise _remote_error(path)
        room = None if most is None else most - sum(map(len, order)) + 1
        order.append(list(islice(part.find_paths(), room)))
        if most is not None and sum(map(len, order)) > most:
            raise OutputError(f"there are more than {most} input files")
        for path in order[-1]:
            if is_remote(path):
                raise _remote_error(path)
            try:
                status = os.stat(path)
            except OSError as error:
                raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
            files[f"input {path}"] = f"{status.st_size} {status.st_mtime_ns}"
    digests = Digests(())
    if len(files) > MAX_LISTED:
        digests.add(f"one of {len(files)} input files", files)
        files = {}
    digests.add(ORDER, order)
    return {**files, **digests.about}


def _remote_error(path: str) -> OutputError:
    return OutputError(
        f"the input {path} is remote, and is not compared with that of an earlier run; copy it to a local file, and "
        f"name that"
    )
