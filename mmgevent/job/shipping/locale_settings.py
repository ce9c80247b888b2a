"""Read and set the time zone, the locale and the encoding of a process.

Each `read_...` returns plain data, or None if all is as in a fresh interpreter. Each `set_...`
makes it so in another process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

#: Where the system keeps its time zone: as a link to the file of that name, and as text.
LOCALTIME_PATH, ZONE_NAME_PATH = "/etc/localtime", "/etc/timezone"

_CATEGORIES = ("LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MONETARY", "LC_MESSAGES")
#: Locales of LC_CTYPE that mean text as UTF-8, and nothing else.
_UTF8_CTYPES = ("C.UTF-8", "C.utf8", "UTF-8")

#: A year on average, seconds: for days spread over many years.
_YEAR_S = 365.25 * 86400
#: A winter and a summer day of every third year since 1970, seconds. Zones that agree on all of
#: them are taken for the same one.
_LOOKS = [int((year + half) * _YEAR_S) for year in range(0, 68, 3) for half in (0, 0.5)]

Zone = tuple[str | None, str | None, list[tuple[int, str]]]


def read_zone() -> Zone:
    """Return TZ or None, the system's zone or None, and what clocks of this process show.

    The clocks do not follow TZ if the program never called time.tzset().
    """
    return os.environ.get("TZ"), _system_zone(), read_clocks()


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


def read_clocks() -> list[tuple[int, str]]:
    return [(clock.tm_gmtoff, clock.tm_zone) for clock in map(time.localtime, _LOOKS)]


def set_zone(found: Zone) -> None:
    named, system, clocks = found
    former = None if system == _system_zone() else system
    candidates = [former] if named is None else [named, former]  # the last if it never called time.tzset()
    is_right = read_clocks() == clocks
    while candidates and not is_right:
        _enter_zone(candidates.pop(0))
        is_right = read_clocks() == clocks
    if named is not None:
        os.environ["TZ"] = named
    if not is_right:
        time.tzset()
        raise ValueError(
            f"{named or system or 'a zone without a name'} is {read_clocks()[-1]} there and {clocks[-1]} here; "
            f"install tzdata there, or set TZ and call time.tzset()"
        )


def _enter_zone(name: str | None) -> None:
    """Make the C library use this zone; None: that of the system."""
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = name
    time.tzset()


def read_locale() -> dict[str, str] | None:
    """Return {category: locale} of those that were set. At start all are C but LC_CTYPE."""
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


def set_locale(found: dict[str, str]) -> None:
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


def read_encoding() -> str | None:
    """Return the encoding of files that are opened without one, unless it is UTF-8."""
    encoding = _default_encoding()
    return None if encoding == "utf-8" else encoding


def _default_encoding() -> str:
    import _locale
    import codecs

    return "utf-8" if sys.flags.utf8_mode else codecs.lookup(_locale.getencoding()).name


def check_encoding(encoding: str) -> None:
    if _default_encoding() != encoding:
        raise ValueError(
            f"open() reads and writes {_default_encoding()} there and {encoding} here; pass encoding={encoding!r}"
        )
