"""The Recovery page and API: what a recovery waits for, who may answer it, and what the flow is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker
from breaker.rules import Rules
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from console.auth.permissions import Permission, Role
from ledger.queries import Filter
from services.exporter.exporter import Exporter
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.attestation import attested_permissions
from tasks.recovery.evidence_store import evidence_key
from tasks.recovery.state import ItemState, Tick
from tests.console.harness import Console
from tests.console.suspended_run import FLOW_RUN, SuspendedRun, put, waiting_for
from tests.helpers import eventually
from tests.services.exporter.test_metrics import parse

CAUSE = {
    "category": "data",
    "root_cause": "the quote feed went stale after its failover",
    "corrective_action": "feed pinned to its primary, alarm added",
}
REASON = "feed pinned, data checked, book is flat"
APPROVAL = {"reason": REASON, "acknowledge": "yes"}


@pytest.fixture
def run() -> Iterator[SuspendedRun]:
    with SuspendedRun() as made:
        yield made


@pytest.fixture
def console(run: SuspendedRun, console: Console) -> Console:
    """A console that knows the orchestrator."""
    return console


@pytest.fixture
def incident(redis_client: redis.Redis) -> str:
    """A breaker that ada has tripped."""
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    return str(breaker.trip("MANUAL", tripped_by="ada").incident_id)


async def permissions_told(console: Console, question: str, answer: RootCause | Approval) -> tuple[str, ...]:
    async with Redis.from_url(console.settings.redis_url.get_secret_value()) as client:
        return await attested_permissions(client, FLOW_RUN, question, answer)


def outcomes(console: Console, action: str) -> list[tuple[str | None, str | None, str]]:
    rows = console.ledger.query(Filter(actions=(action,))).rows
    return [(row.user_id, row.ip_address, row.source) for row in rows]


async def test_a_root_cause_is_signed_by_who_is_signed_in(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "root-cause", incident)
    manager = console.visitor(Role.RISK_MANAGER)
    page = manager.get("/recovery").text
    assert "ROOT CAUSE NEEDED" in page and "Review trip reason and details" in page and "pending" in page
    assert f"{run.api_url.removesuffix('/api')}/runs/flow-run/{FLOW_RUN}" in page
    after = manager.submit("/recovery/answer", {**CAUSE, "author": "somebody else"})
    assert after.url.path == "/recovery" and "Answered" in after.text
    assert run.answers == [{"author": "the_risk_manager", **CAUSE}]
    answer = RootCause(author="the_risk_manager", **CAUSE)
    assert "APPROVE_RECOVERY" in await permissions_told(console, "root-cause-1-1", answer)
    assert outcomes(console, "RECOVERY_ANSWERED") == [("the_risk_manager", "127.0.0.1", "console")]


def test_the_evidence_is_there_before_the_root_cause_is_asked(
    console: Console, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "root-cause", incident)
    manager = console.visitor(Role.RISK_MANAGER)
    assert "Evidence gathered" not in manager.get("/recovery").text
    redis_client.set(evidence_key(incident), "### Trip\n\n<script>alert(1)</script> by ada \x1b[2J")
    for page in (manager.get("/recovery").text, manager.get("/recovery/answer").text):
        assert "Evidence gathered" in page and "&lt;script&gt;alert(1)&lt;/script&gt; by ada" in page
        assert "<script>alert" not in page and "\x1b" not in page
    assert "Evidence gathered" not in console.visitor(Role.VIEWER).get("/recovery").text, "it has rows of the audit log"
    redis_client.delete(evidence_key(incident))
    redis_client.hset(evidence_key(incident), "a", "hash")
    assert "The recovery can&#39;t be read in Redis" in manager.get("/recovery").text


async def test_an_approval_is_vouched_for(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "approval", incident)
    manager = console.visitor(Role.RISK_MANAGER)
    form = manager.get("/recovery/answer").text
    assert "Everything is measured once more" in form and "by <b>bob</b>" in form and "yellow" in form
    manager.submit("/recovery/answer", APPROVAL)
    assert [(answer["approver"], answer["reason"]) for answer in run.answers] == [("the_risk_manager", REASON)]
    answer = Approval("the_risk_manager", REASON, acknowledge=True)
    assert "RESET_CIRCUIT" in await permissions_told(console, "approval-1-1", answer)


@pytest.mark.parametrize("form, fields", [("root-cause", CAUSE), ("approval", APPROVAL)])
def test_without_the_permission_nothing_is_taken(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str, form: str, fields: dict[str, str]
) -> None:
    waiting_for(redis_client, form, incident)
    operator = console.visitor(Role.OPERATOR)
    assert operator.get("/recovery").status_code == 200
    assert operator.get("/recovery/answer").status_code == 403
    csrf = operator.get("/recovery").text.split('name="csrf" value="')[1].split('"')[0]
    sent = operator.post("/recovery/answer", data={**fields, "form": form, "question": f"{form}-1-1", "csrf": csrf})
    assert sent.status_code == 403
    assert run.answers == []
    assert len(outcomes(console, "PERMISSION_DENIED")) == 2


@pytest.mark.parametrize(
    ("changes", "fields", "says"),
    [
        ({}, {"reason": "fine"}, "at least 20"),
        ({}, {"acknowledge": "no"}, "not acknowledged"),
        ({}, {"reason": "x" * 1_001}, "at most 1000"),
        ({"author": "the_risk_manager"}, {}, "somebody else must approve"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_stays_typed(
    console: Console,
    run: SuspendedRun,
    redis_client: redis.Redis,
    incident: str,
    changes: dict[str, str],
    fields: dict[str, str],
    says: str,
) -> None:
    waiting_for(redis_client, "approval", incident, **changes)
    sent = console.visitor(Role.RISK_MANAGER).submit("/recovery/answer", {**APPROVAL, **fields})
    assert sent.status_code == 422
    assert says in sent.text
    assert fields.get("reason", REASON) in sent.text
    assert run.answers == []
    assert outcomes(console, "RECOVERY_ANSWER_REFUSED") == [("the_risk_manager", "127.0.0.1", "console")]


def test_red_needs_an_override_with_its_own_reason(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "approval", incident)
    rules = Rules(redis_client)
    rules.record_equity("100")
    rules.record_equity("90")
    manager = console.visitor(Role.RISK_MANAGER)
    refused = manager.submit("/recovery/answer", APPROVAL)
    assert refused.status_code == 422 and "drawdown is 10" in refused.text
    why = "the loss is booked and the limit will be raised"
    assert "the next measurement below 95 trips again" in manager.get("/recovery/answer").text
    manager.submit("/recovery/answer", {**APPROVAL, "override_reason": why, "rebase_equity": "yes"})
    assert [(answer["override_reason"], answer["rebase_equity"]) for answer in run.answers] == [(why, True)]


def test_what_was_looked_at_is_what_is_answered(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "approval", incident)
    manager = console.visitor(Role.RISK_MANAGER)
    manager.get("/recovery/answer")
    csrf = manager.get("/recovery").text.split('name="csrf" value="')[1].split('"')[0]
    waiting_for(redis_client, "approval", incident, question="approval-2-1", round=2)
    form = {**APPROVAL, "form": "approval", "question": "approval-1-1", "csrf": csrf}
    sent = manager.post("/recovery/answer", data=form)
    assert sent.status_code == 409 and "something else by now" in sent.text
    assert run.answers == []


async def test_a_run_that_takes_no_answer_leaves_no_voucher(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "root-cause", incident)
    run.paused = False
    sent = console.visitor(Role.RISK_MANAGER).submit("/recovery/answer", CAUSE)
    assert sent.status_code == 409 and "does not wait for an answer now" in sent.text
    answer = RootCause(author="the_risk_manager", **CAUSE)
    assert await permissions_told(console, "root-cause-1-1", answer) == ()


def test_a_hung_orchestrator_does_not_keep_anybody_from_tripping(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "root-cause", incident)
    manager, operator = console.visitor(Role.RISK_MANAGER), console.visitor(Role.OPERATOR)
    trips = CircuitBreaker(redis_client).get_status().trip_count_today or 0
    with ThreadPoolExecutor(8) as people, run.hanging():
        answers = [people.submit(manager.submit, "/recovery/answer", CAUSE) for _ in range(8)]
        eventually(lambda: run.asked > 1)
        operator.submit("/circuit-breaker/trip", {"reason": REASON, "acknowledge": "yes"})
        assert CircuitBreaker(redis_client).get_status().trip_count_today == trips + 1
        assert not all(answer.done() for answer in answers), "the trip was made when nothing hung any more"


def test_markup_in_evidence_and_report_is_text(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    state = waiting_for(redis_client, "approval", incident, problem="<script>alert(1)</script>")
    evil = ItemState(Tick.RED, "not a time", "<b>eve</b>", "<img src=x onerror=alert(1)>")
    put(redis_client, replace(state, items={**state.items, "logs": evil}, report_path="/etc/passwd"))
    manager = console.visitor(Role.RISK_MANAGER)
    assert manager.get(f"/incidents/{incident}").status_code == 404, (
        "where Redis says that it is, is not where it is read"
    )
    folder = console.settings.state_dir / "incidents" / incident
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("# Incident\n\n<script>alert(1)</script>", encoding="utf-8")
    for path in ("/recovery", "/recovery/answer", f"/incidents/{incident}"):
        page = manager.get(path).text
        assert "<script>alert" not in page and "<img" not in page and "<b>eve" not in page
        assert "&lt;script&gt;" in page
    assert "<h1>Incident</h1>" in manager.get(f"/incidents/{incident}").text


@pytest.mark.parametrize("incident_id", ["../../../etc", "..", "no-uuid", ""])
def test_an_incident_that_is_no_id_has_no_report(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident_id: str
) -> None:
    waiting_for(redis_client, "approval", incident_id)
    (console.settings.state_dir / "incidents" / incident_id).mkdir(parents=True, exist_ok=True)
    assert console.visitor(Role.RISK_MANAGER).get(f"/incidents/{quote(incident_id, safe='')}x").status_code == 404


def test_nothing_waits(console: Console, redis_client: redis.Redis) -> None:
    manager = console.visitor(Role.RISK_MANAGER)
    assert "No recovery is on record" in manager.get("/recovery").text
    assert manager.get("/recovery/answer").status_code == 409
    with console.api(Role.RISK_MANAGER) as api:
        assert api.get("/recovery").json()["type"] == "/problems/no-recovery"
        answer = api.post("/recovery/answer", json={"form": "root-cause", **CAUSE})
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/nothing-asked")


def test_a_program_reads_and_answers(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "approval", incident)
    with console.api(Role.RISK_MANAGER) as api:
        found = api.get("/recovery").json()
        assert (found["incident_id"], found["waiting_for"], len(found["items"])) == (incident, "approval", 18)
        body = {"form": "approval", "reason": REASON, "acknowledge": True, "question": found["question"]}
        short = api.post("/recovery/answer", json={**body, "reason": "fine"})
        blank = api.post("/recovery/answer", json={**body, "reason": "fine" + " " * 30})
        stale = api.post("/recovery/answer", json={**body, "question": "approval-1-9"})
        odd = api.post("/recovery/answer", json={**body, "reason": REASON + "\0"})
        taken = api.post("/recovery/answer", json=body)
    kinds = [answer.json()["type"].rpartition("/")[2] for answer in (short, blank, stale, odd)]
    assert kinds == ["invalid-input", "answer-refused", "nothing-asked", "invalid-input"]
    assert taken.status_code == 202, taken.text
    assert [answer["approver"] for answer in run.answers] == ["the_risk_manager"]


def test_a_token_answers_only_with_its_own_permissions(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    waiting_for(redis_client, "root-cause", incident)
    with console.api(Role.RISK_MANAGER, [Permission.VIEW_CIRCUIT, Permission.RESET_CIRCUIT]) as api:
        answer = api.post("/recovery/answer", json={"form": "root-cause", **CAUSE})
    assert (answer.status_code, answer.json()["permission"]) == (403, "APPROVE_RECOVERY")
    assert run.answers == []


def test_how_long_it_waits_is_exported(settings: Settings, redis_client: redis.Redis, tmp_path: Path) -> None:
    CircuitBreaker(redis_client).initialize_state()
    exporter = Exporter(settings)

    def waited() -> float | None:
        return parse(exporter.scrape().decode()).get(("cb_recovery_waiting_seconds", "global"))

    try:
        assert waited() == 0
        since = (datetime.now(UTC) - timedelta(minutes=20)).isoformat()
        state = waiting_for(redis_client, "approval", uuid7(), waiting_since=since)
        assert 1_200 <= (waited() or 0) < 1_230
        put(redis_client, replace(state, waiting_for="", waiting_since=""))
        assert waited() == 0
        redis_client.set("circuit_breaker:recovery", "no json")
        assert waited() is None
    finally:
        exporter.close()


def test_a_tick_is_on_the_page_within_a_second(
    console: Console, run: SuspendedRun, redis_client: redis.Redis, incident: str
) -> None:
    state = waiting_for(redis_client, "root-cause", incident)
    viewer = console.visitor(Role.VIEWER)
    viewer.get("/recovery")
    heard: list[str] = []
    with viewer.stream("GET", "/events?topics=recovery:global", timeout=5) as stream:
        lines = stream.iter_lines()
        eventually(lambda: "ROOT CAUSE NEEDED" in next(lines))
        put(redis_client, replace(state, waiting_for="", phase="measuring conditions"))
        eventually(lambda: heard.append(next(lines)) or "measuring conditions" in heard[-1])  # type: ignore[func-returns-value]
