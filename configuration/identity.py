"""Know which Redis and which environment the configuration means, also while Redis can't be asked.

The id that Redis keeps is remembered in the state directory (`redis_identity.json`), by address and environment.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from breaker.atomic_file import write_atomically
from breaker.store_identity import StoreIdentity, read_identity, store_address
from configuration.redis_clients import redis_client

if TYPE_CHECKING:
    from pathlib import Path

    from redis import Redis

    from configuration.settings import Settings


def configured_identity(settings: Settings) -> StoreIdentity:
    """The Redis that is configured, with the id that this host last saw there. Sends nothing, and never raises."""
    with redis_client(settings) as client:
        address = store_address(client)
    here = StoreIdentity(address=address, environment=settings.environment)
    return replace(here, id=_remembered(settings).get(str(here)))


def look_up_identity(settings: Settings, redis: Redis) -> StoreIdentity:
    """The Redis that is configured, with the id that it keeps now, which this host remembers from now on.

    Raises BreakerUnavailable.
    """
    here = read_identity(redis, environment=settings.environment, timeout=settings.redis_timeout)
    if here.id is not None:
        remember_identity(settings, here)
    return here


def remember_identity(settings: Settings, here: StoreIdentity) -> None:
    """Keep the id for the time when Redis can't be asked. A disk that refuses is left alone: it is an aid only."""
    known = _remembered(settings)
    if here.id is not None and known.get(str(here)) != here.id:
        with contextlib.suppress(OSError):
            settings.state_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(_file(settings), json.dumps({**known, str(here): here.id}))


def _remembered(settings: Settings) -> dict[str, str]:
    try:
        kept = json.loads(_file(settings).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: found for name, found in kept.items() if isinstance(found, str)} if isinstance(kept, dict) else {}


def _file(settings: Settings) -> Path:
    return settings.state_dir / "redis_identity.json"
