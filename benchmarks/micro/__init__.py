"""The smallest parts, timed one by one: the C core, its Python twin, and the Python that one would write.

    $ python -m pytest benchmarks/micro -o addopts= --benchmark-columns=min,median,ops
    $ python -m pytest benchmarks/micro -o addopts= -k "fold and few"

Compare within a group.  A function stays in C only while its lines here show why; cases in which C could lose (few
records, classes of the user's as keys, huge strings) are among them.
"""
