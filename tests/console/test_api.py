"""The REST API: the same rules as the pages, problem details, idempotency, and an OpenAPI document that holds."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest
import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker, State
from console.actions.idempotency import IdempotencyKeys
from console.auth import tokens
from console.auth.permissions import PERMISSIONS, Permission, Role
from ledger.errors import LedgerUnavailable
from ledger.queries import Filter
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.harness import REASON, Console
from tests.helpers import eventually

TRIP = {"reason": REASON, "acknowledge": True}


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"] == f"/problems/{kind}"
    assert body["title"] and body["detail"]
    return body


@pytest.mark.usefixtures("no_orchestrator")
def test_trip_status_history_reset(console: Console, breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    api, manager = console.api(), console.api(Role.RISK_MANAGER)
    assert api.get("/circuit-breaker").json()["state"] == "OPEN"
    tripped = api.post("/circuit-breaker/trip", json=TRIP).json()
    assert (tripped["state"], tripped["trip_reason"], tripped["tripped_by"]) == ("TRIPPED", "MANUAL", "the_admin")
    body = {**TRIP, "expected_epoch": tripped["epoch"]}
    assert (
        "the_admin tripped"
        in problem(api.post("/circuit-breaker/reset", json=body), 409, "second-person-needed")["detail"]
    )
    reset = manager.post("/circuit-breaker/reset", json=body).json()
    assert reset["state"] == "QUIET_PERIOD"
    redis_client.zadd("circuit_breaker:history", {"mine": 1})
    found = api.get("/circuit-breaker/history").json()
    assert found["unreadable"] == [{"member": "b'mine'", "problem": "it is no JSON"}]
    events = found["events"]
    assert [event["transition"] for event in events] == ["RESET", "TRIP", "INITIALIZE"]
    assert events[0]["source"] == "api"


def test_a_missing_state_is_unknown_and_no_error(console: Console, redis_client: redis.Redis) -> None:
    answer = console.api().get("/circuit-breaker")
    assert answer.status_code == 200
    assert answer.json()["state"] == "UNKNOWN"
    assert "breaker init" in answer.json()["problem"]


def test_without_a_token_there_is_nothing(console: Console) -> None:
    for wrong in (None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer brk_0_0", "bearer brk_" + "0" * 300):
        headers = {} if wrong is None else {"Authorization": wrong}
        for path in ("/circuit-breaker", "/audit", "/health", "/events"):
            answer = httpx.get(f"{console.url}/api/v1{path}", headers=headers)
            problem(answer, 401, "token-needed")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_session_is_no_token(console: Console) -> None:
    problem(console.visitor(Role.ADMIN).get("/api/v1/circuit-breaker"), 401, "token-needed")


_NEEDS = [
    ("GET", "/circuit-breaker", Permission.VIEW_CIRCUIT, None),
    ("GET", "/circuit-breaker/history", Permission.VIEW_CIRCUIT, None),
    ("POST", "/circuit-breaker/trip", Permission.TRIP_CIRCUIT, TRIP),
    ("POST", "/circuit-breaker/reset", Permission.RESET_CIRCUIT, TRIP),
    ("POST", "/equity/transfers", Permission.RESET_CIRCUIT, {"amount": "5", "reason": REASON}),
    ("POST", "/kill-switch", Permission.KILL_SWITCH, {**TRIP, "confirm": "FLATTEN"}),
    ("GET", "/kill-switch/x", Permission.VIEW_CIRCUIT, None),
    ("GET", "/audit", Permission.VIEW_AUDIT, None),
    ("GET", "/health", Permission.VIEW_CIRCUIT, None),
    ("GET", "/events", Permission.VIEW_CIRCUIT, None),
]


@pytest.mark.parametrize("method, path, needed, body", _NEEDS)
def test_every_permission_is_needed(
    console: Console, breaker: CircuitBreaker, method: str, path: str, needed: Permission, body: object
) -> None:
    others = sorted(PERMISSIONS[Role.ADMIN] - {needed})
    body_of = {} if body is None else {"json": body}
    answer = console.api(Role.ADMIN, others).request(method, path, **body_of)  # type: ignore[arg-type]
    assert problem(answer, 403, "permission-denied")["permission"] == needed
    assert breaker.get_state() is State.OPEN
    (row,) = console.ledger.query(Filter(outcome="DENIED")).rows
    assert (row.source, row.user_id) == ("api", "the_admin")
    assert needed in str(row.details)


def test_a_body_that_cant_be_used_does_nothing(console: Console, breaker: CircuitBreaker) -> None:
    api = console.api()
    bodies: list[object] = [{}, {**TRIP, "acknowledge": False}, {**TRIP, "more": 1}, [], "x"]
    for body in bodies:
        problem(api.post("/circuit-breaker/trip", json=body), 422, "invalid-input")
    assert breaker.get_state() is State.OPEN


def test_a_short_reason_halts_and_resets_nothing(console: Console, breaker: CircuitBreaker) -> None:
    api, short = console.api(), {"reason": "wrong", "acknowledge": True}
    assert api.post("/circuit-breaker/trip", json=short).json()["state"] == "TRIPPED"
    problem(api.post("/circuit-breaker/reset", json=short), 422, "invalid-input")
    assert breaker.get_status().trip_details["reason"] == "wrong"


@pytest.mark.parametrize(
    ("reason", "kept"), [(" " * 40, "no reason given"), ("two\nlines", "two lines"), ("x" * 10_000, "x" * 500)]
)
def test_a_halt_never_fails_for_its_words(console: Console, breaker: CircuitBreaker, reason: str, kept: str) -> None:
    answer = console.api().post("/circuit-breaker/trip", json={**TRIP, "reason": reason})
    assert answer.json()["state"] == "TRIPPED"
    assert breaker.get_status().trip_details["reason"] == kept


@pytest.mark.usefixtures("no_orchestrator")
def test_refusals_say_which(console: Console, breaker: CircuitBreaker) -> None:
    api = console.api()
    problem(api.post("/circuit-breaker/reset", json=TRIP), 409, "not-tripped")
    breaker.trip("MANUAL")
    problem(api.post("/circuit-breaker/reset", json={**TRIP, "expected_epoch": 1}), 409, "state-conflict")
    api.post("/circuit-breaker/reset", json=TRIP)
    breaker.trip("MANUAL")
    limited = api.post("/circuit-breaker/reset", json=TRIP)
    assert 0 < problem(limited, 429, "reset-rate-limited")["retry_after"] <= 60
    assert 0 < int(limited.headers["retry-after"]) <= 61


@pytest.mark.usefixtures("no_orchestrator")
def test_red_conditions_are_listed(console: Console, breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    breaker.trip("MANUAL")
    redis_client.hset("circuit_breaker:equity", mapping={"equity": "90", "high_water": "100", "measured_at": 9e15})
    body = problem(console.api().post("/circuit-breaker/reset", json=TRIP), 409, "conditions-red")
    assert [found["name"] for found in body["conditions"]] == ["drawdown"]
    foreseen = "equity 90 is 10.00% below the high-water mark 100 (limit 5.0%): the next measurement below 95 trips"
    assert foreseen in console.api().get("/circuit-breaker").json()["equity_warning"]
    after = console.api().post("/circuit-breaker/reset", json={**TRIP, "override_reason": "the loss is booked by now"})
    assert after.json()["state"] == "QUIET_PERIOD"
    assert foreseen in after.json()["equity_warning"] and after.json()["equity_rebased"] is None


def test_the_same_key_does_it_once(console: Console, breaker: CircuitBreaker) -> None:
    api = console.api()
    for _ in range(3):
        answer = api.post("/circuit-breaker/trip", json=TRIP, headers={"Idempotency-Key": "k1"})
        assert answer.json()["state"] == "TRIPPED"
    assert breaker.get_status().trip_count_today == 1
    api.post("/circuit-breaker/trip", json=TRIP, headers={"Idempotency-Key": "k2"})
    api.post("/circuit-breaker/trip", json=TRIP)
    assert breaker.get_status().trip_count_today == 3


def test_a_key_belongs_to_one_request_and_one_caller(console: Console, breaker: CircuitBreaker) -> None:
    key = {"Idempotency-Key": "k1"}
    console.api().post("/circuit-breaker/trip", json=TRIP, headers=key)
    other = {**TRIP, "reason": "Something else altogether happened"}
    problem(console.api().post("/circuit-breaker/trip", json=other, headers=key), 422, "idempotency-key-reused")
    console.api(Role.OPERATOR).post("/circuit-breaker/trip", json=TRIP, headers=key)
    assert breaker.get_status().trip_count_today == 2


def test_without_the_database_a_token_that_is_known_halts_and_no_more(
    console: Console, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = console.api(), console.api(Role.OPERATOR)
    assert known.get("/circuit-breaker").status_code == 200

    def away(_: object) -> None:
        raise LedgerUnavailable("the database is away")

    monkeypatch.setattr(tokens, "reading", away)
    problem(unknown.post("/circuit-breaker/trip", json=TRIP), 503, "ledger-unavailable")
    assert breaker.get_state() is State.OPEN
    assert known.post("/circuit-breaker/trip", json=TRIP).json()["state"] == "TRIPPED"
    kill = known.post("/kill-switch", json={**TRIP, "confirm": "FLATTEN"})
    assert kill.status_code == 202 and known.get(f"/kill-switch/{kill.json()['incident_id']}").status_code == 200
    said = problem(known.post("/circuit-breaker/reset", json=TRIP), 403, "permission-denied")
    assert "can't be confirmed while the database is away" in said["detail"]
    assert breaker.get_state() is State.TRIPPED


async def test_every_console_knows_what_a_key_was_used_for(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    async with Redis.from_url(redis_server.url) as up, Redis.from_url(f"redis://127.0.0.1:{free_port()}") as away:
        assert await IdempotencyKeys(up).used_for_same("event", "trip")
        assert await IdempotencyKeys(up).used_for_same("event", "trip")
        assert not await IdempotencyKeys(up).used_for_same("event", "reset"), "another console"
        alone = IdempotencyKeys(away)
        assert await alone.used_for_same("event", "kill"), "a halt doesn't fail for want of Redis"
        assert not await alone.used_for_same("event", "trip")


def test_the_audit_log_has_pages_here_too(console: Console, breaker: CircuitBreaker) -> None:
    api = console.api()
    for _ in range(5):
        api.post("/circuit-breaker/trip", json=TRIP)
    eventually(lambda: len(console.ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows) == 5)
    seen: list[str] = []
    after: str | None = None
    while True:
        asked = {"action": "CIRCUIT_BREAKER_TRIP", "limit": "2"} | ({"after": after} if after else {})
        page = api.get("/audit", params=asked).json()
        seen += [row["id"] for row in page["rows"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 5
    problem(api.get("/audit", params={"after": "nonsense"}), 422, "invalid-input")


def test_what_isnt_there(console: Console) -> None:
    api = console.api()
    problem(api.get("/nothing"), 404, "not-found")
    problem(api.delete("/circuit-breaker"), 405, "method-not-allowed")
    problem(api.get("/kill-switch/unknown"), 404, "unknown-incident")


def test_events_tell_of_a_trip_from_elsewhere_at_once(console: Console, breaker: CircuitBreaker) -> None:
    heard: list[tuple[float, str]] = []
    api = console.api()

    def listen() -> None:
        with api.stream("GET", "/events", timeout=10) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    heard.append((time.monotonic(), json.loads(line[6:])["state"]))
                    if heard[-1][1] == "TRIPPED":
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    eventually(lambda: [state for _, state in heard][-1:] == ["OPEN"])
    tripped_at = time.monotonic()
    breaker.trip("MANUAL")
    thread.join(10)
    assert heard[-1][1] == "TRIPPED"
    assert heard[-1][0] - tripped_at < 2.0


def test_the_openapi_document_is_complete(console: Console) -> None:
    document = httpx.get(f"{console.url}/api/v1/openapi.json").json()
    assert document["servers"] == [{"url": "/api/v1"}]
    assert "Problem" in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            assert operation["security"], (method, path)
            for status in ("401", "403", "422", "503"):
                assert "application/problem+json" in operation["responses"][status]["content"]
    for name in ("TripRequest", "ResetRequest", "KillRequest"):
        assert document["components"]["schemas"][name]["properties"]["reason"]["examples"]
