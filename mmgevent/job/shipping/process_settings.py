"""Read and set what a program may set in its interpreter and its process.

Each `read_...` returns plain data, or None if all is as in a fresh interpreter. Each `set_...`
makes it so in another process.
"""

from __future__ import annotations

import os
import sys

#: What a fresh interpreter has.
RECURSION_LIMIT = 1000
#: Time between two switches of threads, seconds, of a fresh interpreter.
SWITCH_INTERVAL_S = 0.005

#: Stack that systems give a main thread, bytes. A program has asked for more if it has more.
STACK_BYTES = 8 * 1024 * 1024

#: Where Linux keeps the environment that a program was started with.
START_ENVIRONMENT_PATH = "/proc/self/environ"

#: Variables that name a place on one machine, or a user of it; that are settings of their own; or
#: that are ours.
_MACHINE_VARIABLES = frozenset(
    [
        "CONDA_PREFIX",
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "HOME",
        "HOSTNAME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "MAIL",
        "OLDPWD",
        "PATH",
        "PWD",
        "SHELL",
        "SHLVL",
        "SSH_AUTH_SOCK",
        "TEMP",
        "TERM",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "WAYLAND_DISPLAY",
        "_",
    ]
)
_MACHINE_PREFIXES = ("LC_", "LD_", "MMG_", "PYTEST_", "PYTHON", "XDG_")


def read_recursion_limit() -> int | None:
    limit = sys.getrecursionlimit()
    return None if limit == RECURSION_LIMIT else limit


def read_switch_interval() -> float | None:
    seconds = sys.getswitchinterval()
    return None if seconds == SWITCH_INTERVAL_S else seconds


def read_digits() -> int | None:
    digits = sys.get_int_max_str_digits()
    return None if digits == sys.int_info.default_max_str_digits else digits


def read_dont_write_bytecode() -> bool | None:
    return True if sys.dont_write_bytecode else None


def set_dont_write_bytecode(value: bool) -> None:
    sys.dont_write_bytecode = value


def read_thread_stack() -> int | None:
    threading = sys.modules["threading"]
    n_bytes: int = threading.stack_size()  # this call also sets it to 0
    if n_bytes:
        threading.stack_size(n_bytes)
    return n_bytes or None


def set_thread_stack(n_bytes: int) -> None:
    import threading

    threading.stack_size(n_bytes)


def read_stack_limit() -> int | None:
    resource = sys.modules["resource"]
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    except OSError:  # a sandbox forbids the call: then nobody has changed the limit here
        return None
    return None if soft == STACK_BYTES else soft


def set_stack_limit(n_bytes: int) -> None:
    """Raise the limit on the stack of the main thread; a higher one of the system's stays."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    is_less = soft != resource.RLIM_INFINITY and (n_bytes == resource.RLIM_INFINITY or soft < n_bytes)
    if is_less:
        resource.setrlimit(resource.RLIMIT_STACK, (n_bytes, hard))


def read_umask() -> int:
    """Return the mask, if possible without setting it: threads may make files just now."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass  # no /proc
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def set_umask(mask: int) -> None:
    os.umask(mask)


def read_variables() -> dict[str, str] | None:
    """Return the variables that this program has set itself, or None if none are known."""
    try:
        with open(START_ENVIRONMENT_PATH, "rb") as file:
            lines = file.read().split(b"\0")
    except OSError:
        return None
    start = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    found = {
        name: value
        for name, value in os.environ.items()
        if start.get(os.fsencode(name)) != os.fsencode(value)
        and name not in _MACHINE_VARIABLES
        and not name.startswith(_MACHINE_PREFIXES)
    }
    return found or None


def set_variables(found: dict[str, str]) -> None:
    os.environ.update(found)
