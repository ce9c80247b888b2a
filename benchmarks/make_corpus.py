"""Make text to count: words of a Zipf distribution, the same for the same seed.

    $ python -m benchmarks.make_corpus --size 200MB --files 16 --seed 1

prints the folder of the corpus, which is made once and kept in benchmarks/.corpus.

Words are drawn from a vocabulary of 100,000, the word of rank r with a weight of 1/r, which
is about what prose does. Drawing each word alone would take minutes; instead a pool of
lines is drawn, and files are lines of the pool in random order. So what is repeated is
lines, and the counts differ from file to file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from mmgevent.job.options import parse_size

FOLDER = Path(__file__).parent / ".corpus"

VOCABULARY_WORDS = 100_000
POOL_LINES = 50_000
WORDS_A_LINE = 11  #: as prose in lines of some 65 characters has
LINES_A_DRAW = 10_000  #: drawn from the pool and written at once


def make_corpus(size_bytes: int, files: int, seed: int, folder: Path = FOLDER) -> Path:
    """Return the folder with `files` text files of `size_bytes` in all; make it if it is not there."""
    target = folder / f"zipf-{size_bytes}-{files}-{seed}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    try:
        rng = random.Random(seed)
        pool = _make_pool(rng)
        for number in range(files):
            share = size_bytes * (number + 1) // files - size_bytes * number // files
            _write_file(making / f"part-{number:04}.txt", share, pool, rng)
        os.replace(making, target)
    except BaseException:
        shutil.rmtree(making)
        raise
    return target


def _make_pool(rng: random.Random) -> list[str]:
    vocabulary = _make_vocabulary(rng)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY_WORDS + 1)))
    words = rng.choices(vocabulary, cum_weights=weights, k=POOL_LINES * WORDS_A_LINE)
    return [" ".join(words[at : at + WORDS_A_LINE]) for at in range(0, len(words), WORDS_A_LINE)]


def _make_vocabulary(rng: random.Random) -> list[str]:
    """Return distinct words; frequent ones are short, as in prose."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY_WORDS:
        longest = 4 if len(words) < 200 else 10
        word = "".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, longest)))
        words[word] = None
    return list(words)


def _write_file(path: Path, size_bytes: int, pool: list[str], rng: random.Random) -> None:
    with path.open("w", encoding="ascii") as file:
        left = size_bytes
        while left > 0:
            text = "\n".join(rng.choices(pool, k=LINES_A_DRAW))[: left - 1] + "\n"
            left -= file.write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a corpus and print its folder.")
    parser.add_argument("--size", default="200MB", type=parse_size, help='in all, such as "200MB"')
    parser.add_argument("--files", default=16, type=int)
    parser.add_argument("--seed", default=1, type=int)
    given = parser.parse_args()
    sys.stdout.write(f"{make_corpus(given.size, given.files, given.seed)}\n")


if __name__ == "__main__":
    main()
