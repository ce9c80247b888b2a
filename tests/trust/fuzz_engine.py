"""Look for inputs that break a target of `fuzz`, guided by coverage, with atheris (libFuzzer).

    $ python -m tests.trust.fuzz_engine [--seconds N | --runs N] [--seed N] [--corpus DIR] [TARGET ...]

Each target runs in a process of its own, since libFuzzer ends it. An input that breaks one is written to
CRASHES-TARGET-... below the corpus, shown here, and belongs into `fuzz.FOUND`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

#: why nothing can be looked for here; "" where it can
MISSING = (
    ""
    if importlib.util.find_spec("atheris")
    else "atheris is not installed: pip install -e '.[fuzz]' (it has wheels for some Pythons on Linux only)"
)
#: bytes of an input: several messages of every kind
MAX_BYTES = 2048
#: libFuzzer's own limits: of memory for a process, of seconds for one input
MEMORY_MIB = 1024
SLOW_S = 10
#: what is instrumented: the modules that parse what a peer sends
PARSERS = [
    "mmgevent.wire",
    "mmgevent.tasks.records",
    "mmgevent.job.options",
    "mmgevent.engine.server",
    "mmgevent.engine.scheduler",
    "mmgevent.engine.worker.held",
]
ROOT = Path(__file__).resolve().parents[2]


class Search(NamedTuple):
    """What came of looking for inputs."""

    target: str
    executions: int
    #: edges of the instrumented code that were reached
    edges: int
    #: inputs that broke the target
    crashes: list[bytes]
    log: str


def search(target: str, folder: Path, *, seed: int, runs: int = 0, seconds: float = 0) -> Search:
    """Look for inputs that break the target, so many times or seconds; the corpus is kept in `folder`."""
    from tests.trust import fuzz

    corpus = folder / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*fuzz.seeds(target), *(d for t, d in fuzz.FOUND if t == target)]):
        (corpus / f"seed-{number:03d}").write_bytes(data)
    dictionary = folder / f"{target}.words"
    dictionary.write_text("# none\n" + "".join(f'"{quote(word)}"\n' for word in sorted(fuzz.words(target))))
    prefix = folder / f"CRASHES-{target}-"
    options = {
        "seed": seed,
        "max_len": MAX_BYTES,
        "rss_limit_mb": MEMORY_MIB,
        "timeout": SLOW_S,
        "artifact_prefix": prefix,
        "dict": dictionary,
        "print_final_stats": 1,
        "runs": runs or -1,
        "max_total_time": int(seconds),
    }
    # By a shell: a process takes over, as its own, the largest size that the one which started it has had.
    command = [
        "/bin/sh",
        "-c",
        '"$@"; exit $?',
        "sh",
        sys.executable,
        "-m",
        "tests.trust.fuzz_engine",
        "--one",
        target,
    ]
    command += [f"-{name}={value}" for name, value in options.items()] + [str(corpus)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    log = done.stdout.decode("utf-8", "backslashreplace")
    crashes = [path.read_bytes() for path in sorted(folder.glob(f"{prefix.name}*"))]
    if done.returncode and not crashes:  # it did not come to that
        raise RuntimeError(f"{target}: the search ended with {done.returncode}:\n{log}")
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", log) or re.findall(r"#(\d+)\t", log)
    edges = re.findall(r"cov: (\d+)", log)
    return Search(target, int(executions[-1]), int(edges[-1]) if edges else 0, crashes, log)


def quote(word: str) -> str:
    """Write a word as libFuzzer's dictionaries have it."""
    return word.replace("\\", "\\\\").replace('"', '\\"')


def run_one(argv: list[str]) -> None:
    """Be the process of one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=PARSERS):
        from tests.trust import fuzz
    atheris.Setup(["fuzz", *argv[1:]], getattr(fuzz, argv[0]))
    atheris.Fuzz()


def main(argv: list[str]) -> int:
    if MISSING:
        sys.stderr.write(f"{MISSING}\n")
        return 1
    from tests.trust import fuzz

    parser = argparse.ArgumentParser(prog="python -m tests.trust.fuzz_engine")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(fuzz.TARGETS))
    parser.add_argument("--seconds", type=float, default=0, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="of each target")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--corpus", type=Path, help="folder to keep what was found interesting in")
    arguments = parser.parse_args(argv)
    found = 0
    with tempfile.TemporaryDirectory(prefix="mmgevent-fuzz-") as temporary:
        for target in arguments.targets or fuzz.TARGETS:
            result = search(
                target,
                arguments.corpus or Path(temporary),
                seed=arguments.seed,
                runs=arguments.runs,
                seconds=arguments.seconds,
            )
            found += len(result.crashes)
            sys.stdout.write(f"{target}: {result.executions} inputs, {result.edges} edges\n")
            for crash in result.crashes:
                sys.stdout.write(f"  breaks it: {crash!r}\n{result.log[-4000:]}\n")
    return min(found, 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2:])
    raise SystemExit(main(sys.argv[1:]))
