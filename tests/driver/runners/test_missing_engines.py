"""What is said without the packages of an engine.  This needs none, so it runs everywhere."""

import subprocess
import sys

import pytest

from tests.integration.commands import ROOT


@pytest.mark.parametrize(
    ("package", "where", "extra"),
    [
        ("distributed", "dask://127.0.0.1:9", "dask"),
        ("ray", "ray://auto", "ray"),
        ("pyspark", "spark://127.0.0.1:9", "spark"),
    ],
)
def test_a_missing_engine_names_the_extra(package, where, extra, tmp_path):
    job = tmp_path / "job.py"
    job.write_text("datasource = {1: 1}\ndef mapfn(key, value): yield key, value\n")
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mmgevent.__main__ import main\n"
        f"sys.argv[1:] = ['run', '--on', {where!r}, {str(job)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"needs the package {package}" in done.stderr
    assert done.stderr.endswith(f"pip install 'mmgevent[{extra}]'\n")
    assert done.stderr.count("\n") == 1
