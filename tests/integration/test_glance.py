"""`mmg-run --try N`: some items here, through all functions, and a forecast; nothing is written."""

import signal
import subprocess

import pytest

COUNTING = """
import sys
from mmgevent import Lines
datasource = Lines(sys.argv[1:] or "-")
def mapfn(place, line):
    print("mapped", line)
    for word in line.split():
        yield word, 1
def reducefn(word, ones):
    return sum(ones)
def finishfn(word, count):
    return {"count": count}
"""


def test_a_glance_says_what_came_out_and_what_to_expect_and_writes_nothing(commands):
    job = commands.write("count.py", COUNTING)
    text = commands.write("text", "".join(f"the {i % 3} the line-{i}\n" for i in range(200)))
    before = sorted(commands.folder.iterdir())
    ended = commands.run("run", "--try", 20, "--procs", 4, "-o", "counts.jsonl", job, text)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("mapped ") == 20
    report = ended.stdout
    for line in (
        "items     20 of 200: the first, the last, and others drawn in between",
        "keys: tuple; values: str",
        "80 records, 4.0 an item, 24 different keys",
        "most frequent: 'the' 50%",
        "'the': {'count': 40}",
        "keys: str; values: dict",
        "the functions can be sent",
        "on 4 executors",
        "largest key: 'the', about 400 values",
        "combiner  would help: of 80 records 24 would be left (30%)",
        "nothing; the results would go to counts.jsonl",
    ):
        assert line in report, (line, report)
    assert [path for path in sorted(commands.folder.iterdir()) if path.suffix == ".jsonl"] == []
    assert set(before) <= set(commands.folder.iterdir())


def test_an_error_is_shown_as_inline_shows_it(commands):
    job = commands.write(
        "fails.py",
        "datasource = [(i, i) for i in range(100)]\n"
        "def mapfn(key, value):\n"
        "    yield key, value\n"
        "    if key == 99:\n"
        "        raise ValueError('not this one')\n",
    )
    glance, inline = (
        commands.run("run", "--try", 5, job),
        commands.run("run", "--inline", "--bundles", "none", job),
    )
    assert (glance.returncode, glance.stdout) == (1, "")
    assert glance.stderr == inline.stderr
    assert "mapfn at 99" in glance.stderr


def test_what_does_not_travel_is_said(commands):
    job = commands.write(
        "stuck.py",
        "import sys\n"
        "frame = sys._getframe()\n"
        "datasource = {1: 1}\n"
        "def mapfn(key, value):\n"
        "    yield key, frame is None\n",
    )
    ended = commands.run("run", "--try", 5, job)
    assert ended.returncode == 0, ended.stderr
    assert "travel    the functions cannot be sent to executors" in ended.stdout
    assert "frame" in ended.stdout


def test_standard_input_is_read_only_for_a_job_that_can_run(commands):
    bad = commands.write("bad.py", "from mmgevent import Lines\ndatasource = Lines('-')\nreducefn = 7\n")
    good = commands.write("good.py", COUNTING)
    path = commands.write("lines", "".join(f"line {i}\n" for i in range(30)))
    with open(path) as lines:
        assert commands.run("run", "--try", 5, bad, stdin=lines).returncode == 2
        assert lines.buffer.raw.tell() == 0  # the position that both processes share
        ended = commands.run("run", "--try", 5, good, stdin=lines)
    assert ended.returncode == 0, ended.stderr
    assert "items     5: the first ones: standard input can be read only once" in ended.stdout
    assert "forecast  none: how many items there are is not known" in ended.stdout


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--try", "0"], "expected a number of items from 1 to 10,000"),
        (["--try", "-3"], "expected a number of items from 1 to 10,000"),
        (["--try", "many"], "expected a number of items from 1 to 10,000"),
        (["--try", "3", "--join", "host"], "exclude one another"),
    ],
)
def test_a_bad_number_of_items_is_refused_before_the_job_is_loaded(commands, argv, expected):
    ended = commands.run("run", *argv, "missing.py")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert expected in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2


def test_ctrl_c_ends_a_glance(commands):
    job = commands.write(
        "slow.py",
        "datasource = {1: 1}\ndef mapfn(key, value):\n    print('begun')\n    while True:\n        pass\n",
    )
    process = commands.start("run", "--try", 5, job)
    assert process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    ended = commands.finish(process)
    assert (ended.returncode, ended.stdout) == (130, "")


def test_calls_of_many_items_are_glanced_at(commands):
    job = commands.write(
        "calls.py",
        "datasource = {i: i for i in range(100)}\n"
        "options = {'items_per_call': 8}\n"
        "def mapfn(keys, values):\n"
        "    return [('calls', len(keys))]\n",
    )
    ended = commands.run("run", "--try", 20, job, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert "'calls': [8, 8, 4]" in ended.stdout
