"""What job functions may do that they should not. Light to import: it travels to executors."""

import ctypes
import itertools
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

#: the item of `job_items` at which a misdeed happens
BAD = 5
ITEMS = [(n, n) for n in range(10)]


def at_bad(deed):
    """A mapfn that does the deed at one item, and its duty at all."""

    def mapfn(key, value):
        if key == BAD:
            deed(value)
        yield key % 3, value

    return mapfn


def add(key, values):
    return sum(values)


# -- exceptions


class NoPickle(Exception):
    def __reduce__(self):
        raise TypeError("this exception does not pickle")


class NoStr(Exception):
    def __str__(self):
        raise RuntimeError("no str for you")

    __repr__ = __str__


class StrExits(Exception):
    def __str__(self):
        sys.exit(9)

    __repr__ = __str__


class NotEvenArguments(Exception):
    def __getattribute__(self, name):
        raise RuntimeError("no attributes for you")


def divide(value):
    return 1 / 0


def raise_no_pickle(value):
    raise NoPickle("x", threading.Lock())


def raise_no_str(value):
    raise NoStr("x")


def raise_str_exits(value):
    raise StrExits("x")


def raise_not_even_arguments(value):
    raise NotEvenArguments("x")


def raise_huge(value):
    raise ValueError("x" * 50_000_000)


def raise_chain(value):
    """A chain of causes that ends in itself."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    raise one


def sys_exit(value):
    sys.exit(3)


def press_ctrl_c(value):
    raise KeyboardInterrupt


def generator_exit(value):
    raise GeneratorExit


def stop_iteration(value):
    next(iter(()))


def recurse(value):
    return recurse(value) + 1


# -- deaths


def os_exit(value):
    os.write(1, b"before os._exit\n")
    os._exit(7)


def os_exit_0(value):
    os._exit(0)


def kill_itself(value):
    os.kill(os.getpid(), signal.SIGKILL)


def die_of_a_real_time_signal(value):
    os.kill(os.getpid(), 40)


def abort(value):
    os.abort()


def segfault(value):
    ctypes.string_at(0)


def let_the_alarm_ring(value):
    signal.raise_signal(signal.SIGALRM)


# -- never ending


def loop_in_python(value):
    while True:
        pass


def loop_in_c(value):
    """One call that keeps the GIL and sees no signal."""
    all(itertools.repeat(True))


def loop_in_regex(value):
    re.match(r"(a+)+$", "a" * 64 + "b")


def loop_deaf_to_everything(value):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            continue


# -- the parent, which forks all executors of a worker


def kill_the_parent(value):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def terminate_the_parent(value):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1000)


def let_the_parent_die_of_a_real_time_signal(value):
    os.kill(os.getppid(), 40)
    time.sleep(1000)


def kill_the_group_of_the_parent(value):
    os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
    time.sleep(1000)


def outlive_the_parent(value):
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: no signal when it ends
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def give_the_parent_no_memory(value):
    import resource

    resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1 << 20, 1 << 20))


def stop_the_parent(value):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)


def trace_the_parent(value):
    ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)  # PTRACE_ATTACH stops it
    time.sleep(1000)


def give_the_parent_no_descriptors(value):
    import resource

    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))


def stop_itself(value):
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_a_lock(value):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


# -- memory


def ask_for_10_gib(value):
    return bytearray(10 << 30)


def hoard(value):
    hoarded = []
    while True:
        hoarded.append(bytes(1 << 20))


def grow_to_10_gib_unseen(value):
    """Shared memory, which no limit of the process counts."""
    memory = mmap.mmap(-1, 10 << 30)
    for start in range(0, 10 << 30, 4096):
        memory[start] = 1


# -- meddling with the process


def close_all_descriptors(value):
    os.closerange(3, 65536)


def close_the_usual_descriptors(value):
    os.closerange(0, 512)


def chdir(value):
    os.chdir("/")


def remove_the_working_directory(value):
    folder = f"/tmp/mmgevent-gone-{os.getpid()}"
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(folder)


def handle_signals(value):
    import faulthandler

    def ignore(number, frame):
        pass

    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        if number < signal.SIGRTMIN or number > signal.SIGRTMAX:
            signal.signal(number, ignore)
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)


def raise_from_a_handler(value):
    def tick(number, frame):
        raise RuntimeError("out of nowhere")

    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)


def patch_builtins(value):
    import builtins

    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    for name in (
        "len",
        "isinstance",
        "print",
        "open",
        "iter",
        "enumerate",
        "max",
        "min",
        "bytes",
        "zip",
        "sorted",
    ):
        setattr(builtins, name, broken)


def patch_pickle(value):
    import pickle

    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    pickle.dumps = pickle.loads = pickle.Pickler = pickle.Unpickler = broken


def patch_socket(value):
    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    for name in ("sendmsg", "sendall", "send", "recv", "recv_into"):
        setattr(socket.socket, name, broken)


def patch_time_and_os(value):
    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    time.monotonic = time.time = time.sleep = os.write = os.read = os.close = broken


def empty_sys_modules(value):
    sys.modules.clear()


def forbid_descriptors(value):
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def use_up_descriptors(value):
    kept = globals().setdefault("kept", [])
    try:
        while True:
            kept.append(os.dup(2))
    except OSError:
        pass


# -- what outlives the task


def leave_threads(value):
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(1000,)).start()


def leave_busy_threads(value):
    def run():
        while True:
            pass

    for _ in range(2):
        threading.Thread(target=run, daemon=True).start()


def leave_children(value):
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)


def leave_a_session(value):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)


def leave_a_daemon(value):
    """Fork twice with a session of its own between: the classic way to outlive one's parent."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 512)
            time.sleep(1000)
        os._exit(0)
    os.waitpid(pid, 0)


def return_from_a_fork(value):
    """Parent and child both go on with the rest of the items."""
    os.fork()


def die_after_leaving_a_daemon(value):
    leave_a_daemon(value)
    os._exit(5)


# -- output


def write_a_gib(value):
    block = b"x" * (1 << 20)
    for _ in range(1024):
        os.write(1, block)


def write_garbage(value):
    os.write(1, bytes(range(256)) * 1000)
    sys.stderr.write("\ud800\0\n")
