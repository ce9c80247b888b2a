"""Changes that a job file makes outside of itself: which are reported, and which are none."""

import itertools
import json
import sys
import time

import pytest

from mmgevent.job.job import Job
from mmgevent.job.shipping.pack import pack_functions

TAIL = """
datasource = {1: 1}
def mapfn(key, value):
    yield key, [settings.state(), random.random(), time.time(), json.dumps(1)]
"""
HEAD = "import builtins, codecs, decimal, json, logging, os, random, sys, time\nimport settings\n"

SETTINGS = """
import functools
class Thing: dps = 15
mp = Thing()
CFG = {}
N = 10
PLACE = None
_HIDDEN = COUNT = 0
TWICE = 1
TWICE = 2
def tune(value): mp.dps = value
def set_option(name, value): CFG[name] = value
def get_context(): return mp
def show(): pass
def count():
    global COUNT
    COUNT += 1
def register(own): return own
def registered(name): return lambda own: own
@functools.singledispatch
def kind(value): pass
def state(): return mp.dps
"""

_names = itertools.count()


@pytest.fixture
def left(tmp_path, monkeypatch):
    """The changes that are reported for a job file with these lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "settings.py").write_text(SETTINGS)
    monkeypatch.setattr("json.JSONEncoder.default", json.JSONEncoder.default)
    monkeypatch.setattr("time.time", time.time)
    monkeypatch.setattr("ssl.nothing", 0, raising=False)

    def left(source, tail=TAIL):
        name = f"job_outside_{next(_names)}"
        (tmp_path / f"{name}.py").write_text(HEAD + source + "\n" + tail)
        job = Job.from_file(tmp_path / f"{name}.py")
        told = []
        pack_functions(job.functions(), by_value=job.by_value, on_left=told.append)
        return told

    yield left
    for name in [name for name in sys.modules if name == "settings" or name.startswith("job_outside_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("settings.mp.dps = 50", "settings.mp.dps = ... in line 3"),
        ("settings.mp.dps += 1", "settings.mp.dps = ... in line 3"),
        ("settings.get_context().dps = 5", "settings.get_context.dps = ... in line 3"),
        ("settings.CFG['a'] = 1", "settings.CFG = ... in line 3"),
        ("from settings import CFG\nCFG['a'] = 1", "CFG = ... in line 4"),
        ("from settings import mp\nmp.dps = 5", "mp.dps = ... in line 4"),
        ("from settings import set_option\nset_option('a', 1)", "set_option(...) in line 4"),
        ("settings.set_option('a', 1)", "settings.set_option(...) in line 3"),
        ("if True:\n    settings.set_option('a', 1)", "settings.set_option(...) in line 4"),
        ("try:\n    pass\nfinally:\n    settings.mp.dps = 3", "settings.mp.dps = ... in line 6"),
        ("for n in range(2): settings.mp.dps = n", "settings.mp.dps = ... in line 3"),
        ("def main():\n    settings.mp.dps = 3\nmain()", "settings.mp.dps = ... in line 4"),
        ("def main(): inner()\ndef inner(): settings.mp.dps = 3\nmain()", "settings.mp.dps = ... in line 4"),
        (
            "async def main(): settings.mp.dps = 3\nimport asyncio\nasyncio.run(main())",
            "settings.mp.dps = ... in line 3",
        ),
        (
            "def main(): settings.mp.dps = 3\nif 1: code = max(0, main() or 0)",
            "settings.mp.dps = ... in line 3",
        ),
        ("setattr(settings, 'mp', settings.Thing())", "setattr(settings, ...) in line 3"),
        ("settings.CFG.update(a=1)", "settings.CFG.update(...) in line 3"),
        ("@settings.register\ndef own(): pass", "@settings.register in line 3"),
        ("@settings.registered('own')\nclass Own: pass", "@settings.registered in line 3"),
        ("@settings.kind.register(int)\ndef own(value): pass", "@settings.kind.register in line 3"),
        (
            "import numbers\nclass Own: pass\nnumbers.Number.register(Own)",
            "numbers.Number.register(...) in line 5",
        ),
        (
            "from collections.abc import Sequence\n@Sequence.register\nclass Own: pass",
            "@Sequence.register in line 4",
        ),
        ("random.seed(1)", "random.seed(...) in line 3"),
        ("time.time = lambda: 5.0", "time.time = ... in line 3"),
        ("import ssl\nssl.nothing = 1", "ssl.nothing = ... in line 4"),
        ("json.JSONEncoder.default = lambda self, value: 1", "json.JSONEncoder.default = ... in line 3"),
        ("codecs.register_error('mine', print)", "codecs.register_error(...) in line 3"),
        ("logging.setLoggerClass(logging.Logger)", "logging.setLoggerClass(...) in line 3"),
    ],
)
def test_what_executors_do_not_repeat_is_told(left, source, said):
    (told,) = left(source)
    assert said in told, told
    assert ("random.Random(repr(key))" if "seed" in said else "repeat it in setupfn") in told


@pytest.mark.parametrize(
    "source",
    [
        "decimal.getcontext().prec = 5",  # these travel
        "os.environ['OUTSIDE'] = '1'",
        "sys.setrecursionlimit(2000)",
        "logging.basicConfig()",
        "import atexit\n@atexit.register\ndef bye(): pass",
        "settings.show()",  # by their names these set nothing
        "os.makedirs('there', exist_ok=True)",
        "OWN = {}\nOWN['a'] = 1",  # these are the file's own
        "class Own: pass\nOwn.x = 1",
        "RNG = random.Random(3)\nRNG.seed(4)",
        "def helper():\n    settings.mp.dps = 3",  # this has not run
    ],
)
def test_what_travels_or_changes_nothing_is_not_told(left, source):
    assert left(source) == []


def test_a_module_that_no_function_uses_may_be_set_up_at_will(left):
    tail = "datasource = {1: 1}\ndef mapfn(key, value): yield key, 1\n"
    assert left("settings.mp.dps = 50\nrandom.seed(1)", tail) == []


def test_a_seed_is_not_told_where_functions_have_a_generator_of_their_own(left):
    tail = "datasource = {1: 1}\nRNG = random.Random(3)\ndef mapfn(key, value): yield key, RNG.random()\n"
    assert left("random.seed(1)", tail) == []


@pytest.mark.parametrize("body", ["settings.mp.dps = 50", "prepare()"])
def test_what_setupfn_repeats_is_not_told(left, body):
    source = f"def prepare(): settings.mp.dps = 50\ndef setupfn(): {body}\nsettings.mp.dps = 50"
    assert left(source) == []


def test_an_object_that_travels_as_it_is_now_is_not_told(left):
    tail = "datasource = {1: 1}\ndef mapfn(key, value): yield key, CFG['a']\n"
    assert left("from settings import CFG\nCFG['a'] = 1", tail) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "class App:\n    def run(self): settings.N = 5\nApp().run()",
            "settings.N is 5 by now and 10 in executors",
        ),
        ("settings.N = 5", "settings.N is 5 by now and 10 in executors"),
        ("vars(settings)['PLACE'] = 'here'", "settings.PLACE is 'here' by now and None in executors"),
        ("[setattr(settings, 'N', n) for n in (10.0,)]", "settings.N is 10.0 by now and 10 in executors"),
    ],
)
def test_a_constant_of_a_module_of_the_users_that_is_another_one_by_now_is_told(left, source, said):
    (told,) = left(source)
    assert said in told
    assert left(f"def setupfn(): settings.N = 5; settings.PLACE = ''\n{source}") == []


@pytest.mark.parametrize(
    "name", ["N = 10", "_HIDDEN = 1", "COUNT = 1", "TWICE = 2", "CFG = {}", "OTHER = 1", "PLACE = None"]
)
def test_what_a_module_has_anew_or_keeps_for_itself_is_not_told(left, name):
    name, _, value = name.partition(" = ")
    tail = TAIL.replace("settings.state()", "settings.state(), settings.count()")
    assert left(f"class App:\n    def run(self): settings.{name} = {value}\nApp().run()", tail) == []
