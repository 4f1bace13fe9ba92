"""Choose where a gate learns the breakers' state from: a listener of its own, or the host's shared memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from breaker.gate.lease import Lease, ScopeView
from breaker.gate.topology import Topology
from breaker.keys import check_scope

if TYPE_CHECKING:
    import redis

    from breaker.gate.judge import Halt
    from breaker.gate.reporter import Send

DEFAULT_SHARED_MEMORY = Path(
    "/dev/shm/circuit_breaker.gate" if sys.platform == "linux" else "/tmp/circuit_breaker.gate"  # noqa: S108
)
Publish: TypeAlias = "Callable[[Lease, Halt | None], None]"
"""Called with each change of what is known; must not block."""


class StateSource(Protocol):
    """Where a gate's knowledge comes from; each change of it is published to the gate."""

    poll_every: float
    """Seconds after which a check calls `poll` again; infinite when it needn't."""

    @property
    def halt(self) -> Halt | None:
        """Why the source itself lets only reductions through; None while it works."""

    @property
    def connections(self) -> int:
        """How often it has connected, or mapped the file; more than one means again."""

    @property
    def problem(self) -> str | None:
        """What is wrong at the moment, as a sentence; None when nothing is."""

    def start(self) -> None:
        """Begin to publish."""

    def stop(self) -> None:
        """Publish nothing more. Waits a few seconds at most."""

    def poll(self, now: float) -> None:
        """Publish what has arrived, without waiting. For the checks; never raises."""

    def refresh(self) -> None:
        """Make sure that what is published is the newest known."""

    def forked(self) -> Halt | None:
        """In a forked child: what halts the gate from now on; None if the source goes on working."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What a gate's source is made from, as `Gate` takes it. Raises InvalidInput and ValueError as `Gate` does."""

    redis_source: redis.Redis | str | None
    scopes: tuple[str, ...]
    max_staleness: float
    heartbeat: float
    backend: str
    topology: Topology
    shared_memory: Path | None
    pending_trips: Path | None

    def __post_init__(self) -> None:
        for scope in self.scopes:
            check_scope(scope)
        if not 0 < self.max_staleness <= 60:
            raise ValueError(f"max_staleness must be more than 0 and at most 60 seconds, not {self.max_staleness}")
        if not 0 < self.heartbeat <= self.max_staleness / 2:
            raise ValueError(f"heartbeat must be more than 0 and at most half of max_staleness, not {self.heartbeat}")
        if self.backend not in ("thread", "drain", "shm"):
            raise ValueError(f"backend must be 'thread', 'drain' or 'shm', not {self.backend!r}")
        given = self.redis_source is not None
        if self.backend == "shm" and (given or self.topology != Topology.single() or self.pending_trips is not None):
            raise ValueError(
                "a shm gate reads the sidecar's shared memory; Redis, its topology and pending trips are the sidecar's"
            )
        if self.backend != "shm" and (not given or self.shared_memory is not None):
            raise ValueError(f"a {self.backend} gate needs a Redis client or URL, and no shared memory")
        if given and not isinstance(self.redis_source, str):
            from breaker.deadline_client import address_of  # noqa: PLC0415 -- who has a client has imported redis

            address_of(self.redis_source)

    def empty_lease(self) -> Lease:
        """The lease of a gate that knows nothing yet."""
        return Lease(self.max_staleness, tuple(ScopeView(scope) for scope in self.scopes), self.topology.replicas)

    def make_source(self, publish: Publish) -> StateSource:
        """A source, not started yet."""
        if self.redis_source is None:
            from breaker.gate.shared_memory import SharedMemorySource  # noqa: PLC0415 -- only this backend

            return SharedMemorySource(self._sidecars_memory, self.scopes, self.max_staleness, publish)
        from breaker.gate.listener import make_listener  # noqa: PLC0415 -- only these backends

        return make_listener(
            self.redis_source,
            self.empty_lease(),
            publish,
            heartbeat=self.heartbeat,
            drain=self.backend == "drain",
            pending_trips=self.pending_trips,
            compared_only=self.topology.compared,
        )

    def report_sender(self) -> Send:
        """How the gate's reports go out: to Redis, or to the sidecar that passes them on."""
        from breaker.gate.reporter import redis_sender, sidecar_sender  # noqa: PLC0415 -- only gates that report

        return sidecar_sender(self._sidecars_memory) if self.redis_source is None else redis_sender(self.redis_source)

    @property
    def _sidecars_memory(self) -> Path:
        return self.shared_memory or DEFAULT_SHARED_MEMORY
