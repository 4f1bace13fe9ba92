"""Value an account, and what was moved in or out of it, in one currency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Any

from breaker.orders import ZERO, Account, Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.reading import SENSELESS, at_path, decimal, moment, read_transfer, unreadable
from brokers.ccxt.spot import Balance, read_balances, selling_pair
from brokers.ccxt.venues import Venue
from brokers.protocol import BrokerError, Listed, Transfer

DOLLARS = frozenset({"USD", "USDT", "USDC"})
"""Taken as a dollar each in what an exchange values in dollars."""
_PRICES = ("last", "close", "bid")


async def account(connection: Connection, venue: Venue, market: str, keep: Sequence[str]) -> Account:
    """What the account is worth: by the exchange's own figure where it has one, else added up at last prices."""
    spot = market in ("spot", "margin")
    params = {"type": "margin", "marginMode": "cross"} if market == "margin" else {}
    body = await connection.read("balance", lambda asked: asked.fetch_balance(params))
    info = body.get("info")
    figure = None if spot else at_path(info, venue.equity)
    if figure is not None and venue.equity:
        return Account(
            id=connection.name,
            currency="USD",
            equity=decimal(figure),
            buying_power=_free(body, DOLLARS),
            as_of=_dated(info),
        )
    balances, unread = read_balances(body)
    currency = keep[0]
    prices = await _prices(connection, _pairs(balances, keep, (await connection.ready()).markets))
    equity, unvalued = ZERO, [item.symbol for item in unread]
    for balance in balances:
        worth = unit_worth(balance.currency, currency, prices)
        equity += ZERO if worth is None else balance.net * worth
        unvalued += [balance.currency] if worth is None else []
    untrusted = f"there is no price for {', '.join(unvalued[:5])}" if unvalued else ""
    if not spot:
        untrusted = "it is added up from the balances, without what open positions have gained or lost"
    return Account(connection.name, currency, equity, _free(body, {currency}), untrusted=untrusted)


def _free(body: Mapping[str, Any], currencies: Collection[str]) -> Decimal:
    free = body.get("free") or {}
    return sum((decimal(free.get(currency) or 0) for currency in currencies), ZERO)


def _dated(info: Any) -> datetime | None:
    """Bybit, Hyperliquid: when the figure was worked out."""
    time = at_path(info, ("time",))
    return moment(time) if isinstance(time, int) or str(time or "").isdecimal() else None


async def last_prices(connection: Connection, balances: Sequence[Balance], keep: Sequence[str]) -> dict[str, Decimal]:
    """The last price of the pair by which each is sold, as far as it can be had: nothing that is sold waits for it."""
    markets = (await connection.ready()).markets
    pairs = {selling_pair(balance.currency, keep, markets) for balance in balances if balance.currency not in keep}
    try:
        return await _prices(connection, pairs - {""})
    except BrokerError:
        return {}


def _pairs(balances: Sequence[Balance], keep: Sequence[str], markets: Mapping[str, Any]) -> set[str]:
    """The pairs whose prices value these."""
    pairs: set[str] = set()
    for currency in {balance.currency for balance in balances} - {keep[0]}:
        direct = [pair for pair in (f"{currency}/{keep[0]}", f"{keep[0]}/{currency}") if pair in markets]
        sold = selling_pair(currency, keep, markets)
        middle = sold.partition("/")[2]
        pairs |= {*direct[:1]} or {pair for pair in (sold, f"{middle}/{keep[0]}") if pair in markets}
    return pairs


async def _prices(connection: Connection, pairs: Iterable[str]) -> dict[str, Decimal]:
    wanted = sorted(pairs)
    if not wanted:
        return {}
    exchange = await connection.ready()
    if exchange.has.get("fetchTickers"):
        tickers = await connection.read("list of prices", lambda asked: asked.fetch_tickers(wanted))
    else:
        told = await asyncio.gather(*(_ticker(connection, pair) for pair in wanted))
        tickers = dict(zip(wanted, told, strict=True))
    found = {pair: next((ticker[key] for key in _PRICES if ticker.get(key)), None) for pair, ticker in tickers.items()}
    return {pair: decimal(price) for pair, price in found.items() if price is not None}


async def _ticker(connection: Connection, pair: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await connection.read(f"price of {pair}", lambda asked: asked.fetch_ticker(pair))
    return found


def unit_worth(currency: str, wanted: str, prices: Mapping[str, Decimal]) -> Decimal | None:
    """What one unit of a currency is worth in another, by one pair or by two; None where no price tells."""
    if currency == wanted:
        return Decimal(1)
    if direct := prices.get(f"{currency}/{wanted}"):
        return direct
    if inverse := prices.get(f"{wanted}/{currency}"):
        return 1 / inverse
    for pair, price in prices.items():
        base, _, middle = pair.partition("/")
        if base == currency and (last := prices.get(f"{middle}/{wanted}")):
            return price * last
    return None


async def transfers(
    connection: Connection, venue: Venue, market: str, keep: Sequence[str], since: datetime
) -> Listed[Transfer]:
    """Every movement of money since then, oldest first, by whichever lists the exchange has of them."""
    answers = await asyncio.gather(*(_ledger(connection, venue, call, since) for call in venue.transfers))
    bodies = [body for answer in answers for body in answer]
    wanted = keep[0] if market in ("spot", "margin") else "USD"
    currencies = {str(body.get("currency")) for body in bodies} - {wanted, "None"}
    odd = currencies if wanted != "USD" else currencies - DOLLARS
    held = [Balance(currency, ZERO, ZERO) for currency in sorted(odd)]
    prices = await _prices(connection, _pairs(held, keep, (await connection.ready()).markets)) if held else {}

    def worth(currency: str) -> Decimal:
        if wanted == "USD" and currency in DOLLARS:
            return Decimal(1)
        found = unit_worth(currency, keep[0], prices)
        if found is None:
            raise ValueError(f"there is no price for {currency}")
        return found

    found: dict[str, Transfer] = {}
    unread: list[Unreadable] = []
    for body in bodies:
        try:
            transfer = read_transfer(body, worth)
            found |= {transfer.id: transfer} if transfer is not None else {}
        except SENSELESS as error:
            unread.append(unreadable("transfer", body, error))
    return Listed(tuple(sorted(found.values(), key=lambda transfer: transfer.at)), tuple(unread))


async def _ledger(connection: Connection, venue: Venue, call: str, since: datetime) -> list[Mapping[str, Any]]:
    at, found = int(since.timestamp() * 1000), list[Mapping[str, Any]]()
    params = (
        {"incomeType": "TRANSFER"} if call == "fetch_ledger" and connection.exchange_id.startswith("binance") else {}
    )
    listing = attrgetter(call)
    while True:
        ask = partial(_page, listing, at, venue.transfers_page, params)
        page: list[Mapping[str, Any]] = await connection.read("list of transfers", ask)
        found += page
        newest = max((int(item.get("timestamp") or 0) for item in page), default=at)
        if len(page) < venue.transfers_page or newest <= at:
            return found
        at = newest


async def _page(listing: Callable[[Any], Any], at: int, size: int, params: Mapping[str, Any], exchange: Any) -> Any:
    return await listing(exchange)(None, at, size, dict(params))
