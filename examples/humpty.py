"""Count the words of the four lines that every MapReduce in Python has counted.

    $ mmg-run examples/humpty.py

Shows: the smallest job. Any mapping is a datasource.
"""

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
