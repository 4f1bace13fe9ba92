"""Redis under a real Sentinel: all find the primary and follow a failover, and say what is wrong with the way there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.sentinel

from breaker import (
    AsyncCircuitBreaker,
    BreakerError,
    BreakerUnavailable,
    CircuitBreaker,
    RedisRefused,
    open_async_redis,
    open_redis,
)
from breaker.gate import Gate, OrderIntent, Topology
from breaker.gate.topology import default_topology
from breaker.store_identity import store_address
from configuration.breakers import breaker_of
from configuration.settings import GivenSettings
from proofs.sentinels import MASTER, WatchedServers
from tests.helpers import PATIENCE, eventually

NEW_RISK = OrderIntent("AAPL", "buy", 1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServers]:
    with WatchedServers(tmp_path_factory.mktemp("watched")) as servers:
        yield servers


def test_a_failover_is_followed_by_breakers_and_gates(tmp_path: Path) -> None:
    with WatchedServers(tmp_path) as watched:
        settings = GivenSettings.model_validate(
            {"redis": {"sentinels": watched.addresses, "master": MASTER}, "redis_timeout": 5, "quiet_period": 0}
        )
        breaker = breaker_of(settings)
        breaker.initialize_state()
        with Gate(watched.url, topology=Topology.single()) as gate, Gate(watched.url) as careful:
            assert gate.wait_until_open(PATIENCE) and careful.wait_until_open(PATIENCE)
            old = watched.primary
            old.kill()
            watched.promoted(old)
            epoch = eventually(lambda: tripped(breaker))
            eventually(lambda: gate.status().reason == "TRIPPED")
            assert not gate.check(NEW_RISK, 0)
            # It wants a replica to confirm, and the only one is the primary now.
            eventually(lambda: "only 0 of the 1 replicas" in str(careful.status().problem))
            assert not careful.check(NEW_RISK, 0)
        assert asyncio.run(epoch_of(watched.url)) == epoch
        breaker.close()


def test_a_gate_wants_a_replica_to_confirm_unless_told_otherwise(watched: WatchedServers) -> None:
    for source in (watched.url, open_redis(watched.url)):
        assert default_topology(source) == Topology.replicated(1)
    for single in ("redis://localhost", redis.Redis(), None):
        assert default_topology(single) == Topology.single()


def tripped(breaker: CircuitBreaker) -> int | None:
    try:
        return breaker.trip("MANUAL").epoch
    except BreakerError:  # the machine is slow, and the promotion not everybody's yet
        return None


async def epoch_of(url: str) -> int | None:
    breaker = AsyncCircuitBreaker(open_async_redis(url), timeout=PATIENCE)
    try:
        return (await breaker.get_status()).epoch
    finally:
        await breaker.close()


def test_a_sentinel_that_never_answers_delays_nobody(watched: WatchedServers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = watched.url.replace("://", f"://127.0.0.1:{silent.getsockname()[1]},")
        # Were it waited for, the search would be over before the other one is asked.
        breaker = CircuitBreaker(open_redis(url), timeout=PATIENCE)
        assert breaker.trip("MANUAL").state == "TRIPPED"
        breaker.close()
        assert asyncio.run(epoch_of(url)) is not None


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_an_unknown_master_is_named(kind: str, watched: WatchedServers) -> None:
    with pytest.raises(BreakerUnavailable) as refused:
        trip(kind, watched.url.replace(f"/{MASTER}/", "/nosuch/"))
    assert "can't be found when asked to trip circuit_breaker:state (1 attempts: no Sentinel of " in str(refused.value)
    assert f"{watched.addresses[0]} watches a master named 'nosuch'). Nothing was changed." in str(refused.value)
    assert "`sentinel monitor`" in str(refused.value)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_sentinels_that_are_away_are_named(kind: str) -> None:
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:2/{MASTER}"

    async def ping() -> None:
        async with open_async_redis(url, timeout=PATIENCE) as client:
            await client.ping()

    said = r"no Sentinel answered \(127\.0\.0\.1:1: .*; 127\.0\.0\.1:2: .*\)"
    with pytest.raises(redis.ConnectionError, match=said):
        if kind == "asyncio":
            asyncio.run(ping())
        else:
            open_redis(url, timeout=PATIENCE).ping()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_wrong_password_is_said_at_once(kind: str, watched: WatchedServers) -> None:
    with pytest.raises(RedisRefused, match="user name and password"):
        trip(kind, watched.url.replace("://", "://desk:wrong@"))


def test_the_sentinels_have_a_password_of_their_own(watched: WatchedServers) -> None:
    with redis.Redis(port=int(watched.addresses[0].rpartition(":")[2])) as sentinel:
        sentinel.execute_command("ACL", "SETUSER", "admin", "on", ">secret", "+@all")
        sentinel.execute_command("ACL", "SETUSER", "asker", "on", ">secret", "+sentinel|get-master-addr-by-name")
        sentinel.execute_command("ACL", "SETUSER", "default", "resetpass")
    try:
        with pytest.raises(RedisRefused, match="does not let us ask"):
            trip("blocking", watched.url)
        trip("blocking", f"{watched.url}?sentinel_username=asker&sentinel_password=secret")
    finally:
        with redis.Redis(port=int(watched.addresses[0].rpartition(":")[2]), username="admin", password="secret") as it:
            it.execute_command("ACL", "SETUSER", "default", "nopass")


def test_a_client_of_redis_pys_own_sentinel_works_too(watched: WatchedServers) -> None:
    port = int(watched.addresses[0].rpartition(":")[2])
    own = redis.sentinel.Sentinel([("127.0.0.1", port)])  # type: ignore[no-untyped-call]
    client = own.master_for(MASTER)  # type: ignore[no-untyped-call]
    assert store_address(client) == f"localhost:{port}/{MASTER}/0"
    breaker = CircuitBreaker(client, timeout=PATIENCE)
    assert breaker.trip("MANUAL").state == "TRIPPED"
    breaker.close()
    client.close()
    own.close()


def trip(kind: str, url: str) -> None:
    async def by_asyncio() -> None:
        breaker = AsyncCircuitBreaker(open_async_redis(url), timeout=PATIENCE)
        try:
            await breaker.trip("MANUAL")
        finally:
            await breaker.close()

    if kind == "asyncio":
        asyncio.run(by_asyncio())
    else:
        breaker = CircuitBreaker(open_redis(url), timeout=PATIENCE)
        try:
            breaker.trip("MANUAL")
        finally:
            breaker.close()
