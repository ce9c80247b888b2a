"""Messages: the table is the language; tests are made from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgevent.errors import ProtocolError
from mmgevent.wire import messages
from mmgevent.wire.frames import CONTROL, MAX_PAYLOAD
from mmgevent.wire.messages import MESSAGES, control, decode_message, encode_message
from mmgevent.wire.shapes import MAX_INLINE_BYTES

CANDIDATES = [
    0,
    1.5,
    "text",
    "worker",
    "map",
    "version",
    True,
    {"a": 1},
    [{"a": 1}],
    ["a"],
    [1],
    [[1, 2]],
    [[1, 2, 3]],
    b"by\0tes",
    None,
    -1,
    2**63,
]

FIELDS = [(type_, name) for type_, fields in MESSAGES.items() for name in fields]


def example(type_: str, optional: bool = True) -> dict:
    """Return a message of this type whose every value fits."""
    return {
        name: next(value for value in CANDIDATES if field.shape.fits(value))
        for name, field in MESSAGES[type_].items()
        if field.required or optional
    }


def raw(type_, fields) -> bytes:
    """Encode it as it should be, whatever is in the fields."""
    inline = b"".join(b"\0" + value for value in fields.values() if type(value) is bytes)
    in_json = {name: value for name, value in fields.items() if type(value) is not bytes}
    return json.dumps({"type": type_, **in_json}).encode() + inline


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("type_", MESSAGES)
def test_every_message_comes_back(type_, optional):
    fields = example(type_, optional)
    assert decode_message(encode_message(type_, **fields)) == {"type": type_, **fields}


@pytest.mark.parametrize(("type_", "name"), FIELDS)
def test_a_missing_field_is_named_if_it_is_required(type_, name):
    fields = example(type_)
    del fields[name]
    if not MESSAGES[type_][name].required:
        assert decode_message(raw(type_, fields))["type"] == type_
        return
    with pytest.raises(ProtocolError, match=f"{type_}.* lacks '{name}'"):
        decode_message(raw(type_, fields))
    with pytest.raises(ValueError, match=name):
        encode_message(type_, **fields)


@pytest.mark.parametrize(("type_", "name"), FIELDS)
def test_a_field_of_another_type_is_named(type_, name):
    shape = MESSAGES[type_][name].shape
    wrong = [value for value in CANDIDATES if not shape.fits(value) and type(value) is not bytes]
    assert len(wrong) > 5
    for value in wrong:
        with pytest.raises(ProtocolError, match=f"{type_}.*'{name}' must be"):
            decode_message(raw(type_, {**example(type_), name: value}))


@pytest.mark.parametrize("type_", MESSAGES)
def test_an_unknown_field_is_named(type_):
    with pytest.raises(ProtocolError, match="unknown field 'colour'"):
        decode_message(raw(type_, {**example(type_), "colour": "red"}))


@pytest.mark.parametrize("type_", ["", "Hello", "hello ", None, 1, [], {}])
def test_an_unknown_type_is_named(type_):
    with pytest.raises(ProtocolError, match="unknown message type"):
        decode_message(json.dumps({"type": type_}).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b"\xff\xfe{\0}\0",
        b'{"type":"goodbye","reason":"\xff"}',
        b"[" * MAX_PAYLOAD,
        b'{"type":"job_done","stats":' + b'{"a":' * 50_000,
        b'{"type":"input_end","batches":' + b"9" * 10_000 + b"}",
        b'{"type":"job_done","stats":{"a":NaN}}',
        b'{"type":"goodbye","reason":"x"} {}',
    ],
    ids=range(13),
)
def test_what_is_no_json_object_is_a_protocol_error(payload):
    with pytest.raises(ProtocolError):
        decode_message(payload)


@given(st.binary(max_size=100))
def test_garbage_is_a_protocol_error(payload):
    with pytest.raises(ProtocolError):
        decode_message(payload)


short_text = st.text("aé\0", max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | short_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_text, inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_any_json_is_a_message_that_fits_its_table_or_a_protocol_error(type_, data):
    names = st.sampled_from([*MESSAGES[type_], "other"])
    message = {"type": type_, **data.draw(st.dictionaries(names, json_values, max_size=12))}
    try:
        decoded = decode_message(json.dumps(message).encode())
    except ProtocolError:
        return
    fields = MESSAGES[type_]
    assert decoded.pop("type") == type_
    assert all(fields[name].shape.fits(value) for name, value in decoded.items())
    assert all(name in decoded for name, field in fields.items() if field.required)


def test_infinite_seconds_are_refused():
    payload = raw("done", example("done")).replace(b'"seconds": 0', b'"seconds": 1e999')
    with pytest.raises(ProtocolError, match="seconds"):
        decode_message(payload)


def test_lone_surrogates_of_file_names_travel():
    assert decode_message(encode_message("goodbye", reason="\udc80é"))["reason"] == "\udc80é"


def test_a_field_of_none_is_left_out():
    assert decode_message(encode_message("died", failure={}, item=None)) == {"type": "died", "failure": {}}


def test_a_message_too_long_for_a_frame_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="bytes"):
        encode_message("notice", text="x" * MAX_PAYLOAD)


def test_what_is_no_json_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="JSON"):
        encode_message("job_done", stats={"mean": float("nan")})


@pytest.mark.parametrize("type_", ["batch", "assign", "done"])
def test_few_bytes_travel_in_the_message_that_announces_them(type_):
    fields = example(type_, optional=False)
    for inline in (b"\0", b"{}", bytes(MAX_INLINE_BYTES)):
        payload = encode_message(type_, inline=inline, **fields)
        assert decode_message(payload) == {"type": type_, **fields, "inline": inline}
    for inline in (b"", bytes(MAX_INLINE_BYTES + 1)):
        with pytest.raises(ValueError, match="inline"):
            encode_message(type_, inline=inline, **fields)
        with pytest.raises(ProtocolError, match=f"{type_}.*'inline' must be"):
            decode_message(raw(type_, {**fields, "inline": inline}))


def test_a_message_that_announces_no_bytes_carries_none():
    with pytest.raises(ProtocolError, match="unknown field 'inline'"):
        decode_message(b'{"type":"recall"}\0bytes')


def test_bytes_of_a_message_do_not_stand_in_its_object():
    for payload in (
        raw("done", {**example("done"), "inline": "text"}),
        raw("done", {**example("done"), "inline": "text"}) + b"\0b",
    ):
        with pytest.raises(ProtocolError, match="'inline' must be"):
            decode_message(payload)


def test_a_message_is_the_same_to_whom_it_is_handed_and_to_whom_it_is_sent():
    frame = control("done", 1, 2, 3, inline=b"bytes", **example("done", optional=False))
    assert frame.message == decode_message(frame.payload)


def test_control_makes_the_frame():
    frame = control("recall", 1, 2, 3)
    assert (frame.kind, frame.lane) == (CONTROL, (1, 2, 3))
    assert decode_message(frame.payload) == {"type": "recall"}


WORDS = {
    messages.COUNT: "int",
    messages.NUMBER: "number",
    messages.STRING: "str",
    messages.FLAG: "bool",
    messages.OBJECT: "object",
    messages.FAILURE: "object",
    messages.COUNTERS: "object",
    messages.INLINE: "bytes",
    messages.COUNTS: "ints",
    messages.STRINGS: "strs",
    messages.PAIRS: "pairs",
    messages.TRIPLES: "triples",
    messages.ROWS: "objects",
    messages.LISTS: "lists",
}


def documented_fields(cell: str) -> set[str]:
    """Split "role `a` or `b`, slots int?" at the commas between fields."""
    return {part.strip() for part in re.split(r", (?!`)", cell) if part.strip()}


def test_docs_protocol_has_every_message_with_its_fields_and_no_other():
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
    section = text[text.index("## 6. Messages") : text.index("## 7. Conversations")]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
    documented = {row[1].strip(): documented_fields(row[2]) for row in rows if row[1].strip() != "type"}
    expected = {}
    for type_, fields in MESSAGES.items():
        expected[type_] = set()
        for name, field in fields.items():
            choices = field.shape.words.replace("'", "`").split(" or ")
            word = WORDS.get(field.shape) or " or ".join([", ".join(choices[:-1]), choices[-1]])
            expected[type_].add(f"{name} {word}{'' if field.required else '?'}")
    assert documented == expected
