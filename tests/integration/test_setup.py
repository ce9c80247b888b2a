"""What a job's executors have before its functions run: setupfn, imports for their effect, `sys.argv`."""

import re
import subprocess
import sys

import pytest

import mmgevent as mmg
from mmgevent.errors import FunctionError, JobError
from tests.integration.commands import read_tsv, wait_for

#: every way in which mmg-run runs a job of this machine
WAYS = (["--procs", "2"], ["--inline"])

MODEL = """
import os
datasource = {n: n for n in range(20)}
model = None
def setupfn():
    global model
    assert model is None, "called twice"
    model = os.getpid()
def mapfn(key, value):
    yield "map", model == os.getpid()
def reducefn(key, values):
    assert model == os.getpid()
    return all(values), len(values)
"""


@pytest.mark.parametrize("way", WAYS)
def test_setupfn_has_run_in_each_executor_before_map_and_before_reduce(commands, way):
    commands.write("job.py", MODEL)
    ended = commands.run("run", *way, "job.py")
    assert (ended.returncode, ended.stderr, read_tsv(ended.stdout)) == (0, "", {"map": [True, 20]})


@pytest.mark.parametrize("inline", [False, True])
def test_setupfn_of_a_program_is_called_once_whatever_phases_there_are(tmp_path, inline):
    calls = tmp_path / "calls"

    def note():
        with open(calls, "a") as file:
            file.write("called\n")

    def run(job):
        return mmg.run(job, inline=True) if inline else mmg.run(job, procs=1)

    assert run(mmg.Job({1: 2}, lambda k, v: [(k, v)], lambda k, vs: sum(vs), setupfn=note)) == {1: 2}
    assert run(mmg.Job({1: 2}, reducefn=lambda k, vs: sum(vs), setupfn=note)) == {1: 2}
    assert calls.read_text() == "called\n" * 2


def test_setupfn_sets_what_the_threads_of_a_greenlet_job_see_after_monkey_patching():
    def note():
        import socket

        global patched
        patched = socket.socket.__module__

    job = mmg.Job({1: 1}, lambda k, v: [(k, patched)], setupfn=note, greenlets=4)
    assert mmg.run(job, procs=1) == {1: ["gevent._socket3"]}


BAD_SETUPS = {
    "raise": ("raise OSError('no model here')", "OSError: no model here"),
    "leave": ("sys.exit(4)", "SystemExit: 4"),
    "die": ("print('my last words', flush=True); os._exit(7)", "the executor died: exit code 7"),
    "hang": ("time.sleep(1000)", "it took longer than setup_timeout, 0.5 s"),
    "close": ("os.closerange(0, 5000)", "the executor died: exit code 0"),
}


@pytest.mark.parametrize("fault", BAD_SETUPS)
def test_a_setupfn_that_fails_is_tried_three_times_and_fails_the_job_by_name_whatever_may_be_skipped(
    commands, fault
):
    code, said = BAD_SETUPS[fault]
    commands.write(
        "job.py",
        "import os, sys, time\ndatasource = {n: n for n in range(20)}\n"
        "options = {'max_skipped': 0.9, 'retries': 5, 'task_timeout': 60, 'setup_timeout': 0.5}\n"
        f"def setupfn():\n    os.mkdir(str(os.getpid()))\n    {code}\n"
        "def mapfn(key, value):\n    yield key, value\n",
    )
    ended = commands.run("run", "--procs", "1", "job.py")
    assert ended.returncode == 1, ended.stderr
    assert re.search(rf"^mmg-run: setupfn on \S+: {re.escape(said)}", ended.stderr, re.MULTILINE)
    assert "it failed in 3 executors" in ended.stderr or fault in ("leave", "close")
    assert len([path for path in commands.folder.iterdir() if path.name.isdecimal()]) == 3
    assert "set aside" not in ended.stderr
    assert ("line 6, in setupfn" in ended.stderr) == (fault in ("raise", "leave"))
    assert ("my last words" in ended.stderr) == (fault == "die")
    if fault in ("raise", "leave"):
        ended = commands.run("run", "--inline", "job.py")
        assert ended.returncode == 1
        assert f"mmg-run: setupfn: {said}" in ended.stderr


def test_the_time_of_setupfn_is_not_that_of_an_item():
    def rest():
        import time

        time.sleep(1.0)

    job = mmg.Job({1: 1}, lambda k, v: [(k, v)], setupfn=rest, task_timeout=0.3)
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(job)
        assert handle.result() == {1: [1]}
        assert handle.deaths() == []


def test_deaths_in_setupfn_are_told_of_setupfn():
    job = mmg.Job({1: 1}, lambda k, v: [(k, v)], setupfn=lambda: __import__("os")._exit(3))
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(job)
        with pytest.raises(JobError, match=r"setupfn on .*exit code 3") as caught:
            handle.result()
    assert (caught.value.function, caught.value.kind) == ("setupfn", "died")
    deaths = handle.deaths()
    assert [death["outcome"] for death in deaths] == ["retried", "retried", "failed"]
    assert {death["function"] for death in deaths} == {"setupfn"}
    assert not any({"key", "item", "task"} & set(death) for death in deaths)


FIT_OR_NOT = """
import os, time
datasource = {n: n for n in range(40)}
def setupfn():
    os.open(f"{os.environ['SETUPS']}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open(os.environ["SETUPS"], "a") as file:
        file.write("x")
    if "UNFIT" in os.environ:
        raise OSError("no model on this machine")
def mapfn(key, value):
    time.sleep(0.02)
    yield "UNFIT" in os.environ, 1
def reducefn(key, values):
    return sum(values)
"""


def test_where_setupfn_fails_nothing_more_is_run_while_there_are_other_workers(commands):
    _, address = commands.start_server()
    folder = commands.folder
    for name, environ in (("unfit", {"UNFIT": "1"}), ("fit", {})):
        process = commands.start(
            "worker", "--procs", "2", address, environ={**environ, "SETUPS": str(folder / name)}
        )
        wait_for(process.stderr, r"connected|joined|works for")
    commands.write("job.py", FIT_OR_NOT)
    ended = commands.run("run", "--join", address, "job.py")
    assert (ended.returncode, read_tsv(ended.stdout)) == (0, {"false": 40}), ended.stderr
    assert len((folder / "fit").read_text()) <= 2
    assert 1 <= len((folder / "unfit").read_text()) <= 4
    assert re.search(r"setupfn on \S+: OSError: no model on this machine; .*tried again .*\n", ended.stderr)


# Imports for their effect only

REGISTRY = """
import plugins_one
from package import plugin
import package.registry as _
datasource = {1: 1}
def setupfn():
    import sys
    assert "plugins_one" in sys.modules, "imported before setupfn"
def mapfn(key, value):
    import builtins
    yield key, builtins.REGISTERED
"""


@pytest.mark.parametrize("way", [*WAYS, ["--join"]])
def test_modules_imported_for_their_effect_are_imported_in_executors_in_the_order_of_the_file(commands, way):
    note = "import builtins\nbuiltins.REGISTERED = [*getattr(builtins, 'REGISTERED', []), __name__]\n"
    (commands.folder / "home" / "package").mkdir(parents=True)
    commands.write("home/package/__init__.py", "")
    for name in ("plugins_one", "package/plugin", "package/registry"):
        commands.write(f"home/{name}.py", note)
    job = commands.write("home/job.py", REGISTRY)
    if way == ["--join"]:
        _, address = commands.start_server()
        commands.start("worker", "--procs", "1", address)  # in another folder
        way = ["--join", address]
    ended = commands.run("run", *way, job)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert read_tsv(ended.stdout) == {"1": [["plugins_one", "package.plugin", "package.registry"]]}


def test_an_import_for_its_effect_that_fails_in_executors_is_named_once_and_fails_nothing(commands):
    commands.write(
        "picky.py", "import sys\nif 'mmgevent.cli.run' not in sys.modules: raise ValueError('only there')\n"
    )
    commands.write(
        "job.py",
        "import picky\ndatasource = {n: n for n in range(50)}\ndef mapfn(k, v):\n    yield 'n', 1\n"
        "def reducefn(k, vs):\n    return sum(vs)\n",
    )
    ended = commands.run("run", "--procs", "3", "job.py")
    assert (ended.returncode, ended.stdout) == (0, "n\t50\n")
    assert len(ended.stderr.splitlines()) == 1
    assert re.fullmatch(
        r"mmg-run: \S+/\d+: import of picky failed: ValueError: only there\..*without its effect\n",
        ended.stderr,
    )


@pytest.mark.parametrize("way", WAYS)
def test_an_import_for_its_effect_may_need_what_the_job_file_defines(commands, way):
    commands.write("plugin.py", "from job import REGISTRY\nREGISTRY.append('plugin')\n")
    commands.write(
        "job.py",
        "class Registry(list):\n    def __reduce__(self): return Registry, ()\n"
        "REGISTRY = Registry()\nimport plugin\ndatasource = {1: 1}\n"
        "def mapfn(k, v):\n    yield k, list(REGISTRY)\n",
    )
    ended = commands.run("run", *way, "job.py")
    assert (ended.stdout, ended.stderr) == ('1\t[["plugin"]]\n', "")


def test_a_slow_import_for_its_effect_is_named_with_v(commands):
    commands.write("slow.py", "import time\ntime.sleep(0.25)\n")
    commands.write("job.py", "import slow\ndatasource = {1: 1}\ndef mapfn(k, v):\n    yield k, v\n")
    ended = commands.run("run", "--procs", "1", "job.py")
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = commands.run("run", "-v", "--procs", "1", "job.py")
    assert re.search(r"import of slow, .* took 0\.[2-9] s", ended.stderr)


def test_an_import_for_its_effect_that_kills_is_refused_before_an_item_is_mapped(commands):
    commands.write("deadly.py", "import os, sys\nif 'mmgevent.cli.run' not in sys.modules: os._exit(3)\n")
    commands.write(
        "job.py",
        "import deadly\noptions = {'max_skipped': 0.9}\ndatasource = {1: 1}\n"
        "def mapfn(k, v):\n    yield k, v\n",
    )
    ended = commands.run("run", "--procs", "1", "job.py")
    assert ended.returncode == 2
    assert "ended a fresh process (exit code 3)" in ended.stderr


def test_a_program_imports_for_effect_in_executors_what_it_has_imported_so(commands):
    commands.write("effect.py", "import builtins\nbuiltins.EFFECT = 1\n")
    script = commands.write(
        "program.py",
        "import mmgevent as mmg\nimport effect\n"
        "def mapfn(k, v):\n    import builtins\n    yield k, hasattr(builtins, 'EFFECT')\n"
        "print(mmg.run(mmg.Job({1: 1}, mapfn), procs=1))\n",
    )
    ended = commands.run(program=(script,))
    assert (ended.stdout, ended.stderr) == ("{1: [True]}\n", "")


# sys.argv

ARGV = """
import sys
from mmgevent import Files
argv = list(sys.argv)
def datasource():
    return _items()
def _items():
    for n in range(3):
        yield n, list(sys.argv)
def mapfn(key, seen):
    yield "datasource", seen
    yield "map", list(sys.argv)
def reducefn(key, values):
    assert all(value == values[0] for value in values)
    return [values[0], list(sys.argv)]
def finishfn(groups):
    for key, value in groups:
        yield key, [*value, list(sys.argv)]
def setupfn():
    assert sys.argv[1] == "x y"
"""


@pytest.mark.parametrize("way", [*WAYS, ["--join"]])
def test_functions_see_the_arguments_of_the_job_file_everywhere(commands, way):
    commands.write("job.py", ARGV)
    if way == ["--join"]:
        _, address = commands.start_server()
        commands.start("worker", "--procs", "1", address)
        way = ["--join", address]
    ended = commands.run("run", *way, "job.py", "x y", "--flag")
    assert (ended.returncode, ended.stderr) == (0, "")
    argv = ["job.py", "x y", "--flag"]
    assert read_tsv(ended.stdout) == {"datasource": [argv] * 3, "map": [argv] * 3}


@pytest.mark.parametrize("inline", [True, False])
def test_functions_of_a_job_file_see_its_arguments_in_a_program_which_keeps_its_own(tmp_path, inline):
    path = tmp_path / "argv_of_a_job.py"
    path.write_text(ARGV)
    before = sys.argv
    job = mmg.Job.from_file(path, ["x y"])
    try:
        assert sys.argv is before
        results = mmg.run(job, inline=True) if inline else mmg.run(job, procs=1)
        assert results == dict.fromkeys(["datasource", "map"], [[str(path), "x y"]] * 3)
        assert sys.argv is before
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["argv_of_a_job"]


def test_functions_of_a_program_see_its_own_arguments(commands):
    script = commands.write(
        "program.py",
        "import sys\nimport mmgevent as mmg\n"
        "print(mmg.run(mmg.Job({1: 1}, lambda k, v: [(k, sys.argv[1:])]), procs=1))\n",
    )
    ended = subprocess.run(
        [sys.executable, script, "one", "two"],
        capture_output=True,
        text=True,
        env=commands.environ,
        timeout=100,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("{1: [['one', 'two']]}\n", "")


# What cannot be


def test_setupfn_cannot_go_with_functions_that_others_offer():
    job = mmg.Job({1: 1}, "stats", setupfn=lambda: None)
    with pytest.raises(FunctionError, match="setupfn runs in executors, and the function 'stats'"):
        job.check()
