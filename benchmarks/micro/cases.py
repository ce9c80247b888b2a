"""Keys and records to time with: kinds of keys, and how many of them."""

from __future__ import annotations

import dataclasses
import random

_rng = random.Random(1)

WORDS = _rng.choices([f"word{n}" for n in range(3_000)], k=30_000)
HUGE = [chr(97 + n) * 1_000_000 for n in range(8)]


@dataclasses.dataclass(frozen=True)
class Point:
    """A key of a class of the user's: its hash, and its equality, are Python."""

    x: int
    y: int


#: kind of key -> distinct keys
KEYS = {
    "str": [f"word{n}" for n in range(3_000)],
    "int": [n * 7_919 for n in range(3_000)],
    "(str, int)": [(f"word{n}", n % 5) for n in range(3_000)],
    "user class": [Point(n, n % 7) for n in range(3_000)],
    "huge str": HUGE,
    "few str": ["to", "be", "or", "not"],
}

#: kind of records -> (key, value) pairs
PAIRS = {
    "30,000 str": [(word, 1) for word in WORDS],
    "30,000 int": [(hash(word) % 3_000, 1) for word in WORDS],
    "30,000 (str, int)": [((word, n % 5), 1) for n, word in enumerate(WORDS)],
    "30,000 user class": [(Point(len(word), n % 500), 1) for n, word in enumerate(WORDS)],
    "64 huge str": [(HUGE[n % 8], 1) for n in range(64)],
    "few: 4 str": [("to", 1), ("be", 1), ("or", 1), ("not", 1)],
}
