"""Run a command in which the kernel refuses some calls, as old kernels and sandboxes do.

    python -m tests.sandbox pidfd_open=ENOSYS prctl=EPERM -- COMMAND [ARG]...

A filter of the kernel's own (seccomp) answers those calls with that error, in the command and in all that it starts.
`socket_inet6` stands for `socket` with AF_INET6.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

#: Numbers of calls, on the two kinds of machines that this is for.
CALLS = {
    "x86_64": {
        "memfd_create": 319,
        "pidfd_open": 434,
        "prctl": 157,
        "sched_getaffinity": 204,
        "setpriority": 141,
        "prlimit64": 302,
        "close_range": 436,
        "socket_inet6": 41,
    },
    "aarch64": {
        "memfd_create": 279,
        "pidfd_open": 434,
        "prctl": 167,
        "sched_getaffinity": 123,
        "setpriority": 140,
        "prlimit64": 261,
        "close_range": 436,
        "socket_inet6": 198,
    },
}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of the filter's machine: BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
NUMBER_OFFSET, FIRST_ARGUMENT_OFFSET = 0, 16  # in struct seccomp_data
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
AF_INET6 = 10


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_possible():
    """Return whether this machine is one whose calls are known here."""
    return sys.platform == "linux" and platform.machine() in CALLS


def refuse(rules):
    """Have the kernel answer the calls of {name: errno} so, in this process and its children, for ever."""
    numbers = CALLS[platform.machine()]
    steps = []
    for name, code in rules.items():
        steps += [(LOAD, 0, 0, NUMBER_OFFSET)]
        if name == "socket_inet6":
            steps += [
                (IF_EQUAL, 0, 3, numbers[name]),
                (LOAD, 0, 0, FIRST_ARGUMENT_OFFSET),
                (IF_EQUAL, 0, 1, AF_INET6),
            ]
        else:
            steps += [(IF_EQUAL, 0, 1, numbers[name])]
        steps += [(RETURN, 0, 0, REFUSE | code)]
    steps += [(RETURN, 0, 0, ALLOW)]
    program = Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "no filter can be set")


def main():
    split = sys.argv.index("--")
    pairs = (rule.split("=") for rule in sys.argv[1:split])
    refuse({name: getattr(errno, code) for name, code in pairs})
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
