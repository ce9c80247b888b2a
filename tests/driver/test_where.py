"""A WHERE is taken apart in one place, and one that is none is answered with the list."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import mmgevent as mmg
from mmgevent.cli.clusters import open_cluster
from mmgevent.cli.options import parse
from mmgevent.cli.run import COMMAND
from mmgevent.driver.where import LIST, Where, parse_where


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("inline", Where("inline")),
        ("local", Where("local")),
        (" local:4 ", Where("local", "4")),
        ("bighost", Where("join", "bighost")),
        ("bighost:11235", Where("join", "bighost:11235")),
        ("dask", Where("join", "dask")),
        ("spark:7077", Where("join", "spark:7077")),
        ("11235", Where("join", "11235")),
        ("[::1]:11235", Where("join", "[::1]:11235")),
        ("elect:a,b:2", Where("elect", "a,b:2")),
        ("dask://host:8786", Where("engine", "dask")),
        ("ray://auto", Where("engine", "ray")),
        ("spark-local:2", Where("engine", "spark-local")),
        ("ssh://h1,h2", Where("engine", "ssh")),
    ],
)
def test_a_where_is_taken_apart(text, where):
    assert parse_where(text) == where


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "local:",
        "local:0",
        "local:two",
        "local:-1",
        "inline:2",
        "elect:",
        "elect: ",
        "a b",
        "host:port",
    ],
)
def test_a_where_that_is_none_is_answered_with_the_list(text):
    with pytest.raises(mmg.UsageError) as caught:
        parse_where(text)
    assert LIST in str(caught.value)
    with pytest.raises(mmg.UsageError):
        mmg.connect(text)


def test_an_engine_that_nobody_has_is_answered_with_the_list():
    with pytest.raises(mmg.UsageError, match="'nosuch'") as caught:
        mmg.connect("nosuch://host")
    assert LIST in str(caught.value)


def test_options_of_another_kind_of_where_are_refused():
    with ThreadPoolExecutor(1) as executor:
        for where, options in (
            ("local", {"procs": 2}),
            ("inline", {"password": "x"}),
            ("localhost:1", {"folder": "/tmp"}),
            (executor, {"password": "x"}),
        ):
            with pytest.raises(mmg.UsageError, match=next(iter(options))):
                mmg.connect(where, **options)


def test_what_is_no_client_is_refused():
    with pytest.raises(mmg.UsageError, match="a client of an engine, got int"):
        mmg.connect(3)


def test_an_executor_needs_a_folder_that_is_there_and_slots():
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(mmg.UsageError, match="no folder"):
            mmg.connect(executor, folder="/nowhere/at/all")
        with pytest.raises(mmg.UsageError, match="slots must be"):
            mmg.connect(executor, slots=-1)


def test_another_engine_refuses_what_only_ours_has():
    def double(key, value):
        yield key, value

    with ThreadPoolExecutor(1) as executor, mmg.connect(executor) as cluster:
        for call in (cluster.workers, lambda: cluster.watch(None, None, None), lambda: cluster.tell(1, b"")):
            with pytest.raises(mmg.UsageError, match="runs on ThreadPoolExecutor"):
                call()
        with pytest.raises(mmg.UsageError, match="offered by nodes"):
            cluster.submit(mmg.Job({1: 1}, mapfn="offered"))
        with pytest.raises(mmg.UsageError, match="oneshot"):
            cluster.submit(mmg.Job({1: 1}, double, allocation="oneshot"))


JOB = """
datasource = {i: i for i in range(9)}
def mapfn(key, value):
    yield value % 3, 1
def reducefn(key, values):
    return sum(values)
"""


def run(tmp_path, *options, environ=None):
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "mmgevent", "run", *options, "job.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environ)


@pytest.mark.parametrize("where", ["inline", "local:1"])
def test_mmg_run_on(tmp_path, where):
    done = run(tmp_path, "--on", where)
    assert (done.returncode, sorted(done.stdout.split("\n"))) == (0, ["", "0\t3", "1\t3", "2\t3"])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--on", "local:0"], LIST),
        (["--on", "local", "--inline"], "--on and --inline exclude one another"),
        (["--on", "local", "--join", "x"], "--on and --join exclude one another"),
        (["--on", "local:2", "--procs", "2"], "leave out --procs"),
        (["--on", "nosuch://x"], "'nosuch'"),
        (["--on", "local", "--expect-workers", "2"], "or --on HOST, elect:HOST,... or ssh://HOST,..."),
    ],
)
def test_mmg_run_on_refuses_with_2(tmp_path, options, part):
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("where", ["dask://127.0.0.1:9", "ray://auto", "spark-local:2", "sc://127.0.0.1:9"])
def test_options_of_our_own_links_are_refused_on_another_engine(where):
    """Nothing of the engine is imported for that, and nothing is asked of it."""
    options = [
        "--password",
        "--password-file",
        "--tls-cert",
        "--tls-key",
        "--tls-ca",
        "--port",
        "--memory",
        "--procs",
    ]
    for option in options:
        value = {"--port": "7", "--memory": "1GiB", "--procs": "2"}.get(option, "x")
        arguments = parse(COMMAND, ["--on", where, option, value, "job.py"], {})
        with pytest.raises(mmg.UsageError, match=f"{option} is for .*{where}"):
            open_cluster("mmg-run", arguments)
