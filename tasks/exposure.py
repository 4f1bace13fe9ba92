"""Say in one line what the accounts hold at their venues, within a deadline. Never raises."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from brokers.protocol import Broker, BrokerError
from brokers.registry import open_account
from configuration.settings import ConfigurationError, Settings

WITHIN = 2.0
"""Seconds that every account together may take: who is to be told is told without it then."""
_NAMED = 5
"""Positions that are named; of more, their number."""


async def exposure_in_words(settings: Settings, accounts: Collection[str]) -> str:
    """Open orders and positions of each account; of one that doesn't answer in time, that it was not read."""
    if not accounts:
        return "no account is configured"
    return "; ".join(await asyncio.gather(*(_account(settings, name) for name in accounts)))


async def _account(settings: Settings, name: str) -> str:
    try:
        broker = open_account(settings, name)
    except ConfigurationError as error:
        return f"{name}: not read ({error})"
    try:
        async with asyncio.timeout(WITHIN):
            return f"{name}: {await _book(broker)}"
    except TimeoutError:
        return f"{name}: not read (no answer within {WITHIN:g} s)"
    except BrokerError as error:
        return f"{name}: not read ({error})"
    finally:
        await broker.aclose()


async def _book(broker: Broker) -> str:
    orders, positions = await asyncio.gather(broker.open_orders(), broker.positions())
    held = [position for position in positions.items if position.quantity]
    named = ", ".join(f"{position.key} {position.quantity:f}" for position in held[:_NAMED])
    more = f", and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
    unread = len(orders.unreadable) + len(positions.unreadable)
    return (
        f"{len(orders)} open orders, {len(held)} positions"
        + (f" ({named}{more})" if held else "")
        + (f", {unread} that can't be read" if unread else "")
    )
