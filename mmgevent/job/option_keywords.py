"""The options of a job as keywords of `Job`, with types for editors and checkers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, TypedDict


class OptionKeywords(TypedDict, total=False):
    """The options as a program gives them, for editors. `JobOptions` explains each."""

    retries: int
    task_timeout: float | None
    setup_timeout: float | None
    memory_limit: int | str | None
    max_skipped: float
    partitions: int | None
    greenlets: int
    items_per_call: int | None
    arrays: bool
    allocation: Literal["continuous", "oneshot"]
    retransmit: float
    py_files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
    results: Literal["plain", "trusted"] | None
    plain_classes: str | type | Iterable[str | type]
    pass_env: str | Iterable[str]
    bundles: str | os.PathLike[str] | bool | None
    name: str
