"""Say how the Redis that holds the breaker may fail over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from breaker.redis_url import read_sentinel_url

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class Topology:
    """How the Redis that holds the breaker may fail over; the gate's guarantee depends on it being told truly.

    Attributes:
        replicas: How many replicas may be promoted; each of them confirms every heartbeat.
        compared: Whether a gate opens only on a Redis that was compared with the ledger since it began to answer.

    Example:
        >>> Topology.single()
        Topology(replicas=0, compared=False)
        >>> Topology.replicated(2, compared=True)
        Topology(replicas=2, compared=True)
    """

    replicas: int = 0
    compared: bool = False

    @classmethod
    def single(cls, *, compared: bool = False) -> Topology:
        """One server that nothing is ever promoted in place of. Heartbeats change nothing.

        Args:
            compared: As for `replicated`; here it concerns a server that was started from an older copy.

        Returns:
            The topology.
        """
        return cls(0, compared)

    @classmethod
    def replicated(cls, replicas: int, *, compared: bool = False) -> Topology:
        """A primary and replicas, any of which may be promoted.

        Each heartbeat is a write that all of them must acknowledge (WAIT), so a gate left on an old primary closes. A
        replica that is down closes the gates too.

        Args:
            replicas: How many can be promoted; keep it true.
            compared: Stay closed on a new primary until `services.serve` or `breaker services` has compared it with
                the ledger, and tripped again what it had lost: about half a second. Without one of them, for good.

        Returns:
            The topology.

        Raises:
            ValueError: there is less than one replica.
        """
        if replicas < 1:
            raise ValueError(f"a replicated topology has at least one replica, not {replicas}")
        return cls(replicas, compared)


def default_topology(source: redis.Redis | str | None) -> Topology:
    """What a gate takes for true of the Redis that `source` (a client or a URL) leads to, unless it is told.

    Under Sentinel that is one replica: what a failover needs at least. Raises InvalidInput for what is no address.
    """
    if isinstance(source, str):
        watched = read_sentinel_url(source) is not None
    else:
        watched = getattr(getattr(source, "connection_pool", None), "service_name", None) is not None
    return Topology.replicated(1) if watched else Topology.single()
