"""Limits on what one worker or one job may send; drivers, servers and workers share them.

A driver checks them before it sends, so that its user reads what is too large.  A server rejects
or fails a job over a limit and keeps the link, which other jobs share.  A worker closes the link
to a server that sends too much.
"""

from __future__ import annotations

from mmgevent.errors import MmgeventError

#: Code of one job, bytes. The server, each worker and each executor hold it in memory.
MAX_CODE_BYTES = 256 * 1024 * 1024

#: Surroundings of one job, bytes of JSON. An environment has at most 6 MiB (see
#: `machine.environment`), and one byte may take six in JSON.
MAX_CONTEXT_BYTES = 48 * 1024 * 1024

#: Options of one job, bytes of JSON. With all else they fit the frame that submits the job.
MAX_OPTIONS_BYTES = 64 * 1024

#: One batch, bytes. One item may be so large; batches of several items aim at 16 MiB.
MAX_BATCH_BYTES = 1024 * 1024 * 1024

#: Partitions of one job. Each one costs 16 bytes in every flush of every map task.
MAX_PARTITIONS = 4096

#: Slots of one worker. No machine has more cores, and a wrong number would cost the server memory.
MAX_SLOTS = 4096

#: Longest time that an option may ask for, seconds: 31 years. No timer of a library is that long.
MAX_TIMEOUT_S = 1e9

#: Largest count that an option may ask for, such as retries. No job has more items.
MAX_COUNT = 10**12

#: Names of counters of one job. Each progress message has them all; a name made from data would
#: give as many as there are items.
MAX_COUNTERS = 100

#: Longest name of a counter, characters. In JSON one may take twelve bytes: all fit a message.
MAX_COUNTER_NAME_CHARS = 100

#: Largest count: the largest integer of a message.
MAX_COUNTED = 2**63 - 1

#: Work of short tasks that is sent ahead to a slot, and to an executor, seconds. Each process that
#: an attempt passes does half the work for it when many attempts travel together.
SHORT_WORK_S = 0.02


def are_counters(value: object) -> bool:
    """Return whether a value is an object with names of counters: one more says there are too many."""
    return (
        type(value) is dict
        and len(value) <= MAX_COUNTERS + 1
        and all(type(name) is str and len(name) <= MAX_COUNTER_NAME_CHARS for name in value)
    )


def check_limit(what: str, n_bytes: int, limit_bytes: int) -> None:
    """Raise MmgeventError if a peer announces more bytes of a job than the server takes."""
    if n_bytes > limit_bytes:
        raise MmgeventError(
            f"{what} of the job: {n_bytes:,} bytes were announced, {n_bytes - limit_bytes:,} more "
            f"than a server takes ({limit_bytes:,})"
        )
