"""Read contracts of Interactive Brokers: what a symbol is here, its steps, and when its market is open. Pure.

Sources: the TWS API's documentation of `Contract` and `ContractDetails` (trading and liquid hours, sizes, ticks), and
of positions: those of futures come without their exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from breaker.instruments import AssetClass, Instrument, Session, canonical_symbol
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
"""Where a contract whose exchange is not told is traded; others by IB's own routing, but for futures."""
_NOT_ROUTED = frozenset({"FUT", "FOP"})
"""What trades at its own exchange only, whose name has to be learnt."""
_WHOLE_UNITS = frozenset({"OPT", "FOP", "FUT", "CASH"})
"""What trades in whole units, whatever finer step the venue tells of it (errors 10243, 10318)."""
WHENEVER_IT_TRADES = frozenset({AssetClass.FUTURE, AssetClass.FOREX})
"""What is as open at night as by day: of the two kinds of hours that are told, its trading hours are its session."""
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Hours:
    """When a contract trades, and when its market is liquid: the session that people call open; UTC."""

    trading: tuple[tuple[datetime, datetime], ...]
    liquid: tuple[tuple[datetime, datetime], ...]

    def trades_at(self, now: datetime) -> bool:
        """Whether an order that may fill outside the session can fill."""
        return any(begin <= now < end for begin, end in self.trading)

    def is_liquid_at(self, now: datetime) -> bool:
        return any(begin <= now < end for begin, end in self.liquid)

    def clock(self, now: datetime, asset_class: AssetClass = AssetClass.EQUITY) -> MarketClock:
        """The session of a thing of this class as the account's clock would be told."""
        spans = self.trading if asset_class in WHENEVER_IT_TRADES else self.liquid
        is_open = any(begin <= now < end for begin, end in spans)
        opens = min((begin for begin, _ in spans if begin > now), default=None)
        closes = min((end for _, end in spans if end > now), default=None)
        return MarketClock(now, is_open, opens, closes)


@dataclass(frozen=True, slots=True)
class Details:
    """What the venue says of one contract."""

    instrument: Instrument
    exchange: str
    hours: Hours | None
    rule: int | None = None
    """By which rule of TWS its price steps go, at that exchange."""


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
    whole = Decimal(1) if contract.secType in _WHOLE_UNITS else None
    return Instrument(asset_class, multiplier=_decimal(contract.multiplier) or Decimal(1), quantity_increment=whole)


def route_of(contract: Any, details: Details | None) -> str:
    """The exchange that an order for it names; empty where that has to be learnt first."""
    if contract.exchange and contract.exchange != contract.primaryExchange:
        return str(contract.exchange)
    if details and details.exchange:
        return details.exchange
    return "" if contract.secType in _NOT_ROUTED else _ROUTES.get(contract.secType, "SMART")


def expired_on(contract: Any, now: datetime) -> date | None:
    """The last day on which it traded, if that is over everywhere; None where it trades, or that is not told."""
    told = str(contract.lastTradeDateOrContractMonth)[:8]
    try:
        last = datetime.strptime(told, "%Y%m%d").date()  # noqa: DTZ007 - a day of no time zone
    except ValueError:
        return None
    return last if last < (now - timedelta(days=1)).date() else None


def read_details(details: Any) -> Details:
    """Steps, sizes and hours. Raises ValueError, TypeError or ArithmeticError for what makes no sense.

    A stock's price step is the rule's unless it is coarser than a cent: the least step of all its prices is told.
    """
    contract = details.contract
    plain = plain_instrument(contract)
    tick = _decimal(details.minTick)
    if plain.asset_class is AssetClass.EQUITY and tick is not None and tick <= _CENT:
        tick = None
    hours, step, whole = read_hours(details), _decimal(details.sizeIncrement), plain.quantity_increment
    instrument = Instrument(
        plain.asset_class,
        multiplier=plain.multiplier,
        price_increment=tick,
        quantity_increment=max(step, whole) if step and whole else step or whole,
        minimum_quantity=_decimal(details.minSize),
        # Nothing of it is sent outside its hours: it would wait at TWS for the open, and be taken back all the time.
        trades=Session.REGULAR if hours and plain.asset_class in WHENEVER_IT_TRADES else None,
    )
    exchanges = str(details.validExchanges).split(",")
    exchange = "SMART" if "SMART" in exchanges else contract.exchange or exchanges[0]
    return Details(instrument, exchange, hours, _rule_at(exchange, exchanges, str(details.marketRuleIds)))


def _rule_at(exchange: str, exchanges: Sequence[str], rules: str) -> int | None:
    """TWS tells one rule for each of the exchanges."""
    told = dict(zip(exchanges, rules.split(","), strict=False)).get(exchange, "")
    return int(told) if told.isdecimal() else None


def read_bands(increments: Iterable[Any]) -> tuple[tuple[Decimal, Decimal], ...]:
    """The price bands of a market rule; empty where one makes no sense. Raises ArithmeticError."""
    bands = sorted((Decimal(str(each.lowEdge)), Decimal(str(each.increment))) for each in increments)
    return tuple(bands) if all(step > 0 for _, step in bands) else ()


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
