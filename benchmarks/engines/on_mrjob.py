"""mrjob with its local runner: processes that speak lines of JSON over pipes, with sort(1) between them.

Texts are mapped whole (`mapper_raw`), as the others do; numbers and ranges are lines of a file. Sums have a
combiner, the index has none.
"""

from __future__ import annotations

import os
import sys
import tempfile
from urllib.parse import unquote, urlparse

from benchmarks import maps
from benchmarks.engines import read_request, write_answer
from benchmarks.works import numbers_of, paths_of, ranges_of, read_text

TITLE = "mrjob"
NEEDS = "mrjob"
CANNOT = {"wait": "as many waits at once as processes", "blocks": "arrays as records"}


def define_job():
    """Return the job class; a function, since its base is not installed everywhere."""
    from mrjob.job import MRJob
    from mrjob.step import MRStep

    class Job(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--work")

        def steps(self):
            work = self.options.work
            texts = {"wordcount": self.count_text, "index": self.index_text}
            lines = {"tiny": self.square_line, "start": self.count_line, "sum": self.spread_line}
            mapper = {"mapper_raw": texts[work]} if work in texts else {"mapper": lines[work]}
            if work == "index":
                return [MRStep(reducer=self.unique, **mapper)]
            return [MRStep(combiner=self.add_up, reducer=self.add_up, **mapper)]

        def count_text(self, path, uri):
            return maps.count_words(path, read_text(path))

        def index_text(self, path, uri):
            original = unquote(urlparse(uri).path)
            return maps.index_words(original, read_text(path))

        def square_line(self, _, line):
            return maps.square(int(line), None)

        def count_line(self, _, line):
            return maps.count_line(0, line)

        def spread_line(self, _, line):
            low, high, width = map(int, line.split())
            return maps.spread(low, (high, width))

        def add_up(self, key, values):
            yield key, sum(values)

        def unique(self, key, names):
            yield key, sorted(set(names))

    return Job


def lines_of(work, argument):
    """Return the lines that stand for the items of a work without texts."""
    if work == "tiny":
        return [str(number) for number in numbers_of(argument)]
    if work == "start":
        return list(maps.LINES)
    return [f"{low} {high} {width}" for low, (high, width) in ranges_of(argument)]


def main():
    work, argument, output, procs = read_request()
    with tempfile.TemporaryDirectory() as folder:
        if work in ("wordcount", "index"):
            inputs = paths_of(argument)
        else:
            inputs = [os.path.join(folder, "items.txt")]
            with open(inputs[0], "w") as file:
                file.write("".join(f"{line}\n" for line in lines_of(work, argument)))
        options = ["--no-conf", "-r", "local", "--num-cores", str(procs), "--work", work]
        job = define_job()(args=[*options, *inputs])
        with job.make_runner() as runner:
            runner.run()
            write_answer(output, job.parse_output(runner.cat_output()))


if __name__ == "__main__":
    if any(argument.startswith("--step-num") for argument in sys.argv):
        define_job().run()  # a task of the runner's
    else:
        main()
