"""Fingerprints are the same in each run of the same program, and differ if anything of it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent.errors import OutputError
from mmgevent.job.fingerprint import make_fingerprint

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
