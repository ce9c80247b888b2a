"""Name the working directory, which may no longer exist."""

import os


def working_directory() -> str:
    """Return the working directory, or an empty string if it no longer exists."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def describe() -> str:
    """Return the working directory as messages name it."""
    return working_directory() or "the working directory, which is gone"
