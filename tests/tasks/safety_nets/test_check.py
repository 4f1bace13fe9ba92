"""What is said of an account's timer: until when it is armed, when it was renewed, and what is red."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configuration.accounts import AccountSettings
from tasks.checks.measurement import Colour
from tasks.checks.probe import Probe
from tasks.safety_nets.check import NetNow, judge_net, measure_unfit
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.records import STALE_AFTER, NetRecord

NOW = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
PROBE = Probe("safety-net/DERIV", "armed for 60 s", "what its keeper says in Redis")
ARMED = NetRecord(
    account="DERIV",
    standing=Standing.ARMED,
    timeout=60,
    as_of=NOW,
    seconds_left=60,
    renewed_at=NOW - 5,
    verified=True,
    fired_at=NOW - 86_400,
)


def account(safety_net: float | None = 60, **more: object) -> AccountSettings:
    values = {"adapter": "ccxt", "exchange": "okx", "key_id": "key", "secret_key": "secret", **more}
    return AccountSettings.model_validate({**values, "safety_net": safety_net})


def now(record: NetRecord | None, at: float = NOW) -> NetNow:
    return NetNow("DERIV", account(), record, at)


def test_an_armed_one_tells_until_when_since_when_and_when_it_last_fired() -> None:
    found = judge_net(PROBE, now(ARMED))
    assert found.colour is Colour.GREEN
    assert found.value == "armed, until 00:01:00 UTC, renewed 23:59:55, last fired 2025-12-31 00:00:00"


@pytest.mark.parametrize(
    ("net", "colour"),
    [
        (now(None), Colour.RED),
        (now(ARMED, NOW + STALE_AFTER + 1), Colour.RED),
        (now(replace(ARMED, standing=Standing.LATE)), Colour.RED),
        (now(replace(ARMED, standing=Standing.LEFT)), Colour.RED),
        (now(replace(ARMED, standing=Standing.FIRED, seconds_left=None)), Colour.RED),
        (now(replace(ARMED, standing=Standing.OFF, seconds_left=None, why="it was disarmed")), Colour.YELLOW),
        (now(replace(ARMED, verified=False)), Colour.YELLOW),
    ],
)
def test_one_that_is_configured_and_not_armed_is_red_unless_a_person_has_disarmed_it(
    net: NetNow, colour: Colour
) -> None:
    found = judge_net(PROBE, net)
    assert found.colour is colour and found.problem.endswith(".")


def test_one_that_the_venue_does_not_have_is_told_without_asking_anybody() -> None:
    alpaca = account(adapter="alpaca", exchange=None, base_url="https://venue.example")
    found = measure_unfit("ALPHA", alpaca)
    assert found is not None and (found.name, found.colour) == ("safety-net/ALPHA", Colour.RED)
    assert found.problem.startswith("Alpaca has no timer of its own") and "See accounts.ALPHA" in found.problem
    assert measure_unfit("ALPHA", account(None)) is None and measure_unfit("DERIV", account()) is None
