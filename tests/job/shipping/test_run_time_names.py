"""Names that only run time knows travel, and an error says why a missing one is not there."""
# ruff: noqa: F811

import re

import pytest

from mmgevent.job.functions import Functions
from mmgevent.job.shipping.pack import pack_functions
from tests.job.shipping.test_shipping import elsewhere, execute, folder, module, pack, write  # noqa: F401

HEAD = """
import builtins, collections, functools, importlib, inspect, socket, sys, typing
import threading
def parse_a(v): return v + TEN
def parse_b(v): return v * TEN
TEN = 10
EVENT = threading.Event()
class Point:
    near: "Other"
class Other: pass
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("yield globals()['parse_' + 'a'](v)", 12),
        ("yield eval('parse_' + 'b(v)')", 20),
        ("exec('found = socket.AF_INET'); yield bool(socket_of())\ndef socket_of(): return eval('socket.AF_INET')", True),
        ("yield getattr(sys.modules[__name__], 'parse_' + 'a')(v)", 12),
        ("yield getattr(importlib.import_module(__name__), 'parse_' + 'b')(v)", 20),
        ("yield getattr(__import__(__name__), 'parse_' + 'a')(v)", 12),
        ("yield builtins.eval('parse_' + 'a(2)', globals())", 12),
        ("yield look['e']('parse_' + 'b(2)')\nlook = {'e': eval}", 20),
        ("yield partial()\npartial = functools.partial(eval, 'parse_' + 'a(2)', globals())", 12),
        ("yield parse_b.__globals__['parse_' + 'a'](v)", 12),
        ("yield inspect.currentframe().f_globals['parse_' + 'a'](v)", 12),
        ("yield pickle.loads(BLOB)(v)\nimport pickle\nBLOB = pickle.dumps(parse_a)", 12),
        ("yield getattr(this, 'parse_' + 'a')(v)\nthis = sys.modules[__name__]", 12),
        ("yield table['parse_' + 'a'](v)\ntable = vars()", 12),
        ("yield typing.get_type_hints(Point)['near'].__name__", "Other"),
        ("yield (lambda: eval('parse_' + 'a(2)'))()", 12),
        ("yield by_name('parse_a')\ndef by_name(name): return sys._getframe(1).f_globals[name](2)", 12),
    ],
)  # fmt: skip
def test_names_that_only_run_time_knows_travel(pack, execute, module, body, expected):
    script = HEAD + f"def mapfn(k, v):\n    {body}\n"
    assert execute(pack(script, module=module)) == [expected]


def load_with(elsewhere, payload, site, code):
    """Load a payload where this folder of installed modules is on the path, and run the code there."""
    loading = f"""
import sys
from mmgevent.job.shipping.load import load_functions
sys.path.append({site!r})
f = load_functions(bytes.fromhex({payload.hex()!r}))
{code}
"""
    return elsewhere.ask("execute", pack_functions(Functions()).hex(), loading)


def test_annotations_that_are_texts_find_their_names_whoever_asks(pack, execute, folder, module):
    write(folder, asking="import typing\ndef ask(cls): return typing.get_type_hints(cls)")
    payload = pack(
        """
        from __future__ import annotations
        import asking
        from decimal import Decimal
        class Near:
            price: Decimal
            others: list[Far]
        class Far: pass
        def mapfn(k: Far, v): yield sorted(asking.ask(Near)), asking.ask(mapfn)["k"].__name__
        """,
        module=module,
    )
    assert execute(payload) == [(["others", "price"], "Far")]


def test_a_helper_that_looks_into_the_function_it_is_given_finds_its_globals(pack, execute, folder, module):
    write(folder, calling="def call(function, name): return function.__globals__[name](5)")
    script = (
        HEAD + "import calling\ndef mine(): pass\ndef mapfn(k, v): yield calling.call(mine, 'parse_' + 'b')\n"
    )
    assert execute(pack(script, module=module)) == [50]


def test_a_decorator_of_an_installed_library_finds_the_globals_of_what_it_wraps(pack, elsewhere, folder):
    site = folder / "site-packages"
    site.mkdir()
    (site / "installed_eval.py").write_text(
        "import functools\n"
        "def named(function):\n"
        "    @functools.wraps(function)\n"
        "    def wrapper(*args): return function.__globals__[function(*args)](1)\n"
        "    return wrapper\n"
        "def _look(function, name): return eval(name, function.__globals__)\n"
        "def look(function, name): return _look(function, name)\n"
    )
    script = f"import sys\nsys.path.append({str(site)!r})\nimport installed_eval\n" + (
        HEAD + "@installed_eval.named\ndef choose(v): return 'parse_' + 'a'\n"
        "def mapfn(k, v): yield choose(v)\n"
        "def reducefn(k, vs): return installed_eval.look(mapfn, 'parse_' + 'b')(3)\n"
    )
    payload = pack(script, functions="mapfn=mapfn")
    assert load_with(elsewhere, payload, str(site), "result = list(f.mapfn(1, 2))") == [11]
    payload = pack(script, functions="mapfn=mapfn, reducefn=reducefn, reduce_form='pair'")
    assert load_with(elsewhere, payload, str(site), "result = f.reducefn(1, [])") == 30


def test_words_of_a_text_that_a_library_evaluates_travel(pack, execute):
    payload = pack(
        """
        LIMIT = 3
        class Table:
            def query(self, text):
                import sys
                return eval(text.replace("@", ""), sys._getframe(1).f_globals)
        unused = list(range(10))
        def mapfn(k, v): yield Table().query("@LIMIT + 1")
        """
    )
    assert execute(payload) == [4]


def test_what_no_function_looks_up_stays_at_home(pack, execute):
    script = HEAD + "def mapfn(k, v): yield v, sys.path, functools.partial(len), collections.Counter('a')\n"
    assert "parse_a" not in execute(pack(script), "import __main__; result = list(vars(__main__))")


def test_a_global_that_only_the_driver_can_use_is_no_obstacle_to_a_look_up(pack, execute):
    payload = pack(
        """
        import mmgevent as mmg
        big = bytes(40 << 20)
        items = (n for n in range(3))
        log = open(__file__)
        def mapfn(k, v): yield eval("sm" + "all")
        small = 1
        job = mmg.Job({1: 1}, mapfn)
        """
    )
    assert len(payload) < 2 << 20
    assert execute(payload) == [1]


@pytest.mark.parametrize(
    ("look", "kind", "reason"),
    [
        ("globals()['EV' + 'ENT']", "KeyError", "EVENT cannot travel .* an event of threads"),
        ("eval('EV' + 'ENT')", "NameError", "EVENT cannot travel .* an event of threads"),
        ("hidden('parse_' + 'a')", "KeyError", "'parse_a' of __main__ did not travel: no function of the job names it"),
    ],
)  # fmt: skip
def test_whoever_misses_a_global_is_told_why_it_is_not_there(pack, elsewhere, folder, look, kind, reason):
    (folder / "site-packages").mkdir()
    site = str(folder / "site-packages")
    (folder / "site-packages" / "deep.py").write_text(
        "import operator\nglobals_of = operator.attrgetter('__glo' + 'bals__')\n"
        "def find(function, name): return globals_of(function)[name]\n"
    )
    script = f"import sys\nsys.path.append({site!r})\nimport deep\n" + (
        HEAD + "def hidden(name): return deep.find(hidden, name)\n" + f"def mapfn(k, v): yield {look}\n"
    )
    code = """
from mmgevent.tasks.blame import blame_exception
try:
    list(f.mapfn(1, 2))
except Exception as error:
    failure = blame_exception(error, "mapfn").failure
    result = (type(error).__name__, failure["advice"])
"""
    name, advice = load_with(elsewhere, pack(script), site, code)
    assert name == kind
    assert re.search(reason, advice)


def test_a_module_of_the_users_finds_the_names_it_imports_from_the_job(pack, execute, folder):
    write(
        folder,
        helper="""
        import importlib, sys
        from job import LIMIT, double
        class Rule:
            limit = LIMIT
        def call(v):
            import job
            from job import triple
            return double(v) + triple(v) + job.other + Rule.limit
        def late(): return importlib.import_module("jo" + "b").far() + sys.modules["job"].far()
        """,
    )
    payload = pack(
        """
        LIMIT = 5
        other = 100
        def double(v): return v * 2
        def triple(v): return v * 3
        from helper import call, late
        def far(): return 1000
        def mapfn(k, v): yield call(v) + late()
        """,
        module="job",
    )
    assert execute(payload) == [2 * 2 + 3 * 2 + 100 + 5 + 2000]


def test_a_module_that_a_text_names_travels_with_its_package(pack, execute, folder):
    write(
        folder, plugins__="", plugins__one="def run(): return 'one'", plugins__two="def run(): return 'two'"
    )
    payload = pack(
        """
        import importlib
        def mapfn(k, v): yield importlib.import_module("plugins." + v).run()
        """
    )
    assert execute(payload, "result = list(f.mapfn(1, 'two'))") == ["two"]
