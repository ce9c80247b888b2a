"""What two sides compare before they work together: Python's minor version and dill's.

Code objects and pickles made by one side are loaded by the other, so both must match.
The server never loads either, so dill is looked up and never imported.

Also what a person asks about the Python and the core that this process runs on.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from mmgevent.errors import UsageError

if TYPE_CHECKING:
    from mmgevent.wire.frames import Frame

#: version of mmgevent
VERSION = "0.1.0"

PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def hello(role: str, *, dill: str, **fields: Any) -> Frame:
    """Return the first message of either side of a link: who this process is, and what it runs on.

    `dill` is its version; `fields` are what a role says of itself beyond that.
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
def dill_version() -> str:
    """Return the version of the installed dill, "none" without one.

    From the package's metadata, some 20 ms: only links between machines ask.
    """
    import importlib.metadata

    try:
        return importlib.metadata.version("dill")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def find_mismatch(ours: dict[str, object], theirs: dict[str, object], who: str) -> str | None:
    """Compare two `hello` messages; return one sentence naming both sides, or None if they fit."""
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
    """Return why the C core is not in use in this process; "" if it is."""
    from mmgevent import _speedups

    if _speedups.NATIVE:
        return ""
    if os.environ.get("MMGEVENT_PURE") == "1":
        return "MMGEVENT_PURE=1 is set"
    return "it was not built: install a C compiler, then mmgevent again"


def check_gil(abiflags: str = sys.abiflags) -> None:
    """Raise UsageError on a free-threaded build of Python without gevent: nothing of ours can run there.

    pip finds no gevent for such a build (gevent 26.9), and the error of its import says nothing about that.
    """
    if "t" not in abiflags:
        return
    from importlib.util import find_spec

    if find_spec("gevent") is None:
        raise UsageError(
            f"this is a free-threaded build of Python ({PYTHON_VERSION}t), and gevent, which mmgevent "
            f"needs, has no release for it: use the usual build, python{PYTHON_VERSION}"
        )
