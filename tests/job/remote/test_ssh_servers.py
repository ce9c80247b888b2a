"""Files of an ssh server: a real sshd on loopback, and file systems that serve one call at a time."""

import getpass
import threading
import uuid

import pytest

from mmgevent import Files, Lines
from mmgevent.errors import DatasourceError
from mmgevent.job.remote.systems import open_system
from tests.integration.sshd import running_sshd
from tests.ports import free_port

fsspec = pytest.importorskip("fsspec")

FILES = 20


def list_of(folder, addresses):
    path = folder / "names.txt"
    path.write_text("".join(f"{address}\n" for address in addresses))
    return path


def test_calls_take_turns_where_only_one_is_served(tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    class OneCaller(MemoryFileSystem):
        protocol = "onecaller"
        cachable = False
        busy = threading.Lock()
        others = threading.Event()  # never set: it gives other threads time

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("onecaller:", "memory:"))

        def info(self, path, **options):
            assert self.busy.acquire(blocking=False), "two calls at a time"
            try:
                self.others.wait(0.01)
                return super().info(path, **options)
            finally:
                self.busy.release()

    fsspec.register_implementation("onecaller", OneCaller, clobber=True)
    folder = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe({f"/{folder}/{i:02}.txt": b"%d\n" % i for i in range(FILES)})
    source = Lines.listed(list_of(tmp_path, (f"onecaller://{folder}/{i:02}.txt" for i in range(FILES))))
    source.check()
    assert len(list(source.refs())) == FILES


def test_an_archive_on_an_ssh_server_is_refused():
    pytest.importorskip("paramiko")
    with pytest.raises(DatasourceError, match="files of ssh servers are read as they are"):
        Lines("zip://a.txt::sftp://me@host/a.zip").check()


@pytest.mark.long
def test_files_of_an_ssh_server_are_read_and_strangers_refused(tmp_path, monkeypatch):
    pytest.importorskip("paramiko")
    port = free_port()
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    for number in range(FILES):
        (data / f"{number:02}.csv").write_text(f"{number}\n")
    with running_sshd(tmp_path, "x", port, free_port()):
        key = str(tmp_path / "user_key")
        monkeypatch.setitem(fsspec.config.conf, "sftp", {"key_filename": key, "host_key_policy": "auto_add"})
        address = f"sftp://{getpass.getuser()}@127.0.0.1:{port}{data}"
        with pytest.raises(DatasourceError, match="known_hosts") as caught:
            Lines(f"{address}/*.csv").check()
        assert "\n" not in str(caught.value)
        assert address in str(caught.value)
        (tmp_path / ".ssh").mkdir()
        known = (tmp_path / "known_hosts").read_text()
        (tmp_path / ".ssh" / "known_hosts").write_text(known)
        source = Lines(f"{address}/*.csv")
        source.check()
        assert [line for ref in source.refs() for _, line in ref.items()] == [str(i) for i in range(FILES)]
        listed = Files.listed(list_of(tmp_path, (f"{address}/{number:02}.csv" for number in range(FILES))))
        assert [text for _, text in listed] == [f"{number}\n" for number in range(FILES)]
        open_system(address)[0].client.close()  # as if the connection was lost
        assert [text for _, text in Files(f"{address}/*.csv")] == [f"{number}\n" for number in range(FILES)]
        with pytest.raises(DatasourceError, match=r"lost\.csv: it does not exist"):
            Lines(f"{address}/lost.csv").check()
