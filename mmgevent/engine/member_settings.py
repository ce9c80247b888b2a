"""The settings of one engine's place in a cluster of equals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmgevent.access.addresses import Address
from mmgevent.access.certificates import NO_CERTIFICATES, Certificates
from mmgevent.engine.worker.limits import NO_LIMITS, ExecutorLimits

if TYPE_CHECKING:
    from mmgevent.access.worker_key import WorkerKey
    from mmgevent.engine.worker.forkers import Forkers
    from mmgevent.engine.worker.offering import Offering
    from mmgevent.wire.frames import Frame


@dataclass
class Settings:
    """Settings of a member. They do not change."""

    addresses: Sequence[Address]
    key: bytes | WorkerKey  #: from `client_key`; with a WorkerKey it is never the server
    procs: int  #: slots of its worker; 0 for none
    forkers: Forkers
    memory_bytes: int  #: limit on segments in memory, while it is the server
    scratch: str  #: folder for spill files and executors
    timeout: float = 10.0  #: seconds to connect to one address
    may_serve: bool = True
    once: bool = False  #: stay in one place only; fail if there is none
    offers: Sequence[str] = field(default_factory=list)
    offering: Offering | None = None  #: runs the offered functions for the worker
    on_tell: Callable[[Frame], None] | None = None  #: takes user messages for this worker
    name: str | None = None  #: what people see of its worker; None for "host/pid"
    limits: ExecutorLimits = NO_LIMITS  #: of its executors, whatever their job is
    certificates: Certificates = NO_CERTIFICATES  #: to show, and to require, as client and server
