"""Load a payload once in a process of its own, before the job runs.

What does not load there would not load in executors. So the user gets an error at once, instead of
a dead worker later. The process sees none of the driver's modules, only its import path and
environment.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from mmgevent import real_modules
from mmgevent.errors import ShippingError
from mmgevent.job.shipping.load import load_functions
from mmgevent.job.shipping.surroundings import read_surroundings
from mmgevent.machine import interpreter
from mmgevent.machine.python_path import find_python
from mmgevent.machine.resources import create_nameless_file

if TYPE_CHECKING:
    import subprocess

#: Longest trial, seconds, with all that the payload imports.
TRIAL_TIMEOUT_S = 120.0

#: Most of the process's last words that an error shows, characters.
_LAST_WORDS_CHARS = 2000

#: Most payloads that are remembered as loadable. A trial takes 60 ms, and a loop may submit often.
MAX_LOADED = 1000

_PROGRAM = "import json; from mmgevent.job.shipping import trial; sys.path[:] = json.loads(sys.argv[1]); trial.answer()"

#: Fingerprints of payloads, with their surroundings, that loaded; the oldest first.
_loaded: OrderedDict[str, None] = OrderedDict()


def fingerprint(payload: bytes | bytearray | memoryview) -> str:
    """Return the name under which workers keep a payload: its XXH3-128 in hexadecimal."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(payload)


class Trial:
    """One trial load, which runs from the start. `result` waits for it.

    No process runs if nothing in the payload can fail: code, plain data and names of the standard
    library. Nor does one if the same payload has loaded before in the same surroundings.
    """

    def __init__(self, payload: bytes):
        """Start it. Raises OSError if the process cannot be started."""
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        self._began_s = time.monotonic()
        if pickle.loads(payload)["is_plain"]:
            return
        surroundings = read_surroundings()
        self._mark = fingerprint(payload + json.dumps(surroundings, sort_keys=True).encode())
        if self._mark not in _loaded:
            self._process = _start_process(payload, surroundings)

    def is_over(self, timeout: float) -> bool:
        """Wait for the end for at most `timeout` seconds; return whether the trial is over.

        A trial that takes more than TRIAL_TIMEOUT_S in all is ended and has failed.
        """
        process = self._process
        if process is None:
            return True
        import subprocess

        try:
            answer, last_words = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            if time.monotonic() - self._began_s < TRIAL_TIMEOUT_S:
                return False
            self._give_up(TRIAL_TIMEOUT_S)
            return True
        self._process = None
        if process.returncode == 0 and answer:
            self._problem = json.loads(answer)
            if self._problem is None:
                self._remember()
            return True
        code = process.returncode
        end = f"exit code {code}" if code >= 0 else f"signal {-code}"
        said = last_words.decode(errors="replace")[-_LAST_WORDS_CHARS:].strip()
        self._problem = f"loading the job's code ended a fresh process ({end}). It last said:\n{said}"
        return True

    def result(self, timeout: float = TRIAL_TIMEOUT_S) -> None:
        """Wait for the trial.

        Raise ShippingError if the payload did not load within `timeout` seconds.
        """
        if not self.is_over(timeout):
            self._give_up(timeout)
        if self._problem is not None:
            raise ShippingError(self._problem)

    def cancel(self) -> None:
        """End the trial, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _give_up(self, timeout: float) -> None:
        self.cancel()
        self._problem = f"the job's code did not load in {timeout:g} s in a fresh process: does a module wait for something?"

    def _remember(self) -> None:
        _loaded[self._mark] = None
        if len(_loaded) > MAX_LOADED:
            _loaded.popitem(last=False)


def _start_process(payload: bytes, surroundings: dict[str, Any]) -> subprocess.Popen[bytes]:
    import subprocess  # a program whose jobs need no trial starts sooner without it

    flags = interpreter.arguments(interpreter.own_flags())
    program = real_modules.arguments(_PROGRAM)
    with open(create_nameless_file("mmgevent-trial"), "w+b") as file:
        file.write(payload)
        file.seek(0)
        return subprocess.Popen(
            [find_python(), *flags, *program, json.dumps(surroundings["sys_path"])],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=surroundings["environ"],
        )


def answer() -> None:
    """Load the payload on stdin; write null, or what went wrong, to stdout as JSON.

    Ends this process.
    """
    signal.alarm(int(TRIAL_TIMEOUT_S))  # the driver that would end it may be killed before
    payload = sys.stdin.buffer.read()
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # modules may print while they are imported
    problem = None
    try:
        load_functions(payload)
    except (ShippingError, ImportError) as error:
        problem = str(error)
    with open(answers, "w") as file:
        json.dump(problem, file)
    os._exit(0)  # threads that modules started must not keep this process alive
