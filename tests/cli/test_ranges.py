"""Every number that a user can give has a range, which the error names; a new option without one fails here."""

import dataclasses
import math
import re

import pytest

import mmgevent as mmg
from mmgevent.cli import run, server, worker
from mmgevent.cli.exits import run_command
from mmgevent.errors import MmgeventError, UsageError
from mmgevent.job.options import JobOptions, parse_option

COMMANDS = {"mmg-run": run, "mmg-server": server, "mmg-worker": worker}

#: What no option that is a number takes.
ABSURD = [
    "-1",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "1" + "0" * 19,
    "1" + "0" * 30,
    "9" * 5000,
    "\u0661\u0662",  # digits of another script
    "1_000",
    "0x10",
    "5 5",
    "\x1b[31m5",
    "5\n5",
    "many",
    " ",
]

#: Words for the value of an option: numbers, addresses, and texts that any reader of theirs checks.
NUMBERS = {"N", "SECONDS", "SIZE", "PORT"}
ADDRESSES = {"WHERE", "[HOST:]PORT", "HOST[:PORT]", "HOST[:PORT][,...]"}
TEXTS = {"", "PASSWORD", "PATH", "F", "PATH[,PATH...]", "NAME[,NAME...]", "NAME", "PYTHON", "ORDER"} | {
    "FILE",
    "json|FILE.json",
    "FILE.jsonl",
    "FILE.html",
    "FOLDER",
}
SETTINGS = {"OPTION=VALUE"}

#: Options that do not take 5, and a number that they take: 16 MiB are the least memory of an executor.
TAKEN = {"memory_limit": 16 << 20}

#: What a message about a number says of its range.
RANGE = re.compile(r"from \d+ to [\d.e+]+|above 0, at most")

LONGEST_MESSAGE = 600

OPTIONS = [(name, option) for name, module in COMMANDS.items() for option in module.COMMAND.options]
NUMBER_OPTIONS = [(name, option) for name, option in OPTIONS if option.metavar in NUMBERS]


def say_of(capsys, name, argv):
    """Run a command in this process; return its exit code and what it said."""
    code = run_command(name, COMMANDS[name].run, argv)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def check_refusal(code, said):
    assert code == 2
    assert said.count("\n") <= 2  # the message, and perhaps a hint at --help
    assert len(said) < LONGEST_MESSAGE
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "Traceback" not in said


def test_every_option_is_of_a_kind_that_is_tried_here():
    assert {option.metavar for _, option in OPTIONS} - NUMBERS - ADDRESSES - TEXTS - SETTINGS == set()


@pytest.mark.parametrize(("name", "option"), NUMBER_OPTIONS, ids=lambda it: getattr(it, "name", it))
def test_an_absurd_number_is_refused_with_the_range(capsys, monkeypatch, name, option):
    monkeypatch.setattr("mmgevent.cli.exits._handle_signals", lambda: None)
    for text in ABSURD:
        code, said = say_of(capsys, name, [f"{option.names[-1]}={text}", "x.py"])
        check_refusal(code, said)
        assert option.names[-1] in said
        assert RANGE.search(said), said
        if option.reads_variable and text.strip():
            monkeypatch.setenv(option.variable, text)
            code, said = say_of(capsys, name, ["x.py"])
            monkeypatch.delenv(option.variable)
            check_refusal(code, said)
            assert option.variable in said
            assert RANGE.search(said), said
    code, said = say_of(capsys, name, [option.names[-1], "", "x.py"])
    check_refusal(code, said)
    taken = TAKEN.get(option.name, 5)
    assert option.convert(f" {taken} ") == option.convert(f"{taken}") == taken


@pytest.mark.parametrize(
    ("name", "option"),
    [pair for pair in OPTIONS if pair[1].metavar in ADDRESSES],
    ids=lambda it: getattr(it, "name", it),
)
def test_an_address_with_an_absurd_port_is_refused(capsys, monkeypatch, name, option):
    monkeypatch.setattr("mmgevent.cli.exits._handle_signals", lambda: None)
    monkeypatch.setattr("mmgevent.cli.run.claim_results", lambda output: None)
    for text in ABSURD:
        code, said = say_of(capsys, name, [f"{option.names[-1]}=localhost:{text}", "x.py"])
        check_refusal(code, said)


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda it: getattr(it, "name", it))
def test_a_flag_of_a_variable_is_a_small_number(capsys, monkeypatch, name, option):
    if option.metavar:
        return
    monkeypatch.setattr("mmgevent.cli.exits._handle_signals", lambda: None)
    for text in ["-1", "10", "9" * 5000, "nan", "\u0661", "\x1b[31m"]:
        monkeypatch.setenv(option.variable, text)
        check_refusal(*say_of(capsys, name, ["x.py"]))


#: Options of a job that are no numbers.
JOB_TEXTS = {"arrays", "py_files", "allocation", "name", "results", "plain_classes", "pass_env", "bundles"}
NULLABLE = {"task_timeout", "setup_timeout", "memory_limit", "partitions", "items_per_call"}
JOB_NUMBERS = [field.name for field in dataclasses.fields(JobOptions) if field.name not in JOB_TEXTS]


@pytest.mark.parametrize("name", JOB_NUMBERS)
def test_an_absurd_number_of_a_job_option_is_refused_with_the_range(name):
    for text in ABSURD:
        if name in NULLABLE and not text.strip():
            assert parse_option(name, text) is None
            continue
        if name == "max_skipped" and text == "many":
            continue
        with pytest.raises(UsageError) as caught:
            parse_option(name, text)
        assert caught.value.exit_code == 2
        assert len(str(caught.value)) < LONGEST_MESSAGE
        assert str(caught.value).isprintable()
    for value in (-1, math.nan, math.inf, 10**30, 10**5000, "five", b"5", [5], 1e300, "\x1b"):
        with pytest.raises(UsageError, match=name) as caught:
            JobOptions(**{name: value})
        assert re.search(r"0|above|1 to|from", str(caught.value))
        assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize(
    "bad", [-1, math.nan, math.inf, 10**30, 10**5000, "5", None, 1j], ids=[f"bad{n}" for n in range(8)]
)
def test_what_a_program_passes_has_ranges_too(bad):
    for call in (
        lambda: mmg.connect("localhost:1", password="x" * 20, timeout=bad),
        lambda: mmg.connect("localhost:1", password="x" * 20, procs=bad),
        lambda: mmg.connect("localhost:1", password="x" * 20, verbose=bad),
        lambda: mmg.connect(("localhost", bad), password="x" * 20),
        lambda: mmg.LocalCluster(1, verbose=bad),
        lambda: mmg.LocalCluster(1, listen=("localhost", bad), password="x" * 20),
        lambda: mmg.Node([("localhost", bad)], password="x" * 20),
        lambda: mmg.Node(procs=bad, password="x" * 20),
        lambda: mmg.Node(timeout=bad, password="x" * 20),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert len(str(caught.value)) < LONGEST_MESSAGE
    if bad is not None and bad != "5":
        with pytest.raises(MmgeventError) as caught:
            mmg.LocalCluster(1, segment_memory=bad)
        assert caught.value.exit_code == 2
