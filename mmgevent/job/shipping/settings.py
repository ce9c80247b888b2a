"""Carry settings that change answers from the program that submits a job to its executors.

What a user sets at the top of a script, such as the precision of decimal or the time zone, holds
for functions that run there. `read` collects what differs from a fresh interpreter, as plain data.
`apply` sets it in an executor.

`read` imports nothing: a program that has not loaded a module has not changed its settings. Code
stays behind, such as handlers, hooks and codecs (docs/what-travels.md). So do the settings that
`mmg-run` makes for itself: the logger "mmgevent".
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from mmgevent.job.shipping import library_settings, locale_settings, process_settings


class Setting(NamedTuple):
    """One thing that a program may set for its process or its thread."""

    #: its name in messages
    name: str
    #: module that a program must load to set it, or None if every interpreter has it
    module: str | None
    #: returns plain data, or None if all is as in a fresh interpreter
    read: Callable[[], Any]
    #: raises whatever says why it cannot be set
    apply: Callable[[Any], None]
    #: Returns whether code may need this value while it is loaded. Other values wait: they would
    #: change what modules compute while they are imported, or make the import fail. Programs import
    #: before they set anything.
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
    """Set what `read` found in another process; return a sentence for each setting that fails.

    Called twice: before the job's code is loaded, for settings that the code may need to load, and
    afterwards, with `is_loaded`, for all settings. The user's modules may set something while they
    are imported, and the program may have changed that later.
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
    """Return a sentence for each setting that changes answers and is seen not to travel."""
    return [
        f"{name} does not travel to executors: set it in setupfn"
        for name in library_settings.name_numpy_functions()
    ]


def in_same_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` for another thread or greenlet, with this one's decimal and numpy."""
    context = contextvars.copy_context()
    numpy = sys.modules.get("numpy")
    errors = None if not hasattr(numpy, "geterr") else numpy.geterr()  # type: ignore[union-attr]

    def call(*args: Any) -> Any:
        decimal: Any = sys.modules.get("decimal")
        if decimal is not None:
            decimal.setcontext(decimal.getcontext().copy())  # each thread needs its own
        if errors is not None:
            numpy.seterr(**errors)  # type: ignore[union-attr] # numpy 1 keeps it by thread, not by context
        return function(*args)

    return lambda *args: context.run(call, *args)


def _always(value: Any) -> bool:
    return True


def _never(value: Any) -> bool:
    return False


def _is_high_limit(limit: int) -> bool:
    return limit > process_settings.RECURSION_LIMIT


def _allows_more_digits(digits: int) -> bool:
    return digits == 0 or digits > sys.int_info.default_max_str_digits


#: All settings, in the order in which they are set: the locale decides the encoding.
SETTINGS = (
    Setting(
        "the recursion limit",
        None,
        process_settings.read_recursion_limit,
        sys.setrecursionlimit,
        _is_high_limit,
    ),
    Setting(
        "the limit on digits of an int",
        None,
        process_settings.read_digits,
        sys.set_int_max_str_digits,
        _allows_more_digits,
    ),
    Setting(
        "the switch interval", None, process_settings.read_switch_interval, sys.setswitchinterval, _always
    ),
    Setting(
        "sys.dont_write_bytecode",
        None,
        process_settings.read_dont_write_bytecode,
        process_settings.set_dont_write_bytecode,
        _always,
    ),
    Setting(
        "the stack size of threads",
        "threading",
        process_settings.read_thread_stack,
        process_settings.set_thread_stack,
        _always,
    ),
    Setting(
        "the stack limit",
        "resource",
        process_settings.read_stack_limit,
        process_settings.set_stack_limit,
        _always,
    ),
    Setting("the umask", None, process_settings.read_umask, process_settings.set_umask, _always),
    Setting(
        "the program's own environment variables",
        None,
        process_settings.read_variables,
        process_settings.set_variables,
        _always,
    ),
    Setting("the time zone", None, locale_settings.read_zone, locale_settings.set_zone, _always),
    Setting("the locale", "_locale", locale_settings.read_locale, locale_settings.set_locale, _always),
    Setting(
        "the encoding of text", None, locale_settings.read_encoding, locale_settings.check_encoding, _always
    ),
    Setting(
        "the context of decimal",
        "decimal",
        library_settings.read_decimal,
        library_settings.set_decimal,
        _never,
    ),
    Setting(
        "csv.field_size_limit",
        "_csv",
        library_settings.read_csv_limit,
        library_settings.set_csv_limit,
        _never,
    ),
    Setting(
        "csv dialects", "csv", library_settings.read_dialects, library_settings.register_dialects, _always
    ),
    Setting(
        "the default timeout of sockets",
        "_socket",
        library_settings.read_timeout,
        library_settings.set_timeout,
        _never,
    ),
    Setting(
        "calendar.setfirstweekday",
        "calendar",
        library_settings.read_weekday,
        library_settings.set_weekday,
        _never,
    ),
    Setting(
        "namespaces of xml.etree.ElementTree",
        "xml.etree.ElementTree",
        library_settings.read_namespaces,
        library_settings.register_namespaces,
        _always,
    ),
    Setting(
        "levels of logging", "logging", library_settings.read_logging, library_settings.set_logging, _always
    ),
    Setting(
        "error state and print options of numpy",
        "numpy",
        library_settings.read_numpy,
        library_settings.set_numpy,
        _never,
    ),
    Setting(
        "filters of warnings", "warnings", library_settings.read_filters, library_settings.set_filters, _never
    ),
)
