"""An answer decides once: for the question, the incident and the state that it was given for, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
import redis
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.input.run_input import Keyset, keyset_from_base_key
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows.recovery import open_recovery
from ledger.queries import Filter
from sandbox.prefect_server import PrefectServer
from tasks.checks.measurement import Colour, Measurement
from tasks.recovery import forms, steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.forms import ApprovalForm, RootCauseForm
from tasks.recovery.questions import NoAnswer
from tasks.recovery.reset import REFUSED
from tests.tasks.recovery.conftest import Configure, approve

APPROVAL = {"approver": "cyd", "reason": "the cause was found and put right", "acknowledge": True}
GREEN = Measurement("redis", Colour.GREEN, "up", "up", "asked", datetime.now(UTC))
RED = replace(GREEN, colour=Colour.RED)


@pytest.fixture
def settings(configure: Configure) -> Settings:
    return configure(recovery={"people": {"cyd": ["RESET_CIRCUIT"], "bob": ["APPROVE_RECOVERY"]}})


@pytest.fixture
async def context(settings: Settings, redis_client: redis.Redis) -> AsyncIterator[RecoveryContext]:
    incident = str(CircuitBreaker(redis_client).trip("MANUAL", tripped_by="ada").incident_id)
    async with open_recovery(settings, incident, "global", flow_run_id=uuid7()) as context:
        token = current_recovery.set(context)
        yield context
        current_recovery.reset(token)


@contextmanager
def measuring(*measured: Measurement, meanwhile: Any = None) -> Iterator[None]:
    async def measure(*_: object) -> list[Measurement]:
        if meanwhile:
            await meanwhile()
        return list(measured)

    with mock.patch.object(steps, "measure_for_reset", measure):
        yield


def resets(client: redis.Redis) -> list[str | None]:
    return [event.by for event in CircuitBreaker(client).get_history(50) if event.transition == "RESET"]


async def test_of_two_that_decide_about_one_answer_the_first_one_counts(context: RecoveryContext) -> None:
    asked = await context.question("root-cause", 1)
    accepted, refused = await asyncio.gather(
        context.questions.accept(asked, {"author": "bob"}), context.questions.ask_again(asked, "no", 1)
    )
    now = await context.question("root-cause", 1)
    assert accepted == refused == now
    assert bool(now.accepted) != bool(now.problem)


async def test_a_question_whose_record_is_lost_is_never_asked_by_that_name_again(
    context: RecoveryContext, redis_client: redis.Redis
) -> None:
    key, before = context.questions.key("approval", 1), await context.question("approval", 1)
    assert await context.question("approval", 1) == before
    for lost in (None, b"no question", b"[]"):
        redis_client.set(key, lost) if lost else redis_client.delete(key)
        again = await context.question("approval", 1)
        assert (again.attempt, again.name != before.name) == (1, True)
        with measuring(GREEN):
            await steps.reset.fn(1, 1, before.name, APPROVAL)
    assert resets(redis_client) == []


async def test_an_approval_of_what_was_tripped_again_since_is_asked_for_anew(
    context: RecoveryContext, redis_client: redis.Redis
) -> None:
    asked = await context.question("approval", 1)
    again = CircuitBreaker(redis_client).trip("DRAWDOWN", incident_id=context.state.incident_id)
    with measuring(GREEN):
        done = await steps.reset.fn(1, 1, asked.name, APPROVAL)
    assert "Somebody else changed the breaker meanwhile" in done["refused"]
    now = await context.question("approval", 1)
    assert (now.attempt, now.epoch, now.problem) == (2, again.epoch, done["refused"])
    assert resets(redis_client) == []
    with measuring(GREEN):
        assert "epoch" in await approve(APPROVAL)
    assert resets(redis_client) == ["cyd"]


async def test_a_slow_process_does_not_reset_by_an_answer_that_another_one_refused_meanwhile(
    context: RecoveryContext, redis_client: redis.Redis
) -> None:
    asked = await context.question("approval", 1)

    async def refuse() -> None:
        with measuring(RED):
            assert "refused" in await steps.reset.fn(1, 1, asked.name, APPROVAL)

    with measuring(GREEN, meanwhile=refuse):
        done = await steps.reset.fn(1, 1, asked.name, APPROVAL)
    assert "has been used or withdrawn" in done["refused"]
    assert resets(redis_client) == []
    assert (await context.question("approval", 1)).attempt == 2, "refused once"


async def test_what_comes_after_a_reset_is_done_though_its_process_died_and_something_is_red_by_now(
    context: RecoveryContext, redis_client: redis.Redis
) -> None:
    asked = await context.question("approval", 1)
    died = mock.patch("tasks.recovery.reset._unlock_at_venues", side_effect=ProcessLookupError)
    with measuring(GREEN), died, pytest.raises(ProcessLookupError):
        await steps.reset.fn(1, 1, asked.name, APPROVAL)
    assert resets(redis_client) == ["cyd"]
    half = await context.question("approval", 1)
    assert (half.accepted["approver"], half.result) == ("cyd", {})
    with measuring(RED):
        done = await steps.reset.fn(1, 1, asked.name, {**APPROVAL, "approver": "mallory"})
    assert done == (await context.question("approval", 1)).result
    assert (done["by"], done["epoch"]) == ("cyd", CircuitBreaker(redis_client).get_status().epoch)
    assert resets(redis_client) == ["cyd"]


async def test_an_answer_that_a_restored_redis_has_open_again_is_refused_by_what_the_ledger_knows(
    context: RecoveryContext, redis_client: redis.Redis
) -> None:
    asked = await context.question("approval", 1)
    with measuring(RED):
        await steps.reset.fn(1, 1, asked.name, APPROVAL)
    redis_client.set(context.questions.key("approval", 1), asked.raw)
    with measuring(GREEN):
        done = await steps.reset.fn(1, 1, asked.name, APPROVAL)
    assert "decided about before" in done["refused"]
    assert resets(redis_client) == []
    rows = context.recorder.ledger.query(Filter(actions=(REFUSED,), incident_id=context.state.incident_id)).rows
    assert len(rows) == 1


async def test_rounds_that_were_reopened_are_not_walked_again(context: RecoveryContext) -> None:
    asked = await context.question("approval", 1)
    await context.questions.accept(asked, APPROVAL, {"epoch": 2, "by": "cyd"})
    assert await context.questions.round_in_hand() == 1
    await steps.reopen.fn(1, "a feed is old")
    await steps.reopen.fn(1, "a feed is old")
    assert await context.questions.round_in_hand() == 2
    assert (context.state.round, context.state.problem) == (2, "Reopened: a feed is old")


async def test_a_run_that_goes_on_without_an_answer_or_with_an_old_one_has_none(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(name="answered")
    def answered() -> None: ...

    async def given(run: UUID, name: str, answer: object) -> Keyset:
        keyset = keyset_from_base_key(f"suspended-{name}")
        async with get_client() as client:
            await client.create_flow_run_input(run, keyset["response"], answer if isinstance(answer, str) else "")
        return keyset

    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        async with get_client() as client:
            run = (await client.create_flow_run(answered)).id
        approval = await given(run, "approval-1-1-aa", forms.ApprovalForm(**APPROVAL).model_dump_json())
        assert asdict((await ApprovalForm.aload(approval, run)).answer())["approver"] == "cyd"
        for form, keyset in (
            (ApprovalForm, keyset_from_base_key("suspended-never-answered")),
            (ApprovalForm, await given(run, "approval-1-1-bb", "{}")),
            (RootCauseForm, approval),
        ):
            with pytest.raises(NoAnswer, match="resumed in Prefect without an answer"):
                await form.aload(keyset, run)
        monkeypatch.setattr(forms, "ANSWER_VALID", 0.0)
        with pytest.raises(NoAnswer, match="no longer counts"):
            await ApprovalForm.aload(approval, run)
