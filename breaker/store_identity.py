"""Tell one Redis from another, so that what waits on a host's disk reaches only the one that it was meant for.

`breaker init` keeps a random id in Redis, which a copy of its data, a failover and a change of its address keep too.
What is written down while that id is not known goes by address and environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from redis import Redis

IDENTITY_KEY = "circuit_breaker:identity"
"""A string, JSON: `id`, `environment`."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreIdentity:
    """Which Redis it is. `None` stands for what is not known."""

    address: str
    """`host:port/database`, or a socket's path with it; never a password."""
    environment: str | None = None
    """As the configuration names it; empty where it names none."""
    id: str | None = None
    """The random id that it keeps."""

    def __str__(self) -> str:
        named = f", environment {self.environment}" if self.environment else ""
        return f"{self.address}{named}"

    def is_same(self, other: StoreIdentity) -> bool:
        """By their ids where both are known; else by address, and by environment where both are known."""
        if self.id is not None and other.id is not None:
            return self.id == other.id
        environments = {self.environment, other.environment} - {None}
        return self.address == other.address and len(environments) <= 1

    def is_surely_another(self, other: StoreIdentity) -> bool:
        """Both ids are known and differ. One Redis may have several addresses; it has one id."""
        return self.id is not None and other.id is not None and self.id != other.id

    def as_stored(self) -> str:
        """What Redis keeps of it."""
        return json.dumps({"id": self.id, "environment": self.environment})

    def seen_in(self, raw: bytes | str | None) -> Self:
        """This identity as Redis knows it: with the id in `raw`, its answer, and its environment if we know of none.

        Without an id that can be read it is what it was but for the id, which then is not known.
        """
        try:
            kept = json.loads(raw or b"")
        except ValueError:
            kept = None
        if not isinstance(kept, dict) or not isinstance(kept.get("id"), str):
            return replace(self, id=None)
        environment = self.environment
        if environment is None and isinstance(kept.get("environment"), str):
            environment = kept["environment"]
        return replace(self, id=kept["id"], environment=environment)

    @classmethod
    def from_json(cls, kept: object) -> Self:
        """What `dataclasses.asdict` made of one. Raises ValueError."""
        if not isinstance(kept, Mapping) or not set(kept) <= {"address", "environment", "id"}:
            raise ValueError("no identity of a Redis")
        if not isinstance(kept.get("address"), str) or any(
            not isinstance(kept.get(name), str | None) for name in ("environment", "id")
        ):
            raise ValueError("no identity of a Redis")
        return cls(**kept)


def store_address(client: Any) -> str:
    """Where a client of redis-py connects to, as `StoreIdentity.address` has it; Sentinels and master where it asks."""
    pool = getattr(client, "connection_pool", None)
    settings: Mapping[str, Any] = getattr(pool, "connection_kwargs", {})
    database = settings.get("db") or 0
    if path := settings.get("path"):
        return f"{path}/{database}"
    if (master := getattr(pool, "service_name", None)) is not None:
        sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
        return f"{','.join(sorted(map(_sentinel_address, sentinels)))}/{master}/{database}"
    host = settings.get("host", "localhost")
    if host in _LOOPBACK:
        host = "localhost"
    return f"{host}:{settings.get('port', 6379)}/{database}"


def _sentinel_address(sentinel: Any) -> str:
    """Of one of ours, host and port, or of redis-py's, a client."""
    host, port = sentinel if isinstance(sentinel, tuple) else store_address(sentinel).split("/")[0].rsplit(":", 1)
    return f"{host}:{port}"


def read_identity(client: Redis, *, environment: str | None = None, timeout: float = 2.0) -> StoreIdentity:
    """The identity of the Redis that `client` is for; its id stays unknown where it has none, or may not be read.

    Raises BreakerUnavailable.
    """
    from breaker.deadline_client import DeadlineClient  # noqa: PLC0415  describing one needs no redis
    from breaker.errors import RedisRefused  # noqa: PLC0415
    from breaker.requests import Request  # noqa: PLC0415

    asked = DeadlineClient(client, timeout)
    try:
        reply = asked.execute(Request(f"read {IDENTITY_KEY}", (("GET", IDENTITY_KEY),)))[0]
    except RedisRefused:
        reply = None
    finally:
        asked.close()
    here = StoreIdentity(address=store_address(client), environment=environment)
    return here.seen_in(reply if isinstance(reply, bytes) else None)
