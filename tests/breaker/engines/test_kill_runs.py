"""Whether a kill switch is flattening, told by what its runs leave in Redis."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.engines.kill_runs import KillRunsWatch, is_flattening
from breaker.keys import KILL_RUN, KILL_RUN_KEPT, KILL_RUNS
from tests.helpers import eventually


def publish(client: redis.Redis, silent: float = 0.0, **status: Any) -> None:
    client.set(f"{KILL_RUN}1", json.dumps({"scope": "global", **status}), px=int((KILL_RUN_KEPT - silent) * 1000))
    client.zadd(KILL_RUNS, {"1": time.time()})


def test_a_run_that_goes_on_is_flattening(redis_client: redis.Redis) -> None:
    assert not is_flattening(redis_client, [])
    publish(redis_client)
    assert is_flattening(redis_client, [])


@pytest.mark.parametrize("word", ["over", "reported", "declined", "asking"])
def test_a_run_that_closes_nothing_is_not(redis_client: redis.Redis, word: str) -> None:
    publish(redis_client, **{word: True})
    assert not is_flattening(redis_client, [])


def test_a_run_that_is_silent_is_not(redis_client: redis.Redis) -> None:
    publish(redis_client, silent=11)
    assert not is_flattening(redis_client, [])


def test_a_run_of_another_breaker_is_not(redis_client: redis.Redis) -> None:
    publish(redis_client, scope="account:ALPHA")
    assert not is_flattening(redis_client, ["account:BETA"])
    assert is_flattening(redis_client, ["account:ALPHA"])


def test_one_that_was_confirmed_is_about_to(redis_client: redis.Redis) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    breaker.trip("KILL_SWITCH", details={"closes": ["ALPHA"]})
    assert is_flattening(redis_client, [])


def test_what_is_no_run_is_none(redis_client: redis.Redis) -> None:
    publish(redis_client)
    redis_client.set(f"{KILL_RUN}1", b"{", ex=KILL_RUN_KEPT)
    assert not is_flattening(redis_client, [])


def test_the_watch_tells_of_changes_while_trading_is_halted(redis_client: redis.Redis, redis_server: Any) -> None:
    told: list[bool] = []
    watch = KillRunsWatch(redis_server.url, [], told.append)
    publish(redis_client)
    watch.look(True)
    eventually(lambda: told == [True])
    publish(redis_client, over=True)
    eventually(lambda: told == [True, False])
    publish(redis_client)
    eventually(lambda: watch.flattening)
    watch.look(False)
    assert not watch.flattening
    watch.close()
