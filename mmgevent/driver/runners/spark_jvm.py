"""The JVM that pyspark starts for a classic session."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Time for our JVM to end by itself, seconds. Then it is killed.
JVM_END_S = 10.0

#: Variable that pyspark gives the JVM that it starts.
_STARTED_BY_PYSPARK = "_PYSPARK_DRIVER_CONN_INFO_PATH"


def end_jvm() -> None:
    """End the JVM that this process started. Spark itself leaves it until the process ends."""
    from subprocess import TimeoutExpired

    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is None:
        _end_unfinished()
        return
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    process = gateway.proc
    process.stdin.close()  # it ends when this does
    try:
        process.wait(JVM_END_S)
    except TimeoutExpired:
        process.kill()
        process.wait()


def _end_unfinished() -> None:
    """End a JVM whose start was interrupted.

    pyspark forgets it, and removes the folder in which it wants to say its port. So it stays.
    """
    import psutil

    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if _STARTED_BY_PYSPARK in process.environ():
                process.kill()
                process.wait()


@contextmanager
def without_ends_in_the_log() -> Iterator[None]:
    """Keep py4j from logging, with a traceback, that a call of the JVM was interrupted or cut.

    It does so in the root logger, and raises an error all the same.
    """
    root = logging.getLogger()
    root.addFilter(_is_no_end)
    try:
        yield
    finally:
        root.removeFilter(_is_no_end)


def _is_no_end(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, KeyboardInterrupt) and not type(error).__module__.startswith("py4j.")
