"""A server that has the password and says what no server says: the job fails and names it, and nothing is a fault of ours."""

import json
import logging

import pytest

import mmgevent as mmg
from mmgevent.errors import MmgeventError
from mmgevent.wire.frames import RESULT, Frame
from mmgevent.wire.messages import control
from tests.trust.raw_peer import PASSWORD, PATIENCE_S, running
from tests.trust.raw_server import hostile_server, raw_control

#: What drives a terminal, forges a line, reverses text or has no bytes.
EVIL = (
    "\x1b]0;owned\x07\x1b[31mred\nmmg-run: done\r\x7f\x9b2J\u202egnp\u2028\u2066x\ud800\x00[red]markup[/red]"
)
HUGE = EVIL * 1500

LONGEST_ERROR = 100_000


def is_harmless(text, *, lines=False):
    return all(c.isprintable() or (lines and c in "\n\t") for c in text)


def results(job, task=1, parts=((0, 3, 1),), size=None, **fields):
    rows = [list(part) for part in parts]
    size = sum(row[1] for row in rows) if size is None else size
    return control("results", job, task, parts=rows, size=size, **fields)


def failed(job, **failure):
    return control("job_failed", job, failure=failure)


def raw_failed(job, failure):
    return raw_control(json.dumps({"type": "job_failed", "failure": failure}).encode(), job)


#: {what a server says once it has got a batch: (frames of a job, what the error says of it)}
WORDS = {
    "results that were not announced": (lambda job: [Frame(RESULT, b"abc", job, 7)], "not announced"),
    "results announced twice": (lambda job: [results(job), results(job)], "announced twice"),
    "a wrong size": (lambda job: [results(job, size=5)], "wrong size"),
    "more than was announced": (lambda job: [results(job), Frame(RESULT, b"abcd", job, 1)], "more results"),
    "no number of results": (lambda job: [control("job_done", job, stats={})], "another number of results"),
    "a text of results": (
        lambda job: [control("job_done", job, stats={"results": EVIL})],
        "another number of results",
    ),
    "content of batch 0": (lambda job: [control("need_content", job, 0)], "batch 0 was never sent"),
    "content of batch 99": (lambda job: [control("need_content", job, 99)], "batch 99 was never sent"),
    "content that has no files": (lambda job: [control("need_content", job, 1)], "has no files"),
    "an item of batch 99": (
        lambda job: [control("skipped", job, failure={}, batch=99, item=0)],
        "batch 99 was never sent",
    ),
    "set aside of batch 0": (lambda job: [results(job, batch=0)], "batch 0 was never sent"),
    "what a worker hears": (lambda job: [control("job_end", job)], "does not send 'job_end'"),
    "an unknown type": (lambda job: [raw_control(b'{"type": "\\u001b[31m"}', job)], "unknown message type"),
    "no JSON": (lambda job: [raw_control(b"\x1b\xff{", job)], "no JSON"),
    "a field of another type": (
        lambda job: [raw_control(b'{"type": "accepted", "id": 5}', job)],
        "'id' must be a string",
    ),
}

#: Words that are legal: the job goes on, or fails with what it was told, made harmless.
LEGAL = {
    "results of garbage": lambda job: [results(job), Frame(RESULT, b"abc", job, 1)],
    "set aside of garbage": lambda job: [results(job, batch=1, worker=EVIL), Frame(RESULT, b"abc", job, 1)],
    "a failure of other types": lambda job: [
        raw_failed(
            job, {"error": 5, "traceback": ["x"], "key": {"a": 1}, "worker": 7.5, "kind": [], "advice": 0}
        )
    ],
    "huge words": lambda job: [
        failed(job, error=HUGE[:50_000], traceback=HUGE[:50_000], key=EVIL, worker=EVIL, function=EVIL)
    ],
    "last words": lambda job: [failed(job, error=EVIL, last_words=EVIL * 100, advice=EVIL, kind=EVIL)],
    "skipped": lambda job: [control("job_failed", job, failure={"error": EVIL}, code="skipped")],
    "cancelled": lambda job: [control("job_failed", job, failure={"error": EVIL}, code="cancelled")],
    "rejected": lambda job: [control("rejected", job, error=HUGE[:40_000])],
    "refused": lambda job: [control("refused", job, code="version", error=HUGE[:40_000])],
    "talk of the way": lambda job: [
        control(
            "progress",
            job,
            phase=EVIL,
            done=2**63 - 1,
            waiting=0,
            running=0,
            workers=2**63 - 1,
            slots=0,
            bytes=0,
        ),
        control("notice", job, text=HUGE[:40_000], once=EVIL),
        control("died", job, failure={"error": EVIL, "outcome": EVIL, "last_words": EVIL, "key": EVIL}),
        raw_control(json.dumps({"type": "died", "failure": {"error": 5, "peak_bytes": "x"}}).encode(), job),
        control("skipped", job, failure={"error": EVIL, "key": EVIL}, batch=1, item=2**63 - 1),
        control("moved", job, address=EVIL),
        control("allow", job, batches=2**63 - 1, items=2**63 - 1, seconds=1e308, weight=0, slots=0),
        control("allow", job, batches=2**63 - 1, items=0, seconds=0.0, weight=2**63 - 1, slots=2**63 - 1),
        failed(job, error="the end"),
    ],
    "a lost server": lambda job: [
        control("node", job, state="connecting", reason=EVIL),
        failed(job, error="not reached"),
    ],
}


@pytest.fixture(scope="module")
def place():
    """A driver's cluster on a hostile server, which answers each job by its name."""
    said = {}

    def on_message(guest, frame, message):
        if message["type"] == "submit":
            said[frame.job] = message["name"]
            guest.accept(frame.job, id=EVIL)
        elif message["type"] == "batch" and frame.task == 1:
            name = said[frame.job]
            frames = WORDS[name][0] if name in WORDS else LEGAL[name]
            guest.send(*frames(frame.job))
        elif message["type"] == "list_workers":
            guest.say("workers", names=[EVIL], slots=[1])
        elif message["type"] == "watch":
            guest.say("joined", 0, 1, name=EVIL, address=EVIL, slots=1, offers=[])
            guest.say("left", 0, 1, reason=EVIL)

    with (
        hostile_server(on_message) as server,
        mmg.connect(server.address, password=PASSWORD) as cluster,
    ):
        cluster.hostile = server
        yield cluster


def keep(key, value):
    yield key, value


def fail(cluster, name, **options):
    """Submit the job of this name; return the error that it ends with."""
    notices = []
    job = mmg.Job([(1, 1)], keep, name=name, **options)
    handle = cluster.submit(job, on_notice=notices.append)
    error = handle.exception(PATIENCE_S)
    assert isinstance(error, MmgeventError), error
    assert error.exit_code not in (0, 70), error
    assert is_harmless(str(error), lines=True)
    assert len(str(error)) < LONGEST_ERROR
    for text in (error.key, error.worker, error.function) if isinstance(error, mmg.JobError) else ():
        assert text is None or is_harmless(text)
    assert all(is_harmless(text, lines=True) for text in notices)
    assert is_harmless(handle.id)
    return error


@pytest.mark.parametrize("name", WORDS)
def test_what_no_server_says_ends_its_job_and_names_the_server(place, name):
    error = fail(place, name)
    assert place.hostile.where in str(error)
    assert WORDS[name][1] in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", [name for name in LEGAL if name != "a lost server"])
def test_what_a_server_may_say_is_made_harmless(place, name):
    fail(place, name, max_skipped=5)


def test_names_of_workers_are_harmless(place):
    ((name, slots),) = place.workers()
    assert is_harmless(name)
    assert slots == 1
    assert r"\x1b[31mred\nmmg-run: done" in name


def test_what_a_watch_reports_is_harmless(place):
    import threading

    seen, left = [], threading.Event()
    place.watch(
        seen.append, lambda number, reason: (seen.append(reason), left.set()), lambda number, data: None
    )
    assert left.wait(PATIENCE_S)
    info, reason = seen
    assert is_harmless(info.name)
    assert is_harmless(info.address)
    assert is_harmless(reason)


#: {what a server says at once, about no job: frames}
GREETINGS = {
    "a move to nowhere": lambda: [control("moved", address=EVIL)],
    "workers without slots": lambda: [control("workers", names=["a"], slots=[])],
    "refused": lambda: [control("refused", code="busy", error=HUGE[:40_000])],
    "goodbye": lambda: [control("goodbye", reason=HUGE[:40_000])],
    "no JSON": lambda: [raw_control(b"\x1b\xff")],
}


@pytest.mark.long
@pytest.mark.parametrize("words", GREETINGS)
def test_a_command_on_a_hostile_server_says_what_is_wrong(tmp_path, words):
    job = tmp_path / "job.py"
    job.write_text("datasource = {1: 1}\ndef mapfn(key, value):\n    yield key, value\n")
    with (
        hostile_server(lambda *_: None, on_hello=lambda guest: guest.send(*GREETINGS[words]())) as server,
        running(tmp_path, "run", "--join", server.where, str(job)) as process,
    ):
        assert process.wait(100) not in (0, 70)
    assert is_harmless(process.said, lines=True)
    assert "Traceback" not in process.said
    assert all(len(line) < 2100 for line in process.said.splitlines())
    assert not any(line.startswith("mmg-run: done") for line in process.said.splitlines())


def test_log_records_of_ours_are_one_harmless_line(caplog):
    from mmgevent.machine.logs import get_log

    log = get_log("mmgevent.tests_of_logs")
    with caplog.at_level(logging.INFO):
        log.warning("said: %s, %d", HUGE, 5)
        try:
            raise ValueError(EVIL)
        except ValueError:
            log.exception("failed: %r", EVIL)
    assert len(caplog.records) == 2
    formatter = logging.Formatter("%(message)s")
    said, raised = (formatter.format(record) for record in caplog.records)
    assert is_harmless(said)
    assert len(said) < 2100
    assert is_harmless(raised, lines=True)
    assert raised.startswith("failed: '")
