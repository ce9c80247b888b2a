"""The JVM that pyspark starts for a classic session."""

from __future__ import annotations

#: Time for our JVM to end by itself, seconds. Then it is killed.
JVM_END_S = 10.0


def end_jvm() -> None:
    """End the JVM that this process started. Spark itself leaves it until the process ends."""
    from subprocess import TimeoutExpired

    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is None:
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
