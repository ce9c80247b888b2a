"""Variables that a driver passes to executors: they arrive, and are shown nowhere."""

import os
import pickle

import pytest

from mmgevent import Job, LocalCluster
from mmgevent.driver.packing import pack_job
from mmgevent.errors import OptionError
from mmgevent.job.options import JobOptions, parse_option
from mmgevent.job.shipping.load import load_functions
from mmgevent.job.shipping.pack import pack_functions

#: Its text is in no source, since sources travel.
SECRET = "-".join(["s3cret", "value"])


def read_variable(key, value):
    yield key, os.environ.get(value)


def first(key, values):
    return next(iter(values))


def test_a_variable_arrives_where_the_environment_does_not(monkeypatch):
    monkeypatch.setenv("MMG_TOKEN_OF_TEST", SECRET)  # of its name, it stays behind by itself
    items = [("k", "MMG_TOKEN_OF_TEST")]
    with LocalCluster(procs=1) as cluster:
        assert cluster.run(Job(items, read_variable, first)) == {"k": None}
        assert cluster.run(Job(items, read_variable, first, pass_env="MMG_TOKEN_OF_TEST")) == {"k": SECRET}
        assert cluster.run(Job(items, read_variable, first)) == {"k": None}, "it is of one job"


def test_values_are_with_the_code_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("MMG_A_TOKEN", SECRET)
    job = Job([], read_variable, first, pass_env=["MMG_A_TOKEN"])
    packed = pack_job(job, print, None, is_local=False, stays_here=False)
    assert SECRET.encode() in packed.code
    assert SECRET not in repr(packed._replace(code=b"")) + repr(job) + repr(job.options)
    assert pickle.loads(packed.code)["environ"] == {"MMG_A_TOKEN": SECRET}
    assert "pass_env" not in packed.options


def test_nothing_is_passed_unless_it_is_named(monkeypatch):
    monkeypatch.setenv("MMG_A_TOKEN", SECRET)
    assert SECRET.encode() not in pack_functions(Job([], read_variable, first).functions())


def test_loading_sets_the_variables_before_the_code(monkeypatch):
    job = Job([], read_variable, first)
    code = pack_functions(job.functions(), environ={"A_PASSED_TOKEN": SECRET})
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setenv("A_PASSED_TOKEN", "before")
    load_functions(code)
    assert os.environ["A_PASSED_TOKEN"] == SECRET


def test_a_missing_variable_is_one_sentence():
    with pytest.raises(OptionError, match="the environment variable NOT_SET_AT_ALL is not set here"):
        Job([], read_variable, first, pass_env="NOT_SET_AT_ALL").check()


def test_a_value_in_place_of_a_name_is_refused_and_not_shown():
    for wrong in (f"NAME={SECRET}", ["", SECRET], 5):
        with pytest.raises(OptionError) as caught:
            JobOptions(pass_env=wrong)
        assert SECRET not in str(caught.value)
    assert parse_option("pass_env", "A,B") == ("A", "B")
