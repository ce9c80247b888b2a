"""What two sides compare before they work together: Python's minor version and dill's.

Code objects and pickles made by one side are loaded by the other, so both must match.
The server never loads either, so dill is looked up and never imported.
"""

from __future__ import annotations

import functools
import sys

PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


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
