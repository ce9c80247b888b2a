"""Job files drawn at random: from one seed always the same file, with what it reads and imports.

A drawn job is made of rows of the tables below. All rows give values that a pickle keeps exactly, and none relies on
what is promised to nobody: the order of keys, which of several equal keys stands for them, the order of a set of strs.

`sys.argv[1]` is a folder of marks, which a test makes for each run of the job:

    inline    there if the run is inline: an item that kills its executor raises there instead
    gate      there if a worker is to be killed: see `GATE`
    tried-*   how often a flaky item was tried; its name stands for key and value
"""

import random
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: Whoever comes to the gate first takes it away, says its parent's process id in the pipe `said`, and waits to be
#: killed: nobody writes to the pipe `never`.
GATE = """
def gate():
    try:
        os.rename(MARKS + "/gate", MARKS + "/taken")
    except FileNotFoundError:
        return
    with open(MARKS + "/said", "w") as said:
        said.write(str(os.getppid()))
    open(MARKS + "/never").close()
"""

#: Gives the numbers in a value of any datasource. Lines that hold none raise, unless the job is tolerant.
NUMBERS = """
def numbers(value):
    if isinstance(value, int):
        return [value]
    if isinstance(value, tuple):
        return [value[0]]
    if isinstance(value, dict):
        return [value["n"]]
    if isinstance(value, Point):
        return [value.x]
    if isinstance(value, bytes):
        value = value.decode()
    return [int(line.split()[0]) for line in value.splitlines(){tolerant}]
"""
TOLERANT = " if line.split() and line.split()[0].isdecimal()"

#: A class of the job file, for keys, values and items.
POINT = """
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: str = "p"
"""

#: A module beside the job file.
HELPER = """
import dataclasses
NAMES = []
@dataclasses.dataclass(frozen=True)
class Tag:
    n: int
def twist(n):
    return 3 * n + 1
"""
#: Another one, which the job file imports for its effect only.
EFFECT = "import {helper}\n{helper}.NAMES.append('effect')\n"

TRIED = """
def flaky(what, failures):
    with open(f"{MARKS}/tried-{zlib.crc32(repr(what).encode())}", "a") as tried:
        tried.write(".")
        count = tried.tell()
    if count <= failures:
        raise OSError(f"try {count}")
"""

DIE = """
def die():
    if os.path.exists(MARKS + "/inline"):
        raise RuntimeError("not here")
    WAY
"""
WAYS_TO_DIE = ("os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()")

HALT = "\nclass Halt(BaseException):\n    pass\n"


class Setting(NamedTuple):
    """Something set at the top of a file, and an expression that shows it; `n` is a number from 0."""

    top: str
    probe: str


SETTINGS = (
    Setting("decimal.getcontext().prec = 9", "str(decimal.Decimal(n + 1) / 7)"),
    Setting(
        "decimal.getcontext().rounding = decimal.ROUND_UP",
        "str(decimal.Decimal(n * 10 + 1).quantize(decimal.Decimal('1E1')))",
    ),
    Setting(
        "decimal.getcontext().traps[decimal.DivisionByZero] = False",
        "str(decimal.Decimal(n + 1) / (n % 2))",
    ),
    Setting("decimal.getcontext().capitals = 0", "str(decimal.Decimal(n).scaleb(30))"),
    Setting("sys.setrecursionlimit(1777)", "sys.getrecursionlimit()"),
    Setting("sys.set_int_max_str_digits(6000)", "len(str(10**5000 + n))"),
    Setting("csv.field_size_limit(200000)", "next(csv.reader(['x' * 150000]))[0][:3]"),
    Setting("csv.register_dialect('bars', delimiter='|')", "next(csv.reader(['a|b'], 'bars'))"),
    Setting("os.umask(0o027)", "umask()"),
    Setting("os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "time.localtime(n).tm_hour"),
    Setting("locale.setlocale(locale.LC_ALL, 'C')", "locale.setlocale(locale.LC_NUMERIC)"),
    Setting("socket.setdefaulttimeout(7.5)", "socket.getdefaulttimeout()"),
    Setting("warnings.simplefilter('error', UserWarning)", "warned(n)"),
    Setting("logging.getLogger('some').setLevel('ERROR')", "logging.getLogger('some').isEnabledFor(30)"),
    Setting("threading.stack_size(2**20)", "stack_size()"),
    Setting("calendar.setfirstweekday(6)", "calendar.monthcalendar(2024, 2)[0]"),
    Setting("", "int(sys.argv[2]) + n"),
    Setting("", "(FACTOR, len(sys.argv), os.path.basename(sys.argv[0]))"),
    Setting("SCALE = 2\nSCALE += FACTOR", "SCALE * n"),
    Setting("import EFFECT_MODULE", "list(HELPER_MODULE.NAMES)"),
    Setting("", "HELPER_MODULE.twist(n)"),
    Setting("SETUP model = {k: k * k for k in range(10)}", "model[n % 10]"),
    Setting("SETUP decimal.getcontext().prec = 5", "str(decimal.Decimal(n + 1) / 3)"),
    Setting("model = 1\nSETUP model = model + FACTOR", "model"),
)

#: functions that the probes above call
PROBES = """
def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
def stack_size():
    size = threading.stack_size()  # which sets it to 0
    threading.stack_size(size)
    return size
def warned(n):
    try:
        warnings.warn("a warning")
    except UserWarning:
        return True
    return False
"""

#: name -> expression of a key made of n, which is below a small number
KEYS = {
    "str": "f'k{n}'",
    "unicode": "'\\u00e9\\U0001f600' * n",
    "int": "n - 3",
    "large int": "n * 10**30",
    "bool": "n % 2 == 0",
    "float": "n / 4",
    "nan": "float('nan') if n == 0 else float(n)",
    "nested nan": "(float('nan'), n)",
    "decimal": "decimal.Decimal(n) / 4",
    "fraction": "fractions.Fraction(n, 3)",
    "tuple": "(n, 'a', None)",
    "nested": "((n % 2, (n,)), b'x')",
    "frozenset": "frozenset({n, n + 1, 'x'})",
    "point": "Point(n)",
    "tag": "HELPER_MODULE.Tag(n)",
    "none": "None if n == 0 else f'{n}'",
    "bytes": "bytes([n])",
    "date": "datetime.date(2024, 1, 1 + n)",
    "str and bytes": "'x' if n % 2 else b'x'",
    "the item": "key",
}
#: those that are equal although their types differ: only their value is compared
EQUAL_KEYS = {"equal": "[n, float(n), decimal.Decimal(n), n + 0j, fractions.Fraction(n)][N % 5]"}
#: those whose repr is not the same in each process, or not that of its equals
UNORDERED_KEYS = {"frozenset", *EQUAL_KEYS}

#: name -> expression of a value made of n
NUMBER_VALUES = {"int": "n", "large int": "n * 10**25", "decimal": "decimal.Decimal(n)", "negative": "-n"}
OTHER_VALUES = {
    "str": "f'v{n}'",
    "surrogate": "'\\udc80' * (n % 3)",
    "tuple": "(n % 4, 'x')",
    "point": "Point(n, 'v')",
    "tag": "HELPER_MODULE.Tag(n)",
    "bytes": "b'%d' % n",
    "none": "None",
    "float": "n / 3",
    "item": "repr(key)",
}
#: those that cannot be hashed
PLAIN_VALUES = {
    "list": "[n, [n]]",
    "dict": "{'n': n, 2: (n,)}",
    "set": "{n, n % 3}",
    "bytearray": "bytearray(b'%d' % n)",
}

#: forms of mapfn; `emit` is the generator that does the work
MAP_FORMS = {
    "generator": "def mapfn(key, value):\n    yield from emit(key, value)",
    "generator itself": "mapfn = emit",
    "list": "def mapfn(key, value):\n    return list(emit(key, value))",
    "tuple of lists": "def mapfn(key, value):\n    return tuple([k, v] for k, v in emit(key, value))",
    "mapping": "def mapfn(key, value):\n    return dict(emit(key, value))",
    "lambda": "mapfn = lambda key, value: emit(key, value)",
    "partial": (
        "def scaled(factor, key, value, *, more=0):\n    return emit(key, value)\n"
        "mapfn = functools.partial(scaled, FACTOR, more=2)"
    ),
    "closure": (
        "def make(factor):\n    def inner(key, value):\n        return [pair for pair in emit(key, value) if factor]\n"
        "    return inner\nmapfn = make(FACTOR)"
    ),
    "method": (
        "class Mapper:\n    def __init__(self, factor):\n        self.factor = factor\n"
        "    def map(self, key, value):\n        return emit(key, value)\nmapfn = Mapper(FACTOR).map"
    ),
    "class method": (
        "class Mapper:\n    @classmethod\n    def map(cls, key, value):\n        yield from emit(key, value)\n"
        "mapfn = Mapper.map"
    ),
    "static method": (
        "class Mapper:\n    @staticmethod\n    def map(key, value):\n        yield from emit(key, value)\n"
        "mapfn = Mapper.map"
    ),
    "object": (
        "class Mapper:\n    def __call__(self, key, value):\n        yield from emit(key, value)\nmapfn = Mapper()"
    ),
    "decorated": (
        "def wrapped(fn):\n    @functools.wraps(fn)\n    def inner(*args):\n        return fn(*args)\n    return inner\n"
        "@wrapped\ndef mapfn(key, value):\n    yield from emit(key, value)"
    ),
    "globals": "def mapfn(key, value):\n    return globals()['em' + 'it'](key, value)",
    "eval": "def mapfn(key, value):\n    return eval('em' + 'it')(key, value)",
    "default": "def mapfn(key, value, emit=emit):\n    return iter(emit(key, value))",
}

#: what an item can do wrong, in `emit`
TROUBLES = (
    "raise ValueError(n)",
    "raise Halt(n)",
    "sys.exit(4)",
    "yield 5",
    "yield 'abc'",
    "yield [1], 2",
    "yield object(), 1",
    "yield 'x', (i for i in ())",
    "yield 'x', lambda: 0",
    "raise MemoryError",
    "raise StopIteration",
    "raise GeneratorExit",
    "1 / 0",
    "deep()",
)
#: Chance that an item kills its executor instead. Each such death costs some tenths of a second.
DIE_SHARE = 0.12

PAIR_REDUCERS = (
    "list(values)",
    "len(values)",
    "tuple(values)[-1]",
    "sorted(map(repr, values))",
    "(key, values[0], values[1:])",
)
KNOWN_REDUCERS = ("first_value", "list_values", "count_values")
KNOWN_OF_NUMBERS = ("sum_values", "min_value", "max_value", "top_values(3)", "mean_values", "std_values")
OF_NUMBERS = ("sum(values)", "max(values)", "min(values)")


@dataclass
class DrawnJob:
    """A job file, and what must lie beside it."""

    seed: int
    stem: str
    #: name of the module beside it
    helper: str
    text: str
    #: name -> contents of what lies beside it
    files: dict[str, bytes]
    #: arguments after the folder of marks
    args: list[str] = field(default_factory=lambda: ["2"])
    #: whether the job's order of results is its own
    is_ordered: bool = False
    #: whether equal keys have several types
    mixes_types: bool = False

    def write(self, folder: Path) -> Path:
        """Write all files, and return the path of the job file."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        path = folder / f"{self.stem}.py"
        path.write_text(self.text, "utf-8")
        return path


def draw_job(seed: int) -> DrawnJob:
    """Return the job of a seed."""
    return _Drawing(seed).job()


class _Drawing:
    def __init__(self, seed: int):
        self._seed = seed
        self._random = random.Random(seed)
        self._stem = f"drawn_{seed}"
        self._helper = f"helper_{seed}"
        self._effect = f"effect_{seed}"
        self._files: dict[str, bytes] = {}
        self._is_tolerant = self._chance(0.4)
        #: numbers that items have, as far as they are known
        self._count = self._random.choice([3, 20, 60, 60, 300, 2500])
        self._setups: list[str] = []
        self._options: dict[str, object] = {}
        self._allows_skips = self._chance(0.6)

    def job(self) -> DrawnJob:
        source = self._source()
        tops, probe = self._settings()
        maps = self._chance(0.88)
        gate_at = self._random.choice(["map", "map", "reduce", "setup"]) if maps else "reduce"
        key_name, key = self._choose({**KEYS, **EQUAL_KEYS})
        emit, value_kind = self._emit(key, probe, gate_at == "map")
        functions = self._reducing(value_kind if maps else "items", gate_at == "reduce")
        if maps:
            functions.insert(0, f"{emit}\n{self._choose(MAP_FORMS)[1]}")
        if gate_at == "setup":
            self._setups.append("gate()")
        finish, is_ordered = self._finish()
        self._draw_options()
        body = [HALT, POINT, GATE, TRIED, DIE.replace("WAY", self._random.choice(WAYS_TO_DIE)), PROBES]
        body += [
            "\ndef deep():\n    return deep()\n",
            NUMBERS.replace("{tolerant}", TOLERANT * self._is_tolerant),
        ]
        body += [source, *functions, *finish, self._setupfn(), f"options = {self._options!r}\n"]
        text = "\n".join([self._head(), *tops, *body])
        text = text.replace("HELPER_MODULE", self._helper).replace("EFFECT_MODULE", self._effect)
        self._files[f"{self._helper}.py"] = HELPER.encode()
        self._files[f"{self._effect}.py"] = EFFECT.format(helper=self._helper).encode()
        return DrawnJob(
            self._seed,
            self._stem,
            self._helper,
            text,
            self._files,
            is_ordered=is_ordered and key_name not in UNORDERED_KEYS,
            mixes_types=maps and key_name in EQUAL_KEYS,
        )

    # --- the parts of the file ---

    def _head(self) -> str:
        return textwrap.dedent(f"""\
            # drawn from seed {self._seed}
            import calendar, csv, dataclasses, datetime, decimal, fractions, functools, itertools, locale, logging
            import os, signal, socket, sys, threading, time, warnings, zlib
            import HELPER_MODULE
            from mmgevent import Files, Lines
            from mmgevent.reducers import (
                count_values, first_value, list_values, max_value, mean_values, min_value, std_values, sum_values,
                top_values, unique_values
            )
            MARKS = sys.argv[1]
            FACTOR = int(sys.argv[2])
        """)

    def _settings(self) -> tuple[list[str], str]:
        """Return lines for the top of the file, and an expression that shows what they do."""
        chosen = self._random.sample(SETTINGS, self._random.choice([0, 1, 1, 2, 4]))
        tops = []
        for setting in chosen:
            for line in setting.top.split("\n"):
                if line.startswith("SETUP "):
                    self._setups.append(line.removeprefix("SETUP "))
                elif line:
                    tops.append(line)
        return tops, "".join(f"{setting.probe}, " for setting in chosen)

    def _setupfn(self) -> str:
        if not self._setups:
            return ""
        return "def setupfn():\n    global model\n" + "".join(f"    {line}\n" for line in self._setups)

    def _emit(self, key: str, probe: str, has_gate: bool) -> tuple[str, str]:
        """Return the generator that maps, and the kind of the values that it yields."""
        kind, values = self._random.choice(
            [
                ("number", NUMBER_VALUES),
                ("number", NUMBER_VALUES),
                ("other", OTHER_VALUES),
                ("plain", PLAIN_VALUES),
            ]
        )
        value = self._choose(values)[1]
        if probe:
            value, kind = f"({value}, {probe})", "plain"
        modulus = self._random.choice([1, 2, 5, 7, 20])
        lines = ["def key_of(N, key):", f"    n = N % {modulus}", f"    return {key}"]
        lines += ["def value_of(n, key):", f"    return {value}"]
        lines += ["def emit(key, value):", "    for n in numbers(value):"]
        if has_gate:
            lines += [f"        if n >= {self._number()}:", "            gate()"]
        troubles = self._troubles()
        lines += [line for at, line in troubles if at == "before"]
        lines += ["        yield key_of(n, key), value_of(n, key)"]
        lines += [line for at, line in troubles if at == "after"]
        if self._chance(0.4):
            lines += ["        if n % 3 == 0:", "            yield key_of(n + 1, key), value_of(n, key)"]
        return "\n".join(lines) + "\n", kind

    def _troubles(self) -> list[tuple[str, str]]:
        """Return (before or after the first record, lines) of what goes wrong."""
        found = []
        for _ in range(self._random.choice([0, 1, 2, 5]) if self._allows_skips or self._chance(0.1) else 0):
            what = "die()" if self._chance(DIE_SHARE) else self._random.choice(TROUBLES)
            at = self._random.choice(["before", "after"])
            found.append((at, f"        if n == {self._number()}:\n            {what}"))
        if self._chance(0.2):
            retries = self._options["retries"] = self._random.choice([1, 2])
            found.append(("after", f"        if n % 7 == 2:\n            flaky((key, value), {retries})"))
        return found

    def _reducing(self, kind: str, has_gate: bool) -> list[str]:
        """Return the definitions of collectfn and reducefn."""
        gate = "    gate()\n" if has_gate else ""
        choices = ["pair", "pair", "iterator", "pack", "pack iterator"]
        if not has_gate:
            choices += ["none", "known"]
        if kind == "number":
            choices += ["numbers", "same", "moved"] + ["known numbers"] * (not has_gate)
        if kind in ("number", "other"):
            choices += ["distinct"]
        if kind == "items":
            choices.remove("none") if "none" in choices else None
        choice = self._random.choice(choices)
        collect = self._bad_collect()
        if choice == "none":
            return []
        if choice == "known":
            return [f"reducefn = {self._random.choice(KNOWN_REDUCERS)}\n"]
        if choice == "known numbers":
            return [f"reducefn = {self._random.choice(KNOWN_OF_NUMBERS)}\n"]
        if choice == "pair":
            flaky = "    flaky('reduce', 1)\n" if self._options.get("retries") else ""
            return [
                f"def reducefn(key, values):\n{gate}{flaky}    return {self._random.choice(PAIR_REDUCERS)}\n"
            ]
        if choice == "iterator":
            again = "        yield key, 'again'\n" if self._chance(0.3) else ""
            return [
                f"def reducefn(groups):\n{gate}    for key, values in groups:\n        yield key, list(values)\n{again}"
            ]
        if choice in ("pack", "pack iterator"):
            packed = (
                f"def collectfn(key, values):\n{collect}    return tuple(values)\n"
                if choice == "pack"
                else "def collectfn(groups):\n    for key, values in groups:\n        yield key, [tuple(values)]\n"
            )
            together = "[value for part in values for value in part]"
            return [packed, f"def reducefn(key, values):\n{gate}    return {together}\n"]
        if choice == "distinct":
            return [
                f"def collectfn(key, values):\n{collect}    return list(dict.fromkeys(values))\n",
                f"def reducefn(key, values):\n{gate}    return list(dict.fromkeys(values))\n",
            ]
        if choice == "moved":
            moved = "        yield (repr(key)[:2], sum(values))\n"
            return [
                f"def collectfn(groups):\n    for key, values in groups:\n{moved}",
                f"def reducefn(groups):\n{gate}    for key, values in groups:\n        yield key, sum(values)\n",
            ]
        result = self._random.choice(OF_NUMBERS)
        if choice == "same":
            return [f"def reducefn(key, values):\n{gate}    return {result}\n", "collectfn = reducefn\n"]
        return [
            f"def collectfn(key, values):\n{collect}    return {result}\n",
            f"def reducefn(key, values):\n{gate}    return {result}\n",
        ]

    def _bad_collect(self) -> str:
        """Return lines of a collectfn that fails for one value of a number."""
        if not self._allows_skips or not self._chance(0.2):
            return ""
        return f"    if {self._number()} in values:\n        raise ValueError('not this one')\n"

    def _finish(self) -> tuple[list[str], bool]:
        """Return the definition of finishfn, and whether it decides the order of the results."""
        return self._random.choice(
            [
                ([], False),
                ([], False),
                (["def finishfn(key, value):\n    return (value, FACTOR)\n"], False),
                (["def finishfn(results):\n    return sorted(results, key=repr)\n"], True),
                (["def finishfn(results):\n    yield 'n', sum(1 for _ in results)\n"], True),
            ]
        )

    def _draw_options(self) -> None:
        options = self._options
        if self._allows_skips:
            options["max_skipped"] = self._random.choice([1, 4, 20, 100, 0.1, 0.5, 0.9])
        if self._chance(0.2):
            options["greenlets"] = 3
        if self._chance(0.3):
            options["partitions"] = self._random.choice([1, 3, 64])
        if self._chance(0.1):
            options["memory_limit"] = "600MiB"

    # --- datasources ---

    def _source(self) -> str:
        if self._chance(0.4):
            return self._file_source()
        item = self._random.choice(["n", "n", "(n, 'text')", "{'n': n}", "Point(n)"])
        key = self._random.choice(["n", "f'item {n}'", "(n, 'i')", "None", "n % 4", "Point(n)", "n / 2"])
        pairs = f"(({key}, {item}) for n in range({self._count}))"
        by_key = f"{{('k', n): {item} for n in range({self._count})}}"
        return self._random.choice(
            [
                f"datasource = {by_key}\n",
                f"datasource = list({pairs})\n",
                f"datasource = tuple({pairs})\n",
                f"datasource = {pairs}\n",
                f"datasource = [list(pair) for pair in {pairs}]\n",
                f"datasource = zip(range({self._count}), [{item} for n in range({self._count})])\n",
                f"datasource = enumerate({item} for n in range({self._count}))\n",
                f"datasource = {by_key}.items()\n",
                f"def datasource():\n    for n in range({self._count}):\n        yield {key}, {item}\n",
                f"def datasource():\n    return {by_key}\n",
                f"datasource = lambda: {pairs}\n",
                f"datasource = map(lambda n: ({key}, {item}), range({self._count}))\n",
                "class Once:\n    def __init__(self, pairs):\n        self.pairs = pairs\n"
                f"    def __iter__(self):\n        return self.pairs\ndatasource = Once({pairs})\n",
                "class Rows:\n    def __getitem__(self, n):\n"
                f"        if n >= {self._count}:\n            raise IndexError(n)\n"
                f"        return {key}, {item}\ndatasource = Rows()\n",
                "class Table:\n    def keys(self):\n"
                f"        return range({self._count})\n    def __getitem__(self, n):\n        return {item}\n"
                "datasource = Table()\n",
            ]
        )

    def _file_source(self) -> str:
        names = [self._file() for _ in range(self._random.choice([1, 1, 2, 4]))]
        encoding = self._random.choice(["", "", "", ", encoding='latin-1'", ", errors='replace'"])
        shown = ", ".join(map(repr, names))
        return self._random.choice(
            [
                f"datasource = Lines({shown}{encoding})\n",
                f"datasource = Lines({shown}{encoding})\n",
                f"datasource = Files({shown}{encoding})\n",
                f"datasource = Files({shown}, binary=True)\n",
                f"datasource = Lines({names[0]!r}{encoding}) + Files({names[-1]!r}{encoding})\n",
                f"def datasource():\n    return Lines([{shown}]{encoding}) + Lines({names[0]!r})\n",
                "def datasource():\n"
                f"    for path in [{shown}]:\n"
                "        with open(path, errors='replace') as lines:\n"
                "            for number, line in enumerate(lines):\n                yield (path, number), line\n",
            ]
        )

    def _file(self) -> str:
        """Draw a file of lines that begin with a number, some of them broken; return its name."""
        name = f"input_{self._seed}_{len(self._files)}.txt"
        end = self._random.choice([b"\n", b"\n", b"\r\n"])
        broken: Sequence[bytes] = self._random.choice(
            [[], [], [b"", b"x12", b"\xff\xfe", "é".encode()], [b"", b"   "], [b"\xe9 5", b"\x00"]]
        )
        lines = [
            b"%d" % n + self._random.choice([b"", b" word", " wörd \U0001f600".encode(), b"\ttab"])
            for n in range(self._count)
        ]
        for line in broken:
            lines.insert(self._random.randrange(len(lines) + 1), line)
        self._files[name] = end.join(lines) + self._random.choice([b"", end])
        return name

    # --- chance ---

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _number(self) -> int:
        """Return a number that most items have not; some job has none with it."""
        return self._random.randrange(self._count)

    def _choose(self, table: dict[str, str]) -> tuple[str, str]:
        return self._random.choice(list(table.items()))


if __name__ == "__main__":
    print(draw_job(int(sys.argv[1])).write(Path(sys.argv[2])))  # noqa: T201 - what it is asked for
