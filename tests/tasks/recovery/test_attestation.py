"""The console's word for who answers: for this answer to this question alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.attestation import attest, attested_permissions, withdraw_attestation
from tasks.recovery.context import RecoveryContext
from tasks.recovery.questions import question_id
from tasks.recovery.state import RecoveryState
from tests.tasks.recovery.conftest import Configure

ANSWER = Approval("olga", "cause fixed, venue confirmed, book checked", acknowledge=True)
QUESTION = question_id("approval", 1, 2)


@pytest.fixture
async def redis(redis_server: EmbeddedRedis, redis_client: object) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as client:
        yield client


async def test_it_holds_for_the_answer_that_was_given(redis: Redis) -> None:
    await attest(redis, "run", QUESTION, ANSWER, {"RESET_CIRCUIT", "APPROVE_RECOVERY"})
    assert await attested_permissions(redis, "run", QUESTION, ANSWER) == ("APPROVE_RECOVERY", "RESET_CIRCUIT")
    await withdraw_attestation(redis, "run", QUESTION, ANSWER)
    assert await attested_permissions(redis, "run", QUESTION, ANSWER) == ()


@pytest.mark.parametrize(
    ("run", "question", "answer"),
    [
        ("other", QUESTION, ANSWER),
        ("run", question_id("approval", 1, 3), ANSWER),
        ("run", question_id("approval", 2, 2), ANSWER),
        ("run", QUESTION, replace(ANSWER, approver="mallory")),
        ("run", QUESTION, replace(ANSWER, override_reason="because I say that it is fine")),
    ],
)
async def test_it_holds_for_nothing_else(redis: Redis, run: str, question: str, answer: Approval) -> None:
    await attest(redis, "run", QUESTION, ANSWER, {"RESET_CIRCUIT"})
    assert await attested_permissions(redis, run, question, answer) == ()


async def test_the_flow_asks_configuration_and_console(redis: Redis, configure: Configure) -> None:
    settings = configure(recovery={"people": {"bob": ["APPROVE_RECOVERY"]}})
    state = RecoveryState("incident", "global", "run", author="bob")
    context = RecoveryContext(settings, redis, None, None, state, tripped_by=("ada",))  # type: ignore[arg-type]
    cause = RootCause("bob", "data", "stale quotes after the failover", "feed pinned to its primary")
    assert (await context.rules("root-cause-1-1", cause)).may("bob", "APPROVE_RECOVERY")
    assert not (await context.rules(QUESTION, ANSWER)).may("olga", "RESET_CIRCUIT")
    await attest(redis, "run", QUESTION, ANSWER, {"RESET_CIRCUIT"})
    rules = await context.rules(QUESTION, ANSWER)
    assert rules.may("olga", "RESET_CIRCUIT")
    assert not rules.may("olga", "APPROVE_RECOVERY")
    assert (rules.two_person, rules.tripped_by, rules.author) == (True, ("ada",), "bob")
