import inspect
import json
import linecache
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import mmgevent as mmg
from mmgevent import reducers
from mmgevent.errors import DatasourceError, FunctionError, JobFileError, OptionError, UsageError
from mmgevent.job.functions import Functions
from mmgevent.job.inputs.sources import walk
from mmgevent.job.job import Job
from mmgevent.job.option_keywords import OptionKeywords
from mmgevent.job.options import JobOptions, find_fault, parse_option, parse_size


def mapfn(key, value):
    yield key, value


def reducefn(key, values):
    return sum(values)


class TestJob:
    def test_a_job_holds_what_it_was_given_and_never_changes(self):
        job = Job([(1, 2)], mapfn, reducefn, retries=2)
        assert (job.mapfn, job.reducefn, job.options.retries) == (mapfn, reducefn, 2)
        with pytest.raises(AttributeError, match="cannot be changed"):
            job.mapfn = None
        with pytest.raises(AttributeError, match="cannot be changed"):
            del job.mapfn

    def test_functions_come_with_their_forms(self):
        job = Job([], mapfn, reducefn, collectfn=lambda groups: groups, finishfn=reducefn)
        job.check()
        functions = job.functions()
        assert functions == Functions(mapfn, job.collectfn, "iterator", reducefn, "pair")
        assert job.finish_form == "pair"
        assert Job([], mapfn).finish_form is None

    @pytest.mark.parametrize(
        "functions",
        [
            {},
            {"finishfn": reducefn},
            {"mapfn": lambda value: value},
            {"reducefn": sum},
            {"mapfn": mapfn, "collectfn": lambda *args: args},
            {"mapfn": mapfn, "finishfn": lambda a, b, c: a},
            {"mapfn": mapfn, "finishfn": "total"},
            {"reducefn": reducers.count_values, "collectfn": reducers.count_values},
        ],
    )
    def test_functions_that_cannot_be_called_are_found_before_the_job_runs(self, functions):
        job = Job([], **functions)
        with pytest.raises(FunctionError):
            job.check()

    @pytest.mark.parametrize(
        "option", [{"task_timeout": 1.0}, {"memory_limit": "1GiB"}, {"greenlets": 2}, {"items_per_call": 2}]
    )
    @pytest.mark.parametrize("functions", [{"mapfn": "stats"}, {"mapfn": mapfn, "reducefn": "total"}])
    def test_what_a_thread_cannot_do_is_refused_with_offered_functions(self, functions, option):
        job = Job([], **functions, **option)
        with pytest.raises(
            OptionError, match=f"{next(iter(option))} cannot go with the function '(stats|total)'"
        ):
            job.check()
        Job([], **functions).check()

    def test_a_recognised_reducer_is_combined_once(self):
        job = Job([], mapfn, reducers.sum_values, collectfn=reducers.sum_values)
        assert job.functions().collectfn is None
        assert job.functions().reducefn is reducers.sum_values

    def test_the_name_is_given_or_taken_from_a_function(self):
        assert Job([], mapfn, name="monthly report").name == "monthly report"
        assert Job([], mapfn).name == "mapfn"
        assert Job([], None, reducefn).name == "reducefn"
        assert Job([], "stats").name == "stats"
        assert Job([], lambda k, v: []).name == "job"

    def test_options_can_be_changed_in_a_copy(self):
        job = Job([], mapfn, retries=2)
        other = job.with_options(retries=3, name="again")
        assert (job.options.retries, other.options.retries) == (2, 3)
        assert (job.name, other.name) == ("mapfn", "again")
        assert other.mapfn is mapfn

    def test_a_one_shot_datasource_serves_one_submit(self):
        job = Job(zip("ab", [1, 2], strict=True), mapfn)
        job.check()
        assert list(job.open_datasource()) == [("a", 1), ("b", 2)]
        for again in (job, job.with_options(retries=1)):
            with pytest.raises(DatasourceError, match="pass a function"):
                again.open_datasource()
            with pytest.raises(DatasourceError, match="pass a function"):
                again.check()

    def test_any_other_datasource_serves_many(self):
        for datasource in ([(1, 2)], {1: 2}, lambda: iter([(1, 2)])):
            job = Job(datasource, mapfn)
            for _ in range(2):
                assert list(walk(job.open_datasource())) == [(1, 2, 0)]

    def test_check_finds_missing_files(self, tmp_path):
        with pytest.raises(UsageError, match="no input files"):
            Job(mmg.Files([]), mapfn).check()
        with pytest.raises(OptionError, match="py_files"):
            Job([], mapfn, py_files=tmp_path / "x.py").check()


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("retries", -1),
            ("retries", 1.0),
            ("retries", True),
            pytest.param("retries", 10**5000, id="retries-huge"),
            pytest.param("task_timeout", 10**400, id="task_timeout-huge"),
            ("task_timeout", 0),
            ("task_timeout", float("nan")),
            ("task_timeout", "3"),
            ("setup_timeout", 0),
            ("setup_timeout", True),
            ("memory_limit", 1000),
            ("memory_limit", "2 parsecs"),
            pytest.param("memory_limit", "9" * 400 + "g", id="memory_limit-huge"),
            ("memory_limit", 2**63),
            ("max_skipped", 1.0),
            ("max_skipped", -1),
            ("partitions", 0),
            ("partitions", 5000),
            ("greenlets", -1),
            ("items_per_call", 0),
            ("items_per_call", -1),
            ("items_per_call", True),
            ("items_per_call", "x"),
            ("items_per_call", 2.0),
            ("items_per_call", 1_000_001),
            ("allocation", "sometimes"),
            ("retransmit", 1.5),
            ("py_files", 3),
            ("py_files", [b"x.py"]),
            ("name", "two\nlines"),
            ("name", None),
        ],
    )
    def test_a_value_out_of_range_is_refused_by_name(self, name, value):
        with pytest.raises(OptionError, match=rf"option {name} must be .* got "):
            Job([], mapfn, **{name: value})

    @pytest.mark.parametrize("other", [{"greenlets": 2}, {"allocation": "oneshot"}])
    def test_calls_of_many_items_go_with_neither_greenlets_nor_oneshot(self, other):
        with pytest.raises(OptionError, match=f"items_per_call cannot go with {next(iter(other))}"):
            Job([], mapfn, items_per_call=2, **other)

    def test_calls_of_many_items_need_a_mapfn(self):
        with pytest.raises(
            OptionError, match="items_per_call is about the calls of mapfn, and the job has none"
        ):
            Job([], None, reducers.sum_values, items_per_call=2).check()

    def test_an_unknown_option_names_the_nearest(self):
        with pytest.raises(OptionError, match=r"unknown option 'retires'; did you mean retries\?"):
            Job([], mapfn, retires=2)
        with pytest.raises(OptionError, match="there are retries, "):
            Job([], mapfn).with_options(zzz=2)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("greenlets", 100_001),
            ("greenlets", None),
            ("items_per_call", 0),
            ("task_timeout", 0),
            ("setup_timeout", [1]),
            ("memory_limit", "2GiB"),
            ("memory_limit", 2**63),
        ],
    )
    def test_what_a_peer_sent_is_held_to_the_same_ranges(self, name, value):
        assert find_fault(JobOptions(memory_limit="2GiB").to_wire()) is None
        assert find_fault({"flags": ["-O"]}) is None
        assert f"option {name} must be" in find_fault({name: value})

    def test_editors_know_each_option(self):
        assert list(OptionKeywords.__annotations__) == [field.name for field in fields(JobOptions)]

    def test_oneshot_does_not_retry(self):
        with pytest.raises(OptionError, match="oneshot"):
            Job([], mapfn, allocation="oneshot", retries=1)

    def test_options_travel_as_json_without_py_files(self):
        options = JobOptions(memory_limit="2GiB", max_skipped=0.1, py_files="lib.py", name="x")
        wire = options.to_wire()
        assert wire["memory_limit"] == 2 * 1024**3
        assert "py_files" not in wire
        assert JobOptions.from_wire(json.loads(json.dumps(wire))) == options.with_options(py_files=())

    @pytest.mark.parametrize(
        ("text", "n_bytes"),
        [
            (123, 123),
            ("123", 123),
            ("2GiB", 2 * 1024**3),
            ("2 gb", 2 * 1000**3),
            ("1.5g", 3 * 512 * 1024**2),
            ("512MiB", 512 * 1024**2),
            ("10b", 10),
        ],
    )
    def test_sizes_have_units(self, text, n_bytes):
        assert parse_size(text) == n_bytes

    @pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1,5GiB", None, 1.5, True])
    def test_what_is_no_size_is_refused(self, text):
        with pytest.raises(OptionError, match="a size is"):
            parse_size(text)

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("retries", "3", 3),
            ("task_timeout", "1.5", 1.5),
            ("setup_timeout", "900", 900.0),
            ("setup_timeout", "none", None),
            ("task_timeout", "None", None),
            ("memory_limit", "64MiB", 64 * 1024**2),
            ("memory_limit", "none", None),
            ("max_skipped", "3", 3),
            ("max_skipped", "0.25", 0.25),
            ("partitions", "64", 64),
            ("allocation", "oneshot", "oneshot"),
            ("retransmit", "0", 0.0),
            ("py_files", "a.py,b.py", ("a.py", "b.py")),
            ("name", "none", "none"),
        ],
    )
    def test_options_can_be_said_as_text(self, name, text, value):
        parsed = parse_option(name, text)
        assert parsed == value
        assert type(parsed) is type(value)

    @pytest.mark.parametrize(
        ("name", "text"), [("retries", "x"), ("retries", "none"), ("max_skipped", "1.5"), ("greenlet", "1")]
    )
    def test_bad_text_is_refused(self, name, text):
        with pytest.raises(OptionError, match=name):
            parse_option(name, text)


WORDCOUNT = """
import re, sys
from mmgevent import Files

datasource = Files(sys.argv[1:])

def mapfn(name, text):
    for word in re.findall(r"[a-z']+", text.lower()):
        yield word, 1

def reducefn(word, counts):
    return sum(counts)

collectfn = reducefn
options = {"retries": 2}

if __name__ == "__main__":
    raise SystemExit("ran as a program")
"""


class TestJobFile:
    @pytest.fixture(autouse=True)
    def _restored(self, monkeypatch):
        """Give back sys.path and sys.modules as they were."""
        modules = dict(sys.modules)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield
        for name in set(sys.modules) - set(modules):
            if not name.startswith("mmgevent"):
                del sys.modules[name]

    @pytest.fixture
    def load(self, tmp_path):
        def load(source, name="myjob.py", args=()):
            path = tmp_path / name
            path.write_text(source)
            return Job.from_file(path, args)

        return load

    def refused(self, load, source, name="myjob.py"):
        with pytest.raises(JobFileError) as caught:
            load(source, name)
        assert name in str(caught.value)
        return str(caught.value)

    def test_a_job_file_binds_the_parts_of_a_job(self, load, tmp_path):
        (tmp_path / "book.txt").write_text("Tom's cat")
        job = load(WORDCOUNT, "wordcount.py", [str(tmp_path / "*.txt")])
        job.check()
        assert job.name == "wordcount"
        assert job.options.retries == 2
        assert job.by_value == {"wordcount"}
        assert job.mapfn.__module__ == "wordcount"
        assert sys.modules["wordcount"].mapfn is job.mapfn
        (ref,) = job.open_datasource().refs()
        assert [r for item in ref.items() for r in job.mapfn(*item)] == [("tom's", 1), ("cat", 1)]

    def test_it_sees_its_arguments_and_its_folder_while_it_loads(self, load, tmp_path):
        (tmp_path / "neighbour.py").write_text("N = 7\n")
        before = list(sys.argv)
        load(
            "import sys, neighbour\nargv = list(sys.argv)\ndatasource = [(0, neighbour.N)]\n"
            "def mapfn(k, v): return {}\n",
            args=["a", "b"],
        )
        assert sys.modules["myjob"].argv == [str(tmp_path / "myjob.py"), "a", "b"]
        assert sys.path[0] == str(tmp_path)
        assert sys.argv == before

    def test_its_functions_have_its_arguments_as_it_left_them(self, load, tmp_path):
        job = load(
            "import sys\nsys.argv.remove('--quick')\ndatasource = []\ndef mapfn(k, v): return {}\n",
            args=["--quick", "a"],
        )
        assert job.argv == (str(tmp_path / "myjob.py"), "a")
        assert job.with_options(retries=1).argv == job.argv
        assert Job([], mapfn).argv is None

    def test_it_may_bind_a_setupfn(self, load):
        job = load("datasource = []\ndef mapfn(k, v): return {}\ndef setupfn(): pass\n")
        assert job.functions().setupfn is sys.modules["myjob"].setupfn

    def test_it_may_bind_sort_values(self, load):
        job = load("datasource = []\ndef mapfn(k, v): return {}\nsort_values = True\n")
        assert job.functions().sort_values is True
        job = load("datasource = []\ndef mapfn(k, v): return {}\ndef sort_values(v): return v\n")
        assert job.with_options(retries=1).functions().sort_values is sys.modules["myjob"].sort_values
        assert load("datasource = []\ndef mapfn(k, v): return {}\n").functions().sort_values is None

    def test_tracebacks_and_inspect_see_its_source(self, load, tmp_path):
        job = load(WORDCOUNT)
        assert inspect.getsource(job.reducefn).startswith("def reducefn(word, counts):")
        (tmp_path / "myjob.py").write_text("# edited since\n")
        linecache.checkcache()
        assert inspect.getsource(job.reducefn).startswith("def reducefn(word, counts):")

    def test_our_own_future_imports_do_not_leak_into_it(self, load):
        job = load("datasource = []\ndef mapfn(k: int, v): return {}\n")
        assert job.mapfn.__annotations__ == {"k": int}

    def test_it_may_bind_a_job_instead(self, load):
        job = load("import mmgevent as mmg\njob = mmg.Job([(1, 2)], lambda k, v: {k: v})\n")
        assert (job.name, job.by_value) == ("myjob", {"myjob"})
        job = load("import mmgevent as mmg\njob = mmg.Job([], lambda k, v: {k: v}, name='mine')\n")
        assert job.name == "mine"

    def test_it_may_be_loaded_again_and_from_another_folder(self, load, tmp_path):
        assert load("datasource = [1]\ndef mapfn(k, v): pass\n").datasource == [1]
        assert load("datasource = [2]\ndef mapfn(k, v): pass\n").datasource == [2]
        (tmp_path / "other").mkdir()
        assert load("datasource = [3]\ndef mapfn(k, v): pass\n", "other/myjob.py").datasource == [3]

    def test_a_missing_file_is_named(self, tmp_path):
        for path in (tmp_path / "nowhere.py", tmp_path):
            with pytest.raises(JobFileError, match=re.escape(str(path))):
                Job.from_file(path)

    def test_a_syntax_error_shows_file_line_and_text(self, load):
        message = self.refused(load, "x = 1\nif True:\n    def f(:\n")
        assert "line 3" in message
        assert "def f(:" in message
        assert "Traceback" not in message
        self.refused(load, "x = '\0'")

    def test_an_exception_shows_the_users_lines_only(self, load):
        message = self.refused(load, "def compute():\n    return 1 / 0\nx = compute()\n")
        assert "ZeroDivisionError" in message
        assert "x = compute()" in message
        assert "return 1 / 0" in message
        assert "job/file.py" not in message
        assert "myjob" not in sys.modules

    def test_a_usage_error_of_the_file_names_its_line(self, load):
        message = self.refused(load, "import mmgevent as mmg\njob = mmg.Job([], None, retires=1)\n")
        assert "line 2" in message
        assert "did you mean retries?" in message

    def test_its_own_exit_is_an_exit(self, load):
        with pytest.raises(SystemExit):
            load("import sys\nsys.exit(3)\n")

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("datasource = []\n", "neither mapfn nor reducefn"),
            ("datasource = []\nmapfn = None\n", "neither mapfn nor reducefn"),
            ("job = 3\n", "its job is of type int"),
            ("def mapfn(k, v): pass\n", "no datasource"),
            ("import mmgevent\ndatasource = []\njob = mmgevent.Job([], None)\n", "both job and datasource"),
            ("datasource = []\ndef mapfn(k, v): pass\noptions = {'retires': 1}\n", "did you mean retries"),
            ("datasource = []\ndef mapfn(k, v): pass\noptions = {'retries': -1}\n", "option retries must be"),
            ("datasource = []\ndef mapfn(k, v): pass\noptions = {'reducefn': 1}\n", "bind it in the file"),
            ("datasource = []\ndef mapfn(k, v): pass\noptions = [1]\n", "options must be a dict"),
            ("datasource = []\ndef mapfn(k, v): pass\ndef redcefn(k, v): pass\n", "did you mean reducefn"),
            ("datasource = []\ndef mapfn(k, v): pass\ncombinefn = lambda k, v: 1\n", "did you mean "),
            ("datasource = []\ndef mapfn(k, v): pass\ndef setup_fn(): pass\n", "did you mean setupfn"),
            ("import mmgevent\njob = mmgevent.Job([], max)\ndef setupfn(): pass\n", "both job and setupfn"),
            (
                "import mmgevent\njob = mmgevent.Job([], max)\nsort_values = True\n",
                "both job and sort_values",
            ),
            (
                "datasource = []\ndef mapfn(k, v): pass\noptions = {'sort_values': True}\n",
                "sort_values is not an option; bind it in the file itself",
            ),
            ("from os.path import join as mappfn\n", "did you mean mapfn"),
        ],
    )
    def test_what_it_binds_wrongly_is_refused(self, load, source, says):
        assert says in self.refused(load, source)

    def test_helpers_may_end_in_fn_if_private_or_imported(self, load, tmp_path):
        (tmp_path / "lib.py").write_text("def hashfn(x): return x\n")
        load("from lib import hashfn\n_ownfn = hashfn\nlimitfn = 3\ndatasource = []\ndef mapfn(k, v): pass\n")

    @pytest.mark.parametrize("name", ["json.py", "my-job.py", "class.py", "2nd.py", "gevent.py", "pytest.py"])
    def test_a_name_that_cannot_be_a_modules_is_refused(self, load, name):
        assert "rename" in self.refused(load, WORDCOUNT, name)


def test_import_of_the_package_loads_nothing_of_it_but_what_protects_imports():
    code = (
        "import sys, mmgevent\n"
        "print([m for m in sys.modules if m.startswith('mmgevent.')])\n"
        "assert mmgevent.__version__\n"
        "from mmgevent import Job, Files, Lines, load, JobError, reducers\n"
        "print(sorted({'gevent', 'dill', 'logging', 'argparse', 'cryptography', 'socket'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["['mmgevent.real_modules']", "[]"]


def test_every_public_name_outside_the_cluster_exists():
    for name in set(mmg.__all__) - {"run", "connect", "LocalCluster", "JobHandle"}:
        assert getattr(mmg, name) is not None
        assert name in dir(mmg)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mmg.nonsense  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    stated = re.search(r'^version = "(.*)"$', pyproject, re.MULTILINE)
    assert stated is None or stated[1] == mmg.__version__


class TestStrayOptions:
    """An option that is bound as a plain name has no effect, which is warned of."""

    HEAD = "datasource = {1: 2}\ndef mapfn(k, v): yield k, v\n"

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (
                "max_skipped = 0.01\n",
                'sets max_skipped, which is an option: write options = {"max_skipped": 0.01}',
            ),
            (
                "task_timeout = 5\nretries = 2\n",
                "sets task_timeout and retries, which are options: "
                'write options = {"task_timeout": 5, "retries": 2}',
            ),
            ('memory_limit = "2GiB"\n', "write options = {\"memory_limit\": '2GiB'}"),
            ("retries: int = 2\n", 'write options = {"retries": 2}'),
            ("if True:\n    retries = 2\n", 'write options = {"retries": 2}'),
            (
                "retries = 2\ndef reducefn(key, values):\n    retries = 9\n    return retries\n",
                "sets retries",
            ),
            ("retries = 2\ndef reducefn(key, retries): return len(retries)\n", "sets retries"),
            ("retries = 2\ndef reducefn(key, values): return values[0].retries\n", "sets retries"),
            ("retries = 2\ndef reducefn(key, values): return {'retries': 1}\n", "sets retries"),
            (
                'retries = 2\noptions = {"max_skipped": 1}\n',
                'add it to options: {..., "retries": 2}',
            ),
        ],
    )
    def test_it_is_named_with_what_to_write(self, tmp_path, caplog, body, expected):
        path = tmp_path / "stray.py"
        path.write_text(self.HEAD + body)
        Job.from_file(path)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith(f"{path} sets ")
        assert expected in record.getMessage()

    def test_a_job_of_the_files_own_takes_it_as_an_argument(self, tmp_path, caplog):
        path = tmp_path / "stray_job.py"
        path.write_text("import mmgevent\nretries = 2\njob = mmgevent.Job({1: 2}, lambda k, v: [(k, v)])\n")
        assert Job.from_file(path).options.retries == 0
        assert "pass it to the job: Job(..., retries=2)" in caplog.text

    @pytest.mark.parametrize(
        "body",
        [
            'retries = 2\noptions = {"retries": retries}\n',
            'retries = 2\noptions = {"retries": 3}\n',
            "retries = 2\noptions = dict(retries=retries)\n",
            "retries = 2\ndef reducefn(key, values): return retries\n",
            "retries = 2\ndef reducefn(key, values): return [retries for _ in values]\n",
            "retries = 2\ndef reducefn(key, values):\n    global retries\n    retries += 1\n    return 1\n",
            "retries = 2\nclass Mapper:\n    def __call__(self): return retries\n",
            'retries = 2\ndef reducefn(key, values): return globals()["retries"]\n',
            "for name in ('a', 'b'): print(name)\n",
            "def name(): pass\n",
            "import types as greenlets\n",
            "_retries = 2\n",
            "retries = 2\ndel retries\n",
        ],
    )
    def test_a_name_that_the_file_uses_is_its_own(self, tmp_path, caplog, body):
        path = tmp_path / "own.py"
        path.write_text(self.HEAD + body)
        Job.from_file(path)
        assert caplog.records == []

    @pytest.mark.parametrize("options", [[], ["-q"]])
    def test_the_command_shows_it_unless_it_is_quiet(self, tmp_path, options):
        path = tmp_path / "stray_command.py"
        path.write_text(self.HEAD + "max_skipped = 0.01\n")
        done = subprocess.run(
            [sys.executable, "-m", "mmgevent", "run", "--inline", *options, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "1\t[2]\n")
        line = f'{path} sets max_skipped, which is an option: write options = {{"max_skipped": 0.01}}\n'
        shown, _, closing = done.stderr.rpartition("mmg-run: done in ")
        assert (shown, bool(closing)) == ("" if options else line, not options)
