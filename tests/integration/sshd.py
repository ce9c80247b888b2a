"""A real sshd on loopback, run as the current user, with keys, accounts and hosts of its own."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.commands import ROOT, patience_s

#: where Debian and others keep it, which is on the path of root only
SBIN = "/usr/sbin:/usr/local/sbin:/sbin"

#: a folder that sshd of root needs, and that the start of its service makes
PRIVILEGE_FOLDER = Path("/run/sshd")

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
Subsystem sftp internal-sftp
SetEnv PYTHONPATH={root} MMGEVENT_TESTED_BY={mark}
"""

CLIENT = """
Host h1 h2 h3
    HostName 127.0.0.1
    Port {port}
Host nobody
    HostName 127.0.0.1
    Port {closed_port}
Host stranger
    HostName 127.0.0.1
    Port {port}
    UserKnownHostsFile /dev/null
Host *
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


@contextlib.contextmanager
def running_sshd(folder, mark, port, closed_port):
    """Run sshd; yield a folder with an `ssh` that knows hosts h1, h2, h3, nobody and stranger.

    Skips the test, and says why, where there is no sshd or where it does not start.
    """
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:{SBIN}")
    for name, path in (("sshd (Debian: openssh-server)", sshd), ("ssh", shutil.which("ssh"))):
        if path is None:
            pytest.skip(f"there is no {name} on this machine")
    names = {"folder": folder, "port": port, "closed_port": closed_port, "root": ROOT, "mark": mark}
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(SERVER.format(**names))
    (folder / "ssh_config").write_text(CLIENT.format(**names, user=getpass.getuser()))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "bin").mkdir()
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)
    with _privilege_folder(), open(folder / "sshd.log", "w") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        try:
            _wait_for_port(server, port, folder / "sshd.log")
            yield folder / "bin"
        finally:
            server.terminate()
            server.wait()


@contextlib.contextmanager
def _privilege_folder():
    if os.getuid() != 0 or PRIVILEGE_FOLDER.exists():
        yield
        return
    PRIVILEGE_FOLDER.mkdir(mode=0o755)
    try:
        yield
    finally:
        PRIVILEGE_FOLDER.rmdir()


def _wait_for_port(server, port, log):
    end_s = time.monotonic() + 10 * patience_s()
    while time.monotonic() < end_s:
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("sshd did not listen")
