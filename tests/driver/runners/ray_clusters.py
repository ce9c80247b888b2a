"""Ray on this machine, for tests: a session of the test's process, and a cluster that stands by itself."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from mmgevent.box import leased
from tests.ports import free_port

SLOTS = 2
STORE_BYTES = 80 * 2**20  #: of the object store: the smallest that Ray takes is 75 MiB

START_S = 180.0


@contextlib.contextmanager
def ray_session(num_cpus: int = SLOTS, **options: object) -> Iterator[ModuleType]:
    """The package `ray` with a session of so many slots."""
    _use_token()
    import ray

    ray.init(
        "local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
        **options,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def standing_ray() -> Iterator[tuple[str, str]]:
    """A cluster of other processes: (its own address, the address of its client server)."""
    _use_token()
    port = client_port = free_port()
    while client_port == port:
        client_port = free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    options = [
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client_port}",
        f"--num-cpus={SLOTS}", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false",
        "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    command = [ray, "start", "--head", "--block", *options]
    # The client server forks, and the fork handlers of its gRPC abort it now and then.
    environ = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    null = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=tempfile.gettempdir(), env=environ, stdin=null, stdout=null, stderr=null
    ) as process:
        try:
            for each in (port, client_port):
                _wait_for_port(each)
            yield f"127.0.0.1:{port}", f"127.0.0.1:{client_port}"
        finally:
            process.send_signal(signal.SIGTERM)  # it ends what it has started


def lasting_leases() -> set[str]:
    """Return the leases of this machine that the next job on Ray would leave."""
    leased.leases.sweep()
    return set(glob.glob(os.path.join(tempfile.gettempdir(), f"{leased.PREFIX}*")))


def _use_token() -> None:
    """Have a token for this process and what it starts: by default Ray writes one to ~/.ray."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _wait_for_port(port: int) -> None:
    import socket

    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < until, f"Ray does not listen on port {port}"
            time.sleep(0.05)
