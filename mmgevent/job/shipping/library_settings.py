"""Read and set what a program may set in modules of the standard library, and in numpy.

Each `read_...` is called only if its module is loaded. It returns plain data, or None if all is as
in a fresh interpreter. Each `set_...` makes it so in another process.
"""

from __future__ import annotations

import builtins
import sys
import warnings
from typing import Any

#: Prefixes of the loggers that this package and dill set up for themselves.
_OWN_LOGGERS = ("mmgevent", "dill")

#: What a fresh interpreter has.
_CSV_FIELD_BYTES = 131072
_DIALECT_FIELDS = (
    "delimiter",
    "doublequote",
    "escapechar",
    "lineterminator",
    "quotechar",
    "quoting",
    "skipinitialspace",
    "strict",
)
_DECIMAL_FIELDS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_DECIMAL_DEFAULTS = {
    "prec": 28,
    "rounding": "ROUND_HALF_EVEN",
    "Emin": -999999,
    "Emax": 999999,
    "capitals": 1,
    "clamp": 0,
    "traps": ["DivisionByZero", "InvalidOperation", "Overflow"],
}
_NAMESPACES = frozenset(
    {
        "http://www.w3.org/XML/1998/namespace",
        "http://www.w3.org/1999/xhtml",
        "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "http://schemas.xmlsoap.org/wsdl/",
        "http://www.w3.org/2001/XMLSchema",
        "http://www.w3.org/2001/XMLSchema-instance",
        "http://purl.org/dc/elements/1.1/",
    }
)
_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_NUMPY_PRINTS = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "legacy": False,
}

#: Action, message, category, module, line. Patterns are text, the category is "module:name".
Filter = tuple[str, str | None, str, str | None, int]

_DEFAULT_FILTERS: list[Filter] = [
    ("default", None, "builtins:DeprecationWarning", "__main__", 0),
    ("ignore", None, "builtins:DeprecationWarning", None, 0),
    ("ignore", None, "builtins:PendingDeprecationWarning", None, 0),
    ("ignore", None, "builtins:ImportWarning", None, 0),
    ("ignore", None, "builtins:ResourceWarning", None, 0),
]


# -- decimal


def read_decimal() -> dict[str, Any] | None:
    """Return the context of this thread and the one that threads begin with, if changed."""
    decimal = sys.modules["decimal"]
    contexts = {"here": decimal.getcontext(), "threads": decimal.DefaultContext}
    described = {name: _describe_context(context) for name, context in contexts.items()}
    return {name: each for name, each in described.items() if each != _DECIMAL_DEFAULTS} or None


def _describe_context(context: Any) -> dict[str, Any]:
    described = {name: getattr(context, name) for name in _DECIMAL_FIELDS}
    described["traps"] = sorted(signal.__name__ for signal, is_on in context.traps.items() if is_on)
    return described


def set_decimal(found: dict[str, Any]) -> None:
    """Set the context of this thread, with no flags raised, and the one that threads begin with."""
    import decimal

    if "threads" in found:
        _change_context(decimal.DefaultContext, found["threads"])
    context = decimal.Context(flags=[])
    _change_context(context, found.get("here", _DECIMAL_DEFAULTS))
    decimal.setcontext(context)


def _change_context(context: Any, described: dict[str, Any]) -> None:
    for name in _DECIMAL_FIELDS:
        setattr(context, name, described[name])
    for signal in context.traps:
        context.traps[signal] = signal.__name__ in described["traps"]


# -- csv


def read_csv_limit() -> int | None:
    """Return the limit on a field, characters."""
    limit: int = sys.modules["_csv"].field_size_limit()
    return None if limit == _CSV_FIELD_BYTES else limit


def set_csv_limit(limit: int) -> None:
    """Set the limit on a field, characters."""
    import csv

    csv.field_size_limit(limit)


def read_dialects() -> dict[str, dict[str, Any]] | None:
    """Return {name: {field: value}} of dialects that were registered or changed."""
    csv = sys.modules["csv"]
    stock = {"excel": csv.excel, "excel-tab": csv.excel_tab, "unix": csv.unix_dialect}
    found = {}
    for name in csv.list_dialects():
        described = _describe_dialect(csv.get_dialect(name))
        if name not in stock or described != _describe_dialect(sys.modules["_csv"].Dialect(stock[name])):
            found[name] = described
    return found or None


def _describe_dialect(dialect: Any) -> dict[str, Any]:
    return {field: getattr(dialect, field) for field in _DIALECT_FIELDS}


def register_dialects(found: dict[str, dict[str, Any]]) -> None:
    """Register these dialects."""
    import csv

    for name, described in found.items():
        csv.register_dialect(name, **described)


# -- sockets, calendars, XML


def read_timeout() -> float | None:
    """Return the timeout of new sockets, seconds."""
    timeout_s: float | None = sys.modules["_socket"].getdefaulttimeout()
    return timeout_s


def set_timeout(timeout_s: float) -> None:
    """Set the timeout of new sockets, seconds. The executor's own link is open, so it gets none."""
    import socket

    socket.setdefaulttimeout(timeout_s)


def read_weekday() -> int | None:
    """Return the first day of a week; Monday is 0."""
    return int(sys.modules["calendar"].firstweekday()) or None


def set_weekday(day: int) -> None:
    """Set the first day of a week."""
    import calendar

    calendar.setfirstweekday(day)


def read_namespaces() -> dict[str, str] | None:
    """Return the registered prefixes, {URI: prefix}."""
    known: dict[str, str] = sys.modules["xml.etree.ElementTree"]._namespace_map
    return {uri: prefix for uri, prefix in known.items() if uri not in _NAMESPACES} or None


def register_namespaces(found: dict[str, str]) -> None:
    """Register these prefixes."""
    from xml.etree import ElementTree

    for uri, prefix in found.items():
        ElementTree.register_namespace(prefix, uri)


# -- logging


def read_logging() -> dict[str, Any] | None:
    """Return levels and the format of the root's handlers.

    {"root": level, "disable": level, "loggers": {name: (level, is disabled)}, "format": (text,
    dates, style)}; "format" only where the root has handlers, which themselves stay behind.
    """
    logging = sys.modules["logging"]
    found: dict[str, Any] = {}
    if logging.root.level != logging.WARNING:
        found["root"] = logging.root.level
    if logging.root.manager.disable:
        found["disable"] = logging.root.manager.disable
    loggers = {
        name: (logger.level, bool(logger.disabled))
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.partition(".")[0] not in _OWN_LOGGERS
    }
    if changed := {name: state for name, state in loggers.items() if state != (logging.NOTSET, False)}:
        found["loggers"] = changed
    formatters = [h.formatter for h in logging.root.handlers if isinstance(h, logging.StreamHandler)]
    if formatters:
        found["format"] = _describe_formatter(logging, formatters[0])
    return found or None


def _describe_formatter(logging: Any, formatter: Any) -> tuple[str | None, str | None, str]:
    """Return format, format of dates and style, as `logging.basicConfig` takes them."""
    if type(formatter) is not logging.Formatter:
        return None, None, "%"
    styles = {kind: style for style, (kind, _) in logging._STYLES.items()}
    return formatter._fmt, formatter.datefmt, styles.get(type(formatter._style), "%")


def set_logging(found: dict[str, Any]) -> None:
    """Set the levels. Log to stderr in the format, unless handlers are set up already."""
    import logging

    if "format" in found and not logging.root.handlers:
        text, dates, style = found["format"]
        logging.basicConfig(format=text, datefmt=dates, style=style)
    logging.root.setLevel(found.get("root", logging.WARNING))
    logging.disable(found.get("disable", logging.NOTSET))
    for name, (level, is_disabled) in found.get("loggers", {}).items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.disabled = is_disabled


# -- numpy


def read_numpy() -> dict[str, Any] | None:
    """Return what was changed in the error state, and in the print options that are plain data."""
    numpy = sys.modules["numpy"]
    if not hasattr(numpy, "get_printoptions"):
        return None  # another thread is importing it
    errors = {name: mode for name, mode in numpy.geterr().items() if mode != _NUMPY_ERRORS.get(name)}
    known = numpy.get_printoptions()
    prints = {name: known[name] for name, value in _NUMPY_PRINTS.items() if known.get(name, value) != value}
    return {"errors": errors, "prints": prints} if errors or prints else None


def name_numpy_functions() -> list[str]:
    """Return names of what was set in numpy that is code, and stays behind."""
    numpy = sys.modules.get("numpy")
    if not hasattr(numpy, "get_printoptions"):
        return []
    named = []
    if numpy.get_printoptions().get("formatter"):  # type: ignore[union-attr]
        named.append("the formatter of numpy's print options")
    if numpy.geterrcall() is not None:  # type: ignore[union-attr]
        named.append("numpy's error callback (np.seterrcall)")
    return named


def set_numpy(found: dict[str, Any]) -> None:
    """Set error state and print options.

    Without numpy do nothing: a function that needs it fails anyway.
    """
    try:
        import numpy
    except ModuleNotFoundError:
        return
    numpy.seterr(**found["errors"])
    numpy.set_printoptions(**found["prints"])


# -- warnings


class _Named(type):
    """The type of a class "module:name" that matches classes by name, derived ones included."""

    def __subclasscheck__(cls, other: type) -> bool:
        return any(f"{base.__module__}:{base.__qualname__}" == cls.__name__ for base in other.__mro__)


def read_filters() -> list[Filter] | None:
    """Return the filters of warnings, in the order in which Python looks at them."""
    found = []
    for action, message, categories, module, line in warnings.filters:
        for category in categories if isinstance(categories, tuple) else (categories,):
            name = f"{category.__module__}:{category.__qualname__}"
            found.append((action, _pattern_of(message), name, _pattern_of(module), line))
    return None if found == _DEFAULT_FILTERS else found


def _pattern_of(text: Any) -> str | None:
    return text if isinstance(text, str) else getattr(text, "pattern", None)


def set_filters(found: list[Filter]) -> None:
    """Replace the filters of warnings.

    Categories that are not built in match by name; none is imported.
    """
    warnings.resetwarnings()
    for action, message, name, module, line in found:
        category = _find_category(name)
        warnings.filterwarnings(
            action,  # type: ignore[arg-type]
            message=message or "",
            category=category,
            module=module or "",
            lineno=line,
            append=True,
        )


def _find_category(name: str) -> type[Warning]:
    module, _, attribute = name.partition(":")
    if module == "builtins":
        builtin: type[Warning] = getattr(builtins, attribute)
        return builtin
    return _Named(name, (Warning,), {})  # type: ignore[return-value]
