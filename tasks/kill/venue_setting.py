"""Change an account's own setting at its venue, and believe it once it has been read back."""

from __future__ import annotations

import asyncio
import time

from brokers.protocol import Broker

READ_BACK_WITHIN = 3.0
"""Seconds after which a venue that took the change and doesn't show it is not waited for."""
READ_EVERY = 0.25


async def set_and_read_back(broker: Broker, *, suspended: bool) -> bool:
    """Whether the account says what was asked for. Raises BrokerError."""
    await broker.set_trading_suspended(suspended)
    deadline = time.monotonic() + READ_BACK_WITHIN
    while bool((await broker.account()).trading_suspended) is not suspended:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(READ_EVERY)
    return True
