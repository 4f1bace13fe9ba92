"""Work out what a freqtrade bot's account is worth, from its wallets, its open trades and the newest prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any


def equity_of(strategy: Any, *, spot: bool) -> Decimal:
    """The account's worth in the stake currency: its cash, and at the last price what the bot's open trades hold.

    Coins that the bot didn't buy count for nothing. In futures the wallet's total is cash and collateral, to which the
    open trades' profit is added.

    Args:
        strategy: An `IStrategy` of a bot that runs.
        spot: Whether the bot owns what it buys.

    Returns:
        The worth.

    Raises:
        KeyError: the exchange gives no price of a pair.
        Exception: whatever freqtrade raises where a price can't be read.
    """
    from freqtrade.persistence import Trade  # noqa: PLC0415

    cash = strategy.wallets.get_total(strategy.config["stake_currency"])
    trades = [trade for trade in Trade.get_trades_proxy(is_open=True) if trade.amount]
    prices = {pair: _last_price(strategy, pair) for pair in {trade.pair for trade in trades}}
    if spot:
        held = sum(trade.amount * prices[trade.pair] for trade in trades)
    else:
        held = sum(trade.calc_profit(prices[trade.pair]) for trade in trades)
    return Decimal(repr(float(cash + held)))


def _last_price(strategy: Any, pair: str) -> float:
    ticker = strategy.dp.ticker(pair)
    if not ticker or not ticker.get("last"):
        raise KeyError(f"the exchange gives no price of {pair}")
    return float(ticker["last"])
