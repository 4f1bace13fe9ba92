"""Money moved in or out is told in the console and by the API as on the command line: by permission, and on record."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.redis_time import to_datetime
from breaker.rules import Rules, Verdict
from console.auth.permissions import Permission, Role
from ledger.queries import Filter
from ledger.record import AuditRow
from tests.console.harness import Console
from tests.console.test_api import problem

WHY = "250k moved to the custodian, confirmed by them"
BODY: dict[str, Any] = {"amount": "-250000", "reason": WHY}
FORM = {"amount": "-250000", "reason": WHY, "acknowledge": "yes"}
TRANSFERS = "circuit_breaker:transfers"

pytestmark = pytest.mark.usefixtures("no_orchestrator")


@pytest.fixture
def rules(redis_client: redis.Redis) -> Rules:
    """Of an account whose withdrawal nobody has told yet, and that is not read since."""
    CircuitBreaker(redis_client).initialize_state()
    made = Rules(redis_client)
    made.record_equity(1_000_000, currency="USD")
    return made


def recorded(console: Console, *actions: str) -> list[AuditRow]:
    return list(console.ledger.query(Filter(actions=actions)).rows)


def test_the_api_tells_a_transfer_once(console: Console, rules: Rules) -> None:
    api = console.api(Role.RISK_MANAGER)
    body = {**BODY, "transfer_id": "W-7"}
    told = api.post("/equity/transfers", json=body).json()
    assert (told["scope"], told["amount"], told["transfer_id"]) == ("global", "-250000", "W-7")
    assert (told["effect"], told["beyond"]) == ("waits for the first reading that has it", None)
    assert api.post("/equity/transfers", json=body).json()["effect"] == "counted already"
    assert rules.record_equity(750_000).verdict is Verdict.WITHIN
    row = recorded(console, "EQUITY_TRANSFERRED")[-1]
    assert (row.user_id, row.source, row.ip_address) == ("the_risk_manager", "api", "127.0.0.1")
    assert (row.details["amount"], row.details["reason"]) == ("-250000", WHY)


def test_a_request_that_is_repeated_by_its_key_counts_once(
    console: Console, rules: Rules, redis_client: redis.Redis
) -> None:
    api = console.api(Role.RISK_MANAGER)
    first, again = (
        api.post("/equity/transfers", json=BODY, headers={"Idempotency-Key": "W-7"}).json() for _ in range(2)
    )
    assert first["transfer_id"] == again["transfer_id"] and again["effect"] == "counted already"
    assert redis_client.hlen(TRANSFERS) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"amount": "0"}, "is no amount"),
        ({"amount": "much"}, "amount"),
        ({"at": "0026-11-30T00:00:00Z"}, "is no time at which money was moved"),
        ({"reason": "short"}, "reason"),
    ],
)
def test_what_cannot_be_moved_is_refused(
    console: Console, rules: Rules, redis_client: redis.Redis, changed: dict[str, str], says: str
) -> None:
    answer = console.api(Role.RISK_MANAGER).post("/equity/transfers", json={**BODY, **changed})
    assert says in problem(answer, 422, "invalid-input")["detail"]
    assert not redis_client.exists(TRANSFERS)


def test_it_takes_what_a_reset_takes(console: Console, rules: Rules, redis_client: redis.Redis) -> None:
    refused = problem(console.api(Role.OPERATOR).post("/equity/transfers", json=BODY), 403, "permission-denied")
    assert refused["permission"] == Permission.RESET_CIRCUIT
    page = console.visitor(Role.OPERATOR).get("/circuit-breaker")
    assert "Money moved in or out" not in page.text
    console.api().post("/circuit-breaker/trip", json={"reason": WHY, "acknowledge": True})
    own = problem(console.api().post("/equity/transfers", json=BODY), 409, "second-person-needed")
    assert "the_admin tripped the breaker" in own["detail"]
    assert not redis_client.exists(TRANSFERS)
    assert [row.outcome for row in recorded(console, "EQUITY_TRANSFER_REFUSED")] == ["DENIED", "DENIED"]


def test_a_scope_that_nothing_names_is_refused(console: Console, rules: Rules, redis_client: redis.Redis) -> None:
    manager = console.api(Role.RISK_MANAGER)
    refused = manager.post("/equity/transfers?scope=account:UNKNOWN", json=BODY)
    assert "no account of the name UNKNOWN is configured" in problem(refused, 422, "invalid-input")["detail"]
    visitor = console.visitor(Role.RISK_MANAGER)
    page = visitor.submit("/circuit-breaker/transfer?scope=account%3AUNKNOWN", FORM)
    assert page.status_code == 422 and "No equity of account:UNKNOWN is recorded" in page.text
    assert not redis_client.keys(f"{TRANSFERS}*")


def test_the_form_tells_a_transfer_and_sent_twice_counts_once(
    console: Console, rules: Rules, redis_client: redis.Redis
) -> None:
    manager = console.visitor(Role.RISK_MANAGER)
    assert "Money moved in or out" in manager.get("/circuit-breaker").text
    form = manager.get("/circuit-breaker/transfer")
    assert "1,000,000.00 USD" in form.text
    after = manager.submit("/circuit-breaker/transfer", FORM)
    assert after.url.path == "/circuit-breaker" and "Recorded." in after.text
    name = str(recorded(console, "EQUITY_TRANSFERRED")[-1].details["transfer_id"])
    assert name.startswith("by hand ") and redis_client.hexists(TRANSFERS, name)
    fields = {**FORM, "event_id": name.removeprefix("by hand ")}
    manager.submit("/circuit-breaker/transfer", fields)
    assert redis_client.hlen(TRANSFERS) == 1
    assert recorded(console, "EQUITY_TRANSFERRED")[-1].source == "console"
    assert rules.record_equity(750_000).verdict is Verdict.WITHIN


def test_the_form_says_what_is_wrong_and_keeps_what_was_typed(
    console: Console, rules: Rules, redis_client: redis.Redis
) -> None:
    manager = console.visitor(Role.RISK_MANAGER)
    wrong = manager.submit("/circuit-breaker/transfer", {**FORM, "at": "yesterday"})
    assert wrong.status_code == 422 and "is no time" in wrong.text and 'value="-250000"' in wrong.text
    unread = manager.submit("/circuit-breaker/transfer", {**FORM, "acknowledge": ""})
    assert unread.status_code == 422
    assert not redis_client.exists(TRANSFERS)


def test_a_transfer_that_shows_a_loss_trips_and_says_so(console: Console, redis_client: redis.Redis) -> None:
    CircuitBreaker(redis_client).initialize_state()
    rules = Rules(redis_client)
    rules.record_equity(100_000)
    rules.record_equity(104_000)
    at = to_datetime(int(redis_client.hget("circuit_breaker:equity", "measured_at") or 0)).isoformat()
    api = console.api(Role.RISK_MANAGER)
    told = api.post("/equity/transfers", json={**BODY, "amount": "10000", "at": at}).json()
    assert told["beyond"] is not None and "from the high-water mark" in told["beyond"]
    assert CircuitBreaker(redis_client).is_tripped()
