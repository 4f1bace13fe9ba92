"""One Redis is told from another by its id, or else by address and environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker, State
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.store_identity import IDENTITY_KEY, StoreIdentity, read_identity, store_address


def known(address: str, environment: str | None, of: str | None = None) -> StoreIdentity:
    return StoreIdentity(address=address, environment=environment, id=of)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (known("a:1/0", "prod", "x"), known("b:2/0", "demo", "x"), True),
        (known("a:1/0", "prod", "x"), known("a:1/0", "prod", "y"), False),
        (known("a:1/0", "prod", "x"), known("a:1/0", "prod"), True),
        (known("a:1/0", "prod"), known("a:1/0", "demo", "x"), False),
        (known("a:1/0", "prod"), known("b:1/0", "prod", "x"), False),
        (known("a:1/0", "prod"), known("a:1/0", None), True),
        (known("a:1/0", ""), known("a:1/0", "prod"), False),
        (known("a:1/0", ""), known("a:1/1", ""), False),
    ],
)
def test_the_id_decides_or_else_address_and_environment(one: StoreIdentity, other: StoreIdentity, same: bool) -> None:
    assert one.is_same(other) is other.is_same(one) is same


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://:hunter2@redis.example:6380/2", "redis.example:6380/2"),
        ("redis://127.0.0.1", "localhost:6379/0"),
        ("rediss://user:hunter2@localhost:7000/0", "localhost:7000/0"),
        ("unix:///run/redis.sock?db=3&password=hunter2", "/run/redis.sock/3"),
    ],
)
def test_an_address_says_where_without_a_password(url: str, address: str) -> None:
    assert store_address(redis.Redis.from_url(url)) == address
    assert store_address(redis.asyncio.Redis.from_url(url)) == address


@pytest.mark.parametrize("stored", [None, b"", b"[]", b"{}", b'{"id": 5}', b"\xff"])
def test_what_is_no_identity_is_an_unknown_one(redis_client: redis.Redis, stored: bytes | None) -> None:
    if stored is not None:
        redis_client.set(IDENTITY_KEY, stored)
    assert read_identity(redis_client, environment="prod").id is None


def test_a_user_who_may_not_read_it_goes_by_the_address(redis_client: redis.Redis, tmp_path: Path) -> None:
    """As an engine's gate may be: its trips are made nevertheless."""
    redis_client.set(IDENTITY_KEY, known("", "prod", "x").as_stored())
    redis_client.acl_setuser("engine", enabled=True, nopass=True, keys=["circuit_breaker:[^i]*"], categories=["+@all"])
    try:
        settings = redis_client.connection_pool.connection_kwargs
        client = redis.Redis(host=settings["host"], port=settings["port"], username="engine", password="x")
        pending = PendingTrips(tmp_path)
        here = StoreIdentity(address=store_address(redis_client), environment="prod")
        pending.save(PendingTrip(reason="MANUAL", tripped_by="ada", meant_for=here))
        assert [applied.status.state for applied in pending.apply(client)] == [State.TRIPPED]
    finally:
        redis_client.acl_deluser("engine")


def test_a_file_of_an_older_version_is_made_as_before(redis_client: redis.Redis, tmp_path: Path) -> None:
    pending = PendingTrips(tmp_path)
    path = pending.save(PendingTrip(reason="MANUAL", tripped_by="ada"))
    body = json.loads(path.read_bytes())
    del body["meant_for"]
    path.write_text(json.dumps(body))
    assert len(pending.apply(redis_client)) == 1
    assert CircuitBreaker(redis_client).is_tripped()


def test_a_trip_of_another_redis_is_left_and_no_longer_counts(redis_client: redis.Redis, tmp_path: Path) -> None:
    redis_client.set(IDENTITY_KEY, known("", "prod", "x").as_stored())
    CircuitBreaker(redis_client).initialize_state()
    pending = PendingTrips(tmp_path)
    other = PendingTrip(reason="MANUAL", tripped_by="ada", meant_for=known("elsewhere:1/0", "prod", "y"))
    pending.save(other)
    assert pending.any_pending()
    assert pending.apply(redis_client) == []
    assert not pending.any_pending() and pending.load() == [other]
    assert CircuitBreaker(redis_client).get_state() is State.OPEN
