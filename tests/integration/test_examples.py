"""Every file of examples/, run as its header says, against a plain computation of the same."""

import collections
import contextlib
import gzip
import html
import http.server
import importlib
import importlib.util
import inspect
import json
import math
import os
import platform
import random
import re
import threading
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.make_corpus import make_corpus
from tests.integration.commands import ROOT, read_tsv, wait_for

EXAMPLES = ROOT / "examples"

#: each example -> the test that runs it, with the module where that is another one
TESTED = {
    "access_log.py": "test_access_log_counts_answers_and_bad_lines",
    "convert.py": "test_convert_writes_each_file_whole",
    "crawl.py": "test_crawl_fetches_many_pages_at_once",
    "daemon.py": "test_node_examples:test_daemon_reads_on_while_jobs_run_and_waits_for_them_at_the_end",
    "election.py": "test_node_examples:test_election_elects_another_when_the_server_is_killed",
    "humpty.py": "test_commands:test_humpty_is_counted_and_nothing_else_is_said",
    "inverted_index.py": "test_inverted_index_lists_files_in_their_order",
    "join.py": "test_join_pairs_the_lines_of_equal_keys",
    "kmeans.py": "test_kmeans_finds_the_centres_of_a_plain_loop",
    "masterless.py": "test_node_examples:test_masterless_processes_count_for_one_another",
    "pagerank.py": "test_pagerank_ranks_pages_as_a_plain_loop_does",
    "parquet_groupby.py": "test_parquet_groupby_adds_up_its_own_input_and_files_that_are_named",
    "repl.py": "test_node_examples:test_repl_answers_lines_of_a_pipe_and_survives_what_fails",
    "sales_blocks.py": "test_sales_blocks_add_up_columns",
    "sales_csv.py": "test_sales_csv_adds_up_by_region_and_month_and_sets_bad_rows_aside",
    "sessions.py": "test_sessions_are_cut_in_the_order_of_time",
    "stats.py": "test_stats_hears_of_every_worker_once",
    "topk.py": "test_topk_is_the_top_of_all_counts",
    "topwords.py": "test_topwords_is_the_top_of_all_counts",
    "webfarm.py": "test_node_examples:test_webfarm_answers_again_after_the_elected_process_is_killed",
    "wordcount.py": "test_commands:test_wordcount_of_files_is_what_three_lines_of_python_say",
    "wordcount_maponly.py": "test_wordcount_without_reduce_counts_the_same",
}

#: for something to happen in another process of a busy machine
DEADLINE_S = 60.0


@pytest.fixture
def corpus(tmp_path):
    return sorted(make_corpus(300_000, 5, seed=11, folder=tmp_path).iterdir())


def find_words(path):
    return re.findall(r"[a-z']+", path.read_text(encoding="utf-8").lower())


def count_words(paths):
    return collections.Counter(word for path in paths for word in find_words(path))


def find_top(counts, n):
    """Return n (word, count), highest counts first; of equal counts the later words."""
    return sorted(counts.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:n]


def run_example(commands, name, *argv, options=("--procs", "2"), **kwargs):
    """Run a job file to its end and return its output; it must succeed."""
    ended = commands.run("run", *options, EXAMPLES / name, *argv, **kwargs)
    assert ended.returncode == 0, ended  # what it says of its progress depends on the machine
    return ended.stdout


# the table


def test_every_example_is_in_the_table():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(TESTED)


@pytest.mark.parametrize("example", TESTED)
def test_the_table_names_tests_that_run_the_example(example):
    module, _, name = TESTED[example].rpartition(":")
    module = importlib.import_module(f"tests.integration.{module or 'test_examples'}")
    assert f'"{example}"' in inspect.getsource(getattr(module, name))


@pytest.mark.parametrize("example", TESTED)
def test_the_header_of_an_example_says_how_to_run_it_and_what_it_shows(example):
    header = (EXAMPLES / example).read_text().split('"""')[1]
    assert re.search(rf"^    \$ .*examples/{example}", header, re.MULTILINE)
    assert "\nShows: " in header


# job files


def test_wordcount_without_reduce_counts_the_same(commands, corpus):
    counts = read_tsv(run_example(commands, "wordcount_maponly.py", *corpus))
    assert counts == count_words(corpus)


def test_inverted_index_lists_files_in_their_order(commands, corpus):
    backwards = corpus[::-1]
    expected = {}
    for path in backwards:
        for word in set(find_words(path)):
            expected.setdefault(word, []).append(str(path))
    assert read_tsv(run_example(commands, "inverted_index.py", *backwards)) == expected


def test_access_log_counts_answers_and_bad_lines(commands, tmp_path):
    random_ = random.Random(3)
    lines, expected = [], collections.Counter()
    for _ in range(2000):
        hour, status = random_.randrange(24), random_.choice([200, 200, 404, 500])
        address = f"203.0.113.{random_.randrange(256)} - - [27/Nov/2026:{hour:02}:04:35 +0000]"
        lines.append(f'{address} "GET /\\"x HTTP/1.1" {status} 512 "-" "curl"')
        expected[json.dumps([str(status), f"27/Nov/2026:{hour:02}"])] += 1
    lines[100:100] = ["", "\x16\x03\x01 no answer", '203.0.113.1 - - [27/Nov/2026:01:00:00 +0000] "GET']
    expected.update({"blank lines": 1, "bad lines": 2})
    text = "".join(f"{line}\n" for line in lines).encode()
    cut = text.index(b"\n", len(text) // 2) + 1
    (tmp_path / "access.log").write_bytes(text[:cut])
    (tmp_path / "access.log.1.gz").write_bytes(gzip.compress(text[cut:]))
    counted = read_tsv(run_example(commands, "access_log.py", *sorted(tmp_path.glob("access.log*"))))
    assert {key: int(value) for key, value in counted.items()} == expected


def test_pagerank_ranks_pages_as_a_plain_loop_does(commands, tmp_path):
    links = {"a": {"b", "c"}, "b": {"c"}, "c": {"a"}, "d": {"c"}, "e": set()}
    (tmp_path / "links.txt").write_text("a b c\nb c\nc a\nd c\nd e\n")
    links["d"].add("e")
    links["e"].add("e")  # it links nowhere, and keeps its share
    ranks = dict.fromkeys(links, 1.0)
    for _ in range(10):
        shares = [(to, ranks[page] / len(those)) for page, those in links.items() for to in those]
        ranks = {page: 0.15 + 0.85 * sum(each for to, each in shares if to == page) for page in links}
    found = read_tsv(run_example(commands, "pagerank.py", tmp_path / "links.txt"))
    assert {page: float(rank) for page, rank in found.items()} == pytest.approx(ranks, abs=1e-5)


def test_topwords_is_the_top_of_all_counts(commands, corpus):
    top = read_tsv(run_example(commands, "topwords.py", *corpus))
    assert list(top.items()) == find_top(count_words(corpus), 20)


def test_topk_is_the_top_of_all_counts(commands, corpus):
    top = read_tsv(run_example(commands, "topk.py", 7, *corpus))
    assert list(top.items()) == find_top(count_words(corpus), 7)


def test_topk_sends_no_more_than_k_words_a_share_home(commands, corpus):
    source = (EXAMPLES / "topk.py").read_text()
    assert "def finishfn(" in source
    shares = commands.write("shares.py", source.replace("def finishfn(", "def _left_out("))
    ended = commands.run("run", "--procs", "2", "--set", "partitions=4", shares, 7, *corpus)
    assert ended.returncode == 0, ended
    candidates = read_tsv(ended.stdout)
    counts = count_words(corpus)
    assert 7 <= len(candidates) <= 4 * 7 < len(counts)
    assert find_top(candidates, 7) == find_top(counts, 7)


def test_sales_csv_adds_up_by_region_and_month_and_sets_bad_rows_aside(commands, tmp_path):
    one = tmp_path / "one.csv"
    two = tmp_path / "two.csv"
    one.write_text(
        "date,region,amount,note\n" + '2026-01-02,north,1.10,"a,\nb"\n' * 200 + "2026-01-03,north\n"
    )
    two.write_text("amount,region,date\n" + "2.00,north,2026-01-31\n0.50,south,2026-02-01\n" * 10 + "x,y,z\n")
    ended = commands.run("run", "--procs", "2", EXAMPLES / "sales_csv.py", one, two)
    assert ended.returncode == 0, ended
    assert sorted(ended.stdout.splitlines()) == [
        '["north", "2026-01"]\t240.00',
        '["south", "2026-02"]\t5.00',
    ]
    assert f"{one}: the row at byte" in ended.stderr
    assert "has 2 fields, and the header 4" in ended.stderr


def test_parquet_groupby_adds_up_its_own_input_and_files_that_are_named(commands, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    ended = commands.run("run", "--procs", "2", EXAMPLES / "parquet_groupby.py")
    assert ended.returncode == 0, ended
    assert sorted(ended.stdout.splitlines()) == ["east\t1500500", "north\t1498500", "south\t1499500"]
    parquet.write_table(pyarrow.table({"place": ["x"], "amount": [1]}), tmp_path / "wrong.parquet")
    ended = commands.run("run", EXAMPLES / "parquet_groupby.py", tmp_path / "wrong.parquet")
    assert ended.returncode == 2, ended
    assert "has no column 'region'; it has 'place', 'amount'" in ended.stderr


def test_sales_blocks_add_up_columns(commands, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    ended = commands.run("run", "--procs", "2", EXAMPLES / "sales_blocks.py")
    assert ended.returncode == 0, ended
    expected = {key: sum(n / 4 for n in range(3000) if n % 3 == key - 1) for key in (1, 2, 3)}
    assert sorted(ended.stdout.splitlines()) == [f"{key}\t{value}" for key, value in expected.items()]
    table = pyarrow.table({"customer": [None, 7, 7], "amount": [1 << 62, 1 << 62, 1 << 62]})
    parquet.write_table(table, tmp_path / "sales.parquet")
    ended = commands.run("run", EXAMPLES / "sales_blocks.py", tmp_path / "sales.parquet")
    assert ended.returncode == 0, ended
    assert sorted(ended.stdout.splitlines()) == [f"7\t{1 << 63}", f"null\t{1 << 62}"]


def test_sessions_are_cut_in_the_order_of_time(commands, tmp_path):
    visits = [
        (user, f"2026-03-01T{8 + minutes // 60:02}:{minutes % 60:02}:00", f"page {minutes}")
        for user, every in (("ann", 7), ("bob", 31))
        for minutes in range(0, 200, every)
    ]
    random.Random(5).shuffle(visits)
    for path, rows in ((tmp_path / "a.csv", visits[::2]), (tmp_path / "b.csv", visits[1::2])):
        path.write_text("user,time,page\n" + "".join(f"{','.join(row)}\n" for row in rows))
    ended = commands.run(
        "run",
        "--procs",
        "2",
        "--format",
        "jsonl",
        EXAMPLES / "sessions.py",
        tmp_path / "a.csv",
        tmp_path / "b.csv",
    )
    assert ended.returncode == 0, ended
    assert dict(map(json.loads, ended.stdout.splitlines())) == {
        "ann": [[f"page {minutes}" for minutes in range(0, 200, 7)]],
        "bob": [[f"page {minutes}"] for minutes in range(0, 200, 31)],
    }


def test_join_pairs_the_lines_of_equal_keys(commands, tmp_path):
    rng = random.Random(3)
    sides = []
    for name in ("people.tsv", "things.tsv"):
        rows = [(str(rng.randrange(200)), f"{name} {n}\tmore of it") for n in range(500)]
        (tmp_path / name).write_text("".join(f"{key}\t{rest}\n" for key, rest in rows))
        sides.append(rows)
    expected = [(key, [left, right]) for key, left in sides[0] for other, right in sides[1] if key == other]
    assert {key for key, _ in sides[0]} - {key for key, _ in sides[1]}, "no key that is left out"
    output = run_example(commands, "join.py", "people.tsv", "things.tsv")
    rows = [line.split("\t") for line in output.splitlines()]
    assert sorted((key, json.loads(pair)) for key, pair in rows) == sorted(expected)


@pytest.mark.parametrize(
    ("names", "expected"), [(["a.tsv", "a.tsv"], "both sides"), (["a.tsv", "."], "is not a file")]
)
def test_join_refuses_sides_it_could_not_tell_apart(commands, tmp_path, names, expected):
    (tmp_path / "a.tsv").write_text("1\tx\n")
    ended = commands.run("run", EXAMPLES / "join.py", *names)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert expected in ended.stderr


# maps that wait


class Site(http.server.ThreadingHTTPServer):
    """Pages by path; each is answered only when `at_once` of them have been asked for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, pages, at_once):
        super().__init__(("127.0.0.1", 0), Page)
        self.pages = pages
        self.together = threading.Barrier(at_once)
        self.asked = collections.Counter()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with self.server.lock:
            self.server.asked[self.path] += 1
        try:
            self.server.together.wait(DEADLINE_S / 6)  # less than crawl.py waits
        except threading.BrokenBarrierError:
            return self.send_error(503, "too few pages at once")
        kind, text = self.server.pages.get(self.path, (None, ""))
        if kind is None:
            return self.send_error(404)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@contextlib.contextmanager
def serve(pages, at_once):
    with Site(pages, at_once) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


def test_crawl_fetches_many_pages_at_once(commands):
    rng = random.Random(5)
    names = [f"/{n}.html" for n in range(22)]
    links = {name: sorted(rng.sample(names, 4)) for name in names}
    pages = {
        name: ("text/html", "".join(f'<p><a href="{html.escape(to)}#top">x</a>' for to in tos + tos[:1]))
        for name, tos in links.items()
    }
    pages["/plain.txt"] = ("text/plain", '<a href="/nowhere">no link</a>')
    asked = [*names, "/plain.txt", "/missing.html"]
    with serve(pages, at_once=len(asked)) as site:
        output = run_example(
            commands,
            "crawl.py",
            *(site.url + path for path in asked),
            options=("--procs", "1"),
            environ={"no_proxy": "*"},
        )
    expected = {"error: HTTP Error 404: Not Found": [f"{site.url}/missing.html"]}
    for to in {to for tos in links.values() for to in tos}:
        expected[site.url + to] = sorted(site.url + name for name in names if to in links[name])
    assert read_tsv(output) == expected
    assert site.asked == dict.fromkeys(asked, 1)


# every worker


def test_stats_hears_of_every_worker_once(commands):
    _, address = commands.start_server()
    workers = [commands.start("worker", "--procs", "2", address) for _ in range(2)]
    for worker in workers:
        wait_for(worker.stderr, "joined")
    answers = read_tsv(run_example(commands, "stats.py", options=("--join", address)))
    assert sorted(facts["pid"] for facts in answers.values()) == sorted(worker.pid for worker in workers)
    check_facts(answers)


def test_stats_alone_hears_of_the_worker_of_this_machine(commands):
    answers = read_tsv(run_example(commands, "stats.py"))
    assert len(answers) == 1
    check_facts(answers)


def check_facts(answers):
    for worker, facts in answers.items():
        assert worker == f"{platform.node()}/{facts['pid']}"
        assert facts["host"] == platform.node()
        assert facts["platform"] == platform.platform()
        assert facts["python"] == platform.python_version()
        assert facts["load"] >= 0.0


# effects outside


def find_target(folder, path):
    return Path(f"{folder}{path.absolute()}.gz")


def test_convert_writes_each_file_whole(commands, tmp_path, corpus):
    elsewhere = tmp_path / "elsewhere" / corpus[0].name  # the same name in another folder
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"\x00\xff not text")
    paths, folder = [*corpus, elsewhere], tmp_path / "out"
    find_target(folder, elsewhere).parent.mkdir(parents=True)
    find_target(folder, elsewhere).write_bytes(b"of yesterday")
    relative = [os.path.relpath(path, tmp_path) for path in paths]
    totals = read_tsv(run_example(commands, "convert.py", "out", *relative))
    written = {path for path in folder.rglob("*") if path.is_file()}
    assert written == {find_target(folder, path) for path in paths}
    for path in paths:
        assert gzip.decompress(find_target(folder, path).read_bytes()) == path.read_bytes()
    assert totals == {
        "files": len(paths),
        "bytes before": sum(path.stat().st_size for path in paths),
        "bytes after": sum(path.stat().st_size for path in written),
    }


def test_convert_that_fails_leaves_no_temporary_file(commands, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    target = find_target(tmp_path / "out", path)
    target.mkdir(parents=True)
    ended = commands.run("run", "--procs", "1", EXAMPLES / "convert.py", "out", "a.txt")
    assert ended.returncode == 1, ended
    assert f"mapfn at '{path}'" in ended.stderr
    assert "IsADirectoryError" in ended.stderr
    assert list(target.parent.iterdir()) == [target]


#: appended to convert.py: the first to have written a temporary file says so, and waits to be killed
HOLD = """
_convert = mapfn

def mapfn(path, content):
    import signal
    held = Path(FOLDER).with_name("held")

    def hold(temporary, target):
        Path(f"{held}.new").write_text(f"{os.getpid()} {temporary}")
        os.rename(f"{held}.new", held)
        signal.pause()

    if not held.exists():
        os.replace = hold
    return _convert(path, content)
"""


def test_convert_that_is_killed_is_done_again(commands, tmp_path):
    """Killed while a temporary file is not in place yet: the target is absent then, and right in the end."""
    job = commands.write("held_convert.py", (EXAMPLES / "convert.py").read_text() + HOLD)
    paths = [tmp_path / f"{n}.bin" for n in range(4)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    targets = [find_target(tmp_path / "out", path) for path in paths]
    process = commands.start("run", "--procs", "1", job, "out", *paths)
    pid, name = wait_for_text(process, tmp_path / "held").split()
    temporary = Path(name)
    target = temporary.with_name(temporary.name[1:].partition(".gz.")[0] + ".gz")
    assert target in targets
    assert not target.exists()
    psutil.Process(int(pid)).kill()
    ended = commands.finish(process)
    assert ended.returncode == 0, ended
    assert read_tsv(ended.stdout)["files"] == len(paths)
    assert sorted(temporary.parent.iterdir()) == sorted([*targets, temporary]), "what the killed one left"
    for path, target in zip(paths, targets, strict=True):
        assert gzip.decompress(target.read_bytes()) == path.read_bytes()


def wait_for_text(process, path):
    """Wait until a file is there, which appears whole; return its text."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} never came; the command: {process.poll()}")


# programs


def test_kmeans_finds_the_centres_of_a_plain_loop(commands):
    spec = importlib.util.spec_from_file_location("kmeans_example", EXAMPLES / "kmeans.py")
    kmeans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kmeans)
    points = kmeans.make_points()
    centres, before, rounds = points[: kmeans.K], None, 0
    while centres != before:
        members = collections.defaultdict(list)
        for point in points:
            members[min(range(kmeans.K), key=lambda i: math.dist(point, centres[i]))].append(point)
        before, rounds = centres, rounds + 1
        centres = [
            tuple(sum(axis) / len(axis) for axis in zip(*members[i], strict=True)) for i in range(kmeans.K)
        ]
    ended = commands.run(EXAMPLES / "kmeans.py", program=())
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    expected = [f"{x:.3f}\t{y:.3f}" for x, y in sorted(centres)]
    assert ended.stdout.splitlines() == [f"{rounds} rounds", *expected]
    assert rounds > 2
