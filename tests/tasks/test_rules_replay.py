"""What was recorded is judged anew by other limits, through the same scripts, and nothing is acted on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from breaker.limits import Limits, Rule
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.rules_replay import (
    Recorded,
    Recording,
    ReplayStopped,
    Transferred,
    read_recording,
    replay,
    replay_rule,
)

BEGUN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
ACCOUNT = {"base_url": "https://paper-api.alpaca.markets", "key_id": "k", "secret_key": "s"}


def at(minutes: float) -> datetime:
    return BEGUN + timedelta(minutes=minutes)


def test_it_says_when_a_tighter_limit_would_have_tripped_and_each_time_once() -> None:
    equities = ("100", "98", "96.9", "96.8", "99", "96.5")
    readings = tuple(Recorded(at(place), Decimal(equity)) for place, equity in enumerate(equities))
    margin = Recorded(at(10), Decimal(90), largest_position=Decimal(80), gross_exposure=Decimal(200))
    recording = Recording(
        (*readings, Recorded(at(9), Decimal(1), trusted=False), margin),
        (Transferred(at(9.5), Decimal(-5), "W"),),
    )
    assert [each.rule for each in replay(recording, Limits())] == ["DRAWDOWN"], "the last one alone"
    found = replay(recording, Limits(drawdown=Decimal("0.03"), gross_exposure=Decimal(150), position_size=Decimal(80)))
    assert [(each.at, each.rule) for each in found] == [
        (at(2), "DRAWDOWN"),
        (at(5), "DRAWDOWN"),
        (at(10), "GROSS_EXPOSURE"),
    ]
    assert (found[0].measured, found[0].limit, found[0].window) == ("3.1000%", "3%", "from the high-water mark")


def test_one_rule_is_replayed_by_itself_with_what_it_heard_each_time() -> None:
    equities = ("0", "100", "98", "96.9", "96.8", "99", "96.5")
    readings = tuple(Recorded(at(place), Decimal(equity)) for place, equity in enumerate(equities))
    margin = Recorded(at(10), Decimal(90), largest_position=Decimal(80), gross_exposure=Decimal(200))
    recording = Recording((*readings, Recorded(at(9), Decimal(1), trusted=False), margin))
    limits = Limits(drawdown=Decimal("0.03"), daily_loss=Decimal("0.01"), gross_exposure=Decimal(150))
    found = replay_rule(recording, limits, Rule.DRAWDOWN, lambda: True)
    assert [each.value for each in found[:4]] == [Decimal(value) for value in ("0", "0", "0.02", "0.031")]
    assert [each.at for each in found if each.trips] == [at(3), at(6)]
    (gross,) = replay_rule(recording, limits, Rule.GROSS_EXPOSURE, lambda: True)
    assert (gross.at, gross.value, gross.trips) == (at(10), Decimal(200), True)
    assert replay_rule(recording, limits, Rule.MARGIN, lambda: True) == []
    with pytest.raises(ReplayStopped, match="choose a shorter time"):
        replay_rule(recording, limits, Rule.DRAWDOWN, lambda: False)


def test_another_currency_begins_anew() -> None:
    told = (("100", "USD"), ("92", "EUR"), ("91", "EUR"), ("87", "EUR"))
    readings = tuple(Recorded(at(place), Decimal(equity), currency=code) for place, (equity, code) in enumerate(told))
    (found,) = replay(Recording(readings), Limits())
    assert (found.at, found.measured) == (at(3), "5.4348%")


async def test_it_reads_what_the_monitor_keeps(redis_server: EmbeddedRedis, redis_client: Any) -> None:
    stream = "circuit_breaker:measurements:ALPHA"
    milliseconds = int(BEGUN.timestamp() * 1000)
    told = {"equity": "100", "currency": "USD", "positions": "1", "gross_exposure": "50", "largest_position": "50"}
    redis_client.xadd(stream, {**told, "maintenance_margin": "12.5"}, id=f"{milliseconds}-0")
    redis_client.xadd(stream, {"equity": "1", "untrusted": "rebuilding"}, id=f"{milliseconds + 1000}-0")
    redis_client.xadd(stream, {"somebody": "else's"}, id=f"{milliseconds + 2000}-0")
    redis_client.xadd(stream, told, id=f"{milliseconds + 3_600_000}-0")
    moved = {"W": f"{milliseconds * 1000 + 5} -6000", "ODD": "soon", "LATER": f"{milliseconds * 2000} 5"}
    redis_client.hset("circuit_breaker:transfers", mapping=moved)
    settings = Settings.model_validate({"redis_url": redis_server.url, "accounts": {"ALPHA": ACCOUNT}})
    found = await read_recording(settings, "ALPHA", "global", BEGUN, at(30))
    first, second = found.readings
    assert (first.at, first.equity, first.maintenance_margin) == (BEGUN, Decimal(100), Decimal("12.5"))
    with pytest.raises(ReplayStopped, match="more than 1 readings"):
        await read_recording(settings, "ALPHA", "global", BEGUN, at(30), most=1)
    assert not second.trusted and (first.currency, second.currency) == ("USD", None)
    assert [(each.transfer_id, each.amount) for each in found.transfers] == [("W", Decimal(-6000))]


async def test_figures_that_are_no_amounts_are_left_out(redis_server: EmbeddedRedis, redis_client: Any) -> None:
    for place, figure in enumerate(("NaN", "Infinity", "80")):
        fields = {"equity": "100", "largest_position": figure, "gross_exposure": figure}
        redis_client.xadd("circuit_breaker:measurements:ALPHA", fields, id=f"{int(at(place).timestamp() * 1000)}-0")
    settings = Settings.model_validate({"redis_url": redis_server.url, "accounts": {"ALPHA": ACCOUNT}})
    recording = await read_recording(settings, "ALPHA", "global", at(-1), at(10))
    (heard,) = replay_rule(recording, Limits(position_size=Decimal(50)), Rule.POSITION_SIZE, lambda: True)
    assert (heard.at, heard.value, heard.trips) == (at(2), Decimal(80), True)
