"""shown_text: no character of others does more than fill its place; and nothing is shown or logged past it."""

import ast
import sys
import unicodedata
from pathlib import Path

import pytest

from mmgevent.shown_text import MAX_LINE_CHARS, MAX_LINES, shown

PACKAGE = Path(__file__).resolve().parents[1] / "mmgevent"

#: Categories of characters that do something: control, format, surrogate, line and paragraph separator.
ACTIVE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_active_character_is_escaped_and_all_others_stay():
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        category = unicodedata.category(character)
        if category in ACTIVE:
            assert shown(character).isascii()
            assert shown(character).isprintable()
            assert shown(character) == repr(character)[1:-1]
        elif category not in ("Cn", "Co"):
            assert shown(character) == character


@pytest.mark.parametrize("length", [0, 1, MAX_LINE_CHARS - 1, MAX_LINE_CHARS, MAX_LINE_CHARS + 1, 10**6])
@pytest.mark.parametrize("character", ["x", "\x1b", "\n", "\t", "\U000e0001", "\u3042"])
def test_a_line_is_bounded_and_stays_the_same_when_shown_again(character, length):
    line = shown(character * length)
    assert len(line) <= MAX_LINE_CHARS
    assert line.isprintable()
    assert shown(line) == line
    assert (line == character * length) == (
        (length <= MAX_LINE_CHARS and character.isprintable()) or not length
    )


@pytest.mark.parametrize("lines", [1, 2, MAX_LINES - 1, MAX_LINES, MAX_LINES + 1, 10**5])
def test_lines_are_bounded_in_number_too(lines):
    text = "\n".join(f"\ta\x1b line {n}" for n in range(lines))
    fit = shown(text, MAX_LINES)
    assert len(fit.split("\n")) == min(lines, MAX_LINES)
    assert fit.startswith("\ta\\x1b line 0")
    assert fit.endswith(f"line {lines - 1}")
    assert shown(fit, MAX_LINES) == fit
    assert ("left out" in fit) == (lines > MAX_LINES)


def test_windows_newlines_are_newlines_and_lone_returns_are_shown():
    assert shown("a\r\nb\rc", 5) == "a\nb\\rc"
    assert shown("a\r\nb") == r"a\r\nb"


def test_backslashes_stay_as_they_are():
    assert shown(r"C:\new") == r"C:\new"


#: Modules that write to a stream or set up logging, each with a reason.
WRITERS = {
    "cli/exits.py": "say applies it; print_out prints help, versions and the user's own password",
    "cli/option_pages.py": "names of our own files",
    "cli/status_tables.py": "console.print gets rows that `clean_row` made fit",
    "driver/progress/live_block.py": "console.print gets shown text without markup",
    "driver/progress/reporters.py": "say applies it",
    "engine/watchdog.py": "a text of ours without a word of others",
}
#: Modules that name a logger past `get_log`, each with a reason.
LOGGERS = {
    "machine/logs.py": "get_log itself",
    "engine/worker/printout.py": "what executors print: shown line by line, or as it is to the program that submitted it",
    "engine/process.py": "handlers and levels",
    "engine/foreground.py": "handlers and levels",
    "cli/shared.py": "handlers and levels",
    "mincemeat/__main__.py": "handlers and levels",
    "job/shipping/library_settings.py": "levels of the user's loggers",
}
#: Names of streams whose `write` shows something to somebody.
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__", "console"}


def calls_of(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield node.func


def is_stream(node):
    return (isinstance(node, ast.Attribute) and node.attr in STREAMS) or (
        isinstance(node, ast.Name) and node.id in STREAMS
    )


def writes(function):
    """Return whether a call prints, or writes to a stream of the process."""
    if isinstance(function, ast.Name):
        return function.id == "print"
    return (
        isinstance(function, ast.Attribute)
        and function.attr in ("write", "writelines", "print")
        and is_stream(function.value)
    )


def names_a_logger(function):
    if isinstance(function, ast.Name):
        return function.id == "getLogger"
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "logging"
        and function.attr
        in ("getLogger", "basicConfig", "warning", "error", "info", "debug", "exception", "log", "critical")
    )


def modules_that(does):
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(does(function) for function in calls_of(path))
    }


def test_only_these_modules_write_to_streams():
    assert modules_that(writes) == set(WRITERS)


def test_only_these_modules_name_loggers_past_get_log():
    assert modules_that(names_a_logger) == set(LOGGERS)


def test_every_log_of_a_module_is_made_by_get_log():
    """A name `log` is a logger of ours, whose filter makes every record fit."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id in ("log", "logger") for t in node.targets
            ):
                called = node.value.func if isinstance(node.value, ast.Call) else None
                name = getattr(called, "id", getattr(called, "attr", None))
                assert name == "get_log" or str(path.relative_to(PACKAGE)) in LOGGERS, path


def test_warnings_of_python_are_not_used_for_what_peers_say():
    assert (
        modules_that(
            lambda f: (
                isinstance(f, ast.Attribute) and f.attr == "warn" and getattr(f.value, "id", "") == "warnings"
            )
        )
        == set()
    )
