"""docs/security.md and docs/reliability.md tell the truth about limits, tests and guards."""

import importlib
import re

import pytest

from tests.integration.commands import ROOT
from tests.trust.mutations import MUTATIONS

PAGES = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("security.md", "reliability.md")}
UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "%": 0.01}
#: | what | 16 MiB, or the like | `module.CONSTANT` |
LIMIT = re.compile(r"^\| [^|]+ \| ([\d.,]+) ?(KiB|MiB|GiB|%)?[^|]*\| `([\w.]+)\.(\w+)` \|", re.MULTILINE)


@pytest.mark.parametrize(("page", "count"), [("security.md", 14), ("reliability.md", 75)])
def test_each_limit_is_that_of_the_code(page, count):
    rows = LIMIT.findall(PAGES[page])
    assert len(rows) >= count
    for limit, unit, module, name in rows:
        constant = getattr(importlib.import_module(f"mmgevent.{module}"), name)
        assert float(limit.replace(",", "")) * UNITS.get(unit, 1) == pytest.approx(constant), name


@pytest.mark.parametrize(("page", "count"), [("security.md", 25), ("reliability.md", 10)])
def test_each_test_that_is_named_is_there(page, count):
    named = set(re.findall(r"`(test_\w+)(?:\.py)?`", PAGES[page]))
    files = list((ROOT / "tests").rglob("test_*.py"))
    written = "".join(path.read_text("utf-8") for path in files)
    there = {path.stem for path in files} | set(re.findall(r"^ *def (test_\w+)\(", written, re.MULTILINE))
    assert len(named) > count
    assert named - there == set()


def test_each_guard_has_its_row():
    guards = PAGES["reliability.md"].partition("\n## Guards")[2]
    rows = [f"| {m.guard} | `{m.file}` | {'; '.join(map(describe, m.tests))} |" for m in MUTATIONS]
    assert [row for row in rows if row not in guards] == []


def test_each_guard_is_still_where_its_row_says():
    """The mutations themselves take long: this says at once that a line was rewritten or has moved."""
    sources = [(m, (ROOT / "mmgevent" / m.file).read_text("utf-8")) for m in MUTATIONS]
    assert [(m.file, m.guard) for m, source in sources if source.count(m.old) != 1] == []


def describe(node):
    """Return the file of a test without its folder, and its name in words."""
    file, name = re.fullmatch(r"(?:.*/)?(\w+)\.py::(?:Test\w+::)?test_(\w+)(?:\[.*\])?", node).groups()
    return f"`{file}`: {name.replace('_', ' ')}"
