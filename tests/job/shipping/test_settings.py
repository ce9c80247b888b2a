"""Settings as plain data, and the pages about them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmgevent.job.shipping import locale_settings, settings
from mmgevent.machine import interpreter

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "what-travels.md").read_text("utf-8")
CARRIED, _, LEFT = PAGE.partition("\n## What does not reach an executor")

#: what the page calls a setting
WORDS = {
    "the recursion limit": "sys.setrecursionlimit",
    "the limit on digits of an int": "sys.set_int_max_str_digits",
    "the switch interval": "sys.setswitchinterval",
    "sys.dont_write_bytecode": "sys.dont_write_bytecode",
    "the stack size of threads": "threading.stack_size",
    "the stack limit": "the stack limit",
    "the umask": "umask",
    "the program's own environment variables": "variables that the program sets itself",
    "the time zone": "time zone",
    "the locale": "locale.setlocale",
    "the encoding of text": "encoding of files",
    "the context of decimal": "`decimal`: precision",
    "csv.field_size_limit": "csv.field_size_limit",
    "csv dialects": "registered dialects",
    "the default timeout of sockets": "socket.setdefaulttimeout",
    "calendar.setfirstweekday": "calendar.setfirstweekday",
    "namespaces of xml.etree.ElementTree": "xml.etree.ElementTree.register_namespace",
    "levels of logging": "`logging`: levels",
    "error state and print options of numpy": "np.seterr",
    "filters of warnings": "`warnings`: all filters",
}


def test_the_page_names_each_setting_and_each_flag():
    assert set(WORDS) == {setting.name for setting in settings.SETTINGS}
    assert [word for word in WORDS.values() if word not in CARRIED] == []
    flags = [flag.removesuffix("=1") for group in interpreter.GROUPS for flag in group]
    assert [flag for flag in flags if f"`{flag}`" not in CARRIED] == []


def python(*lines, flags=(), environ=None):
    """What a fresh interpreter prints last, as JSON."""
    ended = subprocess.run(
        [sys.executable, *flags, "-c", "\n".join(lines)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **(environ or {})},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


READ = ("import json", "from mmgevent.job.shipping import settings", "print(json.dumps(settings.read()))")
ALWAYS = {"the umask", "the time zone"}


@pytest.mark.parametrize(
    "loaded",
    [
        "",
        "import csv, calendar, decimal, locale, logging, resource, socket, threading, xml.etree.ElementTree",
    ],
)
def test_a_fresh_interpreter_has_nothing_to_say_but_what_depends_on_its_machine(loaded):
    assert set(python(loaded, *READ)) == ALWAYS


def test_what_the_own_commands_log_is_no_setting_of_the_users():
    script = (
        "from mmgevent.cli import shared",
        "from mmgevent.cli.options import Arguments",
        "import types, logging",
        "shared.start_logging(types.SimpleNamespace(verbose=2))",
        "import mmgevent.driver.job_driver; from mmgevent.job.shipping.pack import preload; preload()",
        *READ,
    )
    assert set(python(*script)) == ALWAYS


def test_reading_changes_nothing():
    script = (
        "import csv, decimal, json, locale, logging, os, socket, sys, threading, time, warnings",
        "threading.stack_size(2**20); os.umask(0o013); decimal.getcontext().prec = 5",
        "from mmgevent.job.shipping import settings",
        "first = settings.read()",
        "print(json.dumps([first, settings.read()]))",
    )
    first, second = python(*script)
    assert first == second
    assert first["the umask"] == 0o013
    assert first["the stack size of threads"] == 2**20


def test_variables_that_the_program_set_itself_are_settings_but_not_those_of_its_machine():
    script = (
        "import json, os",
        "os.environ.update(OWN='1', GIVEN='other', PATH='/nowhere', TMPDIR='/t', MMG_PASSWORD='secret', LC_ALL='C')",
        "os.environ['KEPT'] = os.environ['KEPT']",
        *READ[1:],
    )
    found = python(*script, environ={"GIVEN": "one", "KEPT": "it"})
    assert found["the program's own environment variables"] == {"OWN": "1", "GIVEN": "other"}


def test_a_warning_of_an_absent_module_is_filtered_once_the_module_is_there(tmp_path):
    (tmp_path / "late.py").write_text(
        "class LateWarning(UserWarning): pass\nclass Later(LateWarning): pass\n"
    )
    script = (
        "import json, sys, warnings",
        "from mmgevent.job.shipping import library_settings",
        "library_settings.set_filters([['error', None, 'late:LateWarning', None, 0], ['ignore', None, 'builtins:Warning', None, 0]])",
        "assert 'late' not in sys.modules",
        f"sys.path.append({str(tmp_path)!r})",
        "import late",
        "seen = []",
        "for category in (late.LateWarning, late.Later, UserWarning):",
        "    try: seen.append(warnings.warn('it', category))",
        "    except Warning as error: seen.append(type(error).__name__)",
        "print(json.dumps(seen))",
    )
    assert python(*script) == ["LateWarning", "Later", None]


def test_filters_of_any_kind_are_plain_data_and_come_back_as_they_were():
    script = (
        "import json, re, warnings",
        "warnings.filterwarnings('error', 'a.*b', UserWarning, 'm[0-9]', 7)",
        "warnings.simplefilter('once', append=True)",
        "warnings.filters.insert(0, ('ignore', re.compile('x'), (UserWarning, BytesWarning), None, 0))",
        "from mmgevent.job.shipping import library_settings as libraries",
        "first = json.loads(json.dumps(libraries.read_filters()))",
        "libraries.set_filters(first)",
        "print(json.dumps([first, libraries.read_filters()]))",
    )
    first, second = python(*script)
    assert first == second
    assert len(first) == 5 + 2 + 2


def test_a_time_zone_that_is_not_there_is_said(tmp_path):
    """A worker without tzdata, as containers are: the C library looks in a folder that is empty."""
    here = locale_settings.read_zone()
    clocks = python(
        "import json", "from mmgevent.job.shipping import locale_settings", "print(json.dumps(locale_settings.read_clocks()))",
        environ={"TZ": "Asia/Kolkata"},
    )  # fmt: skip
    found = {"the time zone": ["Asia/Kolkata", here[1], clocks]}
    script = (
        "import json",
        "from mmgevent.job.shipping import settings",
        f"found = {found!r}",
        "found['the time zone'][2] = [tuple(clock) for clock in found['the time zone'][2]]",
        "print(json.dumps(settings.apply(found, is_loaded=True)))",
    )
    assert python(*script) == []
    (problem,) = python(*script, environ={"TZDIR": str(tmp_path)})
    assert re.match(r"the time zone cannot be set .*Asia/Kolkata is .* install tzdata there", problem)


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ((), {}, []),
        (("-O",), {}, ["-O"]),
        (("-OO", "-b"), {}, ["-OO", "-b"]),
        ((), {"PYTHONOPTIMIZE": "1"}, ["-O"]),
        (("-bb", "-X", "utf8"), {}, ["-bb", "-X utf8=1"]),
        ((), {"PYTHONUTF8": "1"}, ["-X utf8=1"]),
        ((), {"LC_ALL": "C"}, []),  # UTF-8 mode by itself
        (("-X", "utf8=0"), {"LC_ALL": "C"}, ["-X utf8=0"]),
    ],
)
def test_own_flags_are_flags_that_start_the_same_interpreter(flags, environ, expected):
    script = (
        "import json, sys",
        "from mmgevent.machine import interpreter",
        "own = interpreter.own_flags()",
        "print(json.dumps([own, interpreter.are_flags(own), interpreter.arguments(own), sys.getfilesystemencoding()]))",
    )
    own, are_flags, arguments, encoding = python(*script, flags=flags, environ=environ)
    assert (own, are_flags) == (expected, True)
    bare = interpreter.without_flags(environ)
    assert python(*script, flags=arguments, environ=bare)[3] == encoding


@pytest.mark.parametrize(
    "value",
    ["-O", ("-O",), ["-c"], ["-O", "-OO"], ["-b", "-O"], ["-O", "-O"], ["-X utf8"], [["-O"]], [1], None],
)
def test_nothing_else_is_taken_for_flags(value):
    assert not interpreter.are_flags(value)
