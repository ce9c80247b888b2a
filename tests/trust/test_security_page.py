"""docs/security.md tells the truth about limits and tests."""

import importlib
import re

from tests.integration.commands import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_each_limit_is_that_of_the_code():
    rows = re.findall(r"^\|.*\| ([\d.,]+)[^|]*\| `([\w.]+)\.(\w+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 14
    for limit, module, name in rows:
        constant = getattr(importlib.import_module(f"mmgevent.{module}"), name)
        assert float(limit.replace(",", "")) == constant, name


def test_each_test_that_is_named_is_there():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    written = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 25
    assert {name for name in named if f"def {name}(" not in written} == set()
