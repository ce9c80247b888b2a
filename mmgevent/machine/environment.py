"""What environment a process can be given, as execve(2) has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

#: Strings of an environment and the arguments together, bytes: Linux gives no more, however large the stack may be.
_LINUX_TOTAL_BYTES = 6 * 1024 * 1024
#: One string of them, in pages (MAX_ARG_STRLEN of Linux): 128 KiB on most machines.
_LINUX_STRING_PAGES = 32
#: Arguments of the processes that we start ourselves, bytes: less than a page, and a path or two.
_ARGUMENT_BYTES = 32 * 1024
#: Each string takes a zero byte at its end, and a pointer to it.
_STRING_BYTES = 1 + 8


def find_fault(environ: Mapping[str, str]) -> str | None:
    """Return why no process can be given this environment, naming the largest variable; None if one can."""
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
    """Return how many bytes an environment may have here, in all."""
    most = os.sysconf("SC_ARG_MAX")
    if sys.platform == "linux":
        most = min(most, _LINUX_TOTAL_BYTES)
    return most - _ARGUMENT_BYTES


_ADVICE = "unset it, or put its value into a file and the path of that into the variable"
