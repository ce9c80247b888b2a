"""What the stages of a chain may say: in a program, and in a job file."""

import pytest

import mmgevent as mmg
from mmgevent.errors import FunctionError, JobFileError, OptionError, UsageError
from mmgevent.job.chain import MAX_STAGES
from mmgevent.job.options import MAX_JOB_NAME_CHARS
from mmgevent.job.outputs.opening import describe_job


def mapfn(key, value):
    yield key, value


def reducefn(key, values):
    return sum(values)


def chain():
    return mmg.Job([(1, 2)], mapfn, reducefn, retries=2, name="n", py_files=()).then(mapfn, partitions=3)


def test_then_returns_another_job_whose_stages_have_options_of_their_own():
    first = mmg.Job([(1, 2)], mapfn, reducefn, retries=2)
    job = first.then(mapfn, partitions=3).then(None, reducefn, finishfn=reducefn)
    assert first.stages == (first,)
    assert job.stages[0] is first
    assert [(stage.options.retries, stage.options.partitions) for stage in job.stages] == [
        (2, None),
        (0, 3),
        (0, None),
    ]
    assert {stage.name for stage in job.stages} == {"mapfn"}
    assert job.datasource == [(1, 2)]
    assert job.finish_form == "pair"
    job.check()


def test_options_of_the_whole_job_hold_for_every_stage_and_are_refused_in_one():
    job = mmg.Job([], mapfn, name="n", results="plain", plain_classes=["decimal.Decimal"]).then(mapfn)
    for name in ("name", "results", "plain_classes", "py_files"):
        assert len({getattr(stage.options, name) for stage in job.stages}) == 1
        with pytest.raises(OptionError, match=f"option {name} is of the whole job"):
            job.then(mapfn, **{name: "plain"})
    with pytest.raises(OptionError, match="did you mean retries"):
        job.then(mapfn, retires=1)
    with pytest.raises(OptionError, match="oneshot"):
        job.then(mapfn, allocation="oneshot")


def test_a_chain_of_which_all_stages_become_oneshot_is_refused():
    with pytest.raises(OptionError, match=r"^stage 2 of 2: .*oneshot"):
        mmg.Job([], mapfn).then(mapfn).with_options(allocation="oneshot").check()


def test_what_is_changed_in_a_chain_is_changed_in_every_stage():
    job = chain().with_options(retries=7, name="m").with_module("mod").with_argv(["a", "b"])
    for stage in job.stages:
        assert (stage.options.retries, stage.name, stage.argv) == (7, "m", ("a", "b"))
        assert stage.by_value == {"mod"}
    assert [stage.options.partitions for stage in job.stages] == [None, 3]


def test_only_the_last_stage_has_a_finishfn():
    with pytest.raises(UsageError, match="finishfn runs at the end of the whole job"):
        mmg.Job([], mapfn, finishfn=reducefn).then(mapfn)


def test_a_stage_that_is_wrong_is_named_before_anything_runs():
    with pytest.raises(FunctionError, match=r"^stage 2 of 3: the job has neither") as refused:
        chain().with_options(retries=0).stages[0].then().then(mapfn).check()
    assert refused.value.stage == 2
    with pytest.raises(OptionError, match=r"^stage 2 of 2: option memory_limit cannot go with the function"):
        mmg.Job([], mapfn).then("offered", memory_limit="1GiB").check()


def test_the_number_of_stages_is_limited():
    job = mmg.Job([], mapfn)
    for _ in range(MAX_STAGES - 1):
        job = job.then(mapfn)
    with pytest.raises(UsageError, match=f"at most {MAX_STAGES} stages"):
        job.then(mapfn)


def test_a_stage_as_a_job_is_named_after_its_place_and_shares_a_one_shot_datasource():
    job = mmg.Job(iter([(1, 2)]), mapfn, name="x" * MAX_JOB_NAME_CHARS).then(mapfn)
    first = job.stages[0].as_stage(1, 2, None)
    second = job.as_stage(2, 2, [])
    assert first.name.endswith("x (stage 1 of 2)")
    assert len(second.name) == MAX_JOB_NAME_CHARS
    assert (second.previous, second.datasource) == (None, [])
    first.open_datasource()
    with pytest.raises(mmg.DatasourceError, match="pass a function"):
        job.check()


def test_what_success_says_has_the_options_of_each_stage():
    about = describe_job(chain(), None, None)
    assert [stage["partitions"] for stage in about["stages"]] == [None, 3]
    assert "stages" not in describe_job(mmg.Job([], mapfn), None, None)


HEAD = "datasource = {1: 2}\ndef first(k, v): yield k, v\ndef total(k, values): return sum(values)\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(body):
        (tmp_path / "stepsjob.py").write_text(HEAD + body)
        return mmg.Job.from_file(tmp_path / "stepsjob.py")

    yield load
    sys.modules.pop("stepsjob", None)


def test_a_job_file_lists_steps_whose_options_go_before_those_of_the_file(load):
    job = load(
        "steps = [{'mapfn': first, 'reducefn': total, 'options': {'retries': 1}},\n"
        "         {'mapfn': first, 'finishfn': total}]\n"
        "options = {'retries': 5, 'results': 'trusted', 'partitions': 4}\n"
    )
    assert [stage.options.retries for stage in job.stages] == [1, 5]
    assert {(stage.options.partitions, stage.options.results) for stage in job.stages} == {(4, "trusted")}
    assert [stage.mapfn.__name__ for stage in job.stages] == ["first", "first"]
    assert (job.name, job.finishfn.__name__, job.datasource) == ("stepsjob", "total", {1: 2})
    assert all("stepsjob" in stage.by_value for stage in job.stages)


def test_a_job_file_of_one_step_or_with_a_chain_as_its_job_is_loaded(load):
    assert len(load("steps = [{'mapfn': first}]\n").stages) == 1
    body = "import mmgevent\njob = mmgevent.Job({1: 2}, first).then(first)\ndel datasource\n"
    job = load(body)
    assert ({stage.name for stage in job.stages}, len(job.stages)) == ({"stepsjob"}, 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("steps = []\n", "steps must be a list of dicts"),
        ("steps = {'mapfn': first}\n", "steps must be a list of dicts"),
        ("steps = [first]\n", "step 1: expected a dict"),
        ("steps = [{'mapfn': first}, {'mapper': first}]\n", "step 2: .*did you mean mapfn"),
        ("steps = [{'mapfn': first, 'retries': 2}]\n", "step 1: retries is an option: write"),
        ("steps = [{'mapfn': first, 'datasource': []}]\n", "step 1: the first step reads the datasource"),
        ("steps = [{'mapfn': first, 'options': 3}]\n", "step 1: options must be a dict"),
        ("steps = [{'mapfn': first, 'options': {'retires': 3}}]\n", "did you mean retries"),
        ("steps = [{'mapfn': first, 'options': {'name': 'x'}}]\n", "option name is of the whole job"),
        ("steps = [{'mapfn': first, 'finishfn': total}, {'mapfn': first}]\n", "put it into the last step"),
        ("steps = [{'mapfn': first}]\nmapfn = first\n", "binds both steps and mapfn"),
        (
            "steps = [{'mapfn': first}]\nimport mmgevent\njob = mmgevent.Job([], first)\n",
            "binds both job and",
        ),
        ("steps = [{'mapfn': first}]\ndel datasource\n", "binds no datasource"),
        ("steps = [{'mapfn': first}, {'mapfn': first, 'options': {'allocation': 'oneshot'}}]\n", "oneshot"),
    ],
)
def test_steps_that_are_wrong_are_refused_with_what_to_write(load, body, says):
    with pytest.raises(JobFileError, match=says):
        load(body)
