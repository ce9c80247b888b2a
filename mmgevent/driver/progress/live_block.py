"""A block of some lines at the end of a terminal that shows how far a job is.

    map     ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100 % 2,000/2,000 items
    reduce  ━━━━━━━━━━━━━━━━━━────────────────────────  43 % 7/16 tasks
    1 worker with 4 slots, 4 busy, 2 retries, 1 death, 42 s gone, 12 s left in reduce

There is a bar for each phase. It fits the width that the terminal has at the moment: first the bars
get shorter, then what stands behind them is cut. rich is imported only once a job has run for a
while: the import takes longer than a small job.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mmgevent.driver.progress import reporters
from mmgevent.driver.progress.text import (
    count,
    count_done,
    describe_rate,
    describe_size,
    describe_time,
    describe_troubles,
    describe_workers,
    size_done,
)
from mmgevent.machine.logs import get_log
from mmgevent.shown_text import MAX_LINES, shown

if TYPE_CHECKING:
    from mmgevent.driver.progress.progress import Progress

log = get_log(__name__)

#: Times a second that the block is drawn.
DRAWN_PER_S = 5
#: Width of the name of a phase, characters.
NAME_CHARS = 8
#: Width of a percentage with its sign, characters, and of the blanks around it.
PERCENT_CHARS = 5
#: Widths of a bar, characters. Longer ones say no more; shorter ones are left out.
MAX_BAR_CHARS, MIN_BAR_CHARS = 42, 6
#: The last column stays free: some terminals begin a line after it, which would then be left over.
FREE_CHARS = 1
#: {what is done with the results: name of the row}
_OUTPUT_ROWS = {"sorting": "sort", "writing": "write", "finishing": "finish"}


#: Whoever has it shows a block: two would overwrite each other.
_turn = threading.Lock()


class PhaseRow(NamedTuple):
    """One phase."""

    name: str
    #: share that is done; None if that is not known
    fraction: float | None
    #: in words, the most important first
    facts: tuple[str, ...]


class BlockReporter(reporters.Reporter):
    """Keep a block of lines up to date."""

    ticks = True

    def __init__(self, name: str):
        super().__init__(name)
        self._live: Any = None  # while this has `_turn`
        self._is_gone = False  # whether the terminal is no longer there

    def notice(self, text: str) -> None:
        with self._lock:
            if self._live is not None:
                with self._noting_hangup():
                    self._live.console.print(
                        f"{self._name}: {shown(text, MAX_LINES)}",
                        markup=False,
                        emoji=False,
                        highlight=False,
                        soft_wrap=True,
                    )
            else:
                reporters.say(self._name, text)

    def rows(self) -> list[PhaseRow]:
        """Return the phases of the job that there were so far, and what is done with its results."""
        rows = [] if self._progress is None else list(self._phases(self._progress))
        if self._output is not None:
            rows.append(PhaseRow(_OUTPUT_ROWS[self._output], None, (count(self.results, "result"),)))
        return rows

    def facts(self) -> str:
        """Return the line below the bars."""
        progress = self._progress
        found = []
        if progress is not None:
            if progress.stages > 1:
                found.append(f"stage {progress.stage} of {progress.stages}")
            found.append(describe_workers(progress) if progress.workers else "waiting for workers")
            found += describe_troubles(progress)
        found.append(f"{describe_time(time.monotonic() - self._started_s)} gone")
        if progress is not None and progress.seconds_left is not None and self._output != "finishing":
            found.append(f"{describe_time(progress.seconds_left)} left in {progress.phase}")
        return ", ".join(found)

    def _phases(self, progress: Progress) -> Iterator[PhaseRow]:
        if progress.phase != "reduce":
            done = count_done(progress)
            if progress.bytes:
                done = size_done(progress) if not progress.total else f"{done}, {size_done(progress)}"
            rate = describe_rate(progress, self._map_seconds())
            yield PhaseRow("map", progress.fraction, (done, *([rate] if rate else ())))
            return
        mapped = [] if progress.items is None else [count(progress.items + progress.skipped, "item")]
        if progress.total_bytes:
            mapped.append(describe_size(progress.total_bytes))
        yield PhaseRow("map", 1.0, tuple(mapped))
        if self._output == "finishing":  # the last tasks are done, which nobody reports
            yield PhaseRow("reduce", 1.0, (count(progress.total or progress.done, "task"),))
        else:
            yield PhaseRow("reduce", progress.fraction, (count_done(progress),))

    def _show(self) -> None:
        if self._live is not None or self._is_gone:
            return
        is_due = time.monotonic() - self._started_s >= reporters.BLOCK_AFTER_S
        if is_due and _turn.acquire(blocking=False):
            self._open()

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=lambda: _Drawn(self.rows(), self.facts()),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=DRAWN_PER_S,
            redirect_stdout=_is_terminal(sys.stdout),  # what a program prints elsewhere goes there
        )
        with self._noting_hangup():
            self._live.start(refresh=True)

    def _clear(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            try:
                with self._noting_hangup():
                    live.stop()
            finally:
                _turn.release()

    @contextlib.contextmanager
    def _noting_hangup(self) -> Iterator[None]:
        """Show nothing more if the terminal was closed. The job goes on, as under nohup."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._is_gone = True
            log.debug("progress is no longer shown: %s", error)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # closed, or an object of the program's
        return False


class _Drawn:
    """The block as rich draws it, in the width of this moment."""

    def __init__(self, rows: list[PhaseRow], facts: str):
        self._rows = rows
        self._facts = facts

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        width = max(1, options.max_width - FREE_CHARS)
        bar_chars = _fit_bar(self._rows, width)
        done, to_do = ("=", "-") if options.ascii_only else ("━", "─")
        for row in self._rows:
            line = Text(row.name.ljust(NAME_CHARS), style="bold")
            if bar_chars:
                filled = round(bar_chars * (row.fraction or 0.0))
                line.append(done * filled, style="green")
                line.append(to_do * (bar_chars - filled) + " ", style="dim")
            percent = "" if row.fraction is None else f"{int(100 * row.fraction)} %"
            line.append(percent.rjust(PERCENT_CHARS) + " ", style="bold")
            line.append(_fit_facts(row.facts, width - line.cell_len), style="default")
            line.truncate(width, overflow="ellipsis" if not options.ascii_only else "crop")
            yield line
        yield Text("\n").join(Text(self._facts).wrap(console, width))


def _fit_bar(rows: list[PhaseRow], width: int) -> int:
    """Return the width of the bars beside the facts; 0 if they would be too short."""
    room = width - NAME_CHARS - PERCENT_CHARS - 2
    free = room - max((len(", ".join(row.facts)) for row in rows), default=0)
    if free < MIN_BAR_CHARS:  # only what is most important needs room
        free = min(MIN_BAR_CHARS, room - max((len(row.facts[0]) for row in rows if row.facts), default=0))
    return 0 if free < MIN_BAR_CHARS else min(free, MAX_BAR_CHARS)


def _fit_facts(facts: tuple[str, ...], room: int) -> str:
    """Return as many of the facts as there is room for; the first one is cut if it must be."""
    kept = list(facts)
    while len(kept) > 1 and len(", ".join(kept)) > room:
        kept.pop()
    return ", ".join(kept)
