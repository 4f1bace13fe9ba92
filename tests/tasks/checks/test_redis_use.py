"""What doctor says of a Redis that refuses commands, and of Sentinels that don't answer or don't agree."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.gate import Gate, Topology
from breaker.redis_run import COMPARED_KEY
from breaker.sentinels import Address, Answer
from configuration.settings import GivenSettings, Settings
from ledger.configured import open_ready_ledger
from sandbox.embedded_redis import EmbeddedRedis
from services.primary_watch import PrimaryWatch
from tasks.checks.conditions import measure_redis
from tasks.checks.measurement import Colour
from tasks.checks.probe import Probe
from tasks.doctor.redis_server import judge_redis_settings, measure_redis_settings
from tasks.doctor.redis_use import judge_compared, measure_compared, measure_use
from tasks.doctor.sentinels import judge_sentinels
from tests.helpers import PATIENT_RECOVERY, eventually

PROBE = Probe("redis", "limit", "how")
A, B, C = ("a", 26379), ("b", 26379), ("c", 26379)


def settings_for(server: EmbeddedRedis, **more: Any) -> Settings:
    url = server.url.replace("://", "://narrow:secret@")
    return GivenSettings.model_validate({"redis_url": url, "redis_timeout": 10, "recovery": PATIENT_RECOVERY, **more})


@pytest.fixture
def narrow(own_server: EmbeddedRedis) -> Any:
    """An administrator's client, to say what the user `narrow` may."""
    client: Any = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">secret", "~*", "&*", "+@all")
    return client


async def test_what_is_refused_is_named_with_what_it_costs(own_server: EmbeddedRedis, narrow: Any) -> None:
    narrow.execute_command("ACL", "SETUSER", "narrow", "-config", "-info", "-waitaof")
    commands, gate = await measure_use(settings_for(own_server, trip_durability="aof"))
    assert (commands.name, commands.colour) == ("redis/commands", Colour.RED)
    assert commands.value == "CONFIG, INFO, WAITAOF refused"
    assert 'no trip is ever confirmed, as trip_durability = "aof"' in commands.problem
    assert gate.colour is Colour.GREEN and gate.value == "hears OPEN"


async def test_without_config_and_info_nothing_is_red(own_server: EmbeddedRedis, narrow: Any) -> None:
    narrow.execute_command("ACL", "SETUSER", "narrow", "-config", "-info")
    settings = settings_for(own_server)
    commands, _ = await measure_use(settings)
    assert commands.colour is Colour.YELLOW and "dead-man" in commands.problem
    assert (await measure_redis_settings(settings)).colour is Colour.GREEN
    found = await measure_redis(settings)
    assert found.colour is Colour.YELLOW and "INFO is refused" in found.problem


@pytest.mark.parametrize("refused", ["role", "client", "time", "del"])
async def test_a_gate_that_can_not_connect_is_red(
    refused: str, own_server: EmbeddedRedis, narrow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.doctor.redis_use.GATE_PATIENCE", 0.5)
    narrow.execute_command("ACL", "SETUSER", "narrow", f"-{refused}")
    _, gate = await measure_use(settings_for(own_server))
    assert gate.colour is Colour.RED and gate.problem.startswith("No gate would open")


def test_an_open_cut_off_primary_is_pointed_out_where_replicas_are_relied_on() -> None:
    info, config = "role:master\nconnected_slaves:1\n", {"min-replicas-to-write": "0"}
    assert judge_redis_settings(PROBE, info, config, 0.0).colour is Colour.GREEN
    found = judge_redis_settings(PROBE, info, config, 0.0, confirmed_by=1)
    assert found.colour is Colour.YELLOW and "min-replicas-to-write 1" in found.problem
    enough = f"{info}min_slaves_good_slaves:1\n"
    for seen in ({"min-replicas-to-write": "1"}, {}):  # hosted, only INFO tells that it is set
        assert judge_redis_settings(PROBE, enough, seen, 0.0, confirmed_by=1).colour is Colour.GREEN


@pytest.mark.parametrize(("there", "said"), [(1, "Only 1 of 2 replicas"), (2, ""), (3, "set trip_replicas = 3")])
def test_every_replica_that_may_be_promoted_has_to_confirm(there: int, said: str) -> None:
    info = f"role:master\nconnected_slaves:{there}\nmin_slaves_good_slaves:{there}\n"
    found = judge_redis_settings(PROBE, info, {"min-replicas-to-write": "1"}, 0.0, confirmed_by=2)
    assert said in found.problem and (found.colour is Colour.GREEN) == (not said)


@pytest.mark.parametrize(
    ("found", "colour", "said"),
    [
        ({A: ("p", 1), B: ("p", 1), C: ("p", 1)}, Colour.GREEN, ""),
        ({A: ("p", 1), B: ("p", 1)}, Colour.YELLOW, "c:26379 answers nothing in time"),
        ({A: ("p", 1), B: ("p", 1), C: None}, Colour.YELLOW, "c:26379 watches no such master"),
        ({A: ("p", 1), B: ConnectionError("refused")}, Colour.RED, "b:26379 answers nothing (refused); c:26379"),
        ({A: ("p", 1), B: ("q", 1), C: ("q", 1)}, Colour.RED, "different primaries"),
        ({A: None}, Colour.RED, "None knows where Redis is"),
        ({}, Colour.RED, "None knows where Redis is"),
    ],
)
def test_sentinels_are_judged_by_what_they_say(found: dict[Address, Answer], colour: Colour, said: str) -> None:
    judged = judge_sentinels(PROBE, (A, B, C), found)
    assert judged.colour is colour and said in judged.problem


def test_fewer_than_three_sentinels_are_too_few() -> None:
    assert judge_sentinels(PROBE, (A, B), {A: ("p", 1), B: ("p", 1)}).colour is Colour.YELLOW


async def test_gates_that_ask_for_a_comparison_are_told_of_by_what_was_compared(
    own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    settings = GivenSettings.model_validate(
        {"redis_url": own_server.url, "redis_timeout": 10, "state_dir": tmp_path / "state"}
    )
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    assert await measure_compared(settings) == [], "nobody asks"
    with Gate(own_server.url, topology=Topology.single(compared=True)):
        eventually(lambda: client.zcard("circuit_breaker:gates"))
        (found,) = await measure_compared(settings)
        assert found.colour is Colour.RED and "1 gate stays closed until a service has compared" in found.problem
        with closing(open_ready_ledger(settings)) as ledger, closing(PrimaryWatch(client, 10)) as watch:
            watch.look(ledger, {})
        (found,) = await measure_compared(settings)
        assert (found.colour, found.value) == (Colour.GREEN, "compared")
        client.set(COMPARED_KEY, "another run")
        (found,) = await measure_compared(settings)
        assert found.colour is Colour.RED
    assert await measure_compared(settings) == [], "the gate has said goodbye"
    assert "INFO" in judge_compared(PROBE, 2, None, "").problem
