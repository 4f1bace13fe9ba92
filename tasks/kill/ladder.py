"""Choose the kind of order that a close is sent as, from a market order to one that waits for the open. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from breaker.instruments import Instrument, Session
from breaker.orders import ZERO, MarketClock, Side
from brokers.protocol import Capabilities


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast closes become more aggressive and refusals are retried; seconds, and fractions of the last price."""

    escalate_after: float
    collars: tuple[Decimal, ...]
    retry_backoff: float
    retry_backoff_max: float
    stuck_after: float
    position_lag: float
    """How long the venue's positions may lag behind its fills."""
    cancel_settles: float
    """How long an order that was asked to go is waited for before the rest of its symbol is closed beside it."""


class Rung(StrEnum):
    """The ladder that a close climbs while it does not fill."""

    NATIVE = "close by the venue itself"
    MARKET = "market order"
    LIMIT = "marketable limit order"
    EXTENDED_HOURS = "extended-hours limit order"
    QUEUED = "market order queued for the open"


def ladder(
    quantity: Decimal,
    price: Decimal | None,
    market: MarketClock | None,
    pace: Pace,
    instrument: Instrument,
    able: Capabilities,
    *,
    whole_units: bool = False,
) -> tuple[tuple[Rung, Decimal], ...]:
    """The kinds of order to try in turn, each with its collar, a fraction of the price. None: nothing can be sent.

    Where the venue closes a position by a request of its own, that comes first; what it takes none of is left out.
    Outside its session an equity takes limit orders for the day, fractions of a unit too unless the venue has refused
    them (`whole_units`), and lets a market order wait for the open; an option takes neither (Alpaca, extended hours,
    options trading). Where the session is not known, what works in any session comes first.
    """
    collars = pace.collars if price else ()
    limits = tuple((Rung.LIMIT, collar) for collar in collars)
    native = ((Rung.NATIVE, ZERO),) if able.native_close else ()
    at_market = ((Rung.MARKET, ZERO),) if able.market_orders else ()
    session = instrument.session
    if session is Session.ALWAYS or (market is not None and market.is_open):
        return (*native, *at_market, *limits)
    if session is Session.REGULAR:
        return () if market is not None else (*limits, *at_market)
    tradable = able.extended_hours and (not whole_units or quantity >= 1)
    extended = tuple((Rung.EXTENDED_HOURS, collar) for collar in collars) if tradable else ()
    if market is None:
        return (*extended, *(at_market or limits))
    return (*extended, *(((Rung.QUEUED, ZERO),) if able.market_orders else ()))


def limit_price(side: Side, price: Decimal, collar: Decimal, instrument: Instrument, *, coarser: int = 0) -> Decimal:
    """`price` worsened by `collar`, in whole price steps, `coarser` times tenfold where the venue has refused those."""
    return instrument.price(price * (1 + collar * side.sign), up=side is Side.BUY, coarser=coarser)
