"""What is published: a source distribution with everything to read and to test, a wheel with what runs."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What a source distribution holds besides what setuptools writes.
PARTS = ["mmgevent", "docs", "examples", "tests", "benchmarks"]
FILES = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "setup.py",
]
#: Names of what tools leave behind.
LITTER = shutil.ignore_patterns(
    ".*", "__pycache__", "*.pyc", "*.so", "build", "dist", "*.egg-info", "node_modules"
)

setuptools = pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout to build in, for setuptools writes beside what it reads."""
    if not (ROOT / "MANIFEST.in").exists():
        pytest.skip("this is no checkout")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("setuptools 77 or later is needed")
    copy = tmp_path_factory.mktemp("source") / "mmgevent"
    shutil.copytree(ROOT, copy, ignore=LITTER)
    (copy / "mmgevent" / "_speedups" / "_core.so").touch()  # what tools leave behind must stay behind
    (copy / "tests" / "__pycache__").mkdir()
    (copy / "tests" / "__pycache__" / "test_packaging.cpython-311.pyc").touch()
    (copy / "benchmarks" / ".corpus").mkdir()
    (copy / "benchmarks" / ".corpus" / "book.txt").touch()
    return copy


def build(source, what):
    """Build a "sdist" or a "wheel"; return its path."""
    program = f"from setuptools import build_meta; print(build_meta.build_{what}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return source / "dist" / done.stdout.splitlines()[-1]


def files_of(folder):
    """Return the paths of the files of a checkout that belong to it."""
    found = {name for name in FILES if (folder / name).exists()}
    for part in PARTS:
        for path in (folder / part).rglob("*"):
            inner = path.relative_to(folder)
            hidden = any(name.startswith((".", "__pycache__")) for name in inner.parts)
            if path.is_file() and not hidden and path.suffix not in (".so", ".pyc"):
                found.add(inner.as_posix())
    return found


def test_a_source_distribution_holds_code_pages_examples_and_tests(source):
    with tarfile.open(build(source, "sdist")) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    written = {name for name in names if "egg-info" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - written == files_of(source)
    for name in ("docs/keys.md", "examples/wordcount.py", "tests/test_packaging.py", "mmgevent/py.typed"):
        assert name in names
    assert any(name.endswith("/_digest.h") for name in names)


def test_a_wheel_holds_what_runs_and_its_types(source):
    with zipfile.ZipFile(build(source, "wheel")) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if name.startswith("mmgevent/")}
    expected = {
        name for name in files_of(source) if re.fullmatch(r"mmgevent/.*\.(py|pyi|typed|html|css|js)", name)
    }
    assert {name for name in ours if not name.endswith(".so")} == expected
    assert {"mmgevent/py.typed", "mmgevent/_speedups/_core.pyi"} <= ours


def test_the_c_core_is_built_again_when_a_header_changes(source):
    headers = {path.relative_to(source).as_posix() for path in source.glob("mmgevent/_speedups/*.h")}
    program = (
        "import distutils.core as d; s = d.run_setup('setup.py', stop_after='init'); "
        "print(*(name for e in s.ext_modules for name in e.depends))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import setuptools; {program}"],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == headers
    assert len(headers) >= 5


def test_metadata_says_what_it_is_and_for_whom():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"name", "version", "description", "readme", "license", "requires-python", "keywords"} <= set(
        project
    )
    assert "Typing :: Typed" in project["classifiers"]
    minors = [int(c.rpartition(".")[2]) for c in project["classifiers"] if " :: 3." in c]
    assert minors == list(range(min(minors), max(minors) + 1))
    assert project["requires-python"] == f">=3.{min(minors)}"
    assert not any(c.startswith("License ::") for c in project["classifiers"])  # license says it
