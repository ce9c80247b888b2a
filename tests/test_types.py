"""Types reach users: mypy accepts a user's ten lines and finds a user's mistakes, in the installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

TEN_LINES = """\
from collections.abc import Iterator

import mmgevent as mmg


def mapfn(title: str, text: str) -> Iterator[tuple[str, int]]:
    for word in text.split():
        yield word, 1


def total(word: str, counts: list[int]) -> int:
    return sum(counts)


def show(job: mmg.Job) -> None:
    with mmg.LocalCluster(2) as cluster:
        handle = cluster.submit(job)
        for word, count in handle.stream():
            print(word, count)


show(mmg.Job({"a": "to be or not to be"}, mapfn, mmg.reducers.sum_values, retries=3, memory_limit="1GiB"))
counts = mmg.run(mmg.Job(mmg.Files("*.txt"), mapfn, total))
print(sorted(counts, key=lambda word: -counts[word]))
"""

#: What a user writes by mistake instead of a part of TEN_LINES -> what mypy says of it.
MISTAKES = {
    ("cluster.submit(job)", "cluster.submitt(job)"): 'has no attribute "submitt"',
    ("handle.stream()", "handle.steam()"): 'has no attribute "steam"',
    ("mmg.run(", "mmg.runn("): 'has no attribute "runn"',
    ("mmg.LocalCluster(2)", 'mmg.LocalCluster("2")'): 'incompatible type "str"',
    ("mmg.reducers.sum_values", "mmg.reducers.sum_value"): 'has no attribute "sum_value"',
    ('mmg.Files("*.txt")', "mmg.Files(7)"): 'incompatible type "int"',
    ("retries=3", "retires=3"): 'No overload variant of "Job"',
    ("retries=3", 'retries="3"'): 'No overload variant of "Job"',
    ("def mapfn(title: str, text: str)", "def mapfn(text: str)"): 'Argument 2 to "Job" has incompatible',
    ("-counts[word]", "counts[word].upper()"): '"int" has no attribute "upper"',
    ("-counts[word]", "-counts[7]"): 'Invalid index type "int"',
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """{file: [what mypy says of it, ...]} for the ten lines, and for them with each mistake."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "right.py").write_text(TEN_LINES)
    for number, (right, wrong) in enumerate(MISTAKES):
        assert right in TEN_LINES
        (folder / f"wrong_{number}.py").write_text(TEN_LINES.replace(right, wrong, 1))
    names = sorted(path.name for path in folder.glob("*.py"))
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", *names],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode in (0, 1), ended
    lines = [line.partition(":") for line in ended.stdout.splitlines()]
    return {name: [text for file, _, text in lines if Path(file).name == name] for name in names} | {
        "elsewhere": [text for file, _, text in lines if Path(file).name not in names]
    }


def test_ten_lines_of_a_users_are_right(told):
    assert told["right.py"] == []
    assert told["elsewhere"] == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[1])
def test_a_mistake_of_a_users_is_found(told, mistake):
    found = told[f"wrong_{list(MISTAKES).index(mistake)}.py"]
    assert any(MISTAKES[mistake] in text for text in found), found
