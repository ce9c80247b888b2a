"""Do what is done once a record: hash keys, group, fold, scatter and merge.

`_core` (C) does it where it was built, `_fallback` (Python) elsewhere, with equal
results and errors.  `MMGEVENT_PURE=1` forces the fallback;
`MMGEVENT_REQUIRE_NATIVE=1` makes a missing `_core` an error.  A `_core` that is
there but broken always raises: it must not go unnoticed as a slow worker.
"""

from __future__ import annotations

import os

from mmgevent._speedups._fallback import COUNT, FIRST, MAX, MIN, NAN, SUM, BadKeyError, NoPairError

if os.environ.get("MMGEVENT_PURE") == "1":
    from mmgevent._speedups._fallback import (
        estimate_bytes,
        fold,
        group,
        hash_key,
        is_hashed,
        map_items,
        merge_flat,
        merge_fold,
        merge_grouped,
        partition,
        scatter,
        take,
        unify_nan,
        xxh64,
    )

    NATIVE = False
else:
    try:
        from mmgevent._speedups._core import (
            estimate_bytes,
            fold,
            group,
            hash_key,
            is_hashed,
            map_items,
            merge_flat,
            merge_fold,
            merge_grouped,
            partition,
            scatter,
            take,
            unify_nan,
            xxh64,
        )

        NATIVE = True
    except ModuleNotFoundError as error:
        is_missing = error.name == "mmgevent._speedups._core"
        if not is_missing or os.environ.get("MMGEVENT_REQUIRE_NATIVE") == "1":
            raise
        from mmgevent._speedups._fallback import (
            estimate_bytes,
            fold,
            group,
            hash_key,
            is_hashed,
            map_items,
            merge_flat,
            merge_fold,
            merge_grouped,
            partition,
            scatter,
            take,
            unify_nan,
            xxh64,
        )

        NATIVE = False

__all__ = [
    "COUNT",
    "FIRST",
    "MAX",
    "MIN",
    "NAN",
    "NATIVE",
    "SUM",
    "BadKeyError",
    "NoPairError",
    "estimate_bytes",
    "fold",
    "group",
    "hash_key",
    "is_hashed",
    "map_items",
    "merge_flat",
    "merge_fold",
    "merge_grouped",
    "partition",
    "scatter",
    "take",
    "unify_nan",
    "xxh64",
]
