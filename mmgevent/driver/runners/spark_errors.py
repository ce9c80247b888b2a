"""What errors of Spark mean: the line that says what happened, and what prevents jobs from running."""

from __future__ import annotations

import sys

from mmgevent.errors import ConnectError, JobError, MmgeventError, UsageError, VersionMismatchError

#: Name of the engine in messages.
ENGINE = "Spark"

#: Largest part of a message of Spark that is shown, characters. Java's stack traces follow.
MAX_MESSAGE = 400


def explain(error: BaseException) -> str:
    """Return the line of an error of Spark that says what happened."""
    text = text_of(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    chosen = lines[0]
    if "Traceback" in text:  # of Python, in front of Java's
        ends = [at for at, line in enumerate(lines) if line.startswith("at ")]
        told = lines[: ends[0]] if ends else lines
        chosen = next(
            (line for line in reversed(told) if line.partition(":")[0].endswith(("Error", "Exception"))),
            chosen,
        )
    return chosen[:MAX_MESSAGE]


def text_of(error: BaseException) -> str:
    """Return what an error says.  An error of Java asks its JVM for that, which may have ended."""
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, and the JVM of {ENGINE} has ended"


def unusable(error: JobError) -> MmgeventError:
    """Return what an error of the first query means."""
    text = text_of(error.__cause__ or error)
    if "PYTHON_VERSION_MISMATCH" in text:
        return VersionMismatchError(
            f"the workers of {ENGINE} have another Python than this driver, which has "
            f"{'.'.join(map(str, sys.version_info[:3]))}: set PYSPARK_PYTHON to the same version there ({explain(error)})"
        )
    if "No module named 'pyarrow'" in text or "PACKAGE_NOT_INSTALLED" in text:
        return UsageError(
            f"pyarrow is not installed in the Python of the workers of {ENGINE}: pip install pyarrow there"
        )
    return ConnectError(f"the workers of {ENGINE} cannot run jobs: {explain(error.__cause__ or error)}")
