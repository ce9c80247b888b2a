"""Compressed files are known by their content, cut where that is possible, and damage is named."""

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys

import pytest

from mmgevent.errors import DatasourceError
from mmgevent.job.inputs import bz2_marks, compressed, compressed_splits, lines, members
from mmgevent.job.inputs.compressed import DamagedError
from mmgevent.job.inputs.files import Files
from mmgevent.job.inputs.json_lines import JsonLines
from mmgevent.job.inputs.lines import Lines
from mmgevent.job.inputs.refs import ContentNeeded, DecodeError
from tests.job.inputs import compressing
from tests.job.inputs.compressing import bgzf, bz2_block, bz2_stream, flip, zstd_frames

try:
    compressing.zstd_module()
    ZSTD = True
except ImportError:
    ZSTD = False
needs_zstd = pytest.mark.skipif(not ZSTD, reason="this Python has no zstd")


def text_of(seed, n_lines=400):
    """Return lines of all lengths, some of them empty and some long, without a line end at the end."""
    random_ = random.Random(seed)
    words = [f"w{i}" for i in range(50)]
    texts = [" ".join(random_.choices(words, k=random_.choice([0, 1, 5, 20]))) for _ in range(n_lines)]
    texts[7] = "x" * 5000
    texts[9] = "ä ö"
    return "\n".join(texts).encode()


def small_bz2(data):
    """Compress as blocks and streams that are as small as can be, with marks by chance inside."""
    streams = []
    for i in range(0, len(data), 120):
        parts = [data[j : j + 40] for j in range(i, min(i + 120, len(data)), 40)]
        mark = f"{compressing.BLOCK:048b}0" if i % 240 else ""
        streams.append(bz2_stream([bz2_block(part, mark) for part in parts]))
    streams.insert(1, bz2_stream([]))
    return b"".join(streams)


def no_runs(data):
    """Return bytes of which none stands more than three times in a row."""
    return data.replace(b"x" * 4, b"xyxz").replace(b"\n" * 4, b"\na\nb").replace(b"\n" * 4, b"\na\nb")


def kinds():
    data = text_of(1)
    yield "gzip", gzip.compress(data), data
    yield "gzip members", compressing.members(gzip.compress, data, 1000), data
    yield "bgzf", bgzf(data, 300), data
    yield "bz2", bz2.compress(data, 1), data
    yield "bz2 streams", compressing.members(bz2.compress, data, 700), data
    yield "bz2 blocks", small_bz2(no_runs(data)), no_runs(data)
    yield "xz", lzma.compress(data), data
    yield "xz streams", compressing.members(lzma.compress, data, 1000) + b"\0" * 8, data
    yield (
        "all in turn",
        gzip.compress(data[:5000]) + lzma.compress(data[5000:9000]) + bz2.compress(data[9000:]),
        data,
    )
    yield "bgzf, then gzip", bgzf(data[:5000], 300) + gzip.compress(data[5000:]) + b"\0\0", data
    yield (
        "bz2, then xz",
        small_bz2(no_runs(data)) + lzma.compress(b"\nmore\nlines"),
        no_runs(data) + b"\nmore\nlines",
    )
    if ZSTD:
        yield "zstd", zstd_frames(data, 10**9, sized=True), data
        yield "zstd frames", zstd_frames(data, 700, sized=True), data
        yield "zstd frames without sizes", zstd_frames(data, 700, sized=False), data
        yield "zstd, then gzip", zstd_frames(data[:5000], 300, sized=False) + gzip.compress(data[5000:]), data


KINDS = {name: (packed, data) for name, packed, data in kinds()}
CUT = [name for name in KINDS if name.startswith(("bgzf", "bz2 blocks", "bz2 streams", "bz2, then", "zstd"))]


def write(path, data):
    path.write_bytes(data)
    return str(path)


def expected_lines(data):
    texts = data.decode().split("\n")
    return texts[:-1] if texts[-1] == "" else texts


@pytest.fixture
def cuts(monkeypatch):
    """Set the size of splits, and read as little at once as makes a difference."""

    def set_size(n_bytes):
        monkeypatch.setattr(compressed_splits, "BZ2_SPLIT_BYTES", n_bytes)
        monkeypatch.setattr(compressed_splits, "SPLIT_BYTES", n_bytes)
        monkeypatch.setattr(lines, "LINES_SPLIT_BYTES", 4 * n_bytes)
        monkeypatch.setattr(bz2_marks, "_SEARCHED_BYTES", 300)

    return set_size


@pytest.mark.parametrize("name", KINDS)
def test_a_compressed_file_is_read_as_what_it_contains(name, tmp_path):
    packed, data = KINDS[name]
    path = write(tmp_path / "no-suffix", packed)
    assert list(Files(path)) == [(path, data.decode())]
    assert list(Files(path, binary=True, compression="any")) == [(path, data)]
    found = list(Lines(path))
    assert [text for _, text in found] == expected_lines(data)
    whole = write(tmp_path / "plain", data)
    assert [place[1] for place, _ in found] == [place[1] for place, _ in Lines(whole)]


@pytest.mark.parametrize("name", CUT)
def test_every_line_is_in_one_split_wherever_the_file_is_cut(name, tmp_path, cuts, monkeypatch):
    packed, data = KINDS[name]
    path = write(tmp_path / "f", packed)
    monkeypatch.setattr(members, "READ_BYTES", 256)
    monkeypatch.setattr(members, "PIECE_BYTES", 100)
    most = 0
    for split_bytes in (37, 101, 500, 2000, 5000):
        cuts(split_bytes)
        refs = list(Lines(path).refs())
        most = max(most, len(refs))
        assert sum(ref.weight for ref in refs) == len(packed)
        found = [item for ref in refs for item in ref.units()]
        assert [text for _, text in found] == expected_lines(data)
        offsets = [place[1] for place, _ in found]
        assert sorted(set(offsets)) == offsets
        if "bz2" not in name and "without" not in name and name != "zstd, then gzip":
            assert offsets == [place[1] for place, _ in Lines(write(tmp_path / "plain", data))]
    assert most == 2 if name == "zstd" else most > 5


@pytest.mark.parametrize("name", KINDS)
def test_a_split_can_carry_what_its_lines_need(name, tmp_path, cuts):
    packed, _ = KINDS[name]
    path = write(tmp_path / "f", packed)
    cuts(500)
    refs = list(Lines(path).refs())
    here = [item for ref in refs for item in ref.units()]
    carried = [ref.with_content() for ref in refs]
    [file] = [ref.with_content() for ref in Files(path).refs()]
    os.remove(path)
    assert [item for ref in carried for item in ref.units()] == here
    assert next(iter(file.items()))[1] == KINDS[name][1].decode()
    with pytest.raises(ContentNeeded):
        list(refs[0].units())


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\n\n", b"a", b"a\n", b"long " * 3000, b"\n" + b"long " * 3000 + b"\n"]
)
@pytest.mark.parametrize(
    "compress", [bgzf, lambda data: compressing.members(bz2.compress, data, 200), gzip.compress]
)
def test_blocks_without_line_ends_and_files_without_content(compress, data, tmp_path, cuts):
    path = write(tmp_path / "f", compress(data))
    for split_bytes in (1, 20, 64, 10**6):
        cuts(split_bytes)
        assert [text for _, text in Lines(path)] == expected_lines(data)


@pytest.mark.parametrize("name", ["gzip", "bz2", "xz", "bgzf", *(["zstd"] if ZSTD else [])])
def test_blocks_of_the_usual_size_are_whole(name, tmp_path, cuts):
    """What tools write: blocks and members that are larger than all that is read at once."""
    hard = random.Random(2).randbytes(250_000).hex().encode()
    data = b"\n".join(
        [b"x" * 2_000_000, *(hard[i : i + 80] for i in range(0, len(hard), 80)), b"y" * 2_000_000]
    )
    if name == "zstd":
        packed = zstd_frames(data, 1_500_000, sized=False)
    else:
        packed = bgzf(data) if name == "bgzf" else compressing.COMPRESS[name](data)
    path = write(tmp_path / "f", packed)
    assert next(iter(Files(path)))[1].encode() == data
    for split_bytes in (100_000, 10**7):
        cuts(split_bytes)
        assert [text.encode() for _, text in Lines(path)] == data.split(b"\n")


def test_an_empty_file_is_no_compressed_file(tmp_path):
    path = write(tmp_path / "a.gz", b"")
    assert list(Lines(path)) == []
    assert list(Files(path)) == [(path, "")]


class TestDamage:
    @pytest.mark.parametrize(
        "name", ["gzip", "gzip members", "bz2", "xz", "bgzf", *(["zstd"] if ZSTD else [])]
    )
    def test_a_file_that_was_cut_off_is_named_with_where_it_ends(self, name, tmp_path):
        packed = KINDS[name][0]
        if name == "bgzf":
            packed = packed[:-28]  # the empty member at the end may be missing
        for n_bytes in (len(packed) - 1, len(packed) - 5, len(packed) // 2, 40):
            path = write(tmp_path / "cut.log", packed[:n_bytes])
            for source in (Files(path), Lines(path)):
                with pytest.raises(DamagedError, match=f"cut.log: its .* ends at byte {n_bytes:,}, before"):
                    list(source)

    @pytest.mark.parametrize("name", ["gzip", "bz2", "xz", "bgzf"])
    def test_a_file_with_a_wrong_bit_is_named(self, name, tmp_path):
        packed = KINDS[name][0]
        path = write(tmp_path / "wrong.log", flip(packed, len(packed) // 2))
        for source in (Files(path), Lines(path)):
            with pytest.raises(DamagedError, match=r"wrong.log: its \w+ data"):
                list(source)

    @pytest.mark.parametrize("name", [name for name in CUT if name != "zstd"])
    def test_no_bit_that_is_wrong_changes_a_line_or_loses_one(self, name, tmp_path, cuts):
        """Whatever is damaged: a split is right, or an error."""
        packed = KINDS[name][0]
        path = str(tmp_path / "f")
        cuts(300)
        write(tmp_path / "f", packed)
        right = [list(ref.units()) for ref in Lines(path).refs()]
        random_ = random.Random(name)
        failed = 0
        for _ in range(8):
            write(tmp_path / "f", flip(packed, random_.randrange(20, len(packed))))
            found = []
            for ref in Lines(path).refs():
                try:
                    found.append([text for _, text in ref.units()])
                except DamagedError:
                    found.append(None)
            if None in found:
                failed += 1
            else:
                assert [t for texts in found for t in texts] == [t for split in right for _, t in split]
        assert failed > 3

    @pytest.mark.parametrize("name", ["gzip", "bz2", "xz", "bz2 blocks"])
    def test_what_follows_is_ignored_and_said(self, name, tmp_path, caplog, cuts):
        packed, data = KINDS[name]
        cuts(300)
        path = write(tmp_path / "f", packed + b"\0" * 200)
        assert [text for _, text in Lines(path)] == expected_lines(data)
        assert not [record for record in caplog.records if record.getMessage().startswith("ignored")]
        write(tmp_path / "f", packed + b"garbage")
        assert [text for _, text in Lines(path)] == expected_lines(data)
        [said] = [
            record.getMessage() for record in caplog.records if record.getMessage().startswith("ignored")
        ]
        assert (
            said
            == f"ignored 7 bytes at the end of {path}: its {name[:4].strip()} data ends at byte {len(packed)}"
        )

    @pytest.mark.parametrize("name", ["gzip members", "bgzf", "bz2 streams", "bz2 blocks", "xz streams"])
    def test_data_that_goes_on_after_other_bytes_is_damaged(self, name, tmp_path, cuts):
        packed, _ = KINDS[name]
        path = write(tmp_path / "f", packed + b"other bytes" + packed)
        cuts(500)
        failed = 0
        for ref in Lines(path).refs():
            try:
                list(ref.units())
            except DamagedError as error:
                failed += "it goes on" in str(error)
        assert failed >= 1
        with pytest.raises(DamagedError, match="it goes on"):
            list(Files(path))

    def test_a_block_inside_a_block_is_not_cut_silently(self, tmp_path, cuts):
        inner = bz2_block(b"inner\nlines\n")
        # selectors may hold no three ones in a row, so a whole block is not hidden there; its mark is
        packed = bz2_stream([bz2_block(b"a\nb\nc\n" * 5, f"{compressing.BLOCK:048b}0" * 30), inner])
        path = write(tmp_path / "f", packed)
        for split_bytes in range(1, len(packed), 31):
            cuts(split_bytes)
            assert [text for _, text in Lines(path)] == ["a", "b", "c"] * 5 + ["inner", "lines"]

    def test_the_checksum_of_a_stream_counts(self, tmp_path, cuts):
        packed = bytearray(bz2_stream([bz2_block(b"a\nb\n")]))
        packed[-3] ^= 1
        path = write(tmp_path / "f", bytes(packed) * 8)
        cuts(2 * len(packed))
        first = next(iter(Lines(path).refs()))
        with pytest.raises(DamagedError, match="checksum"):
            list(first.units())


class TestTheParameter:
    def test_bytes_are_as_they_are_unless_content_is_asked_for(self, tmp_path):
        packed = gzip.compress(b"content")
        path = write(tmp_path / "f", packed)
        assert list(Files(path, binary=True)) == [(path, packed)]
        assert list(Files(path, binary=True, compression=None)) == [(path, packed)]
        assert list(Files(path, binary=True, compression="gzip")) == [(path, b"content")]
        assert list(Files(path, binary=True, compression="any")) == [(path, b"content")]

    @pytest.mark.parametrize("source", [Files, Lines])
    def test_a_name_insists(self, source, tmp_path):
        path = write(tmp_path / "a.gz", bz2.compress(b"text"))
        with pytest.raises(DatasourceError, match=r"a.gz is not gzip, as compression='gzip' says: it is bz2"):
            list(source(path, compression="gzip").refs())
        path = write(tmp_path / "a.gz", b"text")
        with pytest.raises(DatasourceError, match=r"a.gz is not xz.*first bytes are others"):
            list(source(path, compression="xz").refs())
        path = write(tmp_path / "a.gz", b"")
        with pytest.raises(DatasourceError, match=r"a.gz is not gzip.*it is empty"):
            list(source(path, compression="gzip").refs())

    def test_an_unknown_name_is_refused(self, tmp_path):
        path = write(tmp_path / "f", b"")
        with pytest.raises(
            DatasourceError, match="compression='gz' is unknown; it is 'infer', 'any', None, or one of gzip"
        ):
            Lines(path, compression="gz").check()

    def test_compressed_bytes_that_are_to_be_text_are_recognised(self, tmp_path):
        path = write(tmp_path / "f", gzip.compress(os.urandom(100)))
        for source in (Files(path, compression=None), Lines(path, compression=None)):
            with pytest.raises(DecodeError, match="it is gzip; leave out compression=None"):
                list(source)
        path = write(tmp_path / "f", b"PK\x03\x04\xff\xff")
        with pytest.raises(DecodeError, match="it is a zip archive; unpack it first"):
            list(Files(path))

    def test_a_place_in_content_is_called_one(self, tmp_path, cuts):
        path = write(tmp_path / "f", gzip.compress(b"a\n\xff\n"))
        with pytest.raises(DecodeError, match="f: byte 2 of its content is not utf-8"):
            list(Files(path))
        path = write(tmp_path / "f", bz2_stream([bz2_block(b"a\nb\n"), bz2_block(b"a\n\xff\n")]))
        cuts(10)
        with pytest.raises(DecodeError, match=r"f: byte 2 of the block at byte \d+ is not utf-8"):
            list(Lines(path))

    def test_a_byte_order_mark_is_ignored_where_the_file_is_cut(self, tmp_path, cuts):
        blocks = [bz2_block(b"\xef\xbb\xbf[1]\n[2]\n"), bz2_block('["ü"]\n'.encode())]
        path = write(tmp_path / "f", bz2_stream(blocks))
        cuts(10)
        assert [text for _, text in Lines(path, encoding="utf-8-sig")] == ["[1]", "[2]", '["ü"]']
        assert [value for _, value in JsonLines(path)] == [[1], [2], ["ü"]]

    def test_text_that_begins_like_bz2_is_text(self, tmp_path):
        path = write(tmp_path / "f", b"BZh9 is how bz2 begins\n")
        assert [text for _, text in Lines(path)] == ["BZh9 is how bz2 begins"]

    def test_a_python_without_a_module_says_so_and_reads_the_rest(self, tmp_path):
        """As Pythons are that were built without libbz2, liblzma and zstd."""
        gz = write(tmp_path / "a.gz", gzip.compress(b"1\n") + gzip.compress(b"2\n"))
        others = [
            write(tmp_path / "b.bz2", bz2.compress(b"1\n")),
            write(tmp_path / "c.xz", lzma.compress(b"1\n")),
            write(tmp_path / "d.zst", compressed.ZSTD + b"0000"),
        ]
        renamed = [shutil.copy(path, f"{path}.log") for path in others]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_MODULES, gz, *others, *renamed], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert said[0] == "['1', '2']"
        for path, text in zip([*others, *renamed], said[1:], strict=True):
            kind = {"b": "bz2", "c": "xz", "d": "zstd"}[os.path.basename(path)[0]]
            assert text.startswith(f"{path} is {kind}, which this Python cannot read: it "), text
            wanted = {"bz2": "the module bz2;", "xz": "the module lzma;", "zstd": "install 'mmgevent[zstd]'"}
            assert wanted[kind] in text


#: Reads files in a Python without some modules: those that say so before a job first
WITHOUT_MODULES = """
import sys
for name in ("_bz2", "_lzma", "compression.bz2", "compression.lzma", "compression.zstd", "backports.zstd"):
    sys.modules[name] = None
from mmgevent.errors import DatasourceError
from mmgevent.job.inputs.lines import Lines
print([line for _, line in Lines(sys.argv[1])])
for path in sys.argv[2:]:
    try:
        Lines(path).check()
        assert path.endswith(".log"), path
        list(Lines(path))
    except DatasourceError as error:
        print(error)
"""


def test_what_cannot_be_cut_is_said_once(tmp_path, cuts, caplog):
    for name in "abcde":
        write(tmp_path / name, gzip.compress(random.Random(1).randbytes(2000)))
    write(tmp_path / "f", bgzf(random.Random(1).randbytes(6000), 500))
    cuts(100)
    list(Lines(tmp_path).refs())
    [said] = [record.getMessage() for record in caplog.records]
    names = ", ".join(str(tmp_path / name) for name in "abc")
    assert f"one executor reads each of these files (5): {names} and 2 more" in said


def test_memory_is_bounded_by_pieces_not_by_content(tmp_path):
    import tracemalloc

    line = b"0" * 99 + b"\n"
    path = write(tmp_path / "f", gzip.compress(line * 100_000, 1) * 2)
    [ref] = Lines(path).refs()
    tracemalloc.start()
    n_lines = sum(1 for _ in ref.units())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_lines == 200_000
    assert peak < 12 * 2**20
