import pytest

from tests.integration.commands import Commands


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    started.close()
