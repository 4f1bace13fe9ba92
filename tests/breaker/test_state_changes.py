"""Redis tells at once of every breaker whose state is written, by whomever."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from breaker import CircuitBreaker
from breaker.state_changes import StateChanges
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

Told = list[frozenset[str] | None]
Listen = Callable[[redis.Redis], tuple[StateChanges, Told]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    begun: list[StateChanges] = []

    def begin(client: redis.Redis) -> tuple[StateChanges, Told]:
        told: Told = []
        begun.append(StateChanges(client, told.append))
        begun[-1].start()
        return begun[-1], told

    yield begin
    for changes in begun:
        changes.stop()
    for changes in begun:
        changes.join(10)
        assert not changes.is_alive()


def test_every_write_of_a_state_is_told_and_nothing_else(redis_client: redis.Redis, listen: Listen) -> None:
    changes, told = listen(redis_client)
    eventually(lambda: told == [None], "what was written before it listens may be anything")
    assert changes.is_listening
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL")
    eventually(lambda: frozenset({"account:ALPHA"}) in told)
    redis_client.set("circuit_breaker:heartbeat:prices", "now")
    redis_client.set("circuit_breaker:state_of_something", "else")
    redis_client.set("circuit_breaker:state", '{"state": "TRIPPED"}')  # as by redis-cli
    eventually(lambda: frozenset({"global"}) in told)
    assert {scope for scopes in told if scopes for scope in scopes} == {"account:ALPHA", "global"}
    redis_client.flushall()
    eventually(lambda: told[-1] is None)


def test_a_lost_connection_is_told_and_made_again(own_server: EmbeddedRedis, listen: Listen) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        changes, told = listen(client)
        eventually(lambda: changes.is_listening)
        (named,) = (each["id"] for each in client.client_list() if each["name"] == "breaker-state-changes")
        before = len(told)
        client.client_kill_filter(_id=named)
        eventually(lambda: len(told) >= before + 2, "that it is lost, and that it is back")
        assert changes.is_listening and set(told) == {None}
        CircuitBreaker(client).trip("MANUAL")
        eventually(lambda: frozenset({"global"}) in told)


def test_a_redis_that_may_not_tell_is_said_not_to(own_server: EmbeddedRedis, listen: Listen) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "-client|tracking")
        with redis.Redis.from_url(own_server.url, username="deaf", password="secret") as deaf:
            changes, told = listen(deaf)
            eventually(lambda: any("client|tracking" in str(each) for each in client.acl_log()))
            assert not changes.is_listening and told == []
