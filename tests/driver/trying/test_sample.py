"""Samples of an input: first, last and others, from all over it, and how many items there are."""

import pytest

import mmgevent as mmg
from mmgevent.driver.trying.glance import take_glance
from mmgevent.driver.trying.sample import choose_places, draw_sample
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.json_lines import JsonLines
from mmgevent.job.inputs.lines import Lines


def draw(datasource, count=20):
    return draw_sample(mmg.Job(datasource, lambda key, value: []), count)


@pytest.mark.parametrize(("total", "count"), [(0, 3), (1, 1), (3, 3), (3, 20), (4, 3), (1000, 20), (2, 1)])
def test_places_are_the_first_the_last_and_others_in_order(total, count):
    places = choose_places(total, count)
    assert places == sorted(set(places)) == choose_places(total, count)
    assert len(places) == min(total, count)
    if total:
        assert places[0] == 0
    if total > 1 < count:
        assert places[-1] == total - 1


@pytest.mark.parametrize(
    "datasource",
    [
        [(i, i * i) for i in range(1000)],
        {i: i * i for i in range(1000)},
        lambda: [(i, i * i) for i in range(1000)],
    ],
    ids=["list", "dict", "function"],
)
def test_what_is_in_memory_is_drawn_from_all_over(datasource):
    sample = draw(datasource)
    keys = [key for key, _ in sample.items]
    assert (keys[0], keys[-1], len(set(keys)), sample.total, sample.is_estimate) == (0, 999, 20, 1000, False)
    assert max(keys[:-1]) > 500
    assert all(value == key * key for key, value in sample.items)


def test_an_iterator_gives_its_first_items_and_no_more_are_taken():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i, i

    sample = draw(items)
    assert [key for key, _ in sample.items] == list(range(20))
    assert sample.total is None
    assert "can only be read from its start" in sample.how
    assert len(taken) == 21
    assert draw(iter([(1, 1)])).total == 1


def test_lines_are_drawn_from_all_files_and_counted(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("".join(f"{name}{i}\n" for i in range(100)))
    sample = draw(Lines(tmp_path))
    lines = [line for _, line in sample.items]
    assert (lines[0], lines[-1], len(set(lines))) == ("a0", "c99", 20)
    assert {line[0] for line in lines} == set("abc")
    assert (sample.total, sample.is_estimate) == (300, False)
    assert draw(Lines(tmp_path), 1000).how == "all of them"


def test_the_number_of_lines_of_a_large_file_is_estimated(tmp_path, monkeypatch):
    from mmgevent.driver.trying import sample as module

    monkeypatch.setattr(module, "LOOK_ITEMS", 1000)
    monkeypatch.setattr(module, "MIN_LOOK_ITEMS", 100)
    (tmp_path / "a").write_text("".join(f"line {i:05}\n" for i in range(20_000)))
    sample = draw(Lines(tmp_path))
    assert sample.is_estimate
    assert 0.95 < sample.total / 20_000 < 1.05


def test_files_are_counted_without_being_read(tmp_path):
    for i in range(50):
        (tmp_path / f"{i:02}").write_text("x" * i)
    sample = draw(Files(tmp_path), 5)
    assert (len(sample.items), sample.total, sample.is_estimate) == (5, 50, False)


def test_what_cannot_be_read_is_said_and_the_rest_is_drawn(tmp_path):
    (tmp_path / "a").write_text('1\n{"x":\n3\n')
    sample = draw(JsonLines(tmp_path))
    assert [value for _, value in sample.items] == [1, 3]
    (text,) = sample.unreadable
    assert "not JSON" in text


def test_an_exception_of_the_datasource_is_the_users():
    def items():
        yield 1, 1
        raise ValueError("no more")

    with pytest.raises(mmg.JobError, match="no more"):
        draw(items)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_glance_at_mixed_sources_joins_what_the_job_would_join(tmp_path, is_first):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name in "ab":
        parquet.write_table(pyarrow.table({"n": [1, 2, 3]}), tmp_path / f"{name}.parquet")
    (tmp_path / "t.txt").write_text("one\ntwo\nthree\n")
    tables = mmg.Parquet(tmp_path / "*.parquet", as_="arrow")
    lines = mmg.Lines(tmp_path / "t.txt")

    def mapfn(keys, values):
        yield type(values).__name__, len(values)

    datasource = tables + lines if is_first else lines + tables
    job = mmg.Job(datasource, mapfn, mmg.reducers.sum_values, items_per_call=4)
    glance = take_glance(job, 20, lambda notice: None)
    assert dict(glance.results) == {"list": 3, "Table": 6}
