"""Give the Redis of an environment the id by which what waits on a host's disk finds it again.

The id is random, and kept: a Redis that lost it with everything else gets the same one again, by the ledger or by what
this host remembers. Otherwise a trip that waits on another host would not be made there any more.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from breaker.errors import RedisRefused
from breaker.store_identity import IDENTITY_KEY, StoreIdentity
from configuration.identity import configured_identity, look_up_identity
from ledger.configured import open_ready_ledger, open_recorder
from ledger.errors import LedgerError
from ledger.queries import Filter
from ledger.record import AuditRecord

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings

REDIS_IDENTIFIED = "REDIS_IDENTIFIED"
"""Recorded when a Redis is given its id, which is in the details with address and environment."""


def establish_identity(settings: Settings, redis: Redis) -> StoreIdentity:
    """See to it that the Redis has an id; returns what it has now.

    Raises:
        BreakerUnavailable, RedisRefused: Redis didn't answer or won't.
        NotRecorded: it could be recorded nowhere; nothing is given.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415

    found = look_up_identity(settings, redis)
    if found.id is not None:
        return found
    here = replace(found, id=_known_id(settings, found) or str(uuid4()))
    open_recorder(settings).record(
        AuditRecord(
            action=REDIS_IDENTIFIED,
            source="cli",
            details={"id": here.id, "address": here.address, "environment": here.environment},
        )
    )
    try:
        redis.set(IDENTITY_KEY, here.as_stored(), nx=True)  # never over one that somebody else gave it meanwhile
    except RedisError as error:
        raise RedisRefused(f"Redis would not keep {IDENTITY_KEY} ({type(error).__name__}); try again") from None
    return look_up_identity(settings, redis)


def _known_id(settings: Settings, here: StoreIdentity) -> str | None:
    """The id that this Redis had before it lost everything, if ledger or host know it."""
    if (remembered := configured_identity(settings).id) is not None:
        return remembered
    try:
        with closing(open_ready_ledger(settings)) as ledger:
            rows = ledger.query(Filter(actions=(REDIS_IDENTIFIED,)), limit=50).rows
    except LedgerError:
        return None
    for row in rows:
        # A named environment is one wherever its Redis answers; what has no name is known by its address alone.
        same_place = bool(here.environment) or row.details.get("address") == here.address
        if row.details.get("environment") == here.environment and same_place:
            return str(row.details.get("id"))
    return None
