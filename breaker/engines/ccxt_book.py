"""Read through ccxt what an account holds and has working of one symbol, as the gate takes it.

By symbol, since nearly every exchange lists orders and positions of one, few list all of them in one answer, and none
needs more requests for it. Quantities are ccxt's amounts: contracts of derivatives, the base currency of spot markets.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypeVar

from breaker.engines.admission import Book
from breaker.gate.order_terms import as_quantity
from breaker.orders import PositionSide

T = TypeVar("T")
Steps: TypeAlias = Generator[Callable[[], Any], Any, T]
"""Something that is to be done the same way blocking and awaited: yields each call, is sent its answer."""

_LEGS: Final = {"long": PositionSide.LONG, "short": PositionSide.SHORT}
_LEG_KEYS: Final = ("positionSide", "posSide", "holdSide")
_KINDS: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "okx": [
        {"trigger": True, "ordType": kind} for kind in ("conditional", "oco", "trigger", "iceberg", "twap")
    ],  # OKX, list of algo orders: each kind is asked for by itself
    "bitget": [{"trigger": True, "planType": plan} for plan in ("normal_plan", "profit_loss")],
}


@dataclass(frozen=True, slots=True)
class Held:
    """A position, or what a wallet has of a spot market's base currency, as `Gate.check` takes it."""

    symbol: str
    quantity: Decimal
    available: Decimal | None = None
    position_side: PositionSide | None = None


@dataclass(frozen=True, slots=True)
class Working:
    """An open order, as `Gate.check` takes it. None where it can't be told, which blocks its symbol."""

    symbol: str
    id: str
    client_order_id: str
    side: Any
    remaining: Any
    by_amount: bool
    reduce_only: bool
    position_side: PositionSide | None


def read_book(exchange: Any, symbol: str) -> Steps[Book]:
    """Working orders, conditional ones first: one that is set off meanwhile is in the next list. Then what is held.

    Args:
        exchange: ccxt's, its markets loaded.
        symbol: ccxt's.

    Raises:
        ValueError: An answer makes no sense, or there may be more orders than one answer has.
        ccxt.BaseError: The exchange can't be asked, or says no.
    """
    market = exchange.market(symbol)
    working: dict[Any, Mapping[str, Any]] = {}
    limit = exchange.feature_value(symbol, "fetchOpenOrders", "limit")
    for params in _listings(exchange, symbol):
        page = yield lambda params=params: exchange.fetch_open_orders(symbol, None, limit, params)  # type: ignore[misc]
        if limit is not None and len(page) >= limit:
            raise ValueError(f"{symbol} may have more open orders than the {limit} of one answer")
        working |= {order.get("id") or id(order): order for order in page}
    held = yield from (_positions(exchange, symbol) if market.get("contract") else _balance(exchange, market))
    hedged = any(each.position_side is not None for each in held)
    return Book(held, [working_of(order, symbol, hedged=hedged) for order in working.values()])


def read_position_symbols(exchange: Any) -> Steps[list[str]]:
    """The symbols of all positions. Raises as `read_book` does."""
    positions = yield exchange.fetch_positions
    return sorted({str(each["symbol"]) for each in positions if as_quantity(each.get("contracts"), "a size") != 0})


def _listings(exchange: Any, symbol: str) -> Iterable[dict[str, Any]]:
    """What ccxt is asked with for every list that the exchange has of open orders."""
    if exchange.feature_value(symbol, "fetchOpenOrders", "trigger") is True:
        kinds = _KINDS.get(exchange.id) or [{"trigger": True}]
        yield from (dict(each) for each in kinds)
    if exchange.feature_value(symbol, "fetchOpenOrders", "trailing") is True:
        yield {"trailing": True}
    yield {}


def _positions(exchange: Any, symbol: str) -> Steps[list[Held]]:
    if exchange.has.get("fetchPositions"):
        listed = yield lambda: exchange.fetch_positions([symbol])
    else:
        listed = [(yield lambda: exchange.fetch_position(symbol))]
    found = [held_of(each) for each in listed if each and each.get("symbol") == symbol]
    return [each for each in found if each is not None]


def _balance(exchange: Any, market: Mapping[str, Any]) -> Steps[list[Held]]:
    apart = exchange.options.get("defaultType", "spot") != "spot"
    balance = yield lambda: exchange.fetch_balance({"type": "spot"} if apart else {})
    of_base = balance.get(market["base"]) or {"total": 0, "free": 0}
    total, free = of_base.get("total"), of_base.get("free")
    total = free if total is None else total
    if total is None:
        raise ValueError(f"how much {market['base']} there is isn't told")
    quantity = as_quantity(total, "the balance")
    return [Held(market["symbol"], quantity, as_quantity(total if free is None else free, "what is free"))]


def held_of(position: Mapping[str, Any]) -> Held | None:
    """One of ccxt's positions; None where there is nothing of it.

    Args:
        position: As ccxt has it.

    Raises:
        ValueError: It can't be read: what is not said is not guessed.
    """
    contracts = abs(as_quantity(position.get("contracts"), "the position's number of contracts"))
    if not contracts:
        return None
    side, info = position.get("side"), position.get("info")
    if side not in _LEGS and isinstance(info, Mapping) and info.get("positionAmt") is not None:
        side = "long" if as_quantity(info["positionAmt"], "the position") > 0 else "short"
    if side not in _LEGS:
        raise ValueError(f"the position in {position.get('symbol')} says neither long nor short")
    hedged = leg_of(info) is not None if position.get("hedged") is None else bool(position["hedged"])
    return Held(
        str(position["symbol"]),
        contracts if side == "long" else -contracts,
        position_side=_LEGS[side] if hedged else None,
    )


def working_of(order: Mapping[str, Any], symbol: str, *, hedged: bool) -> Working:
    """One of ccxt's open orders.

    Args:
        order: As ccxt has it.
        symbol: The one that was asked for, which it is taken for where it says none.
        hedged: Whether the symbol has two positions: an order then opens its own side's, or reduces the other.
    """
    info = order.get("info")
    closes_all = isinstance(info, Mapping) and str(info.get("closePosition", "")).lower() == "true"
    amount, filled, remaining = order.get("amount"), order.get("filled"), order.get("remaining")
    if remaining is None and amount is not None:
        remaining = as_quantity(amount, "an order's amount") - as_quantity(filled or 0, "what of it has filled")
    reduce_only = closes_all or order.get("reduceOnly") is True
    leg = leg_of(info)
    if leg is None and hedged:
        leg = PositionSide.LONG if (order.get("side") == "sell") == reduce_only else PositionSide.SHORT
    return Working(
        symbol=str(order.get("symbol") or symbol),
        id=str(order.get("id") or ""),
        client_order_id=str(order.get("clientOrderId") or ""),
        side=order.get("side"),
        remaining=remaining,
        by_amount=closes_all or remaining is None,
        reduce_only=reduce_only,
        position_side=leg,
    )


def leg_of(info: Any) -> PositionSide | None:
    """Which of a symbol's two positions an exchange's answer is about, in hedge mode; None where the account nets.

    Args:
        info: The answer as it came.
    """
    if not isinstance(info, Mapping) or "one_way_mode" in (info.get("posMode"), info.get("holdMode")):
        return None
    for key in _LEG_KEYS:
        if (leg := _LEGS.get(str(info.get(key, "")).lower())) is not None:
            return leg
    if str(info.get("mode", "")).startswith("dual_"):
        return _LEGS.get(str(info["mode"]).removeprefix("dual_"))
    return {"1": PositionSide.LONG, "2": PositionSide.SHORT}.get(str(info.get("positionIdx", "")))
