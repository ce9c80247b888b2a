"""Compare an inverted index, where every record travels, with the one written by hand.

$ python -m benchmarks.inverted_index --size 40MB --rounds 5
"""

from __future__ import annotations

from benchmarks.side_by_side import EXAMPLES, compare, ideal, mmg_run, read_arguments


def main() -> None:
    given = read_arguments("Compare inverted indexes.", "40MB")
    programs = {
        "ideal": ideal("index", *given.files),
        "mmgevent": mmg_run(given.procs, EXAMPLES / "inverted_index.py", *given.files),
    }
    compare(programs, given.size, given.rounds)


if __name__ == "__main__":
    main()
