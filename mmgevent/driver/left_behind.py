"""Say where a thread waits that cannot be ended.

Python cannot interrupt a thread that waits in the user's datasource, finishfn or callback. When its
job is cancelled, the thread is left behind. A warning names it and the line where it waits.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

#: The folder of this package: frames of its files are ours.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: The folder of the standard library.
_STANDARD = os.path.dirname(os.path.abspath(threading.__file__)) + os.sep


def describe_place(thread: threading.Thread) -> str:
    """Return where a thread is, in the words of a traceback, and which user code called that."""
    innermost = sys._current_frames().get(thread.ident or 0)
    if innermost is None:
        return "it has ended"
    place = f"it waits in {_describe(innermost)}"
    users = _find_users_frame(innermost)
    return place if users is None or users is innermost else f"{place}, called from {_describe(users)}"


def _find_users_frame(innermost: FrameType) -> FrameType | None:
    """Return the innermost frame of the user's code, or None if there is none.

    That is a frame that is neither ours nor of the standard library.
    """
    frame: FrameType | None = innermost
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_OURS, _STANDARD, "<frozen ")):
            return frame
        frame = frame.f_back
    return None


def _describe(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"
