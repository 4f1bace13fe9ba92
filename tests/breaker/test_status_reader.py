"""Reading many breakers at once: one exchange, and for each what its own `get_status` says (promise 1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from breaker import CircuitBreaker, State
from breaker.keys import Keys
from breaker.status_reader import AsyncStatusReader, StatusReader, restricted_breakers
from sandbox.child_process import free_port

SCOPES = ["global", "account:ALPHA", "strategy:cooling", "strategy:hash", "strategy:text", "strategy:none"]


@pytest.fixture
def client(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    for scope in SCOPES[:3]:
        CircuitBreaker(redis_client, scope).initialize_state()
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL", {"operator": "ada"})
    CircuitBreaker(redis_client, "strategy:cooling").trip("MANUAL")
    CircuitBreaker(redis_client, "strategy:cooling").reset("ada")
    redis_client.hset(Keys.of("strategy:hash").state, "state", "OPEN")
    redis_client.set(Keys.of("strategy:text").state, "OPEN")
    yield redis_client


def test_each_is_as_its_own_breaker_says(client: redis.Redis) -> None:
    reader = StatusReader(client)
    for _ in range(2):  # the second time most of it is not decoded again
        found = reader.read(SCOPES)
        assert list(found) == SCOPES
        for scope, status in found.items():
            alone = CircuitBreaker(client, scope).get_status()
            assert (dict(status), status.problem) == (dict(alone), alone.problem)
            assert status.as_of is not None and alone.as_of is not None and status.as_of <= alone.as_of
    assert [found[scope].state for scope in SCOPES] == ["OPEN", "TRIPPED", "QUIET_PERIOD", *3 * ["UNKNOWN"]]
    reader.close()


def test_breakers_that_are_stored_are_found_and_the_worst_comes_first(client: redis.Redis) -> None:
    client.set("circuit_breaker:statement", "of something else")
    reader = StatusReader(client)
    assert reader.stored_scopes() == tuple(sorted(SCOPES[:-1]))
    assert list(restricted_breakers(reader.read(SCOPES))) == [
        "account:ALPHA",
        "strategy:hash",
        "strategy:none",
        "strategy:text",
        "strategy:cooling",
    ]
    reader.close()


def test_it_takes_one_exchange_however_many_there_are(client: redis.Redis) -> None:
    scopes = [f"strategy:s{number}" for number in range(1_000)]
    client.mset({Keys.of(scope).state: '{"state":"OPEN","epoch":1}' for scope in scopes})
    reader = StatusReader(client)
    reader.read(scopes)
    connections = client.info("stats")["total_connections_received"]
    assert all(status.state is State.OPEN for status in reader.read(scopes).values())
    assert client.info("stats")["total_connections_received"] == connections
    reader.close()


def test_a_change_is_seen_by_the_next_reading(client: redis.Redis) -> None:
    reader = StatusReader(client)
    assert reader.read(["global"])["global"].state is State.OPEN
    CircuitBreaker(client).trip("MANUAL")
    assert reader.read(["global"])["global"].state is State.TRIPPED
    client.delete(Keys.of().state)
    assert reader.read(["global"])["global"].state is State.UNKNOWN
    reader.close()


@pytest.mark.parametrize(("remember", "state"), [(True, State.UNKNOWN), (False, State.OPEN)])
def test_a_state_older_than_one_read_before_is_unknown_to_whoever_remembers(
    client: redis.Redis, remember: bool, state: State
) -> None:
    reader = StatusReader(client, remember=remember)
    before = client.get(Keys.of().state)
    CircuitBreaker(client).trip("MANUAL")
    reader.read(["global", "account:ALPHA"])
    client.set(Keys.of().state, before)  # type: ignore[arg-type]
    found = reader.read(["global", "account:ALPHA"])
    assert (found["global"].state, found["account:ALPHA"].state) == (state, State.TRIPPED)
    reader.close()


def test_what_one_is_refused_hides_no_other(client: redis.Redis) -> None:
    client.acl_setuser(
        "narrow", enabled=True, passwords=["+secret"], keys=[Keys.of().state, "circuit_breaker:state:account:*"],
        commands=["+get", "+time"],
    )  # fmt: skip
    settings = client.connection_pool.connection_kwargs
    narrow = redis.Redis(host=settings["host"], port=settings["port"], username="narrow", password="secret")
    reader = StatusReader(narrow)
    try:
        found = reader.read(["global", "strategy:cooling", "account:ALPHA", "no scope!"])
    finally:
        reader.close()
        client.acl_deluser("narrow")
    assert (found["global"].state, found["account:ALPHA"].state) == (State.OPEN, State.TRIPPED)
    assert found["strategy:cooling"].state is State.UNKNOWN
    assert "Redis answered with an error" in str(found["strategy:cooling"].problem)
    assert "no scope!" in str(found["no scope!"].problem)


def test_without_redis_all_are_unknown_within_the_time() -> None:
    begun = time.monotonic()
    reader = StatusReader(redis.Redis(port=free_port()), timeout=0.3)
    found = reader.read(SCOPES)
    assert time.monotonic() - begun < 2
    assert {status.state for status in found.values()} == {State.UNKNOWN}
    assert all(status.as_of is None and "read the states of 6 breakers" in str(status.problem) for status in
               found.values())  # fmt: skip


def test_asyncio_reads_the_same(client: redis.Redis, redis_server: object) -> None:
    async def read() -> dict[str, State]:
        settings = client.connection_pool.connection_kwargs
        async with redis.asyncio.Redis(host=settings["host"], port=settings["port"]) as there:
            reader = AsyncStatusReader(there)
            await reader.read(SCOPES)
            found = await reader.read(SCOPES)
            await reader.close()
        return {scope: status.state for scope, status in found.items()}

    reader = StatusReader(client)
    assert asyncio.run(read()) == {scope: status.state for scope, status in reader.read(SCOPES).items()}
    reader.close()
