"""Settings in a file, and what is made of the tables of options."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmgevent.cli import option_pages, run, server, worker
from mmgevent.cli.options import HelpAsked, parse
from mmgevent.errors import UsageError

ROOT = option_pages.ROOT


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home, a project in it, and a folder of the project, which is the current one."""
    project = tmp_path / "home" / "project"
    (project / "data").mkdir(parents=True)
    monkeypatch.chdir(project / "data")
    return project


def read(place, *argv, command=run.COMMAND, **environ):
    return parse(command, argv, {"HOME": str(place.parent), **environ})


def test_options_win_over_variables_and_those_over_the_file(place):
    (place / "mmgevent.toml").write_text('port = 1000\n[run]\nprocs = 3\nmemory = "1GiB"\n')
    found = read(place, "--procs", "5", "job.py", MMG_MEMORY="2GiB")
    assert (found.procs, found.memory, found.port) == (5, 2 << 30, 1000)
    assert found.given["procs"] == "command line"
    assert found.given["memory"] == "variable MMG_MEMORY"
    assert found.given["port"] == f"port in {place}/mmgevent.toml"
    assert found.rest == ["job.py"]


def test_a_table_of_a_command_wins_and_is_for_that_command(place):
    (place / "mmgevent.toml").write_text('port = 1\n[worker]\nport = 2\nname = "w"\n[server]\nport = 3\n')
    found = {c.name: read(place, command=c) for c in (run.COMMAND, worker.COMMAND, server.COMMAND)}
    assert [found[name].port for name in ("mmg-run", "mmg-worker", "mmg-server")] == [1, 2, 3]
    assert found["mmg-worker"].name == "w"


def test_flags_lists_and_paths_have_the_types_of_toml(place):
    (place / "mmgevent.toml").write_text(
        'verbose = 2\nquiet = false\npassword-file = "secret"\n'
        '[run]\nset = ["retries=1", "name=x"]\noverwrite = true\noutput = "out.tsv"\n'
    )
    found = read(place)
    assert (found.verbose, found.quiet, found.overwrite) == (2, 0, 1)
    assert found.set == [("retries", "1"), ("name", "x")]
    assert (found.output, found.password_file) == (f"{place}/out.tsv", f"{place}/secret")
    assert "quiet" not in found.given


def test_pyproject_counts_only_with_our_table(place):
    (place / "mmgevent.toml").write_text("port = 1\n")
    (place / "data" / "pyproject.toml").write_text('[project]\ndependencies = ["mmgevent"]\n')
    assert read(place).port == 1
    (place / "data" / "pyproject.toml").write_text(
        "[tool.mmgevent]\nport = 2\n[tool.mmgevent.run]\nprocs = 4\n"
    )
    assert (read(place).port, read(place).procs) == (2, 4)
    (place / "data" / "pyproject.toml").write_text("mmgevent = [no TOML")
    assert read(place).port == 1


@pytest.mark.parametrize("end", ["a repository", "the home folder"])
def test_the_search_ends_at(place, end):
    (place.parent.parent / "mmgevent.toml").write_text("port = 1\n")
    if end == "a repository":
        (place.parent / "mmgevent.toml").write_text("port = 2\n")
        (place / ".git").mkdir()
    assert read(place).port is None


def test_a_variable_names_the_file_or_none(place, tmp_path):
    (place / "mmgevent.toml").write_text("port = 1\n")
    (tmp_path / "other.toml").write_text("port = 2\n")
    assert read(place, MMG_SETTINGS=str(tmp_path / "other.toml")).port == 2
    assert read(place, MMG_SETTINGS="").port is None
    with pytest.raises(UsageError, match="cannot read the settings"):
        read(place, MMG_SETTINGS=str(tmp_path / "missing.toml"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_passed_over(place):
    file = place / "mmgevent.toml"
    file.write_text('join = "evil"\n')
    os.chown(file, 12345, 12345)
    try:
        assert os.stat(file).st_uid == 12345
        assert read(place).join is None
    finally:
        os.chown(file, 0, 0)


WRONG = {
    "prot = 1": "prot in .* is no option; did you mean port",
    "[run]\nproc = 1": r"run\.proc in .* is no option; did you mean run\.procs",
    "[runn]\nprocs = 1": "runn in .* is a table for no command; did you mean run",
    "[run]\nlifetime = 1": r"run\.lifetime in .* is no option",
    "port = {a = 1}": "port in .* is a table for no command",
    "port = 2026-01-01": "port in .*: expected a text, a number",
    'port = "many"': "port in .* 'many'.* is not a port number|port in .*many",
    "port = [1, 2]": "port in .*: expected one value, got a list of 2",
    'quiet = "perhaps"': "quiet in .*: expected 1 or 0",
    "port = ": "the settings .* are no TOML",
    'join = "a"\nlisten = 1': "setting .*exclude one another",
    'password = "in the open, where others read it"': "others may read this file .*chmod 600",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_it_is_named(place, text):
    file = place / "mmgevent.toml"
    file.write_text(text)
    file.chmod(0o644)
    with pytest.raises(UsageError, match=WRONG[text]) as refused:
        read(place)
    assert "where others read it" not in str(refused.value)


def test_a_password_may_stand_in_a_private_file_and_loses_to_every_other(place):
    file = place / "mmgevent.toml"
    file.write_text('password = "a secret of the file"\n')
    file.chmod(0o600)
    assert read(place).password == "a secret of the file"
    assert read(place, MMG_PASSWORD="another one").password is None
    assert read(place, "--password-file", "x").password is None
    with pytest.raises(HelpAsked) as asked:
        read(place, "--show-config")
    assert "a secret of the file" not in str(asked.value)


def test_show_config_says_where_each_value_comes_from(place):
    (place / "mmgevent.toml").write_text("port = 1000\n")
    with pytest.raises(HelpAsked) as asked:
        read(place, "--show-config", "--procs", "2", MMG_MEMORY="1GiB", MMG_PASSWORD_FILE="/p")
    lines = str(asked.value).splitlines()
    assert len(lines) == len(run.COMMAND.options) + 1
    for line in (
        r"--procs +2 +command line",
        r"--memory +1073741824 +variable MMG_MEMORY",
        rf"--port +1000 +port in {re.escape(str(place))}/mmgevent\.toml",
        r"--password-file +/p +variable MMG_PASSWORD_FILE",
        r"--join +- +default",
    ):
        assert any(re.fullmatch(line, each) for each in lines), line


def test_commands_read_the_file_and_without_one_import_nothing_for_it(tmp_path):
    environ = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"}
    argv = [sys.executable, "-m", "mmgevent", "run", "--show-config"]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "tomllib" not in done.stderr
    (tmp_path / "mmgevent.toml").write_text("port = 1000\n")
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert re.search(r"^--port +1000 +port in ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("path", option_pages.pages())
def test_what_is_made_of_the_options_is_up_to_date(path):
    assert Path(ROOT / path).read_text("utf-8") == option_pages.pages()[path]


def test_bash_completes_options_and_words():
    script = ROOT / "docs" / "completions" / "mmg.bash"
    ask = f". {script}; COMP_WORDS=(mmg-server $1); COMP_CWORD=1; _mmg_server; echo ${{COMPREPLY[@]}}"
    for word, expected in (
        ("--log", "--log-format"),
        ("--pass", "--password --password-file"),
        ("dra", "drain"),
    ):
        done = subprocess.run(["bash", "-c", ask, "bash", word], capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == expected.split()
