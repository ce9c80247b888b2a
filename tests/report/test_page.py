"""The report is one file that anybody can read, whatever names a job has and however long it was."""

import html.parser
import json

import pytest

from mmgevent.errors import UsageError
from mmgevent.report.bars import MAX_BARS, MAX_LANES, MAX_MARKS
from mmgevent.report.differences import compare
from mmgevent.report.digest import MAX_LISTED, MAX_TOP, Digest
from mmgevent.report.embedded import read_data
from mmgevent.report.page import make_page

HOSTILE = "</script><script>alert(1)</script>\"'&<b> \x1b[31m \x00 \u202e evil \u2028 \ud800"
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(html.parser.HTMLParser):
    """Checks that a page is well-formed and needs nothing else, and collects its text."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.svgs, self.text, self.ids = [], [], [], [], []
        self.tables = 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert not {"src", "href", "srcset", "action"} & values.keys(), f"{tag} loads {values}"
        assert not any(name.startswith("on") for name in values)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "script":
            assert values["type"] == "application/json"
            self.scripts.append("")
        if tag == "svg":
            assert values["role"] == "img"
            self.svgs.append(
                {"named": values["aria-labelledby"].split(), "tags": set(), "table": self.tables}
            )
        elif self.svgs:
            self.svgs[-1]["tags"].add(tag)
        self.tables += tag == "table"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self.open
        self.svgs[-1]["tags"].add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


def read_page(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert len(set(reader.ids)) == len(reader.ids)
    for svg in reader.svgs:
        assert svg["tags"] >= {"title", "desc"}
        assert set(svg["named"]) <= set(reader.ids)
        assert reader.tables > svg["table"], "no table behind a chart"
    (block,) = reader.scripts
    assert "url(" not in page
    assert "@import" not in page
    return reader, json.loads(block)


def task(at=1.0, start=0.0, seconds=0.5, outcome="done", phase="map", worker="a/1", slot=0, number=1, **more):
    """A line of a job log about a task."""
    names = ("attempt", "batch", "entries", "partitions", "items", "records", "keys", "bytes_in", "bytes_out")
    fields = {
        **dict.fromkeys(names),
        "error": None,
        "is_duplicate": False,
        "slowest": [],
        "largest": [],
        **more,
    }
    about = {"phase": phase, "task": number, "worker": worker, "slot": slot}
    return {
        "event": "task",
        "at": at,
        "start": start,
        "seconds": seconds,
        "outcome": outcome,
        **about,
        **fields,
    }


def head(name="job", **more):
    return {
        "event": "job",
        "at": 0.0,
        "name": name,
        "runner": "local",
        "versions": {"python": "3.11"},
        "options": {"retries": 0},
        "stages": 1,
        "time_zone_s": 0,
        **more,
    }


def end(outcome="done", **more):
    totals = {"tasks": 1, "items": 3, "deaths": 0}
    return {
        "event": "end",
        "at": 2.0,
        "outcome": outcome,
        "error": None,
        "seconds": 2.0,
        "totals": totals,
        "stats": {},
        **more,
    }


def digest_of(*events):
    digest = Digest()
    for event in events:
        digest.add(event)
    return digest


def item(outcome="skipped", key="k", seconds=None, error="bad"):
    about = {"phase": "map", "batch": 1, "item": 1, "function": "mapfn", "worker": "a/1"}
    return {
        "event": "item",
        "at": 1.0,
        "outcome": outcome,
        "key": key,
        "seconds": seconds,
        "error": error,
        **about,
    }


def hostile_events():
    return [
        head(HOSTILE, options={HOSTILE: HOSTILE}, runner=HOSTILE),
        {"event": "phase", "at": 0.1, "phase": HOSTILE, "start": 0.1, "workers": 1, "slots": 1},
        task(worker=HOSTILE, slowest=[{"key": HOSTILE, "seconds": 0.1}], error=HOSTILE),
        task(phase="reduce", bytes_in=10, largest=[{"key": HOSTILE, "values": 7}], worker=HOSTILE),
        {"event": "death", "at": 1.0, "error": HOSTILE, "worker": HOSTILE, "key": HOSTILE},
        item(key=HOSTILE, error=HOSTILE),
        item("slow", key=HOSTILE, seconds=2.0),
        {"event": "notice", "at": 1.5, "text": HOSTILE},
        end("failed", error=HOSTILE, stats={"counters": {HOSTILE: 3}}),
    ]


def test_no_name_of_a_job_changes_the_page_or_hides_in_it(tmp_path):
    page = make_page(digest_of(*hostile_events()).data())
    for character in "\x1b\x00\u202e\u2028\ud800":
        assert character not in page
    reader, block = read_page(page)
    assert block["name"] == HOSTILE
    text = "".join(reader.text)
    assert "</script><script>alert(1)</script>" in text  # as text
    assert "\\u202e" in text
    path = tmp_path / "report.html"
    path.write_text(page, "utf-8")
    assert read_data(str(path)) == block
    lines = compare(block, block)
    assert "\x1b" not in lines
    assert "\u202e" not in lines


def test_the_page_says_what_happened():
    page = make_page(
        digest_of(
            head(),
            {"event": "phase", "at": 0.1, "phase": "map", "start": 0.1, "workers": 1, "slots": 2},
            task(outcome="died", error="killed"),
            task(outcome="duplicate", slot=1, is_duplicate=True),
            task(phase="reduce", bytes_in=4000, partitions=3, keys=9, number=5),
            task(phase="reduce", bytes_in=1000, partitions=2, keys=9, number=6),
            {"event": "death", "at": 1.0, "error": "exit code 3", "key": "'page 7'", "worker": "a/1"},
            item("slow", key="'slowest of all'", seconds=3.5),
            end(stats={"counters": {"bad lines": 12}}),
        ).data()
    )
    reader, _ = read_page(page)
    text = " ".join(reader.text)
    for words in (
        "exit code 3",
        "'page 7'",
        "'slowest of all'",
        "3.5 s",
        "bad lines",
        "4 kB",
        "a/1 slot 1",
        "1.6 times",
    ):
        assert words in text, words
    assert page.count('class="bad"') == 2  # the bar, and the legend
    assert page.count('class="dup"') == 2
    assert "prefers-color-scheme:dark" in page


def test_short_tasks_with_one_line_are_one_bar_and_count_as_many():
    line = {**task(slowest=[{"key": "s", "seconds": 0.2}]), "event": "tasks", "tasks": 500, "span": 0.25}
    data = digest_of(head(), line, end()).data()
    (lane,) = data["work"]["lanes"]
    assert (lane["tasks"], lane["busy_s"], len(lane["bars"])) == (500, 0.5, 1)
    assert data["slowest"][0]["key"] == "s"
    assert "map 500 tasks, done: 500 ms" in make_page(data)


def test_a_job_without_tasks_and_one_without_times_have_a_page_too():
    for events in ([head()], [head(), task(start=None, slot=None), end("cancelled")], []):
        reader, _ = read_page(make_page(digest_of(*events).data()))
        assert any("Nobody knows when the tasks" in text for text in reader.text)


def test_a_long_job_has_a_page_of_limited_size_that_says_what_it_leaves_out():
    digest = digest_of(head())
    for number in range(20_000):
        start = number // 200 + number % 7 / 10
        digest.add(task(start=start, seconds=0.9, worker=f"host{number % 200:03}/1", slot=0, number=number))
    for number in range(2 * MAX_MARKS):
        digest.add(task(outcome="died", start=number, worker="host000/1", number=number))
        digest.add(item(key=str(number)))
        digest.add(item("slow", key=str(number), seconds=1.0 + number))
    digest.add({"event": "lost_lines", "at": 9.0, "tasks": 17})
    data = digest.data()
    bars = [bar for lane in data["work"]["lanes"] for bar in lane["bars"]]
    assert len(data["work"]["lanes"]) == MAX_LANES
    assert len(bars) <= MAX_BARS + MAX_MARKS
    assert sum(lane["tasks"] for lane in data["work"]["lanes"]) == 10_000 + 2 * MAX_MARKS
    assert len(data["skipped"]["first"]) == MAX_LISTED
    assert data["skipped"]["count"] == 2 * MAX_MARKS
    assert [each["key"] for each in data["slowest"]] == [str(2 * MAX_MARKS - 1 - i) for i in range(MAX_TOP)]
    page = make_page(data)
    assert len(page) < 3_000_000
    reader, _ = read_page(page)
    text = " ".join(reader.text)
    assert "drawn as one bar" in text
    assert "10,000 tasks of other slots have no lane" in text
    assert f"{MAX_MARKS} tasks more failed or ran twice" in text
    assert "could not report 17 tasks" in text


def test_two_reports_are_compared_fact_by_fact(tmp_path):
    first = digest_of(head(), task(seconds=1.0), end()).data()
    second = digest_of(
        head(options={"retries": 2}), task(seconds=1.5), item("slow", seconds=4.0), end("failed", seconds=3.0)
    ).data()
    rows = [line.split() for line in compare(first, second).splitlines()]
    assert ["seconds", "2.0", "s", "3.0", "s", "+50%"] in rows
    assert ["outcome", "done", "failed", "differs"] in rows
    assert ["options:", "retries", "0", "2", "differs"] in rows
    assert ["busy", "seconds", "1.0", "s", "1.5", "s", "+50%"] in rows
    assert ["slowest", "item", "-", "4.0", "s"] in rows


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html></html>",
        b'<script type="application/json" id="mmgevent-report">{"format":1',
        b"\xff" * 100,
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path, content):
    path = tmp_path / "other.html"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"other\.html is no report"):
        read_data(str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        read_data(str(tmp_path / "missing.html"))


def test_damaged_data_are_a_usage_error():
    data = digest_of(head(), task(), end()).data()
    for name in ("work", "phases", "totals", "reduce", "slowest"):
        with pytest.raises(UsageError, match="damaged"):
            compare(data, {**data, name: 5})
    empty = {"tasks": 3, "bytes": 9, "largest": []}
    for changed in ({"reduce": empty}, {"seconds": 10**400}, {"totals": {"items": 10**400}}):
        with pytest.raises(UsageError, match="damaged"):
            compare(data, {**data, **changed})


def test_times_have_the_zone_of_the_driver():
    page = make_page(digest_of(head(at=1767323045.0, time_zone_s=-3600)).data())
    assert "begun 2026-01-02 02:04:05" in page
