"""Files that may not grow, as on a full disk."""

import contextlib
import resource
import sys


@contextlib.contextmanager
def file_size_limit(most):
    """Let this process write files of at most so many bytes.

    Python would cut files of byte code short, too, without noticing, and whoever imports them later would fail.
    """
    limit, writes_none = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        sys.dont_write_bytecode = writes_none
