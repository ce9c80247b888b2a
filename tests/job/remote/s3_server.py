"""An S3 server on loopback."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mmgevent.job.remote import systems


@contextlib.contextmanager
def running_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """Yield the file system of a server of its own, which `s3://` means from now on, and its address."""
    import fsspec

    s3fs = pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # Without credentials botocore would ask for some beyond loopback.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setattr(systems, "_systems", {})  # those of other servers
        url = f"http://{host}:{port}"
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
        yield s3fs.S3FileSystem(), url
    finally:
        server.stop()
