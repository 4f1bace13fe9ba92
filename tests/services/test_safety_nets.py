"""A venue's own timer is armed, renewed, read back, left to fire, disarmed: a real Redis, exchange and ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.redis_clients import open_redis
from brokers import registry
from configuration.accounts import AccountSettings
from configuration.monitor import MonitorSettings
from configuration.settings import GivenSettings, Settings
from ledger.configured import open_ready_ledger
from proofs.fork_server import ForkServer
from proofs.sentinels import WatchedServers
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.safety_nets import SafetyNets
from services.watches import watching
from tasks.checks.measurement import Colour
from tasks.safety_nets.check import measure_safety_nets
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.holding import lease_key
from tasks.safety_nets.records import KEY, NetRecord
from tests.helpers import eventually
from tests.services.timer_venue import ADAPTER, KEEPER, TimerBroker

GOOD_REASON = "looked at the venue, and all is in order there"
BOOK = "rate_limit = 1000000\n[book]\norders = 5\npositions = 2\n"
SLOW = 0.02
"""The clock of an exchange whose timer of 4 s takes 200 s: it is renewed often, and no slow machine lets it fire."""


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as exchange:
        yield exchange


def settings_for(redis_url: str, folder: Path, exchange: PaperExchangeThread, timeout: float) -> Settings:
    account = AccountSettings(
        base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"), safety_net=timeout
    )
    # The table of venues speaks for the adapter `alpaca`; this is another one.
    named = account.model_copy(update={"adapter": "timer"})
    return GivenSettings(redis_url=SecretStr(redis_url), state_dir=folder, accounts={"ALPHA": named}, redis_timeout=1.0)


@contextmanager
def keeping(settings: Settings, scale: float = 1.0, **terms: Any) -> Iterator[SafetyNets]:
    """Until the end of the block, which is an orderly one."""
    nets = SafetyNets(settings, open_account=partial(TimerBroker, scale=scale), every=0.1, **terms)
    thread = threading.Thread(target=lambda: asyncio.run(nets.run()))
    thread.start()
    try:
        yield nets
    finally:
        nets.stop()
        thread.join(60)
        assert not thread.is_alive()


def record_in(client: redis.Redis) -> NetRecord | None:
    raw = client.hget(KEY, "ALPHA")
    return NetRecord.from_json(raw) if isinstance(raw, bytes) else None


def stands(client: redis.Redis, standing: Standing) -> NetRecord | None:
    record = record_in(client)
    return record if record is not None and record.standing is standing else None


def standing_so(client: redis.Redis, standing: Standing) -> NetRecord:
    """The record, as soon as the timer stands so."""
    record = eventually(lambda: stands(client, standing), lambda: record_in(client))
    assert record is not None
    return record


def actions(settings: Settings) -> list[str]:
    with closing(open_ready_ledger(settings)) as ledger:
        rows = ledger.query(limit=100).rows
    return [row.action for row in sorted(rows, key=lambda row: row.seq) if row.action.startswith("SAFETY_NET")]


def fires_at(exchange: PaperExchangeThread) -> float | None:
    """When the venue's timer fires, by its clock; None while it is off."""
    found = exchange.report()["dead_man"]["armed"].get("")
    return None if found is None else float(found)


def has_fired(exchange: PaperExchangeThread) -> bool:
    return bool(exchange.report()["dead_man"]["fired"])


def renewed_after(exchange: PaperExchangeThread, before: float | None) -> bool:
    now = fires_at(exchange)
    return now is not None and before is not None and now > before


def test_it_is_armed_renewed_verified_and_disarmed_at_the_end(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(f"time_scale = {SLOW}\n{BOOK}"))
    CircuitBreaker(redis_client).initialize_state()
    settings = settings_for(redis_server.url, tmp_path, exchange, 4.0)
    with keeping(settings, SLOW):
        record = standing_so(redis_client, Standing.ARMED)
        assert record.verified and record.not_covered == "positions stay as they are" and record.firings == 0
        first = fires_at(exchange)
        eventually(lambda: renewed_after(exchange, first), "it is renewed")
        (found,) = asyncio.run(measure_safety_nets(settings))
        assert found.name == "safety-net/ALPHA" and found.value.startswith("armed, until")
        assert found.colour is Colour.YELLOW and "The loss of one host" in found.problem, (
            "4 s is too little for two hosts"
        )
    assert fires_at(exchange) is None and not has_fired(exchange)
    assert exchange.report()["open_orders"] == 5
    assert actions(settings) == ["SAFETY_NET_ARMED", "SAFETY_NET_DISARMED"]
    ended = record_in(redis_client)
    assert ended is not None and ended.standing is Standing.OFF and "has ended in order" in ended.why
    assert not redis_client.exists(lease_key("ALPHA")), "whoever comes next begins at once"


def test_a_hand_over_does_not_disarm_and_the_last_one_does(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(f"time_scale = {SLOW}\n{BOOK}"))
    CircuitBreaker(redis_client).initialize_state()
    settings = settings_for(redis_server.url, tmp_path, exchange, 4.0)
    with keeping(settings, SLOW):
        holder = eventually(lambda: redis_client.get(lease_key("ALPHA")))
        standing_so(redis_client, Standing.ARMED)
        with keeping(settings, SLOW):
            eventually(lambda: redis_client.zcard("circuit_breaker:safety_net_candidates:ALPHA") == 2)
        eventually(lambda: redis_client.zcard("circuit_breaker:safety_net_candidates:ALPHA") == 1)
        assert redis_client.get(lease_key("ALPHA")) == holder and fires_at(exchange) is not None
    assert fires_at(exchange) is None and not has_fired(exchange)
    assert actions(settings) == ["SAFETY_NET_ARMED", "SAFETY_NET_DISARMED"]

    first = SafetyNets(settings, open_account=partial(TimerBroker, scale=SLOW), every=0.1)
    begun = threading.Thread(target=lambda: asyncio.run(first.run()))
    begun.start()
    standing_so(redis_client, Standing.ARMED)
    with keeping(settings, SLOW):
        eventually(lambda: redis_client.zcard("circuit_breaker:safety_net_candidates:ALPHA") == 2)
        before = redis_client.get(lease_key("ALPHA"))
        first.stop()
        begun.join(60)
        eventually(lambda: redis_client.get(lease_key("ALPHA")) not in (None, before), "the other one takes over")
        assert fires_at(exchange) is not None, "which a hand-over leaves armed"
    assert actions(settings)[2:] == ["SAFETY_NET_ARMED", "SAFETY_NET_DISARMED"]


def test_a_dead_mans_trip_lets_the_venue_cancel_and_a_reset_arms_it_again(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    breaker = CircuitBreaker(redis_client, quiet_period=0)
    breaker.initialize_state()
    settings = settings_for(redis_server.url, tmp_path, exchange, 3.0)
    with keeping(settings):
        standing_so(redis_client, Standing.ARMED)
        breaker.trip("DEAD_MAN", details={"switch": "engine-1"})
        eventually(lambda: exchange.report()["open_orders"] == 0, exchange.report)
        record = standing_so(redis_client, Standing.FIRED)
        assert "a dead man's switch has tripped" in record.why and record.firings and has_fired(exchange)
        assert fires_at(exchange) is None
        (found,) = asyncio.run(measure_safety_nets(settings))
        assert found.colour is Colour.RED and "protects nothing now" in found.problem
        breaker.reset("ada", GOOD_REASON)
        standing_so(redis_client, Standing.ARMED)
    done = actions(settings)
    assert (
        done[0] == "SAFETY_NET_ARMED"
        and "SAFETY_NET_FIRED" in done
        and done[-2:]
        == [
            "SAFETY_NET_ARMED",
            "SAFETY_NET_DISARMED",
        ]
    )


def test_another_reason_to_be_tripped_is_none_to_stop(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(f"time_scale = {SLOW}\n{BOOK}"))
    CircuitBreaker(redis_client).trip("MANUAL")
    with keeping(settings_for(redis_server.url, tmp_path, exchange, 4.0), SLOW):
        standing_so(redis_client, Standing.ARMED)
        first = fires_at(exchange)
        eventually(lambda: renewed_after(exchange, first))


def test_two_failovers_of_redis_leave_it_armed_renewed_and_verified(
    tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    """One after the other, each of a primary that is killed, and with nobody left to disarm for but the last one."""
    exchange.restart(parse(f"time_scale = {SLOW}\n{BOOK}"))
    with WatchedServers(tmp_path, replicas=2) as watched:
        settings = settings_for(watched.url, tmp_path / "state", exchange, 4.0)
        with open_redis(watched.url) as client:
            CircuitBreaker(client).initialize_state()
        with keeping(settings, SLOW):
            for _ in range(2):
                _lose_the_primary(watched, exchange)
            assert not has_fired(exchange)
            with open_redis(watched.url, timeout=5) as client:
                record = standing_so(client, Standing.ARMED)
                assert record.verified and record.firings == 0
        assert fires_at(exchange) is None and not has_fired(exchange), "disarmed at the end"
        assert exchange.report()["open_orders"] == 5


def _lose_the_primary(watched: WatchedServers, exchange: PaperExchangeThread) -> None:
    """What it leaves is renewed without Redis, and kept in the next one."""
    with open_redis(watched.url, timeout=5) as client:
        standing_so(client, Standing.ARMED)
    old, before = watched.primary, fires_at(exchange)
    old.kill()
    eventually(lambda: renewed_after(exchange, before), "renewed while Redis is away")
    watched.promoted(old)
    killed_at = time.time()
    with open_redis(watched.url, timeout=5) as client:
        eventually(lambda: _kept_since(client, killed_at), "kept where the new primary has it")


def _kept_since(client: redis.Redis, moment: float) -> NetRecord | None:
    try:
        record = stands(client, Standing.ARMED)
    except redis.RedisError:
        return None
    return record if record is not None and record.as_of > moment else None


def test_when_engine_and_host_are_stopped_the_venue_cancels(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    exchange: PaperExchangeThread,
    fork_server: ForkServer,
) -> None:
    """SIGSTOP takes the process as a lost host does: it says nothing, and its connections stay open."""
    CircuitBreaker(redis_client).initialize_state()
    given = {
        "BREAKER_REDIS_URL": redis_server.url,
        "BREAKER_STATE_DIR": str(tmp_path),
        "BREAKER_ACCOUNTS__ALPHA__ADAPTER": "timer",
        "BREAKER_ACCOUNTS__ALPHA__BASE_URL": exchange.url,
        "BREAKER_ACCOUNTS__ALPHA__KEY_ID": "key",
        "BREAKER_ACCOUNTS__ALPHA__SECRET_KEY": "secret",
        "BREAKER_ACCOUNTS__ALPHA__SAFETY_NET": "8",
    }
    host = fork_server.start("-c", KEEPER, env={**os.environ, **given})
    try:
        standing_so(redis_client, Standing.ARMED)
        assert exchange.report()["open_orders"] == 5 and not has_fired(exchange)
        host.send_signal(signal.SIGSTOP)
        eventually(lambda: exchange.report()["open_orders"] == 0, exchange.report)
        assert [fired["cancelled"] for fired in exchange.report()["dead_man"]["fired"]] == [5]
        assert fires_at(exchange) is None
        host.send_signal(signal.SIGCONT)
        record = eventually(lambda: _armed_again(redis_client), "it wakes up, says that it fired, and arms it again")
        assert record is not None and record.firings == 1 and record.fired_at is not None
        host.terminate()
        assert host.wait(60) == 0
        assert fires_at(exchange) is None
    finally:
        host.kill()
        host.wait(60)


def _armed_again(client: redis.Redis) -> NetRecord | None:
    record = stands(client, Standing.ARMED)
    return record if record is not None and record.firings else None


def test_one_that_its_venue_does_not_have_is_said(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    given = settings_for(redis_server.url, tmp_path, exchange, 60)
    alpaca = given.accounts["ALPHA"].model_copy(update={"adapter": "alpaca"})
    settings = given.model_copy(update={"accounts": {"ALPHA": alpaca}})
    with keeping(settings):
        (found,) = asyncio.run(measure_safety_nets(settings))
    assert found.colour is Colour.RED and found.problem.startswith("Alpaca has no timer of its own")
    assert record_in(redis_client) is None


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ("timer", "breaker services"),
        ("another", "The adapter another offers no timer of its venue"),
        ("missing", "no adapter 'missing' is installed"),
    ],
)
def test_one_that_nobody_keeps_is_red(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    exchange: PaperExchangeThread,
    monkeypatch: pytest.MonkeyPatch,
    adapter: str,
    why: str,
) -> None:
    monkeypatch.setitem(registry._BUILT_IN, "timer", ADAPTER)
    monkeypatch.setitem(registry._BUILT_IN, "another", ("brokers.alpaca", "from_settings"))
    settings = settings_for(redis_server.url, tmp_path, exchange, 60)
    named = settings.accounts["ALPHA"].model_copy(update={"adapter": adapter})
    (found,) = asyncio.run(measure_safety_nets(settings.model_copy(update={"accounts": {"ALPHA": named}})))
    assert found.colour is Colour.RED and why in found.problem
    assert redis_client.exists(KEY) == 0


def test_whoever_watches_keeps_the_timers_that_are_wanted(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    def is_kept() -> bool:
        return "safety nets" in {thread.name for thread in threading.enumerate()}

    CircuitBreaker(redis_client).initialize_state()
    wanted = settings_for(redis_server.url, tmp_path, exchange, 60).model_copy(
        update={"monitor": MonitorSettings(enabled=False)}
    )
    with watching(wanted):
        assert is_kept()
    assert not is_kept()
    unasked = wanted.accounts["ALPHA"].model_copy(update={"safety_net": None})
    with watching(wanted.model_copy(update={"accounts": {"ALPHA": unasked}})):
        assert not is_kept()
