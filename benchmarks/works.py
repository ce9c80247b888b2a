"""The works that engines are compared by: what each reads, and how large it is.

A work's `argument` is the one thing an engine is told besides its name: the folder with the
texts, or a number.  `numbers_of` and `ranges_of` say what items follow from a number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

from benchmarks.make_corpus import FOLDER, make_corpus

FILES = 16  #: of a corpus that is made
RANGES = 64  #: items of the sum
VALUES_A_KEY = 4  #: records of the sum with one key, far apart
BLOCKS = 8  #: items of "blocks", each of which is one block
BLOCK_KEYS = 1_000_000  #: most keys of "blocks"
BYTES_A_BLOCK_RECORD = 16  #: two columns of 8 bytes
BYTES_A_RECORD = 50  #: of text that the sum has one record for: its size follows --size
INDEX_SHARE = 5  #: the index is made of a part of the text, since all its records travel
WAIT_S = 0.05
AT_ONCE = 100  #: waits at a time

WORKS = {
    "wordcount": "word count, combiner",
    "index": "inverted index, no combiner",
    "tiny": "tiny items",
    "start": "four lines, start to exit",
    "sum": "sums of a wide int-keyed dataset",
    "blocks": "sums of arrays by key",
    "wait": f"maps that wait {WAIT_S * 1000:.0f} ms, {AT_ONCE} at once",
}


class Work(NamedTuple):
    """One thing to do."""

    name: str
    title: str
    argument: str
    amount: float  #: of `unit`, to be divided by the time
    unit: str


class Sizes(NamedTuple):
    """How large the works are to be."""

    size_bytes: int
    items: int
    waits: int
    corpus: Path | None  #: the user's own texts


def plan_work(name: str, sizes: Sizes) -> Work:
    """Return a work, and make the files it reads."""
    if name == "wordcount":
        return _text_work(name, sizes.size_bytes, sizes.corpus)
    if name == "index":
        return _text_work(name, max(1, sizes.size_bytes // INDEX_SHARE), sizes.corpus)
    if name == "start":
        return Work(name, WORKS[name], "", 1, "jobs")
    if name == "sum":
        count = max(RANGES, sizes.size_bytes // BYTES_A_RECORD)
        return Work(name, WORKS[name], str(count), count, "records")
    if name == "blocks":
        count = max(BLOCKS, sizes.size_bytes // BYTES_A_BLOCK_RECORD)
        return Work(name, WORKS[name], str(count), count, "records")
    count = sizes.items if name == "tiny" else sizes.waits
    return Work(name, f"{count:,} {WORKS[name]}", str(count), count, "items")


def numbers_of(argument: str) -> range:
    """Return the items of "tiny" and "wait"."""
    return range(int(argument))


def ranges_of(argument: str) -> list[tuple[int, tuple[int, int]]]:
    """Return the items of "sum": (first number, (end, number of keys))."""
    return _ranges(int(argument), RANGES, int(argument) // VALUES_A_KEY + 1)


def blocks_of(argument: str) -> list[tuple[int, tuple[int, int]]]:
    """Return the items of "blocks", as those of "sum"."""
    return _ranges(int(argument), BLOCKS, min(BLOCK_KEYS, int(argument) // VALUES_A_KEY + 1))


def _ranges(count: int, parts: int, width: int) -> list[tuple[int, tuple[int, int]]]:
    bounds = [count * i // parts for i in range(parts + 1)]
    return [(low, (high, width)) for low, high in itertools.pairwise(bounds)]


def paths_of(argument: str) -> list[str]:
    """Return the texts of a folder."""
    return [os.path.join(argument, name) for name in sorted(os.listdir(argument))]


def read_text(path: str) -> str:
    """Read one text as every engine does."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _text_work(name: str, size_bytes: int, corpus: Path | None) -> Work:
    folder = make_corpus(size_bytes, FILES, 1) if corpus is None else _repeat(corpus, size_bytes)
    n_bytes = sum(os.path.getsize(path) for path in paths_of(str(folder)))
    return Work(name, WORKS[name], str(folder), n_bytes / 1e6, "MB")


def _repeat(corpus: Path, size_bytes: int) -> Path:
    """Make a folder of links to the texts of `corpus`, again and again, until they are `size_bytes`."""
    texts = sorted(path for path in corpus.resolve().iterdir() if path.suffix == ".txt") or sorted(
        path for path in corpus.resolve().iterdir() if path.is_file() and not path.name.startswith(".")
    )
    if not sum(path.stat().st_size for path in texts):
        raise SystemExit(
            f"--corpus {corpus}: expected a folder with text files, found none with anything in it"
        )
    contents = repr([(str(path), path.stat().st_size) for path in texts])
    folder = FOLDER / f"links-{size_bytes}-{zlib.crc32(contents.encode()):08x}"
    if folder.is_dir():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="making-", dir=FOLDER))
    left, number = size_bytes, 0
    while left > 0:
        text = texts[number % len(texts)]
        (making / f"{number:06}-{text.name}").symlink_to(text)
        left -= text.stat().st_size
        number += 1
    with contextlib.suppress(FileExistsError):  # another run made the same
        making.rename(folder)
    return folder
