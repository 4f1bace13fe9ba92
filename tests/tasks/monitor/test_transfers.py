"""What a venue lists of money moved is told once, however it dates it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import redis

from brokers.protocol import Listed, Transfer, TransferKind
from sandbox.embedded_redis import EmbeddedRedis
from tasks.monitor.transfers import KnownTransfers
from tests.tasks.monitor.test_account import client_of


async def test_one_that_the_venue_dates_anew_is_not_told_again(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """It was in the equity before the first reading: counted now, the equity would lack it."""
    booked = Transfer("D", Decimal(6_000), datetime.now(UTC) - timedelta(days=2), TransferKind.DEPOSIT)
    settled = replace(booked, at=booked.at + timedelta(days=1))
    withdrawn = replace(booked, id="W", amount=Decimal(-5), at=datetime.now(UTC))
    async with client_of(redis_server, tmp_path) as client:
        known = KnownTransfers(client, "ALPHA")
        assert await known.news(Listed((booked,))) == []
        assert await known.news(Listed((settled,))) == []
        assert await known.news(Listed((settled, withdrawn))) == [withdrawn]
