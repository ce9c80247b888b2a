"""Carry process-wide settings that change answers from the program that submits a job to its executors.

What a user sets at the top of a script, such as the precision of decimal or the time zone, holds for functions that
run there. `read` collects what differs from a fresh interpreter, as plain data; `apply` sets it in an executor.

`read` imports nothing: whoever has not loaded a module has not changed its settings. Handlers, hooks, codecs and
whatever else is code stay behind (docs/what-travels.md). What `mmg-run` sets for itself does not count: it sets up
the logger "mmgevent" only, and that one is left out.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mmgevent.job.shipping import library_settings as libraries

#: what a fresh interpreter has
RECURSION_LIMIT = 1000
SWITCH_INTERVAL_S = 0.005
#: bytes of stack that systems give a main thread; what is above was asked for
STACK_BYTES = 8 * 1024 * 1024

#: where the system keeps its own time zone, as a link to the file of that name, or as text
LOCALTIME_PATH, ZONE_NAME_PATH = "/etc/localtime", "/etc/timezone"

_CATEGORIES = ("LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MONETARY", "LC_MESSAGES")
#: locales of LC_CTYPE that mean text as UTF-8, and nothing else
_UTF8_CTYPES = ("C.UTF-8", "C.utf8", "UTF-8")


class Setting(NamedTuple):
    """One thing that a program may set for its whole process, or for its thread."""

    name: str  #: as users know it
    module: str | None  #: that must be loaded where it was set; None: part of every interpreter
    read: Callable[[], Any]  #: returns plain data; None if it is as in a fresh interpreter
    apply: Callable[[Any], None]  #: raises whatever says why it cannot be set
    #: whether loading code may need this value; others wait, since they would change what modules compute as they are
    #: imported, which programs do before they set anything, or make importing them fail
    helps_loading: Callable[[Any], bool]


def read() -> dict[str, Any]:
    """Return the settings of this process and thread that executors need, {name: plain data}."""
    found = {}
    for setting in SETTINGS:
        if setting.module is None or setting.module in sys.modules:
            value = setting.read()
            if value is not None:
                found[setting.name] = value
    return found


def apply(found: dict[str, Any], *, is_loaded: bool) -> list[str]:
    """Make this process and thread as `read` found another one; return a sentence for each setting that fails.

    Before the job's code is loaded only those that help with it, and, with `is_loaded`, all, after it: modules of the
    user's may set something as they are imported, and in the program the last word was another.
    """
    problems = []
    for setting in SETTINGS:
        if setting.name not in found:
            continue
        value = found[setting.name]
        if not is_loaded and not setting.helps_loading(value):
            continue
        try:
            setting.apply(value)
        except Exception as error:
            problems.append(
                f"{setting.name} cannot be set in an executor as in your program "
                f"({type(error).__name__}: {error}); answers may differ"
            )
    return problems


def left_behind() -> list[str]:
    """Return a sentence for each setting that changes answers and cannot travel, as far as that can be seen."""
    return [
        f"{name} does not travel to executors: set it in setupfn" for name in libraries.name_numpy_functions()
    ]


def in_same_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` for another thread or greenlet, where decimal and numpy then are as they are here, once."""
    context = contextvars.copy_context()
    numpy = sys.modules.get("numpy")
    errors = None if not hasattr(numpy, "geterr") else numpy.geterr()  # type: ignore[union-attr]

    def call(*args: Any) -> Any:
        decimal: Any = sys.modules.get("decimal")
        if decimal is not None:
            decimal.setcontext(decimal.getcontext().copy())  # or both would change the same one
        if errors is not None:
            numpy.seterr(**errors)  # type: ignore[union-attr] # numpy 1 keeps it by thread, not by context
        return function(*args)

    return lambda *args: context.run(call, *args)


# -- the interpreter


def _read_recursion_limit() -> int | None:
    limit = sys.getrecursionlimit()
    return None if limit == RECURSION_LIMIT else limit


def _read_switch_interval() -> float | None:
    seconds = sys.getswitchinterval()
    return None if seconds == SWITCH_INTERVAL_S else seconds


def _read_digits() -> int | None:
    digits = sys.get_int_max_str_digits()
    return None if digits == sys.int_info.default_max_str_digits else digits


def _read_dont_write_bytecode() -> bool | None:
    return True if sys.dont_write_bytecode else None


def _set_dont_write_bytecode(value: bool) -> None:
    sys.dont_write_bytecode = value


def _read_thread_stack() -> int | None:
    threading = sys.modules["threading"]
    n_bytes: int = threading.stack_size()  # which sets it to 0
    if n_bytes:
        threading.stack_size(n_bytes)
    return n_bytes or None


def _set_thread_stack(n_bytes: int) -> None:
    import threading

    threading.stack_size(n_bytes)


# -- the process


def _read_stack_limit() -> int | None:
    resource = sys.modules["resource"]
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    except OSError:  # a sandbox forbids the call: then nobody has changed the limit here
        return None
    return None if soft == STACK_BYTES else soft


def _set_stack_limit(n_bytes: int) -> None:
    """Raise the limit on the stack of the main thread; a higher one of the system's stays."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    is_less = soft != resource.RLIM_INFINITY and (n_bytes == resource.RLIM_INFINITY or soft < n_bytes)
    if is_less:
        resource.setrlimit(resource.RLIMIT_STACK, (n_bytes, hard))


def _read_umask() -> int:
    """Return the mask without setting it, where the system has another way: threads may make files just now."""
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


def _set_umask(mask: int) -> None:
    os.umask(mask)


# -- environment variables

#: where Linux keeps the environment that a program was started with
START_ENVIRONMENT_PATH = "/proc/self/environ"

#: variables that say where things are on one machine, or who works there; settings of their own; and those of ours
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


def _read_variables() -> dict[str, str] | None:
    """Return what this program has set in its environment itself; None also where the system does not tell."""
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


def _set_variables(found: dict[str, str]) -> None:
    os.environ.update(found)


# -- time zone

_YEAR_S = 365.25 * 86400
#: a winter and a summer of every third year since 1970: zones that agree then agree, but for days of a change
_LOOKS = [int((year + half) * _YEAR_S) for year in range(0, 68, 3) for half in (0, 0.5)]

Zone = tuple[str | None, str | None, list[tuple[int, str]]]


def _read_zone() -> Zone:
    """Return TZ or None, the system's zone or None if it has no name, and what clocks of this process show.

    The last is not what TZ says where the program never called time.tzset().
    """
    return os.environ.get("TZ"), _system_zone(), _read_clocks()


def _system_zone() -> str | None:
    try:
        path = os.readlink(LOCALTIME_PATH)
    except FileNotFoundError:
        return "UTC"  # as the C library has it
    except OSError:  # a copy of the file: it does not know its name
        try:
            with open(ZONE_NAME_PATH, encoding="ascii") as file:
                return file.read().strip() or None
        except (OSError, UnicodeDecodeError):
            return None
    return path.partition("zoneinfo/")[2] or None


def _read_clocks() -> list[tuple[int, str]]:
    return [(clock.tm_gmtoff, clock.tm_zone) for clock in map(time.localtime, _LOOKS)]


def _set_zone(found: Zone) -> None:
    named, system, clocks = found
    former = None if system == _system_zone() else system
    candidates = [former] if named is None else [named, former]  # the last if it never called time.tzset()
    is_right = _read_clocks() == clocks
    while candidates and not is_right:
        _enter_zone(candidates.pop(0))
        is_right = _read_clocks() == clocks
    if named is not None:
        os.environ["TZ"] = named
    if not is_right:
        time.tzset()
        raise ValueError(
            f"{named or system or 'a zone without a name'} is {_read_clocks()[-1]} there and {clocks[-1]} here; "
            f"install tzdata there, or set TZ and call time.tzset()"
        )


def _enter_zone(name: str | None) -> None:
    """Make the C library use this zone; None: that of the system."""
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = name
    time.tzset()


# -- locale


def _read_locale() -> dict[str, str] | None:
    """Return the categories that were set, {name: locale}; at start all are C but LC_CTYPE, the environment's."""
    module = sys.modules["_locale"]
    found = {}
    for name in _CATEGORIES:
        category = getattr(module, name, None)
        if category is None:
            continue
        value = module.setlocale(category, None)
        if _is_set_ctype(value) if name == "LC_CTYPE" else value != "C":
            found[name] = value
    whole = module.setlocale(module.LC_ALL, None)
    if found and ";" not in whole:  # one for all: those, too, that Python has no name for
        found["LC_ALL"] = whole
    return found or None


def _is_set_ctype(value: str) -> bool:
    start = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
    if value == start or value in _UTF8_CTYPES:
        return False
    return value not in ("C", "POSIX") or start not in ("C", "POSIX")


def _set_locale(found: dict[str, str]) -> None:
    import locale

    missing = []
    with contextlib.suppress(locale.Error):  # then some of the following fail
        if "LC_ALL" in found:
            locale.setlocale(locale.LC_ALL, found["LC_ALL"])
            return
    for name, value in ((name, value) for name, value in found.items() if name != "LC_ALL"):
        try:
            locale.setlocale(getattr(locale, name), value)
        except (locale.Error, AttributeError):
            missing.append(f"{name}={value}")
    if missing:
        raise ValueError(f"{', '.join(missing)} is not there; install that locale there")


def _read_encoding() -> str | None:
    """Return the encoding of files that are opened without one, unless it is UTF-8."""
    encoding = _default_encoding()
    return None if encoding == "utf-8" else encoding


def _default_encoding() -> str:
    import _locale
    import codecs

    return "utf-8" if sys.flags.utf8_mode else codecs.lookup(_locale.getencoding()).name


def _check_encoding(encoding: str) -> None:
    if _default_encoding() != encoding:
        raise ValueError(
            f"open() reads and writes {_default_encoding()} there and {encoding} here; pass encoding={encoding!r}"
        )


def _always(value: Any) -> bool:
    return True


def _never(value: Any) -> bool:
    return False


def _is_high_limit(limit: int) -> bool:
    return limit > RECURSION_LIMIT


def _allows_more_digits(digits: int) -> bool:
    return digits == 0 or digits > sys.int_info.default_max_str_digits


#: in the order in which they are set: the locale decides the encoding
SETTINGS = (
    Setting("the recursion limit", None, _read_recursion_limit, sys.setrecursionlimit, _is_high_limit),
    Setting(
        "the limit on digits of an int", None, _read_digits, sys.set_int_max_str_digits, _allows_more_digits
    ),
    Setting("the switch interval", None, _read_switch_interval, sys.setswitchinterval, _always),
    Setting("sys.dont_write_bytecode", None, _read_dont_write_bytecode, _set_dont_write_bytecode, _always),
    Setting("the stack size of threads", "threading", _read_thread_stack, _set_thread_stack, _always),
    Setting("the stack limit", "resource", _read_stack_limit, _set_stack_limit, _always),
    Setting("the umask", None, _read_umask, _set_umask, _always),
    Setting("the program's own environment variables", None, _read_variables, _set_variables, _always),
    Setting("the time zone", None, _read_zone, _set_zone, _always),
    Setting("the locale", "_locale", _read_locale, _set_locale, _always),
    Setting("the encoding of text", None, _read_encoding, _check_encoding, _always),
    Setting("the context of decimal", "decimal", libraries.read_decimal, libraries.set_decimal, _never),
    Setting("csv.field_size_limit", "_csv", libraries.read_csv_limit, libraries.set_csv_limit, _never),
    Setting("csv dialects", "csv", libraries.read_dialects, libraries.register_dialects, _always),
    Setting(
        "the default timeout of sockets", "_socket", libraries.read_timeout, libraries.set_timeout, _never
    ),
    Setting("calendar.setfirstweekday", "calendar", libraries.read_weekday, libraries.set_weekday, _never),
    Setting(
        "namespaces of xml.etree.ElementTree",
        "xml.etree.ElementTree",
        libraries.read_namespaces,
        libraries.register_namespaces,
        _always,
    ),
    Setting("levels of logging", "logging", libraries.read_logging, libraries.set_logging, _always),
    Setting(
        "error state and print options of numpy", "numpy", libraries.read_numpy, libraries.set_numpy, _never
    ),
    Setting("filters of warnings", "warnings", libraries.read_filters, libraries.set_filters, _never),
)
