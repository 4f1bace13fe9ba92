"""What a recovery does that begins too late, what it asks whoever approves, and what it goes on by elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.tasks import Task
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.rules import Rules, Verdict
from breaker.uuid7 import uuid7
from configuration.settings import RecoverySettings, Settings
from flows.drivers import run_directly
from flows.recovery import FormT, _approved_reset, open_recovery, recovery, walk_checklist
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tasks.recovery import steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.questions import NoAnswer
from tasks.recovery.state import RecoveryState, state_key


async def test_a_recovery_that_a_later_incident_overtook_leaves_the_picture_to_that_ones(
    prefect: PrefectServer,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BREAKER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path / "state"))
    current = str(CircuitBreaker(redis_client).trip("MANUAL", tripped_by="ada").incident_id)
    shown = RecoveryState(incident_id=current, scope="global", flow_run_id=uuid7(), waiting_for="root-cause")
    redis_client.set(state_key("global"), shown.to_json())
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        state = await recovery(incident_id=uuid7(), return_state=True)
    assert state.is_completed() and current in str(state.message)
    assert redis_client.get(state_key("global")) == shown.to_json().encode()


async def test_whoever_approves_is_told_in_the_form_that_a_drawdown_trips_again(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    settings = Settings(
        redis_url=SecretStr(redis_server.url),
        state_dir=tmp_path / "state",
        recovery=RecoverySettings(people={"cyd": ["RESET_CIRCUIT", "APPROVE_RECOVERY"]}),
    )
    CircuitBreaker(redis_client).initialize_state()
    rules = Rules(redis_client)
    rules.record_equity("100000")
    rules.record_equity("94000")
    incident = str(CircuitBreaker(redis_client).get_status().incident_id)
    asked: list[str] = []

    async def ask(
        context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
    ) -> FormT:
        asked.append(description)
        why = "the loss is taken, the desk goes on from here"
        said = {"reason": why, "acknowledge": True, "override_reason": why, "rebase_equity": True}
        return form.model_validate({"approver": "cyd", **said})

    async with open_recovery(settings, incident, "global", flow_run_id=uuid7()) as context:
        token = current_recovery.set(context)
        try:
            with temporary_settings(updates={PREFECT_API_URL: None}):
                await _approved_reset(context, 1, run_directly, ask)
        finally:
            current_recovery.reset(token)
    assert "**Re-base? Equity 94000 is 6.00% below the high-water mark 100000 (limit 5.0%)" in asked[0]
    assert rules.record_equity("94000").verdict is Verdict.WITHIN, "what was answered was done"


class Suspended(Exception):
    """The run waits for a person, and its process has ended."""


@dataclass
class People:
    """Who answer what they are asked, one form after another, and Prefect, which keeps an answer by its question."""

    answers: list[dict[str, Any] | NoAnswer]
    kept: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    async def __call__(
        self, context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
    ) -> FormT:
        if question not in self.kept:
            self.told.append(description.partition("\n")[0])
            self.kept[question] = self.answers.pop(0)
            raise Suspended
        answer = self.kept[question]
        if isinstance(answer, NoAnswer):
            raise answer
        return form.model_validate(answer)


async def test_a_run_that_finds_no_result_after_any_suspension_goes_by_the_newest_answer_alone(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    people = {"bob": ["APPROVE_RECOVERY"], "cyd": ["RESET_CIRCUIT"], "dan": ["RESET_CIRCUIT"]}
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    incident, run = str(breaker.trip("MANUAL", tripped_by="ada").incident_id), uuid7()
    why = "the cause was found and put right"
    cause, approval = {"root_cause": why, "corrective_action": why}, {"reason": why, "acknowledge": True}
    asked = People(
        [
            {"author": "cyd", **cause},  # who has no permission yet
            {"author": "bob", **cause},
            {"approver": "dan", **approval},  # while a deployment is in progress
            {"approver": "ada", **approval, "acknowledge": False},
            NoAnswer("the run was resumed in Prefect without an answer to this form"),
            {"approver": "cyd", **approval},
        ]
    )
    died: list[str] = []

    async def on_some_host(step: Task[..., Any], **arguments: Any) -> Any:
        """Without any result, and with a process that dies when it begins to watch."""
        if step is steps.watch and not died:
            died.append(step.name)
            raise Suspended
        return await run_directly(step, **arguments)

    async def go_on() -> bool:
        """As any worker would: what it knows is what Redis, ledger and Prefect's answers have."""
        settings = Settings(
            redis_url=SecretStr(redis_server.url),
            state_dir=tmp_path / "state",
            recovery=RecoverySettings(people=people, watch=0.2, watch_interval=0.1, condition_deadline=0.01),
        )
        async with open_recovery(settings, incident, "global", flow_run_id=run) as context:
            token = current_recovery.set(context)
            try:
                with temporary_settings(updates={PREFECT_API_URL: None}):
                    return await walk_checklist(context, 1, on_some_host, asked)
            except Suspended:
                return False
            finally:
                current_recovery.reset(token)

    for number in range(9):
        if number == 3:
            redis_client.set(RecoverySettings().deployment_lock, "release 7")
        if await go_on():
            break
        if number == 1:
            people["cyd"] = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]  # what was refused before is not accepted now
        if number == 3:
            redis_client.delete(RecoverySettings().deployment_lock)
    assert died and not asked.answers, asked.told
    refusals = ["cyd has no APPROVE_RECOVERY permission", "a deployment is in progress", "ada has no RESET_CIRCUIT"]
    refusals += ["without an answer to this form"]
    for refusal, told in zip(refusals, (told for told in asked.told if "was refused" in told), strict=True):
        assert refusal in told
    ledger = open_ready_ledger(Settings(redis_url=SecretStr(redis_server.url), state_dir=tmp_path / "state"))
    drain_outbox(redis_client, ledger, ("global",))
    rows = ledger.query(Filter(incident_id=incident), limit=200).rows
    ledger.close()
    by = [(row.action, row.user_id) for row in reversed(rows)]
    assert [who for action, who in by if action == "RECOVERY_ROOT_CAUSE"] == ["cyd", "bob"]
    assert [who for action, who in by if action == "RESET_REFUSED"] == ["dan", "ada"]
    assert [who for action, who in by if action == "CIRCUIT_BREAKER_RESET"] == ["cyd"]
    assert [action for action, _ in by].count("RECOVERY_ANSWER_REFUSED") == 1
    assert {who for action, who in by if action == "RECOVERY_ITEM_CONFIRMED"} == {"bob"}
