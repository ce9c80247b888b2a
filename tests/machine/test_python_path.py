"""Which Python our processes run with, also where Python is part of another program."""

import os
import subprocess
import sys

import pytest

from mmgevent.errors import StartError
from mmgevent.machine.python_path import find_python
from tests.integration.commands import ROOT

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: a job of one executor, in a program that says it is another one
PROGRAM = """
import sys
sys.executable = {executable!r}
import mmgevent as mmg

def mapfn(key, value):
    yield key % 2, value

def add(key, values):
    return sum(values)

job = mmg.Job([(n, n) for n in range(10)], mapfn, add)
print(sorted(mmg.run(job, procs=1).items()), mmg.run(mmg.Job([(1, 1)], lambda k, v: [(sys.executable, 1)]), procs=1))
"""


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("MMG_PYTHON", raising=False)


def make_program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    return str(path)


def test_it_is_the_one_that_runs_this():
    assert find_python() == sys.executable


@pytest.mark.parametrize(
    "name", ["python", "python3", f"python{VERSION}", "python3.99d", ".python-wrapped", "pypy3", "Python"]
)
def test_a_python_under_any_of_its_names_is_taken(tmp_path, monkeypatch, name):
    path = make_program(tmp_path / name)
    monkeypatch.setattr(sys, "executable", path)
    assert find_python() == path


@pytest.mark.parametrize(
    "executable", ["", None, "/usr/bin/uwsgi", "/usr/bin/uwsgi_python3", "/no/such/python3"]
)
def test_where_it_is_another_program_the_python_beside_the_libraries_is_taken(
    tmp_path, monkeypatch, executable
):
    beside = make_program(tmp_path / "bin" / f"python{VERSION}")
    make_program(tmp_path / "bin" / "python3")  # which may be any
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_python() == beside


def test_a_frozen_program_is_no_python_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", make_program(tmp_path / "python-tool"))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    beside = make_program(tmp_path / "bin" / f"python{VERSION}")
    assert find_python() == beside


def test_an_environment_comes_before_the_python_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "base"))
    monkeypatch.setattr(sys, "_base_executable", make_program(tmp_path / "elsewhere" / "python"))
    assert find_python() == str(tmp_path / "elsewhere" / "python")
    own = make_program(tmp_path / "venv" / "bin" / "python")
    assert find_python() == own
    make_program(tmp_path / "base" / "bin" / f"python{VERSION}")
    make_program(tmp_path / "venv" / "bin" / f"python{VERSION}")
    assert find_python() == f"{own}{VERSION}"


def test_where_there_is_none_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setattr(sys, "_base_executable", "/usr/bin/uwsgi", raising=False)
    with pytest.raises(
        StartError, match=r"^no process can be started: '/usr/bin/uwsgi' is not Python, .* MMG_PYTHON"
    ):
        find_python()
    assert StartError.exit_code == 2


def test_the_variable_names_another(tmp_path, monkeypatch):
    path = make_program(tmp_path / "any-name")
    monkeypatch.setenv("MMG_PYTHON", path)
    assert find_python() == path
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MMG_PYTHON", "any-name")
    assert find_python() == path
    monkeypatch.setenv("MMG_PYTHON", "")
    assert find_python() == sys.executable


@pytest.mark.parametrize("named", ["/no/such/program", "no-such-program", "/"])
def test_a_variable_that_names_no_program_is_refused(monkeypatch, named):
    monkeypatch.setenv("MMG_PYTHON", named)
    with pytest.raises(StartError, match=f"MMG_PYTHON is '{named}'"):
        find_python()


def run_program(tmp_path, executable, **environ):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(executable=executable))
    return subprocess.run(
        [sys.executable, path],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi"])
def test_a_job_runs_in_a_program_that_is_not_python(tmp_path, executable):
    done = run_program(tmp_path, executable)
    assert done.returncode == 0, done.stderr
    results, where = done.stdout.split("]", 1)
    assert results == "[(0, 20), (1, 25)"
    assert f"{sys.prefix}/bin/python" in where


def test_what_the_variable_names_may_start_python_by_a_script(tmp_path):
    script = tmp_path / "start-python"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')  # it stays, as the parent of what it starts
    script.chmod(0o755)
    done = run_program(tmp_path, "", MMG_PYTHON=str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[(0, 20), (1, 25)]")


def test_what_the_variable_names_must_be_python(tmp_path):
    path = make_program(tmp_path / "no-python")
    job = tmp_path / "job.py"
    job.write_text("datasource = {1: 1}\nmapfn = lambda key, value: [(key, value)]\n")
    done = subprocess.run(
        [sys.executable, "-m", "mmgevent", "run", "--procs", "1", job],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MMG_PYTHON": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"it was started with {path}, which must be a Python {VERSION} that has mmgevent" in done.stderr
