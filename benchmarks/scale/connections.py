"""Hold thousands of idle workers on one mmg-server, over TLS, and run a job meanwhile.

The idle ones are played by four client processes, each worker a link of its own that answers heartbeats, without executors. Memory
is the growth of the server's PSS over their number; what the kernel holds for sockets is not in it. All heartbeats were
answered if every link is still open after a time longer than the silence that either side takes for death. Then the idle
ones say that they are leaving, which keeps tasks from them but not their links, and a job runs on one
worker with real executors; it ran before anybody was there, for comparison.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import time
from typing import Any

from benchmarks.engines.on_mmgevent import JOBS
from benchmarks.measure import cpu_s, pss_bytes
from benchmarks.scale.commands import Family, open_cluster, read_line, tell
from mmgevent.engine.net.heartbeats import SILENCE_S
from mmgevent.machine.resources import raise_descriptor_limit

HELP = "idle workers on one server: memory of each, heartbeats, a job meanwhile"
CLIENTS = 4
SPARE_DESCRIPTORS = 100  #: of the server, for everything but idle workers
JOIN_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", default=10_000, type=int, help="idle ones (%(default)s)")
    parser.add_argument(
        "--hold", default=SILENCE_S + 10, type=float, help="seconds to hold them before the job (%(default)s)"
    )
    parser.add_argument("--rounds", default=5, type=int, help="jobs, alone and then meanwhile (%(default)s)")
    parser.add_argument("--items", default=1_000, type=int, help="of the job (%(default)s)")
    parser.add_argument("--procs", default=2, type=int, help="executors of the real worker (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    raise_descriptor_limit()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(given.workers, limit - SPARE_DESCRIPTORS)
    print(f"descriptor limit: {limit}; idle workers: {count}", flush=True)
    if count < given.workers:
        print(f"fewer than the {given.workers} asked for: the hard limit of descriptors does not allow more")
    with Family() as family:
        server, port = family.start_server()
        family.start_worker(port, given.procs)
        with open_cluster(family, port) as cluster:
            alone_s = [time_job(cluster, given.items) for _ in range(given.rounds + 1)][1:]
            before = pss_bytes(server.pid)
            clients, join_s = start_clients(family, port, count)
            after = pss_bytes(server.pid)
            print(f"joined in {join_s:.1f} s: {count / join_s:.0f} a second", flush=True)
            idle_cpu = _hold(server, given.hold)
            alive = count_alive(clients)
            for client in clients:
                tell(client, "leave")
            for client in clients:
                read_line(client, JOIN_S)
            meanwhile_s = [time_job(cluster, given.items) for _ in range(given.rounds + 1)][1:]
            alive_after = count_alive(clients)
    figures = {
        "descriptor_limit": limit,
        "idle_workers": count,
        "server_bytes_each": (after - before) / count,
        "server_pss_bytes": after,
        "joins_per_s": count / join_s,
        "held_s": given.hold,
        "server_cpu_share_idle": idle_cpu,
        "alive_after_hold": alive,
        "alive_after_jobs": alive_after,
        "job_alone_s": alone_s,
        "job_meanwhile_s": meanwhile_s,
        "passed": alive == alive_after == count,
    }
    ratio = statistics.median(meanwhile_s) / statistics.median(alone_s)
    print(f"server memory (PSS): {before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB")
    print(f"each idle worker: {figures['server_bytes_each'] / 1000:.1f} KB of it")
    print(f"after {given.hold:g} s: {alive} of {count} open; server at {idle_cpu:.0%} of one core")
    print(
        f"a job: {statistics.median(alone_s):.3f} s alone, {statistics.median(meanwhile_s):.3f} s meanwhile: {ratio:.2f}"
    )
    print(f"at the end: {alive_after} of {count} open")
    return figures


def start_clients(family: Family, port: int, count: int) -> tuple[list[subprocess.Popen[str]], float]:
    """Start the client processes; they, and the seconds of the slowest from its first connect to its last hello."""
    shares = [count * (i + 1) // CLIENTS - count * i // CLIENTS for i in range(CLIENTS)]
    clients = [
        family.start("benchmarks.scale.idle_workers", str(port), str(share), speaks=True)
        for share in shares
        if share
    ]
    answers = [read_line(client, JOIN_S).split() for client in clients]
    return clients, max(float(answer[2]) for answer in answers)


def count_alive(clients: list[subprocess.Popen[str]]) -> int:
    """Return how many links the clients have open."""
    for client in clients:
        tell(client, "report")
    return sum(int(read_line(client, JOIN_S).split()[1]) for client in clients)


def time_job(cluster: Any, items: int) -> float:
    """Return the seconds of a job of a ms an item, from submit to its results."""
    import mmgevent as mmg

    job = mmg.Job.from_file(JOBS / "busy.py", [str(items)])
    started_s = time.perf_counter()
    results = cluster.run(job)
    taken_s = time.perf_counter() - started_s
    if len(results) != min(10, items):
        raise SystemExit(f"the job gave {len(results)} results, not {min(10, items)}")
    return taken_s


def _hold(server: subprocess.Popen[str], hold_s: float) -> float:
    """Wait; return the share of one core that the server used meanwhile."""
    before_s, began_s = cpu_s(server.pid), time.monotonic()
    time.sleep(hold_s)
    return (cpu_s(server.pid) - before_s) / max(1e-9, time.monotonic() - began_s)
