"""The market is closed at the kill and opens a little later: flat without anybody's doing, with Prefect and without.

The queued closes are cancelled behind the kill switch's back, as a venue does at the end of the day, so that nothing
but a resumption can make the account flat.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows.resume import resume
from ledger.ledger import Ledger
from ledger.queries import Filter
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from sandbox.prefect_server import PrefectServer
from services.exit_watch import ResumeScheduler
from tasks.kill.pending_exit_store import KEY, open_pending_exits
from tasks.kill.pending_exits import OPENED_FOR, AccountExits, PendingExit
from tests.conftest import NewPrefect
from tests.helpers import eventually
from tests.services.test_standby import ROOT, Host

POSITIONS = 'positions = [{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]\n'
DEPLOYED = {"deployments": {"name": {"any_": ["resume"]}}}
SECRETS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


def runs_of(prefect: PrefectServer) -> list[dict[str, Any]]:
    """The deployment's runs, whatever their state."""
    runs: list[dict[str, Any]] = httpx.post(f"{prefect.api_url}/flow_runs/filter", json=DEPLOYED, timeout=10).json()
    return runs


def closed(opens_after: float) -> str:
    return f'rate_limit = 100000\n{POSITIONS}[market]\nsession = "closed"\nopens_after = {opens_after}\n'


class TradingHost(Host):
    """A machine whose account is at that venue, with an orchestrator or none."""

    def __init__(
        self,
        home: Path,
        redis_url: str,
        venue: PaperExchangeThread,
        fork_server: ForkServer,
        prefect: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(home, redis_url, venue.url, fork_server)
        self.venue = venue
        configuration = Path(self.environment["BREAKER_CONFIG"])
        # Without collars a close goes straight to the queue for the open.
        configuration.write_text(
            configuration.read_text().replace(
                "[kill]", "[kill]\ncollars = []\nstuck_after = 1.0\nresume_patience = 0.5"
            )
        )
        self.environment |= prefect or {}

    def serve(self) -> None:
        with self.log.open("ab") as log:
            self.process = self.fork_server.start(
                "services.serve", env=self.environment, cwd=ROOT, stdout=log, stderr=log, children=True
            )

    def leave(self) -> None:
        """In order, so that nothing that was started is left."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def kill(self) -> dict[str, Any]:
        """The kill switch while the market is closed; its queued closes are gone afterwards."""
        outcome = self.run("kill", "--yes", "--json", "--reason", "drill", "--operator", "ada")
        assert outcome.returncode == 3, outcome.stderr
        report: dict[str, Any] = json.loads(outcome.stdout)
        httpx.delete(f"{self.venue.url}/v2/orders", headers=SECRETS).raise_for_status()
        return report

    def actions(self, incident: str) -> list[str]:
        ledger = Ledger.connect(f"sqlite:///{self.state / 'audit.db'}")
        rows = ledger.query(Filter(incident_id=incident), limit=500).rows
        ledger.close()
        return [row.action for row in reversed(rows)]

    def is_over(self, incident: str) -> bool:
        return self.venue.report()["is_flat"] is True and self.actions(incident).count("PENDING_EXIT_CLOSED") == 2


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(closed(120))) as running:
        yield running


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, new_prefect: NewPrefect) -> Iterator[PrefectServer]:
    """Not the session's: what is served here has schedules, and goes on with them."""
    with new_prefect(tmp_path_factory.mktemp("prefect")) as server:
        yield server


def resumed_by_itself(host: TradingHost, client: redis.Redis, source: str) -> None:
    begun = time.monotonic()
    host.run("status")
    # As long as the kill switch may take on this machine just now.
    opens_after = 5 + 5 * (time.monotonic() - begun)
    before = time.monotonic()
    host.venue.restart(parse(closed(opens_after)))
    report = host.kill()
    incident = report["incident_id"]
    assert {each["symbol"] for each in report["pending_exits"]} == {"AAPL", "MSFT"}
    assert all(each["resume_at"] for each in report["pending_exits"]), report["pending_exits"]
    assert not report["flat"], "the market is closed"
    eventually(lambda: host.is_over(incident), host.said, within=120, every=0.1)
    seen = host.venue.report()
    assert seen["violations"] == [] and seen["sign_changes"] == []
    assert time.monotonic() - before > opens_after, "not before the open"
    actions = host.actions(incident)
    assert actions.count("CIRCUIT_BREAKER_TRIP") == 1, "a resumption trips nothing"
    assert actions.count("PENDING_EXIT") == 2 and "KILL_SWITCH_RESUMED" in actions
    assert actions.index("PENDING_EXIT") < actions.index("KILL_SWITCH_RESUMED") < actions.index("PENDING_EXIT_CLOSED")
    ledger = Ledger.connect(f"sqlite:///{host.state / 'audit.db'}")
    (row,) = ledger.query(Filter(actions=("KILL_SWITCH_RESUMED",), incident_id=incident)).rows[:1]
    ledger.close()
    assert row.source == source
    assert client.hlen(KEY) == 0
    # Its closes are named like the kill switch's, one further: the venue would have refused a second like the first.
    ids = {each["client_order_id"] for each in report["accounts"][0]["closes"]}
    assert f"{incident}-AAPL-1" in ids
    assert CircuitBreaker(client).get_state() == "TRIPPED"


@pytest.mark.timeout(360)
def test_without_prefect_the_standby_closes_it_when_the_market_opens(
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    venue: PaperExchangeThread,
    fork_server: ForkServer,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    host = TradingHost(tmp_path, redis_server.url, venue, fork_server)
    try:
        host.stand_by()
        resumed_by_itself(host, redis_client, "rule")
    finally:
        host.leave()


@pytest.mark.timeout(360)
def test_with_prefect_a_flow_run_scheduled_for_the_open_closes_it(
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    venue: PaperExchangeThread,
    fork_server: ForkServer,
    prefect: PrefectServer,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    host = TradingHost(tmp_path, redis_server.url, venue, fork_server, prefect.environment)

    def is_served() -> bool:
        return bool(httpx.post(f"{prefect.api_url}/deployments/filter", json=DEPLOYED, timeout=10).json())

    try:
        host.serve()
        eventually(is_served, host.said, within=120)
        resumed_by_itself(host, redis_client, "flow")
        eventually(lambda: any(_ended_flat(run) for run in runs_of(prefect)), lambda: runs_of(prefect), within=90)
    finally:
        host.leave()


def _ended_flat(run: dict[str, Any]) -> bool:
    return run["state_type"] == "COMPLETED" and ": FLAT " in (run["state"]["message"] or "")


@pytest.mark.timeout(240)
async def test_a_time_gets_one_run_and_another_only_when_it_has_passed_without_effect(
    tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, prefect: PrefectServer
) -> None:
    settings = Settings.model_validate({"redis_url": redis_server.url, "state_dir": tmp_path})
    now = datetime.now(UTC)
    opens = now + timedelta(hours=18)
    pending = PendingExit("ALPHA", "AAPL", Decimal(10), "market closed", uuid7(), "global", now, now, opens)
    with open_pending_exits(settings) as store, temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        await (await resume.ato_deployment("resume")).aapply()
        before = {run["id"] for run in runs_of(prefect)}

        async def scheduled_by_a_new_process() -> list[dict[str, Any]]:
            await asyncio.to_thread(ResumeScheduler(settings).look)
            return [run for run in runs_of(prefect) if run["id"] not in before]

        store.write(AccountExits("ALPHA", now, (pending,)))
        for _ in range(2):
            (run,) = await scheduled_by_a_new_process()
        assert datetime.fromisoformat(run["next_scheduled_start_time"]) == opens + OPENED_FOR
        assert run["parameters"] == {"accounts": ["ALPHA"]}
        late = replace(pending, resume_at=now - timedelta(minutes=3))
        store.write(AccountExits("ALPHA", now + timedelta(seconds=1), (late,)))
        for _ in range(2):
            assert len(await scheduled_by_a_new_process()) == 2
