"""For all tests: examples that are the same in every run, and nothing in the environment that a command would read."""

import collections
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.effort import LONG, LONGEST, SAMPLED

# A slow machine fails no test (no deadline, no check of speed), and a run fails on nothing that the run before it
# could not have failed on (no chance in the examples).  To look for new ones: pytest --hypothesis-profile=explore
_ON_ANY_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("certain", derandomize=True, database=None, **_ON_ANY_MACHINE)
settings.register_profile("explore", max_examples=2000, print_blob=True, **_ON_ANY_MACHINE)
settings.load_profile("certain")

for _name in [name for name in os.environ if name.startswith("MMG_")]:
    del os.environ[_name]
# Jobs that fail on purpose must not fill the user's cache with bundles.
os.environ["MMG_BUNDLES"] = "none"

# A shell that is not interactive starts `make test &` with SIGINT ignored, and nohup ignores SIGHUP. Every command that
# a test starts and interrupts would ignore them too.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


_TESTS = Path(__file__).parent


#: More processes that run tests side by side than there are cores, since half the time of a test is waiting.
_MORE_THAN_CORES = 1
#: Most processes that run tests side by side. More would wait for the longest test most of the time.
_MOST_SIDE_BY_SIDE = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return in how many processes `pytest -n auto` runs tests side by side."""
    from mmgevent.machine.resources import count_cores  # not in the folder where sanitizers run tests

    return min(count_cores() + _MORE_THAN_CORES, _MOST_SIDE_BY_SIDE)


def pytest_collection_modifyitems(items):
    """Mark what is long by the tables of `tests.effort`, and begin with the longest."""
    seen = collections.Counter()
    for item in items:
        if not item.path.is_relative_to(_TESTS):
            continue  # a benchmark
        file, name = item.path.relative_to(_TESTS).as_posix(), getattr(item, "originalname", item.name)
        number = seen[file, name]
        seen[file, name] += 1
        if name in LONG.get(file, "").split() or number % SAMPLED.get(file, {}).get(name, 1):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: not is_longest(item))


def is_longest(item):
    file, name = LONGEST
    return item.name == name and item.path == _TESTS / file
