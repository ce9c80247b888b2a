"""Import what mmgevent needs from its real place, whatever lies in the user's folders.

A `json.py` in the working directory, beside the job or in a folder of PYTHONPATH comes first on
`sys.path`. Python would then give it to every importer of json: to our processes, and to the
libraries that they use.

- `protect` puts a finder first that knows the real places of such modules. Our own processes
  (commands, engines, templates, executors, trial loads) call it before anything else.
- A program of the user's is protected only if one of its folders hides a module.
- The user's own code still gets the module that it means: see `beside`.

What this module imports is built in or frozen, so nothing can hide it (`__future__` is not).
"""

import _frozen_importlib_external as _external
import _imp
import os
import sys

#: Modules of the distributions that we depend on, and of those that they depend on.
DEPENDENCIES = frozenset(
    [
        "dill",
        "xxhash",
        "gevent",
        "greenlet",
        "cryptography",
        "cffi",
        "_cffi_backend",
        "psutil",
        "rich",
        "pygments",
        "markdown_it",
        "mdurl",
    ]
)

#: Modules that are loaded while Python starts. No folder of the user's can hide them.
_STARTUP = frozenset(("encodings", "sitecustomize", "usercustomize", "__main__"))

#: The folder that holds the package.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: The program that a fresh Python of ours runs first. `-m` would put the working directory first on
#: the path. Installed modules come before the folders of PYTHONPATH, and mmgevent is this one.
_START = """import os, sys
def whole(path):
    try:
        return os.path.abspath(path)
    except OSError:
        return path
users = [whole(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
real = [path for path in sys.path if path and path not in users]
users = [path for path in sys.path if path and path not in real]
library = os.path.dirname(os.__file__)
at = real.index(library) + 2 if library in real else 0
sys.path[:] = [*real[:at], {root!r}, *real[at:], *users]
from mmgevent import real_modules
sys.path[:] = [*real, *users, *({root!r},) * ({root!r} not in real + users)]
real_modules.protect()
"""


def is_real(name: str) -> bool:
    """Return whether we or our libraries may need a top-level module of this name."""
    return name in sys.stdlib_module_names or name in DEPENDENCIES


class RealFinder:
    """Finds the modules that we may need in their real places, and no others."""

    def __init__(self, library: list[str], installed: list[str]):
        self._library = library
        self._installed = installed

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Return the spec of a top-level module, or None if other finders shall look for it.

        Raise ModuleNotFoundError for one that the standard library has on other systems only.
        """
        if path is not None or not is_real(name):
            return None
        if name in DEPENDENCIES:
            return _external.PathFinder.find_spec(name, self._installed)
        spec = _external.PathFinder.find_spec(name, self._library)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


def arguments(body: str) -> list[str]:
    """Return the arguments of a Python that runs a program as one of our own processes.

    Without `-P`, Python 3.13 imports linecache from the working directory before any program runs.
    """
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [*safe, "-c", f"{_START.format(root=ROOT)}{body}"]


def protect() -> None:
    """Import the modules that we may need from their real places from now on."""
    start = _library_index()
    if start is None or is_protected():
        return
    before = [entry for entry in (*_python_path(), *sys.path[:start]) if _holds_installed(entry)]
    users = [entry for entry in _python_path() if entry not in before]
    after = [entry for entry in sys.path[start:] if entry not in users]
    library = [*filter(_is_zip, sys.path[:start]), *after]
    finder = RealFinder(library, [*before, *library, *users])
    at = next((i for i, other in enumerate(sys.meta_path) if other is _external.PathFinder), 0)
    sys.meta_path.insert(at, finder)  # type: ignore[arg-type]


def protect_program() -> list[str]:
    """Protect a program of the user's that imports mmgevent, if one of its folders hides a module.

    Return those folders, so that the program can be given their modules; none if nothing is hidden.
    `python -m mmgevent` is our own: its import path begins with the working directory only until it
    removes that.
    """
    if _is_own_command():
        protect()
        return []
    folders = user_folders()
    if not hidden_names(folders):
        return []
    protect()
    return folders


def _is_own_command() -> bool:
    """Return whether Python is about to run a module of ours, by `-m`."""
    if sys.argv[:1] != ["-m"]:
        return False
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return after[:1] != [] and after[0].partition(".")[0] == "mmgevent"


def is_protected() -> bool:
    """Return whether `protect` was called in this process."""
    return any(isinstance(finder, RealFinder) for finder in sys.meta_path)


def absolute(path: str) -> str:
    """Return the absolute path.

    If the working directory no longer exists, a relative path stays as it is.
    """
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def user_folders() -> list[str]:
    """Return the folders before the standard library: the script's, those of PYTHONPATH."""
    return [absolute(entry) for entry in sys.path[: _library_index() or 0] if not _is_zip(entry)]


def _library_index() -> int | None:
    """Return where the standard library is on `sys.path`."""
    folder = os.path.dirname(os.__file__)
    return sys.path.index(folder) if folder in sys.path else None


def _python_path() -> list[str]:
    text = os.environ.get("PYTHONPATH", "")
    return [absolute(entry) for entry in text.split(os.pathsep) if entry]


def _holds_installed(folder: str) -> bool:
    """Return whether distributions are installed in a folder (`pip install --target`)."""
    return any(entry.endswith(".dist-info") for entry in _list(folder))


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not there, or not ours to read: Python finds nothing there either
        return []


def _is_zip(entry: str) -> bool:
    name = os.path.basename(entry)
    return name.startswith("python3") and name.endswith(".zip")


def hidden_names(folders: list[str]) -> frozenset[str]:
    """Return the names of such modules that Python would find in one of these folders instead."""
    found = set()
    for folder in folders:
        entries = _list(folder)
        is_installed = any(entry.endswith(".dist-info") for entry in entries)
        for entry in entries:
            stem, dot, suffix = entry.partition(".")
            if not is_real(stem) or stem in found or stem in _STARTUP:
                continue
            if _imp.is_builtin(stem) or _imp.is_frozen(stem) or (is_installed and stem in DEPENDENCIES):
                continue
            is_package = not dot and os.path.isfile(os.path.join(folder, entry, "__init__.py"))
            if is_package or suffix in ("py", "pyc"):
                found.add(stem)
    return frozenset(found)
