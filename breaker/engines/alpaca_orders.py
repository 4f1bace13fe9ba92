"""Read what Alpaca is asked, and what it tells of an account, as the gate understands it. Pure: JSON in, intents out.

Sources: Alpaca's Trading API reference (orders, positions, options, crypto) and what the venue answers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.gate.intents import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.instruments import canonical_symbol, is_option, right_of, underlying_of
from breaker.orders import ZERO, Side

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_ONE_CANCELS_OTHER = frozenset({"bracket", "oco"})
_CLOSED = frozenset({"filled", "canceled", "expired", "replaced", "rejected", "calculated"})
_QUANTITY_ALONE = frozenset({"qty", "client_order_id"})


class NotUnderstood(ValueError):
    """What is asked of the venue is nothing that this guard knows; the message is a clause that says what."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What every order of an engine says of itself."""

    account: str | None
    strategy: str | None
    normal_quantity: Callable[[str], Any]

    def order(self, symbol: Any, side: Any, quantity: Any = None, **more: Any) -> OrderIntent:
        """With the normal quantity of its symbol."""
        return OrderIntent(symbol, side, quantity, self.account, self.strategy, self.normal_quantity(symbol), **more)


@dataclass(frozen=True, slots=True)
class Holding:
    """One position; what can't be read of it is None."""

    symbol: str
    asset_id: str
    quantity: Decimal | None
    available: Decimal | None

    @property
    def closing_side(self) -> Side:
        return Side.BUY if self.quantity is not None and self.quantity < 0 else Side.SELL


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """One open order, or one leg of it; what can't be read of it is None."""

    id: str
    client_order_id: str
    symbol: str
    side: str
    quantity: Decimal | None
    by_amount: bool
    order_class: str = ""
    is_stop: bool = False

    @property
    def remaining(self) -> Decimal | None:
        return self.quantity


# What is asked


def new_order(body: Mapping[str, Any], sender: Sender) -> OrderIntent | OrderList:
    """The order of `POST /v2/orders`. Raises `NotUnderstood`."""
    kind = _word(body.get("order_class")) or "simple"
    if kind == "mleg":
        return _several_legs(body, sender)
    symbol, side, quantity = body.get("symbol"), _side(body), _number(body.get("qty"))
    amount, name = _number(body.get("notional")), body.get("client_order_id") or ""
    entry = sender.order(symbol, side, quantity, notional=amount, client_order_id=name)
    if kind == "simple":
        return entry
    exit_side = side if kind == "oco" else side.opposite
    exits = [
        sender.order(symbol, exit_side, quantity, notional=amount)
        for leg in ("take_profit", "stop_loss")
        if body.get(leg)
    ]
    match kind:
        case "oco":
            return OrderList([entry, *exits], ListKind.OCO)
        case "oto" | "bracket" if exits:
            return OrderList([entry, OrderList(exits, ListKind.OCO)], ListKind.OTO)
        case "oto" | "bracket":
            raise NotUnderstood(f"an order of class {kind} has neither take_profit nor stop_loss")
        case _:
            raise NotUnderstood(f"{kind!r:.40} is no class of orders that this guard knows")


def is_plain(body: Mapping[str, Any]) -> bool:
    """Whether an order makes sense at first sight, as nearly every one does: a fifth of the time of `new_order`."""
    quantity, symbol, side = body.get("qty"), body.get("symbol"), body.get("side")
    return (
        (type(quantity) is float or type(quantity) is int)
        and 0 < quantity < math.inf
        and type(symbol) is str
        and symbol.isalnum()
        and side in ("buy", "sell")
        and body.get("order_class") is None
        and body.get("position_intent") is None
        and body.get("notional") is None
    )


def exercise(contract: str, sender: Sender) -> OrderIntent:
    """The trade in the underlying of `POST /v2/positions/{contract}/exercise`.

    Of how much isn't said, as in an order for an amount of money; nor of what, where the contract goes by its id.
    """
    if not is_option(contract):
        return sender.order(f"the underlying of {contract}", Side.BUY, notional=1)
    side = Side.BUY if right_of(contract) == "C" else Side.SELL
    return sender.order(underlying_of(contract), side, notional=1)


def replacement(
    order_id: str, body: Mapping[str, Any], working: Iterable[WorkingOrder], sender: Sender
) -> ReplaceIntent:
    """What `PATCH /v2/orders/{id}` makes of one of the open orders.

    Of one that is not among them nothing is known, and so it reduces nothing.
    """
    old = next((order for order in working if order.id == order_id), None)
    asked = _number(body.get("qty"))
    if old is None:
        unknown = sender.order(f"order {order_id} (not among the open ones)", Side.BUY, notional=1)
        return ReplaceIntent(order_id, unknown)
    new = sender.order(
        old.symbol, old.side, old.quantity if asked is None else asked, client_order_id=body.get("client_order_id", "")
    )
    return ReplaceIntent(order_id, new, only_quantity=body.keys() <= _QUANTITY_ALONE)


def close(
    symbol_or_id: str, body: Mapping[str, Any], positions: Iterable[Holding], sender: Sender
) -> OrderIntent | CancelIntent:
    """What `DELETE /v2/positions/{symbol}` sends.

    The venue closes what is held and no more. So of what is not known to be held it passes, as a cancel does.
    """
    wanted = canonical_symbol(symbol_or_id)
    held = next(
        (each for each in positions if symbol_or_id == each.asset_id or wanted == canonical_symbol(each.symbol)), None
    )
    if held is None or not held.quantity:
        return CancelIntent()
    size = abs(held.quantity)
    quantity, percentage = _number(body.get("qty")), _number(body.get("percentage"))
    if percentage is not None:
        part = _decimal(percentage)
        quantity = percentage if part is None else size * part / 100
    return _close_of(held, size if quantity is None else quantity, sender)


def close_all(*, cancel_orders: bool, positions: Iterable[Holding], sender: Sender) -> OrderList | CancelIntent:
    """What `DELETE /v2/positions` sends: without a cancel before, no close of what orders hold at the venue."""
    closes = [
        _close_of(held, abs(held.quantity), sender)
        for held in positions
        if held.quantity and (cancel_orders or held.available in (None, abs(held.quantity)))
    ]
    return OrderList(closes, ListKind.INDEPENDENT) if closes else CancelIntent()


def _close_of(held: Holding, quantity: Any, sender: Sender) -> OrderIntent:
    return sender.order(held.symbol, held.closing_side, quantity, reduce_only=True)


def _several_legs(body: Mapping[str, Any], sender: Sender) -> OrderList:
    """Each leg is for the order's quantity times its ratio."""
    try:
        times = Decimal(str(body["qty"]))
        legs = [
            sender.order(
                leg["symbol"], _side(leg), times * Decimal(str(leg.get("ratio_qty", 1))),
                client_order_id=body.get("client_order_id") or "",
            )
            for leg in body["legs"]
        ]  # fmt: skip
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise NotUnderstood(f"the legs of the order make no sense ({type(error).__name__}: {error})") from None
    return OrderList(legs, ListKind.LEGS)


def _side(body: Mapping[str, Any]) -> Side:
    """A leg of several names its side, or what it opens or closes."""
    said, intent = _word(body.get("side")), _word(body.get("position_intent"))
    side = _SIDES.get(said or intent.partition("_")[0])
    if side is None or (intent and not intent.startswith(f"{side}_")):
        raise NotUnderstood(f"its side is {said!r:.40} and its intent {intent!r:.40}")
    return side


def _word(value: Any) -> str:
    word = getattr(value, "value", value)
    return word if isinstance(word, str) else ""


def _number(value: Any) -> Any:
    """As exact as it was written: the SDK makes floats of quantities."""
    if type(value) is float:
        return int(value) if value.is_integer() else Decimal(repr(value))
    return value


# What the account has


def read_positions(body: Iterable[Any]) -> list[Holding]:
    """Every position that has a symbol."""
    found = []
    for item in _mappings(body):
        quantity = _decimal(item.get("qty"))
        if quantity is not None and item.get("side") == "short":
            quantity = -abs(quantity)
        available = _decimal(item.get("qty_available"))
        found.append(
            Holding(
                _text(item.get("symbol")),
                _text(item.get("asset_id")),
                quantity,
                None if available is None else abs(available),
            )
        )
    return found


def read_orders(page: Iterable[Any]) -> Iterator[WorkingOrder]:
    """Every open order of a list; one with several legs is its legs, and others' legs are orders of their own."""
    for item in _mappings(page):
        legs = list(_mappings(item.get("legs") or ()))
        if item.get("order_class") == "mleg" and legs:
            yield from (read_order(leg, item) for leg in legs if is_open(item))
            continue
        yield from (read_order(each) for each in (item, *legs) if is_open(each))


def is_open(order: Mapping[str, Any]) -> bool:
    """Whether it may still fill; a status that is not known is taken for one that lets it."""
    return order.get("status") not in _CLOSED


def read_order(item: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> WorkingOrder:
    """One order. A leg of one with several goes under that one's ids."""
    of = parent or item
    quantity, filled = _decimal(item.get("qty")), _decimal(item.get("filled_qty") or "0")
    known = quantity is not None and filled is not None and ZERO <= filled <= quantity
    return WorkingOrder(
        _text(of.get("id")),
        _text(of.get("client_order_id")),
        _text(item.get("symbol")),
        _text(item.get("side")),
        quantity - filled if known and quantity is not None and filled is not None else None,
        item.get("notional") is not None,
        _text(item.get("order_class")),
        _text(item.get("type") or item.get("order_type")).startswith(("stop", "trailing")),
    )


def counted_once(orders: Iterable[WorkingOrder]) -> list[WorkingOrder | OrderList]:
    """The orders, with the limit and the stop of which one cancels the other as one.

    A list does not say whose sibling an order is. Which of several alike are taken together makes no difference: each
    limit has its stop, and what they take together is the same.
    """
    found: list[WorkingOrder | OrderList] = []
    alike: dict[tuple[Any, ...], tuple[list[WorkingOrder], list[WorkingOrder]]] = defaultdict(lambda: ([], []))
    for order in orders:
        if order.order_class in _ONE_CANCELS_OTHER and order.quantity is not None:
            alike[order.symbol, order.side, order.order_class, order.quantity][order.is_stop].append(order)
        else:
            found.append(order)
    for limits, stops in alike.values():
        pairs = min(len(limits), len(stops))
        found += [OrderList(list(pair), ListKind.OCO) for pair in zip(limits, stops, strict=False)]
        found += [*limits[pairs:], *stops[pairs:]]
    return found


def _mappings(items: Any) -> Iterator[Mapping[str, Any]]:
    """Raises `NotUnderstood` for what is no list of objects: what is held is not known then."""
    if not isinstance(items, list | tuple) or not all(isinstance(item, dict) for item in items):
        raise NotUnderstood(f"the venue's list is {items!r:.60}")
    yield from items


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _decimal(value: Any) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
