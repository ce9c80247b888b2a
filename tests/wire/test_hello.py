"""What is said about the Python and the core that a process runs on."""

import importlib.util
import os
import platform
import subprocess
import sys

import pytest

from mmgevent import _speedups
from mmgevent.cli.exits import run_command
from mmgevent.engine.start import start_engine
from mmgevent.errors import UsageError
from mmgevent.wire.hello import MAX_NAME_CHARS, PYTHON_VERSION, check_gil, clean_name
from tests.integration.commands import ROOT

IN_USE = "with the C core" if _speedups.NATIVE else "without the C core"
COMMANDS = ("run", "worker", "server")
#: what makes each command end by itself, right after it has said what it runs on
ENDING = {"run": ["no_such_job.py"], "worker": ["no host"], "server": ["--listen", "no port"]}


def run(*arguments, **environ):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version_says_which_python_and_whether_the_core_is_in_use(name):
    said = run("-m", "mmgevent", name, "--version").stdout
    assert f", CPython {platform.python_version()}, {IN_USE}" in said
    pure = run("-m", "mmgevent", name, "--version", MMGEVENT_PURE="1").stdout
    assert pure.endswith("without the C core (MMGEVENT_PURE=1 is set)\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_v_says_that_the_core_is_not_in_use(name):
    sentence = (
        f"mmg-{name}: the C core is not in use here, which makes inner loops slower: MMGEVENT_PURE=1 is set"
    )
    command = ("-m", "mmgevent", name)
    assert sentence in run(*command, "-v", *ENDING[name], MMGEVENT_PURE="1").stderr
    assert "C core" not in run(*command, *ENDING[name], MMGEVENT_PURE="1").stderr
    assert "C core" not in run(*command, "-v", "-q", *ENDING[name], MMGEVENT_PURE="1").stderr
    if _speedups.NATIVE:
        assert "C core" not in run(*command, "-v", *ENDING[name]).stderr


def test_a_core_that_was_never_built_is_named_as_such(tmp_path):
    (tmp_path / "hide_core.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mmgevent._speedups._core':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from mmgevent.wire.hello import missing_core\n"
        "print(missing_core())\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "MMGEVENT_REQUIRE_NATIVE": "", "MMGEVENT_PURE": ""}
    done = run(str(tmp_path / "hide_core.py"), **environ)
    assert done.stdout == "it was not built: install a C compiler, then mmgevent again\n", done.stderr


# free-threaded builds


@pytest.fixture
def free_threaded(monkeypatch):
    """A Python that says it is free-threaded, for which gevent is not found."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gevent" else find_spec(name, *rest)
    )
    monkeypatch.setattr(check_gil, "__defaults__", ("t",))


def test_a_free_threaded_python_is_refused_by_name(free_threaded, capsys):
    sentence = f"free-threaded build of Python ({PYTHON_VERSION}t), and gevent"
    with pytest.raises(UsageError) as caught:
        start_engine(has_executors=True, has_offers=False)
    assert sentence in str(caught.value)
    assert run_command("mmg-test", lambda argv: 0, []) == 2
    assert sentence in capsys.readouterr().err


def test_where_gevent_is_found_all_the_same_nothing_is_refused():
    check_gil("t")


def test_the_install_on_a_free_threaded_python_ends_with_the_sentence():
    program = (
        "import runpy, sys, sysconfig, types; "
        "sys.modules['setuptools'] = types.SimpleNamespace(Extension=None, setup=None); "  # not needed to refuse
        "sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get; runpy.run_path('setup.py', run_name='__main__')"
    )
    done = run("-c", program)
    assert done.returncode == 1
    assert "mmgevent needs gevent, which has no release for free-threaded builds" in done.stderr


def test_the_name_of_a_peer_is_short_and_safe_for_terminals():
    assert clean_name("web-1.example.org/4711") == "web-1.example.org/4711"
    assert clean_name("a\x1b[31mb\nc\u202ed<") == "a??31mb?c?d?"
    assert len(clean_name("x" * 1000)) == MAX_NAME_CHARS
