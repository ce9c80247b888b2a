"""The smallest job: what starting and ending cost."""

datasource = dict(
    enumerate(
        [
            "Humpty Dumpty sat on a wall",
            "Humpty Dumpty had a great fall",
            "All the King's horses and all the King's men",
            "Couldn't put Humpty together again",
        ]
    )
)


def mapfn(number, line):
    for word in line.split():
        yield word.lower(), 1


def reducefn(word, counts):
    return sum(counts)
