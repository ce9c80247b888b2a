"""Check whether a process can be started with an environment: execve(2) has limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

#: Most strings of an environment and the arguments together, bytes. Linux allows no more, however
#: large the stack may be.
_LINUX_TOTAL_BYTES = 6 * 1024 * 1024
#: Largest of these strings, pages (MAX_ARG_STRLEN of Linux): 128 KiB on most machines.
_LINUX_STRING_PAGES = 32
#: Room for the arguments of processes that we start, bytes: less than a page, and a path or two.
_ARGUMENT_BYTES = 32 * 1024
#: Size of a string besides its text, bytes: the zero at its end, and a pointer to it.
_STRING_BYTES = 1 + 8


def find_fault(environ: Mapping[str, str]) -> str | None:
    """Return why no process can have this environment, or None if one can."""
    sizes = {name: len(os.fsencode(f"{name}={value}")) + _STRING_BYTES for name, value in environ.items()}
    largest = max(sizes, key=sizes.__getitem__, default="")
    if sys.platform == "linux":
        most = _LINUX_STRING_PAGES * os.sysconf("SC_PAGE_SIZE")
        if sizes.get(largest, 0) > most:
            return (
                f"the environment variable {largest} has {sizes[largest]:,} bytes, and a process can be given at most "
                f"{most:,} in one variable: {_ADVICE}"
            )
    total, most = sum(sizes.values()), max_bytes()
    if total <= most:
        return None
    return (
        f"the environment has {total:,} bytes, and a process can be given at most {most:,}; the largest variable is "
        f"{largest} with {sizes[largest]:,}: {_ADVICE}"
    )


def max_bytes() -> int:
    """Return the largest size of an environment here, bytes."""
    most = os.sysconf("SC_ARG_MAX")
    if sys.platform == "linux":
        most = min(most, _LINUX_TOTAL_BYTES)
    return most - _ARGUMENT_BYTES


_ADVICE = "unset it, or put its value into a file and the path of that into the variable"
