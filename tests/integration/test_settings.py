"""What a job file sets for its whole process holds for its functions: inline, here, in greenlets, and elsewhere."""

import json
import re
import shutil
import subprocess

import pytest

from mmgevent.job.shipping.settings import SETTINGS
from tests.integration.commands import Commands, wait_for

#: what a file sets, and an expression that shows it; the name of the setting, and a word where there are several
CASES = {
    "the recursion limit": ("sys.setrecursionlimit(3000)", "sys.getrecursionlimit()"),
    "the limit on digits of an int": (
        "sys.set_int_max_str_digits(5000)",
        "(sys.get_int_max_str_digits(), len(str(10**4500)))",
    ),
    "the switch interval": ("sys.setswitchinterval(0.01)", "sys.getswitchinterval()"),
    "sys.dont_write_bytecode": ("sys.dont_write_bytecode = True", "sys.dont_write_bytecode"),
    "the stack size of threads": (
        "threading.stack_size(2**20)",
        "(n := threading.stack_size(), threading.stack_size(n))[0]",
    ),
    "the stack limit": (
        "resource.setrlimit(resource.RLIMIT_STACK, (2**24, resource.getrlimit(resource.RLIMIT_STACK)[1]))",
        "resource.getrlimit(resource.RLIMIT_STACK)[0]",
    ),
    "the umask": ("os.umask(0o027)", "(mask := os.umask(0o027), os.umask(mask))[0]"),
    "the time zone": (
        "os.environ['TZ'] = 'Asia/Kolkata'; time.tzset()",
        "(time.localtime(0)[:5], str(datetime.datetime.fromtimestamp(0)), time.tzname)",
    ),
    "the program's own environment variables": (
        "os.environ['OF_THE_PROGRAM'] = 'x y'",
        "os.environ.get('OF_THE_PROGRAM')",
    ),
    "the locale": ("locale.setlocale(locale.LC_ALL, 'C.UTF-8')", "locale.setlocale(locale.LC_ALL)"),
    "the context of decimal": ("decimal.getcontext().prec = 50", "decimal.Decimal(1) / 7"),
    "the context of decimal: traps": (
        "decimal.getcontext().traps[decimal.FloatOperation] = True",
        "raised(lambda: decimal.Decimal(0.1))",
    ),
    "the context of decimal: rounding": (
        "decimal.getcontext().rounding = decimal.ROUND_UP",
        "round(decimal.Decimal('1.00000001').quantize(decimal.Decimal('0.01')), 2)",
    ),
    "the context of decimal: threads": (
        "decimal.DefaultContext.prec = 9",
        "in_thread(lambda: str(decimal.Decimal(1) / 3))",
    ),
    "csv.field_size_limit": (
        "csv.field_size_limit(9)",
        "raised(lambda: next(csv.reader(['a long field indeed'])))",
    ),
    "csv dialects": ("csv.register_dialect('mine', delimiter='|')", "next(csv.reader(['a|b'], 'mine'))"),
    "csv dialects: stock": (
        "csv.register_dialect('excel', delimiter=';', quotechar='!')",
        "next(csv.reader(['a;!b;c!'], 'excel'))",
    ),
    "the default timeout of sockets": ("socket.setdefaulttimeout(12.5)", "socket.getdefaulttimeout()"),
    "calendar.setfirstweekday": ("calendar.setfirstweekday(6)", "calendar.weekheader(3)"),
    "namespaces of xml.etree.ElementTree": (
        "ET.register_namespace('mine', 'urn:mine')",
        "ET.tostring(ET.Element('{urn:mine}a'))",
    ),
    "levels of logging": (
        "logging.basicConfig(level=logging.DEBUG, format='{message}', style='{')",
        "(logging.root.level, logging.root.handlers[0].formatter._fmt)",
    ),
    "levels of logging: named": (
        "logging.getLogger('a.b').setLevel(55); logging.getLogger('c').disabled = True",
        "(logging.getLogger('a.b').level, logging.getLogger('c').isEnabledFor(50))",
    ),
    "levels of logging: disabled": (
        "logging.disable(logging.WARNING)",
        "logging.getLogger('d').isEnabledFor(30)",
    ),
    "filters of warnings": (
        "warnings.simplefilter('error', RuntimeWarning)",
        "raised(lambda: warnings.warn('now', RuntimeWarning))",
    ),
    "filters of warnings: own class": (
        "warnings.simplefilter('error', OwnWarning)",
        "raised(lambda: warnings.warn('now', OwnWarning))",
    ),
    "filters of warnings: by text": (
        "warnings.filterwarnings('ignore', 'harmless.*', OwnWarning)",
        "(raised(lambda: warnings.warn('Harmless', OwnWarning)), raised(lambda: warnings.warn('bad', OwnWarning)))",
    ),
}
#: of these there is another test, or they are only compared
ELSEWHERE = {"the encoding of text", "error state and print options of numpy"}

IMPORTS = (
    "import calendar, csv, datetime, decimal, locale, logging, os, resource, socket, sys, threading, time, warnings\n"
    "import xml.etree.ElementTree as ET\n"
)
JOB = (
    IMPORTS
    + """
class OwnWarning(Warning):
    pass

def raised(function):
    try:
        return repr(function())
    except Exception as error:
        return type(error).__name__

def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]

{settings}

PROBES = {{
{probes}
}}

datasource = {{1: 1}}

def mapfn(key, value):
    for name, probe in PROBES.items():
        yield name, raised(probe)

def reducefn(name, values):
    return values[0]
"""
)


def make_job(cases, sets=True):
    settings = "\n".join(setting for setting, _ in cases.values()) if sets else ""
    probes = "\n".join(f"    {name!r}: lambda: {probe}," for name, (_, probe) in cases.items())
    return JOB.format(settings=settings, probes=probes)


@pytest.fixture(scope="module")
def shared_commands(tmp_path_factory):
    started = Commands(tmp_path_factory.mktemp("settings"))
    yield started
    started.close()


#: what a machine elsewhere may have, and the user has not
FOREIGN = {
    "TZ": "America/New_York",
    "PYTHONOPTIMIZE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONINTMAXSTRDIGITS": "640",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "",
}


@pytest.fixture(scope="module")
def elsewhere(shared_commands):
    """The address of a server whose worker has quite another environment."""
    _, address = shared_commands.start_server()
    worker = shared_commands.start("worker", "--procs=1", address, environ=FOREIGN, umask=0o077)
    wait_for(worker.stderr, "joined")
    return address


@pytest.fixture(scope="module")
def answers(shared_commands, elsewhere):
    """{way of running: {case: what a function saw}}, "unset ..." for a file that sets nothing."""
    job = shared_commands.write("settings_job.py", make_job(CASES))
    unset = shared_commands.write("unset_job.py", make_job(CASES, sets=False))
    ways = {
        "inline": ["--inline", job],
        "here": ["--procs=1", job],
        "greenlets": ["--procs=1", "--set", "greenlets=4", job],
        "elsewhere": ["--join", elsewhere, job],
        "unset inline": ["--inline", unset],
        "unset here": ["--procs=1", unset],
        "unset elsewhere": ["--join", elsewhere, unset],
    }
    found = {}
    for way, argv in ways.items():
        # The levels of logging are the file's also where -v asks for ours.
        ended = shared_commands.run("run", "-v", *argv, environ={"PYTHONDONTWRITEBYTECODE": ""})
        assert ended.returncode == 0, ended.stderr
        assert "cannot be set" not in ended.stderr
        found[way] = dict(line.split("\t") for line in ended.stdout.splitlines())
    return found


@pytest.mark.parametrize("way", ["here", "greenlets", "elsewhere"])
@pytest.mark.parametrize("case", CASES)
def test_what_a_job_file_sets_holds_for_its_functions(answers, case, way):
    assert answers[way][case] == answers["inline"][case]


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_set_is_as_in_a_fresh_interpreter(answers, case):
    unset = answers["unset inline"][case]
    assert unset != answers["inline"][case]
    assert answers["unset here"][case] == unset
    assert answers["unset elsewhere"][case] == unset


def test_each_setting_has_a_case():
    assert {case.partition(":")[0] for case in CASES} | ELSEWHERE == {setting.name for setting in SETTINGS}


# -- what other than a job file may set


def test_the_thread_that_submits_decides_for_functions_datasource_and_finishfn(commands):
    script = commands.write(
        "script.py",
        """
import decimal, threading
import mmgevent as mmg

def one(): return str(1 / decimal.Decimal(7))
def source(): yield "source", one()
def mapfn(key, value):
    yield key, value
    yield "map", one()
def reducefn(key, values): return values[0]
def finishfn(key, value): return [value, one()]

def work(precision, cluster):
    with decimal.localcontext() as context:
        context.prec = precision
        job = mmg.Job(source, mapfn=mapfn, reducefn=reducefn, finishfn=finishfn)
        handle = cluster.submit(job)
        decimal.getcontext().prec = 3  # too late
    found[precision] = handle.result()

found = {}
if __name__ == "__main__":
    with mmg.LocalCluster(1) as cluster:
        threads = [threading.Thread(target=work, args=(n, cluster)) for n in (5, 50)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    for n, results in sorted(found.items()):
        print(n, {len(text) - 2 for texts in results.values() for text in texts}, len(results))
""",
    )
    ended = commands.run(program=(script,))
    assert ended.stdout == "5 {5} 2\n50 {50} 2\n", ended.stderr


def test_the_last_word_is_that_of_the_program_and_not_of_a_module_loaded_in_the_executor(commands):
    commands.write("helper.py", "import decimal\ndecimal.getcontext().prec = 5\ndef half(n): return n / 2\n")
    job = commands.write(
        "job.py",
        """
import decimal
import helper
decimal.getcontext().prec = 50
datasource = {1: 1}
def mapfn(key, value): yield key, str(helper.half(decimal.Decimal(2) / 7))
""",
    )
    answers = [commands.run("run", *way, job).stdout for way in (["--inline"], ["--procs=1"])]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 50


def test_what_restricts_does_not_hold_while_the_job_is_loaded(commands):
    commands.write(
        "helper.py",
        "import decimal, warnings\nwarnings.warn('old', DeprecationWarning)\n"
        "PATTERN = '\\d'\nHALF = decimal.Decimal(0.5)\nTHIRD = 1 / decimal.Decimal(3)\n",
    )
    job = commands.write(
        "job.py",
        """
import decimal, sys, warnings
import helper
warnings.simplefilter("error")
decimal.getcontext().prec = 5
decimal.getcontext().traps[decimal.FloatOperation] = True
sys.set_int_max_str_digits(640)
datasource = {1: 1}
def _raised(function):
    try: return str(function())
    except Exception as error: return type(error).__name__
def mapfn(key, value):
    yield 1, (str(helper.THIRD), _raised(lambda: decimal.Decimal(0.5)), _raised(lambda: warnings.warn("x")),
              _raised(lambda: str(10**700)))
""",
    )
    answers = [commands.run("run", *way, job) for way in (["--inline"], ["--procs=1"])]
    assert answers[1].stdout == answers[0].stdout, answers[1].stderr
    assert json.loads(answers[1].stdout.partition("\t")[2]) == [
        ["0." + "3" * 28, "FloatOperation", "UserWarning", "ValueError"]
    ]


def test_a_low_recursion_limit_does_not_keep_the_job_from_loading(commands):
    job = commands.write(
        "job.py",
        """
import sys
nested = []
for _ in range(15): nested = [nested]
sys.setrecursionlimit(130)
datasource = {1: 1}
def mapfn(key, value): yield sys.getrecursionlimit(), str(nested).count("[")
""",
    )
    assert commands.run("run", "--procs=1", job).stdout == "130\t[16]\n"


#: sets TZ, and calls time.tzset() or not
ZONES = """
import os, time
os.environ["TZ"] = "Asia/Kolkata"
{call}
datasource = {{1: 0}}
def mapfn(key, value): yield time.localtime(value)[:5], time.tzname
"""


@pytest.mark.parametrize("call", ["time.tzset()", ""])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_the_time_zone_is_that_of_the_program_whether_or_not_it_calls_tzset(
    shared_commands, elsewhere, zone, call
):
    job = shared_commands.write("zone_job.py", ZONES.format(call=call))
    environ = {} if zone is None else {"TZ": zone}
    ways = (["--inline"], ["--procs=1"], ["--join", elsewhere])
    inline, here, there = (shared_commands.run("run", *way, job, environ=environ) for way in ways)
    assert ("5, 30" in inline.stdout) == bool(call)
    assert (here.stdout, here.stderr) == (inline.stdout, "")
    if zone is None or call:
        assert (there.stdout, there.stderr) == (inline.stdout, "")
    else:  # the zone that the program goes on in has no name in its environment any more
        assert "the time zone cannot be set in an executor as in your program" in there.stderr
        assert "call time.tzset()" in there.stderr


def test_nothing_is_imported_to_look_for_settings(commands):
    script = commands.write(
        "script.py",
        """
import sys
import mmgevent as mmg
def mapfn(key, value): yield key, value
if __name__ == "__main__":
    mmg.run(mmg.Job({1: 1}, mapfn=mapfn), procs=1)
    print({"decimal", "csv", "_csv", "calendar", "numpy", "xml.etree.ElementTree"} & set(sys.modules))
""",
    )
    assert commands.run(program=(script,)).stdout == "set()\n"


# -- what cannot be set there


@pytest.fixture
def german(tmp_path):
    """A folder with the locale de_DE.UTF-8, which processes have only if LOCPATH says so."""
    tool = shutil.which("localedef")
    if tool is None:
        pytest.skip("there is no localedef here to make a locale with")
    folder = tmp_path / "locales"
    folder.mkdir()
    made = subprocess.run([tool, "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"], capture_output=True)
    if made.returncode:
        pytest.skip(f"no locale can be made here: {made.stderr.decode()}")
    return str(folder)


def test_a_locale_that_a_worker_has_not_is_named_once(commands, german):
    _, address = commands.start_server()
    worker = commands.start("worker", "--procs=2", address)
    wait_for(worker.stderr, "joined")
    job = commands.write(
        "job.py",
        """
import locale
locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
datasource = {n: 1.5 for n in range(200)}
def mapfn(key, value): yield 0, locale.str(value)
def reducefn(key, values): return sorted(set(values))
""",
    )
    environ = {"LOCPATH": german}
    here = commands.run("run", "--procs=2", job, environ=environ)
    assert (here.stdout, here.stderr) == ('0\t["1,5"]\n', "")
    there = commands.run("run", "--join", address, job, environ=environ)
    assert there.stdout == '0\t["1.5"]\n'
    assert re.fullmatch(
        r"mmg-run: \S+/\d+: the locale cannot be set in an executor as in your program \(ValueError: "
        r"LC_NUMERIC=de_DE.UTF-8 is not there; install that locale there\); answers may differ\n",
        there.stderr,
    )


# -- numpy

NUMPY = """
import numpy as np
np.seterr(divide="raise", under="warn")
np.set_printoptions(precision=3, suppress=True)
datasource = {1: 0.0}
def _divide(value):
    try: return str(np.float64(1) / np.float64(value))
    except FloatingPointError: return "raised"
def mapfn(key, value): yield _divide(value), str(np.array([1 / 3, 1e-10])) + str(np.geterr())
def finishfn(key, values): return values, _divide(0.0)
"""


def test_the_error_state_and_print_options_of_numpy_hold_in_executors(shared_commands, elsewhere):
    pytest.importorskip("numpy")
    job = shared_commands.write("numpy_job.py", NUMPY)
    ways = [["--inline"], ["--procs=1"], ["--procs=1", "--set", "greenlets=3"], ["--join", elsewhere]]
    answers = [shared_commands.run("run", *way, job) for way in ways]
    assert "raised" in answers[0].stdout
    assert {(ended.stdout, ended.stderr) for ended in answers} == {(answers[0].stdout, "")}


def test_functions_set_in_numpy_are_named(commands):
    pytest.importorskip("numpy")
    job = commands.write(
        "job.py",
        """
import numpy as np
np.set_printoptions(formatter={"float": lambda x: "?"})
np.seterrcall(lambda *args: None)
datasource = {1: 1}
def mapfn(key, value): yield key, value
""",
    )
    assert commands.run("run", "--procs=1", job).stderr == (
        "mmg-run: the formatter of numpy's print options does not travel to executors: set it in setupfn\n"
        "mmg-run: numpy's error callback (np.seterrcall) does not travel to executors: set it in setupfn\n"
    )


# -- flags of the interpreter

FLAGS = """
import sys, warnings
datasource = {1: 1}
def _seen():
    return str([sys.flags.optimize, __debug__, sys.flags.bytes_warning, sys.flags.utf8_mode,
                sys.get_int_max_str_digits(), open(__file__).encoding.lower(), warnings.filters[0][0]])
def _asserted():
    try: assert False
    except AssertionError: return "asserted"
    return "not asserted"
def mapfn(key, value):
    yield _seen(), _asserted()
"""

#: flags, environment
INTERPRETERS = [
    ([], {}),
    (["-O"], {}),
    (["-OO", "-bb"], {}),
    (["-b"], {"PYTHONOPTIMIZE": "2"}),
    (["-X", "utf8"], {}),
    ([], {"PYTHONUTF8": "1", "PYTHONWARNINGS": "error"}),
    (["-X", "utf8=0"], {"LC_ALL": "C"}),
    (["-W", "error", "-X", "int_max_str_digits=1000"], {}),
]


@pytest.mark.parametrize(("flags", "environ"), INTERPRETERS)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_flags_that_change_answers_hold_in_executors(shared_commands, elsewhere, flags, environ, where):
    job = shared_commands.write("flags_job.py", FLAGS)
    program = (*flags, "-m", "mmgevent")
    way = ["--procs=1"] if where == "here" else ["--join", elsewhere]
    inline, ended = (
        shared_commands.run("run", *way, job, program=program, environ=environ) for way in (["--inline"], way)
    )
    assert inline.returncode == ended.returncode == 0, inline.stderr + ended.stderr
    if where == "elsewhere" and "-X utf8=0" in " ".join(flags):  # the locale there has another encoding
        assert "the encoding of text cannot be set in an executor as in your program" in ended.stderr
    else:
        assert "cannot be set" not in ended.stderr
        assert ended.stdout == inline.stdout
