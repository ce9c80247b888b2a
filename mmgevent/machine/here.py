"""The working directory, which may be gone: removed, or out of reach, while a shell or a service stands in it."""

import os


def working_directory() -> str:
    """Return the working directory; an empty string if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def describe() -> str:
    """Return the working directory as messages name it."""
    return working_directory() or "the working directory, which is gone"
