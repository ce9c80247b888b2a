"""The work that is done once per record: read, map, hash keys, group, fold, scatter and merge.

`_core` (C) does it if it was built, otherwise `_fallback` (Python). Results and errors are equal.
`MMGEVENT_PURE=1` forces the fallback. `MMGEVENT_REQUIRE_NATIVE=1` makes a missing `_core` an error.
A `_core` that exists but is broken always raises: otherwise nobody would notice the slow worker.
"""

from __future__ import annotations

import os

from mmgevent._speedups._block import Block, spread
from mmgevent._speedups._fallback import COUNT, FIRST, MAX, MIN, NAN, SUM, BadKeyError, NoPairError

#: Whether the C core is in use.
NATIVE = os.environ.get("MMGEVENT_PURE") != "1"
if NATIVE:
    try:
        import mmgevent._speedups._core  # noqa: F401 # asks whether it can be imported
    except ModuleNotFoundError as error:
        is_missing = error.name == "mmgevent._speedups._core"
        if not is_missing or os.environ.get("MMGEVENT_REQUIRE_NATIVE") == "1":
            raise
        NATIVE = False

if NATIVE:
    from mmgevent._speedups._core import (
        ColumnFold,
        CsvRows,
        FoldTable,
        Items,
        check_pickle,
        decode_column,
        encode_column,
        estimate_bytes,
        fold,
        group,
        hash_key,
        is_hashed,
        lines_of,
        make_mark,
        map_items,
        merge_flat,
        merge_fold,
        merge_grouped,
        partition,
        pieces_of,
        placed,
        scatter,
        stream_items,
        take,
        unify_nan,
        values_of,
        xxh64,
    )
else:
    from mmgevent._speedups._fallback import (
        ColumnFold,
        CsvRows,
        FoldTable,
        Items,
        check_pickle,
        decode_column,
        encode_column,
        estimate_bytes,
        fold,
        group,
        hash_key,
        is_hashed,
        lines_of,
        make_mark,
        map_items,
        merge_flat,
        merge_fold,
        merge_grouped,
        partition,
        pieces_of,
        placed,
        scatter,
        stream_items,
        take,
        unify_nan,
        values_of,
        xxh64,
    )

__all__ = [
    "COUNT",
    "FIRST",
    "MAX",
    "MIN",
    "NAN",
    "NATIVE",
    "SUM",
    "BadKeyError",
    "Block",
    "ColumnFold",
    "CsvRows",
    "FoldTable",
    "Items",
    "NoPairError",
    "check_pickle",
    "decode_column",
    "encode_column",
    "estimate_bytes",
    "fold",
    "group",
    "hash_key",
    "is_hashed",
    "lines_of",
    "make_mark",
    "map_items",
    "merge_flat",
    "merge_fold",
    "merge_grouped",
    "partition",
    "pieces_of",
    "placed",
    "scatter",
    "spread",
    "stream_items",
    "take",
    "unify_nan",
    "values_of",
    "xxh64",
]
