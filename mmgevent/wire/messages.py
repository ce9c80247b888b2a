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
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import CONTROL, MAX_PAYLOAD, Frame, Payload
from mmgevent.wire.limits import MAX_COUNTER_NAME_CHARS, MAX_COUNTERS

#: Version of this protocol. The first messages of both sides compare it.
PROTOCOL = 5

#: Names that a worker offers, bytes as JSON. Every driver that watches gets them.
MAX_OFFERS_BYTES = 8 * 1024

#: Bytes that the message which announces them may carry.
MAX_INLINE_BYTES = 16 * 1024

#: Text of a notice about an attempt, bytes.
MAX_NOTICE_BYTES = 1000

#: Largest integer of a message.
MAX_INT = 2**63 - 1
_INLINE_MARK = b"\0"  # no JSON text has it: JSON writes it as an escape


class Shape(NamedTuple):
    """What the value of a field must be: words for the error, and the check."""

    words: str
    fits: Callable[[Any], bool]


class Field(NamedTuple):
    shape: Shape
    required: bool


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or _is_count(value)


def _rows_of(width: int) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return type(value) is list and all(
            type(row) is list and len(row) == width and all(map(_is_count, row)) for row in value
        )

    return fits


def _one_of(*words: str) -> Shape:
    return Shape(" or ".join(map(repr, words)), lambda value: type(value) is str and value in words)


COUNT = Shape("an integer from 0 to 2**63 - 1", _is_count)
NUMBER = Shape("a number", _is_number)
STRING = Shape("a string", lambda value: type(value) is str)
FLAG = Shape("true or false", lambda value: type(value) is bool)
OBJECT = Shape("an object", lambda value: type(value) is dict)
INLINE = Shape(
    f"1 to {MAX_INLINE_BYTES} bytes behind the object",
    lambda value: type(value) is bytes and 0 < len(value) <= MAX_INLINE_BYTES,
)
FAILURE = Shape(
    "an object of strings, integers and nulls",
    lambda value: (
        type(value) is dict
        and all(type(k) is str and (v is None or type(v) in (str, int)) for k, v in value.items())
    ),
)
COUNTERS = Shape(
    f"an object of at most {MAX_COUNTERS + 1} integers from 0, names of at most {MAX_COUNTER_NAME_CHARS} characters",
    lambda value: (
        type(value) is dict
        and len(value) <= MAX_COUNTERS + 1  # one more says that there are too many
        and all(
            type(k) is str and len(k) <= MAX_COUNTER_NAME_CHARS and _is_count(v) for k, v in value.items()
        )
    ),
)
COUNTS = Shape("a list of integers", lambda value: type(value) is list and all(map(_is_count, value)))
STRINGS = Shape(
    "a list of strings", lambda value: type(value) is list and all(type(entry) is str for entry in value)
)
PAIRS = Shape("a list of [integer, integer]", _rows_of(2))
TRIPLES = Shape("a list of [integer, integer, integer]", _rows_of(3))
ROWS = Shape("a list of objects", lambda value: type(value) is list and all(type(r) is dict for r in value))
LISTS = Shape("a list of lists", lambda value: type(value) is list and all(type(r) is list for r in value))
PHASE = _one_of("map", "reduce")
STATE = _one_of("connecting", "worker", "server", "occupied", "closed")


def _fields(optional: dict[str, Shape] | None = None, **required: Shape) -> dict[str, Field]:
    fields = {name: Field(shape, True) for name, shape in required.items()}
    fields.update({name: Field(shape, False) for name, shape in (optional or {}).items()})
    return fields


MESSAGES: dict[str, dict[str, Field]] = {
    # both ways, first and last
    "hello": _fields(
        {"slots": COUNT, "offers": STRINGS, "name": STRING, "user": STRING},
        role=_one_of("server", "worker", "driver", "looker"),
        protocol=COUNT,
        python=STRING,
        dill=STRING,
        version=STRING,
        host=STRING,
        pid=COUNT,
    ),
    "refused": _fields(code=_one_of("version", "busy", "full", "slots", "start"), error=STRING),
    "goodbye": _fields(reason=STRING),
    "moved": _fields(address=STRING),
    "tell": _fields({"more": FLAG}, data=STRING),
    # driver -> server
    "submit": _fields(
        {"skip": COUNTS, "context_bytes": COUNT, "keep": FLAG, "source": COUNT},
        name=STRING,
        options=OBJECT,
        code_bytes=COUNT,
        fingerprint=STRING,
    ),
    "batch": _fields(
        {"content": FLAG, "refs": FLAG, "inline": INLINE}, items=COUNT, weight=COUNT, size=COUNT
    ),
    "input_end": _fields(batches=COUNT),
    "cancel": _fields(reason=STRING),
    "list_workers": _fields({"details": FLAG, "measure": FLAG, "deltas": FLAG, "after": COUNT}),
    "list_jobs": _fields({"deltas": FLAG, "after": COUNT}),
    "ask": _fields({"name": STRING, "pid": COUNT}, what=STRING),
    "watch": _fields(),
    "dismiss": _fields(reason=STRING),
    # server -> driver
    "workers": _fields({"found": OBJECT, "gone": COUNTS, "next": COUNT}, names=STRINGS, slots=COUNTS),
    "jobs": _fields({"gone": COUNTS, "next": COUNT}, found=OBJECT),
    "answer": _fields({"error": STRING}, found=OBJECT),
    "joined": _fields(name=STRING, address=STRING, slots=COUNT, offers=STRINGS),
    "left": _fields(reason=STRING),
    "accepted": _fields(id=STRING, slots=COUNT, partitions=COUNT, batches=COUNT),
    "rejected": _fields({"again": FLAG}, error=STRING),
    "allow": _fields(batches=COUNT, items=COUNT, seconds=NUMBER, weight=COUNT, slots=COUNT),
    "enough": _fields(),
    "need_content": _fields(),
    "results": _fields({"batch": COUNT, "worker": STRING, "counters": COUNTERS}, parts=TRIPLES, size=COUNT),
    "progress": _fields(
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
    "notice": _fields({"once": STRING, "quiet": FLAG}, text=STRING),
    "printed": _fields({"dropped": COUNT, "worker": STRING}, lines=STRINGS, items=STRINGS),
    "skipped": _fields(failure=OBJECT, batch=COUNT, item=COUNT),
    "task_ends": _fields({"lost": COUNT}, rows=ROWS),
    "job_done": _fields(stats=OBJECT),
    "stage_done": _fields(stats=OBJECT),
    "job_failed": _fields({"code": STRING, "stats": OBJECT}, failure=OBJECT),
    # engine -> its own driver
    "node": _fields({"address": STRING, "error": STRING}, state=STATE, reason=STRING),
    # server -> worker -> executor
    "job": _fields({"context_bytes": COUNT}, options=OBJECT, code_bytes=COUNT, fingerprint=STRING),
    "job_end": _fields(),
    "assign": _fields(
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
    "recall": _fields(),
    "revoke": _fields(),
    "examine": _fields({"pid": COUNT}, what=STRING),
    "drain": _fields(reason=STRING),
    # executor -> worker -> server
    "leaving": _fields(),
    "examined": _fields({"error": STRING}, found=OBJECT),
    "returned": _fields(),
    "kept": _fields(),
    "done": _fields(
        {
            "inline": INLINE,
            "skipped": COUNT,
            "failure": FAILURE,
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
    "failed": _fields({"item": COUNT, "spent": FLAG, "divisible": FLAG, "skipped": COUNT}, failure=OBJECT),
    "died": _fields({"item": COUNT, "divisible": FLAG, "template": FLAG}, failure=OBJECT),
    "unprepared": _fields({"died": FLAG}, failure=OBJECT),
    "content": _fields(),
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
    return _encode_fields(type, _given(fields))


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
    frame = Frame(CONTROL, _encode_fields(type, message), job, task, attempt)
    if type in _FLAT:
        frame.message = message  # spares roles of this process decoding
    return frame


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None."""
    if None not in fields.values():
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def _encode_fields(type_: str, fields: dict[str, Any]) -> bytes:
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
        if fits is _is_count:  # most fields are counts: spare a call
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
