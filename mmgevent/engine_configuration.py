"""What a driver wants of its engine: the first frame on their socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields


@dataclass
class Configuration:
    """What a driver wants of its engine."""

    procs: int  #: executors of this engine's own worker; 0 for none
    listen: tuple[str, int] | None = None  #: let workers and drivers join here
    join: tuple[str, int] | None = None  #: use the server at this address, hold none
    password: str | None = None
    memory_bytes: int | None = None  #: of segments held in memory; None: a share of the machine's
    timeout: float = 10.0  #: seconds to connect
    patience: float = 0.0  #: seconds to go on trying where nobody listens (yet, or again)
    verbose: int = 0

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Configuration:
        given = json.loads(payload)
        for name in ("listen", "join"):
            if given[name] is not None:
                given[name] = (given[name][0], given[name][1])
        return cls(**{field.name: given[field.name] for field in fields(cls)})

    def __repr__(self) -> str:
        return f"Configuration(procs={self.procs}, listen={self.listen}, join={self.join})"  # no password
