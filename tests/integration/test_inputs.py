"""Inputs as people have them, through the command: standard input, compressed files, what is broken."""

import gzip
import random
import subprocess

import pytest

from tests.integration.commands import read_tsv

COUNT = """
import sys
from mmgevent import Files, Lines
datasource = Lines(sys.argv[1:] or "-")
def mapfn(place, line):
    yield line.split()[0], 1
def reducefn(word, counts):
    return sum(counts)
collectfn = reducefn
"""
TEXT = "".join(f"w{i % 5} {i}\n" for i in range(20_000)).encode()
EXPECTED = {f"w{i}": 4000 for i in range(5)}


def run_with_input(commands, data, *argv):
    process = commands.start("run", "--procs", "2", *argv, stdin=subprocess.PIPE)
    process.stdin.buffer.write(data)
    process.stdin.close()
    process.stdin = None
    return commands.finish(process)


@pytest.mark.parametrize(("data", "argv"), [(TEXT, ["-"]), (gzip.compress(TEXT), [])])
def test_standard_input_is_read_where_no_path_is_given(commands, data, argv):
    commands.write("count.py", COUNT)
    done = run_with_input(commands, data, "count.py", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert {key: int(value) for key, value in read_tsv(done.stdout).items()} == EXPECTED


def test_a_file_that_was_cut_off_ends_the_job_or_is_set_aside(commands):
    commands.write("count.py", COUNT)
    packed = gzip.compress(TEXT)
    (commands.folder / "good.gz").write_bytes(packed)
    (commands.folder / "cut.gz").write_bytes(packed[:-100])
    done = commands.run("run", "--procs", "2", "count.py", "good.gz", "cut.gz")
    assert done.returncode == 1
    assert f"cut.gz: its gzip data ends at byte {len(packed) - 100:,}, before it is complete" in done.stderr
    assert "Traceback" not in done.stderr
    done = commands.run("run", "--procs", "2", "--set", "max_skipped=1", "count.py", "good.gz", "cut.gz")
    assert done.returncode == 0, done.stderr
    assert {key: int(value) for key, value in read_tsv(done.stdout).items()} == EXPECTED
    assert "cut.gz: its gzip data ends at byte" in done.stderr


@pytest.mark.long
def test_a_large_text_is_read_in_little_memory_and_a_bomb_meets_the_limit(commands):
    commands.write("count.py", COUNT)
    commands.write("whole.py", COUNT.replace('Lines(sys.argv[1:] or "-")', "Files(sys.argv[1:])"))
    lines = "".join(f"w{i % 5} {random.Random(i).randbytes(2000).hex()}\n" for i in range(250)).encode()
    (commands.folder / "large.gz").write_bytes(gzip.compress(lines, 1) * 400)
    limit = ("--procs", "1", "--set", "memory_limit=256MiB")
    done = commands.run("run", *limit, "count.py", "large.gz")
    assert done.returncode == 0, done.stderr
    assert sum(int(value) for value in read_tsv(done.stdout).values()) == 400 * 250
    done = commands.run("run", *limit, "whole.py", "large.gz")
    assert done.returncode == 1
    assert "memory" in done.stderr
    assert "large.gz" in done.stderr
