"""What a table of figures has to say about the machine and the versions it comes from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

#: packages whose versions matter to figures, where they are installed
PACKAGES = ("gevent", "dill", "xxhash", "dask", "distributed", "ray", "pyspark", "mrjob", "mincemeat")


def gather_facts() -> dict[str, str]:
    """Return name -> text, in the order in which to print them."""
    from mmgevent import __version__
    from mmgevent._speedups import NATIVE
    from mmgevent.machine.resources import count_cores, total_memory_bytes

    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": f"{count_cores()} x {_processor()}",
        "memory": f"{total_memory_bytes() / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "mmgevent": f"{__version__}, {'C core' if NATIVE else 'without the C core'}",
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
