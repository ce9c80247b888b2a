"""Find the centres of clusters of points: k-means, a loop of jobs.

    $ python examples/kmeans.py

Shows: a program instead of a job file. One LocalCluster serves all rounds, so that its
processes start once. A job is made anew in each round, since a job never changes: what is
new in it, the centres, travels with the functions, bound to one of them by partial. The
coordinates are integers, whose sums are exact in any order, so that every run on any number
of cores prints the same.
"""

import functools
import random

import mmgevent as mmg

K = 5
POINTS = 20_000
CHUNK_POINTS = 1_000  # an item is a chunk of points, since an item a point would be small change
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


if __name__ == "__main__":  # for whoever imports this file; mmgevent itself needs no such line
    main()
