"""Which imports of a file are for their effect only."""

from __future__ import annotations

import sys
import textwrap
import types

import pytest

from mmgevent.job.shipping import effects
from mmgevent.job.shipping.effects import Effect, find_effects, run_effects


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules `one`, `two`, and a package `pack` with `inner` and `other`, on the path and imported nowhere yet."""
    (tmp_path / "pack").mkdir()
    for name in ("one", "two", "failing", "pack/__init__", "pack/inner", "pack/other"):
        (tmp_path / f"{name}.py").write_text("VALUE = 1\ndef function(): return VALUE\n_hidden = 2\n")
    (tmp_path / "failing.py").write_text("raise ValueError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def find(modules):
    """Run a source as a module and find its imports for effect, as text."""

    def find(source, name="job_of_effects", package=""):
        text = textwrap.dedent(source)
        module = types.ModuleType(name)
        module.__package__ = package
        exec(compile(text, "job.py", "exec", dont_inherit=True), vars(module))
        found = find_effects(module, text, {"mmgevent", "__future__", name})
        return [".".join([effect.module, *effect.names]) for effect in found]

    return find


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import one", ["one"]),
        ("import one as _", ["one"]),
        ("import two, one", ["two", "one"]),
        ("import one\nimport two\nimport pack.inner", ["one", "two", "pack.inner"]),
        ("from one import VALUE", ["one"]),
        ("from one import VALUE as v, function", ["one"]),
        ("from pack import inner", ["pack.inner"]),
        ("from pack import inner, other\ndef f(): return other.VALUE", ["pack.inner"]),
        ("from pack.inner import function", ["pack.inner"]),
        ("import pack\nimport pack.inner\ndef f(): return pack.VALUE", ["pack.inner"]),
        ("from one import *", ["one"]),
        ("import one\ndef f():\n    one = 3\n    return one", ["one"]),
        ("import one\ndef f(one): return one", ["one"]),
        ("import one\ndel one", ["one"]),
        ("import one\nimport one", ["one"]),
        ("if True:\n    import one\nelse:\n    import two", ["one"]),
        ("try:\n    import one\nexcept ImportError:\n    import two", ["one"]),
        ("try:\n    import not_there\nexcept ImportError:\n    import two", ["two"]),
        ("try:\n    import failing\nexcept ValueError:\n    pass", []),
        ("import warnings\nwith warnings.catch_warnings():\n    import one", ["one"]),
        ("from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import one", ["one"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import one", ["one"]),
        ("import one; import two", ["one", "two"]),
    ],
)
def test_what_nothing_uses_is_for_its_effect(find, source, expected):
    assert find(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import one\nprint = one",
        "import one\ndef f(): return one.VALUE",
        "import one\nclass A:\n    def f(self): return [lambda: one]",
        "import one as o\no.VALUE",
        "import pack.inner\ndef f(): return pack.inner.VALUE",
        "import pack.inner as inner\ndef f(): return inner",
        "from one import VALUE, function\nfunction()",
        "from one import *\ndef f(): return VALUE",
        "from __future__ import annotations\nimport one\ndef f(x: one.Type) -> None: pass",
        "from __future__ import annotations\nimport one\nx: one.Type",
        "def f():\n    import one",
        "class A:\n    import one",
        "import typing\nif typing.TYPE_CHECKING:\n    import one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import one",
        "__name__ = '__main__'\nif __name__ == '__main__':\n    import one",
        "import mmgevent\nfrom mmgevent import Files",
        "import sys\nsys.modules['job_of_effects'] = sys\nimport job_of_effects",
        "",
    ],
)
def test_what_is_used_or_for_others_is_not(find, source):
    assert find(source) == []


def test_relative_imports_are_found_in_their_package(find):
    import pack  # noqa: F401

    assert find("from . import inner\nfrom .other import VALUE", "pack.job", "pack") == [
        "pack.inner",
        "pack.other",
    ]


def test_an_import_that_has_not_run_yet_is_not_found(modules):
    module = types.ModuleType("job_of_effects")
    assert find_effects(module, "run()\nimport one\n", set()) == []


def test_a_text_that_is_no_python_has_none():
    module = types.ModuleType("job_of_effects")
    assert find_effects(module, "import os\nimport )", set()) == []
    assert find_effects(module, "import os\0", set()) == []


def test_imports_that_fail_are_told_unless_the_program_does_without(modules, monkeypatch):
    monkeypatch.setattr(effects, "SLOW_IMPORT_S", -1)
    slow = []
    wanted = [
        Effect("one", ()),
        Effect("failing", ()),
        Effect("not_there", (), False),
        Effect("failing", (), False),
        Effect("not_there", ()),
        Effect("pack", ("inner",)),
    ]
    failed = run_effects(wanted, lambda effect, seconds: slow.append(effect.module))
    assert [(effect.module, type(error).__name__) for effect, error in failed] == [
        ("failing", "ValueError"),
        ("failing", "ValueError"),
        ("not_there", "ModuleNotFoundError"),
    ]
    assert {"one", "pack.inner"} <= set(sys.modules)
    assert slow == [effect.module for effect in wanted]
