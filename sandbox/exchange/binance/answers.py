"""Write numbers, times and statuses as Binance does in both of its APIs."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from breaker.orders import OrderType, TimeInForce
from sandbox.exchange.assets import Asset, in_positions
from sandbox.exchange.orders import PaperOrder, Status
from sandbox.exchange.venue import Venue

Json = dict[str, object]

_STATUSES: Final = {
    Status.PARTIALLY_FILLED: "PARTIALLY_FILLED",
    Status.FILLED: "FILLED",
    Status.CALCULATED: "FILLED",
    Status.CANCELED: "CANCELED",
    Status.REPLACED: "CANCELED",
    Status.EXPIRED: "EXPIRED",
    Status.REJECTED: "REJECTED",
}
SELF_TRADE_PREVENTION: Final = "EXPIRE_MAKER"


def status(order: PaperOrder) -> str:
    """A cancel that is on its way shows in no list: the order is as it was. What is for now or never expires."""
    if order.status is Status.CANCELED and order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK}:
        return "EXPIRED"
    if order.status is Status.PENDING_CANCEL and order.filled_qty:
        return "PARTIALLY_FILLED"
    return _STATUSES.get(order.status, "NEW")


def time_in_force(order: PaperOrder) -> str:
    """Day orders are unknown here."""
    return "GTC" if order.time_in_force is TimeInForce.DAY else order.time_in_force.upper()


def has_price(order: PaperOrder) -> bool:
    return order.type in {OrderType.LIMIT, OrderType.STOP_LIMIT}


def milliseconds(venue: Venue, at: float) -> int:
    """Unix time of a moment of the exchange's clock."""
    return round((venue.opened_at.timestamp() + at) * 1_000)


def symbol_of(symbol: str) -> str:
    """As the venue spells it."""
    return in_positions(symbol)


def fixed(value: Decimal, decimals: int) -> str:
    """With so many decimals, and with more where it has them."""
    exact = -int(value.normalize().as_tuple().exponent)
    return f"{value:.{max(decimals, min(exact, 12), 0)}f}"


def decimals_of(step: Decimal) -> int:
    return max(-int(step.normalize().as_tuple().exponent), 0)


def tick_of(asset: Asset) -> Decimal:
    """Assets of a crypto venue have the same tick at every price."""
    return asset.tick(Decimal(1))
