"""What travels arrives: scripts and job files are packed in one process and run in another.

One process that has nothing of a job loaded forks drivers and executors, as a
template does: a child is as good as new, and comes in milliseconds.
"""

import ast
import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from mmgevent.errors import ShippingError
from mmgevent.job.functions import Functions
from mmgevent.job.shipping.pack import pack_functions
from mmgevent.job.shipping.surroundings import read_surroundings
from mmgevent.job.shipping.trial import Trial, fingerprint

ROOT = str(Path(__file__).resolve().parents[3])

ZYGOTE = """
import json, os, sys, traceback, runpy, importlib.util
import dill, pickle, linecache, ast, inspect
import mmgevent.job.functions, mmgevent.job.shipping.packer
from mmgevent.job.shipping.load import load_functions
from mmgevent.job.functions import Functions

def drive(folder, script, module, functions, options):
    os.chdir(folder)
    sys.path.insert(0, folder)
    with open(script, "a") as file:
        file.write("\\nfrom mmgevent.job.shipping.pack import pack_functions as _pack\\nfrom mmgevent.job.functions import Functions\\n"
                   f"_payload = _pack(Functions({functions}), **{options})\\n")
    if module == "__main__":
        return runpy.run_path(script, run_name="__main__")["_payload"]
    spec = importlib.util.spec_from_file_location(module, os.path.join(folder, script))
    sys.modules[module] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded._payload

def execute(payload, code):
    told = []
    functions = load_functions(bytes.fromhex(payload), on_warning=told.append)
    space = {"f": functions, "pickle": pickle, "traceback": traceback, "told": told}
    exec(code, space)
    return space["result"]

for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            answer = {"value": repr(globals()[request["do"]](*request["arguments"]))}
        except BaseException as error:
            answer = {"error": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
        with open(request["answer"], "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.waitpid(pid, 0)
    print("done", flush=True)
"""


class Elsewhere:
    """The process that forks drivers and executors; its folder and path hold nothing but mmgevent."""

    def __init__(self, folder):
        self.answer = folder / "answer"
        environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": ROOT}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=folder, env=environ,
        )  # fmt: skip

    def ask(self, do, *arguments):
        self.process.stdin.write(
            json.dumps({"do": do, "arguments": arguments, "answer": str(self.answer)}) + "\n"
        )
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        answer = json.loads(self.answer.read_text())
        if "error" in answer:
            kind = {"ShippingError": ShippingError, "ModuleNotFoundError": ModuleNotFoundError}.get(
                answer["error"]
            )
            raise (kind or RuntimeError)(answer["text"] if kind else answer["traceback"])
        return ast.literal_eval(answer["value"])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    zygote = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait()
    zygote.process.stdout.close()


@pytest.fixture
def folder(tmp_path):
    """Where the job's files lie."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def write(folder, **files):
    """Write modules; `a__b` is module b of package a, `a__` the package itself."""
    for name, text in files.items():
        *packages, module = name.split("__")
        path = folder.joinpath(*packages, (module or "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.fixture
def pack(elsewhere, folder):
    """Run a script, as `__main__` or a module of its stem, and return what it packs."""

    def pack(script, functions="mapfn=mapfn", module="__main__", **options):
        write(folder, job=script)
        if module != "__main__":
            options.setdefault("by_value", [module])
        return elsewhere.ask("drive", str(folder), "job.py", module, functions, options)

    return pack


@pytest.fixture
def execute(elsewhere, folder):
    """Load a payload where the job's folder does not exist, run code on its functions `f`, return `result`."""

    def execute(payload, code="result = list(f.mapfn(1, 2))"):
        away = folder.with_name("away")
        if folder.exists():
            folder.rename(away)
        try:
            return elsewhere.ask("execute", payload.hex(), textwrap.dedent(code))
        finally:
            away.rename(folder)

    return execute


@pytest.fixture(params=["__main__", "wordcount"])
def module(request):
    return request.param


def test_plain_functions_travel_with_the_globals_they_use(pack, execute, module):
    payload = pack(
        """
        import math
        from collections import Counter
        FACTOR = [2]
        unused = open(__file__)
        def scale(x): return math.floor(x) * FACTOR[0]
        def mapfn(k, v): yield __name__, scale(v), dict(Counter("aab"))
        """,
        module=module,
    )
    assert execute(payload) == [(module, 4, {"a": 2, "b": 1})]


def test_a_script_run_by_python_itself_is_packed_as_main(tmp_path, execute):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from mmgevent.job.shipping.pack import pack_functions
        from mmgevent.job.shipping.trial import Trial
        from mmgevent.job.functions import Functions
        class Point:
            def __init__(self, x): self.x = x
        def mapfn(k, v): yield __name__, Point(v).x
        if __name__ == "__main__":
            payload = pack_functions(Functions(mapfn=mapfn))
            Trial(payload).result()
            sys.stdout.write(payload.hex())
        """)
    )
    environ = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert execute(bytes.fromhex(done.stdout)) == [("__main__", 2)]


def test_lambdas_closures_and_defaults_travel(pack, execute, module):
    payload = pack(
        """
        def make(base):
            count = 0
            def bump():
                nonlocal count
                count += 1
                return count
            def peek(): return count
            def fact(n): return n * fact(n - 1) if n else base
            return bump, peek, fact
        bump, peek, fact = make(10)
        double = lambda x: x * 2
        def mapfn(k, v, *, step=(lambda x: x + 1), seen=[]):
            bump(); seen.append(k)
            yield fact(3), double(v), step(v), bump(), peek(), seen
        """,
        module=module,
    )
    assert execute(payload) == [(60, 4, 3, 2, 2, [1])]


def test_functions_that_call_one_another_and_themselves_travel(pack, execute, module):
    payload = pack(
        """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def mapfn(k, v): yield even(10), odd(10)
        """,
        "mapfn=mapfn, reducefn=odd",
        module=module,
    )
    code = "result = [*f.mapfn(1, 2), f.mapfn.__globals__ is f.reducefn.__globals__]"
    assert execute(payload, code) == [(True, False), True]


def test_a_chain_of_a_thousand_functions_travels(pack, execute):
    chain = "\n".join(f"def f{i}(): return f{i + 1}() if {i} > 998 else f{i + 1}" for i in range(1000))
    payload = pack(
        chain + "\ndef f1000(): return 'end'\ndef mapfn(k, v):\n    yield f999(), callable(f0())\n"
    )
    assert execute(payload) == [("end", True)]


def test_decorators_travel(pack, execute, module):
    payload = pack(
        """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args): return function(*args) * 2
            return wrapper
        @twice
        def add(a, b): "adds"; return a + b
        @functools.lru_cache(maxsize=None)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.singledispatch
        def kind(x): return "object"
        @kind.register(int)
        def _(x): return "int"
        def mapfn(k, v): yield add(1, 2), add.__name__, add.__wrapped__(1, 2), fib(30), kind(3), kind("")
        """,
        module=module,
    )
    assert execute(payload) == [(6, "add", 3, 832040, "int", "object")]


def test_a_recursive_cached_closure_travels(pack, execute):
    payload = pack(
        """
        import functools
        def make():
            @functools.lru_cache
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            return fib
        mapfn = make()
        """
    )
    assert execute(payload, "result = f.mapfn(40)") == 102334155


def test_global_writes_are_seen_by_every_function(pack, execute, module):
    payload = pack(
        """
        total = 0
        def mapfn(k, v):
            global total, fresh
            total += v
            fresh = v
            yield read()
        def read(): return total, fresh
        """,
        module=module,
    )
    assert execute(payload, "result = [*f.mapfn(1, 2), *f.mapfn(1, 3)]") == [(2, 2), (5, 3)]


def test_objects_that_two_globals_share_stay_one(pack, execute):
    payload = pack(
        """
        SHARED = {}
        ALIAS = SHARED
        BIG = list(range(5000))
        HOLDER = [BIG, SHARED]
        def mapfn(k, v, cache=SHARED): yield cache is SHARED, ALIAS is SHARED, HOLDER[0] is BIG, HOLDER[1] is cache
        """
    )
    assert execute(payload) == [(True, True, True, True)]


def test_methods_partials_and_callable_objects_travel_as_functions(pack, execute, module):
    payload = pack(
        """
        import functools
        class Counter:
            def __init__(self, step): self.step = step
            def __call__(self, k, v): return [(k, v + self.step)]
            def reduce(self, k, values): return sum(values) + self.step
            @classmethod
            def make(cls, step): return cls(step)
        counter = Counter.make(5)
        def collect(extra, k, values): return [*values, extra]
        """,
        "mapfn=counter, collectfn=functools.partial(collect, 9), reducefn=counter.reduce",
        module=module,
    )
    code = "result = f.mapfn(1, 2), f.collectfn(1, [2]), f.reducefn(1, [2]), f.reducefn.__self__ is f.mapfn"
    assert execute(payload, code) == ([(1, 7)], [2, 9], 7, True)


CLASSES = """
import abc, collections, dataclasses, enum, typing, functools
T = typing.TypeVar("T")
LIMIT = {"max": 3}
class Base:
    limit = LIMIT
    __slots__ = ("a", "__b")
    def __init__(self, a): self.a = a; self.__b = a + 1
    def both(self): return self.a, self.__b
class Derived(Base):
    def both(self): return ("derived", *super().both())
    @property
    def doubled(self): return self.a * 2
    @functools.cached_property
    def cached(self): return [self.a]
    @staticmethod
    def static(): return LIMIT is Base.limit
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2
Shape.register(Derived)
@dataclasses.dataclass(frozen=True, order=True)
class Point:
    x: int
    y: int = 0
    tags: tuple = dataclasses.field(default_factory=tuple, compare=False)
@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
class Box(typing.Generic[T]):
    def __init__(self, held: T): self.held = held
Pair = collections.namedtuple("Pair", "left right", defaults=[7])
class Typed(typing.NamedTuple):
    name: str
    size: int = 1
    def big(self): return self.size > LIMIT["max"]
class Color(enum.Enum):
    RED = 1
    GREEN = 2
    VERT = 2
    @property
    def pretty(self): return self.name.title()
    @classmethod
    def _missing_(cls, value): return cls.RED
class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    def __init__(self, mass, radius): self.mass = mass; self.radius = radius
class Coded(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value]); made._value_ = value; made.label = label
        return made
    A = (1, "one")
class Level(enum.IntEnum):
    LOW = enum.auto()
    HIGH = enum.auto()
class Name(str, enum.Enum):
    X = "x"
class Mode(enum.Flag):
    R = 1
    W = 2
    RW = 3
class Meta(type):
    made = []
    def __new__(meta, name, bases, space): meta.made.append(name); return super().__new__(meta, name, bases, space)
    def __len__(cls): return 42
class Metaed(metaclass=Meta): pass
class Plugin:
    known = []
    def __init_subclass__(cls, *, tag): cls.tag = tag; Plugin.known.append(tag)
class PluginA(Plugin, tag="a"): pass
class Broken(ValueError):
    def __init__(self, code, text): super().__init__(code, text); self.code = code
class Outer:
    class Inner:
        def who(self): return __class__.__qualname__
class Options(typing.TypedDict, total=False):
    depth: int
@typing.runtime_checkable
class Sized(typing.Protocol):
    def size(self) -> int: ...
class Named:
    def __set_name__(self, owner, name): self.name = name; CALLS.append(name)
    def __get__(self, obj, cls): return self.name
CALLS = []
class Methods:
    named = Named()
    def __init__(self): self.itself = [self]
    def size(self): return 3
    @functools.singledispatchmethod
    def kind(self, x): return "object"
    @kind.register
    def _(self, x: int): return "int"
    swapped = functools.partialmethod(lambda self, a, b: (b, a), 1)
CYCLE = Methods()
"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Derived(1).both(), Derived(1).doubled, Derived(1).cached, Derived.static()", (("derived", 1, 2), 2, [1], True)),
        ("isinstance(Derived(1), Base), isinstance(Derived(1), Shape), Square(3).area()", (True, True, 9)),
        ("hasattr(Base(1), '__dict__'), Square.__abstractmethods__ == frozenset()", (False, True)),
        ("Point(1) < Point(2), {Point(1): 1}[Point(1)], Point(1).tags, dataclasses.asdict(Point(3))",
         (True, 1, (), {"x": 3, "y": 0, "tags": ()})),
        ("repr(dataclasses.replace(Slotted(1), x=2)), [f.name for f in dataclasses.fields(Slotted)]", ("Slotted(x=2)", ["x"])),
        ("Box[int](3).held, Box.__parameters__ == (T,)", (3, True)),
        ("tuple(Pair(1)), Pair(1, 2)._asdict(), Pair(1)._replace(left=3).left", ((1, 7), {"left": 1, "right": 2}, 3)),
        ("Typed('a', 5).big(), Typed('a').size, Typed.__annotations__ == {'name': str, 'size': int}", (True, 1, True)),
        ("Color(2) is Color.VERT, Color.RED.pretty, Color(99) is Color.RED, len(Color), list(Color.__members__)",
         (True, "Red", True, 2, ["RED", "GREEN", "VERT"])),
        ("Planet.EARTH.mass, Planet((5.9, 6.3)) is Planet.EARTH", (5.9, True)),
        ("bytes(Coded.A), Coded.A.label, Coded(1) is Coded.A", (b"\x01", "one", True)),
        ("Level.HIGH + 1, Level(1).name, Level.HIGH > Level.LOW, Name.X == 'x', Name('x').name", (3, "LOW", True, True, "X")),
        ("(Mode.R | Mode.W) is Mode.RW, Mode.R in Mode.RW, (Mode.R & Mode.W).value", (True, True, 0)),
        ("len(Metaed), Meta.made, type(Metaed) is Meta", (42, ["Metaed"], True)),
        ("PluginA.tag, Plugin.known", ("a", ["a"])),
        ("Options(depth=1), isinstance(Methods(), Sized), isinstance(1, Sized)", ({"depth": 1}, True, False)),
        ("CYCLE.itself[0] is CYCLE, CYCLE.named, CALLS, CYCLE.swapped(2)", (True, "named", ["named"], (2, 1))),
        ("CYCLE.kind(1), CYCLE.kind('')", ("int", "object")),
        ("Outer.Inner().who(), Outer.Inner.__module__ == __name__", ("Outer.Inner", True)),
    ],
)  # fmt: skip
def test_classes_travel(pack, execute, module, expression, expected):
    payload = pack(CLASSES + f"def mapfn(k, v): return {expression}\n", module=module)
    assert execute(payload, "result = f.mapfn(1, 2)") == expected


def test_an_abstract_class_stays_abstract(pack, execute):
    payload = pack(CLASSES + "def mapfn(k, v): return Shape()\n")
    with pytest.raises(RuntimeError, match="abstract"):
        execute(payload, "result = f.mapfn(1, 2)")


def test_instances_are_plain_pickles_both_ways(pack, execute, module, monkeypatch):
    payload = pack(
        CLASSES
        + "def mapfn(k, v): return [Point(1, 2), Pair(3), Color.RED, Level.LOW, Typed('a'), Outer.Inner, k]\n",
        module=module,
    )
    code = "result = pickle.dumps(f.mapfn(0, 0)[0]), pickle.dumps(f.mapfn(0, 0))"
    one, several = execute(payload, code)
    assert len(one) < 80
    loaded = {"__name__": module}
    monkeypatch.setitem(sys.modules, module, type(sys)(module))
    vars(sys.modules[module]).update(loaded)
    exec(compile(CLASSES, "job.py", "exec"), vars(sys.modules[module]))
    there = vars(sys.modules[module])
    values = pickle.loads(several)
    assert values[:2] == [there["Point"](1, 2), there["Pair"](3)]
    assert values[2] is there["Color"].RED
    back = pickle.dumps(values)
    code = f"""
    f.mapfn
    point, pair, color, *_ = pickle.loads({back!r})
    here = f.mapfn(0, 0)
    result = point == here[0] and hash(point) == hash(here[0]), type(pair) is type(here[1]), color is here[2]
    """
    assert execute(payload, code) == (True, True, True)


def test_a_class_that_no_function_names_is_there_for_items(pack, execute, folder):
    payload = pack(
        """
        STOP = {"a"}
        class Doc:
            def __init__(self, text): self.text = text
            def words(self): return [w for w in self.text.split() if w not in STOP]
        def mapfn(k, doc): yield from doc.words()
        import pickle
        with open("item", "wb") as file: pickle.dump(Doc("a b"), file)
        """
    )
    item = (folder / "item").read_bytes()
    assert execute(payload, f"result = list(f.mapfn(1, pickle.loads({item!r})))") == ["b"]


def test_a_class_that_cannot_travel_is_missed_only_where_it_is_needed(pack, execute):
    payload = pack(
        """
        import threading
        EVENT = threading.Event()
        class Guard:
            event = EVENT
        class User:
            def use(self): return EVENT
        class Later(User): pass
        def mapfn(k, v): yield v
        """
    )
    assert execute(payload) == [2]
    item = "pickle.loads(b'c__main__\\nGuard\\n.')"
    with pytest.raises(
        ShippingError, match="the class Guard, which holds, as attribute 'event' of Guard, an event"
    ):
        execute(payload, f"result = {item}")
    assert execute(payload, "import __main__; result = __main__.Later.__name__") == "Later"


def test_exceptions_of_the_job_are_raised_as_themselves(pack, execute):
    payload = pack(CLASSES + "def mapfn(k, v): raise Broken(7, 'seven')\n")
    code = """
    import __main__
    try: f.mapfn(1, 2)
    except __main__.Broken as error: result = error.code, pickle.loads(pickle.dumps(error)).args
    """
    assert execute(payload, code) == (7, (7, "seven"))


def test_values_whose_classes_run_code_find_the_globals_they_need(pack, execute):
    payload = pack(
        """
        import re
        class Key:
            def __init__(self, x): self.x = x
            def __hash__(self): return hash((SALT, self.x, OFFSET["o"][0]))
            def __eq__(self, other): return self.x == other.x
            def __reduce__(self): return Key, (self.x,)
        TABLE = {Key(1): "one"} if False else None
        SALT = re.compile("a")
        OFFSET = {"o": [1]}
        TABLE = {Key(1): "one"}
        def mapfn(k, v): yield TABLE[Key(1)], OFFSET["o"]
        """
    )
    assert execute(payload) == [("one", [1])]


def test_values_of_many_kinds_travel(pack, execute):
    payload = pack(
        """
        import re, sys, os, struct, logging, decimal, datetime, pathlib, collections, operator, itertools, types, random
        from os import environ
        from operator import itemgetter
        WORD = re.compile("[a-z]+")
        HEADER = struct.Struct("<IH")
        log = logging.getLogger("job")
        ERR = sys.stderr
        NS = types.SimpleNamespace(a=1)
        QUEUE = collections.deque([1], maxlen=3)
        GROUPS = collections.defaultdict(list, {1: [2]})
        first = itemgetter(0)
        join = "-".join
        RNG = random.Random(1)
        PATH, WHEN, D = pathlib.PurePosixPath("/a"), datetime.date(2020, 1, 2), decimal.Decimal("1.5")
        BIG = {i: str(i) for i in range(200000)}
        def mapfn(k, v):
            yield (WORD.findall("a1b"), HEADER.size, log.name, ERR is sys.stderr, NS.a, QUEUE.maxlen, GROUPS[9],
                   first("xy"), join("ab"), environ is os.environ, str(PATH), WHEN.year, D + 1 == 2.5, len(BIG),
                   RNG.random() == random.Random(1).random())
        """
    )
    expected = (["a", "b"], 6, "job", True, 1, 3, [], "x", "a-b", True, "/a", 2020, True, 200000, True)
    assert execute(payload) == [expected]


def test_a_changed_global_is_seen_by_the_next_pack(pack, execute):
    payload = pack(
        """
        from mmgevent.job.shipping.pack import pack_functions
        from mmgevent.job.functions import Functions
        LIMIT = 1
        def mapfn(k, v): yield LIMIT
        first = pack_functions(Functions(mapfn=mapfn))
        LIMIT = 2
        assert first != pack_functions(Functions(mapfn=mapfn))
        """
    )
    assert execute(payload) == [2]


def test_functions_made_by_exec_travel(pack, execute):
    payload = pack(
        """
        space = {"__name__": "generated", "step": 3}
        exec("def add(x): return bump(x) + step\\ndef bump(x): return x + 1", space)
        mapfn = lambda k, v: [space["add"](v)]
        """
    )
    assert execute(payload) == [6]


def test_names_of_offered_functions_and_forms_travel_as_they_are(elsewhere):
    functions = Functions(mapfn="stats", reducefn="total", collect_form="pair")
    loaded = elsewhere.ask("execute", pack_functions(functions).hex(), "result = repr(f)")
    assert loaded == repr(functions)


def test_installed_functions_go_by_name(pack, execute):
    payload = pack(
        """
        import operator
        from mmgevent.reducers import sum_values
        """,
        "mapfn=operator.itemgetter(1), collectfn=operator.add, reducefn=sum_values",
    )
    assert len(payload) < 2000
    assert execute(payload, "import operator; result = f.collectfn is operator.add, f.mapfn('ab')") == (
        True,
        "b",
    )
    assert execute(payload, "import mmgevent.reducers as r; result = f.reducefn is r.sum_values") is True


def test_submodules_that_attributes_name_are_imported(pack, execute):
    payload = pack(
        """
        import xml.dom.minidom
        import concurrent.futures
        def mapfn(k, v): yield xml.dom.minidom.parseString("<a/>").documentElement.tagName, callable(concurrent.futures.wait)
        """
    )
    assert execute(payload) == [("a", True)]


# modules of the user's own


def test_modules_beside_the_job_travel_as_source_with_what_they_import(pack, execute, folder, module):
    write(
        folder,
        helpers_x="""
        import helpers_y as y
        from helpers_z import *
        CACHE = []
        def clean(text): CACHE.append(text); return y.lower(text) + zed
        class Token(str): pass
        """,
        helpers_y="def lower(text): return text.lower()",
        helpers_z="zed = 'z'",
        helpers_w="def lazy(): return __name__",
    )
    payload = pack(
        """
        import helpers_x
        from helpers_x import clean, Token
        def mapfn(k, v):
            import helpers_w
            yield clean("A"), helpers_x.CACHE, isinstance(Token("a"), helpers_x.Token), helpers_w.lazy(), clean.__module__
        """,
        module=module,
    )
    assert execute(payload) == [("az", ["A"], True, "helpers_w", "helpers_x")]


def test_packages_travel_with_submodules_and_relative_imports(pack, execute, folder):
    write(
        folder,
        pkg__="from .core import run\nfrom . import tables",
        pkg__core="from .sub.deep import depth\ndef run(): from . import late; return depth(), late.X",
        pkg__tables="NAMES = ['n']",
        pkg__late="X = 'late'",
        pkg__sub__="",
        pkg__sub__deep="from ..tables import NAMES\ndef depth(): return NAMES",
        pkg__unused="raise RuntimeError('never imported')",
        spaced__inner="VALUE = 3",
        pkg__bare__leaf="LEAF = 4",
    )
    payload = pack(
        """
        import pkg
        from spaced import inner
        def mapfn(k, v):
            from pkg.bare.leaf import LEAF
            yield pkg.run(), pkg.tables.NAMES, inner.VALUE, LEAF
        """
    )
    assert execute(payload) == [((["n"], "late"), ["n"], 3, 4)]
    assert b"never imported" not in payload


def test_functions_of_a_module_of_the_users_go_by_name(pack, execute, folder):
    write(
        folder,
        tools="""
        COUNT = [0]
        def mapfn(k, v): COUNT[0] += 1; yield COUNT[0], make(2)(v)
        def make(n): return lambda v: v * n * COUNT[0]
        triple = make(3)
        """,
    )
    payload = pack("import tools", "mapfn=tools.mapfn, reducefn=tools.triple")
    code = "import tools; result = list(f.mapfn(1, 2)), f.reducefn(2), f.mapfn is tools.mapfn"
    assert execute(payload, code) == ([(1, 4)], 6, True)


def test_py_files_are_importable_though_nothing_names_them(pack, execute, folder, tmp_path):
    write(tmp_path, loose="VALUE = 1", bundle__="", bundle__part="from loose import VALUE as V")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "from .inner import I")
        archive.writestr("zipped/inner.py", "I = 3")
    payload = pack(
        """
        import importlib
        def mapfn(k, v):
            names = ["loose", "bundle.part", "zipped"]
            yield [importlib.import_module(name).__name__ for name in names], importlib.import_module("zipped").I
        """,
        py_files=[str(tmp_path / name) for name in ("loose.py", "bundle", "more.zip")],
    )
    assert execute(payload) == [(["loose", "bundle.part", "zipped"], 3)]


def test_py_files_that_are_no_modules_are_refused(tmp_path):
    (tmp_path / "x.so").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShippingError, match=r"x\.so is neither"):
        pack_functions(Functions(), py_files=[tmp_path / "x.so"])
    with pytest.raises(ShippingError, match="no module in"):
        pack_functions(Functions(), py_files=[tmp_path / "empty"])


def test_an_import_that_is_missing_is_named_with_what_to_do(pack, execute, folder, elsewhere):
    payload = pack(
        """
        import sys, types
        sys.path.append("site-packages")
        import os; os.makedirs("site-packages/nowhere"); open("site-packages/nowhere/__init__.py", "w").close()
        import nowhere
        def mapfn(k, v): yield nowhere
        """
    )
    with pytest.raises(
        ModuleNotFoundError, match=r"mapfn → nowhere: No module named 'nowhere'.*--py-files PATH"
    ):
        execute(payload)


def test_a_module_of_the_users_that_breaks_where_it_arrives_is_named(pack, execute, folder):
    write(folder, fragile="import os\nassert os.path.exists(__file__), 'not here'")
    payload = pack("import fragile\ndef mapfn(k, v): yield fragile")
    with pytest.raises(ShippingError, match=r"mapfn → fragile does not load .* AssertionError: not here"):
        execute(payload)


def test_tracebacks_show_source_lines_of_files_that_are_not_here(pack, execute, folder):
    write(folder, breaking="def fail(v):\n    return 1 / v  # in the module\n")
    payload = pack(
        """
        from breaking import fail
        def mapfn(k, v):
            return fail(v)  # in the job
        """
    )
    code = """
    try: f.mapfn(1, 0)
    except ZeroDivisionError: result = traceback.format_exc()
    """
    text = execute(payload, code)
    assert "# in the job" in text
    assert "# in the module" in text


# what cannot travel


@pytest.mark.parametrize(
    ("setup", "kind"),
    [
        ("THING = open(__file__)", "an open file"),
        ("import threading; THING = threading.Event()", "an event of threads"),
        ("import queue; THING = queue.Queue()", "a queue of threads"),
        ("import concurrent.futures; THING = concurrent.futures.Future()", "a result that is not there yet"),
        ("import socket; THING = socket.socket()", "a socket"),
        ("THING = (x for x in 'ab')", "a generator"),
        ("import threading; THING = threading.Thread()", "a thread"),
        ("import threading; THING = threading.Timer(9, print)", "a Timer"),
        ("import sqlite3; THING = sqlite3.connect(':memory:')", "a connection"),
    ],
)
def test_what_cannot_travel_is_named_with_the_function_that_reaches_it(pack, setup, kind):
    script = f"{setup}\ndef inner(): return THING\ndef mapfn(k, v): yield inner()\n"
    with pytest.raises(
        ShippingError, match=rf"inner uses the global 'THING' \(mapfn → inner → THING\), .*{kind}"
    ):
        pack(script)


@pytest.mark.parametrize(
    ("script", "match"),
    [
        (
            "def make():\n    handle = open(__file__)\n    def inner(k, v): return handle\n    return inner\nmapfn = make()",
            r"the function 'make.<locals>.inner', which holds, as closure variable 'handle' of make.<locals>.inner, an open",
        ),
        (
            "import threading\ndef mapfn(k, v, stop=threading.Event()): pass",
            "as a default argument of mapfn, an event",
        ),
        (
            "import threading\nclass State:\n    def __init__(self): self.stop = threading.Event()\n"
            "STATE = State()\ndef mapfn(k, v): return STATE",
            r"global 'STATE' .*, which holds, as attribute 'stop' of a State, an event",
        ),
        (
            "import threading\nD = {'x': [threading.Event()]}\ndef mapfn(k, v): return D",
            "'D'.* item 'x'.* event",
        ),
        (
            "import types, sys\nsys.modules['made'] = M = types.ModuleType('made')\ndef mapfn(k, v): return M",
            "'made' was made while the program ran",
        ),
        ("L = []\nfor _ in range(5000): L = [L]\ndef mapfn(k, v): return L", "'L' .* nested too deeply"),
        (
            "import fast\ndef mapfn(k, v): return fast",
            "'fast' is a compiled extension .* installed on the workers",
        ),
        (
            "def mapfn(k, v):\n    import fast\n    return fast",
            "mapfn imports it: module 'fast' is a compiled",
        ),
        (
            "import needs_fast\ndef mapfn(k, v): return needs_fast",
            r"'fast' is a compiled.*\(module 'needs_fast' imports it",
        ),
        ("import cmd\ndef mapfn(k, v): return cmd", "'cmd' .* has the name of a module"),
    ],
)
def test_the_message_says_where_it_sits(pack, folder, script, match):
    import _ctypes

    (folder / "fast.so").write_bytes(Path(_ctypes.__file__).read_bytes())
    write(folder, needs_fast="import importlib.util\ndef f(): import fast", cmd="X = 1")
    script = script.replace("import fast\ndef", "import importlib.util, sys\n" + LOAD_FAST + "def")
    with pytest.raises(ShippingError, match=match):
        pack(script)


#: stands for importing an extension module that was compiled beside the job
LOAD_FAST = """
import importlib.machinery, types
fast = sys.modules["fast"] = types.ModuleType("fast")
fast.__spec__ = importlib.util.spec_from_file_location("fast", "fast.so")
"""


def test_a_guarded_import_of_an_extension_is_no_obstacle(pack, execute, folder):
    (folder / "_fast.so").write_bytes(b"")
    write(folder, either="try:\n    from _fast import go\nexcept ImportError:\n    def go(): return 'slow'")
    payload = pack(
        "import sys\nfrom either import go\ndef mapfn(k, v): yield go()\nX = 1".replace("X", "go.x")
    )
    assert execute(payload) == ["slow"]


def test_a_job_named_like_a_standard_module_is_refused():
    with pytest.raises(ShippingError, match="'json' has the name of a standard library module"):
        pack_functions(Functions(), by_value=["json"])


# the rest of the interface


def test_check_passes_what_loads_and_needs_no_process_for_plain_functions(pack):
    assert Trial(pack("def mapfn(k, v): yield 1"))._process is None
    Trial(pack(CLASSES + "def mapfn(k, v): yield Point")).result()


def test_what_has_loaded_is_not_tried_again_and_what_has_not_is(pack, folder):
    write(folder, moody="import os\nif 'MOODY' in os.environ: raise RuntimeError('not today')")
    payload = pack("import moody\ndef mapfn(k, v): yield moody")
    Trial(payload).result()
    assert Trial(payload)._process is None
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("MOODY", "1")
        for _ in range(2):
            with pytest.raises(ShippingError, match="not today"):
                Trial(payload).result()


@pytest.mark.parametrize(
    ("script", "match"),
    [
        (
            "import fragile\ndef mapfn(k, v): yield fragile",
            "fragile does not load in an executor: RuntimeError: here",
        ),
        ("import quitting\ndef mapfn(k, v): yield quitting", "exit code 3.*gone"),
    ],
)
def test_check_raises_for_what_does_not_load(pack, folder, script, match):
    write(
        folder,
        fragile="import sys\nif 'runpy' not in sys.modules: raise RuntimeError('here')",
        quitting="import sys, os\nif 'runpy' not in sys.modules:\n    os.write(2, b'gone')\n    os._exit(3)",
    )
    with pytest.raises(ShippingError, match=f"(?s){match}"):
        Trial(pack(script)).result()


def test_packing_a_small_job_takes_a_few_milliseconds(pack, execute):
    payload = pack(
        """
        import argparse, ast, inspect, time
        from mmgevent.job.shipping.pack import pack_functions
        from mmgevent.job.functions import Functions
        STOP = {"a", "the"}
        def words(text): return [word for word in text.lower().split() if word not in STOP]
        def mapfn(k, v):
            for word in words(v): yield word, 1
        def reducefn(k, values): return sum(values)
        def best(function):
            seconds = []
            for _ in range(5):
                begin = time.process_time()  # of this process alone, whatever else the machine does
                function()
                seconds.append(time.process_time() - begin)
            return min(seconds)
        MODULE = inspect.getsource(argparse)
        PACK = best(lambda: pack_functions(Functions(mapfn=mapfn, reducefn=reducefn, reduce_form="pair")))
        PARSE = best(lambda: ast.parse(MODULE))  # 2,500 lines: 20 to 30 ms on a machine of 2024
        """,
        "mapfn=lambda k, v: (PACK, PARSE)",
    )
    pack_s, parse_s = execute(payload, "result = f.mapfn(1, 2)")
    assert pack_s < parse_s / 2


def test_equal_payloads_have_one_fingerprint():
    payload = pack_functions(Functions(mapfn="a"))
    assert fingerprint(payload) == fingerprint(bytearray(payload))
    assert len(fingerprint(payload)) == 32
    assert fingerprint(payload) != fingerprint(payload + b"x")


def test_the_context_is_json_and_holds_no_secret(monkeypatch):
    monkeypatch.setenv("MMG_PASSWORD", "hunter2")
    monkeypatch.setenv("MMG_PASSWORD_FILE", "hunter2")
    monkeypatch.setenv("MMG_PROCS", "3")
    monkeypatch.setattr(sys, "path", ["", "/x"])
    text = json.dumps(read_surroundings())
    assert "hunter2" not in text
    context = json.loads(text)
    assert context["cwd"] == os.getcwd()
    assert context["sys_path"] == [os.getcwd(), "/x"]
    assert context["environ"]["MMG_PROCS"] == "3"


def test_os_environ_itself_does_not_travel(pack, monkeypatch):
    payload = pack(
        "import os\nos.environ['MMG_PASSWORD'] = 'hun' + 'ter2'\nE = os.environ\ndef mapfn(k, v): yield E"
    )
    assert b"hunter2" not in payload


def test_an_executor_enters_the_context(elsewhere, tmp_path):
    payload = pack_functions(Functions())
    code = """
    import os, sys
    from mmgevent.job.shipping.surroundings import enter_surroundings
    os.environ["GONE"] = "1"
    context = {"sys_path": [*sys.path, "/x"], "cwd": CWD, "environ": {"A": "b"}}
    enter_surroundings(context)
    enter_surroundings({**context, "cwd": "/no/such/folder"})
    result = sys.path[-1], os.getcwd(), dict(os.environ)
    """
    code = textwrap.dedent(code).replace("CWD", repr(str(tmp_path)))
    assert elsewhere.ask("execute", payload.hex(), code) == ("/x", str(tmp_path), {"A": "b"})


def test_an_executor_that_enters_the_context_sees_new_modules_and_imports_none_itself(elsewhere, tmp_path):
    payload = pack_functions(Functions())
    code = """
    import os, sys
    from mmgevent.job.shipping.surroundings import enter_surroundings
    sys.path.insert(0, FOLDER)
    try:
        import made_just_now
    except ImportError:
        pass
    before = os.stat(FOLDER)
    with open(os.path.join(FOLDER, "made_just_now.py"), "w") as file:
        file.write("value = 7")
    os.utime(FOLDER, ns=(before.st_atime_ns, before.st_mtime_ns))  # it looks as it was listed
    metadata = [sys.modules.pop(name) for name in list(sys.modules) if name.startswith("importlib.metadata")]
    loaded = set(sys.modules)
    enter_surroundings({"sys_path": sys.path, "cwd": FOLDER, "environ": {}})
    imported = sorted(set(sys.modules) - loaded)
    import made_just_now
    result = made_just_now.value, imported
    """
    code = textwrap.dedent(code).replace("FOLDER", repr(str(tmp_path)))
    assert elsewhere.ask("execute", payload.hex(), code) == (7, [])


def test_importing_the_module_imports_neither_dill_nor_xxhash():
    code = "import sys, mmgevent.job.shipping.pack, mmgevent.job.shipping.trial; print([n for n in ('dill', 'xxhash', 'gevent') if n in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": ROOT}
    assert subprocess.check_output([sys.executable, "-c", code], env=environ, text=True) == "[]\n"


def test_a_submodule_that_is_used_as_an_attribute_travels(pack, execute, folder, module):
    write(
        folder, pack__="", pack__sub="from . import other\nVALUE = other.VALUE\n", pack__other="VALUE = 3\n"
    )
    payload = pack("import pack.sub\ndef mapfn(k, v): yield pack.sub.VALUE\n", module=module)
    assert execute(payload) == [3]


@pytest.mark.parametrize(
    "script",
    [
        "import plugins\ndef mapfn(k, v): yield plugins.found()\n",
        """
        import importlib, pkgutil, plugins
        def mapfn(k, v):
            found = [name for _, name, _ in pkgutil.walk_packages(plugins.__path__, "plugins.")]
            yield {name: importlib.import_module(name).VALUE for name in found}
        """,
    ],
)
def test_modules_that_a_package_is_asked_for_travel_and_are_listed(pack, execute, folder, script):
    own = """
        import importlib, pkgutil
        found = lambda: {n: importlib.import_module(n).VALUE for _, n, _ in pkgutil.walk_packages(__path__, "plugins.")}
        VALUE = 0
        """
    packages = {"plugins__": own, "plugins__sub__": "VALUE = 1\n"}
    write(folder, **packages, plugins__one="VALUE = 2\n", plugins__sub__two="VALUE = 3\n")
    assert execute(pack(script)) == [{"plugins.one": 2, "plugins.sub": 1, "plugins.sub.two": 3}]


def test_files_of_a_package_that_are_listed_elsewhere_are_those_here(pack, execute, folder):
    write(folder, pack__="", pack__one="")
    (folder / "pack" / "data.txt").write_text("")
    script = """
        from importlib import resources
        def mapfn(k, v): yield sorted(path.name for path in resources.files("pack").iterdir())
        """
    assert execute(pack(script)) == [["__init__.py", "data.txt", "one.py"]]


def test_a_module_that_looks_for_files_in_its_folder_is_named_where_there_is_none(pack, execute, folder):
    write(
        folder,
        looker="import glob, os\nNAMES = glob.glob(os.path.join(os.path.dirname(__file__), '*.txt'))\n",
        walker="import os\nNAMES = list(os.walk(__path__[0])) if '__path__' in globals() else []\n",
        other="import glob\nNAMES = glob.glob('*.txt')\n",
        reader="NAME = __file__\n",
    )
    modules = "looker, walker, other, reader"
    payload = pack(f"import {modules}\ndef mapfn(k, v): yield [{modules}] and 1\n")
    told = execute(payload, "result = told")
    assert [sentence.split()[1] for sentence in told] == ["looker", "walker"]
    assert all("beside itself" in sentence and str(folder) in sentence for sentence in told)
