"""Name the working directory, which may no longer exist."""

import os


def find() -> str:
    """Return the working directory, or an empty string if it no longer exists."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def describe() -> str:
    """Return the working directory as messages name it."""
    return find() or "the working directory, which no longer exists"
