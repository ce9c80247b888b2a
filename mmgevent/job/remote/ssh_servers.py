"""Files of ssh servers, whose host keys must be known.

fsspec's own class accepts any key of a server that it has not met. This one does not: keys stand
where `ssh` keeps them, too. It gives up connections that nobody answers.
"""

from __future__ import annotations

import os
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

#: Where `ssh` looks for keys of all users.
_KEYS_OF_ALL = "/etc/ssh/ssh_known_hosts"

#: Time for each step of a connection, seconds: that of a look is longer.
_CONNECT_S = 20.0

#: Time for an answer, seconds. It is less than that of a call, so that calls behind it have their turn.
_ANSWER_S = 60.0


class SshServer(SFTPFileSystem):
    """fsspec's file system of an ssh server, with known host keys only."""

    def _connect(self) -> None:
        options: dict[str, Any] = dict(self.ssh_kwargs)
        options.pop("host_key_policy", None)  # older versions of fsspec leave it there
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        if os.path.exists(_KEYS_OF_ALL):
            self.client.load_system_host_keys(_KEYS_OF_ALL)
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        for step in ("timeout", "banner_timeout", "auth_timeout"):
            options.setdefault(step, _CONNECT_S)
        self.client.connect(self.host, **options)
        self.ftp = self.client.open_sftp()
        self.ftp.get_channel().settimeout(_ANSWER_S)
