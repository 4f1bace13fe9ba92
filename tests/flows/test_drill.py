"""The drill: it passes, it leaves production as it is, and a failure of it reaches people."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from configuration.settings import load_settings
from flows.drill import drill
from ledger.configured import open_ready_ledger
from ledger.queries import Filter
from ledger.record import AuditRow
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from sandbox.prefect_server import PrefectServer
from tasks.drill.environment import open_drill_environment
from tasks.drill.record import FINISHED, result_notification
from tasks.drill.result import DrillResult
from tasks.notification import NotificationKind
from tests.tasks.web import Answer, Web

ROOT = Path(__file__).parents[2]
PACE = "[kill]\nsettle = 0.1\nguard = 0.2\npoll_interval = 0.05\n"
SIZE = "[drill]\norders = 20\npositions = 6\nwatch = 1\n"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def live() -> Iterator[PaperExchangeThread]:
    """Production's venue, with a book that no drill may touch."""
    with PaperExchangeThread(parse("[book]\norders = 5\npositions = 3\n")) as exchange:
        yield exchange


@pytest.fixture
def configure(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    live: PaperExchangeThread,
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Production, with one account in the file and another in the environment."""
    CircuitBreaker(redis_client).initialize_state(by="test")
    path = tmp_path / "breaker.toml"
    for name in [name for name in os.environ if name.startswith("BREAKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BREAKER_CONFIG", str(path))
    for name, value in {"BASE_URL": live.url, "KEY_ID": "key", "SECRET_KEY": "secret"}.items():
        monkeypatch.setenv(f"BREAKER_ACCOUNTS__PAPER__{name}", value)

    def write(more: str) -> None:
        path.write_text(
            f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path / "state"}"\n{more}{SIZE}'
            f'[accounts.LIVE]\nbase_url = "{live.url}"\nkey_id = "key"\nsecret_key = "secret"\n'
            f'[notifications]\nslack = "{web.url}/hook"\ntimeout = 2\n'
        )

    return write


def drills_on_record() -> list[AuditRow]:
    ledger = open_ready_ledger(load_settings())
    try:
        rows = ledger.query(Filter(), limit=100).rows
    finally:
        ledger.close()
    assert {row.action for row in rows} == {FINISHED}, "a drill puts one row on record, and no trip or reset of its own"
    return list(rows)


def on_file(state_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((state_dir / "drills").glob("*.json"))]


def test_a_drills_world_holds_nothing_of_production(configure: Any, live: PaperExchangeThread) -> None:
    configure(PACE)
    production = load_settings()
    assert set(production.accounts) == {"PAPER", "LIVE"}
    with open_drill_environment(production) as world:
        assert [account.base_url for account in world.settings.accounts.values()] == [world.exchange.url]
        assert world.exchange.url != live.url
        assert world.settings.redis_url != production.redis_url
        assert world.settings.state_dir != production.state_dir
        assert not world.settings.notifications.any_channel
        home = world.settings.state_dir.parent
    assert not home.exists()


async def test_a_drill_passes_files_its_figures_and_leaves_production_alone(
    configure: Any, prefect: PrefectServer, live: PaperExchangeThread, redis_client: redis.Redis, web: Web
) -> None:
    configure(PACE)
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    requests = sum(live.report()["requests"].values())
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        state = await drill(return_state=True)
    assert (state.is_completed(), state.message) == (True, "PASSED")

    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
    assert sum(live.report()["requests"].values()) == requests
    assert (live.report()["open_orders"], len(live.report()["positions"])) == (5, 3)
    assert web.asked == [], "people are told of failures"

    [row] = drills_on_record()
    assert (row.outcome, row.details["passed"], row.details["violations"]) == ("OK", True, 0)
    assert 0 < row.details["halted_after"] < row.details["flat_after"]
    assert row.details["recovery_after"] > 1, "the watch alone takes a second"
    [kept] = on_file(load_settings().state_dir)
    assert kept["drill_id"] == row.id and kept["flat_after"] == row.details["flat_after"]
    query = {"artifacts": {"key": {"any_": ["drill-report"]}}}
    [artifact] = httpx.post(f"{prefect.api_url}/artifacts/filter", json=query, timeout=10).json()
    assert artifact["data"].startswith("# Drill: passed")
    assert kept["cost"].startswith("slippage ") and f"| the exit cost | {kept['cost']} |" in artifact["data"]
    assert row.flow_run_id == artifact["flow_run_id"]


def test_a_drill_that_fails_says_so_everywhere(configure: Any, web: Web, fork_server: ForkServer) -> None:
    configure(f"{PACE}deadline = 0.01\n")
    # As `python -m cli`, but that nobody waits long for a book to become flat that will not.
    cli = "from tasks.drill import environment; environment.CONDITIONS_WITHIN = 2.0; from cli import main; main()"
    outcome = fork_server.run("-c", cli, "drill", "--json", "--operator", "ada", env=os.environ, cwd=ROOT, timeout=60)
    assert outcome.returncode == 1, outcome.stderr
    said = json.loads(outcome.stdout)
    assert not said["passed"]
    assert said["problems"][0].startswith("the kill switch did not prove the book flat")

    [row] = drills_on_record()
    assert (row.outcome, row.user_id, row.source) == ("FAILED", "ada", "cli")
    assert on_file(load_settings().state_dir) == [said]
    [told] = web.asked
    assert "The kill switch drill failed" in told.json["text"]
    assert said["problems"][0][:40] in str(told.json)


def test_people_are_told_of_each_failure_and_of_the_first_success_after_one() -> None:
    passed, failed = DrillResult(1, 1), DrillResult(1, 1, problems=("not recovered: it took too long",))
    assert result_notification(passed, None) is None
    assert result_notification(passed, passed) is None
    for before in (None, passed, failed):
        note = result_notification(failed, before)
        assert note is not None
        assert (note.kind, note.severity, note.body) == (NotificationKind.DRILL_FAILED, "critical", failed.problems[0])
    again = result_notification(passed, failed)
    assert again is not None and again.kind is NotificationKind.DRILL_PASSED


def test_a_result_is_read_back_as_it_was_filed() -> None:
    result = DrillResult(20, 6, halted_after=0.003, violations=0, cost="slippage 1.00 USD", problems=("one", "two"))
    assert DrillResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result
    filed_before = {name: value for name, value in result.as_dict().items() if name != "cost"}
    assert dict(DrillResult.from_dict(filed_before).rows())["the exit cost"] == "—"
