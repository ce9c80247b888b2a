"""Limits on what one job may send, which drivers, servers and workers share.

A driver looks at them before it sends, so that its user reads what is too large.  A server rejects
or fails a job beyond them and keeps the link, which other jobs share.  A worker, to which no server
sends so much, closes its link.
"""

from __future__ import annotations

#: Code of one job, bytes. A server keeps it in memory, and so does each worker and each executor.
MAX_CODE_BYTES = 256 * 1024 * 1024

#: Surroundings of one job, bytes of JSON. An environment is of 6 MiB at most (see `environment`), and in JSON a byte
#: may take six.
MAX_CONTEXT_BYTES = 48 * 1024 * 1024

#: One batch, bytes. One item may be so large; batches of several aim at 16 MiB.
MAX_BATCH_BYTES = 1024 * 1024 * 1024
