"""A plugin for pytest: no test may take longer than `--timeout`, whatever limit it has of its own."""

import pytest


@pytest.hookimpl(trylast=True)  # behind the hooks that give tests limits of their own
def pytest_collection_modifyitems(config, items):
    for item in items:
        item.add_marker(pytest.mark.timeout(config.getoption("timeout")), append=False)
