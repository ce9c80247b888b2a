"""Each guard, taken away in a copy of the package, is missed by the tests that are named for it."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.trust.mutations import (
    ALL_S,
    IN_VAIN_S,
    MUTATIONS,
    PATIENCE_S,
    Outdated,
    copy_package,
    mutate,
    run_tests,
    where_is_the_package,
)

#: of pytest: tests ran, and some failed; everything else says that they could not run
SOME_FAILED = 1


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    copy_package(folder)
    return folder


@pytest.mark.timeout(ALL_S + PATIENCE_S)
def test_the_named_tests_import_the_copy_and_pass_on_it(original):
    assert where_is_the_package(original) == str(original / "mmgevent" / "_speedups" / "__init__.py")
    named = sorted({test for mutation in MUTATIONS for test in mutation.tests})
    done = run_tests(original, named, all_s=ALL_S)
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: re.sub(r"\W+", "-", m.guard))
def test_a_guard_that_is_gone_is_missed(mutation, original, tmp_path):
    folder = tmp_path / "mutated"
    shutil.copytree(original, folder)
    mutate(folder, mutation)
    done = run_tests(folder, list(mutation.tests), IN_VAIN_S if mutation.waits else PATIENCE_S)
    assert done.returncode == SOME_FAILED, f"without {mutation.guard!r}:\n{done.stdout}"


def test_a_test_that_waits_is_ended_whatever_limit_it_has_of_its_own(original, tmp_path):
    folder = tmp_path / "waiting"
    shutil.copytree(original, folder)
    (folder / "tests" / "test_that_waits.py").write_text(
        f"import pytest, threading\n\n@pytest.mark.timeout({10 * PATIENCE_S})\n"
        "def test_that_waits():\n    threading.Event().wait()\n"
    )
    done = run_tests(folder, ["test_that_waits.py::test_that_waits"], each_s=1)
    assert done.returncode == SOME_FAILED
    assert "Timeout" in done.stdout


def test_a_guard_that_was_rewritten_asks_for_its_row(original, tmp_path):
    folder = tmp_path / "rewritten"
    shutil.copytree(original, folder)
    gone = MUTATIONS[0]._replace(old="no such line")
    with pytest.raises(Outdated, match=r"update its row in tests/trust/mutations\.py"):
        mutate(folder, gone)
