"""MapReduce in plain Python, on all cores of one machine or of many.

The names below are imported on first use (PEP 562), so `import mmgevent` takes hardly any time in
executors, commands and job files.
"""

from mmgevent import real_modules

TYPE_CHECKING = False  # not from typing: `import mmgevent` imports only modules that are built in or frozen

if TYPE_CHECKING:
    from mmgevent import reducers
    from mmgevent._speedups._block import Block
    from mmgevent.access.certificates import Certificates
    from mmgevent.driver.cluster_executor import ClusterExecutor
    from mmgevent.driver.connecting import connect
    from mmgevent.driver.failures.set_aside import NotKept
    from mmgevent.driver.handle import JobHandle
    from mmgevent.driver.local_cluster import LocalCluster, run
    from mmgevent.driver.node import Node
    from mmgevent.errors import (
        AuthenticationError,
        ConnectError,
        DatasourceError,
        DuplicateKeyError,
        EngineError,
        ForkedError,
        FunctionError,
        JobCancelled,
        JobError,
        JobFileError,
        ListenError,
        MmgeventError,
        NotAServerError,
        NoWorkersError,
        OptionError,
        OutputError,
        PasswordError,
        ShippingError,
        StartError,
        TooLargeError,
        TooManySkippedError,
        UsageError,
        VersionMismatchError,
    )
    from mmgevent.job.inputs.binary import Bytes
    from mmgevent.job.inputs.files import Files
    from mmgevent.job.inputs.json_lines import JsonLines
    from mmgevent.job.inputs.lines import Lines
    from mmgevent.job.inputs.parquet import Parquet
    from mmgevent.job.inputs.query import Query
    from mmgevent.job.inputs.tables import Csv
    from mmgevent.job.job import Job
    from mmgevent.job.outputs.formats import load
    from mmgevent.tasks.counters import counter
    from mmgevent.wire.hello import VERSION as __version__

if _folders := real_modules.protect_program():
    from mmgevent import beside

    beside.give_from_folders(_folders)

__all__ = [
    "AuthenticationError",
    "Block",
    "Bytes",
    "Certificates",
    "ClusterExecutor",
    "ConnectError",
    "Csv",
    "DatasourceError",
    "DuplicateKeyError",
    "EngineError",
    "Files",
    "ForkedError",
    "FunctionError",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFileError",
    "JobHandle",
    "JsonLines",
    "Lines",
    "ListenError",
    "LocalCluster",
    "MmgeventError",
    "NoWorkersError",
    "Node",
    "NotAServerError",
    "NotKept",
    "OptionError",
    "OutputError",
    "Parquet",
    "PasswordError",
    "Query",
    "ShippingError",
    "StartError",
    "TooLargeError",
    "TooManySkippedError",
    "UsageError",
    "VersionMismatchError",
    "__version__",
    "connect",
    "counter",
    "load",
    "reducers",
    "run",
]

_HOMES = {
    "Block": "_speedups._block",
    "Bytes": "job.inputs.binary",
    "Certificates": "access.certificates",
    "ClusterExecutor": "driver.cluster_executor",
    "Csv": "job.inputs.tables",
    "Files": "job.inputs.files",
    "Job": "job.job",
    "JobHandle": "driver.handle",
    "JsonLines": "job.inputs.json_lines",
    "Lines": "job.inputs.lines",
    "LocalCluster": "driver.local_cluster",
    "Node": "driver.node",
    "NotKept": "driver.failures.set_aside",
    "Parquet": "job.inputs.parquet",
    "Query": "job.inputs.query",
    "connect": "driver.connecting",
    "counter": "tasks.counters",
    "load": "job.outputs.formats",
    "__version__": "wire.hello",
    "run": "driver.local_cluster",
}


if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        if name == "reducers":
            return importlib.import_module("mmgevent.reducers")
        home = importlib.import_module(f"mmgevent.{_HOMES.get(name, 'errors')}")
        value = getattr(home, "VERSION" if name == "__version__" else name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
