"""Find the Python that our own processes run with.

Usually that is the one that runs this code. If Python is part of another program, such as uWSGI,
`sys.executable` names that program, or nothing: starting it would start another server. Then the
Python is the first of these:

1. what the variable MMG_PYTHON names;
2. the Python of the same version that lies where the libraries of this one do.
"""

from __future__ import annotations

import os
import sys

from mmgevent.errors import StartError

VARIABLE = "MMG_PYTHON"
#: How the names of programs begin that are Python itself. Nix puts a dot before them.
_NAMES = ("python", "pypy")


def find_python() -> str:
    """Return the path of the Python to start.

    Raise StartError if there is none, or MMG_PYTHON names none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _find_named(named)
    own = sys.executable
    if own and _is_python(own) and not getattr(sys, "frozen", False):
        return own
    for path in _list_candidates():
        if _is_python(path):
            return path
    what = f"{own!r} is not Python" if own else "it is not known where this Python is"
    raise StartError(
        f"no process can be started: {what}, and there is none in {os.path.join(sys.prefix, 'bin')}; "
        f"set {VARIABLE} to the path of a Python {_version()} that has mmgevent"
    )


def _find_named(named: str) -> str:
    found: str | None = named
    if os.sep not in named:
        import shutil

        found = shutil.which(named)
    if found is None or not _is_program(found):
        raise StartError(
            f"no process can be started: {VARIABLE} is {named!r}, which is no program; "
            f"expected the path of a Python {_version()} that has mmgevent"
        )
    return found


def _list_candidates() -> list[str]:
    """Return where this version's Python may be; its own environment comes first."""
    prefixes = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix))
    names = (f"python{_version()}", f"pypy{_version()}")
    inside = [os.path.join(prefix, "bin", name) for prefix in prefixes for name in names]
    # A virtual environment that another program has made may have this name only.
    inside += [os.path.join(sys.prefix, "bin", "python")] if sys.prefix != sys.base_prefix else []
    base = getattr(sys, "_base_executable", None)
    return [*inside, *([base] if base else [])]


def _is_python(path: str) -> bool:
    name = os.path.basename(path).lstrip(".").lower()
    return name.startswith(_NAMES) and _is_program(path)


def _is_program(path: str) -> bool:
    return os.path.isfile(path)  # os.access would check the real user, not the effective one


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
