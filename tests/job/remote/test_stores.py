"""Objects of an S3 server on loopback."""

import pytest

from mmgevent import Files, Lines
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import lines
from tests.job.remote.s3_server import running_s3

pytest.importorskip("fsspec")

LINES = b"".join(b"line %d of many\n" % i for i in range(9_000))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the libraries that serve
def test_objects_of_s3_are_found_cut_and_refused_by_name(monkeypatch):
    with running_s3(monkeypatch) as (system, _):
        system.mkdir("box")
        system.pipe({"box/in/a.txt": LINES, "box/in/b/c.txt": b"x\n", "box/d.txt": b"y\n"})
        monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", 40_000)
        source = Lines("s3://box/in/a.txt")
        source.check()
        refs = list(source.refs())
        assert len(refs) == -(-len(LINES) // 40_000)
        assert [line for ref in refs for _, line in ref.items()] == LINES.decode().splitlines()
        assert [key for key, _ in Files("s3://box/in")] == ["s3://box/in/a.txt", "s3://box/in/b/c.txt"]
        assert [text for _, text in Files("s3://box/*.txt")] == ["y\n"]
        system.pipe("box/in/a.txt", LINES.upper())
        with pytest.raises(DatasourceError, match=r"s3://box/in/a\.txt changed or went away"):
            refs[1].with_content()
        for lost in ("s3://nobucket/a.txt", "s3://box/lost.txt", "s3://box/lost/*.txt"):
            with pytest.raises(DatasourceError) as caught:
                Lines(lost).check()
            assert lost in str(caught.value)
            assert "\n" not in str(caught.value)
