"""A scope decides what the console's kill switch shows, says and touches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker, State
from configuration.settings import load_settings
from console.auth.permissions import Role
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.conftest import MakeSettings
from tests.console.harness import REASON, Console
from tests.console.test_kills import KILL, QUICK
from tests.helpers import eventually
from tests.two_accounts import NOTHING, WITHOUT_AAPL, WITHOUT_MEANREV, Venues

BODY = {"reason": REASON, "acknowledge": True, "confirm": "FLATTEN"}


@pytest.fixture
def venues() -> Iterator[Venues]:
    with Venues() as running:
        yield running


@pytest.fixture
def console(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings, venues: Venues
) -> Iterator[Console]:
    CircuitBreaker(redis_client).initialize_state()
    with Console(make_settings(redis_server.url, accounts=venues.settings(), kill=QUICK)) as running:
        yield running


def test_the_form_of_an_account_speaks_of_that_account_alone(
    console: Console, venues: Venues, redis_client: redis.Redis
) -> None:
    operator, form = console.visitor(Role.OPERATOR), "/circuit-breaker/kill?scope=account%3AALPHA"
    eventually(lambda: "ALPHA: 3 positions" in operator.get(form).text)
    page = operator.get(form).text
    assert "Every order is cancelled and every position closed in ALPHA." in page
    assert "BETA" not in page
    run = operator.submit(form, KILL)
    assert run.url.path.startswith("/kill/"), run.text
    eventually(lambda: "RUNNING" not in operator.get(run.url.path).text, within=60)
    after = operator.get(run.url.path).text
    assert '<strong class="word">FLAT</strong><span class="meaning"><b>ALPHA</b>: ' in after
    assert "BETA" not in after
    assert venues.left("ALPHA") == NOTHING and venues.untouched("BETA")
    assert CircuitBreaker(redis_client, "account:ALPHA").get_state() is State.TRIPPED
    assert CircuitBreaker(redis_client).get_state() is State.OPEN


def test_the_page_of_an_account_shows_what_is_exposed_in_it_alone(console: Console) -> None:
    viewer = console.visitor(Role.VIEWER)

    def exposed(query: str) -> str:
        return viewer.get(f"/circuit-breaker{query}").text.partition("<h2>Exposed now")[2].partition("</section>")[0]

    eventually(lambda: "BETA: 3 positions" in exposed(""))
    alpha = exposed("?scope=account:alpha")
    assert alpha.startswith(' in ALPHA</h2><div class="live" data-topic="exposure:account:ALPHA">')
    assert "ALPHA: 3 positions" in alpha and "BETA" not in alpha
    for query in ("?scope=symbol:AAPL", "?scope=account:GAMMA", "?scope=desk:rates"):
        assert "ALPHA: 3 positions" in exposed(query) and "BETA: 3 positions" in exposed(query), query


def test_the_form_of_a_symbol_shows_what_there_is_of_it(console: Console) -> None:
    operator, form = console.visitor(Role.OPERATOR), "/circuit-breaker/kill?scope=symbol:AAPL"
    eventually(lambda: "ALPHA: 2 positions" in operator.get(form).text)
    page = operator.get(form).text
    assert "BETA: 2 positions" in page and "MSFT" not in page
    assert "Every order of AAPL and of the options on it is cancelled" in page


def test_the_api_touches_what_the_scope_covers_and_says_what_that_is(console: Console, venues: Venues) -> None:
    api = console.api(Role.OPERATOR)
    asked = api.post("/kill-switch", params={"scope": "symbol:AAPL"}, json={**BODY, "accounts": ["ALPHA"]}).json()
    assert asked["scope"] == "symbol:AAPL"
    where = f"/kill-switch/{asked['incident_id']}"
    eventually(lambda: api.get(where).json()["verdict"] == "FLAT", within=60)
    assert api.get(where).json()["covers"] == "AAPL and the options on it in ALPHA"
    assert venues.left("ALPHA") == WITHOUT_AAPL and venues.untouched("BETA")

    other = api.post("/kill-switch", params={"scope": "strategy:meanrev"}, json={**BODY, "accounts": ["BETA"]}).json()
    where = f"/kill-switch/{other['incident_id']}"
    eventually(lambda: api.get(where).json()["verdict"] == "NOT FLAT", within=60)
    assert venues.left("BETA") == WITHOUT_MEANREV


@pytest.mark.parametrize(
    ("scope", "accounts", "why"),
    [
        ("account:ALPHA", ["BETA"], "BETA is outside of the scope account:ALPHA"),
        ("account:GAMMA", None, "No account GAMMA is configured"),
        ("venue:alpaca", None, "can't tell what venue:alpaca covers"),
    ],
)
def test_what_would_widen_or_can_not_be_told_is_refused_with_nothing_done(
    console: Console, venues: Venues, redis_client: redis.Redis, scope: str, accounts: list[str] | None, why: str
) -> None:
    answer = console.api(Role.OPERATOR).post(
        "/kill-switch", params={"scope": scope}, json={**BODY, "accounts": accounts}
    )
    assert answer.status_code == 422 and why in answer.json()["detail"]
    assert CircuitBreaker(redis_client).get_state() is State.OPEN
    assert CircuitBreaker(redis_client, scope).get_state() is not State.TRIPPED
    assert venues.untouched("ALPHA") and venues.untouched("BETA")
    page = console.visitor(Role.OPERATOR).get("/circuit-breaker/kill", params={"scope": "venue:alpaca"})
    assert "tell what venue:alpaca covers" in page.text


def test_an_account_that_was_added_since_is_flattened_and_shown_as_one_that_this_console_does_not_read(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    venues: Venues,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    file = tmp_path / "breaker.toml"
    pace = "[kill]\nsettle = 0.2\nguard = 0.2\npoll_interval = 0.05\nrecord_wait = 0.1\norchestrator_wait = 0.5\n"
    file.write_text(
        f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path / "state"}"\n{pace}{venues.sections("ALPHA")}'
    )
    monkeypatch.setenv("BREAKER_CONFIG", str(file))
    with Console(load_settings()) as console:
        operator = console.visitor(Role.OPERATOR)
        assert "The configuration has changed" not in operator.get("/circuit-breaker").text
        with file.open("a") as more:
            more.write(venues.sections("BETA"))
        assert "The configuration has changed" in operator.get("/circuit-breaker").text
        form = "/circuit-breaker/kill"
        eventually(lambda: "ALPHA: 3 positions" in operator.get(form).text)
        page = operator.get(form).text
        assert "closed in ALPHA, BETA." in page and "BETA</td>" in page and "restart the console" in page
        run = operator.submit(form, KILL)
        eventually(lambda: "RUNNING" not in operator.get(run.url.path).text, within=60)
        assert 'class="word">FLAT</strong><span class="meaning"><b>ALPHA, BETA</b>' in operator.get(run.url.path).text
        assert venues.left("ALPHA") == venues.left("BETA") == NOTHING

        file.write_text("[accounts")
        broken = operator.submit("/circuit-breaker/kill?scope=symbol%3AAAPL", KILL)
        eventually(lambda: "RUNNING" not in operator.get(broken.url.path).text, within=60)
        after = operator.get(broken.url.path).text
        assert 'class="word">NOT FLAT</strong>' in after and "not valid TOML" in after
