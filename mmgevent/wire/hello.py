"""The hello of each side of a link, and the versions in it.

Each side loads code objects and pickles of the other, so the versions of Python and dill must
match.  The server loads neither: it looks the version of dill up and never imports dill.

Commands show the same facts to people: versions, and whether the C core is in use.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from mmgevent.errors import UsageError

if TYPE_CHECKING:
    from mmgevent.wire.frames import Frame

#: Version of mmgevent.
VERSION = "0.1.0"

#: Version of Python without the last number, which changes no bytecode.
PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: Longest name of a worker or driver, characters. It stands in every message about it.
MAX_NAME_CHARS = 100


def clean_name(name: str) -> str:
    """Return a name that a peer chose, safe for logs and messages."""
    import re  # here, since commands start without

    return re.sub(r"[^\w ./:@+-]", "?", name, flags=re.ASCII)[:MAX_NAME_CHARS]


def hello(role: str, *, dill: str, **fields: Any) -> Frame:
    """Return the first message of either side of a link.

    `dill` is the version of dill; `fields` are those of one role only.
    """
    from mmgevent.wire.messages import PROTOCOL, control  # with json, which commands start without

    return control(
        "hello",
        role=role,
        protocol=PROTOCOL,
        python=PYTHON_VERSION,
        dill=dill,
        version=VERSION,
        host=os.uname().nodename,
        pid=os.getpid(),
        **fields,
    )


@functools.cache
def user_name() -> str:
    """Return the name of the user of this process, or its number if it has no name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except (KeyError, OSError):  # as in many containers
        return str(os.getuid())


@functools.cache
def dill_version() -> str:
    """Return the version of the installed dill, or "none" if there is none.

    That takes 20 ms, to read the package's metadata.  Only links between machines need it.
    """
    import importlib.metadata

    try:
        return importlib.metadata.version("dill")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def find_mismatch(ours: dict[str, object], theirs: dict[str, object], who: str) -> str | None:
    """Return one sentence that names both sides if two `hello` messages do not match, or None."""
    for field, what in (("protocol", "protocol"), ("python", "Python"), ("dill", "dill")):
        if ours[field] != theirs[field]:
            return (
                f"this {who} has {what} {theirs[field]}, the server has {what} {ours[field]}: "
                f"install the same version of {'mmgevent' if field == 'protocol' else what} on both sides"
            )
    return None


def describe_python() -> str:
    """Return implementation and version of this Python, such as "CPython 3.13.0"."""
    import platform

    return f"{platform.python_implementation()} {platform.python_version()}"


def missing_core() -> str:
    """Return why this process does not use the C core, or "" if it does."""
    from mmgevent import _speedups

    if _speedups.NATIVE:
        return ""
    if os.environ.get("MMGEVENT_PURE") == "1":
        return "MMGEVENT_PURE=1 is set"
    return "it was not built: install a C compiler, then mmgevent again"


def check_gil(abiflags: str = sys.abiflags) -> None:
    """Raise UsageError on a free-threaded build of Python without gevent.

    pip finds no gevent for such a build (gevent 26.9), and the ImportError does not say why.
    """
    if "t" not in abiflags:
        return
    from importlib.util import find_spec

    if find_spec("gevent") is None:
        raise UsageError(
            f"this is a free-threaded build of Python ({PYTHON_VERSION}t), and gevent, which mmgevent "
            f"needs, has no release for it: use the usual build, python{PYTHON_VERSION}"
        )
