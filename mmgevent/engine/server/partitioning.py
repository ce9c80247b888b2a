"""How many partitions a job gets, and which of them make one reduce task."""

from __future__ import annotations

from mmgevent.wire.limits import MAX_PARTITIONS

#: partitions per slot unless the job says, so that reduce tasks can be balanced by size
PARTITIONS_PER_SLOT = 4
MIN_PARTITIONS = 32
#: reduce tasks aimed at per slot: the rest of a long one is shared by the others
REDUCE_TASKS_PER_SLOT = 4


def choose_partitions(slots: int) -> int:
    """Return the number of partitions for a job that does not say, a power of two."""
    wanted = max(MIN_PARTITIONS, PARTITIONS_PER_SLOT * slots)
    return min(MAX_PARTITIONS, 1 << (wanted - 1).bit_length())


def cut_partitions(sizes: dict[int, int], task_count: int) -> list[tuple[int, ...]]:
    """Group partitions, {partition: bytes}, into about `task_count` reduce tasks of about equal bytes."""
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
