"""Read what the gates of all engines report, for System Health."""

from __future__ import annotations

from redis.asyncio import Redis

from breaker import BreakerError
from breaker.deadline_client import AsyncDeadlineClient
from breaker.gate.report import ReportedGates, read_reports, reports_request


async def read_gates(redis: Redis, timeout: float) -> ReportedGates | str:
    """The gates of all engines, or why they can't be told, within `timeout` seconds."""
    client = AsyncDeadlineClient(redis, timeout)
    try:
        return read_reports(await client.execute(reports_request()))
    except BreakerError as error:
        return str(error)
    finally:
        await client.close()
