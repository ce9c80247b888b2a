"""The implementations to compare."""

from __future__ import annotations

import pytest

from benchmarks.micro import plain
from mmgevent._speedups import _fallback

try:
    from mmgevent._speedups import _core
except ModuleNotFoundError:
    _core = None

CORES = {"c": _core, "twin": _fallback, "plain": plain}


@pytest.fixture(params=list(CORES))
def core(request):
    """An implementation of the functions of `mmgevent._speedups`."""
    if CORES[request.param] is None:
        pytest.skip("the C core is not built")
    return CORES[request.param]
