"""What the C core and its twin do for each record of a file: cut it off, give it as an item, mark it, map it."""

import contextlib
import csv
import functools
import gc
import io
import json
import mmap
import struct
import sys
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgevent._speedups import _fallback, _marking
from tests.kinds import IMPLEMENTATIONS, native, needs_native

PAGE_BYTES = 256
SCAN = json.JSONDecoder().scan_once
LIMIT = 1000  #: characters of a field of CSV


@pytest.fixture(params=IMPLEMENTATIONS)
def core(request):
    return request.param


# lines_of, pieces_of and placed


def lines(core, data, *, offset=0, ignored=0, encoding="utf-8", errors="strict", is_like_ascii=True):
    def broken(line, at):
        return "broken", line, at

    return list(core.lines_of("p", offset, data, ignored, encoding, errors, is_like_ascii, broken))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"], ids=repr)
@pytest.mark.parametrize("texts", [["a", "", "bc"], ["é", "\u20ac\U0001f600", "x" * 20]], ids=repr)
def test_lines_have_the_offsets_of_their_first_bytes(core, texts, end):
    data = "".join(text + end for text in texts).encode()
    found = lines(core, data, offset=100)
    assert [text for _, text in found] == [text + end[:-2] for text in texts]
    for (path, offset), text in found:
        assert path == "p"
        assert data[offset - 100 :].startswith(text.encode() + end[-2:].encode())
    assert lines(core, data.removesuffix(b"\n"), offset=100)[:2] == found[:2]


def test_there_are_as_many_lines_as_line_ends_and_one_more_if_the_last_has_none(core):
    for data, wanted in [
        (b"", 0),
        (b"\n", 1),
        (b"\n\n", 2),
        (b"a", 1),
        (b"a\n", 1),
        (b"a\nb", 2),
        (b"\r", 1),
    ]:
        assert len(lines(core, data)) == wanted, data


def test_ignored_bytes_belong_to_the_first_line(core):
    assert lines(core, b"\xef\xbb\xbfa\nb\n", ignored=3) == [(("p", 0), "a"), (("p", 5), "b")]
    assert lines(core, b"\xef\xbb\xbf\nb\n", ignored=3) == [(("p", 0), ""), (("p", 4), "b")]
    assert lines(core, b"\xef\xbb\xbf", ignored=3) == []


def test_a_line_that_is_not_text_is_told_with_its_offset(core):
    assert lines(core, b"a\n\xff\xfe\r\nb\n", offset=7) == [
        (("p", 7), "a"),
        (("p", 9), ("broken", b"\xff\xfe", 9)),
        (("p", 13), "b"),
    ]
    assert lines(core, b"a\xffb\n", errors="replace") == [(("p", 0), "a\ufffdb")]
    assert lines(core, b"a\xe9b\n", encoding="latin-1") == [(("p", 0), "aéb")]
    assert lines(core, "aсуб\n".encode("cp1251"), encoding="cp1251") == [(("p", 0), "aсуб")]
    assert lines(core, b"+AGE-\n", encoding="utf-7", is_like_ascii=False) == [(("p", 0), "a")]
    with pytest.raises(LookupError):
        lines(core, b"\xff\n", encoding="no-such-encoding")


def test_what_is_told_of_a_broken_line_may_fail(core):
    def broken(line, at):
        raise ArithmeticError(at)

    found = core.lines_of("p", 0, b"a\n\xff\nb\n", 0, "utf-8", "strict", True, broken)
    assert next(found) == (("p", 0), "a")
    with pytest.raises(ArithmeticError, match="2"):
        next(found)


@needs_native
@given(
    st.lists(st.sampled_from(["\n", "\r", "\r\n", "a", "bc" * 9, "é", "\u20ac", "\ufeff"])).map(
        lambda parts: "".join(parts).encode()
    ),
    st.lists(st.sampled_from([b"\xff", b"\xe9", b"\x80", b""])),
    st.sampled_from(["utf-8", "latin-1", "ascii", "cp1252"]),
    st.sampled_from(["strict", "replace", "ignore"]),
    st.integers(0, 2**40),
)
def test_both_read_the_same_lines(data, odd, encoding, errors, offset):
    data += b"a\n".join(odd)
    arguments = {
        "offset": offset,
        "encoding": encoding,
        "errors": errors,
        "ignored": min(len(data), offset % 4),
    }
    assert lines(native, data, **arguments) == lines(_fallback, data, **arguments)


def test_pieces_are_whole_and_of_one_size(core):
    assert list(core.pieces_of("p", 10, b"aabbc", 2)) == [(("p", 10), b"aa"), (("p", 12), b"bb")]
    assert list(core.pieces_of("p", 10, b"aabb", 2)) == [(("p", 10), b"aa"), (("p", 12), b"bb")]
    assert list(core.pieces_of("p", 0, b"a", 2)) == list(core.pieces_of("p", 0, b"", 2)) == []


def test_records_that_follow_one_another_have_places(core):
    found = list(core.placed("p", 5, [b"", b"abc", b"d"], 2))
    assert found == [(("p", 5), b""), (("p", 7), b"abc"), (("p", 12), b"d")]
    with pytest.raises(TypeError):
        list(core.placed("p", 5, [1], 2))


# values_of


def values(core, texts, scan=SCAN):
    def parse(key, line):
        return None if line == "" else (key, ("parsed", line))

    return list(core.values_of(enumerate(texts), scan, parse))


def test_a_value_that_is_all_of_its_line_is_given_and_others_are_parsed_with_more_care(core):
    texts = ['{"a": [1, "é"]}', "", "2", "3,4", "[5", "6 ", "[7]]", b"8", "NaN2", "9" * 5000, "[" * 100_000]
    found = values(core, texts)
    assert found[:2] == [(0, {"a": [1, "é"]}), (2, 2)]
    assert found[2:] == [(n, ("parsed", texts[n])) for n in range(3, len(texts))]


def test_what_else_a_scanner_raises_passes_through(core):
    def scan(line, at):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(core, ["1"], scan)


# CsvRows


def rows(
    core, data, *, offset=0, quotechar='"', names=None, encoding="utf-8", errors="strict", is_like_ascii=True
):
    """Return the rows, where the next would begin, and whether that cannot be read."""
    quoting = {"quoting": csv.QUOTE_NONE} if quotechar is None else {"quotechar": quotechar}
    found = core.CsvRows(
        "p",
        offset,
        data,
        encoding,
        errors,
        is_like_ascii,
        functools.partial(csv.reader, strict=True, **quoting),
        ",",
        quotechar,
        LIMIT,
        names,
        lambda n_fields, at: ("wrong", n_fields, at),
        (csv.Error, UnicodeDecodeError),
    )
    return list(found), found.at, found.has_failed


def test_rows_have_the_offsets_of_their_first_bytes(core):
    data = 'a,b\r\n\r\n"c\n""d",é\re,\n,'.encode()
    found = [("a", "b"), ('c\n"d', "é"), ("e", ""), ("", "")]
    assert rows(core, data, offset=100) == (
        [(("p", 100 + at), row) for at, row in zip((0, 7, 18, 21), found, strict=True)],
        100 + len(data),
        False,
    )


def test_a_row_is_a_dict_if_there_are_names_and_of_another_number_of_fields_it_is_told(core):
    data = b'1,2\n3\n"4",5\n\n6,7,8\n'
    assert rows(core, data, names=("a", "b"))[0] == [
        (("p", 0), {"a": "1", "b": "2"}),
        (("p", 4), ("wrong", 1, 4)),
        (("p", 6), {"a": "4", "b": "5"}),
        (("p", 13), ("wrong", 3, 13)),
    ]
    assert rows(core, b"\n\n", names=()) == ([], 2, False)


@pytest.mark.parametrize("bad", [b'"x"y,1\n', b'a,"b\nc', b"\xff,1\n", b'"\xff",1\n'], ids=repr)
def test_rows_end_before_the_one_that_cannot_be_read(core, bad):
    good = 'a,b\n"c\r\nd",é\n'.encode()
    found, at, has_failed = rows(core, good + bad + b"more\n")
    assert (len(found), at, has_failed) == (2, len(good), True)


def test_a_field_that_is_too_long_ends_the_rows(core):
    limit = csv.field_size_limit(LIMIT)
    try:
        for data in (b"a\n" + b"x" * (LIMIT + 1) + b"\n", b'a\n"' + b"x" * (LIMIT + 1) + b'"\n'):
            assert rows(core, data) == ([(("p", 0), ("a",))], 2, True)
        assert rows(core, (b"x" * LIMIT + b",") * 3)[0] == [(("p", 0), ("x" * LIMIT,) * 3 + ("",))]
    finally:
        csv.field_size_limit(limit)


@given(
    st.lists(st.sampled_from(["\n", "\r", "\r\n", "a", ",", '"', '""', '","', '"\n"', "é", "'", "\0"])).map(
        "".join
    ),
    st.sampled_from(['"', "'", None]),
    st.sampled_from([None, ("a", "b")]),
)
def test_rows_are_those_of_the_csv_module(text, quotechar, names):
    data = text.encode()
    told = [
        rows(core, data, offset=9, quotechar=quotechar, names=names) for core in (native, _fallback) if core
    ]
    assert told[0] == told[-1]
    found, at, has_failed = told[0]
    quoting = {"quoting": csv.QUOTE_NONE} if quotechar is None else {"quotechar": quotechar}
    given_rows = csv.reader(io.StringIO(data[: at - 9].decode(), newline=""), strict=True, **quoting)
    wanted = [row for row in given_rows if row]
    assert len(found) == len(wanted)
    for (_, row), fields in zip(found, wanted, strict=True):
        assert row == (
            tuple(fields)
            if names is None
            else dict(zip(names, fields, strict=True))
            if len(fields) == len(names)
            else ("wrong", len(fields), _[1])
        )
    if has_failed:
        with pytest.raises(csv.Error):
            next(csv.reader(io.StringIO(data[at - 9 :].decode(), newline=""), strict=True, **quoting))
    else:
        assert at == 9 + len(data)


def test_lines_that_end_with_a_carriage_return_cost_what_others_do(core):
    """A search for the next line feed, from each line to the end of the bytes, would take a hundred times as long."""
    n_rows = 300_000

    def measure(end):
        began_s = time.process_time()
        assert len(rows(core, (b"a,b" + end) * n_rows)[0]) == n_rows
        return time.process_time() - began_s

    with_feeds_s = min(measure(b"\n") for _ in range(3))
    assert min(measure(b"\r") for _ in range(3)) < 5 * with_feeds_s


# Items and stream_items


class Ref:
    def __init__(self, *units, first=0):
        self.units, self.first = units, first


class Unreadable(str):
    pass


@functools.cache
def class_of_items(core):
    class Opened(core.Items):
        def __init__(self, *arguments):
            super().__init__(*arguments, Ref, Unreadable)
            self.told = []

        def _open(self, entry, key, ref):
            self.told.append(("open", entry, key))
            return ((entry << 32) + ref.first, iter(ref.units[0])) if ref.units else None

        def _units_failed(self, error, entry, key):
            self.told.append(("failed", type(error), entry, key))
            if type(error) is ZeroDivisionError:
                raise LookupError(key) from error

        def _unreadable(self, position, key, value):
            self.told.append(("unreadable", position, key, value))

    return Opened


def make_items(core, entries, *, skip=(), drops=False, first=0):
    return class_of_items(core)(entries, first, frozenset(skip), drops)


def failing(*units, error=ZeroDivisionError):
    yield from units
    raise error


def test_items_are_those_of_entries_and_of_refs_with_their_positions(core):
    entries = [
        ("a", 1),
        ("r", Ref([("x", 2), ("y", Unreadable("bad")), ("z", 3)], first=7)),
        ("n", Ref()),
        ("b", 4),
    ]
    items = make_items(core, entries, first=2)
    assert (items.count, items.position, items.ref) == (0, None, None)
    seen = []
    for item in items:
        seen.append((*item, items.count, items.position, items.key, items.ref is not None))
    two, three = 2 << 32, 3 << 32
    assert seen == [
        (two, "a", 1, 1, two, "a", False),
        (three + 7, "x", 2, 2, three + 7, "x", True),
        (three + 9, "z", 3, 4, three + 9, "z", True),
        (5 << 32, "b", 4, 5, 5 << 32, "b", False),
    ]
    assert items.told == [("open", 3, "r"), ("unreadable", three + 8, "y", "bad"), ("open", 4, "n")]
    assert items.ref is None


def test_items_are_left_out(core):
    entries = [("a", 1), ("r", Ref([("x", 2), ("y", 3)])), ("b", 4)]
    skip = {0, (1 << 32) + 1}
    assert [key for _, key, _ in make_items(core, entries, skip=skip)] == ["x", "b"]
    assert [key for _, key, _ in make_items(core, entries, drops=True)] == ["x", "y"]


def test_what_a_ref_raises_is_told_and_ends_the_items(core):
    for error, raised in [(ZeroDivisionError, LookupError), (KeyboardInterrupt, KeyboardInterrupt)]:
        items = make_items(core, [("r", Ref(failing(("x", 1), error=error))), ("a", 2)], first=4)
        given_items = iter(items)
        assert next(given_items)[1:] == ("x", 1)
        with pytest.raises(raised):
            next(given_items)
        assert items.told == [("open", 4, "r"), ("failed", error, 4, "r")]
        assert list(given_items) == []


def stream(core, mapfn, entries, mark=lambda position, key: None):
    return core.stream_items(make_items(core, entries), mark, mapfn, iter)


def twice(key, value):
    yield key, value
    yield key, 10 // value


def test_records_of_items_are_streamed_in_order_whatever_mapfn_returns(core):
    entries = [("a", 1), ("r", Ref([("x", 2), ("y", 5)]))]
    wanted = [("a", 1), ("a", 10), ("x", 2), ("x", 5), ("y", 5), ("y", 2)]
    for mapfn in (twice, lambda *item: list(twice(*item)), lambda *item: tuple(twice(*item))):
        assert list(stream(core, mapfn, entries)) == wanted
        pairs = ((n, *entry) for n, entry in enumerate(wanted[::2]))
        assert list(core.stream_items(pairs, lambda *_: None, mapfn, iter)) == wanted
    assert list(stream(core, None, entries)) == [("a", 1), ("x", 2), ("y", 5)]


def test_an_item_is_marked_before_it_is_mapped(core):
    marked = []

    def mapfn(key, value):
        return [tuple(marked)]

    records = stream(core, mapfn, [("a", 1), ("b", 1)], lambda *item: marked.append(item))
    assert list(records) == [((0, "a"),), ((0, "a"), (1 << 32, "b"))]


@pytest.mark.parametrize(
    "mapfn", [twice, lambda key, value: [10 // value], lambda key, value: 5 // value], ids="abc"
)
def test_what_a_function_raises_passes_through_after_the_records_before_it(core, mapfn):
    records = stream(core, mapfn, [("a", 0), ("b", 1)])
    with pytest.raises((ZeroDivisionError, TypeError)):
        list(records)
    assert list(records) == ([("b", 1), ("b", 10)] if mapfn is twice else [])


@pytest.mark.parametrize("way", ["stream_items", "map_items"])
@pytest.mark.parametrize("place", ["entries", "units", "mark", "mapfn"])
@needs_native
def test_records_that_are_asked_for_while_one_is_made_harm_nothing(way, place):
    """Whoever does so may get an error, or end the records; nobody reads memory that was freed.

    The twin's `chain.from_iterable` of CPython 3.11 does.
    """
    core = native

    def again(here):
        if here == place:
            with contextlib.suppress(ValueError):  # a generator is running already
                list(records)

    def units():
        for n in range(3):
            yield n, n
            again("units")

    def entries():
        yield 0, Ref(units())
        again("entries")
        yield 1, 1

    def mapfn(key, value):
        again("mapfn")
        return [(key, value)]

    def failed(position, key, value, error):
        raise error

    more = [failed, None, LIMIT] if way == "map_items" else []
    items = make_items(core, entries())
    records = getattr(core, way)(items, lambda *_: again("mark"), mapfn, iter, *more)
    del items
    with contextlib.suppress(ValueError):
        for key, value in records:
            assert key == value
    assert list(records) == []


@pytest.mark.parametrize("outcome", ["raises", "ends"])
def test_mapped_records_end_with_the_first_failure(core, outcome):
    def failed(position, key, value, error):
        if outcome == "raises":
            raise error

    def mapfn(key, value):
        return [(key, 1 // value)]

    entries = [("a", 1), ("b", 0), ("c", 1)]
    records = core.map_items(make_items(core, entries), lambda *_: None, mapfn, iter, failed, None, LIMIT)
    assert next(records) == ("a", 1)
    with pytest.raises(ZeroDivisionError if outcome == "raises" else StopIteration):
        next(records)
    assert list(records) == []


def stop(*arguments):
    raise StopIteration


def test_a_function_that_raises_stop_iteration_does_not_end_the_records(core):
    """They would end without a word, as if there were no more."""
    for call in (
        lambda: stream(core, stop, [("a", 1)]),
        lambda: stream(core, twice, [("a", 1)], stop),
        lambda: core.stream_items(make_items(core, [("a", 1)]), lambda *_: None, lambda *_: 5, stop),
        lambda: core.map_items(make_items(core, [("a", 0)]), lambda *_: None, twice, iter, stop, None, 10),
        lambda: core.map_items(make_items(core, [("a", 1)]), stop, twice, iter, None, None, 10),
        lambda: core.lines_of("p", 0, b"\xff", 0, "utf-8", "strict", True, stop),
        lambda: core.values_of([("k", "[")], SCAN, stop),
        lambda: core.CsvRows(
            "p", 0, b"a\n", "utf-8", "strict", True, csv.reader, ",", '"', 9, ("a", "b"), stop, ()
        ),
    ):
        with pytest.raises(RuntimeError):
            list(call())


# make_mark


def mark_all(core, keys):
    """Return what a page holds after each key, without the time; and what was to be shown."""
    page, shown = bytearray(PAGE_BYTES), []
    mark = core.make_mark(page, lambda *item: shown.append(item[:2]), lambda path: path[-5:].encode())
    seen = []
    for n, key in enumerate(keys):
        mark(n, key)
        seen.append(bytes(page[:16]) + bytes(page[24:]))
    return seen, shown


def test_both_mark_alike_the_keys_that_are_written():
    keys = ["a", "", "x" * 61, "é" * 61, "\ud800", 0, -1, 2**63 - 1, -(2**63), 2**63, 10**59]
    keys += [("path", 5), ("path", 6), ("another path", -(2**63)), ("path", 2**70), ("é", 1)]
    marked = [mark_all(core, keys) for core in (_fallback, native) if core]
    assert marked[0] == marked[-1]
    pages, shown = marked[0]
    assert shown == []
    assert [_marking.ITEM.unpack_from(page[:16] + bytes(8) + page[16:], 8)[0] for page in pages] == list(
        range(len(keys))
    )
    assert pages[12][17:].startswith(b"\x066 path\0")


@pytest.mark.parametrize(
    "key",
    [None, 1.5, (1, 2), ("a", 1, 2), [], 10**5000, True, ("path", True)],
    ids=lambda key: type(key).__name__,
)
def test_other_keys_are_shown_or_their_type_is(core, key):
    assert mark_all(core, [key])[1] == [(0, key)], "nothing came before it that was quick"
    page, shown = bytearray(PAGE_BYTES), []
    mark = core.make_mark(page, lambda *item: shown.append(item[:2]), str.encode)
    name = type(key).__name__.encode()
    for n in range(100):
        mark(n, key)
        if not shown or shown[-1][0] != n:
            item, _, how, text = _marking.ITEM.unpack_from(page, _marking.ITEM_OFFSET)
            assert (item, how, text) == (n, _marking.KEY_TYPE_ONLY, name)
    assert all(thing is key for _, thing in shown)


def test_the_time_of_a_mark_is_now(core):
    page = bytearray(PAGE_BYTES)
    mark = core.make_mark(page, print, str.encode)
    before = time.monotonic()
    mark(1, "a")
    (marked,) = struct.unpack_from("<d", page, 16)
    assert before <= marked <= time.monotonic()


def test_a_page_that_is_closed_or_too_small_is_refused(core):
    page = mmap.mmap(-1, PAGE_BYTES)
    mark = core.make_mark(page, print, str.encode)
    mark(0, "a")
    page.close()
    with pytest.raises((ValueError, TypeError)):
        mark(1, "a")
    with pytest.raises((ValueError, struct.error)):
        core.make_mark(bytearray(100), print, str.encode)(0, "a")
    with pytest.raises((BufferError, TypeError)):
        core.make_mark(bytes(PAGE_BYTES), print, str.encode)(0, "a")


def test_marks_and_items_of_ours_meet_without_python(core):
    page = bytearray(PAGE_BYTES)
    mark = core.make_mark(page, print, str.encode)
    entries = [("r", Ref(core.pieces_of("path", 0, b"aabbcc", 2)))]
    positions = []

    def mapfn(key, value):
        item, _, how, text = _marking.ITEM.unpack_from(page, _marking.ITEM_OFFSET)
        positions.append((item, how, text))
        return [(value, key)]

    assert list(stream(core, mapfn, entries, mark)) == [
        (b"aa", ("path", 0)),
        (b"bb", ("path", 2)),
        (b"cc", ("path", 4)),
    ]
    assert positions == [(n, _marking.KEY_PLACE, b"%d path" % (2 * n)) for n in range(3)]
    mapped = core.map_items(make_items(core, [("r", Ref([("k", 1)]))]), mark, twice, iter, None, None, 10)
    assert list(mapped) == [("k", 1), ("k", 10)]


# memory


def every_call(core):
    for data in (b"a\r\n\xc3\xa9\nb", b"a\n\xff\n"):
        lines(core, data)
        next(core.lines_of("p", 2**40, data, 0, "utf-8", "strict", True, print))
        rows(core, data)
        rows(core, data + b'"c\n"\n"x', names=("a",), offset=2**40)
    list(core.pieces_of("p", 2**40, b"abc", 2))
    list(core.placed("p", 2**40, ["a", b"b"], 2))
    values(core, ["1000", "[1", "", '"a"'])
    entries = [(1000, 2000), (1, Ref([("x" * 20, 2), ("y", Unreadable("bad"))])), (2, Ref())]
    list(make_items(core, entries, skip={1 << 32}))
    next(iter(make_items(core, entries)))
    list(stream(core, twice, entries))
    next(stream(core, twice, entries))
    mark_all(core, ["a", 2000, ("path" * 2, 5000), "é", 2**70, None])
    for failing_call in (
        lambda: list(make_items(core, [(1, Ref(failing((1, 2))))])),
        lambda: list(make_items(core, [(1, 2, 3)])),
        lambda: list(stream(core, twice, [("a", 0)])),
        lambda: list(core.placed("p", 0, [1], 2)),
        lambda: list(values(core, ["1"], lambda *_: 1 // 0)),
        lambda: core.make_mark(b"", print, str.encode)(1, "a"),
        lambda: core.make_mark(bytearray(PAGE_BYTES), print, lambda path: 1 // 0)(1, ("a", 1)),
    ):
        with pytest.raises((LookupError, ValueError, ArithmeticError, TypeError, BufferError)):
            failing_call()


def test_no_call_keeps_memory_even_when_it_fails(core):
    rounds = 50  # threads of other tests allocate a few dozen blocks meanwhile

    def measure():
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(rounds):
            every_call(core)
        gc.collect()
        return sys.getallocatedblocks() - before

    # The interpreter fills caches at first. A leak grows in every measurement.
    assert min(measure() for _ in range(5)) < rounds


def test_what_is_not_ended_is_collected(core):
    """Iterators that hold one another, and that nobody has, go with the garbage."""

    class Seen:
        pass

    def make():
        seen = Seen()
        seen.rows = core.lines_of("p", 0, b"a", 0, "utf-8", "strict", True, lambda *_: seen)
        seen.items = make_items(core, [("a", seen)])
        seen.stream = stream(core, lambda *_: [seen], [("a", seen)])
        next(iter(seen.items))
        seen.mark = core.make_mark(bytearray(PAGE_BYTES), lambda *_: seen, lambda path: seen.name)
        return type("Tell", (), {"__del__": lambda self: told.append(1)}), seen

    told = []
    tell, seen = make()
    seen.tell = tell()
    del seen
    gc.collect()
    assert told == [1]
    assert isinstance(core.make_mark, types.FunctionType | types.BuiltinFunctionType)
