"""Which flow runs are started again by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.input.run_input import keyset_from_paused_state
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Suspended

from sandbox.prefect_server import PrefectServer
from tasks import orchestrator
from tasks.orchestrator import (
    FAILED_FOR,
    SILENT_FOR,
    describe_failure,
    is_failed_or_crashed,
    is_lost,
    reschedule_if_failed,
)

REQUEST = httpx.Request("GET", "http://prefect.example/api/health")
NOW = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "ago", "again"),
    [
        (StateType.CRASHED, timedelta(0), True),
        (StateType.FAILED, timedelta(seconds=1), False),
        (StateType.FAILED, FAILED_FOR, True),
        (StateType.PAUSED, timedelta(days=1), False),
        (StateType.CANCELLED, timedelta(days=1), False),
        (StateType.COMPLETED, timedelta(days=1), False),
        (StateType.RUNNING, timedelta(days=1), False),
    ],
)
def test_what_broke_off_is_started_again_and_what_waits_ended_or_was_cancelled_is_not(
    kind: StateType, ago: timedelta, again: bool
) -> None:
    assert is_failed_or_crashed(State[None](type=kind, timestamp=NOW - ago), NOW) is again


@pytest.mark.parametrize(
    ("kind", "ago", "again"),
    [
        (StateType.RUNNING, timedelta(seconds=5), False),
        (StateType.RUNNING, SILENT_FOR, True),
        (StateType.PENDING, timedelta(seconds=5), False),
        (StateType.PENDING, SILENT_FOR, True),
        (StateType.SCHEDULED, timedelta(days=1), False),
        (StateType.PAUSED, timedelta(days=1), False),
        (StateType.COMPLETED, timedelta(days=1), False),
    ],
)
def test_without_a_sign_of_life_what_runs_or_was_submitted_for_long_has_no_process(
    kind: StateType, ago: timedelta, again: bool
) -> None:
    assert is_lost(State[None](type=kind, timestamp=NOW - ago), NOW) is again


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.HTTPStatusError("Client error\nfor url", request=REQUEST, response=httpx.Response(401)), "(401)"),
        (httpx.HTTPStatusError("Server error\nfor url", request=REQUEST, response=httpx.Response(503)), "answered 503"),
        (httpx.ReadTimeout("", request=REQUEST), "did not answer in time"),
        (TimeoutError(), "did not answer in time"),
        (httpx.ConnectError("All connection attempts failed", request=REQUEST), "can't be reached"),
        (RuntimeError("Failed to reach API at http://prefect.example/api/"), "can't be reached"),
        (RuntimeError("another"), "RuntimeError"),
    ],
)
def test_why_prefect_can_not_be_asked_is_said_in_a_few_words_on_one_line(error: Exception, said: str) -> None:
    told = describe_failure(error)
    assert said in told and "\n" not in told and "http" not in told


async def test_a_run_that_asks_and_whose_form_the_server_never_got_is_started_again(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(name="asking")
    async def asking() -> None: ...

    asks: State[None] = Suspended(pause_key="approval-1-4")
    keyset = keyset_from_paused_state(asks)
    asks.state_details.run_input_keyset = {str(name): key for name, key in keyset.items()}
    monkeypatch.setattr(orchestrator, "FAILED_FOR", timedelta(0))
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        async with get_client() as client:
            run = (await client.create_flow_run(asking, state=asks)).id
            await client.create_flow_run_input(run, keyset["schema"], "{}")
            assert not await reschedule_if_failed(run)
            await client.delete_flow_run_input(run, keyset["schema"])
            assert await reschedule_if_failed(run)
            begun_again = (await client.read_flow_run(run)).state
            assert not await reschedule_if_failed(run)
    assert begun_again is not None
    assert begun_again.is_scheduled()
    assert begun_again.message == "Started again, as it asked and its form was lost"
