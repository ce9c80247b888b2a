"""A cluster whose workers are started over `ssh`: `--on ssh://h1,h2`.

The server is in the engine of this process and listens on this machine only. Its password is made
for this cluster, so nothing of the user's travels. The hosts get the worker password of it, with
which nobody can submit jobs.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from mmgevent.access.ssh_hosts import SshHost, check_remote_python, parse_ssh_hosts
from mmgevent.driver.local_cluster import LocalCluster
from mmgevent.driver.runners.ssh import END_S, SshWorker
from mmgevent.errors import MmgeventError, NoHostLeftError, StartError, UsageError
from mmgevent.machine.logs import get_log
from mmgevent.machine.resources import start_thread
from mmgevent.shown_text import shown

log = get_log(__name__)

#: Length of the password of one cluster, bytes.
PASSWORD_BYTES = 16

#: Hosts that a message about the failure of all of them names.
MAX_NAMED_HOSTS = 10


def open_ssh(where: str, verbose: int = 0) -> SshCluster:
    """Return a cluster on the hosts of "ssh://h1,h2", with all cores of each.

    Raises UsageError for what is no host.
    """
    return SshCluster(parse_ssh_hosts(where.strip()), verbose=verbose)


class SshCluster(LocalCluster):
    """A server here, and workers on other machines, while it is open."""

    def __init__(
        self,
        hosts: Sequence[SshHost],
        *,
        remote_python: str | None = None,
        remote_procs: int = 0,
        procs: int = 0,
        segment_memory: int | str | None = None,
        verbose: int = 0,
        on_failure: Callable[[str], None] | None = None,
    ):
        """Start the engine and return at once. A thread starts the workers.

        `remote_python`: interpreter on the hosts, or "uv"; None for python3.X as here.
        `remote_procs`: executors of each host; 0 for one a core. `procs`: executors here.
        `on_failure(text)` is called, in another thread, with what failed on which host. The cluster
        gives up, with a NoHostLeftError that names all, once all hosts have failed and `procs` is 0.

        Raises UsageError for an interpreter that a shell would change.
        """
        if not hosts:
            raise UsageError("ssh:// names no hosts")
        self._remote_python = None if remote_python is None else check_remote_python(remote_python)
        self._hosts = list(hosts)
        self._has_own = procs > 0
        self._on_failure = on_failure
        self._password = secrets.token_hex(PASSWORD_BYTES)
        self._order = {"procs": remote_procs, "verbose": min(verbose, 1)}
        self._guard = threading.Lock()  # guards the three below
        self._workers: list[SshWorker] = []
        self._failures: dict[SshHost, str] = {}
        self._is_ending = False
        super().__init__(
            procs,
            listen=("127.0.0.1", 0),
            password=self._password,
            segment_memory=segment_memory,
            verbose=verbose,
        )
        self._starter = threading.Thread(target=self._start_workers, name="mmgevent-ssh", daemon=True)
        try:
            start_thread(self._starter)
        except StartError:
            self._end()  # the engine runs already
            raise

    def _start_workers(self) -> None:
        from mmgevent.access.worker_password import make_worker_password

        try:
            address = self.address
        except MmgeventError:
            return  # whoever submits a job gets this error
        assert address is not None
        order = {**self._order, "password": make_worker_password(self._password)}
        for host in self._hosts:
            with self._guard:
                if self._is_ending:
                    return
                try:
                    worker = SshWorker(
                        host,
                        self._remote_python,
                        port=address[1],
                        order=order,
                        on_line=self._on_line,
                        on_end=lambda worker, reason: self._note_failure(worker.host, reason),
                    )
                except StartError as error:
                    failure = str(error)
                else:
                    self._workers.append(worker)
                    continue
            self._note_failure(host, failure)

    def _on_line(self, worker: SshWorker, text: str) -> None:
        log.info("%s: %s", worker.host, text)

    def _note_failure(self, host: SshHost, reason: str) -> None:
        with self._guard:
            if self._is_ending:
                return
            self._failures[host] = reason
            is_last = len(self._failures) == len(self._hosts) and not self._has_own
        if self._on_failure is not None:
            self._on_failure(f"{host}: {reason}")
        else:
            log.warning("host lost: %s: %s", host, reason)
        if is_last:
            self._fail()

    def _fail(self) -> None:
        """Fail all jobs of this cluster, running and later ones: no host is left."""
        named = [f"  {host}: {shown(reason)}" for host, reason in self._failures.items()][:MAX_NAMED_HOSTS]
        more = len(self._failures) - len(named)
        engine = self._engine
        engine.refusal = NoHostLeftError(
            "\n".join(["no host of ssh:// is left:", *named, *[f"  and {more} more"] * bool(more)])
        )
        engine.end_process()

    def _engine_name(self) -> str:
        return "workers over ssh"

    def _end(self) -> None:
        with self._guard:
            self._is_ending = True
            workers = list(self._workers)
        super()._end()  # says goodbye to the workers
        for worker in workers:
            worker.close()
        deadline_s = monotonic() + END_S
        for worker in workers:
            worker.join(deadline_s)
