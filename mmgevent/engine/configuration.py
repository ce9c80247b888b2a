"""What a driver wants of its engine: the first frame on their socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmgevent.access.certificates import NO_CERTIFICATES, Certificates


class Configuration(NamedTuple):
    """What a driver wants of its engine."""

    procs: int  #: executors of this engine's own worker; 0 for none
    listen: tuple[str, int] | None = None  #: let workers and drivers join here
    join: tuple[str, int] | None = None  #: use the server at this address, hold none
    elect: list[tuple[str, int]] | None = (
        None  #: be a worker of the first server that answers, or that server
    )
    may_serve: bool = True  #: with `elect`: whether this engine may become the server
    once: bool = False  #: with `elect`: end when the server is gone, rather than find the next one
    offers: Sequence[str] = ()  #: names of functions that run in the driver's process
    password: str | None = None
    certificates: Certificates = NO_CERTIFICATES
    memory_bytes: int | None = None  #: of segments held in memory; None: a share of the machine's
    timeout: float = 10.0  #: seconds to connect
    patience: float = 0.0  #: seconds to go on trying where nobody listens (yet, or again)
    verbose: int = 0

    def encode(self) -> bytes:
        import json  # not above: this module is imported before the engine is started, json while it starts

        return json.dumps(self._asdict()).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Configuration:
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
        return f"Configuration(procs={self.procs}, {where})"  # no password
