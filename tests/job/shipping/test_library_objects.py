"""Objects of libraries at the top of a job travel, or the message says what to do that can be done."""
# ruff: noqa: F811

import pytest

from mmgevent.errors import ShippingError
from tests.job.shipping.test_shipping import elsewhere, execute, folder, module, pack, write  # noqa: F401


@pytest.mark.parametrize(
    ("setup", "expression", "expected"),
    [
        ("import threading\nlock, again = threading.Lock(), threading.RLock()",
         "(lock.acquire(blocking=False), again.acquire(blocking=False))", (True, True)),
        ("import threading\nlock = threading.Lock()\nlock.acquire()", "lock.locked()", False),
        ("import threading\nlocal = threading.local()\nlocal.x = 1", "hasattr(local, 'x')", False),
        ("import threading\nready = threading.Condition()\nseats = threading.Semaphore(2)",
         "(ready.acquire(False), seats.acquire(False), seats.acquire(False), seats.acquire(False))",
         (True, True, True, False)),
        ("view = memoryview(b'abcd').cast('H')", "(view.format, view.tolist() == [25185, 25699])", ("H", True)),
        ("import contextvars\nvariable = contextvars.ContextVar('v', default=4)", "variable.get()", 4),
        ("import contextvars\nvariable = contextvars.ContextVar('v')", "variable.get('none')", "none"),
        ("import weakref\nclass Kept: pass\nkept = weakref.WeakValueDictionary(k=Kept)", "kept['k'] is Kept", True),
        ("import types\nmade = types.ModuleType('made')\nexec('x = 5\\ndef f(): return x + 1', vars(made))",
         "(made.f(), made.x)", (6, 5)),
        ("import contextlib\nentered = []\n@contextlib.contextmanager\ndef within():\n    entered.append(1)\n    yield\n"
         "@within()\ndef f(): return len(entered)", "(f(), f())", (1, 2)),
        ("import ctypes\nclass Row(ctypes.Structure):\n    _pack_ = 1\n    _layout_ = 'ms'\n"
         "    _fields_ = [('a', ctypes.c_uint8), ('b', ctypes.c_uint32)]\n    def both(self): return self.a + self.b\n"
         "row = Row(1, 2)", "(ctypes.sizeof(Row), row.both(), Row.from_buffer_copy(bytes([3, 4, 0, 0, 0])).both())",
         (5, 3, 7)),
        ("import functools\nclass P:\n    def base(self, a, b=1): return a, b\n    fixed = functools.partialmethod(base, 5, b=2)",
         "P().fixed()", (5, 2)),
        ("class Unit(float):\n    def __new__(cls, value, unit):\n        made = super().__new__(cls, value)\n"
         "        made.unit = unit\n        return made\nunit = Unit(2.5, 'm')", "(unit + 1, unit.unit)", (3.5, "m")),
        ("class Pair(tuple):\n    __slots__ = ()\n    def __new__(cls, a, b): return super().__new__(cls, (a, b))\n"
         "pair = Pair(1, 2)", "(pair, type(pair).__name__)", ((1, 2), "Pair")),
        ("class Made:\n    def __new__(cls, source):\n        made = object.__new__(cls)\n        made.source = source\n"
         "        return made\nmade = Made('x')", "made.source", "x"),
        ("class Forwards:\n    def __init__(self): self.inner = {'x': 1}\n    def __getattr__(self, name): return self.inner[name]\n"
         "f = Forwards()", "f.x", 1),
        ("class Forwards:\n    __slots__ = ('inner',)\n    def __init__(self): self.inner = [3]\n"
         "    def __getattr__(self, name): return getattr(self.inner, name)\nf = Forwards()", "f.pop()", 3),
        ("class Named:\n    def __init__(self): self.n = 3\n    def __reduce__(self): return 'NAMED'\nNAMED = Named()",
         "NAMED.n", 3),
        ("import functools\nclass Wrapper:\n    def __init__(self, f): functools.update_wrapper(self, f); self.f = f\n"
         "    def __reduce__(self): return self.__qualname__\n    def __call__(self, v): return self.f(v)\n"
         "@Wrapper\ndef g(v): return v + (g(v - 1) if v else 0)", "g(3)", 6),
        ("class Part:\n    def __set_name__(self, owner, name): self.owner, self.name = owner, name\n"
         "    def __get__(self, obj, kind=None): return self.name\n"
         "    def __reduce__(self): return getattr, (self.owner, self.name)\nclass Whole: part = Part()",
         "Whole().part", "part"),
        ("from __future__ import annotations\nimport typing\nclass Tree(typing.NamedTuple):\n    left: typing.Optional[Tree]\n"
         "typing.get_type_hints(Tree)", "Tree(None).left is None", True),
        ("bare, pair = object(), []\nclass Missing: pass\nMISSING = Missing()\npair = [bare, MISSING]",
         "(pair[0] is bare, pair[1] is MISSING)", (True, True)),
        ("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int",
         "dataclasses.fields(A)[0].default is dataclasses.MISSING", True),
    ],
)  # fmt: skip
def test_objects_of_the_standard_library_and_of_odd_classes_travel(
    pack, execute, module, setup, expression, expected
):
    assert execute(pack(f"{setup}\ndef mapfn(k, v): yield {expression}\n", module=module)) == [expected]


def test_what_only_its_identity_tells_is_the_one_of_its_module(pack, execute, folder):
    write(
        folder,
        signs="class Sign: pass\nNONE = Sign()\nBARE = object()\ndef ask(x): return x is NONE, x is BARE",
    )
    payload = pack(
        """
        import signs
        held = {"none": signs.NONE, "bare": signs.BARE}
        def mapfn(k, v): yield signs.ask(held["none"]), signs.ask(held["bare"])
        """
    )
    assert execute(payload) == [((True, False), (False, True))]


def test_what_cannot_travel_is_taken_from_the_module_that_made_it(pack, execute, folder):
    write(folder, making="import zlib\npacker = zlib.compressobj()\nevents = (n for n in range(3))")
    payload = pack(
        """
        from making import packer, events as numbers
        def mapfn(k, v): yield bool(packer.compress(b"x") + packer.flush()), list(numbers)
        """
    )
    assert execute(payload) == [(True, [0, 1, 2])]


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("import zlib\nTHING = zlib.compressobj()", "make it inside the function that uses it, or put it into a module"),
        ("import zlib\nclass THING: packer = zlib.compressobj()", r"cannot pickle 'zlib.Compress' object\): put it into a"),
        ("class Meta(type): pass\nclass THING:\n    log = open(__file__)", "or send its path; or put it into a module"),
    ],
)  # fmt: skip
def test_the_advice_can_be_followed(pack, setup, said):
    with pytest.raises(ShippingError, match=f"'THING'.*{said}.* of its own beside the job"):
        pack(f"{setup}\ndef mapfn(k, v): yield THING\n")


LIBRARIES = {
    "cachetools": (
        """
        import threading, cachetools, cachetools.keys
        @cachetools.cached(cachetools.LRUCache(maxsize=32))
        def one(v): return v + 1
        @cachetools.cached(cachetools.TTLCache(8, 60), lock=threading.RLock(), key=cachetools.keys.typedkey)
        def two(v): return one(v) * 2
        @cachetools.cached({}, lock=threading.Lock())
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        class Holder:
            def __init__(self): self.cache = cachetools.LFUCache(4)
            @cachetools.cachedmethod(lambda self: self.cache)
            def three(self, v): return v * 3
        holder = Holder()
        """,
        "[one(1), two(1), two(1), fib(20), holder.three(3)]",
        [2, 4, 4, 6765, 9],
    ),
    "jinja2": (
        """
        import jinja2
        hello = jinja2.Template("{% for word in words %}{{ word | upper }}, {% endfor %}{{ 1 + 1 }}")
        environment = jinja2.Environment(trim_blocks=True)
        environment.filters["twice"] = lambda value: value * 2
        twice = environment.from_string("{% macro m(x) %}{{ x | twice }}{% endmacro %}{{ m(n) }}")
        """,
        "[hello.render(words='ab'), twice.render(n=4), environment.from_string('{{ 3 | twice }}').render()]",
        ["A, B, 2", "8", "6"],
    ),
    "msgspec": (
        """
        import typing, msgspec
        class Point(msgspec.Struct, order=True, rename="upper"):
            x: int
            rest: list[int] = []
            next: typing.Optional["Point"] = None
            label: str = "none"
            def total(self): return self.x + sum(self.rest) + (self.next.total() if self.next else 0)
        class Named(Point, frozen=False, tag="named", kw_only=True, omit_defaults=True):
            name: str
            tags: set[str] = msgspec.field(default_factory=set, name="tagged")
            @property
            def loud(self): return self.name.upper() + super().label
        decode = msgspec.json.Decoder(Point).decode
        msgspec.json.decode(b'{"X": 1, "NEXT": {"X": 2}}', type=Point)
        """,
        '[Point(1, next=Point(2)).total(), msgspec.json.decode(b\'{"X": 1, "REST": [4]}\', type=Point).total(), '
        "msgspec.json.encode(Named(1, name='n', tags={'t'})).decode(), Named(2, name='n').loud, Point(1) < Point(2)]",
        [3, 5, '{"type":"named","X":1,"NAME":"n","tagged":["t"]}', "Nnone", True],
    ),
    "wrapt": (
        """
        import wrapt
        @wrapt.decorator
        def twice(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs) * 2
        @twice
        def one(v): return v + 1
        class Holder:
            @twice
            def two(self, v): return v
        """,
        "[one(1), Holder().two(3), one.__name__]",
        [4, 6, "one"],
    ),
    "attrs": (
        """
        import attrs
        @attrs.define
        class Point:
            x: int = attrs.field(validator=attrs.validators.instance_of(int))
            y: list = attrs.field(factory=list)
        @attrs.frozen
        class More(Point):
            z: int = 3
            def shown(self): return super().__repr__()
        """,
        "[repr(Point(1)), More(1).shown(), attrs.asdict(More(2)), attrs.evolve(More(1), z=4).z]",
        ["Point(x=1, y=[])", "More(x=1, y=[])", {"x": 2, "y": [], "z": 3}, 4],
    ),
    "pydantic": (
        """
        from __future__ import annotations
        import pydantic
        class Parent(pydantic.BaseModel):
            n: int
            children: list[Parent] = []
            child: Child | None = None
            @pydantic.field_validator("n")
            @classmethod
            def check(cls, value): return value + 1
        class Child(pydantic.BaseModel):
            y: float = pydantic.Field(gt=0)
        Parent.model_rebuild()
        @pydantic.validate_call
        def call(n: int, child: Child) -> int: return n
        """,
        "[Parent(n='3', children=[{'n': 1}], child={'y': 2}).model_dump_json(), call('4', {'y': 1})]",
        ['{"n":4,"children":[{"n":2,"children":[],"child":null}],"child":{"y":2.0}}', 4],
    ),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_objects_of_well_known_libraries_travel(pack, execute, module, library):
    pytest.importorskip(library)
    setup, expression, expected = LIBRARIES[library]
    body = f"        def mapfn(k, v): yield {expression}\n"
    assert execute(pack(setup.rstrip() + "\n" + body, module=module)) == [expected]


MODELS = """
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase): pass
class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    def hello(self): return "hello " + self.name
engine = create_engine("sqlite://")
def greet(session, name):
    session.add(User(id=1, name=name))
    session.commit()
    return session.scalars(select(User)).one().hello()
"""

GREETING = """
def mapfn(k, v):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield greet(session, "you")
"""


def test_models_of_sqlalchemy_travel_in_a_module_of_their_own(pack, execute, folder):
    pytest.importorskip("sqlalchemy")
    write(folder, models=MODELS)
    names = "Base, Session, User, engine, greet"
    assert execute(pack(f"from models import {names}\n" + GREETING)) == ["hello you"]


def test_models_of_sqlalchemy_in_the_job_itself_are_refused_with_advice(pack, elsewhere):
    pytest.importorskip("sqlalchemy")
    with pytest.raises(ShippingError, match="put it into a module of its own beside the job"):
        elsewhere.ask("execute", pack(MODELS + GREETING).hex(), "result = 1")
