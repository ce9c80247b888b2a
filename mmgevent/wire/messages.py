"""Messages: what CONTROL frames say.

A message is one JSON object with a `type` and the fields of that type.  `MESSAGES` is the whole
language: {type: {field: shape of its value, and whether it is required}}.  Everything else is
illegal, and `decode_message` names the type or field at fault.  The header of the frame says which
job, task and attempt a message is about.

`options`, `stats` and most failures are free-form objects: whoever reads them checks them.

A message that announces few bytes may carry them in its field `inline`, which stands behind the
JSON object and a zero byte.  That halves the frames of a very short task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import CONTROL, MAX_PAYLOAD, Frame, Payload
from mmgevent.wire.shapes import (
    COUNT,
    COUNTERS,
    COUNTS,
    FAILURE,
    FLAG,
    INLINE,
    LISTS,
    MAX_INT,
    NUMBER,
    OBJECT,
    PAIRS,
    PHASE,
    ROWS,
    STATE,
    STRING,
    STRINGS,
    TRIPLES,
    Field,
    fields_of,
    is_count,
    one_of,
)

#: Version of this protocol. The first messages of both sides compare it.
PROTOCOL = 6

#: Names that a worker offers, bytes as JSON. Every driver that watches gets them.
MAX_OFFERS_BYTES = 8 * 1024

#: Text of a notice about an attempt, bytes.
MAX_NOTICE_BYTES = 1000

_INLINE_MARK = b"\0"  # no JSON text has it: JSON writes it as an escape


MESSAGES: dict[str, dict[str, Field]] = {
    # both ways, first and last
    "hello": fields_of(
        {"slots": COUNT, "offers": STRINGS, "name": STRING, "user": STRING},
        role=one_of("server", "worker", "driver", "looker"),
        protocol=COUNT,
        python=STRING,
        dill=STRING,
        version=STRING,
        host=STRING,
        pid=COUNT,
    ),
    "refused": fields_of(code=one_of("version", "busy", "full", "slots", "start"), error=STRING),
    "goodbye": fields_of(reason=STRING),
    "moved": fields_of(address=STRING),
    "tell": fields_of({"more": FLAG}, data=STRING),
    # driver -> server
    "submit": fields_of(
        {"skip": COUNTS, "context_bytes": COUNT, "keep": FLAG, "source": COUNT},
        name=STRING,
        options=OBJECT,
        code_bytes=COUNT,
        fingerprint=STRING,
    ),
    "batch": fields_of(
        {"content": FLAG, "refs": FLAG, "of_items": COUNT, "of_weight": COUNT, "inline": INLINE},
        items=COUNT,
        weight=COUNT,
        size=COUNT,
    ),
    "input_end": fields_of(batches=COUNT),
    "cancel": fields_of(reason=STRING),
    "list_workers": fields_of({"details": FLAG, "measure": FLAG, "deltas": FLAG, "after": COUNT}),
    "list_jobs": fields_of({"deltas": FLAG, "after": COUNT}),
    "ask": fields_of({"name": STRING, "pid": COUNT, "after": COUNT}, what=STRING),
    "watch": fields_of(),
    "dismiss": fields_of(reason=STRING),
    # server -> driver
    "workers": fields_of({"found": OBJECT, "gone": COUNTS, "next": COUNT}, names=STRINGS, slots=COUNTS),
    "jobs": fields_of({"gone": COUNTS, "next": COUNT}, found=OBJECT),
    "answer": fields_of(
        {"error": STRING, "next": COUNT, "lost": COUNT, "more": FLAG, "over": FLAG}, found=OBJECT
    ),
    "joined": fields_of(name=STRING, address=STRING, slots=COUNT, offers=STRINGS),
    "left": fields_of(reason=STRING),
    "accepted": fields_of(id=STRING, slots=COUNT, partitions=COUNT, batches=COUNT),
    "rejected": fields_of({"again": FLAG}, error=STRING),
    "allow": fields_of(batches=COUNT, items=COUNT, seconds=NUMBER, weight=COUNT, slots=COUNT),
    "enough": fields_of(),
    "need_content": fields_of(),
    "results": fields_of(
        {"batch": COUNT, "worker": STRING, "counters": COUNTERS, "keys": COUNT}, parts=TRIPLES, size=COUNT
    ),
    "progress": fields_of(
        {
            "total": COUNT,
            "items": COUNT,
            "busy": COUNT,
            "retries": COUNT,
            "spilled": COUNT,
            "peak": COUNT,
            "counters": COUNTERS,
        },
        phase=STRING,
        done=COUNT,
        waiting=COUNT,
        running=COUNT,
        workers=COUNT,
        slots=COUNT,
        bytes=COUNT,
    ),
    "notice": fields_of({"once": STRING, "quiet": FLAG}, text=STRING),
    "printed": fields_of({"dropped": COUNT, "worker": STRING}, lines=STRINGS, items=STRINGS),
    "skipped": fields_of(failure=OBJECT, batch=COUNT, item=COUNT),
    "task_ends": fields_of({"lost": COUNT}, rows=ROWS),
    "tasks_done": fields_of(places=LISTS, at_ms=COUNT, inline=INLINE),
    "job_done": fields_of(stats=OBJECT),
    "stage_done": fields_of(stats=OBJECT),
    "job_failed": fields_of({"code": STRING, "stats": OBJECT}, failure=OBJECT),
    # engine -> its own driver
    "node": fields_of({"address": STRING, "error": STRING}, state=STATE, reason=STRING),
    # server -> worker -> executor
    "job": fields_of({"context_bytes": COUNT}, options=OBJECT, code_bytes=COUNT, fingerprint=STRING),
    "job_end": fields_of(),
    "assign": fields_of(
        {
            "lo": COUNT,
            "hi": COUNT,
            "part": COUNTS,
            "skip": COUNTS,
            "parts": PAIRS,
            "results": FLAG,
            "inline": INLINE,
        },
        phase=PHASE,
        slot=COUNT,
        size=COUNT,
        partitions=COUNT,
    ),
    "recall": fields_of(),
    "revoke": fields_of(),
    "examine": fields_of({"pid": COUNT}, what=STRING),
    "drain": fields_of(reason=STRING),
    # executor -> worker -> server
    "leaving": fields_of(),
    "examined": fields_of({"error": STRING}, found=OBJECT),
    "returned": fields_of(),
    "kept": fields_of(),
    "done": fields_of(
        {
            "inline": INLINE,
            "skipped": COUNT,
            "failure": FAILURE,
            "causes": LISTS,
            "retries": COUNT,
            "peak_bytes": COUNT,
            "cpu_us": COUNT,
            "slow": LISTS,
            "largest": LISTS,
            "counters": COUNTERS,
            "printed": FLAG,
        },
        size=COUNT,
        records=COUNT,
        items=COUNT,
        seconds=NUMBER,
        groups=COUNT,
    ),
    "failed": fields_of({"item": COUNT, "spent": FLAG, "divisible": FLAG, "skipped": COUNT}, failure=OBJECT),
    "died": fields_of({"item": COUNT, "divisible": FLAG, "template": FLAG}, failure=OBJECT),
    "unprepared": fields_of({"died": FLAG}, failure=OBJECT),
    "content": fields_of(),
}

_REQUIRED = {
    type_: frozenset(name for name, field in fields.items() if field.required)
    for type_, fields in MESSAGES.items()
}
_CHECKS = {
    type_: {name: field.shape.fits for name, field in fields.items()} for type_, fields in MESSAGES.items()
}
#: Types whose fields JSON returns unchanged. In objects, tuples would become lists.
_FLAT = frozenset(
    type_ for type_, fields in MESSAGES.items() if all(field.shape is not OBJECT for field in fields.values())
)


def encode_message(type: str, **fields: Any) -> bytes:
    """Return the payload of a CONTROL frame.  Fields that are None are left out.

    Raises ValueError for a message that `decode_message` would refuse, and for one above
    MAX_PAYLOAD bytes: a bug of this side.
    """
    return _encodefields_of(type, _given(fields))


def decode_message(payload: Payload) -> dict[str, Any]:
    """Return the message, `{"type": ..., field: value}`.

    Raises ProtocolError that names what is wrong.
    """
    text, mark, inline = bytes(payload).partition(_INLINE_MARK)
    try:
        message = _decode(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a control frame is no JSON: {error}") from None
    if type(message) is not dict:
        raise ProtocolError("a control frame is no JSON object")
    type_ = message.pop("type", None)
    if mark:
        message.setdefault("inline", inline)
    if not _is_right(type_, message):
        raise ProtocolError(_find_fault(type_, message))
    message["type"] = type_
    return message


def message_of(frame: Frame) -> dict[str, Any]:
    """Return the message of a CONTROL frame, as `decode_message` does.

    It is decoded once and belongs to the frame: do not change it.
    """
    message = frame.message
    if message is None:
        message = frame.message = decode_message(frame.payload)
    return message


def control(type: str, job: int = 0, task: int = 0, attempt: int = 0, **fields: Any) -> Frame:
    """Return the CONTROL frame of a message about this job, task and attempt."""
    message = _given(fields)
    frame = Frame(CONTROL, _encodefields_of(type, message), job, task, attempt)
    if type in _FLAT:
        frame.message = message  # spares roles of this process decoding
    return frame


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None."""
    if None not in fields.values():
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def _encodefields_of(type_: str, fields: dict[str, Any]) -> bytes:
    """Return the payload, and add the type to `fields`."""
    if not _is_right(type_, fields):
        raise ValueError(_find_fault(type_, fields))
    inline = fields.pop("inline", None)
    fields["type"] = type_
    # ASCII with escapes: file names may hold lone surrogates, which have no UTF-8
    payload = _encode(fields).encode("ascii")
    if inline is not None:
        payload = _INLINE_MARK.join((payload, inline))
        fields["inline"] = inline
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"message {type_!r} has {len(payload)} bytes, at most {MAX_PAYLOAD} may be sent")
    return payload


def _is_right(type_: Any, fields: dict[str, Any]) -> bool:
    """Return whether a message is as the table says.

    Each message is checked twice, by both sides: this must be fast.
    """
    checks = _CHECKS.get(type_) if type(type_) is str else None
    if checks is None:
        return False
    for name, value in fields.items():
        fits = checks.get(name)
        if fits is is_count:  # most fields are counts: spare a call
            if type(value) is not int or not 0 <= value <= MAX_INT:
                return False
        elif fits is None or not fits(value):
            return False
    return fields.keys() >= _REQUIRED[type_]


def _find_fault(type_: Any, fields: dict[str, Any]) -> str:
    """Return what is wrong with a message for which `_is_right` is false."""
    if type(type_) is not str or type_ not in MESSAGES:
        return f"unknown message type {_shorten(type_)}"
    known = MESSAGES[type_]
    for name, value in fields.items():
        field = known.get(name)
        if field is None:
            return f"message {type_!r} has an unknown field {_shorten(name)}"
        if not field.shape.fits(value):
            return f"message {type_!r}: field {name!r} must be {field.shape.words}, got {_shorten(value)}"
    missing: Iterable[str] = _REQUIRED[type_] - fields.keys()
    return f"message {type_!r} lacks {', '.join(map(repr, sorted(missing)))}"


def _shorten(value: Any) -> str:
    text = ascii(value) if isinstance(value, (str, int, float)) or value is None else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _make_encode() -> Callable[[Any], str]:
    """Return a JSON encoder.

    `JSONEncoder.encode` spends half its time on making its C part anew for each call; this one is
    made once.
    """
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)  # None: this Python has no C part
    if make is None:
        return encoder.encode
    fast = make(
        None, encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    join = "".join
    return lambda thing: join(fast(thing, 0))


def _make_decode() -> Callable[[str], Any]:
    """Return a JSON decoder that is fast for texts without blanks around the value.

    Messages are such texts.  `JSONDecoder.decode` would search for blanks.
    """
    decoder: Any = json.JSONDecoder(parse_constant=_refuse_constant)
    scan = decoder.scan_once

    def decode(text: str) -> Any:
        try:
            thing, end = scan(text, 0)
        except StopIteration:
            return decoder.decode(text)
        return thing if end == len(text) else decoder.decode(text)

    return decode


_encode = _make_encode()
_decode = _make_decode()
