"""mincemeat's API without processes: schedules, commands, what a transaction becomes, who decides what."""

import collections
import logging
import threading
import time

import pytest

import mmgevent.mincemeat as mincemeat
from mmgevent.driver.input.batching import Speed
from mmgevent.driver.input.feeding import Feeder
from mmgevent.driver.runners.inline import run_inline
from mmgevent.errors import DatasourceError, FunctionError, PasswordError, ProtocolError, UsageError
from mmgevent.job.inputs.sources import iterate
from mmgevent.mincemeat import TaskManager, commands, endpoint
from mmgevent.mincemeat.taskmanager import Transaction, choose_functions, make_job
from mmgevent.tasks.records import decode_items


def words(key, text):
    for word in text.split():
        yield word, 1


def add(key, values):
    return sum(values)


# schedules


@pytest.mark.parametrize(
    ("late_s", "repeat", "missed", "passed"),
    [(0.101, 0.01, 10, 0.001), (0.0, 1.0, 0, 0.0), (2.5, 1.0, 2, 0.5), (-0.25, 1.0, 0, -0.25)],
)
def test_the_next_time_of_an_event_lies_ahead_on_its_own_grid(late_s, repeat, missed, passed):
    now = 1000.0
    following, went_by, over = mincemeat.next_future_time(now - late_s, repeat, now=now)
    assert following > now
    assert (following - (now - late_s)) / repeat == pytest.approx(missed + (late_s >= 0), abs=1e-6)
    assert went_by == missed
    assert over == pytest.approx(passed, abs=1e-6)


def test_the_next_time_lies_ahead_even_below_the_precision_of_the_clock():
    now = 2.0**52
    assert mincemeat.next_future_time(now, 1e-3 + 1.0, now=now)[0] > now


@pytest.mark.parametrize("repeat", [0, -1.0])
def test_an_event_cannot_repeat_every_zero_seconds(repeat):
    with pytest.raises(ValueError, match="repeats every so many seconds"):
        mincemeat.next_future_time(0.0, repeat, now=1.0)


def test_due_events_fire_once_each_in_order_and_repeating_ones_go_back():
    now = mincemeat.timer()
    fired = []
    schedule = collections.deque(
        [
            (now - 1, lambda: fired.append("second"), None),
            (now + 1000, lambda: fired.append("later"), None),
            (now - 2, lambda: fired.append("first"), 0.001),
        ]
    )
    following = mincemeat.trigger(schedule, now=now)
    assert fired == ["first", "second"]
    assert now < following < now + 999
    assert sorted(repeat is not None for _, _, repeat in schedule) == [False, True]


def test_an_event_that_fails_is_logged_and_keeps_no_other_from_firing(caplog):
    fired = []
    schedule = collections.deque([(0.0, lambda: 1 / 0, None), (1.0, lambda: fired.append(1), None)])
    assert mincemeat.trigger(schedule) is None
    assert fired == [1]
    assert not schedule
    assert "ZeroDivisionError" in caplog.text


def test_events_of_one_time_need_no_order_of_their_own():
    fired = []
    schedule = collections.deque((1.0, lambda n=n: fired.append(n), None) for n in range(3))
    mincemeat.trigger(schedule)
    assert fired == [0, 1, 2]


def test_an_empty_schedule_has_no_next_event():
    assert mincemeat.trigger(None) is None
    assert mincemeat.trigger(collections.deque()) is None


# processing


class Bell(endpoint.Endpoint):
    """An endpoint that is connected to nothing, and counts how often it was told of something."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rung = []
        self._open()

    def name(self):
        return "Bell"

    def conn(self, **credentials):
        raise NotImplementedError

    def ping(self, *args, **kwargs):
        raise NotImplementedError

    def finished(self, timeout=0.0):
        return self._wait_for(lambda: self.closed, timeout)

    def authenticated(self, timeout=0.0):
        return True

    def ring(self, note):
        self._put(lambda: self.rung.append((note, threading.current_thread())))

    def _shut_down(self):
        pass


def test_what_happens_is_handled_by_whoever_processes():
    bell = Bell(map={})
    bell.ring(1)
    assert bell.rung == []
    assert bell.process(timeout=0) is True
    assert bell.rung == [(1, threading.current_thread())]
    thread = threading.Thread(target=bell.process)
    thread.start()
    bell.ring(2)
    bell._put(bell.handle_close)
    thread.join(30)
    assert bell.rung[1:] == [(2, thread)]
    assert bell.closed
    assert bell.process() is False


def test_commands_that_nobody_processes_are_bounded(monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_UNPROCESSED_BYTES", 2 * 1024 + 10)
    bell = Bell(map={})
    try:
        assert bell._put_message(b"12345678", bell.rung.append)
        assert not bell._put_message(b"123", bell.rung.append)
        assert bell._put_message(b"12", bell.rung.append)
        bell.process(timeout=0)
        assert bell._put_message(b"1234567890", bell.rung.append)
        assert bell.rung == [b"12345678", b"12"]
        assert bell._put_message(b"", bell.rung.append)
        assert not bell._put_message(b"", bell.rung.append)  # a message that is empty takes memory, too
    finally:
        bell.handle_close()


def test_endpoints_of_one_map_are_processed_together_and_others_are_not():
    shared = {}
    first, second, other = Bell(map=shared), Bell(map=shared), Bell(map={})
    for bell in (first, second, other):
        bell.ring(1)
    assert mincemeat.process(timeout=0, map=shared)
    assert (len(first.rung), len(second.rung), len(other.rung)) == (1, 1, 0)
    for bell in (first, second, other):
        bell.handle_close()
        assert bell.finished(timeout=30)
    assert shared == {}


def test_endpoints_without_a_map_share_one():
    bell = Bell()
    try:
        bell.ring(1)
        assert mincemeat.process(timeout=0) is True
        assert len(bell.rung) == 1
    finally:
        bell.handle_close()
    assert mincemeat.process() is False


def test_scheduled_events_fire_while_processing_even_those_that_come_later():
    bell = Bell(map={})
    fired = []

    def add_another():
        fired.append("first")
        bell.schedule.append((mincemeat.timer() + 0.01, bell.handle_close, None))

    bell.schedule.append((mincemeat.timer() + 0.01, add_another, None))
    assert bell.process(timeout=30) is False
    assert fired == ["first"]


def test_what_an_event_raises_closes_all_and_comes_out_of_process():
    shared = {}
    first, second = Bell(map=shared), Bell(map=shared)
    first._put(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mincemeat.process(map=shared)
    assert first.closed
    assert second.closed
    assert shared == {}


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def in_thread(function):
    """Start a thread; what it returned or raised is put into the list that is returned with it."""
    came = []

    def run():
        try:
            came.append(function())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


def test_two_threads_do_not_handle_one_endpoint_at_the_same_time():
    class Job(Bell):
        results = None

        def _advance(self):
            results = self.results
            if results is not None:  # look, deliver, and only then take it away, as a Server does
                deliver(results)
                self.results = None

    def deliver(results):
        delivered.append(results)
        begun.set()
        assert may_end.wait(30)

    delivered, begun, may_end = [], threading.Event(), threading.Event()
    shared = {}
    job, other = Job(map=shared), Bell(map=shared)
    job.results = "the results"
    thread, _ = in_thread(job.process)
    try:
        assert begun.wait(30)
        for note in range(3):
            job.ring(note)
        other.ring("not held up")
        assert other.process(timeout=0)
        assert delivered == ["the results"]
        assert len(other.rung) == 1
        assert job.rung == []
    finally:
        may_end.set()
        job._put(job.handle_close)
        other.handle_close()
        thread.join(30)
    assert [note for note, _ in job.rung] == [0, 1, 2]
    assert delivered == ["the results"]


def test_a_handler_may_process_in_turn_and_delivers_nothing_twice():
    class Job(Bell):
        results = "the results"

        def _advance(self):
            if self.results is not None:
                self.rung.append(self.results)
                self.ring("inner")
                self.process(timeout=0)
                self.results = None

    job = Job(map={})
    job.process(timeout=0)
    job.handle_close()
    assert [note if note == "the results" else note[0] for note in job.rung] == ["the results", "inner"]


def test_a_failure_is_raised_in_the_thread_that_processes_what_failed():
    shared = {}
    server, client = Bell(map=shared), Bell(map=shared)
    begun, may_go_on = threading.Event(), threading.Event()

    def hold():
        begun.set()
        assert may_go_on.wait(30)

    holder = Bell(
        map=shared
    )  # its handler holds up the server's thread, so that the other one meets the failure
    holder._put(hold)
    thread, came = in_thread(server.process)
    assert begun.wait(30)
    server._put(lambda: 1 / 0)
    other_thread, other_came = in_thread(client.process)
    wait_until(lambda: server.error is not None)
    may_go_on.set()
    thread.join(30)
    other_thread.join(30)
    assert [type(error) for error in came] == [ZeroDivisionError]
    assert other_came == [False]
    assert client.error is None
    assert client.closed
    assert server.closed


def test_a_failure_that_another_thread_came_upon_is_kept_for_the_next_call():
    shared = {}
    server, client = Bell(map=shared), Bell(map=shared)
    server._put(lambda: 1 / 0)
    thread, came = in_thread(client.process)  # the server is this thread's: it was connected here
    thread.join(30)
    assert came == [False]
    assert server.closed
    assert isinstance(server.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        server.process(timeout=0)
    assert server.process(timeout=0) is False  # told once


def test_one_thread_that_processes_several_endpoints_is_told_of_each_failure():
    shared = {}
    server, client = Bell(map=shared), Bell(map=shared)
    server._put(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.process()
    assert server.closed


# commands


def number_messages(*messages, first=0):
    return [commands.number_message(number, message) for number, message in enumerate(messages, first)]


@pytest.mark.parametrize("data", [None, "", (1, "two"), b"\0\xff", {(1, 2): {3: b"4"}, None: [()]}, {1, 2}])
def test_a_command_keeps_its_data_as_it_is(data):
    (message,) = number_messages(*commands.encode_command("go", data, ("txn", 1)))
    command, came, txn = commands.CommandReader().feed(message)
    assert (command, came, txn) == ("go", data, ("txn", 1))
    assert type(came) is type(data)


def test_a_big_command_travels_in_parts():
    data = bytes(range(256)) * 4096 * 3
    again = commands.encode_command("again", 1, None)
    *messages, last = number_messages(*commands.encode_command("go", data, None), *again)
    assert len(messages) == 4
    assert all(len(message) <= 1024 * 1024 for message in messages)
    reader = commands.CommandReader()
    assert [reader.feed(message) for message in messages] == [None, None, None, ("go", data, None)]
    assert reader.feed(last) == ("again", 1, None)


def test_commands_of_which_some_were_lost_are_not_taken_for_others():
    messages = number_messages(*commands.encode_command("go", bytes(3_000_000), None), first=2**32 - 2)
    reader = commands.CommandReader()
    assert reader.feed(messages[0]) is None  # whoever listens late begins with any number
    with pytest.raises(ProtocolError, match="lost"):
        reader.feed(messages[2])
    reader = commands.CommandReader()
    assert [bool(reader.feed(message)) for message in messages] == [False, False, True]


def test_a_command_that_is_too_big_says_what_to_do():
    with pytest.raises(UsageError, match="at most 4,194,304 may be sent; send a name or path"):
        commands.encode_command("go", bytes(commands.MAX_COMMAND_BYTES), None)


def test_a_command_that_cannot_be_pickled_says_which():
    with pytest.raises(UsageError, match="data of command 'go' cannot be pickled"):
        commands.encode_command("go", lambda: None, None)


@pytest.mark.parametrize(
    "message",
    [b"", b"x", b"\2abc", b"\0", b"\0garbage", b"\0" + b"\x80\x04K\x01.", b"\0cno_such_module\nname\n."],
)
def test_what_is_no_command_is_refused(message):
    with pytest.raises(ProtocolError):
        commands.CommandReader().feed(commands.number_message(0, message) if message else message)


def test_an_endless_command_is_refused():
    reader = commands.CommandReader()
    part = b"\1" + bytes(commands.PART_BYTES)
    parts = number_messages(*[part] * (commands.MAX_COMMAND_BYTES // commands.PART_BYTES + 1))
    for numbered in parts[:-1]:
        assert reader.feed(numbered) is None
    with pytest.raises(ProtocolError, match="too long"):
        reader.feed(parts[-1])


# who decides what


def test_none_never_overrides_and_what_is_unknown_is_ignored_with_a_log_line(caplog):
    caplog.set_level(logging.INFO)
    server = mincemeat.Server(map={})
    server.mapfn = words
    kept = server.resultfn
    server._configure({"mapfn": None, "resultfn": None, "reducefn": add, "colour": "red", "cycle": 1})
    assert server.mapfn is words
    assert server.resultfn == kept
    assert server.reducefn is add
    assert server.cycle == TaskManager.PERMANENT
    assert not hasattr(server, "colour")
    assert "ignores colour" in caplog.text


def test_an_empty_password_is_refused_at_both_ends():
    with pytest.raises(PasswordError):
        mincemeat.Server(map={}).conn(port=0, interface="127.0.0.1")
    with pytest.raises(PasswordError):
        mincemeat.Client(map={}).conn("127.0.0.1", 1)


def test_a_class_attribute_datasource_is_queued_and_hides_nothing():
    class Counting(mincemeat.Server):
        datasource = {1: "a b"}  # noqa: RUF012 - as scripts write it
        mapfn = staticmethod(words)

    server = Counting(map={})
    assert server.datasource is None
    server._configure({})
    assert server.datasource == {1: "a b"}
    server.datasource = {2: "c"}
    assert [waiting.datasource for waiting in server.taskmanager.deque] == [{1: "a b"}, {2: "c"}]


def test_a_datasource_may_be_a_method():
    class Counting(mincemeat.Server):
        first = 7

        def datasource(self):
            return {self.first: "a"}

    server = Counting(map={})
    server._configure({})
    assert server.datasource == {7: "a"}


def test_none_is_no_datasource():
    server = mincemeat.Server(map={})
    server.datasource = None
    server.set_datasource(None, txn=1)
    assert not server.taskmanager.deque


OWN, NONE = False, None


@pytest.mark.parametrize(
    ("mapfn", "collectfn", "reducefn", "expected", "tasks"),
    [
        (words, None, add, (words, None, add), TaskManager.MAPREDUCE),
        (words, add, None, (words, add, None), TaskManager.MAPONLY),
        (words, OWN, OWN, (words, None, "reducefn"), TaskManager.MAPREDUCE),
        (OWN, None, add, ("mapfn", "collectfn", add), TaskManager.MAPREDUCE),
        (OWN, None, OWN, ("mapfn", "collectfn", "reducefn"), TaskManager.MAPREDUCE),
        (OWN, None, NONE, ("mapfn", "collectfn", None), TaskManager.MAPONLY),
        (NONE, None, NONE, ("mapfn", "collectfn", None), TaskManager.MAPONLY),
        (NONE, None, OWN, (None, None, "reduceonly"), TaskManager.REDUCEONLY),
    ],
)
def test_none_skips_a_phase_and_false_means_the_clients_own_method(
    mapfn, collectfn, reducefn, expected, tasks
):
    server = mincemeat.Server(map={})
    server.mapfn, server.collectfn, server.reducefn = mapfn, collectfn, reducefn
    assert choose_functions(server) == expected
    assert server.taskmanager.tasks == tasks


def test_a_collectfn_of_the_server_cannot_go_with_a_mapfn_of_the_clients():
    server = mincemeat.Server(map={})
    server.mapfn, server.collectfn = False, add
    with pytest.raises(FunctionError, match="both, or neither"):
        choose_functions(server)


def job_of(datasource, **attributes):
    server = mincemeat.Server(map={})
    for name, value in attributes.items():
        setattr(server, name, value)
    return make_job(server, Transaction(datasource), server.taskmanager.defaults)


def test_without_a_map_phase_reducefn_gets_each_value_as_it_is():
    data = {"a": [1, 2], "b": (3,), "c": []}
    assert dict(run_inline(job_of(data, reducefn=add))) == {"a": 3, "b": 3, "c": 0}

    def generator(groups):
        for key, values in groups:
            yield key, sum(values)

    assert dict(run_inline(job_of(data, reducefn=generator))) == {"a": 3, "b": 3, "c": 0}


class Lazy:
    """A datasource with nothing but what is asked for."""

    def __init__(self):
        self.asked = []

    def __iter__(self):
        return iter(["x", "y"])

    def __getitem__(self, key):
        self.asked.append(key)
        return f"{key} {key}"


def test_a_datasource_is_read_one_item_at_a_time_and_can_be_read_again():
    datasource = Lazy()
    job = job_of(datasource, mapfn=words, reducefn=add)
    items = iterate(job.datasource)
    assert datasource.asked == []
    assert next(items)[:2] == ("x", "x x")
    assert datasource.asked == ["x"]
    assert [item[:2] for item in iterate(job.datasource)] == [("x", "x x"), ("y", "y y")]


@pytest.mark.parametrize("datasource", [3, iter([1]), {1, 2}])
def test_what_has_no_keys_and_values_is_no_datasource(datasource):
    with pytest.raises(UsageError, match="__iter__, which gives keys, and __getitem__"):
        job_of(datasource, mapfn=words)


def test_a_transaction_is_a_job_with_options_of_the_engine():
    server = mincemeat.Server(map={})
    server.mapfn = words
    defaults = server.taskmanager.defaults
    assert make_job(server, Transaction({}), defaults).options.retransmit == 0.05
    job = make_job(server, Transaction({}, retransmit=50, allocation=TaskManager.ONESHOT), defaults)
    assert (job.options.retransmit, job.options.allocation) == (0.5, "oneshot")
    assert make_job(server, Transaction({}, retransmit=0), defaults).options.retransmit == 0.0


def test_states_have_names():
    assert TaskManager.statename[mincemeat.Server(map={}).taskmanager.state] == "Idle"
    assert sorted(TaskManager.statename) == sorted(
        [
            TaskManager.IDLE,
            TaskManager.START,
            TaskManager.MAPPING,
            TaskManager.REDUCING,
            TaskManager.FINISHING,
            TaskManager.FINISHED,
        ]
    )


def test_a_server_without_results_has_none():
    assert mincemeat.Server(map={}).results() is None


def test_the_object_of_a_method_travels_without_what_is_the_servers_own():
    import pickle

    server = TravellingServer(map={})
    server.factor = 3
    server.password = "secret"
    copy = pickle.loads(pickle.dumps(server))
    assert vars(copy) == {"factor": 3}
    assert list(copy.mapfn(1, 2)) == [(1, 6)]


class TravellingServer(mincemeat.Server):
    def mapfn(self, key, value):
        yield key, value * self.factor


class Once(Lazy):
    """Its keys can be had once."""

    def __init__(self):
        super().__init__()
        self.keys = iter(["x", "y"])

    def __iter__(self):
        return self.keys


def test_a_datasource_whose_keys_come_once_is_refused_in_a_second_transaction():
    datasource = Once()
    assert dict(run_inline(job_of(datasource, mapfn=words, reducefn=add))) == {"x": 2, "y": 2}
    with pytest.raises(DatasourceError, match="a Once, gave 0 items, and 2 when"):
        dict(run_inline(job_of(datasource, mapfn=words, reducefn=add)))


def test_a_datasource_whose_keys_come_once_is_whole_after_a_restart():
    feeder = Feeder(job_of(Once(), mapfn=words, reducefn=add))
    feeder.next_batch(Speed())
    feeder.restart()
    batches = iter(lambda: feeder.next_batch(Speed()), None)
    assert [key for _, batch in batches for key, _ in decode_items(batch.data)] == ["x", "y"]
    feeder.close()
