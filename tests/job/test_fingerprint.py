"""Fingerprints are the same in each run of the same program, and differ if anything of it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import Files, Job, Lines
from mmgevent.errors import OutputError
from mmgevent.job.digest import Digests
from mmgevent.job.fingerprint import MAX_CHEAP_BYTES, make_fingerprint
from mmgevent.job.outputs.opening import open_output

PROGRAM = """
import dataclasses, enum, functools, json, re, sys
from collections import namedtuple
from mmgevent import Job
from mmgevent.job.fingerprint import make_fingerprint

WORDS = {"one", "two", "three", "four"}
TABLE = {word: {word + "s", word + "'s"} for word in WORDS}
PATTERN = re.compile("a+")
Point = namedtuple("Point", "x y")

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Rule:
    limit: int = LIMIT
    names: frozenset = frozenset(WORDS)

    def holds(self, word):
        return word in {"a", "b", "c"} or len(word) > self.limit or word in TABLE or helper(word)

@functools.lru_cache
def helper(word):
    import beside
    return beside.double(word) and PATTERN.match(word)

def adder(n):
    return lambda key, values: sum(values) + n + Point(1, 2).x

RULE = Rule()

def mapfn(key, value):
    if RULE.holds(value) and value in ("x", Colour.RED.value):
        yield value, 1

print(json.dumps(make_fingerprint(Job({1: "a", 2: Colour.RED, 3: Rule()}, mapfn, adder(1)))))
"""


def run(folder, *, limit=3, program=PROGRAM, beside="def double(word):\n    return word + word\n"):
    """Run the program under a random hash seed; return the fingerprint that it prints."""
    (folder / "beside.py").write_text(beside)
    (folder / "program.py").write_text(program.replace("LIMIT", str(limit)))
    paths = [str(folder), str(Path(__file__).parents[2])]
    ended = subprocess.run(
        [sys.executable, "-B", str(folder / "program.py")],
        env={**os.environ, "PYTHONHASHSEED": "random", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout)


def differing(before, after):
    return {label for label in {**before, **after} if before.get(label) != after.get(label)}


def test_two_runs_have_one_fingerprint_and_each_change_is_found(tmp_path):
    first = run(tmp_path)
    assert run(tmp_path, program="# a comment\n" + PROGRAM) == first
    assert "module beside" in first
    assert differing(first, run(tmp_path, beside="def double(word):\n    return 2 * word\n")) == {
        "module beside"
    }
    assert "global RULE" in differing(first, run(tmp_path, limit=4))
    assert differing(first, run(tmp_path, program=PROGRAM.replace("adder(1)", "adder(2)"))) == {"reducefn"}


def test_a_remote_input_has_none():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/fingerprint/a.txt", b"a\n")
    job = mmg.Job(mmg.Lines("memory://fingerprint/a.txt"), lambda key, value: [])
    with pytest.raises(OutputError, match=r"memory://fingerprint/a\.txt is remote.*copy it"):
        make_fingerprint(job)
    memory.rm("/fingerprint", recursive=True)


def emit(key, value):
    yield key, value


def fingerprint(datasource, mapfn=emit, **options):
    return make_fingerprint(Job(datasource, mapfn), **options)


def test_a_range_counts_by_its_arguments_and_other_items_one_by_one():
    huge = range(10**15)
    assert fingerprint(huge) == fingerprint(huge, is_cheap=True)
    assert differing(fingerprint(huge), fingerprint(range(10**15 + 1))) == {"the datasource"}
    few = [("a", 1), ("b", 2)]
    assert fingerprint(few) == fingerprint(list(few), is_cheap=True)
    for other in ([*few, ("c", 3)], few[::-1], dict(few)):
        assert differing(fingerprint(few), fingerprint(other)) == {"the datasource"}
    assert fingerprint(dict(few)) != fingerprint(dict(few[::-1]))  # items have an order
    assert fingerprint({1, 2}) == fingerprint({2, 1})


@pytest.mark.parametrize("items", [list(range(300_000)), ["x" * MAX_CHEAP_BYTES], [["x"] * 300_000]])
def test_work_that_nobody_asked_for_is_bounded(items, tmp_path):
    with pytest.raises(OutputError, match="takes long"):
        fingerprint(items, is_cheap=True)
    job = Job(items, emit, partitions=2)
    open_output(f"{tmp_path}/new/", job=job).abort()
    open_output(f"{tmp_path}/new/", job=job, resume=True).abort()


def test_order_repeats_and_readers_of_input_files_count(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("a\n")
    b.write_text("b\n")
    sources = [Lines(a, b), Lines(b, a), Lines(a, a, b), Files(a) + Lines(b), Files(b) + Lines(a)]
    texts = [json.dumps(fingerprint(source)) for source in sources]
    assert len(set(texts)) == len(sources)
    assert differing(fingerprint(Lines(a, b)), fingerprint(Lines(b, a))) == {"the order of the input files"}


CLOSURES = """
import json
from beside import make
from mmgevent import Job
from mmgevent.job.fingerprint import make_fingerprint

print(json.dumps(make_fingerprint(Job({1: "a"}, make(5)))))
"""

MAKER = """
LIMIT = 3

def make(n):
    def mapfn(key, value):
        yield key, LIMIT + n
    return mapfn
"""


def test_the_module_of_a_closure_counts(tmp_path):
    before = run(tmp_path, program=CLOSURES, beside=MAKER)
    after = run(tmp_path, program=CLOSURES, beside=MAKER.replace("3", "9"))
    assert differing(before, after) == {"module beside", "global LIMIT"}


SETS = """
import enum, json
from mmgevent import Job
from mmgevent.job.fingerprint import make_fingerprint

class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"
    BLUE = "b"

    def other(self):
        return Colour.RED

class Names(set):
    pass

USED = {*Colour, *(frozenset((Colour(a), Colour(b))) for a in "rgb" for b in "rgb")}
NAMES = Names(("one", "two", "three", "four"))

def mapfn(key, value):
    yield value in USED, value in NAMES

print(json.dumps(make_fingerprint(Job({1: Colour.GREEN}, mapfn))))
"""


def test_members_of_enums_and_sets_of_other_types_do_not_depend_on_the_hash_seed(tmp_path):
    first = run(tmp_path, program=SETS)
    for _ in range(4):
        assert run(tmp_path, program=SETS) == first
    other = run(tmp_path, program=SETS.replace("Colour.GREEN", "Colour.BLUE"))
    assert differing(first, other) == {"the datasource"}


AROUND = """
import decimal, json
import beside
from mmgevent import Job
from mmgevent.job.fingerprint import make_fingerprint

decimal.getcontext().prec = DIGITS

def mapfn(key, value):
    import boxed
    yield key, boxed.read()

print(json.dumps(make_fingerprint(Job({1: "a"}, mapfn))))
"""


def test_imports_for_effect_settings_and_files_of_packages_count(tmp_path):
    package = tmp_path / "boxed"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import pkgutil\nread = lambda: pkgutil.get_data('boxed', 'a.txt')\n"
    )
    (package / "a.txt").write_text("a")
    first = run(tmp_path, program=AROUND.replace("DIGITS", "9"))
    assert run(tmp_path, program=AROUND.replace("DIGITS", "9")) == first
    other = run(tmp_path, program=AROUND.replace("DIGITS", "8"))
    assert differing(first, other) == {"the context of decimal"}
    other = run(tmp_path, program=AROUND.replace("DIGITS", "9"), beside="patched = 1\n")
    assert differing(first, other) == {"module beside"}
    (package / "a.txt").write_text("b")
    other = run(tmp_path, program=AROUND.replace("DIGITS", "9"))
    assert differing(first, other) == {"files of package boxed"}


def test_results_within_a_package_do_not_change_its_fingerprint(tmp_path):
    package = tmp_path / "boxed"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import pkgutil\nread = lambda: pkgutil.get_data('boxed', 'a.txt')\n"
    )
    (package / "a.txt").write_text("a")
    call = f"make_fingerprint(Job({{1: 'a'}}, mapfn), folder={str(package / 'out')!r})"
    program = AROUND.replace("DIGITS", "9").replace('make_fingerprint(Job({1: "a"}, mapfn))', call)
    assert call in program
    first = run(tmp_path, program=program)
    (package / "out").mkdir()
    (package / "out" / "part-00000.tsv").write_text("1\t1\n")
    assert run(tmp_path, program=program) == first
    (package / "outside.txt").write_text("more")
    assert differing(first, run(tmp_path, program=program)) == {"files of package boxed"}


def test_remote_inputs_are_refused_before_they_are_listed(monkeypatch):
    monkeypatch.setattr(Files, "find_paths", lambda self: pytest.fail("it was listed"))
    with pytest.raises(OutputError, match=r"s3://bucket/\*\.txt is remote"):
        fingerprint(Files("s3://bucket/*.txt"))


def test_the_umask_counts():
    old = os.umask(0o022)
    try:
        first = fingerprint({1: "a"})
        os.umask(0o077)
        assert differing(first, fingerprint({1: "a"})) == {"the umask"}
    finally:
        os.umask(old)


class NoClass:
    @property
    def __class__(self):
        raise RuntimeError("nothing is bound")


class NoTuple:
    def __reduce_ex__(self, protocol):
        return 5


@pytest.mark.parametrize("kind", [NoClass, NoTuple])
def test_an_object_that_cannot_be_looked_at_has_no_fingerprint(kind, tmp_path):
    proxy = kind()
    with pytest.raises(OutputError, match="the thing cannot be compared"):
        Digests(()).add("the thing", proxy)
    job = Job([("a", proxy)], emit, partitions=2)
    open_output(f"{tmp_path}/out/", job=job).abort()
    with pytest.raises(OutputError, match=r"cannot resume .*: the datasource cannot be compared"):
        open_output(f"{tmp_path}/out/", job=job, resume=True)
