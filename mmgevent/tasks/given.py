"""Keep what a function was called with when it failed, so that the call can be made again.

An executor that fails pickles the key and the values, or the item, and sends them with its failure,
if they are small. The driver puts them into a bundle (see `job.bundle`) and never unpickles them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmgevent.job.inputs.refs import Ref
from mmgevent.tasks.blame import TaskFailure
from mmgevent.tasks.ordered_values import OrderedValues
from mmgevent.tasks.records import encode_value
from mmgevent.wire.failures import INPUT, MAX_INPUT_CHARS
from mmgevent.wire.positions import entry_of

if TYPE_CHECKING:
    from mmgevent.tasks.plain_rules import PlainRules

#: Largest pickle of what a function was called with that is compressed to be sent, bytes. It takes
#: 20 ms.
MAX_SENT_BYTES = 1024 * 1024

#: Largest pickle of what a function was called with that a bundle keeps, bytes. It is as large as
#: the largest batch of small items.
MAX_KEPT_BYTES = 16 * 1024 * 1024

#: Compression of zlib. Failures are rare and small: the fastest is enough.
_LEVEL = 1


def add_item(failure: TaskFailure, decode: Callable[[], Sequence[tuple[Any, Any]]], first_entry: int) -> None:
    """Note in a failure the item at fault, as it was before the function had it.

    `decode` gives the entries of the task, from `first_entry` on. An item of a ref is not noted: the
    driver reads it again.
    """
    if failure.given is not None or failure.item is None or failure.failure.get("kind") == "memory":
        return
    key, value = decode()[entry_of(failure.item) - first_entry]
    if not isinstance(value, Ref):
        failure.given = key, value


def encode_given(given: tuple[Any, Any], limit_bytes: int, plain: PlainRules | None) -> bytes | None:
    """Return the pickle of a key and its values, or of an item, or None if it cannot be kept."""
    key, values = given
    if isinstance(values, OrderedValues):
        return None  # more than memory has room for
    try:
        return encode_value((key, values), limit_bytes, plain)
    except MemoryError:
        return None


def with_input(
    failure: dict[str, Any], given: tuple[Any, Any] | None, plain: PlainRules | None
) -> dict[str, Any]:
    """Return a failure record with what its function was called with, if that is small enough."""
    data = None if given is None else encode_given(given, MAX_SENT_BYTES, plain)
    if data is None:
        return failure
    import binascii  # these two only for failures
    import zlib

    text = binascii.b2a_base64(zlib.compress(data, _LEVEL), newline=False).decode("ascii")
    return failure if len(text) > MAX_INPUT_CHARS else {**failure, INPUT: text}


def input_of(failure: dict[str, Any]) -> bytes | None:
    """Return the pickle that an executor has sent with a failure, or None without one.

    Nothing is unpickled. What is no such text is none.
    """
    text = failure.get(INPUT)
    if not isinstance(text, str):
        return None
    import binascii  # these two only for failures
    import zlib

    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(binascii.a2b_base64(text), MAX_SENT_BYTES)
    except (binascii.Error, zlib.error, ValueError):
        return None
    return data if unpacking.eof else None
