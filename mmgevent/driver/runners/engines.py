"""Find the engine that a WHERE or a client names, among the entry points `mmgevent.runners`.

An entry point's name is a scheme: `dask` for `dask://HOST:8786`, `spark-local` for
`spark-local:2`.  Its value names a function that takes a WHERE or a client, and returns a cluster:

    [project.entry-points."mmgevent.runners"]
    dask = "mmgevent.driver.runners.dask:open_dask"

    def open_dask(where: str | distributed.Client) -> BaseCluster: ...

The function imports its engine, and calls `require` for that.  It raises ConnectError if nobody
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from mmgevent.driver.base_cluster import BaseCluster
from mmgevent.errors import UsageError

#: Group of entry points, in which other packages add engines.
GROUP = "mmgevent.runners"

#: Package of a client -> scheme of its engine, where they differ.
_SCHEMES = {"distributed": "dask", "pyspark": "spark"}

Open = Callable[[Any], BaseCluster]


def find_engine(scheme: str) -> Open | None:
    """Return the function that opens clusters of this scheme, or None if there is none.

    Raises UsageError if its package cannot be imported.
    """
    for point in entry_points(group=GROUP, name=scheme):
        return _load(point)
    return None


def schemes() -> list[str]:
    """Return the schemes of all engines that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def open_client(client: object) -> BaseCluster | None:
    """Return a cluster on a client of another engine, which stays the caller's, or None.

    A client is an object of a class of the engine's package, or (for Ray) the package itself.
    """
    if isinstance(client, ModuleType):
        packages = [client.__name__]
    else:
        packages = [each.__module__.partition(".")[0] for each in type(client).__mro__]
    for package in dict.fromkeys(packages):
        opener = find_engine(_SCHEMES.get(package, package))
        if opener is not None:
            return opener(client)
    return None


def require(module: str, engine: str, extra: str) -> Any:
    """Import and return a module of an engine.

    Raises UsageError, which names the extra of mmgevent to install, if it is not there.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{engine} needs the package {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'mmgevent[{extra}]'"
        ) from error


def _load(point: EntryPoint) -> Open:
    try:
        loaded: Open = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the engine {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    return loaded
