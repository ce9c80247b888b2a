"""Items that fail in a map task: tried again on the spot, then set aside, and nothing of them counts."""

import asyncio
import itertools
import pickle
import signal

import gevent
import pytest

import mmgevent as mmg
from mmgevent import _speedups
from mmgevent.cli.exits import Terminated
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.json_lines import JsonLines
from mmgevent.job.inputs.lines import Lines
from mmgevent.reducers import count_values, max_value, sum_values
from mmgevent.tasks import mapping, skipping
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.records import decode_flush, decode_segment, encode_items, encode_value
from mmgevent.tasks.run import read_batch, run_map, run_reduce
from mmgevent.tasks.skipping import MAX_TRACEBACKS, MAX_VALUE_BYTES, SignalTeller, Skipping
from mmgevent.wire.positions import WHOLE, position_of, range_of
from tests.kinds import IMPLEMENTATIONS

PARTITIONS = 4
MIB = 1024 * 1024
REDUCERS = [None, sum_values, count_values, max_value, lambda key, values: sum(values)]


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def core(request, monkeypatch):
    for name in ("FoldTable", "fold", "group", "merge_fold", "merge_grouped", "scatter", "hash_key"):
        monkeypatch.setattr(_speedups, name, getattr(request.param, name))
    monkeypatch.setattr(mapping, "take", request.param.take)


class Run:
    """What a map task gave: its results after reduce, what was set aside, and its statistics."""

    def __init__(self, mapfn, items, reducefn=None, collectfn=None, *, rules=None, memory=MIB, **kwargs):
        self.flushes = []
        self.marks = []
        self.rules = rules or Skipping(max_skipped=0.5)
        functions = Functions.of(mapfn, collectfn, reducefn)
        batch = encode_items(list(items))
        self.stats = run_map(
            functions,
            read_batch(batch),
            partitions=PARTITIONS,
            memory_bytes=memory,
            emit=self.flushes.append,
            mark=lambda position, key: self.marks.append(position),
            skipping=self.rules,
            decode=lambda: read_batch(batch),
            **kwargs,
        )
        by_partition = {}
        self.rows = []
        for partition, data in itertools.chain.from_iterable(map(decode_flush, self.flushes)):
            if partition == PARTITIONS:
                segment = decode_segment(data)
                self.rows += zip(segment.keys, segment.values, strict=True)
            else:
                by_partition.setdefault(partition, []).append(bytes(data))
        results = []
        run_reduce(
            functions,
            [(p, 0, iter(segments)) for p, segments in sorted(by_partition.items())],
            partitions=PARTITIONS,
            memory_bytes=MIB,
            emit=results.append,
            mark=lambda index, key: None,
        )
        self.results = {}
        for _, data in itertools.chain.from_iterable(map(decode_flush, results)):
            segment = decode_segment(data)
            self.results.update(zip(segment.keys, segment.values, strict=True))


def words(key, value):
    """Yield a record for each word, and fail at "bad" after those before it."""
    for word in value.split():
        if word == "bad":
            raise ValueError(f"bad word in {key}")
        yield word, 1


GOOD = ["a b", "b c c", "a", "", "d"]


@pytest.mark.parametrize("reducefn", REDUCERS)
def test_nothing_of_an_item_that_fails_counts_and_everything_of_the_others(reducefn):
    with_bad = ["a b", "a bad", "b c c", "bad", "a", "", "c c bad c", "d"]
    run = Run(words, enumerate(with_bad), reducefn)
    assert run.results == Run(words, enumerate(GOOD), reducefn).results
    assert [key for key, _ in run.rows] == [1, 3, 6]
    assert [row[0] for _, row in run.rows] == [position_of(entry) for entry in (1, 3, 6)]
    assert (run.rules.count, run.stats.items) == (3, len(with_bad))


@pytest.mark.parametrize(
    "outcome",
    [lambda: None, lambda: 7, lambda: [7], lambda: [("x", 1), 7], lambda: [([], 1)], lambda: [(object(), 1)]],
)
def test_what_is_no_record_costs_its_item_only(outcome):
    def mapfn(key, value):
        if key == 2:
            return outcome()
        return [("n", 1)]

    run = Run(mapfn, enumerate("abcde"), sum_values)
    assert run.results == {"n": 4}
    assert len(run.rows) == 1
    assert run.rows[0][1][4]["kind"] in ("record", "key")


def test_items_that_go_straight_to_reduce_are_checked_as_well():
    run = Run(None, [("a", 1), ([], 2), ("b", 3)], sum_values)
    assert run.results == {"a": 1, "b": 3}
    assert [row[0] for _, row in run.rows] == [position_of(1)]


def test_each_item_is_mapped_once_and_one_that_fails_as_often_as_retries_say():
    calls = []

    def mapfn(key, value):
        calls.append(key)
        if key == "bad" or (key == "flaky" and calls.count("flaky") < 3):
            raise ValueError(key)
        yield key, 1

    items = [("a", 0), ("bad", 0), ("b", 0), ("flaky", 0), ("c", 0)]
    run = Run(mapfn, items, sum_values, rules=Skipping(retries=2, max_skipped=1))
    assert run.results == {"a": 1, "b": 1, "c": 1, "flaky": 1}
    assert calls == ["a", *["bad"] * 3, "b", *["flaky"] * 3, "c"]
    assert len(run.marks) == len(calls), "the clock of an item begins anew with each try"


def test_without_max_skipped_the_item_is_named_and_its_tries_are_used_up():
    with pytest.raises(TaskFailure) as raised:
        Run(words, enumerate(["a", "bad"]), rules=Skipping(retries=1))
    assert raised.value.is_spent
    assert raised.value.item == position_of(1)
    assert isinstance(raised.value.__cause__, ValueError)


def test_one_more_than_a_number_of_items_ends_the_task():
    with pytest.raises(TaskFailure) as raised:
        Run(words, enumerate(["bad"] * 9), rules=Skipping(max_skipped=3))
    assert raised.value.skipped == 4


def test_large_items_are_whole_or_absent(monkeypatch):
    monkeypatch.setattr(mapping, "WHOLE_RECORDS", 4)
    bad = "c c c c c c bad c"
    texts = ["a a a a a", bad, "b", "a b c d e f g", "a a a a", bad, "d"]
    for reducefn in REDUCERS:
        run = Run(words, enumerate(texts), reducefn)
        assert run.results == Run(words, enumerate(t for t in texts if t != bad), reducefn).results
        assert [key for key, _ in run.rows] == [1, 5]


def test_large_items_are_tried_again(monkeypatch):
    monkeypatch.setattr(mapping, "WHOLE_RECORDS", 4)
    tries = []

    def mapfn(key, value):
        for i in range(10):
            yield i % 3, 1
        tries.append(key)
        if len(tries) < 3:
            raise ValueError("late")

    run = Run(mapfn, [("k", 0)], sum_values, rules=Skipping(retries=2))
    assert run.results == {0: 4, 1: 3, 2: 3}
    assert len(tries) == 3


def test_an_item_above_the_memory_of_its_task_costs_a_second_run_if_it_fails():
    def mapfn(key, value):
        for i in range(value):
            yield f"{key} {i}", "x" * 100
        if key == "bad":
            raise ValueError("at the very end")

    items = [("a", 3), ("bad", 2000), ("b", 3)]
    with pytest.raises(TaskFailure) as raised:
        Run(mapfn, items, memory=20_000)
    assert not raised.value.is_spent
    assert raised.value.item == position_of(1)
    run = Run(mapfn, items, memory=20_000, skip=[position_of(1)])
    assert len(run.results) == 6
    large = Run(mapfn, [("a", 3), ("good", 2000), ("b", 3)], memory=20_000)
    assert len(large.results) == 2006
    assert large.stats.flushes > 2


def test_lines_that_fail_or_cannot_be_read_are_set_aside_one_by_one(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"1\nbad\n2\n\xff\xfe\n3\n")
    items = [(ref.key, ref) for ref in Lines(path).refs()]
    run = Run(lambda at, line: [("n", int(line))], items, sum_values)
    assert run.results == {"n": 6}
    assert [key for key, _ in run.rows] == [(str(path), 2), (str(path), 8)]
    assert [row[0] for _, row in run.rows] == [position_of(0, 1), position_of(0, 3)]
    assert [row[4]["kind"] for _, row in run.rows] == ["exception", "input"]
    assert run.stats.items == 5


def test_a_file_that_is_no_text_is_one_item(tmp_path):
    for name, data in (("a", b"one"), ("b", b"\xff"), ("c", b"two")):
        (tmp_path / name).write_bytes(data)
    items = [(ref.key, ref) for ref in Files(tmp_path).refs()]
    run = Run(lambda path, text: [(text, 1)], items, sum_values)
    assert run.results == {"one": 1, "two": 1}
    assert [row[0] for _, row in run.rows] == [position_of(1)]


def test_skipped_positions_and_parts_leave_the_rest(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"{i}\n" for i in range(10)))
    items = [(ref.key, ref) for ref in Lines(path).refs()]

    def lines_of(**kwargs):
        return sorted(Run(lambda at, line: [(int(line), 1)], items, **kwargs).results)

    assert lines_of(skip=[position_of(0, 3), position_of(0, 9)]) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert lines_of(skip=[position_of(0, WHOLE)]) == []
    parts = [(k, 2) for k in range(4)]
    assert [line for part in parts for line in lines_of(part=part)] == list(range(10))
    assert lines_of(part=(3, 2), skip=[position_of(0, 8)]) == [
        i for i in range(*range_of((3, 2), 10)) if i != 8
    ]


def test_a_collectfn_that_fails_over_several_items_can_be_looked_for_and_over_one_names_it():
    def collectfn(key, values):
        if 3 in values:
            raise ValueError("three")
        return sum(values)

    with pytest.raises(TaskFailure) as raised:
        Run(lambda k, v: [("n", v)], enumerate(range(5)), lambda k, vs: sum(vs), collectfn)
    assert raised.value.item is None
    assert raised.value.is_divisible
    with pytest.raises(TaskFailure) as raised:
        Run(lambda k, v: [("n", v)], [("three", 3)], lambda k, vs: sum(vs), collectfn, first_index=7)
    assert raised.value.item == position_of(7)
    assert not raised.value.is_divisible
    assert raised.value.failure["key"] == "'three'"


def test_several_items_at_once_are_set_aside_in_their_places():
    def in_pairs(fn, triples):
        triples = iter(triples)
        while pair := list(itertools.islice(triples, 2)):
            yield from [fn(*triple) for triple in reversed(pair)][::-1]

    texts = ["a", "bad", "bad", "b", "a bad"]
    run = Run(words, enumerate(texts), sum_values, map_items=in_pairs)
    assert run.results == {"a": 1, "b": 1}
    assert sorted(key for key, _ in run.rows) == [1, 2, 4]


def test_rows_say_what_the_item_was_and_why_it_failed():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def mapfn(key, value):
        raise Odd if key == "odd" else ValueError(f"bad {key}")

    values = {"small": [1, 2], "odd": "x", "large": "y" * (MAX_VALUE_BYTES + 1)}
    run = Run(mapfn, [*values.items(), ("good", 1)], rules=Skipping(max_skipped=4))
    rows = dict(run.rows)
    assert pickle.loads(rows["small"][1]) == [1, 2]
    assert rows["large"][1] is None
    assert rows["small"][2:4] == ("ValueError", "bad small")
    assert rows["odd"][2].endswith("Odd")
    assert "its str() fails" in rows["odd"][3]
    failure = rows["small"][4]
    assert (failure["function"], failure["key"]) == ("mapfn", "'small'")
    assert "raise Odd if key" in failure["traceback"]
    assert run.rules.last_failure["key"] == "'good'"


def test_rows_leave_before_they_are_many_and_tracebacks_are_few(monkeypatch):
    monkeypatch.setattr(skipping, "ROWS_A_SEGMENT", 10)
    run = Run(words, enumerate(["bad"] * 1000 + ["a"]), sum_values, rules=Skipping(max_skipped=1000))
    assert run.results == {"a": 1}
    assert [row[0] for _, row in run.rows] == [position_of(entry) for entry in range(1000)]
    segments = [p for flush in run.flushes for p, _ in decode_flush(flush) if p == PARTITIONS]
    assert len(segments) == 100
    with_traceback = sum("traceback" in row[4] for _, row in run.rows)
    assert with_traceback == MAX_TRACEBACKS


def test_a_signal_is_no_failure_where_signals_may_come():
    def mapfn(key, value):
        raise KeyboardInterrupt

    with pytest.raises(TaskFailure) as raised:
        Run(mapfn, [(1, 1)], rules=Skipping(max_skipped=5, passes=SignalTeller().is_of_signal))
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    assert Run(mapfn, [(1, 1)], rules=Skipping(max_skipped=5)).rules.count == 1


def test_values_that_do_not_fold_cost_their_item_in_a_second_run():
    items = [(i, "text" if i == 2 else i) for i in range(5)]
    with pytest.raises(TaskFailure) as raised:
        Run(lambda k, v: [("n", v)], items, sum_values)
    assert raised.value.item == position_of(2)
    run = Run(lambda k, v: [("n", v)], items, sum_values, skip=[raised.value.item])
    assert run.results == {"n": 8}


class Once:
    """Can be pickled, and its copies cannot."""

    def __init__(self, words=("bad",)):
        self.words = list(words)

    def __reduce__(self):
        if not self.words:
            raise TypeError("empty by now")
        return Once, (self.words,)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(
    "value", [{"raw": "bad"}, ["bad"], bytearray(b"bad"), Once()], ids=lambda value: type(value).__name__
)
def test_a_function_that_has_changed_its_item_gets_it_again_as_it_came(value, is_large):
    seen = []

    def mapfn(key, value):
        if is_large:
            yield from (("n", 1) for _ in range(mapping.WHOLE_RECORDS))
        held = value.words if isinstance(value, Once) else value
        seen.append(len(held))
        held.clear()
        if key == 1:
            raise ValueError("now it is empty")
        yield "n", 1

    items = [(key, pickle.loads(pickle.dumps(value))) for key in range(3)]
    run = Run(mapfn, items, sum_values, rules=Skipping(retries=2, max_skipped=1))
    assert run.results == {"n": 2 * (1 + is_large * mapping.WHOLE_RECORDS)}
    assert seen == [len(items[0][1].words if isinstance(value, Once) else items[0][1])] * 5
    assert seen[0] > 0
    ((position, kept, *_),) = (row for _, row in run.rows)
    assert position == position_of(1)
    assert kept == encode_value(value, MAX_VALUE_BYTES)


@pytest.mark.parametrize("is_large", [False, True])
def test_a_row_of_a_file_that_a_function_has_changed_is_read_again(tmp_path, is_large):
    (tmp_path / "a").write_text('{"n": 1}\n{"n": "x"}\n{"n": 3}\n')
    (tmp_path / "b").write_text('{"n": 4}\n\n{"n": "y"}\n{"n": "z"}\n')
    seen = []

    def mapfn(place, row):
        if is_large:
            yield from (("n", 0) for _ in range(mapping.WHOLE_RECORDS))
        seen.append(dict(row))
        yield "n", row.pop("n") + 0

    items = [(ref.key, ref) for ref in JsonLines(tmp_path).refs()]
    run = Run(mapfn, items, sum_values, rules=Skipping(retries=2, max_skipped=3))
    assert run.results == {"n": 8}
    assert [row["n"] for row in seen] == [1, "x", "x", "x", 3, 4, "y", "y", "y", "z", "z", "z"]
    assert [(key, row[1]) for key, row in run.rows] == [
        ((str(tmp_path / name), offset), encode_value({"n": text}, MAX_VALUE_BYTES))
        for name, offset, text in (("a", 9, "x"), ("b", 10, "y"), ("b", 21, "z"))
    ]


def test_rows_that_cannot_be_sent_are_nobodys_failure():
    class LinkLost(Exception):
        pass

    def mapfn(key, value):
        raise ValueError(key)

    def emit(flush):
        raise LinkLost

    for map_items in (None, lambda fn, items: (fn(*item) for item in items)):
        with pytest.raises(LinkLost):
            run_map(
                Functions.of(mapfn, None, sum_values),
                list(enumerate("x" * 1000)),
                partitions=PARTITIONS,
                memory_bytes=MIB,
                emit=emit,
                mark=lambda position, key: None,
                skipping=Skipping(max_skipped=0.5),
                map_items=map_items,
            )


class Falsy(Exception):
    def __bool__(self):
        return False


class Exits(BaseException):
    """Nobody may look at it."""

    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


@pytest.mark.parametrize("kind", [Falsy, Exits])
def test_exceptions_that_defend_themselves_are_set_aside_by_name(kind):
    def mapfn(key, value):
        if key == 1:
            raise kind
        yield "n", 1

    run = Run(mapfn, enumerate("abc"), sum_values)
    assert run.results == {"n": 2}
    assert [row[2] for _, row in run.rows] == [kind.__name__]


def test_what_a_signal_raised_is_told_from_what_a_function_raised():
    class Stop(BaseException):
        pass

    def handler(number, frame):
        raise Stop

    def catch(function):
        try:
            function()
        except BaseException as error:
            return error

    def stop():
        raise Stop

    before_it = SignalTeller()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        tell = SignalTeller()
        assert tell.is_of_signal(catch(lambda: signal.raise_signal(signal.SIGUSR1)))
        assert not tell.is_of_signal(catch(stop))
        assert not before_it.is_of_signal(catch(lambda: signal.raise_signal(signal.SIGUSR1))), (
            "a function's own"
        )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert tell.is_of_signal(Terminated(143))
    for own in (asyncio.CancelledError(), gevent.Timeout(), GeneratorExit(), SystemExit(), ValueError()):
        assert not tell.is_of_signal(own)


class Unstable:
    """A key that hashes by identity."""


@pytest.mark.parametrize("record", ["('its own', lambda: 0)", "(Unstable(), 1)", "((1, Unstable()), 1)"])
def test_what_is_wrong_with_a_record_is_told_of_with_the_key_of_the_item_that_is_set_aside(record):
    def mapfn(key, value):
        yield eval(record)

    job = mmg.Job([("the item", 1)], mapfn, max_skipped=1)
    assert mmg.run(job, inline=True) == {}
    with mmg.LocalCluster(1) as cluster:
        handle = cluster.submit(job)
        assert handle.result() == {}
        assert [failure["key"] for failure in handle.skipped()] == ["'the item'"]
        assert list(handle.skipped_items()) == [("the item", 1)]


class Halt(BaseException):
    """No Exception, as CancelledError is none."""


@pytest.mark.parametrize("comes_of_signal", [False, True])
def test_what_is_no_exception_is_a_failure_unless_the_handler_of_a_signal_raised_it(comes_of_signal):
    def halt(*_):
        raise Halt

    def mapfn(key, value):
        if comes_of_signal:
            signal.raise_signal(signal.SIGUSR1)
        else:
            halt()

    job = mmg.Job([(1, 1)], mapfn, max_skipped=1)
    previous = signal.signal(signal.SIGUSR1, halt if comes_of_signal else signal.SIG_DFL)
    try:
        if comes_of_signal:
            with pytest.raises(Halt):
                mmg.run(job, inline=True)
        else:
            assert mmg.run(job, inline=True) == {}
            with pytest.raises(mmg.JobError, match=r"mapfn at 1: .*Halt"):
                mmg.run(job.with_options(max_skipped=0), inline=True)
    finally:
        signal.signal(signal.SIGUSR1, previous)
