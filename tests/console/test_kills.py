"""The kill switch from the console, against a real exchange."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker, State
from breaker.keys import ASKED_KILLS
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings
from console.auth.permissions import Role
from ledger.queries import Filter
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill.run import KillRun
from tests.console.conftest import MakeSettings
from tests.console.harness import REASON, Console
from tests.helpers import eventually

KILL = {"reason": REASON, "acknowledge": "yes", "confirm": "FLATTEN"}
QUICK = KillSettings(settle=0.2, guard=0.2, poll_interval=0.05, record_wait=0.1, orchestrator_wait=0.5)


def account(exchange: PaperExchangeThread) -> AccountSettings:
    return AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse("seed = 3\n[book]\norders = 20\npositions = 6\n")) as running:
        yield running


@pytest.fixture
def console(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings, exchange: PaperExchangeThread
) -> Iterator[Console]:
    CircuitBreaker(redis_client).initialize_state()
    settings = make_settings(redis_server.url, accounts={"ALPHA": account(exchange)}, kill=QUICK)
    with Console(settings) as running:
        yield running


def test_the_kill_switch_flattens_and_says_so(
    console: Console, exchange: PaperExchangeThread, redis_client: redis.Redis
) -> None:
    operator = console.visitor(Role.OPERATOR)
    eventually(lambda: "ALPHA: 6 positions" in operator.get("/circuit-breaker/kill").text)
    page = operator.submit("/circuit-breaker/kill", KILL)
    assert page.url.path.startswith("/kill/")
    assert CircuitBreaker(redis_client).get_state() is State.TRIPPED, "halted before the page comes"
    eventually(lambda: "RUNNING" not in operator.get(page.url.path).text, within=60)
    after = operator.get(page.url.path).text
    assert '<strong class="word">FLAT</strong>' in after
    report = exchange.report()
    assert report["is_flat"] and not report["violations"]
    incident = page.url.path.split("/")[-1]
    wanted = Filter(
        actions=("KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED", "CIRCUIT_BREAKER_TRIP"), incident_id=incident
    )
    eventually(lambda: len(console.ledger.query(wanted).rows) == 3)
    assert {row.user_id for row in console.ledger.query(wanted).rows} == {"the_operator"}
    told = eventually(lambda: console.api(Role.OPERATOR).get(f"/kill-switch/{incident}").json()["costs"])
    assert [(cost["account"], cost["closed"], cost["priced"]) for cost in told] == [("ALPHA", 6, 6)]
    page_of_run = operator.get(page.url.path).text
    assert "What the exit cost" in page_of_run and "Slippage 0.00 USD (0.0 bp of " in page_of_run


def test_a_second_start_joins_the_run(
    console: Console, exchange: PaperExchangeThread, redis_client: redis.Redis
) -> None:
    api = console.api(Role.OPERATOR)
    body = {"reason": REASON, "acknowledge": True, "confirm": "FLATTEN"}
    first = api.post("/kill-switch", json=body)
    assert first.status_code == 202
    second = api.post("/kill-switch", json=body).json()
    incident = first.json()["incident_id"]
    assert second["incident_id"] == incident
    assert first.headers["location"] == f"/api/v1/kill-switch/{incident}"
    eventually(lambda: api.get(f"/kill-switch/{incident}").json()["verdict"] == "FLAT", within=60)
    started = Filter(actions=("KILL_SWITCH_STARTED",))
    eventually(lambda: len(console.ledger.query(started).rows) >= 1)
    assert len(console.ledger.query(started).rows) == 1
    assert exchange.report()["is_flat"]
    assert redis_client.hlen(ASKED_KILLS) == 0, "no standby looks for a second run"


def test_of_a_run_that_is_over_only_its_status_stays_in_memory(console: Console) -> None:
    api = console.api(Role.OPERATOR)
    body = {"reason": REASON, "acknowledge": True, "confirm": "FLATTEN"}
    incident = api.post("/kill-switch", json=body).json()["incident_id"]

    def runs() -> int:
        gc.collect()
        return sum(type(kept) is KillRun and kept.incident_id == incident for kept in gc.get_objects())

    eventually(lambda: runs() == 1)
    eventually(lambda: runs() == 0, within=60, every=0.5)  # each look costs as much as the run itself
    said = api.get(f"/kill-switch/{incident}").json()
    assert (said["verdict"], said["accounts"][0]["positions_at_start"]) == ("FLAT", 6)


@pytest.mark.parametrize("typed", ["", "flatten", "KILL", "FLATTEN it"])
def test_without_the_word_nothing_happens(
    console: Console, exchange: PaperExchangeThread, redis_client: redis.Redis, typed: str
) -> None:
    answer = console.visitor(Role.OPERATOR).submit("/circuit-breaker/kill", {**KILL, "confirm": typed})
    assert answer.status_code == 422
    assert CircuitBreaker(redis_client).get_state() is State.OPEN
    assert exchange.report()["open_orders"] == 20


def test_without_an_account_it_halts_and_says_that_nothing_was_closed(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings
) -> None:
    with Console(make_settings(redis_server.url)) as console:
        page = console.visitor(Role.OPERATOR).submit("/circuit-breaker/kill", KILL)
        assert CircuitBreaker(redis_client).get_state() is State.TRIPPED
        assert "NOT FLAT" in console.visitor(Role.OPERATOR).get(page.url.path).text
        assert "No account is configured" in console.visitor(Role.OPERATOR).get(page.url.path).text


def test_promise_5_with_redis_away_the_book_is_closed_and_the_trip_made_when_it_is_back(
    own_server: EmbeddedRedis, make_settings: MakeSettings, exchange: PaperExchangeThread
) -> None:
    breaker = CircuitBreaker(redis.Redis.from_url(own_server.url))
    breaker.initialize_state()
    settings = make_settings(own_server.url, redis_timeout=0.3, accounts={"ALPHA": account(exchange)}, kill=QUICK)
    with Console(settings) as console:
        operator = console.visitor(Role.OPERATOR)
        own_server.stop()
        page = operator.submit("/circuit-breaker/kill", KILL)
        assert "Not halted" in operator.get(page.url.path).text and "<b>pending</b>" in page.text
        eventually(lambda: exchange.report()["is_flat"], within=60)
        eventually(lambda: "RUNNING" not in operator.get(page.url.path).text, within=60)
        assert "Not halted" in operator.get(page.url.path).text

        own_server.start()
        eventually(lambda: breaker.get_state() is State.TRIPPED)
        eventually(lambda: "<b>pending</b>" not in operator.get("/circuit-breaker").text)
        trips = [event for event in breaker.get_history() if event.transition == "TRIP"]
        assert [(event.incident_id, event.by) for event in trips] == [(page.url.path.split("/")[-1], "the_operator")]


def test_only_the_accounts_that_are_named_are_flattened(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings, exchange: PaperExchangeThread
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    elsewhere = AccountSettings(
        base_url=f"http://127.0.0.1:{free_port()}", key_id=SecretStr("key"), secret_key=SecretStr("secret")
    )
    accounts = {"ALPHA": account(exchange), "BETA": elsewhere}
    with Console(make_settings(redis_server.url, accounts=accounts, kill=QUICK)) as console:
        api, body = console.api(Role.OPERATOR), {"reason": "wrong", "acknowledge": True, "confirm": "FLATTEN"}
        unknown = api.post("/kill-switch", json={**body, "accounts": ["alpha", "gamma"]})
        assert unknown.status_code == 422 and "GAMMA" in unknown.json()["detail"]
        assert CircuitBreaker(redis_client).get_state() is State.OPEN, "not even halted"
        incident = api.post("/kill-switch", json={**body, "accounts": ["alpha"]}).json()["incident_id"]
        eventually(lambda: api.get(f"/kill-switch/{incident}").json()["verdict"] == "FLAT", within=60)
        assert [found["account"] for found in api.get(f"/kill-switch/{incident}").json()["accounts"]] == ["ALPHA"]
