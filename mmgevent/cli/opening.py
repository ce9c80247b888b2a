"""Open an address that holds a secret in the user's browser, and show it to nobody else.

Every user of a machine sees the command lines of all others. So the browser is given the name of a
file, which only this user can read, and which leads to the address.
"""

from __future__ import annotations

import contextlib
import html
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def redirect_file(url: str) -> Iterator[str]:
    """Write a page that leads to an address, and yield its name. It is removed at the end.

    It is in the user's runtime folder, else in a new folder of its own. Raises OSError.
    """
    with tempfile.TemporaryDirectory(
        prefix="mmg-dashboard-", dir=_runtime_folder()
    ) as folder:  # of mode 0700
        path = os.path.join(folder, "open.html")
        safe = html.escape(url)
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<title>mmgevent</title><meta http-equiv="refresh" content="0; url={safe}">'
            f'<p><a href="{safe}">The dashboard</a></p></html>\n'
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield path


def open_in_browser(path: str) -> bool:
    """Open a file in the user's browser; return whether there is one."""
    import webbrowser

    return webbrowser.open(Path(path).as_uri())


def _runtime_folder() -> str | None:
    """Return the folder for what only this user's programs share; None: there is none, or others could read it."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or ""
    try:
        found = os.stat(folder)
    except (OSError, ValueError):
        return None
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if is_private and os.path.isabs(folder) else None
