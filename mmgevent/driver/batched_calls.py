"""A batch of calls of joblib, as an executor makes it.

An executor that need not import joblib does not: that takes longer than most batches.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

#: (function, positional arguments, keyword arguments)
Item = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

#: Variable that joblib reads when it is imported. With "0" it has no processes, and one core.
_JOBLIB_SWITCH = "JOBLIB_MULTIPROCESSING"


class BatchRunner:
    """Makes calls of one function, and measures them."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> tuple[list[Any], float]:
        return run_batch([(self._function, args, kwargs) for args, kwargs in arguments])


def run_batch(items: list[Item]) -> tuple[list[Any], float]:
    """Return the results of calls, and the time that they took, seconds.

    Parallel calls of joblib inside of them run one after another: each slot has an executor.
    """
    if "joblib" not in sys.modules:
        os.environ[_JOBLIB_SWITCH] = "0"  # a call may import it
        return _run(items)
    import joblib

    with joblib.parallel_config(backend="sequential", n_jobs=1):
        return _run(items)


def _run(items: list[Item]) -> tuple[list[Any], float]:
    began_s = perf_counter()
    results = [function(*args, **kwargs) for function, args, kwargs in items]
    return results, perf_counter() - began_s
