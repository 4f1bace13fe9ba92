"""What a reset would get in the way of is found, whoever does it and wherever it is recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from breaker.uuid7 import uuid7
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import AuditRecord
from sandbox.child_process import free_port
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tasks.checks.measurement import Colour, Measurement
from tasks.recovery.conflicts import find_conflicts, longest_kill
from tasks.recovery.state import RecoveryState, state_key
from tests.tasks.recovery.conftest import Configure

INCIDENT = "019e7f00-0000-7000-8000-000000000001"
RUN = "6b7a6a4e-0000-4000-8000-000000000001"


async def conflicts(settings: Settings, **changes: Any) -> Measurement:
    return await find_conflicts(settings, **{"incident_id": INCIDENT, "flow_run_id": RUN, **changes})


def kill_said(settings: Settings, action: str, ago: float = 1, incident: str = INCIDENT) -> AuditRecord:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return AuditRecord(action=action, source="cli", timestamp=at, incident_id=incident)


def record(settings: Settings, *records: AuditRecord) -> None:
    ledger = open_ready_ledger(settings)
    ledger.append(records)
    ledger.close()


async def test_nothing_going_on_is_green(configure: Configure) -> None:
    found = await conflicts(configure())
    assert (found.name, found.colour, found.value, found.problem) == ("conflicts", Colour.GREEN, "none", "")


@pytest.mark.parametrize("where", ["ledger", "spool"])
async def test_a_kill_switch_conflicts_until_it_has_finished(configure: Configure, where: str) -> None:
    settings = configure()

    def tell(*records: AuditRecord) -> None:
        if where == "ledger":
            record(settings, *records)
        else:
            open_spool(settings).add(records)

    tell(kill_said(settings, "KILL_SWITCH_STARTED", ago=20))
    found = await conflicts(settings)
    assert found.colour is Colour.RED
    assert f"the kill switch of incident {INCIDENT} has been running since" in found.problem
    tell(kill_said(settings, "KILL_SWITCH_FINISHED", ago=10))
    assert (await conflicts(settings)).colour is Colour.GREEN


async def test_a_kill_switch_started_again_conflicts_although_the_first_finished(configure: Configure) -> None:
    settings = configure()
    words = ("KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED", "KILL_SWITCH_STARTED")
    record(settings, *(kill_said(settings, word, ago=30 - number) for number, word in enumerate(words)))
    assert (await conflicts(settings)).colour is Colour.RED


async def test_a_kill_switch_that_died_conflicts_only_as_long_as_it_could_be_at_work(configure: Configure) -> None:
    settings = configure()
    too_old = longest_kill(settings.kill).total_seconds() + 1
    record(settings, kill_said(settings, "KILL_SWITCH_STARTED", ago=too_old, incident=uuid7()))
    assert (await conflicts(settings)).colour is Colour.GREEN


async def test_working_orders_conflict(configure: Configure, exchange: PaperExchange) -> None:
    exchange.restart(parse("[book]\norders = 3\npositions = 0\n"))
    account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
    found = await conflicts(configure(accounts={"ALPHA": account}))
    assert found.colour is Colour.RED
    assert "3 orders are working in ALPHA" in found.problem


@pytest.mark.parametrize(
    ("incident", "run", "done", "colour"),
    [
        (INCIDENT, RUN, False, Colour.GREEN),
        (INCIDENT, "another", False, Colour.RED),
        ("another", RUN, False, Colour.RED),
        ("another", "another", True, Colour.GREEN),
    ],
)
async def test_another_recovery_conflicts_while_it_is_under_way(
    configure: Configure, redis_client: redis.Redis, incident: str, run: str, done: bool, colour: Colour
) -> None:
    other = RecoveryState(incident_id=incident, scope="global", flow_run_id=run, done=done)
    redis_client.set(state_key("global"), other.to_json())
    assert (await conflicts(configure())).colour is colour
    assert (await conflicts(configure(), scope="account:ALPHA")).colour is Colour.GREEN


async def test_a_deployment_conflicts_and_is_named(configure: Configure, redis_client: redis.Redis) -> None:
    redis_client.set("deploying", "release 1.2 by ada")
    found = await conflicts(configure(recovery={"deployment_lock": "deploying"}))
    assert found.colour is Colour.RED
    assert "deploying is held by release 1.2 by ada" in found.problem


async def test_what_cant_be_looked_at_counts_as_a_conflict(configure: Configure) -> None:
    nowhere = free_port()
    account = {"base_url": f"http://127.0.0.1:{nowhere}", "key_id": "k", "secret_key": "s", "request_timeout": 1}
    settings = configure(
        redis_url=f"redis://127.0.0.1:{nowhere}",
        redis_timeout=0.3,
        database_url=f"postgresql://x@127.0.0.1:{nowhere}/x",
        accounts={"ALPHA": account},
    )
    found = await conflicts(settings)
    assert (found.colour, found.value) == (Colour.RED, "4 found")
