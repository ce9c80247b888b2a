"""What one would write without mmgevent; knows neither NaN nor budgets nor keys that are equal across classes."""

from __future__ import annotations

from operator import add

import xxhash


def hash_key(key, seed=0):
    return xxhash.xxh64_intdigest(repr(key).encode(), seed)


def partition(key, count, seed=0):
    return xxhash.xxh64_intdigest(repr(key).encode(), seed) % count


def group(pairs, groups, budget):
    for key, value in pairs:
        if key in groups:
            groups[key].append(value)
        else:
            groups[key] = [value]


def fold(pairs, table, op, budget):
    for key, value in pairs:
        table[key] = add(table[key], value) if key in table else value


def scatter(groups, count):
    parts = [([], []) for _ in range(count)]
    for key, value in groups.items():
        keys, values = parts[partition(key, count)]
        keys.append(key)
        values.append(value)
    return parts


def merge_grouped(groups, keys, values):
    for key, more in zip(keys, values, strict=True):
        groups.setdefault(key, []).extend(more)


def merge_flat(groups, keys, values):
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)


def merge_fold(table, keys, values, op):
    for key, value in zip(keys, values, strict=True):
        table[key] = add(table[key], value) if key in table else value
