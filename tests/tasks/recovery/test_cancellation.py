"""A recovery that somebody cancelled in Prefect is seen, said and ended by a choice; one bad one hides no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import redis
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Suspended

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from ledger.queries import Filter
from sandbox.prefect_server import PrefectServer
from tasks.checks.measurement import Colour
from tasks.checks.probe import redis_reader
from tasks.checks.stores import open_stores
from tasks.recovery.answers import AnswerNotTaken, submit_answer
from tasks.recovery.approval_rules import RootCause
from tasks.recovery.cancellation import NotCancelled, end_recovery, look_for_cancellation
from tasks.recovery.state import RecoveryState, state_key
from tasks.verification.recoveries import check_recoveries
from tests.tasks.recovery.conftest import Configure
from tests.tasks.web import Answer, Web

ANSWER = RootCause("ada", "other", "quotes were stale since the feed's restart", "the feed was restarted again")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def settings(configure: Configure, web: Web) -> Settings:
    return configure(notifications={"slack": f"{web.url}/hook", "timeout": 2}, recovery={"remind_after": 1})


def waits(redis_client: redis.Redis, scope: str, incident: str, flow_run_id: str) -> RecoveryState:
    since = "2026-01-01T00:00:00+00:00"
    state = RecoveryState(
        incident, scope, flow_run_id, phase="waiting", waiting_for="root-cause", waiting_since=since, question="q"
    )
    redis_client.set(state_key(scope), state.to_json())
    return state


def kept(redis_client: redis.Redis) -> RecoveryState:
    raw = redis_client.get(state_key("global"))
    assert isinstance(raw, bytes)
    return RecoveryState.from_json(raw)


async def cancelled_run() -> FlowRun:
    @flow(name="recovery")
    async def recovery() -> None: ...

    async with get_client() as client:
        run = await client.create_flow_run(recovery, state=Suspended())
        cancelled: Any = Cancelled()
        await client.set_flow_run_state(run.id, cancelled, force=True)
        return run


async def test_a_cancelled_recovery_is_seen_said_once_and_takes_answers_with_our_own_sentence(
    settings: Settings, prefect: PrefectServer, redis_client: redis.Redis, web: Web
) -> None:
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}), closing(CircuitBreaker(redis_client)) as each:
        incident = str(each.trip("MANUAL", tripped_by="test").incident_id)
        state = waits(redis_client, "global", incident, str((await cancelled_run()).id))
        with pytest.raises(AnswerNotTaken, match=r"cancelled in Prefect.*breaker recover start.*breaker recover end"):
            await submit_answer(state, ANSWER)
        with open_stores(settings) as stores:
            assert await look_for_cancellation(settings, stores.ledger, "global")
            assert not await look_for_cancellation(settings, stores.ledger, "global")
            measured = await check_recoveries(stores)
            rows = stores.ledger.query(Filter(actions=("RECOVERY_CANCELLED",))).rows
        assert measured.colour is Colour.YELLOW and "breaker recover start" in measured.problem
        assert len(rows) == 1 and rows[0].incident_id == incident
        assert len(web.asked) == 1 and "was cancelled in Prefect" in web.asked[0].json["text"]
        now = kept(redis_client)
        assert now.is_cancelled and not now.waiting_for and "breaker recover end" in now.problem
    async with redis_reader(settings) as reader:
        await end_recovery(reader, "global", "ben", "its cause is known from the incident before")
        assert kept(redis_client).done and "ended by ben" in kept(redis_client).phase
        with pytest.raises(NotCancelled):
            await end_recovery(reader, "global", "ben", "its cause is known from the incident before")


async def test_a_deleted_run_is_seen_too_by_the_verification(
    settings: Settings, prefect: PrefectServer, redis_client: redis.Redis
) -> None:
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}), closing(CircuitBreaker(redis_client)) as each:
        waits(redis_client, "global", str(each.trip("MANUAL").incident_id), str(UUID(uuid7())))
        with open_stores(settings) as stores:
            assert (await check_recoveries(stores)).colour is Colour.YELLOW
    assert kept(redis_client).phase == "deleted in Prefect"


@pytest.mark.parametrize("damaged", ["no JSON", "[]", "{}", json.dumps({"items": {"x": {"tick": "purple"}}}), "null"])
async def test_a_recovery_that_cannot_be_read_is_red_and_hides_no_other(
    settings: Settings, redis_client: redis.Redis, web: Web, damaged: str
) -> None:
    for scope in ("account:A", "global"):
        with closing(CircuitBreaker(redis_client, scope)) as breaker:
            incident = str(breaker.trip("MANUAL").incident_id)
        waits(redis_client, scope, incident, str(uuid7()))
    redis_client.set(state_key("account:A"), damaged)
    with open_stores(settings) as stores:
        assert set(stores.scopes) == {"global", "account:A"}
        measured = await check_recoveries(stores)
    assert measured.colour is Colour.RED and "circuit_breaker:recovery:account:A" in measured.problem
    assert f"{incident}: waiting" in measured.value
    assert len(web.asked) == 1 and "Recovery waits for a person" in web.asked[0].json["text"]


def test_what_a_newer_version_has_added_does_not_make_a_state_unreadable() -> None:
    state = RecoveryState("i", "global", "r", phase="waiting")
    newer = {**json.loads(state.to_json()), "something_new": 1}
    assert RecoveryState.from_json(json.dumps(newer)) == replace(state)
