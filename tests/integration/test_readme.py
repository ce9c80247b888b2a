"""The jobs and commands of README.md, as they stand there, in a fresh folder."""

import http.server
import json
import re
import sqlite3
import stat
import sys
import threading

import pytest

from tests.integration.commands import ROOT, read_tsv
from tests.ports import free_port

README = (ROOT / "README.md").read_text("utf-8")
#: Python code with the name of its file in the first line.
FILES = {name: code for code, name in re.findall(r"```python\n(# (\w+\.py)\n.+?)```", README, re.DOTALL)}
#: Commands for one machine. Those that need others are tried in test_commands.py and test_remote.py.
LINES = [
    line.partition("  ")[0]
    for line in re.findall(r"^    \$ (mmg-run .+\.py.*)$", README, re.MULTILINE)
    if not re.search(r"--(listen|join|elect)", line)
]
PROGRAMS = [
    name for name in FILES if "mmg-run" not in FILES[name] and "import mmgevent as mmg" in FILES[name]
]


@pytest.fixture
def folder(commands, tmp_path):
    """Return a folder with all files of the page, and the inputs that its commands name."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    for path in ("books/moby.txt", "books/emma.txt", "src/inner/module.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("It is a whale. A whale!\n")
    request = '127.0.0.1 - - [26/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" {} 612 "-" "curl"\n'
    (tmp_path / "access.log").write_text(request.format(200) * 3 + request.format(404))
    (tmp_path / "sales.csv").write_text('city,amount\nLagos,2.5\n"Lagos",3\nLima,1\n')
    (tmp_path / "people.txt").write_text("Ada\nGrace\n")
    with sqlite3.connect(tmp_path / "facts.db") as facts:
        facts.execute("create table people (name, city)")
        facts.execute("insert into people values ('Ada', 'London')")
    facts.close()
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "mmg-run"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mmgevent run --procs 2 "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    commands.environ["PATH"] = f"{bin_folder}:{commands.environ['PATH']}"
    return tmp_path


@pytest.fixture
def pages(folder):
    """Serve two pages, whose addresses are in urls.txt."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"page")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        urls = [f"http://127.0.0.1:{server.server_port}/{name}" for name in "ab"]
        (folder / "urls.txt").write_text("\n".join(urls) + "\n")
        yield urls
        server.shutdown()
        serving.join()


#: the job of a command -> its results, where they are not those of the word count
RESULTS = {
    "sizes.py": {"txt": 48, "py": 24},
    "statuses.py": {"200": 3, "404": 1},
    "cities.py": {"Lagos": 5.5, "Lima": 1.0},
    "cities2.py": {"Lagos": 5.5, "Lima": 1.0},
    "postcodes.py": {"London": ["Ada"]},
}
WORDS = {"it": 1, "is": 1, "a": 2, "whale": 2}


@pytest.mark.parametrize("line", LINES)
def test_each_command_gives_what_the_page_promises(commands, folder, pages, line):
    done = commands.run("-c", f"{line}", program=("-c", RUN_SHELL))
    assert done.returncode == 0, done.stderr
    if "--try" in line:
        assert "the results would go to standard output" in done.stdout
        return
    job = re.search(r"(\w+\.py)", line)[1]
    expected = {url: [4] for url in pages} if job == "fetch.py" else RESULTS.get(job)
    if expected is None:
        books = 1 if "moby" in line else 2
        expected = {word: books * count for word, count in WORDS.items()}
    assert read_results(line, folder, done.stdout) == expected


#: `Commands` starts Python programs: this one becomes a shell.
RUN_SHELL = "import os, sys; os.execvp('sh', ['sh', '-e', *sys.argv[1:]])"


def read_results(line, folder, stdout):
    """Return the results of a command, from wherever it says that they go, as a dict."""
    import csv
    import gzip

    import mmgevent

    written = re.search(r"(?:-o|>) (\S+)", line)
    if written is None:
        return read_tsv(stdout)
    path = folder / written[1]
    if path.suffix == ".pickle":
        return dict(mmgevent.load(path))
    if path.suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        return {row["key"]: row["value"] for row in rows}
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    if ".csv" in path.name:
        names, *rows = csv.reader(text.splitlines())
        assert names == ["word", "count"]
        return {word: int(count) for word, count in rows}
    if ".jsonl" in path.name:
        return dict(map(json.loads, text.splitlines()))
    return read_tsv(text)


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_runs(commands, folder, name):
    code = FILES[name].replace('"localhost"', f'"127.0.0.1:{free_port()}"')
    code = code.replace('"localhost:5000"', f'"127.0.0.1:{free_port()}"')
    (folder / name).write_text(code)
    done = commands.run(name, program=())
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout != "") == ("print(" in code)


def test_nothing_of_the_page_is_left_out():
    jobs = {re.search(r"(\w+\.py)", line)[1] for line in LINES}
    assert jobs | set(PROGRAMS) == set(FILES)
    assert len(LINES) > 15
