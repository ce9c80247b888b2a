"""Choose the number of partitions of a job, and the partitions of each reduce task."""

from __future__ import annotations

from mmgevent.wire.limits import MAX_PARTITIONS

#: Partitions per slot, so that reduce tasks of several partitions can have equal sizes.
PARTITIONS_PER_SLOT = 4

#: Partitions of a job on few slots. Workers may join before the map phase ends.
MIN_PARTITIONS = 32

#: Reduce tasks per slot. While one slot runs a long task, the others run the rest.
REDUCE_TASKS_PER_SLOT = 4


def choose_partitions(slots: int) -> int:
    """Return the number of partitions, a power of two, for a job that does not set it."""
    wanted = max(MIN_PARTITIONS, PARTITIONS_PER_SLOT * slots)
    return min(MAX_PARTITIONS, 1 << (wanted - 1).bit_length())


def cut_partitions(sizes: dict[int, int], task_count: int) -> list[tuple[int, ...]]:
    """Group partitions into about `task_count` reduce tasks of similar size.

    `sizes`: {partition: bytes}.
    """
    groups: list[tuple[int, ...]] = []
    if not sizes:
        return groups
    target = sum(sizes.values()) / task_count
    group: list[int] = []
    group_bytes = 0
    for partition in sorted(sizes):
        if group and group_bytes + sizes[partition] / 2 > target:
            groups.append(tuple(group))
            group, group_bytes = [], 0
        group.append(partition)
        group_bytes += sizes[partition]
    groups.append(tuple(group))
    return groups
