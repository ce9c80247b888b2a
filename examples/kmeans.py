"""Find the centres of clusters of points: k-means, a loop of jobs.

    $ python examples/kmeans.py

Shows: a program instead of a job file. One LocalCluster serves all rounds, so its processes start
once. Each round makes a new job, since a job never changes. The centres are the new part: partial
binds them to a function, and they travel with it. The coordinates are integers, whose sums are
exact in any order, so every run on any number of cores prints the same.
"""

import functools
import random

import mmgevent as mmg

K = 5
POINTS = 20_000
CHUNK_POINTS = 1_000  # in one item; an item for each point would be mostly overhead
MAX_ROUNDS = 100


def make_points(seed=1):
    """Return points around K places, always the same ones."""
    rng = random.Random(seed)
    places = [(rng.randrange(10_000), rng.randrange(10_000)) for _ in range(K)]
    return [(round(rng.gauss(x, 700)), round(rng.gauss(y, 700))) for x, y in rng.choices(places, k=POINTS)]


def assign(centres, number, points):
    """Map: yield (index of the nearest centre, (x, y, 1)) for each point of the chunk."""
    for x, y in points:
        distances = [(x - cx) ** 2 + (y - cy) ** 2 for cx, cy in centres]
        yield distances.index(min(distances)), (x, y, 1)


def add(index, vectors):
    """Collect and reduce: add up x, y and the number of points."""
    return tuple(map(sum, zip(*vectors, strict=True)))


def move(cluster, chunks, centres):
    """Run one round; return the centres, each moved to the mean of the points nearest to it."""
    job = mmg.Job(chunks, functools.partial(assign, centres), add, collectfn=add, name="kmeans")
    moved = list(centres)  # a centre without points stays where it is
    for index, (x, y, count) in cluster.run(job).items():
        moved[index] = (x / count, y / count)
    return moved


def main():
    points = make_points()
    chunks = {at: points[at : at + CHUNK_POINTS] for at in range(0, len(points), CHUNK_POINTS)}
    centres = points[:K]
    with mmg.LocalCluster() as cluster:
        for number in range(1, MAX_ROUNDS + 1):
            before, centres = centres, move(cluster, chunks, centres)
            if centres == before:
                print(f"{number} rounds")
                break
        else:
            raise SystemExit(f"the centres still move after {MAX_ROUNDS} rounds")
    for x, y in sorted(centres):
        print(f"{x:.3f}\t{y:.3f}")


if __name__ == "__main__":  # for programs that import this file; mmgevent needs no such line
    main()
