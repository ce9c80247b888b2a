"""Lines of what executors print: marks, cuts at any byte, floods, and what is never kept."""

import io
import os

import pytest

from mmgevent.engine.server.prints import JobPrints
from mmgevent.engine.worker.printed import MAX_WAITING_BYTES, PrintReader
from mmgevent.errors import ProtocolError
from mmgevent.executor.prints import MarkedBytes, PrintedFile, name_place
from mmgevent.executor.status_page import StatusPage
from mmgevent.wire.messages import control
from mmgevent.wire.prints import MAX_LINE_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_LINES, is_printed
from mmgevent.wire.shapes import MAX_INT


@pytest.fixture
def page():
    page, fd = StatusPage.create()
    os.close(fd)
    page.mark_prints()
    yield page
    page.close()


@pytest.fixture
def printing(page):
    """A stream of an executor, and a function that returns what was written to it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(PrintedFile(writer, page)), encoding="utf-8", line_buffering=True
    )

    def written():
        try:
            return os.read(reader, 1 << 20)
        except BlockingIOError:
            return b""

    yield stream, written, writer
    stream.close()
    os.close(reader)
    os.close(writer)


def taken(reader):
    rows, dropped = [], 0
    while reader:
        lines = reader.take()
        rows += zip(lines.items, lines.lines, strict=True)
        dropped += lines.dropped
    return rows, dropped


def two_items(page, stream, fd):
    page.begin(1)
    stream.write("before\n")
    page.mark(0, "a")
    stream.write("one\ntwo\n")
    os.write(fd, b"of C\n")
    stream.write("three\n")
    page.mark(1, "b\n")
    stream.write("é\n")


EXPECTED = [("", "before"), ("'a'", "one"), ("'a'", "two"), ("", "of C"), ("'a'", "three"), (r"'b\n'", "é")]


def test_lines_are_those_of_their_items_wherever_they_are_cut(page, printing):
    stream, written, fd = printing
    two_items(page, stream, fd)
    data = written()
    for size in (1, 2, 3, 5, 7, 150, len(data)):
        reader = PrintReader(page.token)
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size], 0.0)
        assert taken(reader) == (EXPECTED, 0)
    assert reader.strip(data) == "before\none\ntwo\nof C\nthree\né\n".encode()


def test_a_line_that_an_item_does_not_end_is_not_of_the_next_one(page, printing):
    stream, written, _ = printing
    page.begin(1)
    for item in range(3):
        page.mark(item, item)
        stream.write("no end")
        stream.flush()
    page.mark(3, 3)
    stream.write("end\n")
    reader = PrintReader(page.token)
    reader.feed(written(), 0.0)
    assert taken(reader) == ([("0", "no end"), ("1", "no end"), ("2", "no end"), ("3", "end")], 0)


def test_lines_of_several_items_at_once_are_of_none_of_them(page, printing):
    stream, written, _ = printing
    page.begin(1)
    for text, is_alone in (("one", True), ("two", False), ("three", False), ("four", True)):
        page.show(0, "a", 1.0, is_alone=is_alone)  # as `ItemPool` does
        stream.write(f"{text}\n")
    reader = PrintReader(page.token)
    reader.feed(written(), 0.0)
    assert taken(reader) == ([("'a'", "one"), ("", "two"), ("", "three"), ("'a'", "four")], 0)


def test_marks_of_both_streams_are_one_sequence(page, printing):
    out, written, fd = printing
    page.begin(1)
    with io.TextIOWrapper(io.BufferedWriter(PrintedFile(fd, page)), line_buffering=True) as err:
        for stream, text, is_alone in (
            (out, "1", True),
            (err, "2", False),
            (out, "3", True),
            (err, "4", True),
        ):
            page.show(0, "a", 1.0, is_alone=is_alone)
            stream.write(f"{text}\n")
    reader = PrintReader(page.token)
    reader.feed(written(), 0.0)
    assert taken(reader) == ([("'a'", "1"), ("", "2"), ("'a'", "3"), ("'a'", "4")], 0)


def test_a_mark_that_is_cut_off_in_a_flood_is_of_no_item(page):
    """An exception of a signal handler, or another thread whose stream is the other one, cuts it."""
    marked = MarkedBytes(page.token)
    page.begin(1)
    page.mark(0, "a")
    whole = page.token + b"\1" + page.read_mark()
    same = page.token + b"\0line\n" + page.token + b"\2"
    for end in (same, b"x" * 140 + same):
        assert marked.skip(whole[:20] + end) == (1, False)
        ((mark, text),) = marked.parts(same)
        assert (name_place(mark), text) == ("", b"line\n")
    marked.skip(whole + same[5:])
    ((mark, text),) = marked.parts(same)
    assert (name_place(mark), text) == ("'a'", b"line\n")


def test_a_child_of_a_function_writes_without_marks(page, printing):
    stream, written, _ = printing
    page.mark(0, "a")
    page.abandon()
    stream.write("child\n")
    assert written() == b"child\n"


def test_a_page_without_token_has_no_marks():
    page, fd = StatusPage.create()
    os.close(fd)
    reader, writer = os.pipe()
    with PrintedFile(writer, page) as file:
        file.write(b"plain\n")
    assert os.read(reader, 100) == b"plain\n"
    os.close(reader)
    os.close(writer)
    page.close()


def test_a_line_without_end_is_one_when_its_task_ends_and_what_is_written_over_is_not_shown():
    reader = PrintReader(b"\xffabc")
    for data in (b"10%\r", b"20%", b"\r30", b"%\r", b"\nwindows\r\n", b"no end"):
        reader.feed(data, 0.0)
    assert taken(reader) == ([("", "30%"), ("", "windows")], 0)
    reader.end_line(0.0)
    reader.end_line(0.0)
    assert taken(reader) == ([("", "no end")], 0)


def test_a_long_line_is_cut_and_costs_no_memory():
    reader = PrintReader(b"\xffabc")
    for _ in range(100):
        reader.feed(b"x" * 65536, 0.0)
    reader.feed(b"\nnext\n", 0.0)
    assert taken(reader) == ([("", "x" * MAX_LINE_BYTES + "..."), ("", "next")], 0)


def test_of_a_flood_what_is_left_out_is_counted(page, printing):
    stream, written, _ = printing
    reader = PrintReader(page.token)
    page.begin(1)
    count = 0
    for item in range(200):
        page.mark(item, "\n" * 50)  # in a mark it is no line
        stream.write("".join(f"{item} {n}\n" for n in range(100)))
        count += 100
        reader.feed(written(), 0.0)
    rows, dropped = taken(reader)
    assert len(rows) + dropped == count
    assert sum(len(line) for _, line in rows) <= MAX_WAITING_BYTES
    assert dropped
    stream.write("after\n")
    reader.feed(written(), 60.0)
    assert taken(reader) == ([(repr("\n" * 50), "after")], 0)


def test_a_message_of_the_longest_lines_is_no_longer_than_a_frame():
    reader = PrintReader(b"\xffabc")
    for _ in range(100):
        reader.feed(b"\x00" * MAX_LINE_BYTES + b"\n", 0.0)
    while reader:
        assert is_printed(control("printed", 1, **reader.take().fields()))


def test_a_job_passes_on_what_its_budget_allows_and_says_how_much_it_does_not():
    sent = []
    is_read = True

    def send(**fields):
        if is_read:
            sent.append(fields)
        return is_read

    prints = JobPrints(send)
    message = {"lines": ["x" * 70] * MAX_MESSAGE_LINES, "items": ["1"] * MAX_MESSAGE_LINES, "dropped": 7}
    for _ in range(60):
        prints.take("w", message, 0.0)
    prints.end()
    passed = sum(len(each["lines"]) for each in sent)
    assert 7700 < passed < 7800
    assert passed + sum(each["dropped"] or 0 for each in sent) == 60 * (MAX_MESSAGE_LINES + 7)
    assert {each["worker"] for each in sent} == {"w", ""}
    del sent[:]
    is_read = False
    prints.take("w", {"lines": ["a"], "items": [""]}, 100.0)
    is_read = True
    prints.take("w", {"lines": ["b"], "items": [""]}, 100.0)
    assert sent == [{"lines": ["b"], "items": [""], "worker": "w", "dropped": 1}]
    for wrong in (
        {"lines": ["a"], "items": []},
        {"lines": ["a"] * 201, "items": ["a"] * 201},
        {"lines": ["\u00e9" * 600] * 200, "items": [""] * 200},
        {"lines": ["a"], "items": ["\u00e9" * 100_000]},
    ):
        with pytest.raises(ProtocolError, match="printed lines of"):
            prints.take("w", wrong, 0.0)


def test_whatever_a_worker_says_fits_the_message_for_the_driver():
    """Otherwise the server could not end the job."""
    sent = []
    prints = JobPrints(lambda **fields: sent.append(control("printed", 1, **fields)) or True)
    lines = ["\U0001f600" * (MAX_MESSAGE_BYTES // MAX_MESSAGE_LINES)] * MAX_MESSAGE_LINES
    prints.take("w", {"lines": lines, "items": [""] * MAX_MESSAGE_LINES}, 0.0)
    for _ in range(2):
        prints.take("w", {"lines": [], "items": [], "dropped": MAX_INT}, 0.0)
    prints.end()
    assert len(sent) == 2
