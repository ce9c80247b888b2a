"""Messages: what CONTROL frames say.

A message is one JSON object with a `type`; everything else of it is a field of that
type.  `MESSAGES` is the whole language: type -> field -> what it must be and whether
it may be missing.  What is not in the table is illegal, and `decode_message` says
which type or field it was.  Which job, task and attempt a message is about stands in
the header of its frame, not in the message.

`options`, `context`, `failure` and `stats` are free-form objects; whoever reads them
checks them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mmgevent.errors import ProtocolError
from mmgevent.wire.frames import CONTROL, MAX_PAYLOAD, Frame, Payload

#: compared in the first message of each side
PROTOCOL = 1

#: of the names that a worker offers, as JSON: every driver that watches is told them
MAX_OFFERS_BYTES = 8 * 1024

_MAX_INT = 2**63 - 1


class Shape(NamedTuple):
    """What a field's value must be: words for the error, and the check."""

    words: str
    fits: Callable[[Any], bool]


class Field(NamedTuple):
    shape: Shape
    required: bool


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT


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
COUNTS = Shape("a list of integers", lambda value: type(value) is list and all(map(_is_count, value)))
STRINGS = Shape(
    "a list of strings", lambda value: type(value) is list and all(type(entry) is str for entry in value)
)
PAIRS = Shape("a list of [integer, integer]", _rows_of(2))
TRIPLES = Shape("a list of [integer, integer, integer]", _rows_of(3))
PHASE = _one_of("map", "reduce")
STATE = _one_of("connecting", "worker", "server", "occupied", "closed")


def _fields(optional: dict[str, Shape] | None = None, **required: Shape) -> dict[str, Field]:
    fields = {name: Field(shape, True) for name, shape in required.items()}
    fields.update({name: Field(shape, False) for name, shape in (optional or {}).items()})
    return fields


MESSAGES: dict[str, dict[str, Field]] = {
    # both ways, first and last
    "hello": _fields(
        {"slots": COUNT, "offers": STRINGS, "name": STRING},
        role=_one_of("server", "worker", "driver"),
        protocol=COUNT,
        python=STRING,
        dill=STRING,
        version=STRING,
        host=STRING,
        pid=COUNT,
    ),
    "refused": _fields(code=_one_of("version", "busy", "full"), error=STRING),
    "goodbye": _fields(reason=STRING),
    "moved": _fields(address=STRING),
    "tell": _fields({"more": FLAG}, data=STRING),
    # driver -> server
    "submit": _fields(
        {"skip": COUNTS, "context": OBJECT}, name=STRING, options=OBJECT, code_bytes=COUNT, fingerprint=STRING
    ),
    "batch": _fields({"content": FLAG}, items=COUNT, weight=COUNT, size=COUNT),
    "input_end": _fields(batches=COUNT),
    "cancel": _fields(reason=STRING),
    "list_workers": _fields(),
    "watch": _fields(),
    "dismiss": _fields(reason=STRING),
    # server -> driver
    "workers": _fields(names=STRINGS, slots=COUNTS),
    "joined": _fields(name=STRING, address=STRING, slots=COUNT, offers=STRINGS),
    "left": _fields(reason=STRING),
    "accepted": _fields(id=STRING, slots=COUNT, partitions=COUNT, batches=COUNT),
    "rejected": _fields(error=STRING),
    "allow": _fields(batches=COUNT, items=COUNT, seconds=NUMBER, weight=COUNT, slots=COUNT),
    "enough": _fields(),
    "need_content": _fields(),
    "results": _fields(parts=TRIPLES, size=COUNT),
    "progress": _fields(
        {"total": COUNT},
        phase=STRING,
        done=COUNT,
        waiting=COUNT,
        running=COUNT,
        workers=COUNT,
        slots=COUNT,
        bytes=COUNT,
    ),
    "notice": _fields(text=STRING),
    "skipped": _fields(failure=OBJECT, batch=COUNT, item=COUNT),
    "job_done": _fields(stats=OBJECT),
    "job_failed": _fields({"code": STRING}, failure=OBJECT),
    # engine -> its own driver
    "node": _fields({"address": STRING, "error": STRING}, state=STATE, reason=STRING),
    # server -> worker -> executor
    "job": _fields({"context": OBJECT}, options=OBJECT, code_bytes=COUNT, fingerprint=STRING),
    "job_end": _fields(),
    "assign": _fields(
        {"lo": COUNT, "hi": COUNT, "skip": COUNTS, "parts": PAIRS},
        phase=PHASE,
        slot=COUNT,
        size=COUNT,
        partitions=COUNT,
    ),
    "recall": _fields(),
    "revoke": _fields(),
    # executor -> worker -> server
    "leaving": _fields(),
    "returned": _fields(),
    "kept": _fields(),
    "started": _fields(),
    "done": _fields(size=COUNT, records=COUNT, items=COUNT, seconds=NUMBER, groups=COUNT),
    "failed": _fields({"item": COUNT}, failure=OBJECT),
    "died": _fields({"item": COUNT}, failure=OBJECT),
    "content": _fields(),
}

_REQUIRED = {
    type_: frozenset(name for name, field in fields.items() if field.required)
    for type_, fields in MESSAGES.items()
}


def encode_message(type: str, **fields: Any) -> bytes:
    """Return the payload of a CONTROL frame.  A field that is None is left out.

    ValueError for what `decode_message` would refuse, and for a message above
    MAX_PAYLOAD bytes: a fault of this side.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    fault = _find_fault(type, fields)
    if fault:
        raise ValueError(fault)
    # ASCII with escapes: file names may hold lone surrogates, which have no UTF-8
    payload = _encode({"type": type, **fields}).encode("ascii")
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"message {type!r} has {len(payload)} bytes, at most {MAX_PAYLOAD} may be sent")
    return payload


def decode_message(payload: Payload) -> dict[str, Any]:
    """Return the message, `{"type": ..., field: value}`, or raise ProtocolError naming what is wrong."""
    try:
        message = _decode(str(payload, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a control frame is no JSON: {error}") from None
    if type(message) is not dict:
        raise ProtocolError("a control frame is no JSON object")
    type_ = message.pop("type", None)
    fault = _find_fault(type_, message)
    if fault:
        raise ProtocolError(fault)
    return {"type": type_, **message}


def control(type: str, job: int = 0, task: int = 0, attempt: int = 0, **fields: Any) -> Frame:
    """Return the CONTROL frame of a message about this job, task and attempt."""
    return Frame(CONTROL, encode_message(type, **fields), job, task, attempt)


def _find_fault(type_: Any, fields: dict[str, Any]) -> str | None:
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
    if missing:
        return f"message {type_!r} lacks {', '.join(map(repr, sorted(missing)))}"
    return None


def _shorten(value: Any) -> str:
    text = ascii(value) if isinstance(value, (str, int, float)) or value is None else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# Made once: json.dumps and json.loads make one a call where an option is not the default.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
