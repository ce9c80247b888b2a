"""Who runs whose bytes: with plain results a worker can run nothing in the driver, nor in other executors.

The hostile worker is a raw one that proved the password. What it sends is intact and well formed, and would run code.
"""

import datetime
import os
import pickle
from types import SimpleNamespace

import pytest

import mmgevent as mmg
from mmgevent.cli.options import parse
from mmgevent.cli.run import COMMAND, which_results
from mmgevent.driver.failures import set_aside
from mmgevent.tasks import records
from mmgevent.tasks.plain_rules import PlainRules
from mmgevent.tasks.records import encode_flush, encode_segment
from tests.integration.commands import Commands
from tests.ports import reserved_port
from tests.trust.raw_peer import PATIENCE_S, RawWorker, connected, running_server, running_worker
from tests.trust.test_hostile_worker import EXPECTED, ITEMS, gate, submit  # noqa: F401

ADVICE = "--trust-workers"


class MakesFile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server, an honest worker with two slots, and a driver's cluster, for all tests."""
    folder = tmp_path_factory.mktemp("place")
    with (
        running_server(folder) as server,
        running_worker(folder, server) as worker,
        connected(server) as cluster,
    ):
        yield SimpleNamespace(server=server, worker=worker, cluster=cluster)
        assert "Traceback" not in server.said + worker.said


@pytest.fixture
def harm(tmp_path):
    """The folder that code of the hostile worker would make."""
    return tmp_path / "harm"


def attack(place, gate, harm, phase, partition=0, **options):  # noqa: F811
    """Let a hostile worker answer a task of this phase; return the job's handle once the honest one goes on."""
    hurting = MakesFile(str(harm))
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate, phase, **options)
        assign = hostile.take(phase)
        if phase == "reduce":
            segment = encode_segment(["0"], [hurting])
            partition = assign[1]["parts"][0][0]
        else:
            segment = encode_segment(["0"], [[hurting]], grouped=True)
        hostile.finish(assign, encode_flush({partition: segment}))
        hostile.leave()
        gate.touch()
    return handle


def fail(handle):
    with pytest.raises(mmg.JobError) as caught:
        handle.result(PATIENCE_S)
    return str(caught.value)


def test_a_worker_that_is_trusted_runs_code_in_the_driver(place, gate, harm):  # noqa: F811
    """That is what the others prevent, and what docs/security.md says."""
    attack(place, gate, harm, "reduce").exception(PATIENCE_S)
    assert harm.is_dir()


def test_results_of_a_hostile_worker_run_nothing_in_the_driver(place, gate, harm):  # noqa: F811
    text = fail(attack(place, gate, harm, "reduce", results="plain"))
    assert "results cannot be read here" in text
    assert "posix.mkdir" in text
    assert ADVICE in text
    assert not harm.exists()


def test_map_output_of_a_hostile_worker_runs_nothing_in_reduce_executors(place, gate, harm):  # noqa: F811
    text = fail(attack(place, gate, harm, "map", results="plain"))
    assert "posix.mkdir" in text
    assert ADVICE in text
    assert not harm.exists()
    (other := gate.parent / "other").touch()
    assert submit(place, other, results="plain").result(PATIENCE_S) == EXPECTED


@pytest.mark.parametrize("is_kept", [False, True], ids=["read again", "kept"])
def test_a_place_that_no_batch_has_is_not_looked_up(place, gate, is_kept):  # noqa: F811
    failure = {"error": "E", "key": "k", "kind": "exception"}
    positions = [5000 << 32, 10**30]
    rows = [(position, None, "E", "text", failure) for position in positions]
    with RawWorker(place.server.address) as hostile:
        items = iter(ITEMS) if is_kept else ITEMS
        handle = submit(place, gate, items=items, results="plain", max_skipped=5, partitions=4)
        assign = hostile.take()
        output = encode_flush({4: encode_segment(["a", "b"], rows)})
        hostile.put_out(assign, output)
        count = assign[1]["hi"] - assign[1]["lo"]
        hostile.done(
            assign, len(output), items=max(0, count - 2), records=0, groups=0, skipped=2, failure=failure
        )
        hostile.leave()
        gate.touch()
        assert handle.exception(PATIENCE_S) is None
    found = list(handle.skipped_items())
    assert [key for key, _ in found] == ["a", "b"]
    assert all("not kept" in repr(value) for _, value in found)


def test_rows_over_the_limit_of_values_stay_plain(monkeypatch):
    monkeypatch.setattr(set_aside, "MAX_VALUES_BYTES", 0)
    kept = set_aside.SetAside(PlainRules({__name__}))
    key = datetime.date(2020, 1, 1)
    row = (0, None, "E", "text", {"error": "E"})
    for batch in (1, 2):
        rows = encode_segment([key], [row], plain=PlainRules({__name__}))
        assert [failure["item_key"] for failure in kept.add_rows(batch, "w", rows)] == [key]
    assert [failure["item_key"] for failure in kept.failures()] == [key, key]


def forged_segment(keys, values):
    """Return a segment of two pickles of lists of one."""
    header = records._HEADER.pack(b"MMGS", 1, 0, 0, 1, len(keys), len(values))
    return header + records._CHECKSUM.pack(records._checksum(header, keys + values)) + keys + values


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_a_key_of_a_few_hundred_bytes_does_not_keep_anybody_busy_for_years(place, gate, phase):  # noqa: F811
    """Each of these tuples holds the one before it twice, so hash() visits 2**60 objects."""
    doubled = b")\x94" + b"".join((b"h" + bytes([level])) * 2 + b"\x86\x94" for level in range(60))
    keys = b"\x80\x04]" + doubled + b"0" * 61 + b"h\x3ca."
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate, phase, results="plain")
        assign = hostile.take(phase)
        partition = assign[1]["parts"][0][0] if phase == "reduce" else 0
        hostile.finish(assign, encode_flush({partition: forged_segment(keys, pickle.dumps([[1]]))}))
        hostile.leave()
        gate.touch()
    assert "too long to hash" in fail(handle)


@pytest.mark.parametrize("part", ["key", "value", "failure", "shape"])
def test_rows_of_items_set_aside_run_nothing_in_the_driver(place, gate, harm, part):  # noqa: F811
    hurting = MakesFile(str(harm))
    failure = {"error": "E", "key": "k", "kind": "exception"}
    row = (0, None, "E", "text", failure)
    if part == "value":
        row = (0, pickle.dumps(hurting), *row[2:])
    elif part == "failure":
        row = (*row[:4], {**failure, "more": hurting})
    elif part == "shape":
        row = {"position": 0}
    segment = encode_segment([hurting if part == "key" else "k"], [row])
    with RawWorker(place.server.address) as hostile:
        handle = submit(place, gate, "map", results="plain", max_skipped=5, partitions=4)
        assign = hostile.take()
        output = encode_flush({4: segment})
        hostile.put_out(assign, output)
        items = assign[1]["hi"] - assign[1]["lo"]
        hostile.done(assign, len(output), items=items - 1, records=0, groups=0, skipped=1, failure=failure)
        hostile.leave()
        gate.touch()
        if part == "value":
            assert handle.exception(PATIENCE_S) is None
            with pytest.raises(mmg.JobError, match=r"no plain data.*posix\.mkdir"):
                list(handle.skipped_items())
        else:
            text = fail(handle)
            assert "items set aside cannot be read here" in text
            assert part == "shape" or "posix.mkdir" in text
    assert not harm.exists()


JOB_FILE = """
import collections, dataclasses, datetime, decimal, enum, pathlib, sys

datasource = [(n, n) for n in range(40)]

@dataclasses.dataclass(frozen=True)
class Day:
    at: datetime.date

class Kind(enum.Enum):
    ODD = 1
    EVEN = 0

Row = collections.namedtuple("Row", "number kind")

class Other:
    def __repr__(self):
        return "an Other"

def mapfn(key, value):
    row = Row(decimal.Decimal(value), Kind(value % 2))
    yield Day(datetime.date(2020, 1, 1 + value % 3)), (row, pathlib.PurePosixPath("a"), collections.Counter(a=value))
    if "other" in sys.argv and value == 7:
        yield Day(datetime.date(2020, 1, 1)), Other()

def reducefn(key, values):
    return [value for value in values if isinstance(value, Other)] or [sum(value[0].number for value in values), values[0]]

def finishfn(key, values):
    assert type(key) is Day and (len(values) == 1 or type(values[1][0]) is Row), values
    return values[0]
"""


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    started.close()


@pytest.fixture
def places(commands):
    """The options of mmg-run for each place where others' executors may take part."""
    _, address = commands.start_server()
    commands.start("worker", "--procs", "2", address)
    with reserved_port() as port:
        yield {
            "listen": ("--listen", "127.0.0.1:0", "--procs", "2"),
            "join": ("--join", address),
            "elect": ("--elect", f"127.0.0.1:{port}", "--procs", "2"),
        }


@pytest.mark.parametrize(
    ("argv", "of_job", "expected"),
    [
        ((), None, None),
        (("--inline",), None, None),
        (("--procs", "2"), "plain", "plain"),
        (("--listen", "1"), None, "plain"),
        (("--join", "h"), None, "plain"),
        (("--elect", "h"), None, "plain"),
        (("--on", "h"), None, "plain"),
        (("--on", "h:1"), None, "plain"),
        (("--on", "elect:h,i"), None, "plain"),
        (("--on", "ssh://h,i"), None, "plain"),
        (("--on", "dask://h:8786"), None, "plain"),
        (("--on", "ray://auto"), None, "plain"),
        (("--on", "spark-local:2"), None, "plain"),
        (("--on", "new-engine://h"), None, "plain"),
        (("--on", "h"), "trusted", "trusted"),
        (("--on", "ssh://h", "--trust-workers"), None, "trusted"),
        (("--on", "inline"), None, None),
        (("--on", "local"), None, None),
        (("--on", "local:2"), None, None),
        (("--join", "h"), "trusted", "trusted"),
        (("--join", "h", "--trust-workers"), None, "trusted"),
        (("--join", "h", "--plain-results"), "trusted", "plain"),
        (("--plain-results",), None, "plain"),
    ],
)
def test_the_options_of_mmg_run_decide_where_results_are_plain(argv, of_job, expected):
    assert which_results(parse(COMMAND, [*argv, "job.py"], {}), of_job) == expected


@pytest.mark.long
def test_mmg_run_takes_plain_data_where_others_take_part_and_only_there(commands, places):
    path = commands.write("kinds.py", JOB_FILE)

    def run(*argv, other=False, code=0):
        ended = commands.run("run", *argv, path, *(["other"] if other else []))
        assert ended.returncode == code, ended.stderr
        return ended

    expected = sorted(run().stdout.splitlines())
    assert len(expected) == 3
    for options in places.values():
        assert sorted(run(*options).stdout.splitlines()) == expected
        refused = run(*options, other=True, code=1).stderr
        assert "mapfn" in refused
        assert "Day(at=datetime.date(2020, 1, 1))" in refused
        assert "kinds.Other" in refused
        assert "plain_classes" in refused
        assert ADVICE in refused
    join = places["join"]
    assert "an Other" in run(*join, "--trust-workers", other=True).stdout
    assert "an Other" in run(*join, "--set", "plain_classes=kinds.Other", other=True).stdout
    assert "an Other" in run(*join, "--set", "results=trusted", other=True).stdout
    assert "an Other" in run(other=True).stdout
    run("--plain-results", other=True, code=1)
    both = commands.run("run", "--plain-results", "--trust-workers", path)
    assert both.returncode == 2
    assert "--trust-workers" in both.stderr


@pytest.mark.long
def test_a_job_file_may_say_itself_whom_it_trusts(commands, places):
    path = commands.write("kinds.py", JOB_FILE + "\noptions = {'results': 'trusted'}\n")
    ended = commands.run("run", *places["listen"], path, "other")
    assert ended.returncode == 0
    assert "an Other" in ended.stdout
    path = commands.write("kinds.py", JOB_FILE + "\noptions = {'plain_classes': [Other]}\n")
    ended = commands.run("run", *places["listen"], path, "other")
    assert ended.returncode == 0
    assert "an Other" in ended.stdout
