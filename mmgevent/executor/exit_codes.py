"""Exit codes of our own by which a process of executors says why it ended."""

#: A template whose limits were changed. User code can do that to its parent (prlimit), and all
#: executors forked later would inherit them.
LIMITS_CODE = 71
