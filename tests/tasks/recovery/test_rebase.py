"""The way back from a drawdown: reset with a re-base ends OPEN, without one the person was told and it trips again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker, State
from breaker.rules import Outcome, Rules, Verdict
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.queries import Filter
from ledger.record import DENIED, FAILED, AuditRow
from ledger.recorder import Recorder
from tasks.recovery import steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.rebase import REBASE_REFUSED, REBASED, EquityChangeRefused, NotRebased, RebaseRequest, rebase_equity
from tasks.recovery.state import RecoveryState
from tasks.recovery.transfer import TRANSFER_REFUSED, TRANSFERRED, NotTransferred, TransferRequest, record_transfer
from tests.tasks.recovery import conftest
from tests.tasks.recovery.conftest import Configure

RUN = "6b7a6a4e-0000-4000-8000-000000000001"
WHY = "the loss is taken, the desk goes on from here"
APPROVAL = {"approver": "cyd", "reason": "the cause was found and put right", "acknowledge": True}
PEOPLE = {"cyd": ["RESET_CIRCUIT", "APPROVE_RECOVERY"], "eve": ["RESET_CIRCUIT"]}
EQUITY = "circuit_breaker:equity"


@pytest.fixture
def settings(configure: Configure) -> Settings:
    return configure(quiet_period=60, recovery={"people": PEOPLE, "watch": 0.3, "watch_interval": 0.05})


@asynccontextmanager
async def tripped_by_drawdown(settings: Settings, client: redis.Redis) -> AsyncIterator[tuple[RecoveryContext, Rules]]:
    """A recovery of it, and the engine that goes on measuring."""
    breaker, rules = CircuitBreaker(client), Rules(client)
    breaker.initialize_state()
    assert rules.record_equity("100000").verdict is Verdict.WITHIN
    assert rules.record_equity("94000").verdict is Verdict.TRIPPED
    status = breaker.get_status()
    assert status.trip_reason == "DRAWDOWN"
    asynchronous, patient = async_breaker_of(settings), Redis.from_url(settings.redis_url.get_secret_value())
    recorder = Recorder(open_ready_ledger(settings), open_spool(settings))
    state = RecoveryState(incident_id=str(status.incident_id), scope="global", flow_run_id=RUN)
    context = RecoveryContext(settings, patient, asynchronous, recorder, state, ("rule",))
    token = current_recovery.set(context)
    try:
        yield context, rules
    finally:
        current_recovery.reset(token)
        rules.close()
        await asynchronous.close()
        await patient.aclose()
        recorder.ledger.close()


async def approve(**said: Any) -> dict[str, Any]:
    return await conftest.approve({**APPROVAL, **said})


def rows(context: RecoveryContext, action: str) -> list[AuditRow]:
    return list(context.recorder.ledger.query(Filter(actions=(action,))).rows)


async def test_a_drawdown_that_is_rebased_in_the_approval_stays_reset_and_ends_open(
    settings: Settings, redis_client: redis.Redis
) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, rules):
        breaker = CircuitBreaker(redis_client)
        refused = await approve(rebase_equity=True)
        assert "re-base in the approval" in refused["refused"] and "95000 or more" in refused["refused"]
        assert redis_client.hget(EQUITY, "high_water") == b"100000", "a reset that is refused re-bases nothing"

        done = await approve(override_reason=WHY, rebase_equity=True)
        assert "refused" not in done, done["refused"]
        assert rules.record_equity("94000").verdict is Verdict.WITHIN
        assert breaker.get_state() is State.QUIET_PERIOD
        assert await steps.watch.fn(1, 1.0, done["epoch"]) is None
        assert breaker.get_state() is State.OPEN

        (row,) = rows(context, REBASED)
        assert (row.user_id, row.incident_id, row.source) == ("cyd", context.state.incident_id, "flow")
        told = {name: row.details[name] for name in ("high_water_before", "high_water_after", "drawdown_before")}
        assert told == {"high_water_before": "100000", "high_water_after": "94000", "drawdown_before": "6.00%"}
        assert row.details["reason"] == APPROVAL["reason"]
        evidence = context.state.item("reset").evidence
        assert "the high-water mark begins anew at 94000 (before it was 100000, drawdown 6.00%)" in evidence
        assert rules.record_equity("89000").verdict is Verdict.TRIPPED, "it is judged from there"


async def test_without_a_rebase_the_person_is_told_and_the_next_measurement_trips_again(
    settings: Settings, redis_client: redis.Redis
) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, rules):
        done = await approve(override_reason=WHY)
        assert "refused" not in done, done["refused"]
        sentence = (
            "equity 94000 is 6.00% below the high-water mark 100000 (limit 5.0%): the next measurement below 95000"
        )
        assert sentence in context.state.item("reset").evidence
        (event,) = CircuitBreaker(redis_client).get_history(1)
        assert sentence in event.details["trips_again"], "and that is on record with the reset"
        assert rows(context, REBASED) == []
        assert rules.record_equity("94000").verdict is Verdict.TRIPPED


async def test_a_recovery_that_is_begun_again_after_a_crash_rebases_once(
    settings: Settings, redis_client: redis.Redis
) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, rules):
        first = await approve(override_reason=WHY, rebase_equity=True)
        made = replace(await context.question("approval", 1), result={})
        redis_client.set(context.questions.key("approval", 1), made.to_json())
        assert rules.record_equity("93000").verdict is Verdict.WITHIN
        again = await approve(override_reason=WHY, rebase_equity=True)
        assert again["epoch"] == first["epoch"]
        assert redis_client.hget(EQUITY, "high_water") == b"94000"
        assert len(rows(context, REBASED)) == 1


async def test_a_reset_whose_rebase_fails_stands_and_says_so(settings: Settings, redis_client: redis.Redis) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, _):
        redis_client.delete(EQUITY)
        done = await approve(rebase_equity=True)
        assert "refused" not in done, done["refused"]
        assert "Not re-based: no equity is recorded yet" in context.state.item("reset").evidence
        (row,) = rows(context, REBASE_REFUSED)
        assert (row.outcome, row.user_id) == (FAILED, "cyd")


async def rebase(context: RecoveryContext, person: str, **asked: Any) -> None:
    request = RebaseRequest(
        scope="global", person=person, permissions=PEOPLE.get(person, ()), reason=WHY, source="cli", **asked
    )
    await rebase_equity(context.settings, context.breaker, request, context.keep)


async def test_promise_9_a_rebase_without_a_reset_takes_what_a_reset_takes(
    settings: Settings, redis_client: redis.Redis
) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, _):
        breaker = CircuitBreaker(redis_client, reset_interval=0)
        for person, why in (
            ("bob", "bob has no RESET_CIRCUIT permission"),
            ("eve", "eve has no APPROVE_RECOVERY permission"),
        ):
            with pytest.raises(EquityChangeRefused, match=why):
                await rebase(context, person)
        assert redis_client.hget(EQUITY, "high_water") == b"100000"
        await rebase(context, "cyd")
        assert redis_client.hget(EQUITY, "high_water") == b"94000" and breaker.get_state() is State.TRIPPED

        open_again(breaker)
        breaker.trip("MANUAL", tripped_by="eve")
        with pytest.raises(EquityChangeRefused, match="eve tripped the breaker: somebody else"):
            await rebase(context, "eve")
        open_again(breaker)
        await rebase(context, "eve", value=Decimal(80000))  # whose trip is over
        assert redis_client.hget(EQUITY, "high_water") == b"80000"
        redis_client.delete(EQUITY)
        with pytest.raises(NotRebased, match="no equity is recorded yet"):
            await rebase(context, "cyd")

        refused = [(row.user_id, row.outcome) for row in rows(context, REBASE_REFUSED)]
        assert refused == [("cyd", DENIED), ("eve", DENIED), ("eve", DENIED), ("bob", DENIED)]
        incidents = [row.incident_id for row in rows(context, REBASED)]
        assert incidents == [None, context.state.incident_id], "what is OPEN has no incident"


def open_again(breaker: CircuitBreaker) -> None:
    reset = breaker.reset("dan", "everything was looked at twice")
    breaker.end_quiet_period(expected_epoch=reset.epoch or 0)


async def test_a_transfer_by_hand_takes_what_a_rebase_takes_and_is_on_record(
    settings: Settings, redis_client: redis.Redis
) -> None:
    async with tripped_by_drawdown(settings, redis_client) as (context, rules):

        async def moved(person: str, ahead: float = 0) -> Outcome:
            at = datetime.now(UTC) + timedelta(seconds=ahead)
            request = TransferRequest(
                scope="global",
                person=person,
                permissions=PEOPLE.get(person, ()),
                reason=WHY,
                source="cli",
                amount=Decimal(-6000),
                at=at,
                transfer_id=f"W-{at:%H%M%S}",
            )
            return await record_transfer(context.settings, context.breaker, request, context.keep)

        with pytest.raises(EquityChangeRefused, match="Not recorded: eve has no APPROVE_RECOVERY permission"):
            await moved("eve")
        with pytest.raises(NotTransferred, match="in the future"):
            await moved("cyd", 3600)
        assert (await moved("cyd")).details["effect"] == "waits for the first reading that has it"
        assert rules.record_equity("88000").verdict is Verdict.ALREADY_TRIPPED, (
            "the six percent of before are still lost"
        )
        assert redis_client.hget(EQUITY, "high_water") == b"93617.0212765957"

        (row,) = rows(context, TRANSFERRED)
        told = {name: row.details[name] for name in ("amount", "reason", "effect")}
        assert told == {"amount": "-6000", "reason": WHY, "effect": "waits for the first reading that has it"}
        assert [row.user_id for row in rows(context, TRANSFER_REFUSED)] == ["cyd", "eve"]
