"""What an exit cost is read once a run, after its result was announced, whatever becomes of Prefect meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows import kill_switch
from flows.kill_context import open_kill_run
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tasks.kill import steps
from tasks.kill.report import KillReport

BOOK = "[book]\norders = 3\npositions = 2\n[fills]\nslippage_bp = 10\n"


@pytest.fixture
def settings(redis_server: EmbeddedRedis, paper: PaperExchange, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": redis_server.url,
            "state_dir": tmp_path / "state",
            "accounts": {"PAPER": {"base_url": paper.url, "key_id": "key", "secret_key": "secret"}},
            "kill": {"poll_interval": 0.05, "settle": 0.1, "guard": 0, "stuck_after": 8, "record_wait": 0.5},
        }
    )


async def kill(settings: Settings, api: str) -> tuple[list[KillReport], list[str]]:
    """The report as announced, and again with the cost; and the actions on record."""
    told: list[KillReport] = []
    recorded: list[str] = []
    quick = {PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=quick):
        async with open_kill_run(
            reason="a test",
            operator="ada",
            incident_id=uuid7(),
            settings=settings,
            observers=(lambda action, _: recorded.append(action),),
        ) as run:
            await kill_switch.run_kill_switch(run, told.append, told.append)
    return told, recorded


@pytest.mark.parametrize("with_prefect", [True, False])
async def test_it_is_read_once_and_comes_after_the_verdict(
    prefect: PrefectServer, paper: PaperExchange, settings: Settings, with_prefect: bool
) -> None:
    paper.restart(parse(BOOK))
    told, recorded = await kill(settings, prefect.api_url if with_prefect else f"http://127.0.0.1:{free_port()}/api")
    verdict, priced = told
    assert verdict.flat and verdict.costs == ()
    (cost,) = priced.costs
    assert cost.whole and cost.priced == 2 and cost.closes.slippage is not None and cost.closes.slippage > 0
    assert recorded.count("KILL_SWITCH_COST") == 1
    assert recorded.index("KILL_SWITCH_FINISHED") < recorded.index("KILL_SWITCH_COST")


async def test_an_orchestrator_that_fails_at_it_is_not_needed_for_it(
    prefect: PrefectServer, paper: PaperExchange, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper.restart(parse(BOOK))
    lost = steps.read_cost.with_options(timeout_seconds=0.000001)
    monkeypatch.setattr(steps, "read_cost", lost)
    (_, priced), _ = await kill(settings, prefect.api_url)
    assert priced.flat and priced.costs[0].whole
