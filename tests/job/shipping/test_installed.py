"""Installed modules are distinguished from the user's own, without importing either."""

import sys

import pytest

from mmgevent.job.shipping import installed


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder of the user's on `sys.path`, and no memory of what was found before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed._installed_places.cache_clear()
    installed._is_installed_path.cache_clear()
    yield tmp_path
    installed._installed_places.cache_clear()
    installed._is_installed_path.cache_clear()


@pytest.mark.parametrize(
    "name", ["sys", "os", "json", "xml.dom.minidom", "_ctypes", "pytest", "mmgevent.tasks.records"]
)
def test_the_standard_library_and_installed_packages_are_installed(own_folder, name):
    assert installed.is_installed(name)


def test_modules_and_packages_beside_the_job_are_not(own_folder):
    (own_folder / "own_module.py").write_text("raise RuntimeError('imported')")
    (own_folder / "own_package" / "inner").mkdir(parents=True)
    (own_folder / "own_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (own_folder / "own_package" / "inner" / "deep.py").write_text("")
    for name in (
        "own_module",
        "own_package",
        "own_package.inner",
        "own_package.inner.deep",
        "no_such_module",
    ):
        assert not installed.is_installed(name)
    assert "own_package" not in sys.modules


def test_a_site_packages_folder_anywhere_counts(own_folder, monkeypatch):
    folder = own_folder / ".venv" / "lib" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "third_party.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    assert installed.is_installed("third_party")


def test_an_editable_install_covers_what_lies_directly_in_its_folder(own_folder, monkeypatch):
    project = own_folder / "project"
    (project / "src_package").mkdir(parents=True)
    (project / "src_package" / "__init__.py").write_text("")
    (project / "examples").mkdir()
    (project / "examples" / "example_lib.py").write_text("")
    sites = own_folder / "sites"
    sites.mkdir()
    (sites / "project.pth").write_text(f"# comment\nimport os\n{project}\n")
    monkeypatch.setattr(installed.site, "getsitepackages", lambda: [str(sites)])
    for folder in (project, project / "examples"):
        monkeypatch.syspath_prepend(str(folder))
    assert installed.is_installed("src_package")
    assert not installed.is_installed("example_lib")


def test_a_package_that_a_setuptools_finder_maps_is_installed(own_folder, monkeypatch):
    (own_folder / "mapped").mkdir()
    (own_folder / "mapped" / "__init__.py").write_text("")
    finder = type(sys)("__editable___mapped_finder")
    finder.MAPPING = {"mapped": str(own_folder / "mapped")}
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    assert installed.is_installed("mapped")
