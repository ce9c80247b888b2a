"""The executor: a process that runs the user's functions of one job, in its main thread.

The template forks it, with nothing of the user in it. It gets one job with its code, then attempts
of that job's tasks, one at a time, until its link closes. Then the process ends. An executor
decides nothing: the server says what to run, and the worker finds out what to blame for a death,
from the status page. `executor.attempt` runs the attempts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import os
import socket
import sys
import types
from typing import Any

from mmgevent.errors import LinkClosed, ProtocolError, ShippingError
from mmgevent.executor import terminal
from mmgevent.executor.attempt import TaskRunner
from mmgevent.executor.channel import Channel
from mmgevent.executor.plain_rules import read_plain_rules
from mmgevent.executor.prints import PrintedFile
from mmgevent.executor.record_memory import record_memory_bytes
from mmgevent.executor.status_page import StatusPage, write_stacks_on_signal
from mmgevent.job.functions import Functions
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.shipping.effects import Effect
from mmgevent.job.shipping.load import load_functions
from mmgevent.job.shipping.surroundings import enter_surroundings
from mmgevent.machine.resources import find_scratch_folder, limit_memory
from mmgevent.tasks.blame import blame_exception, describe_error
from mmgevent.tasks.calls import CallRules
from mmgevent.tasks.counters import NOT_IN_SETUP, refusing
from mmgevent.wire import failures
from mmgevent.wire.frames import CODE, CONTROL, INPUT, Frame, Lane
from mmgevent.wire.lanes import CODE_WINDOW, ReceiveWindow, grant_frame
from mmgevent.wire.messages import control, decode_message
from mmgevent.wire.partition_sets import decode_partitions


def main(link_fd: int, page_fd: int, scratch_dir: str | None, *, greenlets: bool, executors: int = 1) -> None:
    """Run until the link closes. Called once, in a fresh child of the template.

    `greenlets`: the process is monkey-patched and may run several items at once. `executors`: how
    many its worker has; they share the memory.
    """
    page = StatusPage(page_fd)
    _open_streams(page)
    faulthandler.enable()  # a crash in C prints the Python stack
    sys.argv = ["mmg-executor"]  # until the job arrives
    sys.modules["__main__"] = types.ModuleType("__main__")
    channel = Channel(socket.socket(fileno=link_fd))
    write_stacks_on_signal(page_fd)
    os.register_at_fork(after_in_child=channel.abandon)
    os.register_at_fork(after_in_child=page.abandon)
    with contextlib.suppress(LinkClosed):  # the job or the worker has ended
        Executor(channel, page, scratch_dir or find_scratch_folder(), greenlets, executors).serve()


def _open_streams(page: StatusPage) -> None:
    """Make new standard streams: those of the template were made for other descriptors."""
    terminal.install()
    for name, fd in (("stdout", 1), ("stderr", 2)):
        # Buffered by lines: a buffer is lost when the process dies.
        file = io.BufferedWriter(PrintedFile(fd, page))
        stream = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    # What is logged where nothing is set up: with level and name, since others read it elsewhere.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter(logging.BASIC_FORMAT))


class Executor:
    """Takes frames from the channel and carries them out."""

    def __init__(self, channel: Channel, page: StatusPage, scratch_dir: str, greenlets: bool, executors: int):
        self._channel = channel
        self._page = page
        self._runner = TaskRunner(channel, page, scratch_dir, executors=executors)
        self._executor_count = executors
        self._is_patched = greenlets
        self._functions: Functions | None = None
        self._load_failure: dict[str, Any] | None = None
        #: messages about the loading of the job, sent with the first attempt
        self._notices: list[dict[str, Any]] = []
        self._is_set_up = False
        self._setup_failure: dict[str, Any] | None = None

    def serve(self) -> None:
        """Carry out frames without end.

        Raises LinkClosed at the end, ProtocolError for a fault of ours.
        """
        while True:
            frame = self._channel.next_frame()
            if frame.kind == INPUT:
                continue  # its attempt failed before it had read everything
            if frame.kind != CONTROL:
                raise ProtocolError(f"an executor got {frame!r}")
            message = decode_message(frame.payload)
            if message["type"] == "job":
                self._take_job(frame, message)
            elif message["type"] == "assign":
                self._run(frame.lane, message)
            else:
                raise ProtocolError(f"an executor got the message {message['type']!r}")

    # -- the job

    def _take_job(self, frame: Frame, message: dict[str, Any]) -> None:
        options = message["options"]
        limit_bytes = options.get("memory_limit")
        context_bytes = message.get("context_bytes", 0)
        received = memoryview(self._receive_code(frame.lane, context_bytes + message["code_bytes"]))
        context, code = received[:context_bytes], received[context_bytes:]
        try:
            if context_bytes:
                enter_surroundings(json.loads(bytes(context)))
            if limit_bytes is not None:
                limit_memory(limit_bytes)
            self._runner.memory_bytes = record_memory_bytes(limit_bytes, self._executor_count)
            self._runner.retries = options.get("retries", 0)
            self._runner.max_skipped = options.get("max_skipped", 0)
            self._runner.plain = read_plain_rules(options)
            if unwanted := options.get("unwanted"):
                self._runner.unwanted = decode_partitions(unwanted)
            if parts := options.get("write_parts"):
                from mmgevent.tasks.part_writer import import_modules

                self._runner.parts = PartsPlan(**parts)
                import_modules(self._runner.parts)  # before user code can limit open files
            if options.get("logs") is True:
                from mmgevent.tasks.item_clock import ItemClock  # few jobs need it

                self._runner.clock = ItemClock()
            if options.get("items_per_call") is not None:
                self._runner.calls = CallRules(options["items_per_call"], self._page.mark_call)
            if self._is_patched and options.get("greenlets", 0) > 1:
                from mmgevent.executor.pool import ItemPool

                self._runner.map_items = ItemPool(options["greenlets"], self._page).map_items
            self._functions = load_functions(code, self._note_slow, self._note_missed, self._note_setting)
        except BaseException as error:  # also SystemExit, from a module of the user
            self._load_failure = _describe_load(error)

    def _receive_code(self, lane: Lane, size: int) -> bytes:
        window = ReceiveWindow(CODE_WINDOW)
        code = bytearray()

        def wanted(frame: Frame) -> bool:
            if frame.kind != CODE:
                return False
            window.received(len(frame.payload))
            code.extend(frame.payload)
            grant = window.consumed(len(frame.payload))
            if grant and len(code) < size:
                self._channel.send_first(grant_frame(lane, grant))
            return True

        self._channel.take_waiting(lane, wanted)
        while len(code) < size:
            self._channel.wait(wanted)
        return bytes(code)

    def _note_slow(self, effect: Effect, seconds: float) -> None:
        text = (
            f"import of {effect.module}, which the job's file does for its effect only, took {seconds:.1f} s"
        )
        self._notices.append({"text": text, "quiet": True})

    def _note_missed(self, missed: list[tuple[Effect, BaseException]]) -> None:
        texts = [f"import of {effect.module} failed: {describe_error(error)}" for effect, error in missed]
        text = (
            f"{'; '.join(texts)}. Nothing in the job's file uses its name: the job goes on without its effect"
        )
        text = failures.shorten(text)
        self._notices.append({"text": text, "once": ",".join(effect.module for effect, _ in missed)})

    def _note_setting(self, problem: str) -> None:
        problem = failures.shorten(problem)
        self._notices.append({"text": problem, "once": problem})

    # -- attempts

    def _run(self, lane: Lane, message: dict[str, Any]) -> None:
        if self._functions is None:
            failure = self._load_failure or {"kind": "import", "error": "no job came before its tasks"}
            self._channel.send(control("failed", *lane, failure=failure))
            return
        while self._notices:
            self._channel.send(control("notice", *lane, **self._notices.pop(0)))
        if not self._is_set_up:
            self._set_up(self._functions)
        if self._setup_failure is not None:
            self._channel.send(control("unprepared", *lane, failure=self._setup_failure))
            return  # the worker kills this process, and tries another one
        self._runner.run(self._functions, lane, message)

    def _set_up(self, functions: Functions) -> None:
        """Call the job's setupfn, if it has one, before the first attempt.

        So an executor that gets no attempts need not load a model.
        """
        self._is_set_up = True
        if functions.setupfn is None:
            return
        self._page.begin_setup()
        try:
            with refusing("setupfn", NOT_IN_SETUP):
                functions.setupfn()
        except BaseException as error:  # also SystemExit
            self._setup_failure = blame_exception(error, "setupfn").failure
        self._channel.check_open()  # now, while the status page shows who closed it


def _describe_load(error: BaseException) -> dict[str, Any]:
    """Return the failure record of a job whose functions did not load."""
    failure = blame_exception(error, None).failure
    failure["kind"] = "import" if isinstance(error, ImportError) else "shipping"
    if isinstance(error, (ImportError, ShippingError)):
        failure["error"] = str(error)  # a whole message, with its advice
        failure.pop("advice", None)
    return failures.bound(failure)
