"""A cluster for this machine: its server is in its own engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.driver.arguments import check_procs, check_verbose, parse_memory, parse_pair
from mmgevent.driver.base_cluster import OnProgress
from mmgevent.driver.cluster import Cluster
from mmgevent.engine.configuration import Configuration
from mmgevent.errors import UsageError
from mmgevent.machine.resources import count_default_executors

if TYPE_CHECKING:
    from mmgevent.job.job import Job, K, V


class LocalCluster(Cluster):
    """A server and executors of this machine, in processes of their own, while it is open."""

    def __init__(
        self,
        procs: int | None = None,
        *,
        listen: str | int | tuple[str, int] | None = None,
        password: str | None = None,
        certificates: Certificates | None = None,
        segment_memory: int | str | None = None,
        verbose: int = 0,
    ):
        """Start the engine and return at once.

        `procs`: executors; None for one a core, or as many as memory allows; 0 for none, which
        needs `listen`.
        `listen`: "[HOST:]PORT" (or a pair) where workers may join; None opens no port.
        `password`: what workers must know; None finds it as the commands do, if a port is opened.
        `certificates`: what to show workers, and perhaps to ask of them; none are needed.
        `segment_memory`: bytes (or "64MiB") of intermediate results in memory; more goes to disk.
        """
        if procs is None:
            procs = count_default_executors()
        check_procs(procs)
        check_verbose(verbose)
        if not procs and listen is None:
            raise UsageError("procs=0 leaves nobody to do the work: pass listen=... so that workers can join")
        address = None
        if listen is not None:
            from mmgevent.access.addresses import ALL_INTERFACES, parse_listen
            from mmgevent.access.password import find_password

            if isinstance(listen, str):
                address = parse_listen(listen)
            else:
                address = parse_pair((ALL_INTERFACES, listen) if isinstance(listen, int) else listen)
            password = find_password(password)
        super().__init__(
            Configuration(
                procs=procs,
                listen=address,
                password=password,
                certificates=certificates or NO_CERTIFICATES,
                memory_bytes=parse_memory(segment_memory),
                verbose=verbose,
            )
        )


def run(
    job: Job[K, V],
    *,
    inline: bool = False,
    progress: OnProgress | bool | None = None,
    job_log: str | os.PathLike[str] | None = None,
    **cluster: Any,
) -> dict[K, V]:
    """Run one job and return its results as a dict.

    `progress`: True shows how far it is, in the notebook or on stderr; a function gets it.
    It runs on a `LocalCluster(**cluster)` of its own or, with `inline=True`, in this process, where
    a debugger sees everything. `job_log`: a file to which what happens is written, a line of JSON an
    event (docs/job-log.md).
    """
    if inline:
        if cluster:
            raise UsageError(f"inline=True starts no processes: leave out {', '.join(cluster)}")
        if progress is None:
            from mmgevent.driver.results import build_dict
            from mmgevent.driver.runners.inline import run_inline

            return build_dict(run_inline(job, job_log=job_log))
        from mmgevent.driver.runners.inline_cluster import InlineCluster

        with InlineCluster() as here:
            return here.run(job, progress=progress, job_log=job_log)
    with LocalCluster(**cluster) as local:
        return local.run(job, progress=progress, job_log=job_log)
