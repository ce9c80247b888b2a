"""The configuration of a driver's engine: the first frame on their socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates


class Configuration(NamedTuple):
    """What an engine does for its driver."""

    #: executors of this engine's own worker; 0 for none
    procs: int
    #: be a server that workers and drivers join at this address
    listen: tuple[str, int] | None = None
    #: use the server at this address
    join: tuple[str, int] | None = None
    #: work for the first server that answers at one of these addresses, or become that server
    elect: list[tuple[str, int]] | None = None
    #: Whether this engine may become the server, if it has `elect`.
    may_serve: bool = True
    #: Whether an engine with `elect` ends with its server, instead of finding the next one.
    once: bool = False
    #: names of functions that run in the driver's process
    offers: Sequence[str] = ()
    password: str | None = None
    certificates: Certificates = NO_CERTIFICATES
    #: most bytes of segments in memory; None for a share of the machine's memory
    memory_bytes: int | None = None
    #: time to connect, seconds
    timeout: float = 10.0
    #: time to try again while nobody listens, seconds
    patience: float = 0.0
    #: 0 for warnings, 1 also for what happens, 2 for everything
    verbose: int = 0

    def encode(self) -> bytes:
        """Return the payload of the frame."""
        import json  # here, since drivers start the engine first, and import json meanwhile

        return json.dumps(self._asdict()).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Configuration:
        """Return the configuration in a payload."""
        import json

        given = json.loads(payload)
        for name in ("listen", "join"):
            if given[name] is not None:
                given[name] = (given[name][0], given[name][1])
        if given["elect"] is not None:
            given["elect"] = [(host, port) for host, port in given["elect"]]
        given["certificates"] = Certificates(*given["certificates"])
        return cls(**{name: given[name] for name in cls._fields})

    def __repr__(self) -> str:
        where = f"listen={self.listen}, join={self.join}, elect={self.elect}"
        return f"Configuration(procs={self.procs}, {where})"  # without the password
