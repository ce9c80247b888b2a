"""Compare a word count, with the combiner, with the one written by hand; time the smallest job.

$ python -m benchmarks.wordcount --size 200MB --rounds 5
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.side_by_side import (
    EXAMPLES,
    HERE,
    compare,
    describe,
    ideal,
    mmg_run,
    read_arguments,
    time_program,
)


def time_small_job(procs: int, rounds: int) -> None:
    """Print the seconds from start to exit of the four-line job."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answer"
        command = mmg_run(procs, EXAMPLES / "humpty.py")
        seconds = [time_program(command, output) for _ in range(rounds)]
    print(f"humpty, start to exit: {describe(seconds)} s")


def main() -> None:
    given = read_arguments("Compare word counts.", "200MB")
    programs = {
        "ideal": ideal("wordcount", *given.files),
        "mmgevent": mmg_run(given.procs, EXAMPLES / "wordcount.py", *given.files),
        "mmgevent, sum_values": mmg_run(given.procs, HERE / "summing.py", *given.files),
    }
    compare(programs, given.size, given.rounds)
    time_small_job(given.procs, max(5, given.rounds))


if __name__ == "__main__":
    main()
