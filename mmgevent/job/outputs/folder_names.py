"""Names of what a run leaves, or may have left, in a folder of parts."""

from __future__ import annotations

import re

from mmgevent.job.outputs.folder_lock import LOCK
from mmgevent.job.outputs.record import RECORD

SUCCESS = "_SUCCESS"

_PART = re.compile(r"part-\d{5}\.(tsv|jsonl|csv|pkl|parquet)(\.(gz|bz2|xz|zst))?", re.ASCII)
#: What the names of the objects begin with that hold one unit of a record each, in object stores.
UNIT_PREFIX = f"{RECORD}-"

_LEFTOVER = re.compile(r"\.mmg-part-([0-9a-f]{16}-)?[0-9a-f]{16}\.tmp|\.mmg-run-[0-9a-f]{16}", re.ASCII)


def is_part(name: str) -> bool:
    """Return whether a name is that of a part."""
    return _PART.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Return whether a name is that of a file which a run removes, or a later one if it was killed."""
    return _LEFTOVER.fullmatch(name) is not None


def is_record(name: str) -> bool:
    """Return whether a name is that of the record, or of an object of it."""
    return name == RECORD or (name.startswith(UNIT_PREFIX) and is_part(name[len(UNIT_PREFIX) :]))


def is_ours(name: str) -> bool:
    """Return whether this package writes files of that name into folders."""
    return name in (SUCCESS, LOCK) or is_record(name) or is_part(name) or is_leftover(name)
