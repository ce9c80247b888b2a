"""ownership: every broad `except`, greenlet, thread, process, deadline and endless wait has an owner in the list."""

from pathlib import Path

import pytest

from tests.trust import ownership


def test_list_and_code_agree_and_each_place_has_an_owner():
    assert ownership.compare() == []


def test_one_module_spawns_greenlets():
    for path in sorted(ownership.PACKAGE.rglob("*.py")):
        name = path.relative_to(ownership.PACKAGE).as_posix()
        # An executor's own greenlets run the user's items; `_take` gets what each of them raised.
        # The web server owns those of its connections: a fault is answered 500, and logged.
        if name not in (ownership.SPAWNERS, "executor/pool.py", "web/dashboard.py"):
            text = path.read_text()
            for word in ("gevent.spawn", "spawn_later", "gevent.Greenlet(", "spawn_raw", "gevent.pool"):
                assert word not in text, f"{name} has {word}: use mmgevent.engine.greenlets"


def test_every_constant_of_seconds_says_what_it_limits():
    assert ownership.find_bare_limits() == []


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("try: pass\nexcept: pass", "except"),
        ("try: pass\nexcept (OSError, Exception): pass", "except"),
        ("contextlib.suppress(Exception)", "except"),
        ("gevent.spawn(f)", "greenlet"),
        ("self._greenlets.spawn(f)", "greenlet"),
        ("threading.Thread(target=f)", "thread"),
        ("hub.threadpool.apply(f)", "thread"),
        ("os.fork()", "process"),
        ("subprocess.Popen([])", "process"),
        ("gevent.Timeout(1)", "deadline"),
        ("event.wait(LATE_S)", "deadline"),
        ("queue.get(timeout=1)", "deadline"),
        ("event.wait()", "wait"),
        ("sock.recv(5)", "wait"),
        ("thread.join()", "wait"),
        ("gevent.joinall(all)", "wait"),
    ],
)
def test_whatever_a_new_line_adds_is_found_and_named(tmp_path, monkeypatch, source, kind):
    (tmp_path / "new.py").write_text(f"def work():\n  {source.replace(chr(10), chr(10) + '  ')}\n")
    assert ownership.find_places(tmp_path) == {("new.py", "work", kind): 1}
    monkeypatch.setattr(ownership, "find_places", lambda: real(tmp_path), raising=True)
    (line,) = [line for line in ownership.compare() if "new.py" in line]
    assert f"{kind} in new.py, work: 1 in the code, 0 in the list" in line


real = ownership.find_places


@pytest.mark.parametrize(
    "source", ["', '.join(words)", "options.get('task_timeout')", "except_ = 1", "table.get(key)"]
)
def test_what_waits_for_nothing_is_not_found(tmp_path, source):
    Path(tmp_path / "new.py").write_text(f"def work():\n  {source}\n")
    assert not ownership.find_places(tmp_path)
