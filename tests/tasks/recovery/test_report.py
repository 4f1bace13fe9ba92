"""The incident report says what the exit cost, as the ledger has it of each run of the kill switch."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import redis
from redis.asyncio import Redis

from breaker.orders import Side
from breaker.uuid7 import uuid7
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from tasks.kill.cost import CostLine, CostSum, ExitCost, Origin
from tasks.kill.report import cost_of_record, cost_record
from tasks.recovery import steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.state import RecoveryState
from tests.tasks.recovery.conftest import Configure

LINE = CostLine(
    symbol="A|B<",
    side=Side.SELL,
    origin=Origin.CLOSE,
    fills=2,
    quantity=Decimal(10),
    average_price=Decimal("199.5"),
    reference=Decimal(200),
    slippage=Decimal(5),
    basis_points=Decimal(25),
    realised=None,
    fees=None,
)
COST = ExitCost(
    "ALPHA",
    "USD",
    (LINE,),
    closed=2,
    priced=1,
    closes=CostSum(fills=2, slippage=Decimal(5), basis_points=Decimal(25), value=Decimal(2000)),
    first_reference=0.21,
    last_reference=0.21,
    problem="the venue has not told of all of its fills within 5 s",
)


async def report_of(configure: Configure, rows: dict[str, Any] | None) -> str:
    settings, incident = configure(), uuid7()
    ledger = open_ready_ledger(settings)
    if rows is not None:
        row = AuditRecord(
            action="KILL_SWITCH_COST",
            source="cli",
            user_id="ada",
            incident_id=incident,
            details=rows,
            timestamp=datetime(2026, 1, 5, 15, 0, 2, tzinfo=UTC),
        )
        ledger.append([row, AuditRecord(action="KILL_SWITCH_COST", source="cli", incident_id=uuid7(), details={})])
        # However much has happened since.
        ledger.append([AuditRecord(action="GATE", source="cli", incident_id=incident) for _ in range(500)])
    async with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        state = RecoveryState(incident_id=incident, scope="global", flow_run_id="a run")
        recorder = Recorder(ledger, open_spool(settings))
        token = current_recovery.set(RecoveryContext(settings, client, None, recorder, state))  # type: ignore[arg-type]
        try:
            return await steps.write_report.fn(1, "before the reset", {}, {"author": "ada"}, "the evidence")
        finally:
            current_recovery.reset(token)
            ledger.close()


async def test_what_the_exit_cost_and_what_of_it_is_not_known(configure: Configure, redis_client: redis.Redis) -> None:
    report = await report_of(configure, cost_record(COST))
    section = report[report.index("## What the exit cost") : report.index("## Timeline")]
    assert "Read 2026-01-05 15:00:02 UTC, for ada:" in section
    assert "**ALPHA**: 1 of 2 closes priced · slippage 5.00 USD (25.0 bp of 2,000.00 closed)" in section
    assert "| A\\|B&lt; | -10 | 199.50 | 200.00 | 5.00 | 25.0 | – |" in section
    assert "The sums are of what is known: the venue has not told of all of its fills within 5 s." in section


async def test_where_nothing_told_it_that_is_said(configure: Configure, redis_client: redis.Redis) -> None:
    assert "No kill switch of this incident has told what its exit cost." in await report_of(configure, None)


async def test_a_row_that_nobody_understands_is_named_and_the_report_written(
    configure: Configure, redis_client: redis.Redis
) -> None:
    assert "What the ledger's row 1 says of it can't be read." in await report_of(configure, {"account": 7})


def test_a_record_is_read_back_as_it_was() -> None:
    assert cost_of_record(cost_record(COST)) == COST
