"""A job gives the same inline, on this machine, and over a server of whose two workers one is killed.

Jobs are drawn by `random_jobs`. When a test fails, `python -m tests.integration.random_jobs SEED FOLDER` writes its job.
"""

import collections
import os
import pickle
import re
import select
import sys
import types
from typing import NamedTuple

import psutil
import pytest

import mmgevent as mmg
from tests.integration.commands import Commands, wait_for
from tests.integration.random_jobs import POINT, draw_job, HELPER

#: jobs that `make test` draws; each takes some 2 s of one core
SHORT = 30
#: those of `make test-all`
ALL = 300
SEEDS = [*range(SHORT), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(SHORT, ALL))]


class Outcome(NamedTuple):
    """What a user sees of a job that has ended."""

    exit_code: int
    records: list | None
    set_aside: list | int


class Workers:
    """A server with two workers, one of which may be killed and is then replaced."""

    def __init__(self, commands):
        self._commands = commands
        _, self.address = commands.start_server()
        self._joined = [self._start(), self._start()]
        self._joining = []

    def kill(self, pid):
        """Kill the worker that has this process as its template, and start another."""
        process = psutil.Process(pid).parent()
        worker = next(worker for worker in self._joined if worker.pid == process.pid)
        worker.kill()
        worker.communicate()
        self._joined.remove(worker)
        self._joining.append(self._start())

    def wait(self):
        """Wait until both have joined."""
        ...
