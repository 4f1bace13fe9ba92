"""Dead-man's switches as Redis keeps them; who acts on silence is the standby's matter."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from breaker import BreakerUnavailable, InvalidInput
from breaker.deadman import DeadMansSwitch, armed_switches, overdue_switches, unregister_fired
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually


def silent(client: redis.Redis) -> Any:
    return eventually(lambda: overdue_switches(client))[0]


def test_one_that_is_renewed_is_not_overdue(redis_client: redis.Redis) -> None:
    DeadMansSwitch(redis_client, "engine", 30).renew()
    assert overdue_switches(redis_client) == []


def test_one_that_is_silent_is_overdue_by_its_last_renewal(redis_client: redis.Redis) -> None:
    DeadMansSwitch(redis_client, "engine", 0.1, scope="strategy:x", action="kill").renew()
    renewal = silent(redis_client).renewal
    assert (renewal.name, renewal.scope, renewal.within, renewal.action) == ("engine", "strategy:x", 0.1, "kill")


def test_one_that_is_renewed_after_it_fired_is_armed_again_and_not_forgotten(redis_client: redis.Redis) -> None:
    switch = DeadMansSwitch(redis_client, "engine", 0.1)
    switch.renew()
    fired = silent(redis_client)
    switch.renew()
    unregister_fired(redis_client, fired)
    again = silent(redis_client)
    assert again.renewal.event_id != fired.renewal.event_id
    unregister_fired(redis_client, again)
    assert overdue_switches(redis_client) == []


def test_one_that_is_released_is_never_overdue(redis_client: redis.Redis) -> None:
    switch = DeadMansSwitch(redis_client, "engine", 0.1)
    switch.renew()
    assert armed_switches(redis_client) == ["engine"]
    assert switch.release() and not switch.release()
    assert redis_client.keys("circuit_breaker:dead*") == []


def test_one_that_redis_has_from_a_copy_of_its_data_is_told_apart_until_it_is_renewed(
    own_server: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        switch = DeadMansSwitch(client, "engine", 0.1, action="kill")
        switch.renew()
        assert not silent(client).is_of_another_run
        own_server.stop()
        own_server.start()
        assert silent(client).is_of_another_run
        switch.renew()
        assert not silent(client).is_of_another_run


def test_where_redis_does_not_say_which_run_it_is_nothing_is_told_apart(redis_client: redis.Redis) -> None:
    redis_client.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    port = redis_client.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, username="narrow", password="any") as client:
        DeadMansSwitch(client, "engine", 0.1, action="kill").renew()
        overdue = silent(client)
    redis_client.acl_deluser("narrow")
    assert (overdue.renewal.run, overdue.run, overdue.is_of_another_run) == ("", "", False)


def test_a_renewal_that_redis_does_not_get_is_an_error() -> None:
    client = redis.Redis(port=free_port(), socket_timeout=0.2)
    with pytest.raises(BreakerUnavailable):
        DeadMansSwitch(client, "engine", 1).renew()


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"name": "a b"}, {"within": 0.0}, {"within": float("nan")}, {"scope": "a b"}, {"action": "shout"}],
)
def test_what_cannot_be_used_is_refused(wrong: dict[str, Any], redis_client: redis.Redis) -> None:
    with pytest.raises(InvalidInput):
        DeadMansSwitch(redis_client, **{"name": "engine", "within": 1.0, **wrong})
