"""Show a run in the orchestrator's UI: progress that moves, tables, the report. Only ever an addition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from tasks.kill.report import KillReport, close_rows, count, markdown
from tasks.kill.run import KillRun

LIMIT = 2.0
"""Seconds that any one artifact may take; the procedure never waits for more."""
UPDATE_INTERVAL = 0.5


async def publish_report(report: KillReport) -> None:
    """Raises when the orchestrator does not take it in time."""
    async with asyncio.timeout(2 * LIMIT):
        await acreate_markdown_artifact(
            key="kill-switch-report", markdown=markdown(report), description="What the kill switch did, and its proof"
        )
        await acreate_table_artifact(
            key="kill-switch-accounts", table=_account_rows(report), description="Orders cancelled, by account"
        )
        closes = close_rows(report)
        if closes:
            await acreate_table_artifact(
                key="kill-switch-closes", table=closes, description="Closes sent, and the venue's answers"
            )


@asynccontextmanager
async def live_progress(run: KillRun) -> AsyncIterator[None]:
    """Keep one progress artifact up to date while the body runs. A failure ends the updates, not the body."""
    updates = asyncio.create_task(_keep_updating(run))
    try:
        yield
    finally:
        updates.cancel()
        # Bounded: a cancellation can be lost in a client that waits for something else just then.
        await asyncio.wait({updates}, timeout=LIMIT)


async def _keep_updating(run: KillRun) -> None:
    artifact: UUID | None = None
    shown: tuple[float, str] | None = None
    try:
        while True:
            now = _state(run)
            if now != shown:
                async with asyncio.timeout(LIMIT):
                    percent, text = now
                    if artifact is None:
                        artifact = await acreate_progress_artifact(
                            percent, key="kill-switch-progress", description=text
                        )
                    else:
                        await aupdate_progress_artifact(artifact, percent, description=text)
                shown = now
            await asyncio.sleep(UPDATE_INTERVAL)
    except Exception as error:  # whatever the orchestrator does must not reach the procedure
        run.record_missing(f"Prefect's progress artifact ({type(error).__name__})")


def _state(run: KillRun) -> tuple[float, str]:
    accounts = run.progress.values()
    percent = 100 * sum(account.done for account in accounts) / max(1, len(run.progress))
    text = "; ".join(
        f"{a.account}: {a.phase}, {count(a.orders_open)} orders, {count(a.positions_open)} positions" for a in accounts
    )
    return round(percent, 1), text


def _account_rows(report: KillReport) -> list[dict[str, Any]]:
    return [
        {
            "account": account.account,
            "result": "flat" if account.flat else "NOT FLAT",
            "orders at start": count(account.orders_at_start),
            "cancels accepted": account.canceled,
            "orders open": count(account.orders_open),
            "positions at start": count(account.positions_at_start),
            "positions open": count(account.positions_open),
            "stuck": ", ".join(item.symbol for item in account.stuck),
        }
        for account in report.accounts
    ]
