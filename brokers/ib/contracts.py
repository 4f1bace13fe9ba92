"""Read contracts of Interactive Brokers: what a symbol is here, its steps, and when its market is open. Pure.

Sources: the TWS API's documentation of `Contract` and `ContractDetails` (trading and liquid hours, sizes, ticks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from breaker.instruments import AssetClass, Instrument, canonical_symbol
from breaker.orders import MarketClock

_CLASSES = {
    "STK": AssetClass.EQUITY,
    "OPT": AssetClass.OPTION,
    "FOP": AssetClass.OPTION,
    "WAR": AssetClass.OPTION,
    "IOPT": AssetClass.OPTION,
    "FUT": AssetClass.FUTURE,
    "CONTFUT": AssetClass.FUTURE,
    "CASH": AssetClass.FOREX,
    "CRYPTO": AssetClass.CRYPTO,
    "CMDTY": AssetClass.FOREX,
}
"""Anything else (bonds, funds, CFDs) is closed as an equity is: in its session, by the rules of the contract."""
_ROUTES = {"CASH": "IDEALPRO", "CRYPTO": "PAXOS"}
"""Where a contract whose exchange is not told is traded; all others by IB's own routing."""
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Hours:
    """When a contract trades, and when its market is liquid: the session that people call open; UTC."""

    trading: tuple[tuple[datetime, datetime], ...]
    liquid: tuple[tuple[datetime, datetime], ...]

    def trades_at(self, now: datetime) -> bool:
        """Whether an order that may fill outside the session can fill."""
        return any(begin <= now < end for begin, end in self.trading)

    def clock(self, now: datetime) -> MarketClock:
        """Its session as the account's clock would be told."""
        is_open = any(begin <= now < end for begin, end in self.liquid)
        opens = min((begin for begin, _ in self.liquid if begin > now), default=None)
        closes = min((end for _, end in self.liquid if end > now), default=None)
        return MarketClock(now, is_open, opens, closes)


@dataclass(frozen=True, slots=True)
class Details:
    """What the venue says of one contract."""

    instrument: Instrument
    exchange: str
    hours: Hours | None


def base_symbol(contract: Any) -> str:
    """The contract's symbol here: a stock of another currency than the dollar has it behind a dot.

    An option goes by its OCC symbol, a future by its local one, a pair as `EUR.USD`, crypto as `BTCUSD`.
    """
    kind, symbol, currency = contract.secType, contract.symbol, contract.currency
    if kind == "STK":
        return symbol if currency in {"", "USD"} else f"{symbol}.{currency}"
    if kind == "CASH":
        return f"{symbol}.{currency}"
    if kind == "CRYPTO":
        return canonical_symbol(f"{symbol}/{currency}")
    return (contract.localSymbol or f"{kind}:{symbol}").replace(" ", "") or f"#{contract.conId}"


class Symbols:
    """Which contract each symbol means. Where two have the same, each goes with its id behind it."""

    def __init__(self) -> None:
        self._contracts: dict[int, Any] = {}
        self._ids: dict[str, set[int]] = {}

    def add(self, contract: Any) -> None:
        self._contracts[contract.conId] = contract
        self._ids.setdefault(base_symbol(contract), set()).add(contract.conId)

    def name(self, contract: Any) -> str:
        """Its symbol; the contract has been added."""
        base = base_symbol(contract)
        return f"{base}#{contract.conId}" if len(self._ids.get(base, ())) > 1 else base

    def name_of_id(self, con_id: int) -> str:
        """Of a leg that is known by its id alone."""
        known = self._contracts.get(con_id)
        return f"#{con_id}" if known is None else self.name(known)

    def contract(self, symbol: str) -> Any | None:
        """None for a symbol that nothing read so far has."""
        base, _, con_id = symbol.partition("#")
        if con_id.isdecimal():
            return self._contracts.get(int(con_id))
        ids = self._ids.get(base, set())
        return self._contracts[next(iter(ids))] if len(ids) == 1 else None

    def __contains__(self, con_id: int) -> bool:
        return con_id in self._contracts


def plain_instrument(contract: Any) -> Instrument:
    """What the contract itself tells, for as long as the venue has told no more."""
    asset_class = _CLASSES.get(contract.secType, AssetClass.EQUITY)
    whole = Decimal(1) if asset_class in {AssetClass.OPTION, AssetClass.FUTURE} else None
    return Instrument(asset_class, multiplier=_decimal(contract.multiplier) or Decimal(1), quantity_increment=whole)


def route_of(contract: Any, details: Details | None) -> str:
    """The exchange that an order for it names."""
    if contract.exchange and contract.exchange != contract.primaryExchange:
        return str(contract.exchange)
    return details.exchange if details and details.exchange else _ROUTES.get(contract.secType, "SMART")


def read_details(details: Any) -> Details:
    """Steps, sizes and hours. Raises ValueError, TypeError or ArithmeticError for what makes no sense.

    A stock's price step is the rule's unless it is coarser than a cent: the least step of all its prices is told.
    """
    contract = details.contract
    plain = plain_instrument(contract)
    tick = _decimal(details.minTick)
    if plain.asset_class is AssetClass.EQUITY and tick is not None and tick <= _CENT:
        tick = None
    instrument = Instrument(
        plain.asset_class,
        multiplier=plain.multiplier,
        price_increment=tick,
        quantity_increment=_decimal(details.sizeIncrement) or plain.quantity_increment,
        minimum_quantity=_decimal(details.minSize),
    )
    exchanges = str(details.validExchanges).split(",")
    exchange = "SMART" if "SMART" in exchanges else contract.exchange or exchanges[0]
    return Details(instrument, exchange, read_hours(details))


def read_hours(details: Any) -> Hours | None:
    """None where the venue doesn't tell, or in a time zone that nobody knows."""
    zone = _zone(details.timeZoneId)
    if zone is None or not details.tradingHours:
        return None
    try:
        trading = tuple(_sessions(details.tradingHours, zone))
        liquid = tuple(_sessions(details.liquidHours or details.tradingHours, zone))
    except ValueError:
        return None
    return Hours(trading, liquid)


def _sessions(text: str, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """`20240722:0400-20240722:2000;20240723:CLOSED`, in older versions `20240722:0400-2000,…`."""
    for day in text.replace(",", ";").split(";"):
        if not day or day.endswith("CLOSED"):
            continue
        begin, _, end = day.partition("-")
        if ":" not in end:
            end = f"{begin.partition(':')[0]}:{end}"
        yield _moment(begin, zone), _moment(end, zone)


def _moment(text: str, zone: ZoneInfo) -> datetime:
    return datetime.strptime(text, "%Y%m%d:%H%M").replace(tzinfo=zone).astimezone(UTC)


def _zone(name: str) -> ZoneInfo | None:
    """TWS says `US/Eastern`, older ones `EST (Eastern Standard Time)`."""
    for candidate in (name, _OLD_ZONES.get(name.partition(" ")[0], "")):
        try:
            return ZoneInfo(candidate)
        except (KeyError, ValueError, OSError):
            continue
    return None


_OLD_ZONES = {"EST": "America/New_York", "CST": "America/Chicago", "MET": "Europe/Berlin", "JST": "Asia/Tokyo"}


def _decimal(value: Any) -> Decimal | None:
    """A positive number; None for what is not told."""
    if value in {"", None}:
        return None
    number = Decimal(str(value))
    return number if number.is_finite() and 0 < number < Decimal("1e100") else None
