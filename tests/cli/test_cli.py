"""Command lines: what is read, what is refused and how, before any engine starts."""

import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from mmgevent.cli import outputs, progress, run, server, shared, worker
from mmgevent.cli.exits import StdoutClosed, run_command
from mmgevent.cli.options import HelpAsked, parse
from mmgevent.errors import (
    AuthenticationError,
    ConnectError,
    JobError,
    NoWorkersError,
    SchedulerError,
    TooManySkippedError,
    UsageError,
    VersionMismatchError,
)

COMMANDS = [run.COMMAND, worker.COMMAND, server.COMMAND]


def read(argv, environ=None, command=run.COMMAND):
    return parse(command, argv.split(), environ or {})


def call(*argv, environ=None, **kwargs):
    """Run a command as a process of its own; what matters here ends before an engine starts."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
    return subprocess.run(
        [sys.executable, "-m", "mmgevent", *argv],
        env={**clean, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


# reading


def test_options_stand_before_the_job_file_and_the_rest_is_the_jobs():
    arguments = read("--procs 3 -q job.py --procs 9 -v -- x")
    assert arguments.procs == 3
    assert arguments.quiet
    assert not arguments.verbose
    assert arguments.rest == ["job.py", "--procs", "9", "-v", "--", "x"]


def test_two_dashes_end_the_options():
    assert read("-q -- --odd.py x").rest == ["--odd.py", "x"]


@pytest.mark.parametrize("line", ["--procs=4 j", "--procs 4 j"])
def test_long_option_takes_its_value_either_way(line):
    assert read(line).procs == 4


def test_short_options_may_be_joined():
    arguments = read("-qvvoout.tsv j")
    assert (arguments.quiet, arguments.verbose, arguments.output) == (1, 2, "out.tsv")


def test_value_may_look_like_an_option_or_be_empty():
    assert read("-p -secret j").password == "-secret"
    assert parse(run.COMMAND, ["--password=", "j"], {}).password == ""


def test_last_value_counts_and_repeatable_ones_add_up():
    arguments = read("--procs 1 --procs 2 --set retries=1 --set name=a=b --py-files a.py,b.py --py-files c j")
    assert arguments.procs == 2
    assert arguments.set == [("retries", "1"), ("name", "a=b")]
    assert arguments.py_files == [["a.py", "b.py"], ["c"]]


def test_option_then_variable_then_default():
    environ = {"MMG_PROCS": "5", "MMG_OUTPUT": "x.tsv", "MMG_QUIET": "1", "MMG_SET": "retries=1 name=n"}
    arguments = read("--procs 3 j", environ)
    assert arguments.procs == 3
    assert arguments.output == "x.tsv"
    assert arguments.quiet == 1
    assert arguments.set == [("retries", "1"), ("name", "n")]
    assert read("j").procs is None
    assert "procs" in arguments.given
    assert "procs" not in read("j").given


def test_every_option_has_a_variable_that_is_read():
    values = {"procs": "2", "set": "retries=1", "workers_timeout": "3", "memory": "1GiB", "port": "5"}
    values |= {"lifetime": "9", "idle_timeout": "3", "grace": "3", "max_items": "2", "memory_limit": "1GiB"}
    values |= {"nice": "3", "expect_workers": "2", "sort": "key", "top": "3", "part_size": "1MiB", "try": "3"}
    values |= {"summary": "json"}
    for command in COMMANDS:
        for option in command.options:
            if option.reads_variable:
                text = values.get(option.name, "x" if option.metavar else "1")
                arguments = parse(command, [], {option.variable: text})
                assert option.name in arguments.given, option


def test_variable_of_a_flag_may_say_no():
    for text in ("0", "no", "false", ""):
        assert not read("j", {"MMG_INLINE": text}).inline
    assert read("j", {"MMG_VERBOSE": "2"}).verbose == 2


def test_password_variables_are_left_to_the_password_module():
    assert read("j", {"MMG_PASSWORD": "x"}).password is None


def test_option_overrules_the_variable_of_what_it_excludes():
    arguments = read("--listen 5000 j", {"MMG_JOIN": "bighost", "MMG_INLINE": "1"})
    assert arguments.listen == "5000"
    assert arguments.join is None
    assert not arguments.inline


# refusing


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--lisen 5 j", "did you mean --listen"),
        ("-x j", "unknown option -x"),
        ("-qx j", "unknown option -x"),
        ("--procs", "--procs needs a value: --procs N"),
        ("--procs two j", "--procs 'two': expected a whole number"),
        ("--procs -1 j", "expected a whole number"),
        ("--inline=1 j", "--inline takes no value"),
        ("--listen 1 --join h j", "--listen and --join exclude one another"),
        ("--join h --inline j", "--join and --inline exclude one another"),
        ("--set retries j", "expected OPTION=VALUE"),
        ("--workers-timeout 0 j", "expected a number of seconds above 0"),
        ("--workers-timeout nan j", "expected a number of seconds above 0"),
        ("--memory lots j", "--memory"),
        ("--memory 0 j", "expected a size above 0"),
        ("-P 0 j", "not a port number"),
        ("--elect h --join h j", "exclude one another"),
    ],
)
def test_wrong_command_line_is_refused_in_two_lines_at_most(line, expected):
    with pytest.raises(UsageError) as caught:
        read(line)
    assert expected in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_wrong_variable_is_refused_by_its_name():
    with pytest.raises(UsageError, match="variable MMG_PROCS 'x': expected a whole number"):
        read("j", {"MMG_PROCS": "x"})
    with pytest.raises(UsageError, match="variable MMG_QUIET: expected 1 or 0"):
        read("j", {"MMG_QUIET": "perhaps"})
    with pytest.raises(UsageError, match="MMG_LISTEN and MMG_JOIN exclude"):
        read("j", {"MMG_LISTEN": "1", "MMG_JOIN": "h"})


# help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_names_every_option_and_gives_examples(command):
    with pytest.raises(HelpAsked) as caught:
        parse(command, ["--help", "whatever"], {})
    text = str(caught.value)
    for option in command.options:
        assert all(name in text for name in option.names)
    for line, _ in command.examples:
        assert line in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_version_is_printed(command):
    with pytest.raises(HelpAsked, match=rf"{command.name} \(mmgevent\) \d+\.\d+.*, with"):
        parse(command, ["--version"], {})


# ending


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("x"), 1),
        (UsageError("x"), 2),
        (ConnectError("x"), 3),
        (AuthenticationError("x"), 4),
        (VersionMismatchError("x"), 5),
        (TooManySkippedError("x"), 6),
        (NoWorkersError("x"), 7),
        (KeyboardInterrupt(), 130),
        (SystemExit(), 0),
        (SystemExit(9), 9),
        (SystemExit("x"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_no_stack_trace(error, code, capsys, signals):
    def body(argv):
        raise error

    assert run_command("mmg-test", body, []) == code
    message = capsys.readouterr().err
    assert "Traceback" not in message
    if str(error) == "x":
        assert message == "mmg-test: x\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SchedulerError("oops")])
def test_fault_of_our_own_shows_its_stack(error, capsys, signals):
    def body(argv):
        raise error

    assert run_command("mmg-test", body, []) == 70
    message = capsys.readouterr().err
    assert "a fault of mmgevent's own" in message
    assert "Traceback" in message
    assert "oops" in message


@pytest.fixture
def signals():
    """Put back the handlers that a command installs."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def test_reader_that_went_away_is_told_from_other_errors():
    class Full:
        is_terminal, plan = False, None

        def write(self, key, value):
            raise OSError(28, "No space left on device")

    program = textwrap.dedent(
        """
        from types import SimpleNamespace
        from mmgevent.cli import exits, outputs, progress
        class Gone:
            is_terminal, plan = False, None
            def write(self, key, value):
                raise BrokenPipeError
        def body(argv):
            reporter = progress.open_reporter("mmg-test", is_quiet=True)
            outputs.write([(1, 2)], Gone(), reporter, SimpleNamespace(written=0))
        exits.leave(exits.run_command("mmg-test", body, []))
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (141, b"")
    assert issubclass(StdoutClosed, BaseException)
    with pytest.raises(JobError, match="No space left"):
        outputs.write([(1, 2)], Full(), progress.open_reporter("mmg-test", True), SimpleNamespace(written=0))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signal_ends_a_command_whose_tidying_up_hangs(number, code):
    program = textwrap.dedent(
        f"""
        import os, threading
        from mmgevent.cli import exits
        exits.TIDY_S = 0.1
        def body(argv):
            try:
                os.kill(os.getpid(), {int(number)})
                threading.Event().wait()
            finally:
                threading.Event().wait()
        exits.leave(exits.run_command("mmg-test", body, []))
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr


# commands as processes


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run"], "no job file"),
        (["run", "--nonsense", "job.py"], "unknown option --nonsense"),
        (["run", "--procs", "0", "job.py"], "--procs 0 leaves nobody"),
        (["run", "--join", "::1", "job.py"], "[::1]:PORT"),
        (["run", "--listen", "host:99999", "job.py"], "not a port number"),
        (["run", "--join", "h", "--memory", "1GiB", "job.py"], "--memory is for the server"),
        (["worker"], "no server"),
        (["worker", "--procs", "0", "host"], "--procs 0"),
        (["worker", "a,,b"], "an address is empty"),
        (["server", "start"], "unexpected argument 'start'"),
        (["server", "password", "again"], "unexpected argument 'again'; nothing may follow `password`"),
        (["server", "password", "--listen", "5"], "--listen stands after password"),
        (["server", "password", "--nonsense"], "--nonsense stands after password"),
        (["run", "--pdb", "job.py"], "--pdb needs --inline"),
        (["server", "--listen", "x y"], "not an address"),
        (["worker", "h", "--procs", "1"], "--procs stands after HOST"),
        (["server", "--password-file", "/nonexistent/file"], "cannot read the password file"),
        (["dance"], "usage: python -m mmgevent"),
        ([], "usage: python -m mmgevent"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(argv, expected):
    ended = call(*argv)
    assert ended.returncode == 2, ended
    assert expected in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_help_goes_to_stdout_and_ends_with_0():
    for argv in (["run", "--help"], ["worker", "-h"], ["server", "--help"], ["--help"]):
        ended = call(*argv)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    "argv", [["server", "password", "--help"], ["server", "password", "-h"], ["worker", "somehost", "--help"]]
)
def test_help_is_given_after_the_first_argument_too(argv):
    ended = call(*argv)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == call(argv[0], "--help").stdout
    assert call(*argv[:2], "--version").stdout == call(argv[0], "--version").stdout


def test_server_password_makes_it_and_prints_it(tmp_path):
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    first, again = (call("server", "password", environ=environ) for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == again.stdout
    assert len(bytes.fromhex(first.stdout.strip())) == 16
    assert (tmp_path / ".config/mmgevent/password").read_text() == first.stdout


def test_command_imports_nothing_heavy_before_its_engine_starts():
    program = (
        "import sys; from mmgevent.cli import run, worker, server; from mmgevent.driver import cluster; "
        "print(*sorted({'argparse', 'gevent', 'dill', 'rich', 'cryptography', 'psutil', 'logging', 'json',"
        " 'dataclasses', 'inspect'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


# messages


def make_arguments(**values):
    return SimpleNamespace(**{"password": None, "password_file": None, "tls_ca": None, "quiet": 0, **values})


def test_way_to_join_names_a_host_and_never_the_password(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MMG_PASSWORD", raising=False)
    monkeypatch.delenv("MMG_PASSWORD_FILE", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "thishost")
    text = shared.how_to_join(("0.0.0.0", 5000), make_arguments())
    assert "mmg-worker thishost:5000" in text
    assert str(tmp_path / "mmgevent" / "password") in text
    assert "mmg-worker [fd00::1]:5000" in shared.how_to_join(("fd00::1", 5000), make_arguments())
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        alone = shared.how_to_join((host, 5000), make_arguments())
        assert alone.startswith("on this machine")
        assert "ssh" not in alone  # nobody elsewhere could connect
        assert str(tmp_path / "mmgevent" / "password") in alone
    assert "ssh" in text
    assert "mmg-server worker-password | ssh" in text
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    assert "mmg-worker THISHOST:5000" in shared.how_to_join(("0.0.0.0", 5000), make_arguments())
    assert "--tls-cert" in shared.how_to_join(("0.0.0.0", 5000), make_arguments(tls_ca="ours.pem"))
    assert "--tls" not in text
    given = shared.how_to_join(("0.0.0.0", 5000), make_arguments(password="hunter2"))
    assert "hunter2" not in given
    assert "same password" in given


def test_password_on_the_command_line_and_a_short_one_draw_warnings(capsys):
    assert shared.find_password("mmg-test", make_arguments(password="hunter2"), ["bighost"]) == "hunter2"
    message = capsys.readouterr().err
    assert "--password-file" in message
    assert "7 characters" in message
    assert "hunter2" not in message
    shared.find_password("mmg-test", make_arguments(password="hunter2", quiet=1), ["bighost"])
    assert capsys.readouterr().err == ""


def test_quiet_reporter_says_nothing(capsys):
    reporter = progress.open_reporter("mmg-test", is_quiet=True)
    reporter.notice("a worker left")
    reporter.close()
    assert capsys.readouterr().err == ""
