"""What a kill switch found is on record whole: each order that was open at the trip, and each position."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from brokers.alpaca.adapter import AlpacaBroker
from brokers.coverage import coverage_of
from brokers.sweep import first_sweep
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRecord, AuditRow
from ledger.schema import upgrade
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.recovery.book_at_trip import BOOK_ACTIONS, book_at_trip
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.test_kill_command import PACE, account

BOOK = "rate_limit = 100000\n[book]\norders = 130\npositions = 12\n"
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


@pytest.mark.parametrize("policy", ["auto", "all"])
def test_every_order_and_position_is_in_the_ledger_and_the_report(
    redis_client: redis.Redis,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
    tmp_path: Path,
    policy: str,
) -> None:
    with PaperExchangeThread(parse(BOOK)) as venue:
        read = httpx.Client(base_url=venue.url, headers=KEYS)
        orders = read.get("/v2/orders", params={"status": "open", "limit": 500}).json()
        positions = read.get("/v2/positions").json()
        state = tmp_path / "kept"
        write_configuration(
            f'redis_url = "{redis_server.url}"\nstate_dir = "{state}"\n{PACE}cancel = "{policy}"\n' + account(venue.url)
        )
        assert breaker_cli("kill", "--yes").returncode == 0
    ledger = Ledger.connect(f"sqlite:///{state / 'audit.db'}")
    rows = ledger.query(Filter(actions=BOOK_ACTIONS), limit=10).rows[::-1]
    ledger.close()
    told = "\n".join(book_at_trip(rows))
    assert f"{len(orders)} orders were open:" in told and f"{len(positions)} positions were held:" in told
    for order in orders:
        (line,) = [line for line in told.splitlines() if order["client_order_id"] in line]
        assert f"| ALPHA | {order['symbol']} | {order['side']} | {order['qty']} |" in line
    for position in positions:
        quantity = position["qty"] if position["side"] == "long" else f"-{position['qty'].lstrip('-')}"
        assert f"| ALPHA | {position['symbol']} | {quantity} |" in told


async def test_what_was_cancelled_unseen_is_named_by_its_id() -> None:
    with PaperExchangeThread(parse(BOOK + '[[trouble]]\nkind = "503"\nroutes = ["GET /v2/positions"]\n')) as venue:
        broker = AlpacaBroker("ALPHA", venue.url, "key", "secret")
        (swept,) = await first_sweep([broker], 10.0, coverage=coverage_of("global", ["ALPHA"]))
        await broker.aclose()
    assert swept.orders is None and len(swept.unseen) == swept.accepted > 0
    details: dict[str, Any] = {"account": "ALPHA", "orders": None, "unseen": list(swept.unseen)}
    told = book_at_trip([row(details)])
    assert swept.unseen[0] in told[-1] and "Cancelled before they could be read" in told[-1]


def row(details: dict[str, Any]) -> AuditRow:
    record = AuditRecord(action="FIRST_SWEEP", source="cli", details=details)
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger.connect(f"sqlite:///{directory}/audit.db")
        upgrade(ledger)
        ledger.append([record])
        (found,) = ledger.query().rows
        ledger.close()
    return found
